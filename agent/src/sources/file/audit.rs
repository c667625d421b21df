//! What became of every byte: the one place where an epoch ends for good.
//!
//! Each byte of an epoch is emitted once, or told here as unread, with a reason, and nowhere else: as a
//! counter by source and reason, as one event, and in the list of the epochs that ended last. Bytes
//! that are gone count as lost, those that the configuration passes over as skipped.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use commitlog::id::Timestamp;

use super::lineage::Epoch;
use crate::limits::CLOSED_EPOCHS_MAX;
use crate::pipeline::Outlet;
use crate::spool::positions::Loss;

/// Why an epoch ended, or why bytes of one that goes on are not read.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Read to its end.
    Finished,
    /// Its file was cut or written anew in place, which look the same once it has grown again, and no
    /// copy of what had not been read was found. What was written and cut off between two looks at it,
    /// milliseconds apart, nobody has seen.
    Truncated,
    /// Its file was deleted while it was not open, and no copy was found.
    Deleted,
    /// Its file was deleted, and there were more such files than may be open. How much was unread is known.
    NoDescriptor,
    /// Its file was there when the agent stopped and cannot be found any more. What was added to it
    /// after its last read, if anything, is gone; nobody knows how much that was.
    MissingAfterRestart,
    /// Its content was cut off or replaced while the agent was stopped, and no copy was found. Nobody
    /// knows whether all of it had been read.
    CutWhileStopped,
    /// The patterns do not mean it any more. Its position is kept in case they do again.
    Excluded,
    /// Lines were longer than the limit, and `long_lines` says not to take them whole.
    LineTooLong,
    /// It was there before the first start, and `start_at: end` passes it over.
    BeforeStart,
    /// Nobody wrote them.
    Hole,
    /// It had not changed for longer than `ignore_older` when it was met.
    Older,
}

/// An epoch that ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedEpoch {
    /// The path that it had when it was met.
    pub path: PathBuf,
    /// Its number.
    pub epoch: u32,
    /// Bytes that were taken of it.
    pub bytes_read: u64,
    /// Bytes that were seen and not taken; `None`: nobody knows how many there were.
    pub bytes_unread: Option<u64>,
    /// What ended it.
    pub why: Why,
    /// When.
    pub at: Timestamp,
}

/// How an epoch ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    /// Bytes that are unread beyond those told before; `None`: nobody knows how many.
    pub(super) rest: Option<u64>,
    pub(super) why: Why,
}

/// The account of one source.
pub(super) struct Audit {
    source: String,
    /// Those that ended last; the oldest first.
    closed: VecDeque<ClosedEpoch>,
}

/// What an epoch has been accounted for while it goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Bytes below its offset that were never emitted.
    pub(super) unread: u64,
    /// Bytes beyond its offset that were cut off.
    pub(super) cut: u64,
    /// More may be lost, and nobody knows how much. That was told.
    pub(super) is_doubtful: bool,
    /// Its end has been told.
    pub(super) is_closed: bool,
}

impl Ending {
    /// Read to its end.
    pub(super) const FINISHED: Ending = Ending {
        rest: Some(0),
        why: Why::Finished,
    };
}

impl Why {
    /// Its name in metrics, events and documents.
    pub fn label(self) -> &'static str {
        match self {
            Why::Finished => "finished",
            Why::Truncated => "truncated",
            Why::Deleted => "deleted",
            Why::NoDescriptor => "no_descriptor",
            Why::MissingAfterRestart => "missing_after_restart",
            Why::CutWhileStopped => "cut_while_stopped",
            Why::Excluded => "excluded",
            Why::LineTooLong => "line_too_long",
            Why::BeforeStart => "before_start",
            Why::Hole => "hole",
            Why::Older => "older",
        }
    }

    /// Whether unread bytes are gone against the user's will.
    pub(super) fn is_loss(self) -> bool {
        match self {
            // What is unread of a finished file was told before, with its own reason.
            Why::Finished
            | Why::Truncated
            | Why::Deleted
            | Why::NoDescriptor
            | Why::MissingAfterRestart
            | Why::CutWhileStopped
            | Why::LineTooLong => true,
            Why::Excluded | Why::BeforeStart | Why::Hole | Why::Older => false,
        }
    }
}

impl Audit {
    pub(super) fn new(source: &str) -> Audit {
        Audit {
            source: source.to_owned(),
            closed: VecDeque::new(),
        }
    }

    /// An epoch ends for good.
    pub(super) fn closed(
        &mut self,
        path: &Path,
        epoch: &Epoch,
        Ending { rest, why }: Ending,
        out: &mut Outlet<'_>,
    ) {
        self.count(rest, why, out);
        let Account {
            unread,
            cut,
            is_doubtful,
            ..
        } = epoch.account;
        let rest = rest.filter(|_| !is_doubtful);
        let ended = ClosedEpoch {
            path: path.to_owned(),
            epoch: epoch.number,
            bytes_read: epoch.offset.saturating_sub(unread),
            bytes_unread: rest.map(|rest| unread + cut + rest),
            why,
            at: out.now().wall,
        };
        out.telemetry().count_closed(&self.source, why.label());
        let (read, unread, reason) = (ended.bytes_read, ended.bytes_unread, why.label());
        let (source, path) = (&self.source, path.display());
        if why.is_loss() && rest.is_none() {
            tracing::warn!(source, %path, bytes_read = read, reason,
                "file ended, and may have had more than what was read: nobody knows");
        } else if why.is_loss() && rest != Some(0) {
            tracing::warn!(source, %path, bytes_read = read, bytes_unread = unread, reason,
                "file ended before all of it was read; at least these bytes are lost");
        } else if why == Why::Excluded {
            tracing::warn!(source, %path, bytes_read = read, bytes_unread = unread, reason,
                "file is not followed any more: `files` and `exclude` do not mean it");
        } else {
            tracing::info!(source, %path, bytes_read = read, bytes_unread = unread, reason,
                "file is done with");
        }
        self.remember(ended);
    }

    /// Bytes of an epoch that goes on will never be read.
    pub(super) fn unread(&mut self, path: &Path, bytes: u64, why: Why, out: &mut Outlet<'_>) {
        if bytes == 0 {
            return;
        }
        self.count(Some(bytes), why, out);
        let (source, path, reason) = (&self.source, path.display(), why.label());
        if why.is_loss() {
            tracing::warn!(source, %path, bytes_unread = bytes, reason,
                "file lost bytes before they were read; at least these are lost");
        } else {
            tracing::debug!(source, %path, bytes_unread = bytes, reason, "bytes are passed over");
        }
    }

    /// Nobody knows whether bytes of an epoch that goes on will never be read.
    pub(super) fn doubtful(&mut self, path: &Path, why: Why, out: &mut Outlet<'_>) {
        self.count(None, why, out);
        let (source, path, reason) = (&self.source, path.display(), why.label());
        tracing::warn!(source, %path, reason,
            "file is gone, and what is left of it may be from before its end");
    }

    /// Lines that were too long, or what was cut off of them, will never be read. There can be as many as
    /// lines, so they are counted and no event tells of each.
    pub(super) fn too_long(&self, lost: Loss, out: &mut Outlet<'_>) {
        out.count_loss(&self.source, Why::LineTooLong.label(), lost);
    }

    /// Takes over the list of the source whose place this one takes.
    pub(super) fn inherit(&mut self, closed: Vec<ClosedEpoch>) {
        self.closed = closed.into();
    }

    /// The epochs that ended last, the oldest first.
    pub(super) fn recent(&self) -> Vec<ClosedEpoch> {
        self.closed.iter().cloned().collect()
    }

    fn count(&self, bytes: Option<u64>, why: Why, out: &mut Outlet<'_>) {
        if bytes == Some(0) {
            return;
        }
        let bytes = bytes.unwrap_or(0);
        if why.is_loss() {
            let loss = Loss { count: 1, bytes };
            out.count_loss(&self.source, why.label(), loss);
        } else {
            out.telemetry()
                .count_skipped(&self.source, why.label(), bytes);
        }
    }

    /// Where there is no room, what was read whole goes first: it is asked for least.
    fn remember(&mut self, ended: ClosedEpoch) {
        if self.closed.len() >= CLOSED_EPOCHS_MAX {
            let mut whole = self.closed.iter().map(|one| one.bytes_unread == Some(0));
            let at = whole.position(|is_whole| is_whole).unwrap_or(0);
            self.closed.remove(at);
        }
        self.closed.push_back(ended);
    }
}
