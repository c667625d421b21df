//! One partition: its one writer behind a mutex, its reader, its durable watermark.
//!
//! Syncs, retention and appends that may wait take the writer's lock on threads of their own; an append
//! that only copies into the page cache runs where the batch was received. An fsync runs outside of the
//! lock. A sync that ran against a writer that failed meanwhile is told by the generation and
//! changes nothing. `writer.rs` says how a writer comes and goes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Instant;

use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicPartition};
use commitlog::log::common::Common;
use commitlog::log::partition::{Appended, LogConfig, Outcome, ProducerState};
use commitlog::log::reader::{LogReader, Slice, Until};
use tokio::sync::{Notify, watch};

use super::sync::SyncState;
use super::writer::{Writer, WriterState};
use super::{PartitionInfo, Shared, lock, read_lock};
use crate::telemetry::PartitionMetrics;

/// One partition of one topic.
pub struct Partition {
    pub(super) id: TopicPartition,
    pub(super) dir: PathBuf,
    pub(super) config: LogConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Mutex<WriterState>,
    /// The writer's generation, for who must not wait for its lock.
    pub(super) generation: AtomicU64,
    /// Replaced when the partition is opened again; `None` until it was opened once.
    pub(super) reader: RwLock<Option<LogReader>>,
    /// Why it is not open, where that is so. Apart from the writer, whose lock may be held long.
    pub(super) failure: Mutex<Option<String>>,
    pub(super) durable: watch::Sender<Offset>,
    /// Wakes in the order of waiting, which `watch` does not: a simulation must replay.
    pub(super) durable_grew: Notify,
    pub(super) sync: Mutex<SyncState>,
    /// Appended since an fsync began last.
    pub(super) unsynced_bytes: AtomicUsize,
    pub(super) metrics: PartitionMetrics,
}

/// Counts the writers that a partition has had.
///
/// A session keeps the generation it began with. When the writer failed since, appended batches may
/// be gone that the session believes are there; a producer that is unknown after the recovery may
/// start at any sequence, so appending its next batch would tear a hole. The generation refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(pub(super) u64);

/// Where a producer stands in a partition.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What to append with.
    pub generation: Generation,
    /// What is remembered of the producer; `None` for an unknown one.
    pub state: Option<ProducerState>,
}

impl Partition {
    /// Which partition this is.
    pub fn id(&self) -> &TopicPartition {
        &self.id
    }

    /// Appends one whole batch whose CRC the caller has verified; its offset is written into it.
    /// `generation` is the one that [`Partition::producer`] told.
    ///
    /// Errors tell what to do: `Retry`, the disk is full, the same batch may be offered later;
    /// `Closed`, batches that were appended and not yet durable may be gone, so the session must
    /// start over from [`Partition::producer`]; `Input`, the batch is wrong.
    pub async fn append(
        self: &Arc<Self>,
        generation: Generation,
        batch: &mut Vec<u8>,
    ) -> Result<Appended> {
        if let Some(appended) = self.append_in_place(generation, batch) {
            return appended;
        }
        let (partition, mut moved) = (Arc::clone(self), std::mem::take(batch));
        let append = move || {
            let now = (partition.shared.clock)();
            let state = partition.lock_writer();
            let appended = partition.append_now(state, generation, &mut moved, now);
            (appended, moved)
        };
        let appended;
        (appended, *batch) = self.shared.blocking.run(append).await;
        appended
    }

    /// Everything before this offset is fsynced. Never goes back.
    pub fn durable(&self) -> watch::Receiver<Offset> {
        self.durable.subscribe()
    }

    /// Waits until the durable end is past `seen`, and tells it.
    pub async fn durable_past(&self, seen: Offset) -> Offset {
        loop {
            let grew = self.durable_grew.notified();
            let durable = *self.durable.borrow();
            if durable > seen {
                return durable;
            }
            grew.await;
        }
    }

    /// What is remembered of a producer, and the generation to append with. Fails with `Retry`
    /// while the partition is being opened again.
    pub async fn producer(self: &Arc<Self>, id: ProducerId) -> Result<Standing> {
        let partition = Arc::clone(self);
        let look_up = move || {
            let state = partition.lock_writer();
            match &state.writer {
                Writer::Open(log) => Ok(Standing {
                    generation: state.generation,
                    state: log.producer(id),
                }),
                _ => Err(partition.not_open()),
            }
        };
        self.shared.blocking.run(look_up).await
    }

    /// What of a producer's batches, claimed by first sequence and CRC, the log holds.
    pub async fn common(
        &self,
        (id, epoch): (ProducerId, ProducerEpoch),
        claims: Vec<(Sequence, u32)>,
    ) -> Result<Option<Common>> {
        let reader = self.reader()?;
        let search = move || reader.common(id, epoch, &claims);
        Ok(self.shared.blocking.run(search).await)
    }

    /// Whether the writer of this generation still stands. What is durable is true of a generation's
    /// batches only if the generation stands **after** the watermark was read: the next one begins
    /// before it moves the watermark again.
    pub fn is_current(&self, generation: Generation) -> bool {
        self.generation.load(Ordering::SeqCst) == generation.0
    }

    /// A reader, for any thread that may wait for the disk.
    pub fn reader(&self) -> Result<LogReader> {
        read_lock(&self.reader)
            .clone()
            .ok_or_else(|| self.not_open())
    }

    /// Whole batches from `from` on, durable ones only.
    pub async fn read(&self, from: Offset, bytes_max: usize) -> Result<Slice> {
        let reader = self.reader()?;
        let read = move || reader.read(from, bytes_max, Until::Durable);
        self.shared.blocking.run(read).await
    }

    /// The first durable offset whose record is not older than `time`; `None` when all are older.
    pub async fn offset_at(&self, time: Timestamp) -> Result<Option<Offset>> {
        let reader = self.reader()?;
        let look_up = move || reader.offset_at(time);
        self.shared.blocking.run(look_up).await
    }

    /// What there is to tell.
    pub fn info(&self) -> PartitionInfo {
        let reader = read_lock(&self.reader).clone();
        let of = |offset: fn(&LogReader) -> Offset| reader.as_ref().map_or(Offset::ZERO, offset);
        let durable = *self.durable.borrow();
        PartitionInfo {
            partition: self.id.partition,
            start: of(LogReader::start),
            durable,
            appended: of(LogReader::end).max(durable),
            bytes: reader.as_ref().map_or(0, LogReader::bytes),
            segments: reader.as_ref().map_or(0, LogReader::segments),
            failure: self.failure(),
        }
    }

    /// Why the partition takes nothing at the moment, where that is so.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Appends right here when that is a copy into the page cache and nothing else: another thread would
    /// have to be woken, and fetch the batch from this processor's cache. `None`: it may have to wait.
    pub(super) fn append_in_place(
        self: &Arc<Self>,
        generation: Generation,
        batch: &mut [u8],
    ) -> Option<Result<Appended>> {
        let now = (self.shared.clock)();
        if self.shared.disk.may_wait(now) {
            return None;
        }
        let mut state = self.writer.try_lock().ok()?;
        let Writer::Open(log) = &mut state.writer else {
            return None;
        };
        if !log.only_writes(batch, now) {
            return None;
        }
        Some(self.append_now(state, generation, batch, now))
    }

    fn append_now(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, WriterState>,
        generation: Generation,
        batch: &mut [u8],
        now: Timestamp,
    ) -> Result<Appended> {
        let at = state.generation;
        let log = match &mut state.writer {
            Writer::Open(log) if at == generation => log,
            _ => return Err(self.opened_again()),
        };
        let began = Instant::now();
        let result = log.append(batch, now);
        self.shared.disk.wrote(began.elapsed(), now);
        match result {
            Ok(appended) => {
                drop(state);
                self.count(&appended, batch.len());
                if matches!(appended.outcome, Outcome::Appended) {
                    let bytes = batch.len();
                    self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed);
                    self.mark_dirty();
                }
                Ok(appended)
            }
            Err(error) => {
                self.append_failed(&mut state, &error, now);
                Err(error)
            }
        }
    }

    fn count(&self, appended: &Appended, bytes: usize) {
        let metrics = &self.metrics;
        match &appended.outcome {
            Outcome::Appended => {
                let records = appended.next_offset.get() - appended.base_offset.get();
                metrics.appended(bytes, u64::try_from(records).unwrap_or_default());
            }
            Outcome::Duplicate => metrics.duplicates.inc(),
            Outcome::Conflict { .. } => metrics.conflicts.inc(),
            Outcome::OutOfOrder { .. } => metrics.refused_out_of_order.inc(),
            Outcome::Fenced { .. } => metrics.refused_fenced.inc(),
        }
    }

    fn append_failed(&self, state: &mut WriterState, error: &Error, now: Timestamp) {
        match error.kind {
            ErrorKind::Retry => {
                self.metrics.refused_disk_full.inc();
                self.shared.disk.refused(now);
            }
            ErrorKind::Input => self.metrics.refused_invalid.inc(),
            ErrorKind::Damaged | ErrorKind::Closed => self.fail(state, error, now),
        }
    }

    /// Syncs what is appended now, and tells the new watermark; then has `rest` wait, which is told how
    /// many bytes that were. For the sync threads.
    pub(super) fn sync(self: &Arc<Self>, rest: impl FnOnce(usize)) {
        *lock(&self.sync) = SyncState::Running;
        let bytes = self.unsynced_bytes.swap(0, Ordering::Relaxed);
        self.sync_now();
        rest(bytes);
        let again = {
            let mut state = lock(&self.sync);
            let again = *state == SyncState::RunningDirty;
            *state = if again {
                SyncState::Queued
            } else {
                SyncState::Clean
            };
            again
        };
        if again {
            self.shared.dirty.push(Arc::clone(self));
        }
    }

    fn mark_dirty(self: &Arc<Self>) {
        let newly_queued = {
            let mut state = lock(&self.sync);
            let (next, newly_queued) = match *state {
                SyncState::Clean => (SyncState::Queued, true),
                SyncState::Queued => (SyncState::Queued, false),
                SyncState::Running | SyncState::RunningDirty => (SyncState::RunningDirty, false),
            };
            *state = next;
            newly_queued
        };
        if newly_queued {
            self.shared.dirty.push(Arc::clone(self));
        }
    }

    pub(super) fn sync_now(&self) {
        let (job, generation) = {
            let mut state = self.lock_writer();
            let generation = state.generation;
            let Writer::Open(log) = &mut state.writer else {
                return;
            };
            let Some(job) = log.start_sync() else {
                let durable = log.durable_end();
                drop(state);
                return self.publish(durable);
            };
            (job, generation)
        };
        let started = Instant::now();
        let done = job.run();
        self.metrics
            .fsync_seconds
            .observe(started.elapsed().as_secs_f64());
        let mut state = self.lock_writer();
        if state.generation != generation {
            return;
        }
        let Writer::Open(log) = &mut state.writer else {
            return;
        };
        match log.finish_sync(done) {
            Ok(durable) => {
                drop(state);
                self.publish(durable);
            }
            Err(error) => self.fail(&mut state, &error, (self.shared.clock)()),
        }
    }

    /// Deletes what retention allows to be deleted. Waits for the disk.
    pub(super) fn apply_retention(&self) {
        let now = (self.shared.clock)();
        let mut state = self.lock_writer();
        let Writer::Open(log) = &mut state.writer else {
            return;
        };
        let result = log.apply_retention(now);
        match result {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Retry => {
                tracing::warn!(partition = %self.id, %error, "retention waits");
            }
            Err(error) => self.fail(&mut state, &error, now),
        }
    }

    pub(super) fn publish(&self, durable: Offset) {
        self.durable.send_if_modified(|current| {
            let grows = durable > *current;
            if grows {
                *current = durable;
            }
            grows
        });
        self.durable_grew.notify_waiters();
    }
}
