//! Positions that are set aside: of files that this source does not follow, because its patterns no longer
//! reach them or because the entry that they belong to is gone.
//!
//! The spool keeps such a position, so that nothing comes twice when the pattern does. The same inode under
//! a path that is meant goes on where the position left off. It is kept as long as its file is there, and
//! a day longer.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use model::position::{Codec, FileKey, Position};

use super::audit::{Ending, Why};
use super::find::{Listings, path_of, place_of};
use super::lineage::{Epoch, Life, seconds};
use super::pattern::Patterns;
use super::remembered::is_over;
use super::resume::resumed;
use super::{EpochId, FileConfig, FileSource, kernel};
use crate::limits::ASIDE_EVERY;
use crate::pipeline::Outlet;
use crate::spool::positions::Placed;

/// A source that may mean what this one had before it came to mean nothing.
pub(super) struct Heir {
    name: String,
    patterns: Patterns,
    /// Files of which it has positions of its own: it goes on from those, and leaves this source's to it.
    own: HashSet<FileKey>,
}

impl Heir {
    pub(super) fn new(config: &FileConfig) -> Result<Heir, globset::Error> {
        Ok(Heir {
            name: config.name.clone(),
            patterns: Patterns::new(&config.files, &config.exclude)?,
            own: HashSet::new(),
        })
    }

    /// Whether it goes on with the file of a position, which has this path.
    fn takes(&self, position: &Position, path: &Path) -> bool {
        self.patterns.matches(path) && !self.own.contains(&position.key)
    }
}

impl FileSource {
    /// Takes note of which files the heirs have positions of their own.
    pub(super) fn meet_heirs(&mut self, positions: &[Placed]) {
        let mut heirs = std::mem::take(&mut self.heirs);
        for heir in &mut heirs {
            let positions = positions.iter().map(|placed| &placed.position);
            let own = positions.filter(|position| self.is_of(&heir.name, position));
            heir.own = own.map(|position| position.key).collect();
        }
        self.heirs = heirs;
    }

    /// Whether another source means the file by the name that it has now, and did not have it before: it
    /// goes on with it.
    pub(super) fn is_left_to_heirs(&self, placed: &Placed) -> bool {
        let position = &placed.position;
        let open = self.inherited.get(&position.key);
        // No event may have told of its last rename yet.
        let now = open.and_then(|left| kernel::name_of(&left.file));
        let known = place_of(position).unwrap_or_else(|| path_of(position));
        let mut paths = now.iter().chain([&known]);
        paths.any(|path| self.heirs.iter().any(|heir| heir.takes(position, path)))
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
    pub(super) fn take_from_aside(
        &mut self,
        epoch: &mut Epoch,
        out: &mut Outlet<'_>,
    ) -> io::Result<Option<Placed>> {
        let (Some(placed), Some(content)) = (self.aside.get(&epoch.key), &epoch.content) else {
            return Ok(None);
        };
        let placed = as_of_now(placed, out)?;
        let position = &placed.position;
        if position.codec != Codec::None {
            (epoch.offset, epoch.head, epoch.tail) =
                (position.offset, position.head, position.tail);
        } else if self.reader.is_same(content.file(), position)? {
            let (file, size_seen) = (content.file().try_clone()?, epoch.size_seen);
            self.reader.restart_at(&file, epoch, position.offset)?;
            epoch.size_seen = size_seen.max(position.offset);
        } else if !self.is_of(&self.config.name, position) {
            // It may be read still, in a copy.
            self.aside.remove(&epoch.key);
            return Ok(None);
        }
        self.aside.remove(&epoch.key);
        Ok(Some(placed))
    }

    /// Reads no further in files that another source has taken since this one means nothing: their
    /// positions are forgotten. What is sought in a copy is not in the file any more.
    pub(super) fn leave_what_was_taken(&mut self, out: &mut Outlet<'_>) {
        if !self.config.files.is_empty() {
            return;
        }
        let mut taken = Vec::new();
        for (index, lineage) in self.lineages.iter().enumerate() {
            let Some(lineage) = lineage else {
                continue;
            };
            let left = out.spool().positions_of(lineage.id);
            let is_left = |number| left.iter().any(|it| it.position.epoch == number);
            let epochs = lineage.epochs.iter().filter(|epoch| {
                !matches!(epoch.life, Life::Truncated(_)) && !is_left(epoch.number)
            });
            taken.extend(epochs.map(|epoch| EpochId {
                lineage: index,
                number: epoch.number,
            }));
        }
        for id in taken {
            self.remove_epoch(id);
        }
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
            let mut left = out
                .spool()
                .positions_of(placed.position.lineage)
                .into_iter();
            let Some(present) = left.find(|it| it.position.epoch == placed.position.epoch) else {
                return false;
            };
            *placed = present;
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

/// A position that was set aside, as it is now: who reads its file may have read on since, or met another
/// life of it. What was taken must be in the spool before another source goes on from there.
fn as_of_now(placed: &Placed, out: &mut Outlet<'_>) -> io::Result<Placed> {
    let is_in_spool = placed
        .partition
        .as_ref()
        .is_none_or(|it| out.is_in_spool(it));
    if !is_in_spool {
        let waits = "what another source has read of it waits for room in the spool";
        return Err(io::Error::other(waits));
    }
    let mut of_path = out
        .spool()
        .positions_of(placed.position.lineage)
        .into_iter();
    let newest = of_path.rfind(|it| it.position.key == placed.position.key);
    Ok(newest.unwrap_or_else(|| placed.clone()))
}
