//! How a partition's writer comes and goes: opened by recovery, closed by a failure, opened again with
//! backoff, closed for good at shutdown.
//!
//! Invariants: a writer that failed is never used again; each writer has a generation of its own, which
//! ends before the next one begins; a log that ends before what was told to be durable is not opened.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::{Offset, Timestamp, TopicPartition};
use commitlog::log::partition::{LogConfig, PartitionLog};
use commitlog::log::recovery::Recovery;
use tokio::sync::{Notify, watch};

use super::partition::{Generation, Partition};
use super::sync::SyncState;
use super::{Shared, lock};
use crate::limits::{REOPEN_BACKOFF_MAX_MS, REOPEN_BACKOFF_MIN_MS};

/// The writer, and which one it is.
pub(super) struct WriterState {
    pub(super) writer: Writer,
    pub(super) generation: Generation,
}

/// Where a partition's writer stands.
pub(super) enum Writer {
    /// It takes batches.
    Open(Box<PartitionLog>),
    /// It could not be opened, or an fsync or a write failed; it is tried again.
    Failed { attempts: u32, retry_at: Timestamp },
    /// The aggregator stops.
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
            unsynced_bytes: AtomicUsize::new(0),
        });
        partition.reopen_if_due();
        partition
    }

    /// Ends this writer; the partition is opened again after the backoff.
    pub(super) fn fail(&self, state: &mut WriterState, error: &Error, now: Timestamp) {
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

    pub(super) fn not_open(&self) -> Error {
        let why = self
            .failure()
            .unwrap_or_else(|| "not opened yet".to_owned());
        Error::new(
            ErrorKind::Retry,
            format!("partition {} is closed: {why}", self.id),
        )
    }

    pub(super) fn opened_again(&self) -> Error {
        let message = format!(
            "partition {} was opened again meanwhile; start over from its durable end",
            self.id
        );
        Error::new(ErrorKind::Closed, message)
    }

    /// A panic while the lock was held may have left the log half changed: it is opened again.
    pub(super) fn lock_writer(&self) -> MutexGuard<'_, WriterState> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            self.writer.clear_poison();
            let mut state = poisoned.into_inner();
            let error = Error::new(ErrorKind::Closed, "a panic interrupted its writer");
            self.fail(&mut state, &error, (self.shared.clock)());
            state
        })
    }
}
