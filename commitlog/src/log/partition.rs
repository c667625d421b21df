//! The one writer of a partition's log.
//!
//! ```text
//! append ─ write ─▶ end        (one write, no fsync: the batch is in the page cache)
//! start_sync ─ SyncJob::run ─ finish_sync ─▶ durable end   (while it runs, appends go on)
//! ```
//!
//! The writer is plain and passive: whoever owns it calls [`PartitionLog::start_sync`], runs the job on
//! any thread, and hands the result back. One job runs at a time, so the next one gathers all that was
//! appended meanwhile: group commit without a timer.
//!
//! Invariants:
//! - **I2** what is before the durable end was fsynced before anybody was told.
//! - **I4** after a failed write or fsync nothing more is written or acknowledged until the log is opened
//!   again, and that file is never fsynced again: the kernel has dropped the dirty pages and would lie.
//! - **I5** a full disk is an error that passes: the torn bytes are cut, the log stays as it was.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::batch::header::{BatchHeader, patch};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::storage::{Storage, write_all_at};

use super::checkpoint::take_mark;
use super::producer_state::{KnownBatch, Producers, Verdict};
use super::reader::LogReader;
use super::recovery::{self, Recovery};
use super::segment::{Flush, Flushed, SegmentWriter};
use super::shared::Shared;

/// When segments are rolled and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment that would grow past it is sealed. Capped by
    /// [`SEGMENT_BYTES_LIMIT`](crate::limits::SEGMENT_BYTES_LIMIT).
    pub segment_bytes_max: u64,
    /// A segment whose first batch is older is sealed at the next append.
    pub segment_age_max_ms: i64,
    /// The oldest segments go while the others hold at least this much; `None` keeps all.
    pub retention_bytes: Option<u64>,
    /// A segment goes when its last batch was appended longer ago; `None` keeps all.
    pub retention_ms: Option<i64>,
}

impl Default for LogConfig {
    /// 256 MiB or an hour a segment, nothing dropped.
    fn default() -> LogConfig {
        LogConfig {
            segment_bytes_max: 256 * 1024 * 1024,
            segment_age_max_ms: 60 * 60 * 1000,
            retention_bytes: None,
            retention_ms: None,
        }
    }
}

/// The writer of one partition. See the module.
pub struct PartitionLog {
    pub(super) shared: Arc<Shared>,
    pub(super) config: LogConfig,
    pub(super) segment: SegmentWriter,
    pub(super) producers: Producers,
    /// Appended and not yet durable, in order.
    pub(super) pending: VecDeque<Pending>,
    /// The `.snapshot` files that exist.
    pub(super) snapshots: BTreeSet<Offset>,
    pub(super) sync_runs: bool,
    /// Why no more can be written.
    pub(super) closed: Option<String>,
}

/// An append that waits for its fsync.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) next_offset: Offset,
    pub(super) producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The first record's offset; of a duplicate, the one it got the first time. For a batch that was not
    /// taken, the log's end.
    pub base_offset: Offset,
    /// The offset after the last record.
    pub next_offset: Offset,
    /// Whether and why.
    pub outcome: Outcome,
}

/// Whether a batch was appended, and why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was.
    Appended,
    /// It was appended before; nothing is to be done.
    Duplicate,
    /// The log has other content under the same producer, epoch and sequence: two machines use one
    /// producer id. Send it again under a new one.
    Conflict {
        /// The sequence of the batch that the log has.
        base_sequence: Sequence,
        /// And its CRC, where it can still be read.
        crc: Option<u32>,
    },
    /// A batch before it is missing.
    OutOfOrder {
        /// The sequence to go on with.
        expected: Sequence,
    },
    /// A later epoch of the producer has appended.
    Fenced {
        /// That epoch.
        current: ProducerEpoch,
    },
}

/// What the log knows of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerState {
    /// Its generation.
    pub epoch: ProducerEpoch,
    /// The sequence of its next batch.
    pub next_sequence: Sequence,
    /// The sequence after its last fsynced record.
    pub durable_sequence: Sequence,
    /// Its last batch, unless that is no longer in the log or damaged.
    pub last: Option<LastBatch>,
}

/// The last batch of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastBatch {
    /// Its first record's sequence.
    pub base_sequence: Sequence,
    /// Its CRC.
    pub crc: u32,
}

impl PartitionLog {
    /// Opens the log in `dir`, creating it when absent, and recovers what a crash left behind. Fails
    /// only when the disk refuses to read or write, never for what it holds.
    pub fn open(
        storage: Arc<dyn Storage>,
        dir: &Path,
        config: LogConfig,
        now: Timestamp,
    ) -> Result<(PartitionLog, Recovery)> {
        recovery::open(storage, dir, config, now)
    }

    /// Appends a batch whose CRC the caller has verified, giving it the next offsets: its base offset and
    /// leader epoch are patched. It is durable when [`PartitionLog::durable_end`] has passed it.
    pub fn append(&mut self, batch: &mut [u8], now: Timestamp) -> Result<Appended> {
        self.check_open()?;
        let header = whole(batch)?;
        if let Some(refused) = self.judge(&header, now) {
            return Ok(refused);
        }
        self.place(batch, now)
    }

    /// As [`PartitionLog::append`], for the owner of the log, who counts sequences by this log's own
    /// offsets: then nothing can be a retry. What the log knows of its producers may lie behind its end,
    /// where damage has taken the last batches, and is not asked.
    pub fn append_own(&mut self, batch: &mut [u8], now: Timestamp) -> Result<Appended> {
        self.check_open()?;
        whole(batch)?;
        self.place(batch, now)
    }

    /// Gives a batch the next offsets and writes it.
    fn place(&mut self, batch: &mut [u8], now: Timestamp) -> Result<Appended> {
        let have = batch.len();
        if self.segment.must_roll(&self.config, have as u64, now) {
            self.roll(now)?;
        }
        let base = self.end();
        patch(batch, base);
        let header = BatchHeader::parse(batch)?;
        self.write(batch)?;
        self.admit(&header, now);
        Ok(Appended {
            base_offset: base,
            next_offset: header.next_offset(),
            outcome: Outcome::Appended,
        })
    }

    /// Whether [`append`](Self::append) would only write `batch` behind the last one: no segment is sealed
    /// for it, nothing is read back.
    pub fn only_writes(&mut self, batch: &[u8], now: Timestamp) -> bool {
        let Ok(header) = BatchHeader::parse(batch) else {
            return false;
        };
        let is_next = header
            .producer
            .is_none_or(|it| self.producers.judge(it, &header, now) == Verdict::Next);
        let bytes = header.total_bytes() as u64;
        is_next && self.closed.is_none() && !self.segment.must_roll(&self.config, bytes, now)
    }

    /// Begins to make durable what was appended. `None` when nothing waits, or a job already runs.
    pub fn start_sync(&mut self) -> Option<SyncJob> {
        if self.closed.is_some() || self.sync_runs || self.durable_end() == self.end() {
            return None;
        }
        let job = SyncJob {
            shared: self.shared.clone(),
            target: self.end(),
            flush: self.segment.flush(&self.producers),
        };
        self.sync_runs = true;
        #[cfg(mutant = "ack_before_fsync")]
        self.make_durable(self.end());
        Some(job)
    }

    /// Takes a job's result in. The durable end it answers only grows. After an error the log is closed.
    ///
    /// The job of a log that was closed says nothing of the one that was opened in its place.
    pub fn finish_sync(&mut self, done: SyncDone) -> Result<Offset> {
        if !Arc::ptr_eq(&done.shared, &self.shared) {
            return Ok(self.durable_end());
        }
        self.sync_runs = false;
        self.check_open()?;
        match done.result {
            Ok(flushed) => {
                self.take_flushed(&flushed);
                self.make_durable(done.target);
                Ok(self.durable_end())
            }
            #[cfg(mutant = "retry_failed_fsync")]
            Err(_) => {
                self.shared
                    .state()
                    .active
                    .file
                    .sync()
                    .map_err(|e| Error::io("sync", e))?;
                self.make_durable(done.target);
                Ok(self.durable_end())
            }
            #[cfg(not(mutant = "retry_failed_fsync"))]
            Err(error) => Err(self.close_for(error)),
        }
    }

    /// Makes everything durable, and the log quick to open.
    pub fn close(mut self) -> Result<()> {
        self.check_open()?;
        let mark = self.harden()?;
        let start = self.start();
        let update = self.shared.checkpoint.update(|content| {
            if let Some(mark) = mark {
                take_mark(content, mark);
            }
            content.start = content.start.max(start);
        });
        update.map_err(|error| self.close_for(error))
    }

    /// A reader of this log.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// The first offset that is kept.
    pub fn start(&self) -> Offset {
        self.shared.state().start
    }

    /// The offset that the next appended record gets.
    pub fn end(&self) -> Offset {
        self.shared.state().end
    }

    /// All before it is fsynced.
    pub fn durable_end(&self) -> Offset {
        self.shared.state().durable
    }

    /// The bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.shared.state().bytes()
    }

    /// Where each segment ends and how many bytes it has, in order; the last is being written.
    pub fn segments(&self) -> Vec<(Offset, u64)> {
        let state = self.shared.state();
        let sealed = state.sealed.values();
        let mut segments: Vec<_> = sealed.map(|segment| (segment.end, segment.bytes)).collect();
        segments.push((state.end, state.active.grown().position));
        segments
    }

    /// What is known of a producer.
    pub fn producer(&self, id: ProducerId) -> Option<ProducerState> {
        let known = self.producers.find(id)?;
        let last = known.batches.back().and_then(|last| {
            let crc = last.crc.or_else(|| self.read_crc(id, last))?;
            Some(LastBatch {
                base_sequence: last.base_sequence,
                crc,
            })
        });
        Some(ProducerState {
            epoch: known.epoch,
            next_sequence: known.next,
            durable_sequence: known.durable,
            last,
        })
    }

    /// What to answer for a batch that is not to be appended.
    fn judge(&mut self, header: &BatchHeader, now: Timestamp) -> Option<Appended> {
        let producer = header.producer?;
        let mut verdict = self.producers.judge(producer, header, now);
        if verdict == Verdict::Recall {
            self.recall(producer.id);
            verdict = self.producers.judge(producer, header, now);
        }
        let end = self.end();
        let refused = |outcome| Appended {
            base_offset: end,
            next_offset: end,
            outcome,
        };
        match verdict {
            Verdict::Next => None,
            Verdict::Duplicate(batch) => Some(Appended {
                base_offset: batch.base_offset,
                next_offset: batch.next_offset(),
                outcome: Outcome::Duplicate,
            }),
            Verdict::Conflict(batch) => Some(refused(Outcome::Conflict {
                base_sequence: batch.base_sequence,
                crc: batch.crc,
            })),
            Verdict::OutOfOrder(expected) => Some(refused(Outcome::OutOfOrder { expected })),
            Verdict::Fenced(current) => Some(refused(Outcome::Fenced { current })),
            Verdict::Recall => {
                let expected = self.producers.find(producer.id)?.next;
                Some(refused(Outcome::OutOfOrder { expected }))
            }
        }
    }

    /// Writes a patched batch behind the last one.
    fn write(&mut self, batch: &[u8]) -> Result<()> {
        let position = self.segment.position();
        let file = self.segment.active.file.clone();
        let Err(error) = write_all_at(file.as_ref(), batch, position) else {
            return Ok(());
        };
        let path = self.segment.path(&self.shared.dir);
        let context = format!("cannot append at position {position} of {path}");
        if !is_full(&error) {
            return Err(self.close_for(Error::io(context, error)));
        }
        // The next batch may be shorter than what was torn: nothing of it may stay behind.
        match file.truncate(position).and_then(|()| file.sync()) {
            Ok(()) => Err(Error::io(context, error)),
            Err(error) => {
                let context = format!("cannot cut a torn batch at position {position} of {path}");
                Err(self.close_for(Error::io(context, error)))
            }
        }
    }

    /// Takes a batch in that was written.
    fn admit(&mut self, header: &BatchHeader, now: Timestamp) {
        self.segment.push(header, now);
        self.producers.admit(header, now);
        let producer = header.producer.zip(header.next_sequence());
        self.pending.push_back(Pending {
            next_offset: header.next_offset(),
            producer: producer.map(|(producer, next)| (producer.id, producer.epoch, next)),
        });
        self.shared.state_mut().end = header.next_offset();
    }

    pub(super) fn take_flushed(&mut self, flushed: &Flushed) {
        self.segment.flushed(flushed);
        if let Some((_, end)) = flushed.marked {
            self.keep_snapshot(end);
        }
    }

    /// Everything before `target` is durable.
    pub(super) fn make_durable(&mut self, target: Offset) {
        while let Some(pending) = self.pending.front().filter(|p| p.next_offset <= target) {
            if let Some((id, epoch, next)) = pending.producer
                && let Some(known) = self.producers.find_mut(id)
                && known.epoch == epoch
            {
                known.durable = next;
            }
            self.pending.pop_front();
        }
        let mut state = self.shared.state_mut();
        state.durable = state.durable.max(target);
    }

    /// Fills in what a producer appended before the log was opened, from the log.
    fn recall(&mut self, id: ProducerId) {
        let Some(known) = self.producers.find(id) else {
            return;
        };
        let (epoch, batches) = (known.epoch, known.batches.clone());
        let recalled = super::recall::recall(&self.reader(), id, epoch, batches);
        if let Some(known) = self.producers.find_mut(id) {
            known.batches = recalled;
            known.incomplete = false;
        }
    }

    fn read_crc(&self, id: ProducerId, batch: &KnownBatch) -> Option<u32> {
        let header = self.reader().header_at(batch.base_offset)?;
        let producer = header.producer?;
        let same = producer.id == id && producer.base_sequence == batch.base_sequence;
        same.then_some(header.crc)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        match &self.closed {
            None => Ok(()),
            Some(why) => {
                let dir = self.shared.dir.display();
                let message = format!("{dir} takes no more until it is opened again: {why}");
                Err(Error::new(ErrorKind::Closed, message))
            }
        }
    }

    /// Closes the writer because of `error`, and answers it as the reason.
    pub(super) fn close_for(&mut self, mut error: Error) -> Error {
        error.kind = ErrorKind::Closed;
        self.closed.get_or_insert_with(|| error.message.clone());
        error
    }
}

/// An fsync that waits to be run, on any thread.
pub struct SyncJob {
    shared: Arc<Shared>,
    target: Offset,
    flush: Flush,
}

/// The result of a [`SyncJob`].
pub struct SyncDone {
    /// The log that was fsynced: another one may have been opened in its place meanwhile.
    shared: Arc<Shared>,
    target: Offset,
    result: Result<Flushed>,
}

impl SyncJob {
    /// Fsyncs, then enters what is durable now into the index. Appends may go on meanwhile.
    pub fn run(self) -> SyncDone {
        let result = self.flush.run(&self.shared);
        SyncDone {
            shared: self.shared,
            target: self.target,
            result,
        }
    }
}

/// The header of a batch that is here as a whole.
fn whole(batch: &[u8]) -> Result<BatchHeader> {
    let header = BatchHeader::parse(batch)?;
    let (stated, have) = (header.total_bytes(), batch.len());
    if stated != have {
        return Err(Error::input(format!(
            "batch says it has {stated} bytes, {have} are here"
        )));
    }
    Ok(header)
}

/// Whether the disk is full: waiting helps.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
