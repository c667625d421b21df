//! What the servers say while they run: events with fields, on stderr.
//!
//! `WEIR_LOG` chooses what is said, in the words of `tracing`: `debug`, or `warn,aggregator=debug`.

use std::fmt;
use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Sends events to stderr from now on: those that `usual` lets pass, unless `WEIR_LOG` says other.
pub(crate) fn init(usual: &str) -> anyhow::Result<()> {
    let wanted = std::env::var("WEIR_LOG").unwrap_or_else(|_| usual.to_owned());
    let filter = EnvFilter::try_new(&wanted);
    let filter = filter.with_context(|| format!("WEIR_LOG={wanted:?} is no filter"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .with_timer(Utc)
        .init();
    Ok(())
}

/// `2026-01-31T08:00:00.123Z`.
struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{:.3}", jiff::Timestamp::now())
    }
}
