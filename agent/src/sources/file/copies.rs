//! Copies of files: what `copytruncate` leaves, found and not read twice.
//!
//! A copy is known by the guards: the same head, and the same bytes before the offset. It is read on as
//! the epoch that it is a copy of, and never as a file of its own. Where there is none, what is known
//! to be unread is counted as lost.
//!
//! A new file that begins as its neighbour does, and bears a name that a rotation would give it, may be
//! a copy in the making: it is not read before the neighbour is truncated, or it goes on otherwise than
//! the neighbour does, or nothing came of it for a while.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::position::{Codec, FileKey, Guard};

use super::audit::{Ending, Why};
use super::content::Content;
use super::discovery::{Opened, is_absent};
use super::kernel::is_unlinked;
use super::likeness::Beginning;
use super::lineage::{Epoch, Life, Lineage, Standing};
use super::moved::is_restored;
use super::pattern::is_rotation_of;
use super::siblings::Listed;
use super::watch::Spot;
use super::{EpochId, FileSource, Phase};
use crate::ambient::Now;
use crate::files::{FileState, State};
use crate::limits::{COPY_GRACE, HOLD_MAX};
use crate::pipeline::Outlet;

/// A file that may be a copy in the making.
pub(super) struct Suspect {
    directory: usize,
    name: OsString,
    key: FileKey,
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
    beginning: Beginning,
    /// Where it was moved to, when the patterns do not mean that.
    moved_to: Option<Spot>,
}

/// What a copy must have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) offset: u64,
    pub(super) head: Guard,
    pub(super) tail: Guard,
}

/// A file that is an epoch's copy.
pub(super) struct Copy {
    pub(super) key: FileKey,
    pub(super) directory: usize,
    pub(super) name: OsString,
    /// How much it holds.
    pub(super) size: u64,
    pub(super) content: Content,
}

impl Sample {
    pub(super) fn of(epoch: &Epoch) -> Sample {
        Sample {
            offset: epoch.offset,
            head: epoch.head,
            tail: epoch.tail,
        }
    }
}

/// What a file is to a truncated epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    /// Its copy, as far as it was read and further.
    Copy,
    /// Its copy, made before the last that was read.
    ShortCopy,
    None,
}

/// What is found among the files beside a truncated one.
enum Found {
    Copy(Copy),
    /// A copy which ends before what was added to the file until it was rotated and compressed, if that is
    /// what a newer compressed one turns out to be.
    Perhaps(Copy),
    /// Something is not where it was listed for others.
    Moved,
    None {
        short: Option<Copy>,
        all_seen: bool,
    },
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
    /// Looks for the copy of a truncated epoch among the files beside it.
    pub(super) fn seek_copy(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        self.seek_copy_in(&mut Listed::default(), id, out);
    }

    /// The same where directories may be listed already, since the file was truncated.
    pub(super) fn seek_copy_in(&mut self, listed: &mut Listed, id: EpochId, out: &mut Outlet<'_>) {
        if self.phase == Phase::New {
            // What lies beside it may be a file that is not taken up yet.
            self.attention.insert(id.lineage);
            return;
        }
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let own = Spot {
            directory: lineage.directory,
            name: lineage.name.clone(),
        };
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        let Life::Truncated(since) = epoch.life else {
            return;
        };
        let copy = epoch.copy.take();
        let (place, sample) = (epoch.place.clone(), Sample::of(epoch));
        let has_unread = epoch.size_seen > epoch.offset;
        // It may hold the rest, or end before what was read since.
        if let Some((key, ..)) = copy {
            self.doubt_copy(key);
        }
        let origins = self.origins(own, place.as_deref());
        let waited = out.now().monotonic.saturating_sub(since);
        let (short, all_seen) = match self.look_at_siblings((id, sample), &origins, listed, out) {
            Found::Moved => return self.seek_copy_in(listed, id, out),
            Found::Perhaps(_) if waited < HOLD_MAX => return,
            Found::Copy(copy) | Found::Perhaps(copy) => return self.absorb(id, copy, out),
            Found::None { short, all_seen } => (short, all_seen),
        };
        if let Some(copy) = self.suspect_like(id, sample, &origins) {
            self.looks.insert((copy.directory, copy.name.clone()));
            return self.absorb(id, copy, out);
        }
        // What somebody goes on writing to may never be looked through.
        if self.may_be_vetted_for(id) && waited < HOLD_MAX {
            return;
        }
        if let Some(copy) = short {
            return self.absorb(id, copy, out);
        }
        // What cannot be seen is not absent.
        let grace = if all_seen { COPY_GRACE } else { HOLD_MAX };
        if waited >= grace || all_seen && !has_unread {
            self.give_up(id, out);
        }
    }

    /// Opens the files that a copy may be by their names.
    fn look_at_siblings(
        &mut self,
        (id, sample): (EpochId, Sample),
        origins: &[Spot],
        listed: &mut Listed,
        out: &Outlet<'_>,
    ) -> Found {
        listed.begin();
        let (siblings, mut all_seen) = self.siblings(origins, listed);
        let (mut short, mut is_newer_unvetted) = (None, false);
        for Spot { directory, name } in siblings {
            let opened = match self.open(&self.directories[directory].path.join(&name)) {
                Ok(Some(opened)) => opened,
                Ok(None) => continue,
                Err(error) if is_absent(&error) && listed.renew() => return Found::Moved,
                Err(error) => {
                    all_seen &= is_absent(&error);
                    continue;
                }
            };
            if self.known_as(&opened).is_some() {
                continue;
            }
            if self.is_to_be_vetted(directory, &name, &opened, out.now()) {
                is_newer_unvetted |= self.is_vetted_for(id, opened.key);
                continue;
            }
            let likeness = self.likeness(id, sample, &opened);
            let copy = Copy {
                key: opened.key,
                directory,
                name,
                size: opened.size,
                content: opened.file.into(),
            };
            let may_be_backup = is_newer_unvetted && !self.is_suspected(copy.key);
            match likeness {
                Likeness::Copy if may_be_backup => return Found::Perhaps(copy),
                Likeness::Copy => return Found::Copy(copy),
                Likeness::ShortCopy => short = Some(copy),
                Likeness::None => {}
            }
        }
        Found::None { short, all_seen }
    }

    /// Where copies are named for: the path and, where that is a link, what it leads to.
    fn origins(&mut self, own: Spot, place: Option<&Path>) -> Vec<Spot> {
        let mut origins = vec![own];
        if let Some((dir, name)) = place.and_then(|it| it.parent().zip(it.file_name())) {
            origins.push(Spot {
                directory: self.directory(dir),
                name: name.to_owned(),
            });
        }
        origins
    }

    /// A copy that was deleted or renamed meanwhile, and is held open.
    fn suspect_like(&self, id: EpochId, sample: Sample, origins: &[Spot]) -> Option<Copy> {
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

    fn likeness(&self, id: EpochId, sample: Sample, candidate: &Opened) -> Likeness {
        let has = |from, guard: Guard| {
            let found = self
                .reader
                .guard_at(&candidate.file, from, usize::from(guard.bytes));
            matches!(found, Ok(Some(found)) if found == guard)
        };
        if sample.head.bytes == 0 {
            return Likeness::None;
        }
        if !has(0, sample.head) {
            // The guard at the head of a young file is over more than such a copy holds.
            let mut suspects = self.suspects.iter();
            let is_all_seen = suspects.any(|suspect| {
                let Beginning { head, .. } = suspect.beginning;
                let all = u64::from(head.bytes) == candidate.size;
                suspect.key == candidate.key && suspect.beginning.is_like(id) && all && has(0, head)
            });
            let is_short = candidate.size > 0 && candidate.size < u64::from(sample.head.bytes);
            return if is_short && is_all_seen {
                Likeness::ShortCopy
            } else {
                Likeness::None
            };
        }
        if candidate.size < sample.offset {
            return Likeness::ShortCopy;
        }
        if has(sample.offset - u64::from(sample.tail.bytes), sample.tail) {
            Likeness::Copy
        } else {
            Likeness::None
        }
    }

    /// Goes on with a truncated epoch in its copy.
    pub(super) fn absorb(&mut self, id: EpochId, copy: Copy, out: &mut Outlet<'_>) {
        let now = out.now();
        let path = self.directories[copy.directory].path.join(&copy.name);
        tracing::info!(source = self.config.name, copy = %path.display(),
            "truncated file goes on in its copy");
        let is_all = self.is_surely_all(id, &copy);
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let original = lineage.path.clone();
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        // Written between the copy and the truncation.
        let cut = epoch.size_seen.saturating_sub(copy.size.max(epoch.offset));
        epoch.account.cut += cut;
        self.audit.unread(&original, cut, epoch.cut_by, out);
        if !is_all && !std::mem::replace(&mut epoch.account.is_doubtful, true) {
            self.audit.doubtful(&original, epoch.cut_by, out);
        }
        let has_nothing_new = copy.size < epoch.offset;
        if has_nothing_new {
            // What was read is told, before the epoch is as long as the copy.
            self.close_finished(id, out);
        }
        let lineage = self.lineages[id.lineage].as_mut();
        let Some(epoch) = lineage.and_then(|it| it.epoch(id.number)) else {
            return;
        };
        let was_open = epoch.content.is_some();
        let old = std::mem::replace(&mut epoch.key, copy.key);
        epoch.is_copied = true;
        epoch.codec = copy.content.codec();
        epoch.place = Some(path);
        epoch.grown_at = now.monotonic;
        epoch.is_unseen = false;
        if has_nothing_new {
            // From now on the epoch is this file, which is known by its own size and content.
            if let Some(file) = copy.content.plain()
                && let Err(error) = self.reader.restart_at(file, epoch, copy.size)
            {
                tracing::debug!(source = self.config.name, %error, "a short copy is not known again");
            }
            epoch.finish(now);
        } else {
            epoch.size_seen = copy.size;
            epoch.content = Some(copy.content);
            epoch.life = Life::Detached(now.monotonic);
        }
        if self.known.get(&old) == Some(&id) {
            self.known.remove(&old);
        }
        self.known.insert(copy.key, id);
        self.suspects.retain(|suspect| suspect.key != copy.key);
        self.attention.insert(id.lineage);
        if self.is_meant(copy.directory, &copy.name) {
            let alias = self.lineage(copy.directory, &copy.name);
            self.become_alias(alias, copy.key, now);
        }
        self.note(id, out);
        if !has_nothing_new && !was_open {
            self.holds(id);
        }
        self.queue(id.lineage);
    }

    /// Whether a copy has all that its file ever had. One that was made of a file that is gone now may be an
    /// earlier one, and what was added to the file since is in neither. Who moves a file gives the copy
    /// the file's own time or brings it to another file system, and who compresses a rotated one takes all
    /// of it.
    fn is_surely_all(&self, id: EpochId, copy: &Copy) -> bool {
        let Some((_, epoch)) = self.held(id) else {
            return true;
        };
        let is_gone = matches!(epoch.cut_by, Why::MissingAfterRestart | Why::Deleted);
        let is_shadowed = self.known.get(&epoch.key).is_some_and(|of| *of != id);
        let is_moved = epoch.key.file_system != copy.key.file_system;
        !is_gone || is_shadowed || is_moved || copy.content.plain().is_none_or(is_restored)
    }

    /// There is no copy: what is known to be unread is lost.
    fn give_up(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        if self.close_gone(id, out) {
            return;
        }
        let lineage = self.lineages[id.lineage].as_mut();
        let placed = lineage.and_then(|lineage| {
            let mut epochs = lineage.epochs.iter();
            let epoch = epochs.find(|epoch| epoch.number == id.number)?;
            Some(lineage.placed(epoch))
        });
        let Some(((_, path, epoch), placed)) = self.remove_epoch(id).zip(placed) else {
            return;
        };
        let known = epoch.size_seen.saturating_sub(epoch.offset);
        let why = epoch.cut_by;
        let rest = match why {
            // What was added to it since it was last seen is gone too.
            Why::CutWhileStopped if known == 0 => None,
            _ => Some(known),
        };
        self.audit.closed(&path, &epoch, Ending { rest, why }, out);
        out.forget(placed);
        self.queue(id.lineage);
    }

    /// Takes an epoch out of its lineage.
    pub(super) fn remove_epoch(
        &mut self,
        id: EpochId,
    ) -> Option<(model::position::LineageId, PathBuf, Epoch)> {
        let lineage = self.lineages[id.lineage].as_mut()?;
        let mut numbers = lineage.epochs.iter().map(|epoch| epoch.number);
        let at = numbers.position(|number| number == id.number)?;
        let epoch = lineage.epochs.remove(at)?;
        let copy = epoch.copy.as_ref().map(|(key, ..)| *key);
        for key in copy.into_iter().chain([epoch.key]) {
            if self.known.get(&key) == Some(&id) {
                self.known.remove(&key);
            }
        }
        Some((lineage.id, lineage.path.clone(), epoch))
    }

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
            let present = is_changed.then(|| self.begins_like_a_neighbour(directory, name, opened));
            let present = present.flatten();
            let after = self.last_epoch_at(directory, name);
            let suspect = &mut self.suspects[at];
            if (suspect.directory, suspect.name.as_os_str()) != (directory, name) {
                suspect.after = after;
            }
            suspect.directory = directory;
            name.clone_into(&mut suspect.name);
            suspect.moved_to = None;
            if !is_changed {
                return true;
            }
            suspect.size = opened.size;
            suspect.changed_at = now.monotonic;
            suspect.beginning = present.unwrap_or(std::mem::take(&mut suspect.beginning));
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
    fn is_suspected(&self, key: FileKey) -> bool {
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
    }
}
