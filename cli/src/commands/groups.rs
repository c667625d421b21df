//! `weir groups`: consumer groups and how far each has read.

use serde::Deserialize;

use super::Run;
use crate::client::{ServerOptions, block_on, print_json};
use crate::table::{self, Align, Table};

/// List consumer groups: what each has read, how far it is behind
#[derive(Debug, clap::Parser)]
#[command(name = "groups", after_help = EXAMPLES)]
pub(super) struct Groups {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerOptions,
}

const EXAMPLES: &str = "\
Examples:
  weir groups
  weir groups --json | jq '.groups[].group'";

#[derive(Deserialize)]
struct Listed {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(rename = "group")]
    name: String,
    offsets: Vec<Committed>,
}

#[derive(Deserialize)]
struct Committed {
    topic: String,
    partition: u32,
    offset: i64,
    end_offset: Option<i64>,
}

impl Run for Groups {
    fn run(self) -> anyhow::Result<()> {
        let mut client = self.server.client()?;
        let answer: serde_json::Value = block_on(client.get("/api/v1/groups"))?;
        if self.json {
            return print_json(&answer);
        }
        let listed = Listed::deserialize(answer)?;
        Ok(table(&listed.groups).print_or("no consumer group has committed an offset yet")?)
    }
}

fn table(groups: &[Group]) -> Table {
    let mut table = Table::new(&[
        ("GROUP", Align::Left),
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("COMMITTED", Align::Right),
        ("END", Align::Right),
        ("BEHIND", Align::Right),
    ]);
    for group in groups {
        for it in &group.offsets {
            let behind = it.end_offset.map(|end| end.saturating_sub(it.offset));
            let behind = behind.and_then(|behind| u64::try_from(behind).ok());
            table.row(&[
                group.name.clone(),
                it.topic.clone(),
                it.partition.to_string(),
                it.offset.to_string(),
                it.end_offset
                    .map_or_else(|| "-".into(), |end| end.to_string()),
                behind.map_or_else(|| "-".into(), table::count),
            ]);
        }
    }
    table
}
