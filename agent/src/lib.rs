//! The program on every host: it follows files, keeps their lines in a durable spool, and ships them.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | `agent.yaml` |
//! | [`check`] | what the configured patterns match, and what of it cannot be read |
//! | [`identity`], [`join`] | who the agent is to aggregators, and how it gets that |
//! | [`running`] | one agent from start to stop |
//! | [`reload`] | what of a new configuration is taken over meanwhile |
//! | [`sources`] | files to records |
//! | [`pipeline`], [`router`] | records to batches, batches to the spool |
//! | [`spool`] | the queue on disk, and the positions of all files |
//! | [`producer`] | the spool to an aggregator |
//! | [`telemetry`], [`status`] | its own metrics, and where they are served |
//! | [`control`], [`files`] | the socket in its data directory, and what it tells of the files |
//! | [`events`] | how its events are written |

use tokio_util::sync::CancellationToken;

pub mod ambient;
pub mod check;
pub mod config;
pub mod control;
pub mod events;
pub mod files;
pub mod identity;
pub mod join;
pub mod limits;
pub mod pipeline;
pub mod producer;
pub mod reload;
pub mod router;
pub mod running;
pub mod sources;
pub mod spool;
pub mod status;
pub mod telemetry;

#[cfg(any(test, feature = "testing"))]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the tests beside the code use the rest")
)]
mod testing;

/// Runs an agent until `shutdown`, then stops it: what was read is spooled, and what is spooled is
/// sent within a grace. An error says which part failed; nothing is lost by it.
pub async fn run(
    config: config::AgentConfig,
    parts: running::Parts,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let running = running::start(config, parts).await?;
    let failed = tokio::select! {
        () = shutdown.cancelled() => false,
        () = running.failed() => true,
    };
    running.stop().await?;
    anyhow::ensure!(
        !failed,
        "a part of the agent ended; the events above say why"
    );
    Ok(())
}
