//! The yardstick: bare zstd level 1 over the same bytes, one thread, no I/O.

use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::report::float;

/// Bytes of one zstd frame: as much as a batch holds at most.
const CHUNK_BYTES: usize = 1 << 20;

/// What bare zstd took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Baseline {
    /// Processor time of the thread.
    pub(crate) cpu: Duration,
    /// Raw bytes for one compressed byte.
    pub(crate) ratio: f64,
}

/// Compresses the bytes once and throws the result away.
pub(crate) fn measure(bytes: &[u8]) -> Result<Baseline> {
    let mut compressor = zstd::bulk::Compressor::new(1).context("make a compressor")?;
    let mut out = Vec::with_capacity(zstd::zstd_safe::compress_bound(CHUNK_BYTES));
    let mut compressed = 0;
    let before = thread_cpu();
    for chunk in bytes.chunks(CHUNK_BYTES) {
        out.clear();
        compressed += compressor
            .compress_to_buffer(chunk, &mut out)
            .context("compress")?;
    }
    let cpu = thread_cpu().saturating_sub(before);
    Ok(Baseline {
        cpu,
        ratio: float(bytes.len() as u64) / float(compressed as u64),
    })
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
