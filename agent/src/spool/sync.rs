//! What makes the spool durable and small again: fsync, position snapshots, trimming. One step is
//! [`Spool::sync_turn`]; production runs it on a thread of its own, the simulation in a task.
//!
//! Order is everything: a snapshot's bytes are taken first, then everything is fsynced, also partitions
//! that are new since it was begun, then the snapshot is written: it never knows of a batch that a power
//! cut could still take. Trimming comes after both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use commitlog::error::{Error, Result};
use commitlog::id::{Offset, TopicPartition};
use commitlog::storage::write_atomically;

use super::acknowledged::Keep;
use super::partition::{ActiveSegment, Partition};
use super::{Spool, acknowledged, lock, open, positions};
use crate::limits::{
    APPENDER_SYNC_BYTES_MAX, SNAPSHOT_EVERY_BYTES, SNAPSHOT_NOTES_MS, TRIM_EVERY_MS,
};

/// When the sync thread comes back without being woken, while something is waiting for its time.
const RECHECK: Duration = Duration::from_millis(100);

/// What a turn leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncTurn {
    /// Something was done; there may be more by now.
    Worked {
        /// What was appended since the last turn, in bytes.
        bytes: u64,
    },
    /// There was nothing to do. `Some`: something becomes due after this time.
    Idle(Option<Duration>),
}

/// When the last snapshot was and what has happened since.
#[derive(Debug, Default)]
pub(crate) struct SnapshotState {
    /// That of the newest that was taken, whether or not it came to anything.
    pub(crate) generation: u64,
    /// A position changed that no record carries.
    pub(crate) noted: bool,
    /// Somebody waits for what was noted.
    pub(crate) is_urgent: bool,
    /// That of the newest that is durable, or of the one that was read at the start.
    pub(crate) generation_saved: u64,
    pub(crate) written_at_ms: i64,
    pub(crate) trimmed_at_ms: i64,
    /// Ends of the partitions at the last snapshot, in bytes ever written.
    pub(crate) bytes_at: u64,
    pub(crate) bytes_written: u64,
    /// The same at the last turn.
    pub(crate) bytes_seen: u64,
}

impl SnapshotState {
    /// What was read at the start.
    pub(super) fn holding(generation: u64) -> SnapshotState {
        SnapshotState {
            generation,
            generation_saved: generation,
            ..SnapshotState::default()
        }
    }
}

/// A snapshot on its way to disk.
struct Capture {
    generation: u64,
    is_urgent: bool,
    bytes: Vec<u8>,
    folded: BTreeMap<TopicPartition, Offset>,
}

/// Whether a snapshot is written although none is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    IfNeeded,
    Always,
}

impl Spool {
    /// Makes durable what was written, writes a snapshot when one is due, trims what is free. Errors
    /// are logged and tried again: a failing disk is waited for.
    pub fn sync_turn(&self) -> SyncTurn {
        *lock(&self.inner.signal.raised) = false;
        let partitions = self.all_partitions();
        let bytes = self.written_since_last_turn();
        self.look_for_room();
        // Before the table: losses are counted before what they skip is acknowledged.
        let is_saved = self.are_acknowledgements_due();
        let acknowledged = is_saved.then(|| acknowledged::of_all(&partitions));
        let capture = self.capture(&partitions, Due::IfNeeded);
        let partitions = self.all_partitions();
        let synced = self.sync_all(&partitions);
        let mut worked = synced.anything;
        if let Some(capture) = capture {
            if synced.is_all && self.write_snapshot(&capture, &partitions) {
                worked = true;
            } else {
                let snapshot = &mut self.state().snapshot;
                snapshot.noted = true;
                snapshot.is_urgent |= capture.is_urgent;
            }
        }
        // What was skipped is gone only once its loss is saved.
        if !self.state().snapshot.is_urgent {
            worked |= self.trim(&partitions);
            worked |=
                acknowledged.is_some_and(|offsets| self.save_acknowledged(&offsets, Keep::Usual));
        }
        if worked {
            return SyncTurn::Worked { bytes };
        }
        let waiting = synced.failed
            || self.state().snapshot.noted
            || self.is_full()
            || partitions.values().any(|partition| {
                partition.trimmable().disk_bytes > self.inner.config.segment_bytes
            });
        let recheck = waiting.then_some(RECHECK);
        SyncTurn::Idle(recheck.or_else(|| self.acknowledgements_due_in()))
    }

    /// Whether who appends makes it durable, by [`sync_appended`](Self::sync_appended) after each turn.
    pub fn set_appender_syncs(&self, syncs: bool) {
        self.inner.appender_syncs.store(syncs, SeqCst);
    }

    /// Makes durable what was appended and the sync thread was not woken for; whether that was anything.
    /// The rest of a sync turn has time until the sync thread's next one, which also sees to what failed.
    pub fn sync_appended(&self) -> bool {
        let bytes = self.inner.appended_bytes.swap(0, SeqCst);
        if bytes == 0 || bytes > APPENDER_SYNC_BYTES_MAX {
            return false;
        }
        let partitions = self.all_partitions();
        let synced = self.sync_all(&partitions);
        let mut ranges = partitions.values().map(|partition| partition.range());
        // An fsync of the sync thread may have been under way, without the last of it.
        if synced.failed || ranges.any(|range| range.durable_end < range.end) {
            self.inner.signal.raise();
        }
        true
    }

    /// Blocks until there is something to sync, or for `timeout`. For the sync thread alone.
    pub fn wait_for_work(&self, timeout: Option<Duration>) {
        let signal = &self.inner.signal;
        let raised = lock(&signal.raised);
        let timeout = timeout.unwrap_or(Duration::from_secs(1));
        let (mut raised, _) = signal
            .condvar
            .wait_timeout_while(raised, timeout, |raised| !*raised)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *raised = false;
    }

    /// Has the sync thread come out of [`wait_for_work`](Self::wait_for_work).
    pub fn wake_sync(&self) {
        self.inner.signal.raise();
    }

    /// Makes everything durable, writes a snapshot and closes the logs. The spool takes nothing more.
    pub fn close(&self) -> Result<()> {
        let partitions = self.all_partitions();
        let acknowledged = acknowledged::of_all(&partitions);
        let capture = self.capture(&partitions, Due::Always);
        let partitions = self.all_partitions();
        let synced = self.sync_all(&partitions);
        let is_written = capture
            .as_ref()
            .is_some_and(|capture| synced.is_all && self.write_snapshot(capture, &partitions));
        if is_written || !capture.is_some_and(|capture| capture.is_urgent) {
            self.save_acknowledged(&acknowledged, Keep::Always);
        }
        let mut closed = Ok(());
        for partition in partitions.values() {
            let trimmed = partition.trim(ActiveSegment::Keep, (self.inner.clock)());
            // All are closed; the first failure is told.
            closed = closed.and(trimmed).and(partition.close());
        }
        closed
    }

    pub(super) fn all_partitions(&self) -> BTreeMap<TopicPartition, Arc<Partition>> {
        self.state().partitions.clone()
    }

    fn written_since_last_turn(&self) -> u64 {
        let snapshot = &mut self.state().snapshot;
        let seen = std::mem::replace(&mut snapshot.bytes_seen, snapshot.bytes_written);
        snapshot.bytes_written - seen
    }

    /// Takes the table and the offsets it covers, if a snapshot is due.
    fn capture(
        &self,
        partitions: &BTreeMap<TopicPartition, Arc<Partition>>,
        due: Due,
    ) -> Option<Capture> {
        let now = (self.inner.clock)().0;
        let need = self.need();
        let pause_ms = match need {
            Need::Usual => SNAPSHOT_NOTES_MS,
            Need::Room => TRIM_EVERY_MS,
        };
        let mut state = self.state();
        let written = state.snapshot.bytes_written - state.snapshot.bytes_at;
        // A wall clock that was set back must not hold a snapshot up.
        let waited = (now - state.snapshot.written_at_ms).unsigned_abs() >= pause_ms;
        let trims = partitions.values().any(|partition| {
            partition.trimmable().after_snapshot && self.is_worth_it(partition, need)
        });
        let is_due = state.snapshot.is_urgent
            || written >= SNAPSHOT_EVERY_BYTES
            || (waited && (state.snapshot.noted || trims));
        if due == Due::IfNeeded && !is_due {
            return None;
        }
        state.snapshot.noted = false;
        let is_urgent = std::mem::take(&mut state.snapshot.is_urgent);
        state.snapshot.written_at_ms = now;
        state.snapshot.bytes_at = state.snapshot.bytes_written;
        state.snapshot.generation += 1;
        let generation = state.snapshot.generation;
        let meta = state.meta.clone();
        drop(state);
        // Ends first, then the table: a batch's positions are in the table before its end can be seen.
        let folded: BTreeMap<TopicPartition, Offset> = partitions
            .iter()
            .map(|(name, partition)| (name.clone(), partition.end()))
            .collect();
        let bytes = positions::encode(generation, &meta, &folded, &self.table());
        Some(Capture {
            generation,
            is_urgent,
            bytes,
            folded,
        })
    }

    /// Writes a snapshot; whether the disk took it.
    fn write_snapshot(
        &self,
        capture: &Capture,
        partitions: &BTreeMap<TopicPartition, Arc<Partition>>,
    ) -> bool {
        let name = open::SNAPSHOTS[usize::from(capture.generation % 2 == 1)];
        let path = self.inner.dir.join(name);
        match write_atomically(&*self.inner.storage, &path, &capture.bytes) {
            Ok(()) => {
                self.state().snapshot.generation_saved = capture.generation;
                // Who waited for it reads now.
                self.tell_change();
                for (name, partition) in partitions {
                    if let Some(&upto) = capture.folded.get(name) {
                        partition.folded(upto);
                    }
                }
                true
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "position snapshot is not written");
                false
            }
        }
    }

    /// Fsyncs what was appended until now.
    fn sync_all(&self, partitions: &BTreeMap<TopicPartition, Arc<Partition>>) -> Synced {
        let mut synced = Synced::default();
        let ends: Vec<Offset> = partitions.values().map(|it| it.end()).collect();
        for (name, partition) in partitions {
            match sync_one(partition, (self.inner.clock)()) {
                Ok(false) => {}
                Ok(true) => synced.anything = true,
                Err(error) => {
                    synced.failed = true;
                    tracing::error!(partition = %name, %error, "spool is not durable, trying again");
                }
            }
        }
        // An fsync that another thread began may run still.
        let mut durable = partitions.values().map(|it| it.range().durable_end);
        synced.is_all = ends.into_iter().all(|end| durable.next() >= Some(end));
        if synced.anything {
            self.inner.changed.send_modify(|version| *version += 1);
            self.tell_change();
        }
        synced
    }

    /// Frees acknowledged segments, not too often; whether anything was done.
    fn trim(&self, partitions: &BTreeMap<TopicPartition, Arc<Partition>>) -> bool {
        let now = (self.inner.clock)();
        let waited = {
            let state = self.state();
            (now.0 - state.snapshot.trimmed_at_ms).unsigned_abs() >= TRIM_EVERY_MS
        };
        if !waited {
            return false;
        }
        let mut worked = false;
        let mut free = |name: &TopicPartition, partition: &Partition, active| {
            worked = true;
            if let Err(error) = partition.trim(active, now) {
                tracing::warn!(partition = %name, %error, "spool is not trimmed");
            }
        };
        let need = self.need();
        for (name, partition) in partitions {
            if partition.trimmable().now && self.is_worth_it(partition, need) {
                free(name, partition, ActiveSegment::Keep);
            }
        }
        if self.need() == Need::Room {
            for (name, partition) in partitions {
                if partition.trimmable().whole {
                    free(name, partition, ActiveSegment::Free);
                }
            }
        }
        if worked {
            self.state().snapshot.trimmed_at_ms = now.0;
            self.tell_change();
        }
        worked
    }

    /// Nothing is appended to a full disk, so nothing else looks whether it has room again.
    fn look_for_room(&self) {
        if self.inner.is_disk_short.load(SeqCst) && !self.is_disk_short(0) {
            self.tell_change();
        }
    }

    fn need(&self) -> Need {
        if self.is_full() {
            Need::Room
        } else {
            Need::Usual
        }
    }

    /// Usually a segment's worth at least, so that checkpoints stay rare; where room is needed, whatever
    /// gives any.
    fn is_worth_it(&self, partition: &Partition, need: Need) -> bool {
        match need {
            Need::Usual => partition.trimmable().disk_bytes > self.inner.config.segment_bytes,
            Need::Room => partition.gives_room(),
        }
    }
}

/// How much is done for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Usual,
    /// The spool is full: reading waits for it.
    Room,
}

#[derive(Debug, Default)]
struct Synced {
    anything: bool,
    failed: bool,
    /// All that was appended when it began is durable.
    is_all: bool,
}

/// Fsyncs one partition; whether there was anything to do.
fn sync_one(partition: &Partition, now: commitlog::id::Timestamp) -> Result<bool> {
    let reopened = partition.reopen(now)?;
    let Some(job) = partition.start_sync() else {
        return Ok(partition.take_durable() || reopened);
    };
    partition
        .finish_sync(job.run())
        .map_err(|error| Error::new(error.kind, format!("fsync: {error}")))?;
    Ok(true)
}
