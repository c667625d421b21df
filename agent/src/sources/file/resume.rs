//! Goes on where the last run left off.
//!
//! For each position that the spool remembers: the file is looked for at its path, and by its inode
//! among the names of its directory, where a rotation will have left it. Key and guards must hold, or it
//! is another file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use model::position::{Guard, LineageId, Position};

use super::discovery::{Opened, is_absent};
use super::guard::{HEAD_BYTES, TAIL_BYTES};
use super::lineage::{Epoch, Life, bytes_of};
use super::reader::Reader;
use super::{FileSource, Phase};
use crate::ambient::Now;
use crate::pipeline::Outlet;
use crate::spool::positions::{Loss, Placed};

/// A file that was there when the agent stopped and cannot be found any more.
pub(super) const LOST_MISSING: &str = "missing_after_restart";

impl FileSource {
    /// Takes over what the spool knows of this source's files.
    pub(super) fn resume(&mut self, now: Now, out: &mut Outlet<'_>) {
        self.phase = if out.spool().knows_source(&self.config.name) {
            Phase::Running
        } else {
            Phase::FirstEver
        };
        let mut lineages: BTreeMap<LineageId, Vec<Placed>> = BTreeMap::new();
        for placed in out.spool().positions() {
            let position = &placed.position;
            let own = self
                .reader
                .hasher()
                .lineage(&self.config.name, &position.path);
            if own == position.lineage {
                lineages.entry(own).or_default().push(placed);
            }
        }
        for (_, mut epochs) in lineages {
            epochs.sort_by_key(|placed| placed.position.epoch);
            for placed in epochs {
                self.resume_epoch(placed, now, out);
            }
        }
    }

    fn resume_epoch(&mut self, placed: Placed, now: Now, out: &mut Outlet<'_>) {
        let Placed {
            position,
            partition,
        } = placed;
        let path = PathBuf::from(OsString::from_vec(position.path.clone()));
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        let directory = self.directory(dir);
        let index = self.lineage(directory, name);
        if partition.topic == self.config.topic {
            self.set_stream(index, partition, out);
        }
        let number = position.epoch;
        let found = self.find(&path, &position);
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        lineage.met = false;
        lineage.last_epoch = lineage.last_epoch.max(Some(number));
        let mut epoch = resumed(&position, now);
        match found {
            Ok(Some((place, opened))) => {
                let is_named = place == path;
                epoch.place = (!is_named).then_some(place);
                epoch.size_seen = opened.size.max(position.offset);
                let key = opened.key;
                let same = self.reader.is_same(&opened.file, &position);
                epoch.file = Some(opened.file);
                if !position.finished {
                    epoch.life = if is_named {
                        Life::Named
                    } else {
                        Life::Detached(now.monotonic)
                    };
                }
                lineage.epochs.push_back(epoch);
                self.known.insert(key, (index, number));
                match same {
                    Ok(true) => {
                        if position.finished {
                            self.close(index, number);
                        }
                        self.attention.insert(index);
                        self.queue(index);
                    }
                    Ok(false) if position.finished => self.drop_epoch(index, number, out),
                    Ok(false) => self.truncated(index, number, now, out),
                    Err(error) => self.say_unreadable(&path, &error),
                }
            }
            Ok(None) if position.finished => out.spool().forget(position.lineage, number),
            // Perhaps a copy is left.
            Ok(None) => {
                epoch.life = Life::Truncated(now.monotonic);
                epoch.size_seen = position.offset;
                lineage.epochs.push_back(epoch);
                self.seek_copy(index, number, now, out);
                let is_gone = self.epoch(index, number).is_none();
                if is_gone {
                    self.count_missing(&path, out);
                }
            }
            // Not seen is not gone.
            Err(error) => {
                lineage.epochs.push_back(epoch);
                self.known.insert(position.key, (index, number));
                self.say_unreadable(&path, &error);
            }
        }
    }

    fn count_missing(&mut self, path: &Path, out: &mut Outlet<'_>) {
        tracing::warn!(source = self.config.name, path = %path.display(),
            "file went away while the agent was stopped; what was added to it since is lost");
        let loss = Loss {
            records: 0,
            bytes: 0,
        };
        out.count_loss(&self.config.name, LOST_MISSING, loss);
    }

    /// Finds the inode of a position: where it was, at its path, or under another name beside it.
    fn find(&self, path: &Path, position: &Position) -> io::Result<Option<(PathBuf, Opened)>> {
        let place = position
            .place
            .as_ref()
            .map(|place| PathBuf::from(OsString::from_vec(place.clone())));
        let mut error = None;
        for candidate in [Some(path.to_owned()), place.clone()].into_iter().flatten() {
            match self.open(&candidate) {
                Ok(Some(opened)) if opened.key == position.key => {
                    return Ok(Some((candidate, opened)));
                }
                Err(failure) if !is_absent(&failure) => error = Some(failure),
                _ => {}
            }
        }
        let dirs = [path.parent(), place.as_deref().and_then(Path::parent)];
        for dir in dirs.into_iter().flatten() {
            let entries = match std::fs::read_dir(dir) {
                Ok(entries) => entries,
                Err(failure) => {
                    if !is_absent(&failure) {
                        error = Some(failure);
                    }
                    continue;
                }
            };
            for entry in entries.flatten() {
                if entry.ino() != position.key.inode {
                    continue;
                }
                if let Ok(Some(opened)) = self.open(&entry.path())
                    && opened.key == position.key
                {
                    return Ok(Some((entry.path(), opened)));
                }
            }
        }
        error.map_or(Ok(None), Err)
    }

    /// A finished epoch needs no open file.
    fn close(&mut self, index: usize, number: u32) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let path = lineage.path.clone();
        if let Some(epoch) = lineage.epoch(number) {
            let has_more = epoch.size_seen > epoch.offset;
            if !has_more {
                epoch.file = None;
            }
            debug_assert!(!bytes_of(&path).is_empty());
        }
    }

    fn drop_epoch(&mut self, index: usize, number: u32, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let id = lineage.id;
        if let Some(at) = lineage
            .epochs
            .iter()
            .position(|epoch| epoch.number == number)
            && let Some(epoch) = lineage.epochs.remove(at)
        {
            self.known.remove(&epoch.key);
        }
        out.spool().forget(id, number);
    }
}

/// The epoch of a position, as far as the position tells.
fn resumed(position: &Position, now: Now) -> Epoch {
    Epoch {
        number: position.epoch,
        key: position.key,
        file: None,
        offset: position.offset,
        head: position.head,
        tail: position.tail,
        size_seen: position.offset,
        grown_at: now.monotonic,
        life: if position.finished {
            Life::Finished(now.monotonic)
        } else {
            Life::Named
        },
        place: None,
    }
}

impl Reader {
    /// Whether the file still holds what was read of it.
    fn is_same(&self, file: &File, position: &Position) -> io::Result<bool> {
        let guard = |from, guard: Guard| -> io::Result<bool> {
            let found = self.guard_at(file, from, usize::from(guard.bytes))?;
            Ok(found == Some(guard))
        };
        let Some(tail_from) = position.offset.checked_sub(position.tail.bytes.into()) else {
            return Ok(false);
        };
        Ok(guard(0, position.head)? && guard(tail_from, position.tail)?)
    }

    /// Moves a new epoch to `offset`, with the guards that belong there.
    pub(super) fn restart_at(&self, file: &File, epoch: &mut Epoch, offset: u64) -> io::Result<()> {
        let length = |most: usize| usize::try_from(offset.min(most as u64)).unwrap_or(most);
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let tail = length(TAIL_BYTES);
        epoch.head = self
            .guard_at(file, 0, length(HEAD_BYTES))?
            .ok_or_else(short)?;
        epoch.tail = self
            .guard_at(file, offset - tail as u64, tail)?
            .ok_or_else(short)?;
        epoch.offset = offset;
        epoch.size_seen = offset;
        Ok(())
    }
}
