//! The broker and what hangs on it: topics, groups, HTTP.
//!
//! ```text
//! agents ─▶ broker ─▶ topics ─▶ (fsync) ─▶ http/records ─▶ consumers
//!             │          │                    groups
//!          identity   commitlog               agents, tokens
//! ```
//!
//! [`run`] is the whole life of one aggregator; [`running`] says who starts whom. What comes from
//! outside (disk, time, chance, threads) is passed in as [`parts::Parts`].

use anyhow::Result;
use tokio_util::sync::CancellationToken;

use crate::config::AggregatorConfig;
use crate::parts::Parts;

pub mod agents;
pub mod blocking;
pub mod broker;
pub mod config;
pub mod groups;
pub mod health;
pub mod http;
pub mod identity;
pub mod limits;
pub mod meta;
pub mod parts;
pub mod running;
pub mod telemetry;
pub mod topics;

/// Runs an aggregator until `shutdown`, or until a part that must run has ended.
pub async fn run(
    config: AggregatorConfig,
    parts: Parts,
    shutdown: CancellationToken,
) -> Result<()> {
    let running = running::start(config, parts).await?;
    let failed = tokio::select! {
        () = shutdown.cancelled() => false,
        () = running.failed() => true,
    };
    running.stop().await?;
    anyhow::ensure!(
        !failed,
        "a part of the aggregator has ended; its log tells why"
    );
    Ok(())
}
