//! Looks at a log that nobody writes: verify, dump, repair. The command line formats what these answer.
//!
//! [`verify_dir`] and [`dump_dir`] only read. [`repair_dir`] does what opening the log would do, rebuilds the
//! index files of sealed segments now instead of at their first read, and keeps a copy of each damaged
//! segment beside it (`.log.damaged`); [`RepairMode::DryRun`] says what it would do. All three work on one
//! partition's directory; [`partitions`] finds those below a path. Whoever repairs holds the data
//! directory's lock.

mod dump;
mod repair;
#[cfg(test)]
mod tests;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::header::BatchHeader;
use crate::error::{Error, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::DIRECTORY_DEPTH_MAX;
use crate::storage::{EntryKind, Storage};

use super::names;

/// What a partition's directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// The directory.
    pub dir: PathBuf,
    /// Where the log begins.
    pub start: Offset,
    /// The offset after its last whole or lost record.
    pub end: Offset,
    /// By base.
    pub segments: Vec<SegmentReport>,
    /// What is wrong, in the order of the files.
    pub findings: Vec<Finding>,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its `.log` file.
    pub file: PathBuf,
    /// The first offset.
    pub base: Offset,
    /// The offset after the last.
    pub end: Offset,
    /// The file's bytes.
    pub bytes: u64,
    /// Whole batches.
    pub batches: u64,
    /// Their records.
    pub records: u64,
    /// The latest of their timestamps.
    pub max_timestamp: Option<Timestamp>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Where in it, when that is one place.
    pub position: Option<u64>,
    /// The offsets that are lost: the first, and the first after them.
    pub lost: Option<(Offset, Offset)>,
    /// What is wrong.
    pub what: String,
    /// What it means.
    pub harm: Harm,
}

/// What a [`Finding`] means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Records are lost.
    Lost,
    /// A crash left it; nobody was told that it is durable. The next opening cuts it off.
    Torn,
    /// It can be made from the log again, and is when it is needed.
    Derived,
}

/// One piece of a dumped log.
#[derive(Debug, Clone, PartialEq)]
pub enum Dumped {
    /// A batch.
    Batch(DumpedBatch),
    /// Something in place of batches.
    Damage(Finding),
}

/// A batch, and its records when they were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct DumpedBatch {
    /// Its segment's `.log` file.
    pub file: PathBuf,
    /// Where it begins.
    pub position: u64,
    /// Its header.
    pub header: BatchHeader,
    /// Its records, or why they cannot be read.
    pub records: std::result::Result<Vec<DumpedRecord>, String>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpedRecord {
    /// Its offset.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Whether a dump has records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DumpRecords {
    /// Only the batches' headers.
    No,
    /// Decompressed.
    Yes,
}

/// Whether a repair changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// Says what it would do.
    DryRun,
    /// Does it.
    Apply,
}

/// Something that a repair did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// To which file.
    pub file: PathBuf,
    /// What, in the imperative: `cut 17 torn bytes`.
    pub what: String,
}

/// The partitions' directories at or below `path`, sorted.
pub fn partitions(storage: &dyn Storage, path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    gather(storage, path, DIRECTORY_DEPTH_MAX, &mut found)
        .map_err(|error| Error::io(format!("cannot list {}", path.display()), error))?;
    found.sort();
    Ok(found)
}

/// Reads everything in `dir` and says what it holds and what is wrong with it.
pub fn verify_dir(storage: &Arc<dyn Storage>, dir: &Path) -> Result<PartitionReport> {
    verify::verify(storage, dir)
}

/// Shows the batches of `dir` from the one that holds `from` on, until `show` answers an error.
pub fn dump_dir(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    from: Offset,
    records: DumpRecords,
    show: &mut dyn FnMut(Dumped) -> Result<()>,
) -> Result<()> {
    dump::dump(storage, dir, (from, records), show)
}

/// Repairs `dir`, and says what that changed; or would change.
pub fn repair_dir(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    mode: RepairMode,
    now: Timestamp,
) -> Result<Vec<Change>> {
    repair::repair(storage, dir, mode, now)
}

impl PartitionReport {
    /// Whether no record is lost.
    pub fn is_whole(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.harm != Harm::Lost)
    }

    /// Whole batches in all segments.
    pub fn batches(&self) -> u64 {
        self.segments.iter().map(|segment| segment.batches).sum()
    }

    /// Records in them.
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }

    /// The bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

fn gather(
    storage: &dyn Storage,
    dir: &Path,
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let entries = storage.list(dir)?;
    let is_ours =
        |name: &std::ffi::OsStr| names::parse(name).is_some() || name == names::CHECKPOINT;
    if entries
        .iter()
        .any(|entry| entry.kind == EntryKind::File && is_ours(&entry.name))
    {
        found.push(dir.to_owned());
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Directory)
    {
        gather(storage, &dir.join(&entry.name), depth - 1, found)?;
    }
    Ok(())
}
