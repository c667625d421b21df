//! `weir token`: the strings that hosts join with.

use std::io::{self, Write};
use std::time::SystemTime;

use hyper::Method;
use serde::{Deserialize, Serialize};

use super::Run;
use crate::client::{ServerOptions, block_on, print_json};
use crate::http::percent_encode;
use crate::table::{self, Align, Table};

/// Create, list and revoke the tokens that hosts join with
#[derive(Debug, clap::Parser)]
#[command(name = "token", after_help = EXAMPLES)]
pub(super) struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print a new join token; it is shown this once
    #[command(after_help = CREATE_EXAMPLES)]
    Create(Create),

    /// List tokens, without their secrets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        server: ServerOptions,
    },

    /// Make a token useless; agents that have joined with it stay
    Revoke {
        /// The token's id, as `weir token list` shows it
        #[arg(value_name = "ID")]
        id: String,

        #[command(flatten)]
        server: ServerOptions,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// How long it can be used: 30m, 1h, 7d
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    ttl: String,

    /// How many hosts can join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,

    /// Topics that these hosts may write to: names or patterns such as web.*
    #[arg(
        long,
        value_name = "PATTERN",
        value_delimiter = ',',
        default_value = "*"
    )]
    topics: Vec<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    server: ServerOptions,
}

const EXAMPLES: &str = "\
Examples:
  weir token create                                     one host, within the hour
  weir token list
  weir token revoke 4k2v7xqa";

const CREATE_EXAMPLES: &str = "\
Examples:
  weir token create                                     one host, within the hour
  weir token create --ttl 1d --uses 50 --topics 'web.*,logs'
  ssh web-1 weir-agent join \"$(weir token create)\"";

#[derive(Serialize)]
struct Order<'a> {
    ttl: &'a str,
    uses: u32,
    topics: &'a [String],
}

#[derive(Deserialize)]
struct Made {
    token: String,
    expires: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    tokens: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    expires: Option<String>,
    uses: u32,
    topics: Vec<String>,
    state: String,
}

impl Run for Token {
    fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::Create(create) => create.run(),
            Action::List { json, server } => {
                let answer: serde_json::Value = block_on(server.client()?.get("/api/v1/tokens"))?;
                if json {
                    return print_json(&answer);
                }
                let listed = Listed::deserialize(answer)?;
                let table = table(&listed.tokens, SystemTime::now());
                Ok(table.print_or("no token yet: `weir token create` makes one")?)
            }
            Action::Revoke { id, server } => {
                let path = format!("/api/v1/tokens/{}", percent_encode(&id));
                let mut client = server.client()?;
                block_on(async { Ok(client.order(Method::DELETE, &path).await?) })?;
                Ok(writeln!(io::stdout(), "token {id} is revoked")?)
            }
        }
    }
}

impl Create {
    /// The token alone goes to stdout, so that `$(weir token create)` is one; the rest to stderr.
    fn run(self) -> anyhow::Result<()> {
        let order = Order {
            ttl: &self.ttl,
            uses: self.uses,
            topics: &self.topics,
        };
        let mut client = self.server.client()?;
        let answer: serde_json::Value = block_on(client.post("/api/v1/tokens", &order))?;
        if self.json {
            return print_json(&answer);
        }
        let made = Made::deserialize(answer)?;
        writeln!(io::stdout(), "{}", made.token)?;
        let hosts = if self.uses == 1 {
            "one host".into()
        } else {
            format!("{} hosts", self.uses)
        };
        let ends = ends(made.expires.as_deref(), SystemTime::now());
        writeln!(
            io::stderr(),
            "\nfor {hosts}, ends {ends}; there: weir-agent join TOKEN"
        )?;
        Ok(())
    }
}

fn table(tokens: &[Row], now: SystemTime) -> Table {
    let mut table = Table::new(&[
        ("TOKEN", Align::Left),
        ("STATE", Align::Left),
        ("USES LEFT", Align::Right),
        ("ENDS", Align::Left),
        ("TOPICS", Align::Left),
    ]);
    for token in tokens {
        table.row(&[
            token.id.clone(),
            token.state.replace('_', " "),
            token.uses.to_string(),
            ends(token.expires.as_deref(), now),
            token.topics.join(", "),
        ]);
    }
    table
}

/// `in 59m 58s`; a time beyond what the calendar holds is told as never.
fn ends(expires: Option<&str>, now: SystemTime) -> String {
    expires.map_or_else(|| "never".into(), |time| table::relative(time, now))
}
