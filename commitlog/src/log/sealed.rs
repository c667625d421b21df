//! A sealed segment, loaded for reading: its index is checked, and rebuilt when it is not what the
//! checkpoint's mark says.
//!
//! Invariant **I8**: the `.log` files are the truth. Any other file can be missing, damaged or from another
//! time; it is made again from the log, and never answers wrong meanwhile.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::INDEX_ENTRIES_MAX;
use crate::storage::{File, OpenMode, Storage, read_whole, replace};

use super::checkpoint::{Mark, take_mark};
use super::index::{self, IndexEntry};
use super::names::{self, FileKind};
use super::shared::{SealedSegment, Shared};
use super::time_index::{self, TimeEntry, TimeIndex};
use super::walk::Walk;

/// The largest index file that is read.
pub(super) const INDEX_BYTES_MAX: usize = INDEX_ENTRIES_MAX * index::ENTRY_BYTES;
/// The largest time index file that is read.
pub(super) const TIME_INDEX_BYTES_MAX: usize = INDEX_ENTRIES_MAX * time_index::ENTRY_BYTES;

/// A sealed segment with its index.
pub(super) struct Sealed {
    pub(super) base: Offset,
    pub(super) end: Offset,
    /// `None` when it is missing: all its offsets are a gap.
    pub(super) file: Option<Arc<dyn File>>,
    pub(super) entries: Vec<IndexEntry>,
    pub(super) times: Vec<TimeEntry>,
    pub(super) max_timestamp: Option<Timestamp>,
    /// Where the last batch ends.
    pub(super) log_bytes: u64,
}

impl Sealed {
    /// Loads the segment that begins with `base`.
    pub(super) fn load(shared: &Shared, base: Offset, segment: SealedSegment) -> Result<Sealed> {
        let storage = shared.storage.as_ref();
        let path = names::path(&shared.dir, base, FileKind::Log);
        let file = match storage.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(missing(base, segment.end));
            }
            Err(error) => {
                let mut error = Error::io(format!("cannot open {}", path.display()), error);
                // Too many open files, a lost mount: reading can be tried again.
                error.kind = ErrorKind::Retry;
                return Err(error);
            }
        };
        let mark = {
            let content = shared.checkpoint.content();
            content.marks.get(&base).copied()
        };
        let files = IndexFiles::read(storage, &shared.dir, base);
        if let Some(mark) = mark.filter(|mark| mark.end == segment.end && files.match_mark(mark)) {
            return Ok(Sealed {
                base,
                end: segment.end,
                file: Some(file),
                entries: index::decode(&files.index),
                times: time_index::decode(&files.time_index),
                max_timestamp: mark.max_timestamp,
                log_bytes: u64::from(mark.log_bytes),
            });
        }
        let sealed = rebuild(file, base, segment.end, &index::decode(&files.index))?;
        // When it cannot be written, the next load rebuilds it again.
        let appended = (segment.last_append, segment.last_append);
        if let Ok(Some(mark)) = sealed.store(storage, &shared.dir, appended) {
            let mut content = shared.checkpoint.content();
            content.marks.remove(&base);
            take_mark(&mut content, mark);
        }
        Ok(sealed)
    }

    /// Writes the segment's index files, and answers the mark that speaks of them; `None` when the numbers
    /// do not fit one.
    pub(super) fn store(
        &self,
        storage: &dyn Storage,
        dir: &Path,
        (first_append, last_append): (Timestamp, Timestamp),
    ) -> io::Result<Option<Mark>> {
        let mut index_bytes = Vec::new();
        index::encode(&self.entries, &mut index_bytes);
        let time_bytes = time_index::encode(&self.times);
        replace(
            storage,
            &names::path(dir, self.base, FileKind::Index),
            &index_bytes,
        )?;
        replace(
            storage,
            &names::path(dir, self.base, FileKind::TimeIndex),
            &time_bytes,
        )?;
        let length = |bytes: usize| u32::try_from(bytes).ok();
        let mark = || {
            Some(Mark {
                base: self.base,
                end: self.end,
                log_bytes: u32::try_from(self.log_bytes).ok()?,
                index_bytes: length(index_bytes.len())?,
                index_crc: crc32c::crc32c(&index_bytes),
                time_bytes: length(time_bytes.len())?,
                time_crc: crc32c::crc32c(&time_bytes),
                last_append,
                first_append,
                max_timestamp: self.max_timestamp,
            })
        };
        Ok(mark())
    }
}

/// A segment's two index files, as they were found.
pub(super) struct IndexFiles {
    pub(super) index: Vec<u8>,
    pub(super) time_index: Vec<u8>,
}

impl IndexFiles {
    /// Reads both; a file that is missing, too large or unreadable counts as empty.
    pub(super) fn read(storage: &dyn Storage, dir: &Path, base: Offset) -> IndexFiles {
        let read = |kind, limit| {
            read_whole(storage, &names::path(dir, base, kind), limit).unwrap_or_default()
        };
        IndexFiles {
            index: read(FileKind::Index, INDEX_BYTES_MAX),
            time_index: read(FileKind::TimeIndex, TIME_INDEX_BYTES_MAX),
        }
    }

    /// Whether the files begin with what the mark says, and cuts them there.
    pub(super) fn begin_with(&self, mark: &Mark) -> Option<IndexFiles> {
        let part = |bytes: &[u8], length: u32, crc: u32| {
            let part = bytes.get(..length as usize)?;
            (crc32c::crc32c(part) == crc).then(|| part.to_vec())
        };
        Some(IndexFiles {
            index: part(&self.index, mark.index_bytes, mark.index_crc)?,
            time_index: part(&self.time_index, mark.time_bytes, mark.time_crc)?,
        })
    }

    fn match_mark(&self, mark: &Mark) -> bool {
        self.index.len() == mark.index_bytes as usize
            && self.time_index.len() == mark.time_bytes as usize
            && self.begin_with(mark).is_some()
    }
}

/// Walks the whole segment.
pub(super) fn rebuild(
    file: Arc<dyn File>,
    base: Offset,
    end: Offset,
    claims: &[IndexEntry],
) -> Result<Sealed> {
    let mut times = TimeIndex::default();
    let walk = Walk {
        file: file.as_ref(),
        base,
        from: (base, 0),
        claims,
        durable: end,
        stop: Some(end),
    };
    let walked = walk.run(&mut |header, position| {
        if let Some(entry) = index::entry(base, header.last_offset(), position) {
            times.push(header.max_timestamp, entry.last, position);
        }
    })?;
    times.complete();
    Ok(Sealed {
        base,
        end,
        file: Some(file),
        log_bytes: walked.position.unwrap_or(walked.file_bytes),
        entries: walked.entries,
        times: times.entries,
        max_timestamp: times.max,
    })
}

fn missing(base: Offset, end: Offset) -> Sealed {
    let last = Offset::new(end.get() - 1).and_then(|last| index::entry(base, last, 0));
    Sealed {
        base,
        end,
        file: None,
        entries: last.into_iter().collect(),
        times: Vec::new(),
        max_timestamp: None,
        log_bytes: 0,
    }
}
