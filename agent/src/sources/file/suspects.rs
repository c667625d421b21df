//! Files that may be copies in the making.
//!
//! A new file that begins as its neighbour does, and bears a name that a rotation would give it, is not
//! read before the neighbour is truncated, or it goes on otherwise than the neighbour does, or nothing came
//! of it for a while.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::position::{Codec, FileKey};

use super::audit::Why;
use super::copies::{Copy, Likeness, Sample};
use super::discovery::{Opened, is_absent};
use super::kernel::is_unlinked;
use super::likeness::Beginning;
use super::lineage::{Life, Lineage, Standing};
use super::pattern::is_rotation_of;
use super::watch::Spot;
use super::{EpochId, FileSource};
use crate::ambient::Now;
use crate::files::{FileState, State};
use crate::limits::{COPY_GRACE, HOLD_MAX};
use crate::pipeline::Outlet;

/// A file that may be a copy in the making.
pub(super) struct Suspect {
    directory: usize,
    name: OsString,
    pub(super) key: FileKey,
    /// Where it is begun if it is a file of its own.
    from: u64,
    passed_over: Why,
    size: u64,
    changed_at: Duration,
    /// When a copy would be made, however slowly.
    made_by: Duration,
    /// Open while few are, so that it is read also when it is deleted meanwhile.
    file: Option<File>,
    /// The last epoch that the path had had when it was seen to name this file.
    after: Option<u32>,
    /// What it began with when a file beside it did too.
    pub(super) beginning: Beginning,
    /// Where it was moved to, when the patterns do not mean that.
    moved_to: Option<Spot>,
}

/// A suspect that one source leaves to the one that takes its place.
pub struct LeftSuspect {
    path: PathBuf,
    moved_to: Option<PathBuf>,
    suspect: Suspect,
}

impl Suspect {
    /// Where it is.
    pub(super) fn directories(&self) -> impl Iterator<Item = usize> {
        let moved_to = self.moved_to.as_ref().map(|spot| spot.directory);
        moved_to.into_iter().chain([self.directory])
    }

    /// Whether it is open.
    pub(super) fn is_held(&self) -> bool {
        self.file.is_some()
    }

    /// Closes it, if it is open and has a name by which it is found again; whether it did.
    pub(super) fn let_go(&mut self) -> bool {
        let file = self.file.take_if(|file| !is_unlinked(file));
        file.is_some()
    }

    /// How much is unread of it.
    pub(super) fn unread(&self) -> u64 {
        self.size.saturating_sub(self.from)
    }

    /// What is told of it.
    pub(super) fn report(&self, source: &FileSource) -> FileState {
        FileState {
            path: source.directories[self.directory].path.join(&self.name),
            key: Some(self.key),
            epoch: None,
            size: self.size,
            offset: self.from,
            state: State::SuspectCopy,
            detail: None,
        }
    }
}

impl FileSource {
    /// Whether a file that was never met may be a copy in the making. What is none after all is begun where
    /// that was settled when it was met.
    pub(super) fn is_suspect(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: &mut Opened,
        now: Now,
    ) -> bool {
        let held = self.suspects.iter().position(|it| it.key == opened.key);
        let was_empty = held.is_some_and(|at| self.suspects[at].size == 0 && opened.size > 0);
        if let Some(at) = held.filter(|_| !was_empty) {
            let is_changed = self.suspects[at].size != opened.size;
            let is_unknown = self.suspects[at].beginning.is_empty();
            let present = (is_changed || is_unknown)
                .then(|| self.begins_like_a_neighbour(directory, name, opened));
            let present = present.flatten();
            let after = self.last_epoch_at(directory, name);
            let suspect = &mut self.suspects[at];
            if (suspect.directory, suspect.name.as_os_str()) != (directory, name) {
                suspect.after = after;
            }
            suspect.directory = directory;
            name.clone_into(&mut suspect.name);
            suspect.moved_to = None;
            if let Some(present) = present {
                suspect.beginning = present;
            }
            if !is_changed {
                return true;
            }
            suspect.size = opened.size;
            suspect.changed_at = now.monotonic;
            if !self.is_refuted(&self.suspects[at].beginning, opened) {
                return true;
            }
            let suspect = self.suspects.remove(at);
            (opened.from, opened.passed_over) = (suspect.from, suspect.passed_over);
            return false;
        }
        // What was suspect because it was empty is judged by what it has now.
        self.suspects.retain(|suspect| suspect.key != opened.key);
        let Some(beginning) = self.begins_like_a_neighbour(directory, name, opened) else {
            return false;
        };
        let is_held = self.makes_room_for_suspect(now);
        let file = is_held.then(|| opened.file.try_clone().ok());
        self.suspects.push(Suspect {
            directory,
            name: name.to_owned(),
            key: opened.key,
            from: opened.from,
            passed_over: opened.passed_over,
            size: opened.size,
            changed_at: now.monotonic,
            made_by: now.monotonic + self.copying_max(&beginning),
            file: file.flatten(),
            after: self.last_epoch_at(directory, name),
            beginning,
            moved_to: None,
        });
        true
    }

    /// The last epoch that a path has had.
    fn last_epoch_at(&self, directory: usize, name: &OsStr) -> Option<u32> {
        let index = *self.directories[directory].names.get(name)?;
        self.lineages[index].as_ref()?.last_epoch
    }

    /// Whether a file waits for what comes of its likeness. It is meant, and begun on its own in the end.
    pub(super) fn is_suspected(&self, key: FileKey) -> bool {
        self.suspects.iter().any(|suspect| suspect.key == key)
    }

    /// A suspect was moved to where the patterns do not mean it. Whether it is one.
    pub(super) fn suspect_went_to(&mut self, key: FileKey, to: &Spot) -> bool {
        let mut suspects = self.suspects.iter_mut();
        let Some(suspect) = suspects.find(|suspect| suspect.key == key) else {
            return false;
        };
        suspect.moved_to = Some(to.clone());
        true
    }

    /// Has suspects looked at again: an event says that something happened in a directory.
    pub(super) fn look_again_at_suspects(&mut self) {
        for suspect in &self.suspects {
            self.looks.insert((suspect.directory, suspect.name.clone()));
        }
    }

    /// Reads suspects as files of their own once nothing came of the suspicion, also those that were
    /// deleted or renamed meanwhile.
    pub(super) fn judge_suspects(&mut self, out: &mut Outlet<'_>) {
        let now = out.now().monotonic;
        let over = self.suspects.iter().filter(|it| self.is_over(it, now));
        let over: Vec<FileKey> = over.map(|suspect| suspect.key).collect();
        for key in over {
            let at = self.suspects.iter().position(|it| it.key == key);
            let suspect = at.map(|at| self.suspects.remove(at));
            if let Some(suspect) = suspect.filter(|it| !self.known.contains_key(&it.key)) {
                self.begin_suspect(suspect, out);
            }
        }
    }

    /// Reads a suspect as a file of its own.
    fn begin_suspect(&mut self, suspect: Suspect, out: &mut Outlet<'_>) {
        let path = match &suspect.moved_to {
            Some(to) => self.path_at(to),
            None => self.directories[suspect.directory].path.join(&suspect.name),
        };
        let is_there = match self.open_or_make_room(&path, out.now()) {
            Ok(Some(mut opened)) if opened.key == suspect.key => {
                opened.from = suspect.from;
                opened.passed_over = suspect.passed_over;
                let Some(to) = &suspect.moved_to else {
                    return self.begin(suspect.directory, &suspect.name, opened, out);
                };
                self.begin_behind(&suspect, opened, out);
                return self.went_to(suspect.key, to, out);
            }
            Ok(other) => other.is_some(),
            Err(error) if is_absent(&error) => false,
            // What cannot be seen is not absent.
            Err(error) => {
                self.say_unreadable(&path, &error);
                return self.suspects.push(suspect);
            }
        };
        if is_there {
            self.looks.insert((suspect.directory, suspect.name.clone()));
        }
        self.begin_gone(suspect, &path, out);
    }

    /// Begins a file that its path does not name any more: before those that the path named since, and
    /// before other suspects that had the path after it.
    fn begin_behind(&mut self, suspect: &Suspect, opened: Opened, out: &mut Outlet<'_>) {
        let spot = (suspect.directory, suspect.name.as_os_str());
        self.begin_as(Standing::Behind(suspect.after), spot, opened, out);
        let number = self.known.get(&suspect.key).map(|id| id.number);
        let others = self.suspects.iter_mut();
        for other in others.filter(|it| (it.directory, it.name.as_os_str()) == spot) {
            other.after = other.after.max(number);
        }
    }

    /// Whether a suspect was suspected for long enough: for longer while it cannot be seen, or was not
    /// noticed yet, that the file beside it was truncated, and while it grows as a copy does.
    fn is_over(&self, suspect: &Suspect, now: Duration) -> bool {
        let since = now.saturating_sub(suspect.changed_at);
        let may_wait = || {
            let mut neighbours = self.neighbours(suspect.directory, &suspect.name);
            neighbours.any(|(_, original)| self.may_be_truncated(original))
        };
        let is_made = suspect.made_by <= now || since >= HOLD_MAX;
        is_made || since >= COPY_GRACE && !may_wait()
    }

    /// Whether a path's file cannot be opened, or is not any more what was read of it.
    fn may_be_truncated(&self, original: &Lineage) -> bool {
        let mut epochs = original.epochs.iter();
        let Some(epoch) = epochs.rfind(|epoch| epoch.life == Life::Named) else {
            return false;
        };
        let is_cut = |file| {
            let is_same = self.reader.is_same(file, &original.position(epoch));
            matches!(is_same, Ok(false))
        };
        match &epoch.content {
            Some(content) => content.plain().is_some_and(is_cut),
            None => match self.open(&original.path) {
                Ok(Some(opened)) => opened.key == epoch.key && is_cut(&opened.file),
                Ok(None) => false,
                Err(error) => !is_absent(&error),
            },
        }
    }

    /// Reads a suspect that its name does not lead to any more, or counts what is lost with it.
    fn begin_gone(&mut self, mut suspect: Suspect, path: &Path, out: &mut Outlet<'_>) {
        let Some(file) = suspect.file.take() else {
            return self.audit.unread(path, suspect.unread(), Why::Deleted, out);
        };
        let opened = Opened {
            size: file
                .metadata()
                .map_or(suspect.size, |metadata| metadata.len()),
            file,
            key: suspect.key,
            from: suspect.from,
            codec: Codec::None,
            passed_over: suspect.passed_over,
        };
        self.begin_behind(&suspect, opened, out);
        if !self.known.contains_key(&suspect.key) {
            // It was open for the last time.
            self.audit.unread(path, suspect.unread(), Why::Deleted, out);
        }
    }

    /// A copy that was deleted or renamed meanwhile, and is held open.
    pub(super) fn suspect_like(
        &self,
        id: EpochId,
        sample: Sample,
        origins: &[Spot],
    ) -> Option<Copy> {
        self.suspects.iter().find_map(|suspect| {
            let is_near = |Spot { directory, name }: &Spot| {
                let is_beside = self
                    .directories_near(*directory)
                    .contains(&suspect.directory);
                is_beside && (*name == suspect.name || is_rotation_of(name, &suspect.name))
            };
            let file = suspect.file.as_ref()?.try_clone().ok()?;
            let opened = Opened {
                size: file.metadata().ok()?.len(),
                file,
                key: suspect.key,
                from: 0,
                codec: Codec::None,
                passed_over: suspect.passed_over,
            };
            let is_copy = origins.iter().any(is_near)
                && !self.known.contains_key(&suspect.key)
                && self.likeness(id, sample, &opened) == Likeness::Copy;
            is_copy.then(|| Copy {
                key: suspect.key,
                directory: suspect.directory,
                name: suspect.name.clone(),
                size: opened.size,
                content: opened.file.into(),
            })
        })
    }

    /// What is left of them to the source that takes this one's place.
    pub(super) fn leave_suspects(&mut self) -> Vec<LeftSuspect> {
        let suspects = std::mem::take(&mut self.suspects).into_iter();
        let left = suspects.map(|suspect| LeftSuspect {
            path: self.directories[suspect.directory].path.join(&suspect.name),
            moved_to: suspect.moved_to.as_ref().map(|to| self.path_at(to)),
            suspect,
        });
        left.collect()
    }

    /// Goes on with the suspects of the source whose place this one takes. What still has its path, and is
    /// not meant any more, is met by the source that means it, if one does.
    pub(super) fn take_over_suspects(&mut self) {
        for left in std::mem::take(&mut self.inherited_suspects) {
            let Some(spot) = self.spot(&left.path) else {
                continue;
            };
            let key = left.suspect.key;
            let has_path = || match self.open(&left.path) {
                Ok(opened) => opened.is_some_and(|opened| opened.key == key),
                Err(error) => !is_absent(&error),
            };
            if !self.is_meant(spot.directory, &spot.name) && has_path() {
                continue;
            }
            let moved_to = left.moved_to.and_then(|to| self.spot(&to));
            self.suspects.push(Suspect {
                directory: spot.directory,
                name: spot.name,
                moved_to,
                // The epochs that it begins like have other numbers in this source.
                beginning: Beginning::default(),
                ..left.suspect
            });
        }
    }

    /// A path as a directory that is watched from now on, and a name.
    fn spot(&mut self, path: &Path) -> Option<Spot> {
        let (dir, name) = path.parent().zip(path.file_name())?;
        Some(Spot {
            directory: self.directory(dir),
            name: name.to_owned(),
        })
    }
}
