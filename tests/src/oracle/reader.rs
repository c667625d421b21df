//! The reader: drains a topic over HTTP into a [`Checker`], while things break and afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::checker::{Checker, Place, Verdict, Written};
use super::writer::{Plan, parse_account};
use crate::api::{Api, Entry, Fetch};
use crate::condition::{Seen, wait};
use crate::limits::FETCH_BYTES;
use crate::programs;
use crate::world::World;

/// Reads one topic of an aggregator.
pub struct Reader {
    http: SocketAddr,
    token_file: PathBuf,
    topic: String,
    next: BTreeMap<u32, u64>,
    gap_records: u64,
    checker: Checker,
}

impl Reader {
    /// A reader that begins at the first offset of every partition.
    pub fn new(http: SocketAddr, token_file: PathBuf, topic: &str) -> Reader {
        let topic = topic.to_owned();
        let (next, checker) = (BTreeMap::new(), Checker::default());
        Reader {
            http,
            token_file,
            topic,
            next,
            gap_records: 0,
            checker,
        }
    }

    /// Reads what is there; returns how many records that were. While the aggregator is down it
    /// is an error, and nothing is forgotten.
    pub fn poll(&mut self) -> Result<u64> {
        // A new client each time: the aggregator may have been killed and its connections with it.
        let api = Api::new(self.http, &self.token_file);
        let mut read = 0;
        for partition in api.partitions(&self.topic)? {
            let start = partition.start_offset;
            let mut from = *self.next.entry(partition.partition).or_insert(start);
            while from < partition.end_offset {
                let next = self.fetch(&api, partition.partition, from, &mut read)?;
                if next <= from {
                    bail!("partition {} does not go on at {from}", partition.partition);
                }
                from = next;
                self.next.insert(partition.partition, from);
            }
        }
        Ok(read)
    }

    fn fetch(&mut self, api: &Api, partition: u32, from: u64, read: &mut u64) -> Result<u64> {
        let fetch = Fetch {
            from,
            bytes_max: FETCH_BYTES,
            wait_ms: 0,
        };
        let fetched = api.records(&self.topic, partition, fetch)?;
        for entry in &fetched.entries {
            match entry {
                Entry::Gap { gap } => self.gap_records += gap.to - gap.from,
                Entry::Record(record) => {
                    let place = Place {
                        partition: record.partition,
                        offset: record.offset,
                    };
                    self.checker.observe(place, &record.value()?);
                    *read += 1;
                }
            }
        }
        Ok(fetched.next_offset)
    }

    /// Different lines read so far.
    pub fn distinct_lines(&self) -> u64 {
        self.checker.distinct_lines()
    }

    /// The fault-free phase and the verdict: all that was `written` must arrive within the
    /// deadline; then everything is read once more from the first offset, and must be the same.
    ///
    /// A missed deadline is no error here: the verdict names what is lost.
    pub fn judge(mut self, written: &Written, within: Duration) -> Result<Verdict> {
        let arrived = wait("every written line", within, || {
            self.poll()?;
            let (read, all) = (self.distinct_lines(), written.values().sum::<u64>());
            Ok(if self.checker.has_all(written) {
                Seen::Yes(())
            } else {
                Seen::no(format!("{read} of {all} lines read"))
            })
        });
        self.next.clear();
        self.poll()?;
        let api = Api::new(self.http, &self.token_file);
        let counted = api.counted_losses()? + self.gap_records;
        let mut verdict = self.checker.verdict(written, counted);
        verdict.deadline = arrived.err().map(|error| error.to_string());
        Ok(verdict)
    }
}

/// A writer process. It is never killed: dropping it ends its standard input and awaits it.
pub struct WriterProcess {
    child: Child,
    plan: Plan,
}

impl WriterProcess {
    /// Starts it.
    pub fn start(plan: &Plan) -> Result<WriterProcess> {
        let mut command = Command::new(programs::oracle_writer()?);
        command.arg("--dir").arg(&plan.dir);
        let rotation = format!("{:?}", plan.rotation).to_lowercase();
        let numbers = [
            ("--writer", u64::from(plan.writer)),
            ("--rate", plan.rate),
            ("--rotate-lines", plan.rotate_lines),
            ("--keep", u64::from(plan.keep)),
            ("--padding", plan.padding as u64),
            ("--seed", plan.seed),
        ];
        for (name, value) in numbers {
            command.args([name, &value.to_string()]);
        }
        if let Some(lines) = plan.lines {
            command.args(["--lines", &lines.to_string()]);
        }
        command
            .args(["--rotation", &rotation])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let child = command.spawn().context("start the oracle's writer")?;
        Ok(WriterProcess {
            child,
            plan: plan.clone(),
        })
    }

    /// Whether it is still writing.
    pub fn is_writing(&mut self) -> Result<bool> {
        Ok(self
            .child
            .try_wait()
            .context("look at the writer")?
            .is_none())
    }

    /// Waits for the lines of its plan, or stops it when it has no end; returns its account.
    pub fn finish(mut self) -> Result<Written> {
        if self.plan.lines.is_none() {
            drop(self.child.stdin.take());
        }
        let mut text = String::new();
        let out = self
            .child
            .stdout
            .as_mut()
            .context("the writer's output is a pipe")?;
        std::io::Read::read_to_string(out, &mut text).context("read the writer's account")?;
        let status = self.child.wait().context("await the writer")?;
        if !status.success() {
            bail!("the writer failed: {status}");
        }
        parse_account(&text)
    }
}

impl Drop for WriterProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// A plan that writes into `logs/` of the world: 200-byte lines, no rotation, no end.
pub fn plan_in(world: &World) -> Plan {
    Plan {
        dir: world.path("logs"),
        writer: 0,
        rate: 1000,
        lines: None,
        rotation: super::writer::Rotation::None,
        rotate_lines: 10_000,
        keep: 1000,
        padding: 160,
        seed: fastrand::u64(..),
    }
}
