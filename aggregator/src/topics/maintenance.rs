//! What runs beside appends and syncs: failed partitions are opened again, free space is asked for,
//! retention deletes, and at the end everything is closed cleanly.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use commitlog::id::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Topics;
use super::fan_out::fan_out;
use crate::limits::{DISK_CHECK_INTERVAL_MS, MAINTENANCE_INTERVAL_MS, RETENTION_INTERVAL_MS};

/// When each of the rarer steps ran last.
pub(super) struct Schedule {
    disk_checked_ms: AtomicI64,
    retention_ms: AtomicI64,
}

impl Schedule {
    pub(super) fn new() -> Schedule {
        Schedule {
            disk_checked_ms: AtomicI64::new(i64::MIN),
            retention_ms: AtomicI64::new(i64::MIN),
        }
    }
}

impl Topics {
    /// Does [`Topics::maintain`] again and again until `shutdown`.
    pub async fn run_maintenance(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_millis(MAINTENANCE_INTERVAL_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let topics = self.clone();
            self.shared.blocking.run(move || topics.maintain()).await;
        }
    }

    /// Does whatever is due by now: failed partitions, free space, retention.
    pub fn maintain(&self) {
        let now = (self.shared.clock)();
        let schedule = &self.shared.schedule;
        for partition in self.partitions() {
            if partition.failure().is_some() {
                partition.reopen_if_due();
            }
        }
        if is_due(&schedule.disk_checked_ms, DISK_CHECK_INTERVAL_MS, now) {
            self.check_disk();
        }
        if is_due(&schedule.retention_ms, RETENTION_INTERVAL_MS, now) {
            self.apply_retention();
        }
    }

    /// Deletes in every partition what its age and size limits allow.
    pub fn apply_retention(&self) {
        for partition in self.partitions() {
            partition.apply_retention();
        }
    }

    /// Syncs and closes every partition. Waits for the disk; nothing is taken afterwards.
    pub fn close(&self) {
        fan_out(self.shared.blocking, &self.partitions(), |partition| {
            partition.close();
        });
    }
}

/// Whether `interval_ms` have passed since `last`; if so, `last` becomes now. A clock that was set
/// back makes it due at once rather than never.
fn is_due(last: &AtomicI64, interval_ms: i64, now: Timestamp) -> bool {
    let since = now.0.saturating_sub(last.load(Ordering::Relaxed));
    let due = !(0..interval_ms).contains(&since);
    if due {
        last.store(now.0, Ordering::Relaxed);
    }
    due
}
