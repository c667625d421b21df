//! One partition: its one writer behind a mutex, its reader, its durable watermark.
//!
//! States: open; failed (an fsync or a write failed, or it could not be opened), which ends by
//! opening it again; closed, at shutdown. A sync that ran against a writer that failed meanwhile is
//! told by the generation and changes nothing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicPartition};
use commitlog::log::common::Common;
use commitlog::log::partition::{Appended, LogConfig, Outcome, PartitionLog, ProducerState};
use commitlog::log::reader::{LogReader, Slice, Until};
use commitlog::log::recovery::Recovery;
use tokio::sync::{Notify, watch};

use super::sync::SyncState;
use super::{PartitionInfo, Shared, lock, read_lock};
use crate::limits::{REOPEN_BACKOFF_MAX_MS, REOPEN_BACKOFF_MIN_MS};
use crate::telemetry::PartitionMetrics;

/// One partition of one topic.
pub struct Partition {
    id: TopicPartition,
    dir: PathBuf,
    config: LogConfig,
    shared: Arc<Shared>,
    writer: Mutex<WriterState>,
    /// The writer's generation, for who must not wait for its lock.
    generation: AtomicU64,
    /// Replaced when the partition is opened again; `None` until it was opened once.
    reader: RwLock<Option<LogReader>>,
    /// Why it is not open, where that is so. Apart from the writer, whose lock may be held long.
    failure: Mutex<Option<String>>,
    durable: watch::Sender<Offset>,
    /// Wakes in the order of waiting, which `watch` does not: a simulation must replay.
    durable_grew: Notify,
    sync: Mutex<SyncState>,
    metrics: PartitionMetrics,
}

/// Counts the writers that a partition has had.
///
/// A session keeps the generation it began with. When the writer failed since, appended batches may
/// be gone that the session believes are there; a producer that is unknown after the recovery may
/// start at any sequence, so appending its next batch would tear a hole. The generation refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

/// Where a producer stands in a partition.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What to append with.
    pub generation: Generation,
    /// What is remembered of the producer; `None` for an unknown one.
    pub state: Option<ProducerState>,
}

struct WriterState {
    writer: Writer,
    generation: Generation,
}

enum Writer {
    Open(Box<PartitionLog>),
    Failed { attempts: u32, retry_at: Timestamp },
    Closed,
}

impl Partition {
    /// Opens the partition, by recovery. A failure is reported, and tried again later.
    pub(super) fn open(
        shared: &Arc<Shared>,
        id: TopicPartition,
        config: LogConfig,
    ) -> Arc<Partition> {
        let partition = Arc::new(Partition {
            dir: shared.config.log_dir.join(id.to_string()),
            metrics: shared.telemetry.partition(&id),
            id,
            config,
            shared: Arc::clone(shared),
            writer: Mutex::new(WriterState {
                writer: Writer::Failed {
                    attempts: 0,
                    retry_at: Timestamp(i64::MIN),
                },
                generation: Generation(0),
            }),
            generation: AtomicU64::new(0),
            reader: RwLock::new(None),
            failure: Mutex::new(None),
            durable: watch::Sender::new(Offset::ZERO),
            durable_grew: Notify::new(),
            sync: Mutex::new(SyncState::Clean),
        });
        partition.reopen_if_due();
        partition
    }

    /// Which partition this is.
    pub fn id(&self) -> &TopicPartition {
        &self.id
    }

    /// Appends one whole batch whose CRC the caller has verified. `generation` is the one that
    /// [`Partition::producer`] told.
    ///
    /// Errors tell what to do: `Retry`, the disk is full, the same batch may be offered later;
    /// `Closed`, batches that were appended and not yet durable may be gone, so the session must
    /// start over from [`Partition::producer`]; `Input`, the batch is wrong.
    pub async fn append(
        self: &Arc<Self>,
        generation: Generation,
        batch: Bytes,
    ) -> Result<Appended> {
        let partition = Arc::clone(self);
        let append = move || partition.append_now(generation, batch);
        self.shared.blocking.run(append).await
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

    fn append_now(self: &Arc<Self>, generation: Generation, batch: Bytes) -> Result<Appended> {
        // No copy unless other handles to the same buffer are alive.
        let mut batch = BytesMut::from(batch);
        let now = (self.shared.clock)();
        let mut state = self.lock_writer();
        let at = state.generation;
        let log = match &mut state.writer {
            Writer::Open(log) if at == generation => log,
            _ => return Err(self.opened_again()),
        };
        let result = log.append(&mut batch, now);
        match result {
            Ok(appended) => {
                drop(state);
                self.count(&appended, batch.len());
                if matches!(appended.outcome, Outcome::Appended) {
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

    /// Ends this writer; the partition is opened again after the backoff.
    fn fail(&self, state: &mut WriterState, error: &Error, now: Timestamp) {
        let attempts = match state.writer {
            Writer::Open(_) => {
                self.metrics.failures.inc();
                0
            }
            Writer::Failed { attempts, .. } => attempts + 1,
            Writer::Closed => return,
        };
        let wait = (REOPEN_BACKOFF_MIN_MS << attempts.min(16)).min(REOPEN_BACKOFF_MAX_MS);
        self.end_generation(state);
        state.writer = Writer::Failed {
            attempts,
            retry_at: Timestamp(now.0.saturating_add(wait)),
        };
        tracing::error!(
            partition = %self.id, error = %error, retry_in_ms = wait,
            "partition closed; it is opened again by recovery"
        );
        *lock(&self.failure) = Some(error.message.clone());
    }

    fn end_generation(&self, state: &mut WriterState) {
        state.generation.0 += 1;
        self.generation.store(state.generation.0, Ordering::SeqCst);
    }

    /// Opens the partition again when it has failed and its time has come. Waits for the disk.
    pub(super) fn reopen_if_due(&self) {
        let now = (self.shared.clock)();
        let mut state = self.lock_writer();
        match state.writer {
            Writer::Failed { retry_at, .. } if now >= retry_at => {}
            _ => return,
        }
        let storage = Arc::clone(&self.shared.storage);
        let opened =
            PartitionLog::open(storage, &self.dir, self.config, now).and_then(|(log, recovery)| {
                self.check_nothing_durable_is_gone(log)
                    .map(|log| (log, recovery))
            });
        match opened {
            Ok((log, recovery)) => {
                self.tell(&recovery);
                *self.reader.write().unwrap_or_else(PoisonError::into_inner) = Some(log.reader());
                let durable = log.durable_end();
                state.writer = Writer::Open(Box::new(log));
                *lock(&self.failure) = None;
                drop(state);
                self.publish(durable);
            }
            Err(error) => self.fail(&mut state, &error, now),
        }
    }

    /// Says once what opening the log found.
    fn tell(&self, recovery: &Recovery) {
        let lost: i64 = recovery
            .gaps
            .iter()
            .map(|gap| gap.to.get() - gap.from.get())
            .sum();
        self.metrics
            .damaged_records
            .inc_by(u64::try_from(lost).unwrap_or_default());
        for gap in &recovery.gaps {
            tracing::error!(
                partition = %self.id, from = %gap.from, to = %gap.to, reason = gap.reason,
                "damaged records; all others stay readable"
            );
        }
        if recovery.bytes_cut > 0 || !recovery.notes.is_empty() {
            tracing::warn!(
                partition = %self.id, batches = recovery.batches, bytes_cut = recovery.bytes_cut,
                notes = recovery.notes.join("; "), "recovered"
            );
        }
    }

    /// Refuses a log that ends before what consumers were told is durable: going on would give
    /// their offsets out again for other data.
    fn check_nothing_durable_is_gone(&self, log: PartitionLog) -> Result<PartitionLog> {
        let published = *self.durable.borrow();
        if log.durable_end() >= published {
            return Ok(log);
        }
        Err(Error::damaged(format!(
            "{}: the log ends at offset {} although it was fsynced up to {published}: \
             the disk has lost data; check it, then start again",
            self.dir.display(),
            log.durable_end(),
        )))
    }

    /// Syncs what is appended now, and tells the new watermark. For the sync threads.
    pub(super) fn sync(self: &Arc<Self>) {
        *lock(&self.sync) = SyncState::Running;
        self.sync_now();
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

    fn sync_now(&self) {
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

    /// Syncs and closes cleanly. Nothing is taken afterwards. Waits for the disk.
    pub(super) fn close(&self) {
        self.sync_now();
        let mut state = self.lock_writer();
        self.end_generation(&mut state);
        let writer = std::mem::replace(&mut state.writer, Writer::Closed);
        *lock(&self.failure) = Some("the aggregator is stopping".to_owned());
        if let Writer::Open(log) = writer
            && let Err(error) = log.close()
        {
            tracing::error!(partition = %self.id, %error, "not closed cleanly; recovery will run");
        }
    }

    fn publish(&self, durable: Offset) {
        self.durable.send_if_modified(|current| {
            let grows = durable > *current;
            if grows {
                *current = durable;
            }
            grows
        });
        self.durable_grew.notify_waiters();
    }

    fn not_open(&self) -> Error {
        let why = self
            .failure()
            .unwrap_or_else(|| "not opened yet".to_owned());
        Error::new(
            ErrorKind::Retry,
            format!("partition {} is closed: {why}", self.id),
        )
    }

    fn opened_again(&self) -> Error {
        let message = format!(
            "partition {} was closed since this session began; start over from its durable end",
            self.id
        );
        Error::new(ErrorKind::Closed, message)
    }

    /// A panic while the lock was held may have left the log half changed: it is opened again.
    fn lock_writer(&self) -> std::sync::MutexGuard<'_, WriterState> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            self.writer.clear_poison();
            let mut state = poisoned.into_inner();
            let error = Error::new(ErrorKind::Closed, "a panic interrupted its writer");
            self.fail(&mut state, &error, (self.shared.clock)());
            state
        })
    }
}
