//! `weir topics`: what the aggregator holds.

use serde::Deserialize;

use super::Run;
use crate::client::{ServerOptions, block_on, print_json};
use crate::table::{self, Align, Table};

/// List topics: how many records, how many bytes, kept how long
#[derive(Debug, clap::Parser)]
#[command(name = "topics", after_help = EXAMPLES)]
pub(super) struct Topics {
    /// Show this topic's partitions
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,

    /// Print JSON, with every partition
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerOptions,
}

const EXAMPLES: &str = "\
Examples:
  weir topics
  weir topics logs                                      one line a partition
  weir topics --json | jq '.topics[].name'";

#[derive(Deserialize)]
struct Listed {
    topics: Vec<Topic>,
}

#[derive(Deserialize)]
struct Topic {
    name: String,
    partitions: Vec<Partition>,
    retention_bytes: Option<u64>,
    retention_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Partition {
    #[serde(rename = "partition")]
    number: u32,
    start_offset: u64,
    end_offset: u64,
    bytes: u64,
    segments: u64,
}

impl Run for Topics {
    fn run(self) -> anyhow::Result<()> {
        let mut client = self.server.client()?;
        let mut answer: serde_json::Value = block_on(client.get("/api/v1/topics"))?;
        if let (Some(wanted), Some(topics)) = (&self.topic, answer["topics"].as_array_mut()) {
            topics.retain(|topic| topic["name"] == wanted.as_str());
            anyhow::ensure!(
                !topics.is_empty(),
                "there is no topic {wanted:?}; `weir topics` lists them"
            );
        }
        if self.json {
            return print_json(&answer);
        }
        let listed = Listed::deserialize(answer)?;
        let table = match &self.topic {
            Some(_) => partitions(&listed.topics),
            None => topics(&listed.topics),
        };
        Ok(table.print_or("no topic yet: one begins with its first record")?)
    }
}

fn topics(topics: &[Topic]) -> Table {
    let mut table = Table::new(&[
        ("TOPIC", Align::Left),
        ("PARTITIONS", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("KEPT FOR", Align::Left),
    ]);
    for topic in topics {
        let sum = |of: fn(&Partition) -> u64| topic.partitions.iter().map(of).sum::<u64>();
        table.row(&[
            topic.name.clone(),
            topic.partitions.len().to_string(),
            table::count(sum(|it| it.end_offset.saturating_sub(it.start_offset))),
            table::bytes(sum(|it| it.bytes)),
            retention(topic),
        ]);
    }
    table
}

fn partitions(topics: &[Topic]) -> Table {
    let mut table = Table::new(&[
        ("PARTITION", Align::Right),
        ("START", Align::Right),
        ("END", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("SEGMENTS", Align::Right),
    ]);
    for it in topics.iter().flat_map(|topic| &topic.partitions) {
        table.row(&[
            it.number.to_string(),
            it.start_offset.to_string(),
            it.end_offset.to_string(),
            table::count(it.end_offset.saturating_sub(it.start_offset)),
            table::bytes(it.bytes),
            it.segments.to_string(),
        ]);
    }
    table
}

fn retention(topic: &Topic) -> String {
    let age = topic
        .retention_ms
        .map(|ms| table::duration(std::time::Duration::from_millis(ms)));
    let size = topic
        .retention_bytes
        .map(|bytes| format!("{} a partition", table::bytes(bytes)));
    match (age, size) {
        (Some(age), Some(size)) => format!("{age} or {size}"),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => "ever".into(),
    }
}
