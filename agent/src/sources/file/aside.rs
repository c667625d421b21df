//! Positions that are set aside: of files that this source does not follow, because its patterns no longer
//! reach them or because the entry that they belong to is gone.
//!
//! The spool keeps such a position, so that nothing comes twice when the pattern does. The same inode under
//! a path that is meant goes on where the position left off. It is kept as long as its file is there, and
//! a day longer.

use std::io;
use std::path::Path;

use model::position::Codec;

use super::audit::{Ending, Why};
use super::find::{Listings, path_of, place_of};
use super::lineage::{Epoch, seconds};
use super::remembered::is_over;
use super::resume::resumed;
use super::{FileSource, kernel};
use crate::limits::ASIDE_EVERY;
use crate::pipeline::Outlet;
use crate::spool::positions::Placed;

impl FileSource {
    /// Whether a source that is new means the file by the name that it has now: it goes on with it.
    pub(super) fn is_left_to_heirs(&self, placed: &Placed) -> bool {
        let position = &placed.position;
        let open = self.inherited.get(&position.key);
        // No event may have told of its last rename yet.
        let now = open.and_then(|left| kernel::name_of(&left.file));
        let known = place_of(position).unwrap_or_else(|| path_of(position));
        let mut paths = now.iter().chain([&known]);
        paths.any(|path| self.heirs.iter().any(|heir| heir.matches(path)))
    }

    /// Keeps the positions of a path that is no longer meant, and says what is not read.
    pub(super) fn set_aside(
        &mut self,
        path: &Path,
        epochs: Vec<Placed>,
        listings: &mut Listings,
        out: &mut Outlet<'_>,
    ) {
        for placed in epochs {
            let position = &placed.position;
            // A newer epoch of the same inode, or another path's.
            if self.aside.contains_key(&position.key) {
                continue;
            }
            if let Ok(Some((_, opened))) = self.find_listed(path, position, listings) {
                let is_same = self.reader.is_same(&opened.file, position);
                let read = if is_same.unwrap_or(true) {
                    position.offset
                } else {
                    0
                };
                let unread = opened.size.saturating_sub(read);
                let ending = Ending {
                    rest: Some(unread),
                    why: Why::Excluded,
                };
                let epoch = resumed(position, out.now());
                if !self.told_aside.contains(&position.key) && !self.is_left_to_heirs(&placed) {
                    self.audit.closed(path, &epoch, ending, out);
                }
            }
            self.aside.insert(position.key, placed);
        }
    }

    /// Moves a new epoch to where a position that was set aside left off. That one is to be forgotten
    /// once the epoch's own is noted.
    pub(super) fn take_from_aside(&mut self, epoch: &mut Epoch) -> io::Result<Option<Placed>> {
        let (Some(placed), Some(content)) = (self.aside.get(&epoch.key), &epoch.content) else {
            return Ok(None);
        };
        let position = &placed.position;
        if position.codec != Codec::None {
            (epoch.offset, epoch.head, epoch.tail) =
                (position.offset, position.head, position.tail);
            return Ok(self.aside.remove(&epoch.key));
        }
        let (file, size_seen) = (content.file().try_clone()?, epoch.size_seen);
        if self.reader.is_same(&file, position)? {
            self.reader.restart_at(&file, epoch, position.offset)?;
            epoch.size_seen = size_seen.max(position.offset);
        }
        Ok(self.aside.remove(&epoch.key))
    }

    /// Forgets positions that were set aside when their files are gone for long.
    pub(super) fn tend_aside(&mut self, out: &mut Outlet<'_>) {
        let now = out.now();
        if self.aside.is_empty() || self.next_aside.is_some_and(|at| at > now.monotonic) {
            return;
        }
        self.next_aside = Some(now.monotonic + ASIDE_EVERY);
        let mut listings = Listings::of(self.aside.values().map(|placed| &placed.position));
        let mut aside = std::mem::take(&mut self.aside);
        aside.retain(|_, placed| {
            let position = &mut placed.position;
            let path = path_of(position);
            let is_there = !matches!(self.find_listed(&path, position, &mut listings), Ok(None));
            is_kept(is_there, placed, out)
        });
        self.aside = aside;
    }
}

/// Whether a position that is set aside is still to be kept. From when on its file is gone is saved.
fn is_kept(is_there: bool, placed: &mut Placed, out: &mut Outlet<'_>) -> bool {
    let now = out.now();
    match placed.position.finished_s {
        Some(since) if !is_there && is_over(since, now) => {
            out.forget(placed.clone());
            return false;
        }
        None if !is_there => {
            placed.position.finished_s = Some(seconds(now));
            out.note(placed.clone());
        }
        _ => {}
    }
    true
}
