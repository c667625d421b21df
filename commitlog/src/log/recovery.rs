//! Opens a log: finds what a crash left behind and goes on from there.
//!
//! 1. List the directory, remove half-made files and segments below the start.
//! 2. Take the newest whole snapshot; everything before it, before the last mark and before the last
//!    segment is known to be durable.
//! 3. Walk the last segment from its mark (`walk.rs`): each batch verified, damage told from a torn tail.
//! 4. When all the segment's bytes are known to be durable, go on writing it. Else seal it where that
//!    ends and begin a new segment with a copy of the whole batches that follow: an earlier fsync of the
//!    file may have failed, and then its clean pages are a lie that no later fsync tells. A new file's
//!    fsync is true.
//! 5. Write the index, a snapshot and a mark, so that the next opening has nothing to do.
//!
//! Invariants:
//! - **I1** offsets are dense and none is given out twice: an offset that was durable keeps its bytes for
//!   ever, or is told as a gap for ever.
//! - **I3** opening never fails for what lies on disk, and a recovery that dies at any point is taken up by
//!   the next to the same end.
//!
//! Each step leaves a directory that opening again takes to the same log: the new segment appears with a
//! rename, and a sealed segment ends where the next begins, whatever bytes follow in it. Nothing that lies
//! on disk makes this fail. Sealed segments are not read at all.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Offset, Timestamp};
use crate::storage::{EntryKind, Storage, read_whole, replace};

use super::checkpoint::{CheckpointFile, Loaded};
use super::names::{self, FileKind};
use super::partition::{LogConfig, PartitionLog};
use super::producer_state::Producers;
use super::reader::Gap;
use super::resume::{self, Resumed};
use super::segment::SegmentWriter;
use super::shared::{SealedSegment, Shared, State};
use super::snapshot;

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Batches that were read and found whole.
    pub batches: u64,
    /// Bytes of a torn tail that were given up; nobody was told that they are durable.
    pub bytes_cut: u64,
    /// Durable offsets that are damaged or missing, as far as was looked.
    pub gaps: Vec<Gap>,
    /// What was repaired, in words.
    pub notes: Vec<String>,
}

/// A partition's directory, as it was found.
pub(super) struct Found {
    /// Segments by base, with their bytes.
    pub(super) segments: BTreeMap<Offset, u64>,
    pub(super) snapshots: Vec<Offset>,
    /// Half-made files, and index files whose segment is gone.
    pub(super) leftovers: Vec<PathBuf>,
    has_leader_epoch: bool,
}

/// See [`PartitionLog::open`].
pub(super) fn open(
    storage: Arc<dyn Storage>,
    dir: &Path,
    config: LogConfig,
    now: Timestamp,
) -> Result<(PartitionLog, Recovery)> {
    let context = |error| Error::io(format!("cannot open the log in {}", dir.display()), error);
    storage.create_dir(dir).map_err(context)?;
    let mut found = list(storage.as_ref(), dir).map_err(context)?;
    let mut report = Recovery::default();
    for path in &found.leftovers {
        // One that stays is overwritten or removed later.
        let _unremoved = storage.remove(path);
    }
    let (checkpoint, loaded) = CheckpointFile::load(storage.clone(), dir);
    if loaded == Loaded::Damaged || (loaded == Loaded::Missing && !found.segments.is_empty()) {
        report.notes.push(format!(
            "{} was missing or damaged, made anew",
            names::CHECKPOINT
        ));
    }
    drop_below_start(storage.as_ref(), dir, &mut found, &checkpoint);
    let snapshot = newest_snapshot(storage.as_ref(), dir, &found, &mut report);
    let known = checkpoint.content().recovery_point().max(snapshot.0);
    if !found.has_leader_epoch {
        // For Kafka's eyes only: the log does without.
        let path = dir.join(names::LEADER_EPOCH_CHECKPOINT);
        let _unwritten = replace(storage.as_ref(), &path, names::LEADER_EPOCH_CONTENT);
    }
    let opening = Opening {
        storage: &storage,
        dir,
        now,
        checkpoint: &checkpoint,
        known,
    };
    let resumed = opening
        .segment(&mut found, snapshot, &mut report)
        .map_err(in_dir(dir))?;
    let log = assemble(&found, (storage, dir, config), now, (checkpoint, resumed));
    finish(log, report)
}

/// What opening needs at hand.
pub(super) struct Opening<'a> {
    pub(super) storage: &'a Arc<dyn Storage>,
    pub(super) dir: &'a Path,
    pub(super) now: Timestamp,
    pub(super) checkpoint: &'a CheckpointFile,
    /// All before it is known to be durable.
    pub(super) known: Offset,
}

impl Opening<'_> {
    /// The segment to write on, the producers before its end, and what was found; the one it replaces, if
    /// any, moves to the sealed ones.
    fn segment(
        &self,
        found: &mut Found,
        snapshot: (Offset, Producers),
        report: &mut Recovery,
    ) -> Result<Resumed> {
        let Some((&base, _)) = found.segments.last_key_value() else {
            let start = self.checkpoint.content().start;
            if self.known > start {
                report.gaps.push(missing_gap(start, self.known));
            }
            let segment = SegmentWriter::create(self.storage.as_ref(), self.dir, self.known)
                .map_err(|error| Error::io("cannot create a segment", error))?;
            found.segments.insert(self.known, 0);
            return Ok(Resumed {
                segment,
                producers: snapshot.1,
            });
        };
        resume::resume(self, base, found, snapshot, report)
    }
}

fn assemble(
    found: &Found,
    (storage, dir, config): (Arc<dyn Storage>, &Path, LogConfig),
    now: Timestamp,
    (checkpoint, resumed): (CheckpointFile, Resumed),
) -> PartitionLog {
    let Resumed {
        segment,
        mut producers,
    } = resumed;
    producers.expire(now);
    producers.all_durable();
    let active_base = segment.active.base;
    let bases: Vec<Offset> = found
        .segments
        .keys()
        .copied()
        .chain([active_base])
        .collect();
    let mut sealed = BTreeMap::new();
    {
        let content = checkpoint.content();
        for (base, end) in bases.iter().zip(bases.iter().skip(1)) {
            if base >= end || *base == active_base {
                continue;
            }
            let mark = content.marks.get(base);
            let bytes = found.segments.get(base).copied().unwrap_or(0);
            let last_append = mark.map_or(now, |mark| mark.last_append.min(now));
            sealed.insert(
                *base,
                SealedSegment {
                    end: *end,
                    bytes,
                    last_append,
                },
            );
        }
    }
    let first = sealed.keys().next().copied().unwrap_or(active_base);
    let start = checkpoint.content().start.max(first);
    let state = State {
        start,
        durable: segment.end,
        end: segment.end,
        sealed,
        active: segment.active.clone(),
    };
    PartitionLog {
        shared: Arc::new(Shared::new(storage, dir.to_owned(), checkpoint, state)),
        config,
        segment,
        producers,
        pending: VecDeque::new(),
        snapshots: found.snapshots.iter().copied().collect(),
        sync_runs: false,
        closed: None,
    }
}

/// Makes what was found durable and marks it, so that the next opening has nothing to do. A full disk
/// does not keep the log from opening.
fn finish(mut log: PartitionLog, report: Recovery) -> Result<(PartitionLog, Recovery)> {
    if !log.segment.is_marked() {
        let flush = log.segment.flush_with(Some(&log.producers));
        let flushed = flush.run(&log.shared)?;
        log.take_flushed(&flushed);
    }
    match log.shared.checkpoint.update(|_| {}) {
        Err(error) if error.kind != ErrorKind::Retry => Err(error),
        _ => Ok((log, report)),
    }
}

pub(super) fn list(storage: &dyn Storage, dir: &Path) -> io::Result<Found> {
    let mut found = Found {
        segments: BTreeMap::new(),
        snapshots: Vec::new(),
        leftovers: Vec::new(),
        has_leader_epoch: false,
    };
    let mut indexes = Vec::new();
    for entry in storage.list(dir)? {
        if entry.kind != EntryKind::File {
            continue;
        }
        let name = entry.name.to_string_lossy();
        if name.ends_with(names::TEMPORARY_SUFFIX) {
            found.leftovers.push(dir.join(&entry.name));
        }
        found.has_leader_epoch |= name == names::LEADER_EPOCH_CHECKPOINT;
        match names::parse(&entry.name) {
            Some((base, FileKind::Log)) => {
                found.segments.insert(base, entry.bytes);
            }
            Some((offset, FileKind::Snapshot)) => found.snapshots.push(offset),
            Some((base, FileKind::Index | FileKind::TimeIndex)) => {
                indexes.push((base, dir.join(&entry.name)));
            }
            None => {}
        }
    }
    // A segment's files are unlinked one by one.
    let orphans = indexes
        .into_iter()
        .filter(|(base, _)| !found.segments.contains_key(base));
    found.leftovers.extend(orphans.map(|(_, path)| path));
    Ok(found)
}

/// Removes the segments that end before the log's start: a crash came between the checkpoint and the
/// unlinking.
fn drop_below_start(
    storage: &dyn Storage,
    dir: &Path,
    found: &mut Found,
    checkpoint: &CheckpointFile,
) {
    let start = checkpoint.content().start;
    let bases: Vec<Offset> = found.segments.keys().copied().collect();
    for (base, next) in bases.iter().zip(bases.iter().skip(1)) {
        if *next > start {
            break;
        }
        found.segments.remove(base);
        for kind in [
            FileKind::Log,
            FileKind::Index,
            FileKind::TimeIndex,
            FileKind::Snapshot,
        ] {
            // What stays is tried again at the next opening.
            let _unremoved = storage.remove(&names::path(dir, *base, kind));
        }
    }
    let first = found.segments.keys().next().copied();
    let mut content = checkpoint.content();
    content
        .marks
        .retain(|base, mark| mark.end >= start && Some(*base) >= first);
}

/// The newest snapshot that is whole, and the offset it was taken at.
pub(super) fn newest_snapshot(
    storage: &dyn Storage,
    dir: &Path,
    found: &Found,
    report: &mut Recovery,
) -> (Offset, Producers) {
    let mut snapshots = found.snapshots.clone();
    snapshots.sort_unstable();
    for &offset in snapshots.iter().rev() {
        let path = names::path(dir, offset, FileKind::Snapshot);
        let bytes = read_whole(storage, &path, snapshot::SNAPSHOT_BYTES_MAX);
        if let Some(entries) = bytes.ok().and_then(|bytes| snapshot::decode(&bytes)) {
            return (offset, Producers::restore(&entries));
        }
        report.notes.push(format!(
            "{} is damaged, an earlier one was used",
            path.display()
        ));
    }
    (Offset::ZERO, Producers::default())
}

pub(super) fn missing_gap(from: Offset, to: Offset) -> Gap {
    Gap {
        from,
        to,
        reason: "the segment's file is missing or ends before".to_owned(),
    }
}

fn in_dir(dir: &Path) -> impl Fn(Error) -> Error {
    let dir = dir.display().to_string();
    move |mut error| {
        error.message = format!("cannot open the log in {dir}: {}", error.message);
        error
    }
}
