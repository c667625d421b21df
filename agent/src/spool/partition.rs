//! One destination's part of the spool: its log, its last batches, and the account of what is
//! acknowledged.
//!
//! A log whose write or fsync failed is opened again: it ends at what was durable, and the batches
//! after that are appended anew from memory, at the same offsets. So a failing disk costs time, never
//! a record.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use commitlog::batch::header::{self, BatchHeader, Producer};
use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use commitlog::log::partition::{LogConfig, PartitionLog, SyncDone, SyncJob};
use commitlog::log::reader::{Gap, LogReader, Until};
use commitlog::storage::Storage;

use super::recent::Recent;
use super::{Fill, SpoolRange, Taken, lock};
use crate::limits::SPOOL_MARK_BYTES;

/// What opening a log takes.
pub(crate) struct Place {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) dir: PathBuf,
    pub(crate) config: LogConfig,
    /// Shared by all partitions of a spool.
    pub(crate) unsynced_bytes: Arc<AtomicUsize>,
}

/// Whose batches these are to aggregators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

pub(crate) struct Partition {
    place: Place,
    /// `None` after a failure, until it can be opened again. May be held while the disk is waited for;
    /// taken before `held`, never the other way round.
    log: Mutex<Option<PartitionLog>>,
    /// Never held while the disk is waited for: async threads take it.
    held: Mutex<Held>,
}

struct Held {
    reader: LogReader,
    end: Offset,
    durable_end: Offset,
    recent: Recent,
    acknowledged: Offset,
    /// The ends of runs of unacknowledged batches, with the bytes of each run.
    marks: VecDeque<(Offset, u64)>,
    unacknowledged_bytes: u64,
    /// A durable snapshot holds the positions of everything before this.
    folded: Offset,
    trimmed: Offset,
    disk_bytes: u64,
}

impl Owner {
    /// The producer that a batch at `offset` bears.
    pub(crate) fn producer(self, offset: Offset) -> Producer {
        Producer {
            id: self.id,
            epoch: self.epoch,
            base_sequence: Sequence::of_spool_offset(offset),
        }
    }

    /// The same for a batch that others may read too.
    fn own(self, batch: Bytes) -> Result<Bytes> {
        let header = BatchHeader::parse(&batch)?;
        if header.producer == Some(self.producer(header.base_offset)) {
            return Ok(batch);
        }
        let mut batch = batch.to_vec();
        self.stamp(&mut batch, header.base_offset)?;
        Ok(Bytes::from(batch))
    }

    /// Gives the batch at `offset` to this owner, unless it is his.
    fn stamp(self, batch: &mut [u8], offset: Offset) -> Result<()> {
        let producer = self.producer(offset);
        if BatchHeader::parse(batch)?.producer != Some(producer) {
            header::restamp(batch, producer);
        }
        Ok(())
    }
}

impl Partition {
    /// Opens the log in `place`. What lies before `acknowledged` is not sent again.
    pub(crate) fn open(place: Place, acknowledged: Offset, now: Timestamp) -> Result<Partition> {
        let log = open_log(&place, now)?;
        let start = log.start();
        let acknowledged = acknowledged.clamp(start, log.durable_end());
        // Within the first of these lies what is acknowledged: its bytes count as a whole until all are.
        let left = log.segments().into_iter();
        let marks: VecDeque<_> = left.filter(|(end, _)| *end > acknowledged).collect();
        let held = Held {
            reader: log.reader(),
            end: log.end(),
            durable_end: log.durable_end(),
            recent: Recent::new(place.unsynced_bytes.clone()),
            acknowledged,
            unacknowledged_bytes: marks.iter().map(|(_, bytes)| bytes).sum(),
            marks,
            folded: start,
            trimmed: start,
            disk_bytes: log.bytes(),
        };
        Ok(Partition {
            place,
            log: Mutex::new(Some(log)),
            held: Mutex::new(held),
        })
    }

    pub(crate) fn range(&self) -> SpoolRange {
        let held = self.held();
        SpoolRange {
            start: held.acknowledged,
            durable_end: held.durable_end,
            end: held.end,
        }
    }

    pub(crate) fn fill(&self) -> Fill {
        let held = self.held();
        let records = held.end.get() - held.acknowledged.get();
        Fill {
            unacknowledged_bytes: held.unacknowledged_bytes,
            unacknowledged_records: u64::try_from(records).unwrap_or(0),
            disk_bytes: held.disk_bytes,
        }
    }

    /// The same as [`read`](Self::read) where memory has it; `None` where the disk must be asked.
    pub(crate) fn read_recent(
        &self,
        from: Offset,
        bytes_max: usize,
        owner: Owner,
    ) -> Option<Result<Vec<Bytes>>> {
        let batches = self.held().recent.read(from, bytes_max)?;
        Some(batches.into_iter().map(|batch| owner.own(batch)).collect())
    }

    /// Durable batches from `from` on, each in the name of `owner`.
    pub(crate) fn read(
        &self,
        mut from: Offset,
        bytes_max: usize,
        owner: Owner,
    ) -> Result<Vec<Bytes>> {
        if let Some(recent) = self.read_recent(from, bytes_max, owner) {
            return recent;
        }
        let reader = {
            let held = self.held();
            if from >= held.durable_end {
                return Ok(Vec::new());
            }
            held.reader.clone()
        };
        let mut slice = reader.read(from, bytes_max, Until::Durable)?;
        // One read passes only so many damaged batches.
        while slice.batches.is_empty() && slice.next > from {
            from = slice.next;
            slice = reader.read(from, bytes_max, Until::Durable)?;
        }
        let mut bytes = slice.batches;
        let mut ends = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let header = BatchHeader::parse(&bytes[at..])?;
            let end = (at + header.total_bytes()).min(bytes.len());
            owner.stamp(&mut bytes[at..end], header.base_offset)?;
            ends.push(at..end);
            at = end;
        }
        let bytes = Bytes::from(bytes);
        Ok(ends.into_iter().map(|range| bytes.slice(range)).collect())
    }

    /// Replays what is written from `from` on, in pieces of about `bytes_max`; answers what could not be
    /// read, also a second time.
    pub(crate) fn replay(
        &self,
        from: Offset,
        bytes_max: usize,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Unread> {
        let (reader, end) = {
            let held = self.held();
            (held.reader.clone(), held.end)
        };
        let mut unread = Unread::default();
        let mut from = from.max(reader.start());
        while from < end {
            let mut slice = reader.read(from, bytes_max, Until::Appended)?;
            if !slice.gaps.is_empty() {
                // What the disk did not give for a moment is sent later: its positions must be known.
                slice = reader.read(from, bytes_max, Until::Appended)?;
            }
            for gap in slice.gaps {
                unread.records += u64::try_from(gap.to.get() - gap.from.get()).unwrap_or(0);
                unread.first.get_or_insert(gap);
            }
            let mut rest = &slice.batches[..];
            while !rest.is_empty() {
                let header = BatchHeader::parse(rest)?;
                let (batch, more) = rest.split_at(header.total_bytes().min(rest.len()));
                each(batch);
                rest = more;
            }
            if slice.next <= from {
                break;
            }
            from = slice.next;
        }
        Ok(unread)
    }

    /// Appends one batch, in the name of `owner`. `then` runs under the same lock when it is written.
    pub(crate) fn append(
        &self,
        batch: &mut Vec<u8>,
        owner: Owner,
        now: Timestamp,
        then: impl FnOnce(),
    ) -> Result<Taken> {
        let mut writer = self.log();
        if self.held().recent.is_full() {
            return Ok(Taken::Wait);
        }
        let Some(log) = &mut *writer else {
            return Ok(Taken::Wait);
        };
        owner.stamp(batch, log.end())?;
        let appended = match log.append_own(batch, now) {
            Ok(appended) => appended,
            Err(error) => return refuse(&mut writer, error),
        };
        let bytes = std::mem::take(batch);
        let mut held = self.held();
        held.disk_bytes = log.bytes();
        held.end = appended.next_offset;
        held.account(appended.next_offset, bytes.len() as u64);
        held.recent.push(appended.base_offset, Bytes::from(bytes));
        then();
        Ok(Taken::Yes)
    }

    /// Frees everything before `upto`; whether that was anything.
    pub(crate) fn acknowledge(&self, upto: Offset) -> bool {
        let mut held = self.held();
        let upto = upto.min(held.durable_end);
        if upto <= held.acknowledged {
            return false;
        }
        held.acknowledged = upto;
        held.recent.forget_before(upto);
        while let Some(&(end, bytes)) = held.marks.front() {
            if end > upto {
                break;
            }
            held.marks.pop_front();
            held.unacknowledged_bytes -= bytes;
        }
        true
    }

    /// The fsync that is due, if anything was written since the last.
    pub(crate) fn start_sync(&self) -> Option<SyncJob> {
        self.log().as_mut()?.start_sync()
    }

    /// Takes in what is durable without an fsync of its own: sealing a segment brings one, also when the
    /// append that it was for then fails. Whether there was anything.
    pub(crate) fn take_durable(&self) -> bool {
        let writer = self.log();
        let Some(log) = &*writer else {
            return false;
        };
        let mut held = self.held();
        let is_news = log.durable_end() > held.durable_end;
        if is_news {
            held.durable(log.durable_end());
        }
        is_news
    }

    /// What the fsync came to.
    pub(crate) fn finish_sync(&self, done: SyncDone) -> Result<()> {
        let mut writer = self.log();
        let Some(log) = &mut *writer else {
            return Ok(());
        };
        match log.finish_sync(done) {
            Ok(end) => {
                self.held().durable(end);
                Ok(())
            }
            Err(error) => {
                *writer = None;
                Err(error)
            }
        }
    }

    /// Opens a failed log again and appends what was not yet durable. Whether it works now.
    pub(crate) fn reopen(&self, now: Timestamp) -> Result<bool> {
        let mut writer = self.log();
        if writer.is_some() {
            return Ok(false);
        }
        let mut log = open_log(&self.place, now)?;
        let durable_end = self.held().durable_end;
        if log.end() < durable_end {
            return Err(Error::damaged(format!(
                "{}: ends at {}, but everything before {durable_end} was durable",
                self.place.dir.display(),
                log.end(),
            )));
        }
        let unsynced: Vec<(Offset, Bytes)> = {
            let mut held = self.held();
            held.durable(log.end());
            held.recent.unsynced().cloned().collect()
        };
        for (base, batch) in unsynced {
            debug_assert_eq!(base, log.end());
            log.append_own(&mut batch.to_vec(), now)?;
        }
        let mut held = self.held();
        held.reader = log.reader();
        held.disk_bytes = log.bytes();
        *writer = Some(log);
        Ok(true)
    }

    /// The end, for a snapshot that is about to be taken.
    pub(crate) fn end(&self) -> Offset {
        self.held().end
    }

    /// A durable snapshot holds the positions of everything before `upto`.
    pub(crate) fn folded(&self, upto: Offset) {
        let mut held = self.held();
        held.folded = held.folded.max(upto);
    }

    /// What could be trimmed, and what once a snapshot covers it.
    pub(crate) fn trimmable(&self) -> Trimmable {
        let held = self.held();
        let is_acknowledged = held.acknowledged >= held.end && held.disk_bytes > 0;
        Trimmable {
            now: held.acknowledged.min(held.folded) > held.trimmed,
            after_snapshot: held.acknowledged > held.folded,
            whole: is_acknowledged && held.folded >= held.end,
            disk_bytes: held.disk_bytes.saturating_sub(held.unacknowledged_bytes),
        }
    }

    /// Whether a whole segment is acknowledged, or all there is.
    pub(crate) fn gives_room(&self) -> bool {
        let held = self.held();
        let sealed_end = held.reader.first_sealed_end();
        sealed_end.is_some_and(|end| end <= held.acknowledged) || held.acknowledged >= held.end
    }

    /// Frees the segments that are acknowledged and whose positions are in a snapshot.
    pub(crate) fn trim(&self, active: ActiveSegment, now: Timestamp) -> Result<()> {
        let mut writer = self.log();
        let Some(log) = &mut *writer else {
            return Ok(());
        };
        let upto = {
            let held = self.held();
            held.acknowledged.min(held.folded)
        };
        let sealed = match active {
            ActiveSegment::Free if upto >= log.end() => log.seal(now),
            ActiveSegment::Free | ActiveSegment::Keep => Ok(()),
        };
        if let Err(error) = sealed.and_then(|()| log.trim(upto)) {
            // A closed log has no fsync that is due, though what it took last may not be durable.
            if error.kind == ErrorKind::Closed {
                *writer = None;
            }
            return Err(error);
        }
        let bytes = log.bytes();
        {
            let mut held = self.held();
            held.disk_bytes = bytes;
            held.trimmed = upto;
        }
        if active == ActiveSegment::Free {
            // A journalling file system gives the blocks of a file back once its name is durably gone.
            let dir = &self.place.dir;
            let synced = self.place.storage.sync_dir(dir);
            synced.map_err(|error| Error::io(format!("sync {}", dir.display()), error))?;
        }
        Ok(())
    }

    /// The first offset that is not acknowledged.
    pub(crate) fn acknowledged(&self) -> Offset {
        self.held().acknowledged
    }

    /// Closes the log cleanly.
    pub(crate) fn close(&self) -> Result<()> {
        match self.log().take() {
            Some(log) => log.close(),
            None => Ok(()),
        }
    }

    fn log(&self) -> MutexGuard<'_, Option<PartitionLog>> {
        lock(&self.log)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }
}

/// What a replay could not read.
#[derive(Debug, Default)]
pub(crate) struct Unread {
    pub(crate) records: u64,
    pub(crate) first: Option<Gap>,
}

/// What there is to trim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trimmable {
    pub(crate) now: bool,
    pub(crate) after_snapshot: bool,
    /// Nothing of the partition is needed any more, and all of it could go now.
    pub(crate) whole: bool,
    /// Bytes on disk that nobody needs any more.
    pub(crate) disk_bytes: u64,
}

/// What becomes of the segment being written when nothing of it is needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ActiveSegment {
    /// It is written on.
    Keep,
    /// It goes, for its room; the next begins.
    Free,
}

impl Held {
    fn account(&mut self, end: Offset, bytes: u64) {
        self.unacknowledged_bytes += bytes;
        match self.marks.back_mut() {
            Some(last) if last.1 < SPOOL_MARK_BYTES => *last = (end, last.1 + bytes),
            _ => self.marks.push_back((end, bytes)),
        }
    }

    fn durable(&mut self, end: Offset) {
        self.durable_end = end;
        self.recent.synced_before(end);
    }
}

/// A write failed: a full disk is waited for, a broken log is opened again.
fn refuse(log: &mut Option<PartitionLog>, error: Error) -> Result<Taken> {
    match error.kind {
        ErrorKind::Retry => Ok(Taken::Wait),
        ErrorKind::Closed => {
            tracing::error!(%error, "spool partition is opened again");
            *log = None;
            Ok(Taken::Wait)
        }
        ErrorKind::Input | ErrorKind::Damaged => Err(error),
    }
}

fn open_log(place: &Place, now: Timestamp) -> Result<PartitionLog> {
    let (log, recovery) =
        PartitionLog::open(Arc::clone(&place.storage), &place.dir, place.config, now)?;
    tracing::debug!(dir = %place.dir.display(), ?recovery, "spool partition opened");
    Ok(log)
}
