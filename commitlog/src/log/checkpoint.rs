//! `weir.checkpoint`: what is known to be durable, and where the log begins.
//!
//! The one file of a partition directory that Kafka does not know. Replaced atomically; without it the
//! log begins with its first segment and every segment is read through before it is trusted.
//!
//! Big-endian: `WEIRCKP1` (8), log start offset (8), number of marks (4), marks, CRC-32C of all before
//! it (4). A mark: base (8), end (8), log bytes (4), index bytes (4), index CRC-32C (4), time index
//! bytes (4), time index CRC-32C (4), last append ms (8), latest timestamp ms (8; the smallest number
//! when there is none), first append ms (8).
//!
//! A **mark** says of a segment: all before `end` was fsynced, lies before `log_bytes`, and the first
//! bytes of the index files have these checksums. The last mark's end is the **recovery point**.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::CHECKPOINT_BYTES_MAX;
use crate::storage::{Storage, read_whole, write_atomically};

use super::names;

const MAGIC: &[u8; 8] = b"WEIRCKP1";
const MARK_BYTES: usize = 60;
const NO_TIMESTAMP: i64 = i64::MIN;
/// No checksum of 32 bits.
const NOT_WRITTEN: u64 = u64::MAX;

/// What is known to be durable of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) base: Offset,
    /// The offset that follows the last durable batch.
    pub(super) end: Offset,
    /// Where that batch ends.
    pub(super) log_bytes: u32,
    pub(super) index_bytes: u32,
    pub(super) index_crc: u32,
    pub(super) time_bytes: u32,
    pub(super) time_crc: u32,
    /// When a batch was last appended: retention counts from it.
    pub(super) last_append: Timestamp,
    /// When the segment's first batch was appended: its age counts from it.
    pub(super) first_append: Timestamp,
    /// The latest of the records' timestamps.
    pub(super) max_timestamp: Option<Timestamp>,
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Where the log begins.
    pub(super) start: Offset,
    /// By base.
    pub(super) marks: BTreeMap<Offset, Mark>,
}

impl Checkpoint {
    /// All before it is durable.
    pub(super) fn recovery_point(&self) -> Offset {
        let last = self.marks.values().next_back().map(|mark| mark.end);
        last.unwrap_or(self.start).max(self.start)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.marks.len() * MARK_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.start.get().to_be_bytes());
        let count = u32::try_from(self.marks.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for mark in self.marks.values() {
            out.extend_from_slice(&mark.base.get().to_be_bytes());
            out.extend_from_slice(&mark.end.get().to_be_bytes());
            for number in [
                mark.log_bytes,
                mark.index_bytes,
                mark.index_crc,
                mark.time_bytes,
                mark.time_crc,
            ] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            let max = mark.max_timestamp.map_or(NO_TIMESTAMP, |max| max.0);
            for number in [mark.last_append.0, max, mark.first_append.0] {
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads the file's content; `None` when it is damaged in any way.
    fn decode(bytes: &[u8]) -> Option<Checkpoint> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(content) != u32::from_be_bytes(*crc) {
            return None;
        }
        let mut fields = Fields(content.strip_prefix(MAGIC)?);
        let start = fields.offset()?;
        let count = fields.u32()?;
        let mut marks = BTreeMap::new();
        for _ in 0..count {
            let mark = fields.mark()?;
            marks.insert(mark.base, mark);
        }
        fields.0.is_empty().then_some(Checkpoint { start, marks })
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn offset(&mut self) -> Option<Offset> {
        self.i64().and_then(Offset::new)
    }

    fn mark(&mut self) -> Option<Mark> {
        let (base, end) = (self.offset()?, self.offset()?);
        let log_bytes = self.u32()?;
        let (index_bytes, index_crc) = (self.u32()?, self.u32()?);
        let (time_bytes, time_crc) = (self.u32()?, self.u32()?);
        let last_append = Timestamp(self.i64()?);
        let max = self.i64()?;
        Some(Mark {
            base,
            end,
            log_bytes,
            index_bytes,
            index_crc,
            time_bytes,
            time_crc,
            last_append,
            first_append: Timestamp(self.i64()?),
            max_timestamp: (max != NO_TIMESTAMP).then_some(Timestamp(max)),
        })
    }
}

/// The file, written by the log's writer and by its sync jobs, one at a time.
pub(super) struct CheckpointFile {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    content: Mutex<Checkpoint>,
    /// The checksum of what the file holds; [`NOT_WRITTEN`] when it is missing or damaged. Changed only
    /// under `content`'s lock.
    written: AtomicU64,
}

impl CheckpointFile {
    /// Reads the file of `dir`. `Err` holds why it is not to be trusted, with an empty one in place.
    pub(super) fn load(storage: Arc<dyn Storage>, dir: &Path) -> (CheckpointFile, Loaded) {
        let path = dir.join(names::CHECKPOINT);
        let (content, loaded) = match read_whole(storage.as_ref(), &path, CHECKPOINT_BYTES_MAX) {
            Ok(bytes) => match Checkpoint::decode(&bytes) {
                Some(content) => (content, Loaded::Whole),
                None => (Checkpoint::default(), Loaded::Damaged),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (Checkpoint::default(), Loaded::Missing)
            }
            Err(_) => (Checkpoint::default(), Loaded::Damaged),
        };
        let written = match loaded {
            Loaded::Whole => checksum(&content.encode()),
            Loaded::Missing | Loaded::Damaged => NOT_WRITTEN,
        };
        let file = CheckpointFile {
            storage,
            path,
            content: Mutex::new(content),
            written: AtomicU64::new(written),
        };
        (file, loaded)
    }

    /// What the file says now.
    pub(super) fn content(&self) -> MutexGuard<'_, Checkpoint> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the content and makes it durable, with what was changed in memory before. On an error the
    /// content stays as it was.
    pub(super) fn update(&self, change: impl FnOnce(&mut Checkpoint)) -> Result<()> {
        let mut content = self.content();
        let mut next = content.clone();
        change(&mut next);
        let bytes = next.encode();
        if self.written.load(Ordering::Relaxed) == checksum(&bytes) {
            return Ok(());
        }
        // A failure may come before or after the rename.
        self.written.store(NOT_WRITTEN, Ordering::Relaxed);
        write_atomically(self.storage.as_ref(), &self.path, &bytes)
            .map_err(|e| Error::io(format!("cannot write {}", self.path.display()), e))?;
        self.written.store(checksum(&bytes), Ordering::Relaxed);
        *content = next;
        Ok(())
    }
}

/// The checksum that the file's bytes end with.
fn checksum(bytes: &[u8]) -> u64 {
    let crc = bytes.last_chunk::<4>().copied();
    crc.map_or(NOT_WRITTEN, |crc| u64::from(u32::from_be_bytes(crc)))
}

/// In what state the file was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    Whole,
    Missing,
    Damaged,
}

/// Takes a mark in, unless a later one of its segment is known or the segment is gone.
pub(super) fn take_mark(checkpoint: &mut Checkpoint, mark: Mark) {
    if mark.end < checkpoint.start {
        return;
    }
    let known = checkpoint.marks.get(&mark.base).map(|known| known.end);
    if known.is_none_or(|known| known <= mark.end) {
        checkpoint.marks.insert(mark.base, mark);
    }
}
