//! The segment being written, from the writer's side: its files, and what of them is on disk.
//!
//! The `.log` file is written at every append, the `.index` file after each fsync of the log and only
//! with batches that it made durable, the `.timeindex` and a `.snapshot` whenever a mark is made: at the
//! first fsync of a segment, each [`CHECKPOINT_EVERY_BYTES`], at a roll and at the close.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::batch::header::BatchHeader;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::{
    BATCH_RECORDS_MAX, CHECKPOINT_EVERY_BYTES, INDEX_ENTRIES_MAX, SEGMENT_BYTES_LIMIT,
};
use crate::storage::{File, OpenMode, Storage, replace, sync_names, write_all_at};

use super::checkpoint::{Mark, take_mark};
use super::index;
use super::names::{self, FileKind};
use super::partition::{LogConfig, is_full};
use super::producer_state::Producers;
use super::shared::{Active, Grown, Shared};
use super::snapshot;
use super::time_index;

/// The segment being written.
pub(super) struct SegmentWriter {
    pub(super) active: Arc<Active>,
    pub(super) index_file: Arc<dyn File>,
    /// The offset after the last batch.
    pub(super) end: Offset,
    /// How many entries the index file has.
    pub(super) index_written: usize,
    /// When the first and the last batch were appended, `None` while there is none.
    pub(super) appended: Option<(Timestamp, Timestamp)>,
    /// How far the last mark reaches, `None` while there is none.
    pub(super) marked_bytes: Option<u64>,
    /// The next segment's file may exist: nothing may be appended to this one any more.
    pub(super) sealing: bool,
}

impl SegmentWriter {
    /// Makes an empty segment, its names durable.
    pub(super) fn create(
        storage: &dyn Storage,
        dir: &Path,
        base: Offset,
    ) -> io::Result<SegmentWriter> {
        let open = |kind| {
            let file = storage.open(&names::path(dir, base, kind), OpenMode::Write)?;
            if file.bytes()? > 0 {
                // What a crash left of an earlier attempt; nothing in it was ever acknowledged.
                file.truncate(0)?;
                file.sync()?;
            }
            Ok::<_, io::Error>(file)
        };
        let log = open(FileKind::Log)?;
        let index_file = open(FileKind::Index)?;
        open(FileKind::TimeIndex)?;
        sync_names(storage, dir)?;
        Ok(SegmentWriter {
            active: Arc::new(Active::new(base, log, Grown::default())),
            index_file,
            end: base,
            index_written: 0,
            appended: None,
            marked_bytes: None,
            sealing: false,
        })
    }

    /// Whether a mark speaks of all that the segment has.
    pub(super) fn is_marked(&self) -> bool {
        let grown = self.active.grown();
        grown.entries.is_empty() || self.marked_bytes == Some(grown.position)
    }

    /// Where the next batch goes.
    pub(super) fn position(&self) -> u64 {
        self.active.grown().position
    }

    /// The log file's path, for messages.
    pub(super) fn path(&self, dir: &Path) -> String {
        names::path(dir, self.active.base, FileKind::Log)
            .display()
            .to_string()
    }

    /// Whether a batch of `bytes` belongs into a new segment.
    pub(super) fn must_roll(&self, config: &LogConfig, bytes: u64, now: Timestamp) -> bool {
        let grown = self.active.grown();
        let (Some((first, _)), false) = (self.appended, grown.entries.is_empty()) else {
            return self.sealing;
        };
        let offsets = self.end.get() - self.active.base.get();
        self.sealing
            || grown.position + bytes > config.segment_bytes_max.min(SEGMENT_BYTES_LIMIT)
            || grown.entries.len() >= INDEX_ENTRIES_MAX
            || offsets > i64::from(i32::MAX) - i64::from(BATCH_RECORDS_MAX)
            || now.0.saturating_sub(first.0) > config.segment_age_max_ms
    }

    /// Enters a batch that was written at the segment's end.
    pub(super) fn push(&mut self, header: &BatchHeader, now: Timestamp) {
        let mut grown = self.active.grown_mut();
        let position = grown.position;
        let entry = index::entry(self.active.base, header.last_offset(), position)
            .expect("must_roll keeps offsets and positions within 31 bits");
        grown.entries.push(entry);
        grown.times.push(header.max_timestamp, entry.last, position);
        grown.position = position + header.total_bytes() as u64;
        drop(grown);
        self.end = header.next_offset();
        let first = self.appended.map_or(now, |(first, _)| first);
        let last = self.appended.map_or(now, |(_, last)| last.max(now));
        self.appended = Some((first, last));
    }

    /// What an fsync of all that was appended up to now has to do.
    pub(super) fn flush(&self, producers: &Producers) -> Flush {
        let since_mark = self
            .marked_bytes
            .map(|marked| self.position().saturating_sub(marked));
        let due = since_mark.is_none_or(|bytes| bytes >= CHECKPOINT_EVERY_BYTES);
        self.flush_with(due.then_some(producers))
    }

    /// As [`SegmentWriter::flush`]; with producers, it also makes a mark.
    pub(super) fn flush_with(&self, producers: Option<&Producers>) -> Flush {
        if producers.is_some() {
            self.active.grown_mut().times.complete();
        }
        let grown = self.active.grown();
        let mut index_bytes = Vec::new();
        let new = grown.entries.get(self.index_written..).unwrap_or_default();
        index::encode(new, &mut index_bytes);
        Flush {
            base: self.active.base,
            log: self.active.file.clone(),
            index: self.index_file.clone(),
            index_from: self.index_written,
            index_bytes,
            entries: grown.entries.len(),
            log_bytes: grown.position,
            hardening: producers.and_then(|producers| self.hardening(&grown, producers)),
        }
    }

    /// Takes in what a flush has done.
    pub(super) fn flushed(&mut self, flushed: &Flushed) {
        if flushed.base != self.active.base {
            return;
        }
        self.index_written = self.index_written.max(flushed.entries);
        if let Some((marked_bytes, _)) = flushed.marked {
            self.marked_bytes = Some(marked_bytes);
        }
    }

    fn hardening(&self, grown: &Grown, producers: &Producers) -> Option<Hardening> {
        let (first_append, last_append) = self.appended?;
        let mut index_bytes = Vec::new();
        index::encode(&grown.entries, &mut index_bytes);
        let time_bytes = time_index::encode(&grown.times.entries);
        let length = |bytes: usize| u32::try_from(bytes).ok();
        let mark = Mark {
            base: self.active.base,
            end: self.end,
            log_bytes: u32::try_from(grown.position).ok()?,
            index_bytes: length(index_bytes.len())?,
            index_crc: crc32c::crc32c(&index_bytes),
            time_bytes: length(time_bytes.len())?,
            time_crc: crc32c::crc32c(&time_bytes),
            last_append,
            first_append,
            max_timestamp: grown.times.max,
        };
        Some(Hardening {
            mark,
            time_bytes,
            snapshot: snapshot::encode(&producers.snapshot()),
        })
    }
}

/// An fsync and what follows it. Holds all it needs, so that appends go on while it runs.
pub(super) struct Flush {
    base: Offset,
    log: Arc<dyn File>,
    index: Arc<dyn File>,
    index_from: usize,
    index_bytes: Vec<u8>,
    entries: usize,
    log_bytes: u64,
    hardening: Option<Hardening>,
}

struct Hardening {
    mark: Mark,
    time_bytes: Vec<u8>,
    snapshot: Vec<u8>,
}

/// What a [`Flush`] has done.
pub(super) struct Flushed {
    base: Offset,
    /// How many entries the index file has now.
    entries: usize,
    /// How far a mark reaches that was made: in bytes, and as an offset.
    pub(super) marked: Option<(u64, Offset)>,
}

impl Flush {
    /// Fsyncs the log, enters what is durable into the index, and makes a mark when one is due. Only the
    /// first must succeed on a full disk; the rest is tried again with the next flush.
    pub(super) fn run(&self, shared: &Shared) -> Result<Flushed> {
        self.sync(shared, &self.log, FileKind::Log)?;
        let mut flushed = Flushed {
            base: self.base,
            entries: self.index_from,
            marked: None,
        };
        match self.write_index(shared) {
            Ok(()) => flushed.entries = self.entries,
            Err(error) if error.kind == ErrorKind::Retry => return Ok(flushed),
            Err(error) => return Err(error),
        }
        let marked = self.alone(shared, || store_mark(shared, self.harden(shared)?));
        match marked {
            Ok(end) => flushed.marked = end.map(|end| (self.log_bytes, end)),
            Err(error) if error.kind == ErrorKind::Retry => {}
            Err(error) => return Err(error),
        }
        Ok(flushed)
    }

    /// Everything that a mark speaks of, durable; the mark is the caller's to store. `None` when nothing
    /// was ever appended.
    pub(super) fn run_hardened(&self, shared: &Shared) -> Result<Option<Mark>> {
        self.sync(shared, &self.log, FileKind::Log)?;
        self.write_index(shared)?;
        self.alone(shared, || self.harden(shared))
    }

    /// Hardens, unless a later flush has.
    fn alone<T>(
        &self,
        shared: &Shared,
        harden: impl FnOnce() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let done = shared.hardening(self.base, self.log_bytes, harden)?;
        Ok(done.flatten())
    }

    fn write_index(&self, shared: &Shared) -> Result<()> {
        let position = (self.index_from * index::ENTRY_BYTES) as u64;
        write_all_at(self.index.as_ref(), &self.index_bytes, position)
            .map_err(|e| self.failed(shared, FileKind::Index, e))
    }

    fn harden(&self, shared: &Shared) -> Result<Option<Mark>> {
        let Some(hardening) = &self.hardening else {
            return Ok(None);
        };
        let storage = shared.storage.as_ref();
        let path = |kind| names::path(&shared.dir, self.base, kind);
        self.sync(shared, &self.index, FileKind::Index)?;
        replace(storage, &path(FileKind::TimeIndex), &hardening.time_bytes)
            .map_err(|e| self.failed(shared, FileKind::TimeIndex, e))?;
        let snapshot = names::path(&shared.dir, hardening.mark.end, FileKind::Snapshot);
        replace(storage, &snapshot, &hardening.snapshot)
            .map_err(|e| Error::io(format!("cannot write {}", snapshot.display()), e))?;
        Ok(Some(hardening.mark))
    }

    fn sync(&self, shared: &Shared, file: &Arc<dyn File>, kind: FileKind) -> Result<()> {
        file.sync().map_err(|error| {
            // Even for a full disk: what was dirty is gone, only opening again reads what is true.
            let mut error = self.failed(shared, kind, error);
            error.kind = ErrorKind::Closed;
            error
        })
    }

    fn failed(&self, shared: &Shared, kind: FileKind, error: io::Error) -> Error {
        let path = names::path(&shared.dir, self.base, kind);
        let full = is_full(&error);
        let mut error = Error::io(format!("cannot write {}", path.display()), error);
        if !full {
            error.kind = ErrorKind::Closed;
        }
        error
    }
}

/// Stores a mark, and answers the offset it reaches.
fn store_mark(shared: &Shared, mark: Option<Mark>) -> Result<Option<Offset>> {
    let Some(mark) = mark else {
        return Ok(None);
    };
    let start = shared.state().start;
    shared.checkpoint.update(|content| {
        take_mark(content, mark);
        content.start = content.start.max(start);
    })?;
    Ok(Some(mark.end))
}
