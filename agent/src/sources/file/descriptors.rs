//! Which files stay open.
//!
//! There are a source's share of the configured number, and no more. When one more is to be opened,
//! others are closed in this order:
//!
//! 1. Rotated files that are read to their end. They wait for a late writer, of which there is hardly
//!    ever one; should it come, its line is found by the name: at once where an event tells of it, at the
//!    next look at everything elsewhere. An idle file that is written and then deleted while it is closed
//!    is lost, so these go first.
//! 2. Idle files that their path still names: they are opened again when an event comes.
//! 3. Those that wait to be read: they are opened again when their turn comes.
//!
//! Rotated and deleted files that are not at their end come last, since their descriptor is the surest
//! way to them, or the only one: they may take what the process has, up to half of its limit. Beyond it
//! those are closed that have a name by which they are found again. The last rotated goes first: it is
//! read last, and its name will be there for longest. When all that is left are deleted ones, those go
//! that are at their end, and then the one that was deleted first is given up: its bytes are counted.
//!
//! A new file that may be a copy is not read yet. It is held open like a rotated one, and closed for those
//! while it has a name. It counts, and so does the compressed file that is looked through.
//!
//! Without need, too, idle files are closed after a while, but for the few that grew last: a file that is
//! written and deleted at once is still delivered while it is open.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::audit::{Ending, Why};
use super::content::Content;
use super::discovery::Opened;
use super::find::{Listings, path_of};
use super::guard::HEAD_BYTES;
use super::kernel::{self, is_unlinked};
use super::lineage::{Epoch, Life};
use super::suspects::Suspect;
use super::{EpochId, FileSource};
use crate::ambient::Now;
use crate::limits::{FILES_IDLE_OPEN, IDLE_CLOSED_AFTER, LATE, SUSPECTS_OPEN_MAX};
use crate::pipeline::Outlet;

/// The open files of a source.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// The longest open first. Some may be closed by now.
    open: VecDeque<EpochId>,
    /// Deleted ones that are not read to their end: nobody could open them again, so that they are not
    /// among those of which one is sought that can be closed.
    deleted: VecDeque<EpochId>,
    /// They were told from the others in this turn: to ask all of them for each file that is opened would
    /// take a time that grows with the square of their number.
    is_sifted: bool,
    /// When idle ones are closed next.
    next_close: Duration,
    /// Finished files that were closed before a late writer's time was over, by the number of the inode.
    late: HashMap<u64, EpochId>,
    /// Those of them that nobody was told of yet.
    untold: Vec<EpochId>,
    /// Files whose beginning was seen when they were closed.
    seen: Vec<EpochId>,
}

/// What an open file is needed for, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    /// It is closed already.
    Closed,
    /// It is finished, and should a late writer come, its name tells.
    Finished,
    /// Its path names it, and nothing was written for a while.
    Idle,
    /// Its path names it, and there is something to read; or it is finished and deleted, and somebody has
    /// it open.
    Waiting,
    /// Its path does not name it any more, and there may be something to read; or it was deleted, and tells
    /// what is a copy of it.
    Detached,
}

impl Descriptors {
    /// Whether a file's beginning was seen when it was closed, and is not saved yet. From now on it is.
    pub(super) fn was_seen(&mut self, id: EpochId) -> bool {
        let before = self.seen.len();
        self.seen.retain(|&seen| seen != id);
        self.seen.len() < before
    }

    /// When it is time to close what is idle; `None` while that is nothing.
    pub(super) fn next_close(&self) -> Option<Duration> {
        (self.open.len() > FILES_IDLE_OPEN).then_some(self.next_close)
    }
}

impl FileSource {
    /// Whether one more file may be held that its path does not name any more.
    pub(super) fn may_hold_one_more(&self) -> bool {
        self.files_open() < self.config.files_detached_max
    }

    /// The files that are open: those that are read, those that may be copies, and the compressed one that is
    /// looked through.
    pub(super) fn files_open(&self) -> usize {
        let suspects = self.suspects.iter().filter(|it| it.is_held()).count();
        let Descriptors { open, deleted, .. } = &self.descriptors;
        open.len() + deleted.len() + suspects + self.vettings.files_open()
    }

    /// Makes room for one more file that may be a copy; whether there is some. Nothing of it is read, so it
    /// may take what a rotated one may.
    pub(super) fn makes_room_for_suspect(&mut self, now: Now) -> bool {
        let held = self.suspects.iter().filter(|it| it.is_held()).count();
        if held >= SUSPECTS_OPEN_MAX {
            return false;
        }
        if self.files_open() >= self.config.files_open_max {
            self.close_one(None, now.monotonic);
        }
        self.files_open() < self.config.files_detached_max
    }

    /// Closes one file when more are open than may be, after one was opened beside those that are read.
    pub(super) fn close_surplus(&mut self, now: Now) {
        if self.files_open() > self.config.files_open_max {
            self.close_one(None, now.monotonic);
        }
    }

    /// Closes a file that may be a copy and is found again by its name; whether there was one.
    fn let_suspect_go(&mut self) -> bool {
        self.suspects.iter_mut().any(Suspect::let_go)
    }

    /// A file was opened. When too many are, others are closed.
    pub(super) fn opened(&mut self, newest: EpochId, now: Now) {
        self.descriptors.open.push_back(newest);
        let (now, but) = (now.monotonic, Some(newest));
        if self.files_open() > self.config.files_open_max {
            self.close_one(but, now);
        }
        while self.files_open() > self.config.files_detached_max
            && (self.let_suspect_go() || self.close_unread(but, now))
        {}
    }

    /// A file goes on in another one, which is open too. It counts from now on, and room for it is made
    /// later: who is at work on some files does not find others closed.
    pub(super) fn holds(&mut self, id: EpochId) {
        self.descriptors.open.push_back(id);
    }

    /// Closes what is more than may be open, and files that were idle for a while, but for those that grew last.
    pub(super) fn close_idle(&mut self, now: Now) {
        let now = now.monotonic;
        if self.descriptors.next_close > now {
            return;
        }
        self.descriptors.next_close = now + IDLE_CLOSED_AFTER / 2;
        self.sift(now);
        while self.files_open() > self.config.files_open_max && self.close_one(None, now) {}
        let mut idle = Vec::new();
        let mut open = std::mem::take(&mut self.descriptors.open);
        open.retain(|&id| match self.need(id, IDLE_CLOSED_AFTER, now) {
            Need::Closed => false,
            Need::Idle => {
                idle.push((self.grown_at(id), id));
                false
            }
            Need::Finished | Need::Waiting | Need::Detached => true,
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
        self.close_one_of(&[Need::Finished, Need::Idle, Need::Waiting], but, now)
    }

    fn close_one_of(&mut self, needs: &[Need], but: Option<EpochId>, now: Duration) -> bool {
        for &most in needs {
            for _ in 0..self.descriptors.open.len().min(CANDIDATES) {
                let Some(id) = self.descriptors.open.pop_front() else {
                    return false;
                };
                match self.need(id, IDLE, now) {
                    Need::Closed => {}
                    need if need <= most && Some(id) != but => {
                        self.close(id, now);
                        return true;
                    }
                    _ => self.descriptors.open.push_back(id),
                }
            }
        }
        false
    }

    /// Closes another one, of all there are: at worst a rotated file that is found again by its name.
    fn close_unread(&mut self, but: Option<EpochId>, now: Duration) -> bool {
        if self.descriptors.is_sifted {
            self.drop_closed(now);
        } else {
            self.sift(now);
        }
        let open = self.descriptors.open.iter();
        let mut by_need: Vec<_> = open
            .filter(|id| Some(**id) != but)
            .map(|&id| (self.need(id, IDLE, now), self.detached_at(id), id))
            .collect();
        // The last rotated first.
        by_need.sort_by_key(|&(need, at, id)| (need, std::cmp::Reverse((at, id.number))));
        let found = by_need
            .into_iter()
            .find(|&(need, _, id)| need < Need::Detached || self.keep_name(id));
        let Some((_, _, id)) = found else {
            return false;
        };
        self.descriptors.open.retain(|open| *open != id);
        self.close(id, now);
        true
    }

    /// Whether a file that its path does not name has another name now, which is kept.
    fn keep_name(&mut self, id: EpochId) -> bool {
        let epoch = self.epoch(id);
        let Some((epoch, name)) = epoch.and_then(|epoch| {
            let name = kernel::name_of(epoch.content.as_ref()?.file())?;
            Some((epoch, name))
        }) else {
            return false;
        };
        epoch.place = Some(name);
        true
    }

    /// Gives up deleted files that are not read to their end, when they are more than can be held. The
    /// file that was opened last is not closed for them: it would be deleted in its turn, unseen.
    pub(super) fn give_up_deleted(&mut self, out: &mut Outlet<'_>) {
        let now = out.now().monotonic;
        self.descriptors.is_sifted = false;
        let most = self.config.files_detached_max;
        while self.files_open() > most && self.let_suspect_go() {}
        if self.files_open() <= most {
            return;
        }
        self.sift(now);
        let mut deleted = Vec::from(std::mem::take(&mut self.descriptors.deleted));
        deleted.sort_by_cached_key(|&id| {
            let is_unread = self.unread_of(id) != Some(0);
            (is_unread, self.detached_at(id), id.number, id.lineage)
        });
        // One that went on in a copy is there twice.
        deleted.dedup();
        let surplus = (self.files_open() + deleted.len()).saturating_sub(most);
        let held = deleted.split_off(surplus.min(deleted.len()));
        self.descriptors.deleted = held.into();
        for id in deleted {
            let is_finished = self.held(id).is_some_and(|(_, epoch)| epoch.is_finished());
            if is_finished && self.unread_of(id) == Some(0) {
                self.close(id, now);
            } else {
                self.give_up_unread(id, out);
            }
        }
        while self.files_open() > most && self.close_unread(None, now) {}
    }

    /// Tells the deleted files that are not read to their end from the others. Closed ones are dropped.
    fn sift(&mut self, now: Duration) {
        self.descriptors.is_sifted = true;
        let Descriptors { open, deleted, .. } = &mut self.descriptors;
        open.extend(deleted.drain(..));
        self.drop_closed(now);
        let open = std::mem::take(&mut self.descriptors.open).into_iter();
        let is_bound =
            |id: &EpochId| self.need(*id, IDLE, now) == Need::Detached && self.is_deleted(*id);
        (self.descriptors.deleted, self.descriptors.open) = open.partition(is_bound);
    }

    fn drop_closed(&mut self, now: Duration) {
        let mut open = std::mem::take(&mut self.descriptors.open);
        open.retain(|&id| self.need(id, IDLE, now) != Need::Closed);
        self.descriptors.open = open;
    }

    /// Whether a file is read, and has no name.
    fn is_deleted(&self, id: EpochId) -> bool {
        self.held(id).is_some_and(|(_, epoch)| {
            let content = epoch.content.as_ref();
            epoch.life != Life::Named && content.is_some_and(|it| is_unlinked(it.file()))
        })
    }

    fn give_up_unread(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let path = lineage.path.clone();
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        let rest = unread(epoch);
        let why = Why::NoDescriptor;
        self.audit.closed(&path, epoch, Ending { rest, why }, out);
        epoch.account.is_closed = true;
        epoch.content = None;
        epoch.finish(out.now());
        self.remembering.insert(id.lineage);
        self.note(id, out);
        self.queue(id.lineage);
    }

    /// Tells of the files that were closed for others: what was seen of them, and which are finished.
    pub(super) fn tell_closed(&mut self, out: &mut Outlet<'_>) {
        for id in std::mem::take(&mut self.descriptors.seen) {
            self.note(id, out);
        }
        for id in std::mem::take(&mut self.descriptors.untold) {
            self.note(id, out);
            self.close_finished(id, out);
        }
    }

    /// Whether what is written under names that are not followed can be a late writer's line.
    pub(super) fn awaits_late(&self) -> bool {
        !self.descriptors.late.is_empty()
    }

    /// Something happened to a name that is not followed: it may be a finished file's by now.
    pub(super) fn look_for_late(&mut self, path: &Path, now: Now) {
        if !self.awaits_late() {
            return;
        }
        let inode = fs::symlink_metadata(path).map(|metadata| metadata.ino());
        let late = inode
            .ok()
            .and_then(|inode| self.descriptors.late.get(&inode));
        if let Some(&id) = late
            && let Ok(Some(opened)) = self.open_or_make_room(path, now)
            && self.known_as(&opened) == Some(id)
        {
            self.found_elsewhere(id, path.to_owned(), opened, now);
        }
    }

    /// Looks whether finished files that were closed early have grown, the last time when a late writer's
    /// time is over.
    pub(super) fn look_at_late(&mut self, now: Now) {
        let late: Vec<_> = std::mem::take(&mut self.descriptors.late)
            .into_iter()
            .collect();
        let mut sought = Vec::new();
        for (inode, id) in late {
            let Some((lineage, epoch)) = self.held(id) else {
                continue;
            };
            if let (Life::Finished(since), None) = (epoch.life, &epoch.content) {
                sought.push((id, lineage.position(epoch)));
                if now.monotonic.saturating_sub(since) < LATE {
                    self.descriptors.late.insert(inode, id);
                }
            }
        }
        let mut listings = Listings::of(sought.iter().map(|(_, position)| position));
        for (id, position) in &sought {
            let path = path_of(position);
            if let Ok(Some((place, opened))) = self.find_listed(&path, position, &mut listings)
                && opened.size != position.offset
            {
                self.found_elsewhere(*id, place, opened, now);
            }
        }
    }

    fn close(&mut self, id: EpochId, now: Duration) {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let is_queued = lineage.queued;
        if let Some(epoch) = lineage.epoch(id.number) {
            // Should it be copied and truncated meanwhile, its beginning tells the copy.
            if epoch.head.bytes == 0 {
                match self.reader.look(epoch, now) {
                    Ok(_) => self.descriptors.seen.push(id),
                    Err(error) => tracing::debug!(source = self.config.name, %error,
                        "closed without a look at it"),
                }
            }
            // What it was to be read for is not seen yet.
            let length = epoch.content.as_ref().map(Content::length);
            let is_other = !matches!(length, Some(Ok(length)) if length == epoch.offset);
            epoch.is_stirred |= is_queued && is_other;
            let closed = epoch.content.take();
            if epoch.is_finished() {
                self.descriptors.untold.push(id);
                if !closed.is_some_and(|content| is_unlinked(content.file())) {
                    self.descriptors.late.insert(epoch.key.inode, id);
                }
            }
        }
        // What reading takes is made again when it goes on.
        if !is_queued {
            lineage.stream = None;
        }
    }

    fn need(&self, id: EpochId, idle: Duration, now: Duration) -> Need {
        let Some((lineage, epoch)) = self.held(id) else {
            return Need::Closed;
        };
        let Some(content) = &epoch.content else {
            return Need::Closed;
        };
        let is_idle = !lineage.queued && now.saturating_sub(epoch.grown_at) >= idle;
        match epoch.life {
            Life::Named if is_idle => Need::Idle,
            Life::Named => Need::Waiting,
            Life::Finished(_) if content.length().is_ok_and(|length| length != epoch.offset) => {
                Need::Detached
            }
            Life::Finished(_) if is_unlinked(content.file()) => {
                // Nothing else tells that what is looked through is a copy of its beginning.
                let is_short = usize::from(epoch.head.bytes) < HEAD_BYTES;
                if is_short && self.may_be_vetted_for(id) {
                    Need::Detached
                } else if content.is_closed() {
                    Need::Finished
                } else {
                    Need::Waiting
                }
            }
            Life::Finished(_) => Need::Finished,
            Life::Detached(_) | Life::Truncated(_) | Life::Missing(_) => Need::Detached,
        }
    }

    /// Bytes of an open file behind what was read; `None` where that is not known.
    fn unread_of(&self, id: EpochId) -> Option<u64> {
        self.held(id).and_then(|(_, epoch)| unread(epoch))
    }

    /// Since when its path does not name a file.
    fn detached_at(&self, id: EpochId) -> Duration {
        match self.held(id).map(|(_, epoch)| epoch.life) {
            Some(Life::Detached(since) | Life::Finished(since)) => since,
            _ => Duration::ZERO,
        }
    }

    fn grown_at(&self, id: EpochId) -> Duration {
        self.held(id)
            .map_or(Duration::ZERO, |(_, epoch)| epoch.grown_at)
    }
}

fn unread(epoch: &Epoch) -> Option<u64> {
    let length = epoch.content.as_ref()?.length().ok()?;
    Some(length.saturating_sub(epoch.offset))
}

/// Whether an error says that the process or the system has no descriptor left.
fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Files that did not grow for this long are closed when others are to be opened.
const IDLE: Duration = Duration::from_secs(1);

/// So many files are looked at for one that can be closed, before the need is taken more seriously.
const CANDIDATES: usize = 64;
