//! Goes on where the last run left off.
//!
//! For each position that the spool remembers: the file is looked for at its path, and by its inode
//! among the names of its directory, where a rotation will have left it. Key and guards must hold, or it
//! is another file. The newest epoch of a path comes first: an older one of the same inode was truncated
//! since, and can only be left in a copy.
//!
//! A position whose path the patterns no longer reach is set aside: its file is not followed, and the
//! spool keeps the position, so that nothing comes twice when the pattern does. The same inode under a
//! path that is meant goes on where the position left off.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use model::position::{Codec, Guard, LineageId, Position};

use super::audit::{Account, Ending, Why};
use super::content::Content;
use super::discovery::{Opened, is_absent};
use super::guard::{HEAD_BYTES, TAIL_BYTES};
use super::lineage::{Epoch, Life};
use super::reader::Reader;
use super::{EpochId, FileSource, Inheritance, OpenFile, Phase};
use crate::ambient::Now;
use crate::pipeline::Outlet;
use crate::spool::positions::Placed;

impl FileSource {
    /// Takes over what the spool knows of this source's files.
    pub(super) fn resume(&mut self, out: &mut Outlet<'_>) {
        let phase = if out.spool().knows_source(&self.config.name) {
            Phase::Running
        } else {
            Phase::FirstEver
        };
        let mut lineages: BTreeMap<LineageId, Vec<Placed>> = BTreeMap::new();
        for placed in out.spool().positions() {
            let path = &placed.position.path;
            let own = self.reader.hasher().lineage(&self.config.name, path);
            if own == placed.position.lineage {
                lineages.entry(own).or_default().push(placed);
            }
        }
        for mut epochs in lineages.into_values() {
            epochs.sort_by_key(|placed| std::cmp::Reverse(placed.position.epoch));
            let path = path_of(&epochs[0].position);
            if !self.patterns.reaches(&path) {
                // What was rotated while it was meant is still read to its end.
                let is_draining = |placed: &Placed| {
                    let left = self.inherited.get(&placed.position.key);
                    left.is_some_and(|left| left.is_draining)
                };
                let (draining, aside) = epochs.into_iter().partition(is_draining);
                self.set_aside(&path, aside, out);
                epochs = draining;
            }
            for placed in epochs {
                self.resume_epoch(placed, out);
            }
        }
        self.phase = phase;
    }

    /// Keeps the positions of a path that is no longer meant, and says what is not read.
    fn set_aside(&mut self, path: &Path, epochs: Vec<Placed>, out: &mut Outlet<'_>) {
        for Placed { position, .. } in epochs {
            // A newer epoch of the same inode, or another path's.
            if self.aside.contains_key(&position.key) {
                continue;
            }
            if let Ok(Some((_, opened))) = self.find(path, &position) {
                let is_same = self.reader.is_same(&opened.file, &position);
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
                let epoch = resumed(&position, out.now());
                if !self.told_aside.contains(&position.key) {
                    self.audit.closed(path, &epoch, ending, out);
                }
            }
            self.aside.insert(position.key, position);
        }
    }

    /// Moves a new epoch to where a position that was set aside left off. That one is to be forgotten
    /// once the epoch's own is noted.
    pub(super) fn take_from_aside(&mut self, epoch: &mut Epoch) -> io::Result<Option<Position>> {
        let (Some(position), Some(content)) = (self.aside.get(&epoch.key), &epoch.content) else {
            return Ok(None);
        };
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

    fn resume_epoch(&mut self, placed: Placed, out: &mut Outlet<'_>) {
        let Placed {
            position,
            partition,
        } = placed;
        let path = path_of(&position);
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        let directory = self.directory(dir);
        let index = self.lineage(directory, name);
        if let Some(partition) = partition.filter(|it| it.topic == self.config.topic) {
            self.set_stream(index, partition, out);
        }
        let id = EpochId {
            lineage: index,
            number: position.epoch,
        };
        let found = if self.known.contains_key(&position.key) {
            Ok(None)
        } else {
            self.find_or_inherit(&path, &position)
        };
        let epoch = resumed(&position, out.now());
        if let Some(lineage) = &mut self.lineages[index] {
            lineage.last_epoch = lineage.last_epoch.max(Some(position.epoch));
            lineage.epochs.push_front(epoch);
        }
        match found {
            Ok(Some(found)) => self.resume_found(id, &position, found, out),
            Ok(None) => self.resume_missing(id, out),
            // Not seen is not gone: the epoch stays as it is known.
            Err(error) => {
                self.known.insert(position.key, id);
                self.say_unreadable(&path, &error);
            }
        }
    }

    /// The inode is there. Is what was read of it?
    fn resume_found(
        &mut self,
        id: EpochId,
        position: &Position,
        (place, opened): (PathBuf, Opened),
        out: &mut Outlet<'_>,
    ) {
        if position.codec != Codec::None {
            return self.resume_compressed(id, place, opened, out.now());
        }
        let now = out.now();
        let same = self.reader.is_same(&opened.file, position);
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let is_named = place == lineage.path;
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        if !is_named {
            // A file that was inherited may have no name.
            epoch.place = Some(place).filter(|place| !place.as_os_str().is_empty());
            if !position.finished {
                epoch.life = Life::Detached(now.monotonic);
            }
        }
        epoch.size_seen = opened.size.max(position.offset);
        let is_done = position.finished && opened.size == position.offset;
        epoch.content = (!is_done).then(|| opened.file.into());
        if is_named {
            // All others came before it, also those that a truncation gave a higher number.
            lineage.epochs.rotate_left(1);
        }
        self.known.insert(opened.key, id);
        if is_named {
            if let Some(epoch) = self.epoch(id) {
                epoch.place = None;
            }
            self.follow_link(id.lineage, &path_of(position));
        }
        match same {
            Ok(true) => {
                if !is_done {
                    self.opened(id, now);
                }
                self.attention.insert(id.lineage);
                self.queue(id.lineage);
            }
            // What is there now was never met.
            Ok(false) if position.finished => {
                self.remove_epoch(id);
                out.spool().forget(position.lineage, position.epoch);
            }
            Ok(false) => {
                if let Some(epoch) = self.epoch(id) {
                    // The length is that of what is there now.
                    epoch.size_seen = position.offset;
                }
                self.truncated(id, Why::CutWhileStopped, out);
            }
            Err(error) => {
                let path = path_of(position);
                self.say_unreadable(&path, &error);
            }
        }
    }

    /// The inode is there, and holds what was read of it once it is decompressed: every read looks.
    fn resume_compressed(&mut self, id: EpochId, place: PathBuf, opened: Opened, now: Now) {
        self.known.insert(opened.key, id);
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let is_named = place == lineage.path;
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        epoch.place = (!is_named).then_some(place);
        if epoch.is_finished() {
            return;
        }
        if !is_named {
            epoch.life = Life::Detached(now.monotonic);
        }
        epoch.content = Some(Content::new(opened.file, epoch.codec));
        self.opened(id, now);
        self.attention.insert(id.lineage);
        self.queue(id.lineage);
    }

    /// The inode is gone, or has a newer life. Perhaps a copy is left.
    fn resume_missing(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let now = out.now().monotonic;
        let Some(epoch) = self.epoch(id) else {
            return;
        };
        // A compressed copy of it may be left.
        if epoch.is_finished() {
            return;
        }
        epoch.life = Life::Truncated(now);
        epoch.cut_by = Why::MissingAfterRestart;
        self.seek_copy(id, out);
    }

    /// What this source leaves to the one that takes its place.
    pub(super) fn leave(&mut self) -> Inheritance {
        let mut left = Inheritance {
            files: Vec::new(),
            aside: self.aside.keys().copied().collect(),
            closed: self.audit.recent(),
        };
        let lineages = self.lineages.iter().flatten();
        for epoch in lineages.flat_map(|lineage| &lineage.epochs) {
            let Some(file) = epoch.content.as_ref().map(Content::file) else {
                continue;
            };
            match file.try_clone() {
                Ok(file) => left.files.push(OpenFile {
                    file,
                    key: epoch.key,
                    is_draining: matches!(epoch.life, Life::Detached(_)),
                }),
                Err(error) => tracing::warn!(source = self.config.name, %error,
                    "an open file is looked for by its name"),
            }
        }
        left
    }

    /// Takes over what the source left whose place this one takes.
    pub(super) fn take_over(&mut self, left: Inheritance) {
        let files = left.files.into_iter();
        self.inherited = files.map(|left| (left.key, left)).collect();
        self.told_aside = left.aside;
        self.audit.inherit(left.closed);
    }

    /// Finds the inode of a position, by name or because it was never closed. That one's place is empty.
    fn find_or_inherit(
        &mut self,
        path: &Path,
        position: &Position,
    ) -> io::Result<Option<(PathBuf, Opened)>> {
        let inherited = self.inherited.remove(&position.key);
        if let Ok(Some(found)) = self.find(path, position) {
            return Ok(Some(found));
        }
        let Some(OpenFile { file, key, .. }) = inherited else {
            return self.find(path, position);
        };
        let size = file.metadata()?.len();
        let opened = Opened {
            file,
            key,
            size,
            from: 0,
            codec: Codec::None,
        };
        Ok(Some((PathBuf::new(), opened)))
    }

    /// Finds the inode of a position: at its path, where it was last, or under another name beside it.
    pub(super) fn find(
        &self,
        path: &Path,
        position: &Position,
    ) -> io::Result<Option<(PathBuf, Opened)>> {
        let place = place_of(position);
        let mut failure = None;
        for candidate in [Some(path), place.as_deref()].into_iter().flatten() {
            match self.open(candidate) {
                Ok(Some(opened)) if opened.key == position.key => {
                    return Ok(Some((candidate.to_owned(), opened)));
                }
                Err(error) if !is_absent(&error) => failure = Some(error),
                _ => {}
            }
        }
        let dirs = [path.parent(), place.as_deref().and_then(Path::parent)];
        for dir in dirs.into_iter().flatten() {
            match self.find_in(dir, position) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) if is_absent(&error) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Finds the inode of a position in a directory. Its listing has the numbers: only the right one
    /// is opened.
    fn find_in(&self, dir: &Path, position: &Position) -> io::Result<Option<(PathBuf, Opened)>> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if entry.ino() != position.key.inode {
                continue;
            }
            if let Ok(Some(opened)) = self.open(&entry.path())
                && opened.key == position.key
            {
                return Ok(Some((entry.path(), opened)));
            }
        }
        Ok(None)
    }
}

fn path_of(position: &Position) -> PathBuf {
    PathBuf::from(OsString::from_vec(position.path.clone()))
}

fn place_of(position: &Position) -> Option<PathBuf> {
    let place = position.place.clone();
    place.map(|place| PathBuf::from(OsString::from_vec(place)))
}

/// The epoch of a position, as far as the position tells.
fn resumed(position: &Position, now: Now) -> Epoch {
    Epoch {
        number: position.epoch,
        key: position.key,
        content: None,
        codec: position.codec,
        offset: position.offset,
        head: position.head,
        tail: position.tail,
        form: None,
        searched: 0,
        size_seen: position.offset,
        grown_at: now.monotonic,
        life: if position.finished {
            Life::Finished(now.monotonic)
        } else {
            Life::Named
        },
        copy: None,
        place: place_of(position),
        account: Account::default(),
        cut_by: Why::Truncated,
    }
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

    /// Moves a new epoch to `offset`, with the guards that belong there.
    pub(super) fn restart_at(&self, file: &File, epoch: &mut Epoch, offset: u64) -> io::Result<()> {
        let length = |most: usize| usize::try_from(offset.min(most as u64)).unwrap_or(most);
        let guard = |from, length| {
            let guard = self.guard_at(file, from, length)?;
            guard.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let tail = length(TAIL_BYTES);
        epoch.head = guard(0, length(HEAD_BYTES))?;
        epoch.tail = guard(offset - tail as u64, tail)?;
        epoch.offset = offset;
        epoch.size_seen = offset;
        Ok(())
    }
}
