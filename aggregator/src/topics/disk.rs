//! How much the disk still takes: the free bytes above the high-water mark, and zero for a moment
//! whenever it refused a write. Backpressure, never a refusal for good.
//!
//! Invariant **I21**: a full disk takes the credits away and drops nothing.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use commitlog::id::Timestamp;
use tokio::sync::watch;

use super::Topics;
use crate::limits::{APPEND_APART_MS, APPEND_IN_PLACE_MAX, DISK_FULL_PAUSE_MS};

/// Bytes that may still be sent before the disk reaches its high-water mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DiskCredit(u64);

impl DiskCredit {
    /// The bytes; zero means: send nothing.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Whether nothing may be sent.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

pub(super) struct DiskGauge {
    credit: watch::Sender<DiskCredit>,
    /// Credits stay zero until then, whatever the free bytes say.
    refused_until_ms: AtomicI64,
    /// When a write waited for the disk last.
    slow_at_ms: AtomicI64,
    /// Whether it was said that the disk is full: each change is said once.
    said_full: AtomicBool,
}

impl DiskGauge {
    pub(super) fn new() -> DiskGauge {
        DiskGauge {
            // Until the first check nobody may send.
            credit: watch::Sender::new(DiskCredit(0)),
            refused_until_ms: AtomicI64::new(i64::MIN),
            slow_at_ms: AtomicI64::new(i64::MIN),
            said_full: AtomicBool::new(false),
        }
    }

    pub(super) fn credit(&self) -> DiskCredit {
        *self.credit.borrow()
    }

    /// The disk took no more: nobody sends for a moment.
    pub(super) fn refused(&self, now: Timestamp) {
        let until = now.0.saturating_add(DISK_FULL_PAUSE_MS);
        self.refused_until_ms.store(until, Ordering::Relaxed);
        self.set(DiskCredit(0));
    }

    /// A write took `time`.
    pub(super) fn wrote(&self, time: Duration, now: Timestamp) {
        if time > APPEND_IN_PLACE_MAX {
            self.slow_at_ms.store(now.0, Ordering::Relaxed);
        }
    }

    /// Whether a write may wait: one has a moment ago, or the disk is full.
    pub(super) fn may_wait(&self, now: Timestamp) -> bool {
        // A wall clock that is set back must not make the moment last.
        let slow_at = self.slow_at_ms.load(Ordering::Relaxed);
        now.0.abs_diff(slow_at) < APPEND_APART_MS || self.credit().is_zero()
    }

    fn set(&self, credit: DiskCredit) {
        self.credit.send_if_modified(|current| {
            let changed = *current != credit;
            *current = credit;
            changed
        });
    }
}

impl Topics {
    /// Asks the disk how much is free and tells it as credit.
    pub fn check_disk(&self) {
        let shared = &self.shared;
        let now = (shared.clock)();
        let gauge = &shared.disk;
        let space = match shared.storage.free_bytes(&shared.config.log_dir) {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "cannot ask the disk for its free space");
                return gauge.set(DiskCredit(0));
            }
        };
        shared.telemetry.disk_free_bytes.set(saturating(space.free));
        shared
            .telemetry
            .disk_total_bytes
            .set(saturating(space.total));
        let kept_free_percent = 100 - u64::from(shared.config.disk_high_water_percent.min(100));
        // Divided first: a total of exabytes must not overflow.
        let kept_free = space.total / 100 * kept_free_percent;
        let refused = now.0 < gauge.refused_until_ms.load(Ordering::Relaxed);
        let free = if refused {
            0
        } else {
            space.free.saturating_sub(kept_free)
        };
        gauge.set(DiskCredit(free));
        let is_full = free == 0;
        match (gauge.said_full.swap(is_full, Ordering::Relaxed), is_full) {
            (false, true) => {
                tracing::warn!(free = space.free, "disk full: agents keep their lines");
            }
            (true, false) => tracing::info!(free = space.free, "disk has room: agents may send"),
            _ => {}
        }
    }
}

/// Gauges are signed.
fn saturating(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
