//! Files that were renamed before they were met under their first name.
//!
//! Renames go on while they are followed: a file can be shifted on by the next rotations between its
//! event and the look at it. So a name is believed only if no event that came meanwhile says that what
//! bore it has another name by now. Where no name leads to the file and it is not the one that the path
//! was seen to name, or where events were lost, it is sought among the names that a rotation gives. But not
//! where an event says that it was deleted: what lies beside it then is another one, perhaps an old copy.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use model::position::FileKey;

use super::FileSource;
use super::discovery::{Opened, is_absent};
use super::guard::HEAD_BYTES;
use super::lineage::{Life, Lineage};
use super::moved::has_all_of;
use super::pattern::{is_numbered_rotation, is_rotation_of, rotation_bases};
use super::watch::Spot;
use crate::ambient::Now;
use crate::limits::RENAMES_TRIED;
use crate::pipeline::Outlet;

/// A rename of a file that may not have been met under its first name.
#[derive(Clone)]
pub(super) struct Move {
    from: Spot,
    /// Where it went, and has been seen to go on to since.
    place: Spot,
    /// It was deleted there.
    is_gone: bool,
}

impl Move {
    pub(super) fn directories(&self) -> [usize; 2] {
        [self.from.directory, self.place.directory]
    }

    fn is_at(&self, directory: usize, name: &OsStr) -> bool {
        !self.is_gone && self.place.directory == directory && self.place.name == name
    }
}

/// A file that was never met and looks like a rotated one of a path.
struct Stranger {
    born: SystemTime,
    /// The path that it may have had.
    from: Spot,
    to: Spot,
}

impl FileSource {
    /// An event says that a file got another name.
    pub(super) fn moved(&mut self, from: Spot, to: Spot) {
        // The next rotation has shifted it on already.
        for it in &mut self.moves {
            if it.is_at(from.directory, &from.name) {
                it.place.clone_from(&to);
            }
        }
        if self.is_meant(from.directory, &from.name) {
            self.moves.push_back(Move {
                from,
                place: to,
                is_gone: false,
            });
        }
    }

    /// An event says that a name was deleted.
    pub(super) fn deleted(&mut self, directory: usize, name: &OsStr) {
        for it in &mut self.moves {
            it.is_gone |= it.is_at(directory, name);
        }
    }

    /// Begins the files that were renamed before they were met: each is its path's next epoch all the
    /// same.
    pub(super) fn follow_moves(&mut self, out: &mut Outlet<'_>) {
        let mut tries = RENAMES_TRIED;
        while let Some(first) = self.moves.front().cloned() {
            let path = self.path_at(&first.place);
            let opened = if first.is_gone {
                Err(io::ErrorKind::NotFound.into())
            } else {
                self.open_or_make_room(&path, out.now())
            };
            self.take_hints(out.now());
            let next = self.moves.front();
            let is_where_it_was = next.is_some_and(|it| it.place == first.place);
            if !is_where_it_was && tries > 0 {
                tries -= 1;
                continue;
            }
            let Some(Move {
                from,
                place,
                is_gone,
            }) = self.moves.pop_front()
            else {
                return;
            };
            match opened {
                Ok(Some(opened)) if is_where_it_was => {
                    if !self.patterns.matches(&path) {
                        self.begin_renamed(&from, &place, opened, out);
                    }
                }
                // Not a file.
                Ok(None) if is_where_it_was => {}
                _ if self.has_left(&from, out.now()) || is_gone => {}
                _ => self.seek_strangers(&from, &place, out),
            }
        }
    }

    /// Begins a file under the name that it had first, unless it waits for something: then that is
    /// awaited where it is now.
    fn begin_renamed(&mut self, from: &Spot, to: &Spot, opened: Opened, out: &mut Outlet<'_>) {
        let key = opened.key;
        if let Some(id) = self.known_as(&opened) {
            let own = self.directories[from.directory].names.get(&from.name);
            if own == Some(&id.lineage) {
                self.went_to(key, to, out);
            }
            return;
        }
        if self.own_output == Some(key) {
            return;
        }
        self.waiting_went_to(key, to);
        if self.suspect_went_to(key, to)
            || self.is_to_be_vetted(to.directory, &to.name, &opened, out.now())
        {
            return;
        }
        self.found_plain(from.directory, &from.name, opened, out);
        if !self.suspect_went_to(key, to) {
            self.went_to(key, to, out);
        }
    }

    /// A file that was just begun under its first name has another one.
    pub(super) fn went_to(&mut self, key: FileKey, to: &Spot, out: &mut Outlet<'_>) {
        let Some(id) = self.known.get(&key).copied() else {
            return;
        };
        let place = self.path_at(to);
        let Some(epoch) = self.epoch(id) else {
            return;
        };
        epoch.place = Some(place);
        if epoch.life == Life::Named {
            self.detach_named(id.lineage, out.now());
        }
    }

    /// A name was written to. It may be that of a closed file that was renamed just before: should it be
    /// gone when it is looked for, there was more to read of it.
    pub(super) fn stir_moved(&mut self, directory: usize, name: &OsStr) {
        for Move { from, .. } in self.moves.iter().filter(|it| it.is_at(directory, name)) {
            let index = self.directories[from.directory].names.get(&from.name);
            let lineage = index.and_then(|&index| self.lineages[index].as_mut());
            if let Some(epoch) = lineage.and_then(Lineage::named) {
                epoch.is_stirred |= epoch.content.is_none();
            }
        }
    }

    /// Whether the file that a path was seen to name is not there any more: then it is the one that was
    /// renamed, and known, whatever became of it since.
    fn has_left(&mut self, from: &Spot, now: Now) -> bool {
        let Some(&index) = self.directories[from.directory].names.get(&from.name) else {
            return false;
        };
        let named = self.lineages[index].as_mut().and_then(Lineage::named);
        let Some(key) = named.map(|epoch| epoch.key) else {
            return false;
        };
        let is_gone = match self.open(&self.path_at(from)) {
            Ok(present) => present.is_none_or(|present| present.key != key),
            Err(error) => is_absent(&error),
        };
        if is_gone {
            self.detach_named(index, now);
        }
        is_gone
    }

    /// Nothing is known of a renamed file but its first name, and where it was last.
    fn seek_strangers(&mut self, from: &Spot, last: &Spot, out: &mut Outlet<'_>) {
        let entries = match self.calls.list(&self.directories[last.directory].path) {
            Ok(entries) => entries,
            Err(error) => {
                let path = self.directories[last.directory].path.clone();
                return self.say_unreadable(&path, &error);
            }
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        let names = names.filter(|name| is_rotation_of(&from.name, name));
        let names: Vec<_> = names.map(|name| (last.directory, name)).collect();
        self.meet_strangers(&names, out);
    }

    /// Begins those of these files that must have come and gone as followed ones while nobody looked:
    /// they bear a rotated name of a path, were never met, are no copies, and are younger than the last
    /// file that the path was seen to name.
    pub(super) fn meet_strangers(&mut self, names: &[(usize, OsString)], out: &mut Outlet<'_>) {
        let mut strangers: Vec<Stranger> = names
            .iter()
            .filter_map(|(directory, name)| self.stranger(*directory, name))
            .collect();
        strangers.sort_by_key(|stranger| stranger.born);
        for Stranger { from, to, .. } in strangers {
            let path = self.path_at(&to);
            if let Ok(Some(opened)) = self.open_or_make_room(&path, out.now())
                && !self.known.contains_key(&opened.key)
                && !self.begins_like_an_epoch(&from, &opened)
                && !self.is_within_present(&from, &opened)
            {
                tracing::info!(source = self.config.name, path = %path.display(),
                    "file was rotated before it was met");
                self.begin_renamed(&from, &to, opened, out);
            }
        }
    }

    fn stranger(&self, directory: usize, name: &OsStr) -> Option<Stranger> {
        let spot = |name: &OsStr| Spot {
            directory,
            name: name.to_owned(),
        };
        let to = spot(name);
        let path = self.path_at(&to);
        if self.patterns.matches(&path) {
            return None;
        }
        let names = &self.directories[directory].names;
        let base = rotation_bases(name).find(|base| {
            let lineage = names.get(base.as_os_str());
            lineage.is_some() && is_numbered_rotation(base, name)
        })?;
        let lineage = self.lineages[*names.get(&base)?].as_ref()?;
        let metadata = fs::symlink_metadata(&path).ok()?;
        let born = metadata.created().ok().filter(|_| metadata.is_file())?;
        // The clock of a file system has ticks: two can be of one.
        (born >= self.born_last(lineage)?).then(|| Stranger {
            born,
            from: spot(&base),
            to,
        })
    }

    /// When the newest file was made that a path was seen to name; `None` if nobody can tell.
    fn born_last(&self, lineage: &Lineage) -> Option<SystemTime> {
        let epoch = lineage.epochs.back()?;
        let metadata = if let Some(content) = &epoch.content {
            content.file().metadata()
        } else {
            let found = self.find(&lineage.path, &lineage.position(epoch)).ok()?;
            found?.1.file.metadata()
        };
        metadata.ok()?.created().ok()
    }

    /// Whether a file may be a copy of one that its path is known to have named.
    fn begins_like_an_epoch(&self, from: &Spot, opened: &Opened) -> bool {
        let names = &self.directories[from.directory].names;
        let lineage = names.get(&from.name).map(|&index| &self.lineages[index]);
        let Some(Some(lineage)) = lineage else {
            return false;
        };
        let mut own = [0; HEAD_BYTES];
        let Ok(length) = super::content::read_at(&opened.file, &mut own, 0) else {
            return true;
        };
        let mut epochs = lineage.epochs.iter();
        let own = &own[..length];
        length == 0 || epochs.any(|epoch| self.begins_like(lineage, epoch, own).is_some())
    }

    /// Whether the path names a file now that holds all that this one does: one that nobody looked at yet,
    /// and this is its copy.
    fn is_within_present(&self, from: &Spot, opened: &Opened) -> bool {
        let present = self.open(&self.path_at(from)).ok().flatten();
        present.is_some_and(|present| matches!(has_all_of(&opened.file, &present.file), Ok(true)))
    }

    pub(super) fn path_at(&self, spot: &Spot) -> PathBuf {
        self.directories[spot.directory].path.join(&spot.name)
    }
}
