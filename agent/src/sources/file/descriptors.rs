//! Which files stay open.
//!
//! There are a source's share of the configured number, and no more. Idle files that their path still
//! names are closed first: they are opened again when an event comes. Then those that wait to be read:
//! they are opened again when their turn comes. A rotated, deleted or truncated file is not closed before
//! its end: its descriptor is the surest way to it, or the only one.
//!
//! Without need, too, idle files are closed after a while, but for the few that grew last: a file that is
//! written and deleted at once is still delivered while it is open.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::discovery::Opened;
use super::lineage::Life;
use super::{EpochId, FileSource};
use crate::ambient::Now;
use crate::limits::{FILES_IDLE_OPEN, IDLE_CLOSED_AFTER};

/// The open files of a source.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// The longest open first. Some may be closed by now.
    open: VecDeque<EpochId>,
    /// When idle ones are closed next.
    next_close: Duration,
}

/// What an open file is needed for, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// It is closed already.
    Closed,
    /// Its path names it, and nothing was written for a while.
    Idle,
    /// Its path names it, and there is something to read; or it is finished, and a late writer could come.
    Waiting,
    /// Its path does not name it any more.
    Detached,
}

impl Descriptors {
    /// When it is time to close what is idle; `None` while that is nothing.
    pub(super) fn next_close(&self) -> Option<Duration> {
        (self.open.len() > FILES_IDLE_OPEN).then_some(self.next_close)
    }
}

impl FileSource {
    /// A file was opened. When too many are, another one is closed.
    pub(super) fn opened(&mut self, newest: EpochId, now: Now) {
        self.descriptors.open.push_back(newest);
        if self.descriptors.open.len() > self.config.files_open_max {
            self.close_one(Some(newest), now.monotonic);
        }
    }

    /// Closes files that were idle for a while, but for those that grew last.
    pub(super) fn close_idle(&mut self, now: Now) {
        let now = now.monotonic;
        if self.descriptors.next_close > now {
            return;
        }
        self.descriptors.next_close = now + IDLE_CLOSED_AFTER / 2;
        let mut idle = Vec::new();
        let mut open = std::mem::take(&mut self.descriptors.open);
        open.retain(|&id| match self.need(id, IDLE_CLOSED_AFTER, now) {
            Need::Closed => false,
            Need::Idle => {
                idle.push((self.grown_at(id), id));
                false
            }
            Need::Waiting | Need::Detached => true,
        });
        self.descriptors.open = open;
        let few = idle.len().saturating_sub(FILES_IDLE_OPEN);
        idle.sort_unstable_by_key(|&(grown_at, _)| grown_at);
        for (_, id) in idle.drain(..few) {
            self.close(id, now);
        }
        self.descriptors
            .open
            .extend(idle.into_iter().map(|(_, id)| id));
    }

    /// Opens a file; when the system has no descriptor left, in the place of another one.
    pub(super) fn open_or_make_room(
        &mut self,
        path: &Path,
        now: Now,
    ) -> io::Result<Option<Opened>> {
        match self.open(path) {
            Err(error) if self.makes_room_after(&error, now) => self.open(path),
            opened => opened,
        }
    }

    /// Whether an error says that no descriptor was left, and now there are some.
    pub(super) fn makes_room_after(&mut self, error: &io::Error, now: Now) -> bool {
        if !is_exhausted(error) {
            return false;
        }
        // A look at a directory takes one more.
        let first = self.close_one(None, now.monotonic);
        self.close_one(None, now.monotonic) || first
    }

    /// Closes the file that is needed least, of some that have been open for long; whether there is one
    /// less.
    fn close_one(&mut self, but: Option<EpochId>, now: Duration) -> bool {
        for most in [Need::Idle, Need::Waiting] {
            for _ in 0..self.descriptors.open.len().min(CANDIDATES) {
                let Some(id) = self.descriptors.open.pop_front() else {
                    return false;
                };
                if self.need(id, IDLE, now) <= most && Some(id) != but {
                    self.close(id, now);
                    return true;
                }
                self.descriptors.open.push_back(id);
            }
        }
        false
    }

    fn close(&mut self, id: EpochId, now: Duration) {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        if let Some(epoch) = lineage.epoch(id.number) {
            // Should it be copied and truncated meanwhile, its beginning tells the copy.
            if epoch.head.bytes == 0
                && let Err(error) = self.reader.look(epoch, now)
            {
                tracing::debug!(source = self.config.name, %error, "closed without a look at it");
            }
            epoch.content = None;
        }
        // What reading takes is made again when it goes on.
        if !lineage.queued {
            lineage.stream = None;
        }
    }

    fn need(&self, id: EpochId, idle: Duration, now: Duration) -> Need {
        let Some(lineage) = &self.lineages[id.lineage] else {
            return Need::Closed;
        };
        let mut epochs = lineage.epochs.iter();
        let epoch = epochs.find(|epoch| epoch.number == id.number);
        let Some(epoch) = epoch.filter(|epoch| epoch.content.is_some()) else {
            return Need::Closed;
        };
        let is_idle = !lineage.queued && now.saturating_sub(epoch.grown_at) >= idle;
        match epoch.life {
            Life::Named if is_idle => Need::Idle,
            Life::Named | Life::Finished(_) => Need::Waiting,
            Life::Detached(_) | Life::Truncated(_) | Life::Missing(_) => Need::Detached,
        }
    }

    fn grown_at(&self, id: EpochId) -> Duration {
        let lineage = self.lineages[id.lineage].as_ref();
        let mut epochs = lineage.iter().flat_map(|lineage| &lineage.epochs);
        let epoch = epochs.find(|epoch| epoch.number == id.number);
        epoch.map_or(Duration::ZERO, |epoch| epoch.grown_at)
    }
}

/// Whether an error says that the process or the system has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Files that did not grow for this long are closed when others are to be opened.
const IDLE: Duration = Duration::from_secs(1);

/// So many files are looked at for one that can be closed, before the need is taken more seriously.
const CANDIDATES: usize = 64;
