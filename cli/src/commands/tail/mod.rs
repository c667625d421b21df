//! `weir tail`: a topic's records, as bytes or as JSON.
//!
//! Records come as whole batches, as the agents cut them, and are taken apart here (`--format raw`),
//! or as the API's own JSON lines (`--format json`). One task a partition fetches ahead (`fetch`);
//! this thread decodes (`chunk`) and prints (`print`). Partitions are merged by the records' times;
//! within a partition the order is the log's, always.
//!
//! Invariants: **I28** every record of the asked range is printed once, or the range it was lost in is told
//! on stderr and the exit code is 1. Without `--follow` the range ends at the durable end that was
//! seen at the start.

mod chunk;
mod fetch;
mod from;
mod print;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use self::chunk::{Cursor, Format};
use self::fetch::{Event, Fetch, Share};
use self::from::From;
use self::print::{Lane, Printer, Quota};
use super::Run;
use crate::client::{Client, ServerOptions};
use crate::http::percent_encode;
use crate::limits::{FOLLOW_CHECK_INTERVAL, FOLLOW_EVENTS_MAX, TAIL_RECORDS_DEFAULT};

/// Print a topic's records; with --follow also those that arrive from now on
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "tail", after_help = EXAMPLES)]
pub(super) struct Tail {
    /// The topic
    #[arg(value_name = "TOPIC")]
    topic: String,

    /// Only this partition; otherwise all, merged by the records' times
    #[arg(long, short, value_name = "N")]
    partition: Option<u32>,

    /// Where to start: beginning, end, an offset, or a time such as 2026-01-31T08:00:00Z
    #[arg(long, value_name = "WHERE")]
    from: Option<From>,

    /// Print N records: the last ones, or with --from the first ones from there
    #[arg(short = 'n', value_name = "N")]
    count: Option<u64>,

    /// Go on with what arrives, until interrupted
    #[arg(long, short)]
    follow: bool,

    /// raw: each value and a newline. json: an object a record, with offset, time and headers
    #[arg(long, value_enum, default_value_t = Format::Raw)]
    format: Format,

    #[command(flatten)]
    server: ServerOptions,
}

const EXAMPLES: &str = "\
Examples:
  weir tail logs                                        the last 10 records
  weir tail logs -f                                     … and what arrives from now on
  weir tail logs --from beginning > all.log             everything, byte for byte
  weir tail logs --from 2026-01-31T08:00:00Z -n 100     100 records from that time on
  weir tail logs --format json | jq -r '.headers[\"log.file.path\"]'

On a terminal control characters are shown as \\x1b or \\u{202e}; a pipe gets the bytes as they are.";

#[derive(Deserialize)]
struct Listed {
    topics: Vec<Topic>,
}

#[derive(Deserialize)]
struct Topic {
    name: String,
    partitions: Vec<Partition>,
}

/// What the API tells of a partition: records from `start_offset` on, before `end_offset`.
#[derive(Debug, Clone, Deserialize)]
struct Partition {
    #[serde(rename = "partition")]
    number: u32,
    start_offset: i64,
    end_offset: i64,
}

impl Run for Tail {
    fn run(self) -> anyhow::Result<()> {
        // One thread for the network; this one decodes and prints.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build();
        let runtime = runtime.context("cannot start the network")?;
        let mut client = self.server.client()?;
        let (shares, quota) = runtime.block_on(self.plan(&mut client))?;
        let mut printer = Printer::new(self.topic.clone(), self.format, quota)?;
        printer.drain(self.lanes(&runtime, &shares)?)?;
        if self.follow && !printer.is_full() {
            if shares.is_empty() {
                printer.tell(&format!("topic {:?} is empty; waiting", self.topic));
            }
            self.follow(&runtime, &shares, &mut printer)?;
        }
        // Requests under way are of no use any more.
        runtime.shutdown_background();
        printer.finish()
    }
}

impl Tail {
    /// Which range of which partition is printed at first, and how many records of it.
    async fn plan(&self, client: &mut Client) -> anyhow::Result<(Vec<Share>, Quota)> {
        let partitions = self.partitions(client).await?;
        let count = self.count.unwrap_or(TAIL_RECORDS_DEFAULT);
        let mut shares = Vec::with_capacity(partitions.len());
        for it in &partitions {
            let from = match self.from {
                Some(from) => from.resolve(&self.topic, it, client).await?,
                None => it.end_offset.saturating_sub_unsigned(count),
            };
            shares.push(Share {
                partition: it.number,
                from: from.clamp(it.start_offset, it.end_offset),
                until: it.end_offset,
            });
        }
        let expected: u64 = shares.iter().map(Share::records).sum();
        let (skip, take) = match self.from {
            Some(_) => (0, self.count.unwrap_or(u64::MAX)),
            // Each partition's last N hold the topic's last N; the merge brings those to the end.
            None => (expected.saturating_sub(count), u64::MAX),
        };
        let quota = Quota {
            skip,
            take,
            expected,
        };
        Ok((shares, quota))
    }

    /// The partitions that are asked for. A topic that is followed may come later.
    async fn partitions(&self, client: &mut Client) -> anyhow::Result<Vec<Partition>> {
        let listed: Listed = client.get("/api/v1/topics").await?;
        let others: Vec<String> = listed
            .topics
            .iter()
            .map(|topic| topic.name.clone())
            .collect();
        let topic = listed
            .topics
            .into_iter()
            .find(|topic| topic.name == self.topic);
        let Some(topic) = topic else {
            if self.follow {
                return Ok(Vec::new());
            }
            match others.as_slice() {
                [] => bail!(
                    "there is no topic {:?}: nothing has arrived yet",
                    self.topic
                ),
                _ => bail!(
                    "there is no topic {:?}; there is {}",
                    self.topic,
                    others.join(", ")
                ),
            }
        };
        let last = topic
            .partitions
            .iter()
            .map(|it| it.number)
            .max()
            .unwrap_or(0);
        let mut partitions = topic.partitions;
        partitions.retain(|it| self.partition.is_none_or(|wanted| it.number == wanted));
        if partitions.is_empty() && !self.follow {
            bail!(
                "topic {:?} has partitions 0 to {last}, and not that one",
                self.topic
            );
        }
        Ok(partitions)
    }

    /// Starts to fetch every share that holds something.
    fn lanes(&self, runtime: &Runtime, shares: &[Share]) -> anyhow::Result<Vec<Lane>> {
        let shares: Vec<Share> = shares
            .iter()
            .copied()
            .filter(|it| it.from < it.until)
            .collect();
        let lanes = shares.len();
        let lanes = shares.into_iter().map(|share| {
            let fetch = self.fetch(share.partition, lanes)?;
            Ok(Lane::new(share, fetch.drain(share, runtime.handle())))
        });
        lanes.collect()
    }

    fn fetch(&self, partition: u32, lanes: usize) -> anyhow::Result<Fetch> {
        let path = format!("/api/v1/topics/{}/records", percent_encode(&self.topic));
        let client = self.server.client()?;
        Ok(Fetch::new(client, &path, self.format, partition, lanes))
    }

    /// Prints what arrives in any partition, until the quota is full or nobody reads.
    fn follow(
        &self,
        runtime: &Runtime,
        shares: &[Share],
        printer: &mut Printer,
    ) -> anyhow::Result<()> {
        let (events, mut received) = mpsc::channel(FOLLOW_EVENTS_MAX);
        let known = shares.iter().map(|share| (share.partition, share.until));
        runtime.spawn(self.clone().watch(known.collect(), events));
        let mut cursors: HashMap<u32, Cursor> = HashMap::new();
        while !printer.is_full() {
            // A timer is made inside the runtime that drives it.
            let next = async { timeout(FOLLOW_CHECK_INTERVAL, received.recv()).await };
            match runtime.block_on(next) {
                Err(_) if printer.reader_is_gone() => break,
                Err(_) => {}
                Ok(Some(Event::Chunk(partition, chunk))) => {
                    let cursor = cursors.entry(partition).or_insert(Cursor {
                        next: chunk.from,
                        until: i64::MAX,
                    });
                    printer.print_chunk(partition, cursor, chunk)?;
                }
                Ok(Some(Event::Lost(failure))) => printer.tell_lost(&failure),
                Ok(Some(Event::Back)) => printer.tell_back(),
                Ok(Some(Event::Failed(error))) => return Err(error),
                Ok(None) => bail!("nothing is followed any more"),
            }
            if received.is_empty() {
                printer.flush()?;
            }
        }
        Ok(())
    }

    /// Follows each known partition from its offset on, and each new one from its start.
    async fn watch(self, known: HashMap<u32, i64>, events: mpsc::Sender<Event>) {
        if let Err(error) = self.try_watch(known, &events).await {
            // When nobody receives, nobody follows.
            drop(events.send(Event::Failed(error)).await);
        }
    }

    async fn try_watch(
        self,
        mut known: HashMap<u32, i64>,
        events: &mpsc::Sender<Event>,
    ) -> anyhow::Result<()> {
        let mut client = self.server.client()?;
        for (partition, from) in &known {
            let fetch = self.fetch(*partition, known.len())?;
            tokio::spawn(fetch.follow(*from, events.clone()));
        }
        while !events.is_closed() {
            sleep(FOLLOW_CHECK_INTERVAL).await;
            // While the server is away the partitions that are followed tell it.
            let partitions = self.partitions(&mut client).await.unwrap_or_default();
            for it in partitions {
                if let Entry::Vacant(new) = known.entry(it.number) {
                    let fetch = self.fetch(it.number, 1)?;
                    tokio::spawn(fetch.follow(*new.insert(it.start_offset), events.clone()));
                }
            }
        }
        Ok(())
    }
}
