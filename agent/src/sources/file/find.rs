//! Finds a file again of which a position is known: at its path, where it was last, or by its inode's
//! number among the names of a directory, where a rotation will have left it.
//!
//! What is not found is gone only if it can be seen to be: a directory that cannot be read, or that lies
//! on another file system than the file did, says nothing. A disk may be mounted late.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use model::position::{FileKey, Guard, KeyLevel, Position};

use super::calls::Calls;
use super::discovery::{Opened, is_absent};
use super::kernel::{Agreement, agreement, is_weak};
use super::pattern::is_rotation_of;
use super::reader::Reader;
use super::{EpochId, FileSource};

/// A file that was found, and the path that it has now.
pub(super) type Found = (PathBuf, Opened);

/// The names of some inodes in directories, each of which is listed once.
pub(super) struct Listings {
    sought: HashSet<u64>,
    names: HashMap<PathBuf, HashMap<u64, Vec<OsString>>>,
}

impl Listings {
    /// No directory is listed yet.
    pub(super) fn of<'a>(sought: impl IntoIterator<Item = &'a Position>) -> Listings {
        let inodes = sought.into_iter().map(|position| position.key.inode);
        Listings {
            sought: inodes.collect(),
            names: HashMap::new(),
        }
    }

    fn names(&mut self, calls: &Calls, dir: &Path, inode: u64) -> io::Result<Vec<OsString>> {
        if !self.names.contains_key(dir) {
            let mut names: HashMap<u64, Vec<OsString>> = HashMap::new();
            for entry in calls.list(dir)? {
                let entry = entry?;
                if self.sought.contains(&entry.ino()) {
                    names
                        .entry(entry.ino())
                        .or_default()
                        .push(entry.file_name());
                }
            }
            self.names.insert(dir.to_owned(), names);
        }
        let names = self.names.get(dir).and_then(|names| names.get(&inode));
        Ok(names.cloned().unwrap_or_default())
    }
}

impl FileSource {
    /// Finds the file of a position at its path, where it was last, or beside either.
    pub(super) fn find(&self, path: &Path, position: &Position) -> io::Result<Option<Found>> {
        self.find_listed(path, position, &mut Listings::of([position]))
    }

    /// The same for one of many.
    pub(super) fn find_listed(
        &self,
        path: &Path,
        position: &Position,
        listings: &mut Listings,
    ) -> io::Result<Option<Found>> {
        let place = place_of(position);
        let mut failure = None;
        for candidate in [Some(path), place.as_deref()].into_iter().flatten() {
            match self.open_if_it(candidate, position) {
                Ok(Some(opened)) => return Ok(Some((candidate.to_owned(), opened))),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        let dirs = [path.parent(), place.as_deref().and_then(Path::parent)];
        for dir in dirs.into_iter().flatten() {
            match self.find_in(dir, position, listings) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Finds the file of a position in a directory. Its listing has the numbers: only the right one is
    /// opened.
    pub(super) fn find_in(
        &self,
        dir: &Path,
        position: &Position,
        listings: &mut Listings,
    ) -> io::Result<Option<Found>> {
        let names = match listings.names(&self.calls, dir, position.key.inode) {
            Err(error) if is_absent(&error) => return Ok(None),
            names => names?,
        };
        let mut failure = None;
        for name in names {
            let path = dir.join(name);
            match self.open_if_it(&path, position) {
                Ok(Some(opened)) => return Ok(Some((path, opened))),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    fn open_if_it(&self, path: &Path, position: &Position) -> io::Result<Option<Opened>> {
        match self.open(path) {
            Ok(Some(opened)) if self.is_it(path, &opened, position)? => Ok(Some(opened)),
            Err(error) if !is_absent(&error) => Err(error),
            _ => Ok(None),
        }
    }

    /// Whether a file is that of a position. At its own path a key is believed: what is there may have
    /// been written anew. Elsewhere one that two files can have must agree with the guards.
    fn is_it(&self, path: &Path, opened: &Opened, position: &Position) -> io::Result<bool> {
        let is_sure = !is_weak(position.key.level) || path == path_of(position);
        match agreement(position.key, opened.key) {
            Agreement::Yes if is_sure => Ok(true),
            Agreement::No => Ok(false),
            // Nothing was read of it that could tell.
            Agreement::Yes | Agreement::Perhaps if position.head.bytes == 0 => {
                let own = path_of(position);
                let names = own.file_name().zip(path.file_name());
                Ok(path == own || names.is_some_and(|(own, name)| is_rotation_of(own, name)))
            }
            Agreement::Yes | Agreement::Perhaps => self.reader.is_same(&opened.file, position),
        }
    }

    /// Whether a file that was not found is gone, as far as can be seen: where it was, its file system
    /// is there without it.
    pub(super) fn is_gone(&self, position: &Position) -> bool {
        let path = place_of(position).unwrap_or_else(|| path_of(position));
        let dir = path.parent().unwrap_or(&path);
        let there = self.calls.file_system_of(dir);
        there.is_ok_and(|number| number == position.key.file_system)
    }

    /// An epoch's file has another key from now on.
    pub(super) fn take_key(&mut self, id: EpochId, key: FileKey) {
        let Some(epoch) = self.epoch(id) else {
            return;
        };
        let old = std::mem::replace(&mut epoch.key, key);
        if self.known.get(&old) == Some(&id) {
            self.known.remove(&old);
        }
        self.known.insert(key, id);
    }
}

/// A key of which nothing but the number is believed any more: no file has it, and any of that number
/// may be it.
pub(super) fn doubted(key: FileKey) -> FileKey {
    FileKey {
        level: KeyLevel::Inode,
        file_system: 0,
        ..key
    }
}

pub(super) fn path_of(position: &Position) -> PathBuf {
    PathBuf::from(OsString::from_vec(position.path.clone()))
}

pub(super) fn place_of(position: &Position) -> Option<PathBuf> {
    let place = position.place.clone();
    place.map(|place| PathBuf::from(OsString::from_vec(place)))
}

impl Reader {
    /// Whether the file still holds what was read of it.
    pub(super) fn is_same(&self, file: &File, position: &Position) -> io::Result<bool> {
        let has = |from, guard: Guard| -> io::Result<bool> {
            let found = self.guard_at(file, from, usize::from(guard.bytes))?;
            Ok(found == Some(guard))
        };
        let Some(tail_from) = position.offset.checked_sub(position.tail.bytes.into()) else {
            return Ok(false);
        };
        Ok(has(0, position.head)? && has(tail_from, position.tail)?)
    }
}
