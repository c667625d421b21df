//! Seals segments, and drops the oldest.
//!
//! Invariant **I10**: the log's start is durable before what lies below it is unlinked.
//!
//! A segment is sealed before the next takes data: its files are fsynced, then the next one's names are.
//! A segment is dropped in this order: the new start is durable in the checkpoint, readers no longer find
//! the segment, its files are unlinked. A crash in between leaves files below the start, which the next
//! opening removes; never a start that points into files which are gone.
//!
//! Age counts from the last append to a segment, kept in the segment's mark: record timestamps are event
//! time, which may be years off and must neither pin a segment nor drop it.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Offset, Timestamp};
use crate::storage::sync_names;

use super::checkpoint::{Mark, take_mark};
use super::names::{self, FileKind};
use super::partition::PartitionLog;
use super::segment::SegmentWriter;
use super::shared::{SealedSegment, Shared};

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trimmed {
    /// How many segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Where the log begins now.
    pub start: Offset,
    /// Files that could not be removed; the next opening tries again.
    pub left: Vec<PathBuf>,
}

impl PartitionLog {
    /// Frees the segments that lie wholly before `before`, and begins the log there. The segment being
    /// written stays. The start is durable only when a segment goes: after a crash it may lie earlier.
    pub fn trim(&mut self, before: Offset) -> Result<Trimmed> {
        self.check_open()?;
        let start = before.min(self.durable_end()).max(self.start());
        let frees = {
            let mut state = self.shared.state_mut();
            let frees = state.sealed.values().any(|segment| segment.end <= start);
            if !frees {
                state.start = start;
            }
            frees
        };
        if frees {
            self.drop_before(start)
        } else {
            Ok(self.nothing_trimmed())
        }
    }

    /// Seals the segment being written, so that [`PartitionLog::trim`] can free it.
    pub fn seal(&mut self, now: Timestamp) -> Result<()> {
        self.check_open()?;
        self.roll(now)
    }

    /// Drops what is older or more than the configuration keeps. A segment being written that is too old
    /// is sealed first.
    pub fn apply_retention(&mut self, now: Timestamp) -> Result<Trimmed> {
        self.check_open()?;
        let expired = |last: Timestamp, config: &super::partition::LogConfig| {
            config
                .retention_ms
                .is_some_and(|kept| now.0.saturating_sub(last.0) > kept)
        };
        if self
            .segment
            .appended
            .is_some_and(|(_, last)| expired(last, &self.config))
        {
            self.roll(now)?;
        }
        let start = {
            let state = self.shared.state();
            let mut bytes = state.bytes();
            let mut start = state.start;
            for segment in state.sealed.values() {
                let rest = bytes - segment.bytes;
                let surplus = self.config.retention_bytes.is_some_and(|kept| rest >= kept);
                if !surplus && !expired(segment.last_append, &self.config) {
                    break;
                }
                start = start.max(segment.end);
                bytes = rest;
            }
            start
        };
        if start == self.start() {
            Ok(self.nothing_trimmed())
        } else {
            self.drop_before(start)
        }
    }

    /// Seals the segment being written and begins the next. An error that passes leaves the log as it
    /// was, but for that nothing more goes into this segment.
    pub(super) fn roll(&mut self, now: Timestamp) -> Result<()> {
        let base = self.end();
        let Some(mark) = self.harden()? else {
            // Nothing was ever appended to it.
            return Ok(());
        };
        self.segment.sealing = true;
        self.producers.expire(now);
        let created = SegmentWriter::create(self.shared.storage.as_ref(), &self.shared.dir, base);
        let created = created.map_err(|error| {
            let path = names::path(&self.shared.dir, base, FileKind::Log);
            Error::io(format!("cannot begin {}", path.display()), error)
        });
        let segment = created.map_err(|error| self.close_unless_retry(error))?;
        let stored = self
            .shared
            .checkpoint
            .update(|content| take_mark(content, mark));
        stored.map_err(|error| self.close_unless_retry(error))?;
        let mut state = self.shared.state_mut();
        let sealed = SealedSegment {
            end: base,
            bytes: u64::from(mark.log_bytes),
            last_append: mark.last_append,
        };
        state.sealed.insert(mark.base, sealed);
        state.active = segment.active.clone();
        drop(state);
        self.segment = segment;
        self.keep_snapshot(base);
        Ok(())
    }

    /// Makes all that was appended durable, with its index, time index and snapshot.
    pub(super) fn harden(&mut self) -> Result<Option<Mark>> {
        let flush = self.segment.flush_with(Some(&self.producers));
        let mark = flush.run_hardened(&self.shared);
        let mark = mark.map_err(|error| self.close_unless_retry(error))?;
        self.make_durable(self.end());
        Ok(mark)
    }

    fn close_unless_retry(&mut self, error: Error) -> Error {
        if error.kind == ErrorKind::Retry {
            error
        } else {
            self.close_for(error)
        }
    }

    fn nothing_trimmed(&self) -> Trimmed {
        Trimmed {
            segments: 0,
            bytes: 0,
            start: self.start(),
            left: Vec::new(),
        }
    }

    /// Drops the sealed segments that end by `start`, which becomes the log's start.
    fn drop_before(&mut self, start: Offset) -> Result<Trimmed> {
        let doomed: Vec<(Offset, SealedSegment)> = {
            let state = self.shared.state();
            let ends_before = |(_, segment): &(&Offset, &SealedSegment)| segment.end <= start;
            let sealed = state.sealed.iter().take_while(ends_before);
            sealed.map(|(&base, &segment)| (base, segment)).collect()
        };
        #[cfg(mutant = "unlink_before_pointer")]
        unlink(&self.shared, &doomed);
        if let Err(error) = self.move_start(start) {
            if error.kind != ErrorKind::Retry {
                return Err(self.close_for(error));
            }
            self.make_room(&doomed, start)?;
        }
        self.forget_before(start);
        Ok(Trimmed {
            segments: doomed.len(),
            bytes: doomed.iter().map(|(_, segment)| segment.bytes).sum(),
            start,
            left: unlink(&self.shared, &doomed),
        })
    }

    /// Moves the durable start.
    fn move_start(&self, start: Offset) -> Result<()> {
        self.shared.checkpoint.update(|content| {
            content.start = start;
            content.marks.retain(|_, mark| mark.end > start);
        })
    }

    /// Moves the durable start on a disk that has no room for a new checkpoint. A log begins with its
    /// first segment at the earliest, so segments can go one at a time, from the first, each unlinking
    /// durable before the next; until the checkpoint fits.
    fn make_room(&mut self, doomed: &[(Offset, SealedSegment)], start: Offset) -> Result<()> {
        for segment in doomed {
            self.forget_before(segment.1.end);
            unlink(&self.shared, std::slice::from_ref(segment));
            let synced = sync_names(self.shared.storage.as_ref(), &self.shared.dir);
            if let Err(error) = synced {
                let dir = self.shared.dir.display();
                return Err(self.close_for(Error::io(format!("cannot sync {dir}"), error)));
            }
            match self.move_start(start) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind == ErrorKind::Retry => {}
                Err(error) => return Err(self.close_for(error)),
            }
        }
        // All are gone, in order; the first that is left says where the log begins.
        Ok(())
    }

    /// Readers no longer find what lies before `start`.
    fn forget_before(&self, start: Offset) {
        {
            let mut state = self.shared.state_mut();
            state.start = start;
            state.sealed.retain(|_, segment| segment.end > start);
        }
        self.shared.unload_before(start);
    }

    /// Remembers the snapshot that was taken at `at`, and removes those that no segment begins with, but
    /// for the latest two: the last may turn out to be damaged.
    pub(super) fn keep_snapshot(&mut self, at: Offset) {
        self.snapshots.insert(at);
        let latest = self.snapshots.iter().rev().nth(1).copied().unwrap_or(at);
        let mut needless: Vec<Offset> = self.snapshots.range(..latest).copied().collect();
        {
            let state = self.shared.state();
            let is_base = |at: &Offset| *at == state.active.base || state.sealed.contains_key(at);
            needless.retain(|at| !is_base(at));
        }
        for at in needless {
            let path = names::path(&self.shared.dir, at, FileKind::Snapshot);
            match self.shared.storage.remove(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {}
                _ => {
                    self.snapshots.remove(&at);
                }
            }
        }
    }
}

/// Unlinks the segments' files, oldest first, and says which stayed.
fn unlink(shared: &Shared, doomed: &[(Offset, SealedSegment)]) -> Vec<PathBuf> {
    let kinds = [
        FileKind::Log,
        FileKind::Index,
        FileKind::TimeIndex,
        FileKind::Snapshot,
    ];
    let files = doomed
        .iter()
        .flat_map(|(base, _)| kinds.map(|kind| names::path(&shared.dir, *base, kind)));
    let stays = |path: &PathBuf| match shared.storage.remove(path) {
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        Ok(()) => false,
    };
    files.filter(stays).collect()
}
