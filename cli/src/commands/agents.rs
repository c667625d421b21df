//! `weir agents`: who ships here, how far behind, what was lost; and shutting one out.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::SystemTime;

use anyhow::bail;
use serde::Deserialize;

use super::Run;
use crate::client::{ServerOptions, block_on, print_json};
use crate::http::percent_encode;
use crate::table::{self, Align, Table};
use crate::terminal;

/// List agents: host, last seen, lag, counted losses; or revoke one
#[derive(Debug, clap::Parser)]
#[command(name = "agents", after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct Agents {
    #[command(subcommand)]
    action: Option<Action>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerOptions,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Shut an agent out: its certificate is refused from now on and its connections end
    Revoke {
        /// The agent's id, as `weir agents` shows it
        #[arg(value_name = "ID")]
        id: String,

        #[command(flatten)]
        server: ServerOptions,
    },
}

const EXAMPLES: &str = "\
Examples:
  weir agents
  weir agents --json | jq '.agents[] | select(.connected | not) | .host'
  weir agents revoke 4k2v7xqaq2m7x4abzp5ck7f3we         shut one out at once";

/// What the bytes that were lost to a reason are counted under.
const BYTES: &str = "_bytes";

#[derive(Deserialize)]
struct Listed {
    agents: Vec<Agent>,
}

/// The answer to a revocation.
#[derive(Deserialize)]
struct Revoked {
    known: bool,
}

#[derive(Deserialize)]
struct Agent {
    id: String,
    /// What follows is unknown of an agent that has a certificate and never connected.
    host: Option<String>,
    version: Option<String>,
    address: Option<String>,
    transport: Option<String>,
    connected: bool,
    last_seen: Option<String>,
    /// Spooled there and not durable here.
    lag_bytes: u64,
    /// Not even spooled.
    unread_bytes: u64,
    losses: BTreeMap<String, u64>,
    identity_conflicts: Vec<Conflict>,
    revoked: bool,
    certificate_expires: Option<String>,
}

/// Two machines with one identity.
#[derive(Deserialize)]
struct Conflict {
    host: Host,
    other_host: Option<Host>,
}

#[derive(Deserialize)]
struct Host {
    name: String,
}

impl Run for Agents {
    fn run(self) -> anyhow::Result<()> {
        if let Some(Action::Revoke { id, server }) = self.action {
            let path = format!("/api/v1/agents/{}/revoke", percent_encode(&id));
            let mut client = server.client()?;
            let revoked: Revoked = block_on(client.post(&path, &serde_json::json!({})))?;
            if !revoked.known {
                bail!(
                    "no agent {id} has joined or connected here (`weir agents` lists them); it is \
                     shut out all the same, should it ever come"
                );
            }
            return Ok(writeln!(io::stdout(), "agent {id} is shut out")?);
        }
        let answer: serde_json::Value = block_on(self.server.client()?.get("/api/v1/agents"))?;
        if self.json {
            return print_json(&answer);
        }
        let listed = Listed::deserialize(answer)?;
        table(&listed.agents, SystemTime::now())
            .print_or("no agent has joined yet: `weir token create` lets one in")?;
        for agent in &listed.agents {
            tell_conflict(agent)?;
        }
        Ok(())
    }
}

/// Names both machines of the last identity conflict.
fn tell_conflict(agent: &Agent) -> io::Result<()> {
    let Some(Conflict { host, other_host }) = agent.identity_conflicts.last() else {
        return Ok(());
    };
    let other = other_host
        .as_ref()
        .map_or("another machine", |other| other.name.as_str());
    let mut told = String::new();
    let (id, host) = (&agent.id, &host.name);
    terminal::escape_text(
        &format!(
            "\nagent {id}: {host} and {other} ship as one spool (a cloned machine, or a restored \
             snapshot); each goes on under an id of its own and nothing is lost"
        ),
        terminal::Lines::Keep,
        &mut told,
    );
    writeln!(io::stdout(), "{told}")
}

fn table(agents: &[Agent], now: SystemTime) -> Table {
    let mut table = Table::new(&[
        ("AGENT", Align::Left),
        ("HOST", Align::Left),
        ("VERSION", Align::Left),
        ("STATE", Align::Left),
        ("ADDRESS", Align::Left),
        ("LAG", Align::Right),
        ("LOST", Align::Left),
        ("CERTIFICATE", Align::Left),
    ]);
    for agent in agents {
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let expires = agent.certificate_expires.as_deref();
        table.row(&[
            agent.id.clone(),
            known(&agent.host),
            known(&agent.version),
            state(agent, now),
            known(&agent.address),
            table::bytes(agent.lag_bytes + agent.unread_bytes),
            losses(&agent.losses),
            expires.map_or_else(
                || "-".into(),
                |time| format!("ends {}", table::relative(time, now)),
            ),
        ]);
    }
    table
}

fn state(agent: &Agent, now: SystemTime) -> String {
    let transport = agent.transport.as_deref().unwrap_or("connected");
    match &agent.last_seen {
        _ if agent.revoked => "revoked".into(),
        _ if agent.connected => transport.to_owned(),
        Some(time) => format!("seen {}", table::relative(time, now)),
        None => "never seen".into(),
    }
}

/// `none`, or `1 damaged, 3 truncated (15 B)`.
fn losses(losses: &BTreeMap<String, u64>) -> String {
    let counted = losses
        .iter()
        .filter(|(reason, count)| **count > 0 && !reason.ends_with(BYTES));
    let told = counted.map(|(reason, count)| {
        let bytes = losses.get(&format!("{reason}{BYTES}"));
        let bytes = bytes.map_or_else(String::new, |it| format!(" ({})", table::bytes(*it)));
        format!("{} {reason}{bytes}", table::count(*count))
    });
    let told: Vec<String> = told.collect();
    if told.is_empty() {
        "none".into()
    } else {
        told.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_with_their_bytes() {
        let told = |counts: &[(&str, u64)]| {
            let counts = counts
                .iter()
                .map(|(reason, count)| ((*reason).to_owned(), *count));
            losses(&counts.collect())
        };
        assert_eq!(told(&[]), "none");
        let counts = [("damaged", 2), ("truncated", 1), ("truncated_bytes", 15)];
        assert_eq!(told(&counts), "2 damaged, 1 truncated (15 B)");
    }
}
