//! `weir up`: aggregator and agent in one process, with no configuration.
//!
//! Nothing here is a shortcut. The agent joins with a token over loopback, ships over QUIC and keeps
//! its own spool, exactly as one on another host; `weir serve` can take the data directory over later,
//! and other hosts can join meanwhile.

mod plan;
mod report;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::identity::{self, StoredIdentity};
use agent::join::{Joining, join};
use anyhow::{Context, bail};
use config::credentials::{self, Credentials};
use config::join::token::JoinToken;
use serde::Deserialize;

use self::plan::{Plan, reachable};
use self::report::Report;
use super::Run;
use crate::client::Client;
use crate::events;
use crate::signals::StopSignals;

/// Run aggregator and agent in one process, with no configuration
#[derive(Debug, clap::Parser)]
#[command(name = "up", after_help = EXAMPLES)]
pub(super) struct Up {
    /// Where everything is kept [default: weir in the user's state directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Files to follow, or patterns of them [default: what can be read under /var/log]
    #[arg(long, value_name = "GLOB", num_args = 1..)]
    logs: Vec<PathBuf>,

    /// Where agents connect; 0.0.0.0:9347 lets other hosts join
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9347")]
    listen: SocketAddr,

    /// Where people and programs read
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9348")]
    http: SocketAddr,
}

const EXAMPLES: &str = "\
Examples:
  weir up                                               follow /var/log
  weir up --logs '/srv/app/*.log' /var/log/syslog       follow these
  weir up --data-dir /srv/weir --listen 0.0.0.0:9347    let other hosts join

Stop it with Ctrl-C; nothing is lost, and the next `weir up` goes on where this one ended.
WEIR_LOG=info says more, WEIR_LOG=debug most.";

impl Run for Up {
    fn run(self) -> anyhow::Result<()> {
        let plan = Plan::make(&self)?;
        events::init(if io::stderr().is_terminal() {
            "warn"
        } else {
            "info"
        })?;
        let runtime = aggregator::running::runtime().context("cannot start threads")?;
        runtime.block_on(up(plan))
    }
}

async fn up(plan: Plan) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let Plan {
        aggregator,
        agent,
        followed,
    } = plan;
    let data_dir = aggregator.data_dir.clone();
    let aggregator = aggregator::running::start(aggregator, aggregator::parts::Parts::real())
        .await
        .map_err(in_options)?;
    let started = start_agent(agent, &data_dir, &aggregator).await;
    let agent = match started {
        Ok(agent) => agent,
        Err(error) => {
            aggregator.stop().await?;
            return Err(error);
        }
    };
    let report = Report {
        data_dir: &data_dir,
        followed: &followed,
        agents: aggregator.quic_addr,
        http: aggregator.http_addr,
    };
    say(&report.to_string());

    let failed = tokio::select! {
        () = signals.next() => false,
        () = agent.failed() => true,
        () = aggregator.failed() => true,
    };
    say("\nstopping: the last lines are shipped; Ctrl-C again stops at once\n");
    let stop = async {
        // The agent first, so that the aggregator takes what it still has.
        let agent = agent.stop().await;
        aggregator.stop().await.and(agent)
    };
    tokio::select! {
        () = signals.again() => bail!("stopped at once; the next start recovers"),
        stopped = stop => stopped?,
    }
    say("stopped; everything that was read is kept\n");
    if failed {
        bail!("a part ended by itself; the events above say why");
    }
    Ok(())
}

/// Says something to who started it. Nobody has to read it: a closed stdout is no reason to stop.
fn say(text: &str) {
    drop(io::stdout().write_all(text.as_bytes()));
}

/// Lets the agent join with a token of its own, unless it has, then starts it.
async fn start_agent(
    config: agent::config::AgentConfig,
    data_dir: &Path,
    aggregator: &aggregator::running::Running,
) -> anyhow::Result<agent::running::Running> {
    let parts = agent::running::Parts::real();
    let admin_token = std::fs::read_to_string(data_dir.join("admin.token"))
        .context("cannot read the token that the aggregator made")?;
    let credentials = Credentials {
        server: format!("http://{}", reachable(aggregator.http_addr)),
        token: admin_token.trim().to_owned(),
    };
    // A certificate that ended while nothing ran, or of an authority that was replaced, needs no other
    // way back than to join anew; the agent keeps its name. So does a file that is damaged or that
    // others may read, under another name: joining says what is wrong with it.
    let stored = StoredIdentity::read(&identity::path(&config.agent.data_dir));
    let is_good = |stored: StoredIdentity| {
        stored.tls(&parts.clock).is_ok() && aggregator.admits(&stored.chain())
    };
    if !stored.is_ok_and(|stored| stored.is_some_and(is_good)) {
        let token = join_token(&credentials).await?;
        let joining = Joining {
            token: &token,
            data_dir: &config.agent.data_dir,
            host: &agent::running::host_name(&config),
            transport: Arc::clone(&parts.transport),
            clock: parts.clock.clone(),
        };
        join(joining)
            .await
            .context("the agent cannot join the aggregator of this process")?;
    }
    leave(&credentials)?;
    agent::running::start(config, parts).await
}

async fn join_token(credentials: &Credentials) -> anyhow::Result<JoinToken> {
    let server = credentials.server.parse().map_err(anyhow::Error::msg)?;
    let mut client = Client::new(server, &credentials.token);
    let order = serde_json::json!({"ttl": "1m", "uses": 1});
    let made: Made = client.post("/api/v1/tokens", &order).await?;
    Ok(made.token.parse()?)
}

#[derive(Deserialize)]
struct Made {
    token: String,
}

/// Lets this user's commands find the server and the token by themselves.
fn leave(credentials: &Credentials) -> anyhow::Result<()> {
    let Some(path) = credentials::path() else {
        tracing::warn!("no home directory is known: the commands need --server and --token-file");
        return Ok(());
    };
    let written = credentials::write(&path, credentials);
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// `weir up` has options where the aggregator's own words name its file's keys.
fn in_options(error: anyhow::Error) -> anyhow::Error {
    let said = format!("{error:#}");
    if !said.starts_with("cannot listen on ") {
        return error;
    }
    let said = said.replace("listen.quic", "--listen");
    anyhow::Error::msg(said.replace("listen.http", "--http"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_the_option_that_chooses_another() {
        let error = anyhow::anyhow!("cannot listen on UDP 127.0.0.1:1: taken: change listen.quic");
        assert_eq!(
            in_options(error).to_string(),
            "cannot listen on UDP 127.0.0.1:1: taken: change --listen"
        );
    }
}
