//! `weir serve`: an aggregator, as its file says.

use std::io::{self, Write};
use std::path::PathBuf;

use aggregator::config::AggregatorConfig;
use aggregator::parts::Parts;
use aggregator::running;
use anyhow::{Context, bail};
use config::load::load;

use super::Run;
use crate::events;
use crate::signals::StopSignals;

/// Run an aggregator
#[derive(Debug, clap::Parser)]
#[command(name = "serve", after_help = EXAMPLES)]
pub(super) struct Serve {
    /// What it listens on and keeps, in YAML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Only say what is wrong with the file
    #[arg(long)]
    check: bool,
}

const EXAMPLES: &str = "\
Examples:
  weir serve --config aggregator.yaml
  weir serve --config aggregator.yaml --check

The smallest file is `data_dir: /var/lib/weir`. At its first start the aggregator makes a
certificate authority and DATA_DIR/admin.token; then `weir token create` lets hosts join.
WEIR_LOG=debug says more, WEIR_LOG=warn less.";

impl Run for Serve {
    fn run(self) -> anyhow::Result<()> {
        let config: AggregatorConfig = load(&self.config)?.config;
        if self.check {
            return Ok(writeln!(io::stdout(), "{}: fine", self.config.display())?);
        }
        events::init("info")?;
        let runtime = running::runtime().context("cannot start threads")?;
        runtime.block_on(serve(config))
    }
}

async fn serve(config: AggregatorConfig) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let data_dir = config.data_dir.clone();
    let running = running::start(config, Parts::real()).await?;
    tracing::info!(
        agents = %running.quic_addr,
        http = %running.http_addr,
        data_dir = %data_dir.display(),
        "ready"
    );
    let failed = tokio::select! {
        () = signals.next() => false,
        () = running.failed() => true,
    };
    tracing::info!("stopping; again to stop at once");
    tokio::select! {
        () = signals.again() => bail!("stopped at once; the next start recovers"),
        stopped = running.stop() => stopped?,
    }
    tracing::info!("stopped");
    if failed {
        bail!("a part of the aggregator ended; the events above say why");
    }
    Ok(())
}
