//! Goes on where the last run left off.
//!
//! For each position that the spool remembers: the file is looked for at its path, and by its inode
//! among the names of its directory, where a rotation will have left it. Key and guards must hold, or it
//! is another file. The newest epoch of a path comes first: an older one of the same inode was truncated
//! since, and can only be left in a copy.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::position::{Codec, LineageId, Position};

use super::audit::{Account, Ending, Why};
use super::content::Content;
use super::discovery::Opened;
use super::find::{Found, Listings, path_of, place_of};
use super::guard::{HEAD_BYTES, TAIL_BYTES};
use super::lineage::{Epoch, Life, Lineage};
use super::moved::Arrival;
use super::reader::Reader;
use super::watch::Spot;
use super::{EpochId, FileSource, Inheritance, OpenFile, Phase};
use crate::ambient::Now;
use crate::limits::{FORGET_AFTER, HOLD_MAX};
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
        let mut ownerless = HashMap::new();
        let positions = out.spool().positions();
        self.meet_heirs(&positions);
        for placed in positions {
            let position = &placed.position;
            if self.is_of(&self.config.name, position) {
                lineages.entry(position.lineage).or_default().push(placed);
            } else if !self.config.beside.iter().any(|it| self.is_of(it, position)) {
                // Of several lives of an inode under one path, the newest.
                ownerless.insert(position.key, placed);
            }
        }
        let all = lineages.values().flatten();
        let mut listings = Listings::of(all.map(|placed| &placed.position));
        let mut unseen = Vec::new();
        for mut epochs in lineages.into_values() {
            epochs.sort_by_key(|placed| std::cmp::Reverse(placed.position.epoch));
            let path = path_of(&epochs[0].position);
            if !self.patterns.reaches(&path) {
                // What was rotated while it was meant is still read to its end, what was cut off of it
                // sought in a copy.
                let is_draining = |placed: &Placed| {
                    let left = self.inherited.get(&placed.position.key);
                    let is_rotated = left.is_some_and(|left| left.is_draining);
                    self.sought_of(&placed.position).is_some()
                        || is_rotated && !self.is_left_to_heirs(placed)
                };
                let (draining, aside) = epochs.into_iter().partition(is_draining);
                self.set_aside(&path, aside, &mut listings, out);
                epochs = draining;
            }
            for placed in epochs {
                unseen.extend(self.resume_epoch(placed, &mut listings, out));
            }
        }
        self.resume_unseen(unseen, &mut listings, out);
        self.phase = phase;
        // The entry that they belong to is gone from the configuration, or has another name.
        for (key, placed) in ownerless {
            self.aside.entry(key).or_insert(placed);
        }
    }

    /// Since when the source whose place this one takes sought the copy of a position's file, and why.
    fn sought_of(&self, position: &Position) -> Option<(Duration, Why)> {
        let id = (position.lineage, position.epoch);
        self.inherited_lives.get(&id)?.sought
    }

    /// Whether its file has another life by now, and only a copy can hold what was read of it.
    fn was_cut(&self, position: &Position) -> bool {
        let sought = self.sought_of(position);
        sought.is_some_and(|(_, why)| !matches!(why, Why::MissingAfterRestart | Why::Deleted))
    }

    /// Whether a position is one of the source of this name.
    pub(super) fn is_of(&self, source: &str, position: &Position) -> bool {
        self.reader.hasher().lineage(source, &position.path) == position.lineage
    }

    /// Takes over one position. It comes back when its file was not seen.
    fn resume_epoch(
        &mut self,
        placed: Placed,
        listings: &mut Listings,
        out: &mut Outlet<'_>,
    ) -> Option<Unseen> {
        let Placed {
            position,
            partition,
        } = placed;
        let path = path_of(&position);
        let (dir, name) = (path.parent()?, path.file_name()?);
        let directory = self.directory(dir);
        let index = self.lineage(directory, name);
        if let Some(partition) = partition.filter(|it| it.topic == self.config.topic)
            && let Some(lineage) = &mut self.lineages[index]
        {
            lineage.partition = Some(partition);
        }
        let id = EpochId {
            lineage: index,
            number: position.epoch,
        };
        let found = if self.known.contains_key(&position.key) || self.was_cut(&position) {
            Ok(None)
        } else {
            self.find_or_inherit(&path, &position, listings)
        };
        let mut epoch = resumed(&position, out.now());
        if let Some(left) = self
            .inherited_lives
            .get(&(position.lineage, position.epoch))
        {
            epoch.account = left.account;
            epoch.size_seen = epoch.size_seen.max(left.size_seen);
        }
        if let Some(lineage) = &mut self.lineages[index] {
            lineage.last_epoch = lineage.last_epoch.max(Some(position.epoch));
            lineage.epochs.push_front(epoch);
        }
        match found {
            Ok(Some(found)) if !self.known.contains_key(&found.1.key) => {
                self.resume_found(id, &position, found, out);
                None
            }
            Ok(_) => Some((id, position, None)),
            Err(error) => Some((id, position, Some(error))),
        }
    }

    /// The inode is there. Is what was read of it?
    fn resume_found(
        &mut self,
        id: EpochId,
        position: &Position,
        (place, opened): Found,
        out: &mut Outlet<'_>,
    ) {
        if position.codec != Codec::None {
            return self.resume_compressed(id, place, opened, out.now());
        }
        let now = out.now();
        let same = self.reader.is_same(&opened.file, position);
        self.take_key(id, opened.key);
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let is_named = place == lineage.path;
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        epoch.is_unseen = false;
        let is_finished = epoch.is_finished();
        if !is_finished {
            epoch.life = if is_named {
                Life::Named
            } else {
                Life::Detached(now.monotonic)
            };
        }
        // A file that was inherited may have no name.
        epoch.place = Some(place).filter(|place| !is_named && !place.as_os_str().is_empty());
        // It may have had more when it was seen last, before a reload.
        let size_seen = epoch.size_seen;
        epoch.size_seen = size_seen.max(opened.size);
        let is_done = is_finished && opened.size == position.offset;
        epoch.content = (!is_done).then(|| opened.file.into());
        if is_named {
            // All others came before it, also those that a truncation gave a higher number.
            lineage.move_to_back(id.number);
        }
        if is_named {
            self.follow_link(id.lineage, &path_of(position));
        }
        match same {
            Ok(true) => {
                if !is_done {
                    self.opened(id, now);
                }
                self.attention.insert(id.lineage);
                self.queue(id.lineage);
                if opened.key != position.key {
                    self.note(id, out);
                }
            }
            // What is there now was never met.
            Ok(false) if is_finished => self.forget(id, out),
            Ok(false) => {
                if let Some(epoch) = self.epoch(id) {
                    // The length is that of what is there now.
                    epoch.size_seen = size_seen;
                }
                let left = self.inherited_lives.get(&(position.lineage, id.number));
                let why = match left {
                    Some(left) if !left.is_unseen => Why::Truncated,
                    _ => Why::CutWhileStopped,
                };
                self.truncated(id, why, out);
            }
            Err(error) => {
                let path = path_of(position);
                self.say_unreadable(&path, &error);
            }
        }
    }

    /// The inode is there, and holds what was read of it once it is decompressed: every read looks.
    fn resume_compressed(&mut self, id: EpochId, place: PathBuf, opened: Opened, now: Now) {
        self.take_key(id, opened.key);
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let is_named = place == lineage.path;
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        epoch.is_unseen = false;
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

    /// What this source leaves to the one that takes its place.
    pub(super) fn leave(&mut self) -> Inheritance {
        let mut left = Inheritance {
            files: Vec::new(),
            lives: Vec::new(),
            suspects: self.leave_suspects(),
            aside: self.aside.keys().copied().collect(),
            closed: self.audit.recent(),
        };
        let lineages = self.lineages.iter().flatten();
        let epochs = lineages.flat_map(|lineage| lineage.epochs.iter().map(|it| (lineage.id, it)));
        for (lineage, epoch) in epochs {
            left.lives.push(LeftLife {
                id: (lineage, epoch.number),
                size_seen: epoch.size_seen,
                account: epoch.account,
                is_unseen: epoch.is_unseen,
                sought: match epoch.life {
                    Life::Truncated(since) => Some((since, epoch.cut_by)),
                    _ => None,
                },
            });
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
        let lives = left.lives.into_iter();
        self.inherited_lives = lives.map(|life| (life.id, life)).collect();
        self.inherited_suspects = left.suspects;
        self.told_aside = left.aside;
        self.audit.inherit(left.closed);
    }

    /// Finds the inode of a position, by name or because it was never closed. That one's place is empty.
    fn find_or_inherit(
        &mut self,
        path: &Path,
        position: &Position,
        listings: &mut Listings,
    ) -> io::Result<Option<Found>> {
        let inherited = self.inherited.remove(&position.key);
        let found = self.find_listed(path, position, listings);
        let Some(OpenFile { file, key, .. }) = inherited else {
            return found;
        };
        if let Ok(Some(found)) = found {
            return Ok(Some(found));
        }
        let size = file.metadata()?.len();
        let opened = Opened {
            file,
            key,
            size,
            from: 0,
            passed_over: Why::BeforeStart,
            codec: position.codec,
        };
        Ok(Some((PathBuf::new(), opened)))
    }

    /// Looks further for what is neither at its path nor beside it, once all others are known: in every
    /// directory of the patterns, and under its own path as another inode.
    fn resume_unseen(
        &mut self,
        unseen: Vec<Unseen>,
        listings: &mut Listings,
        out: &mut Outlet<'_>,
    ) {
        let is_wanted = |(_, position, _): &Unseen| position.finished_s.is_none();
        let dirs = if unseen.iter().any(is_wanted) {
            self.patterns.directories()
        } else {
            Vec::new()
        };
        for (id, position, failure) in unseen {
            // The newest of several epochs of one inode is the one that the inode is.
            let is_shadowed = self.known.contains_key(&position.key) || self.was_cut(&position);
            if position.finished_s.is_some() {
                self.known.entry(position.key).or_insert(id);
                continue;
            }
            if !is_shadowed {
                self.known.insert(position.key, id);
                let found = dirs.iter().find_map(|dir| {
                    let found = self.find_in(dir, &position, listings).ok()??;
                    (!self.known.contains_key(&found.1.key) || found.1.key == position.key)
                        .then_some(found)
                });
                if let Some(found) = found {
                    self.resume_found(id, &position, found, out);
                    continue;
                }
                if self.resume_moved(id, &position, out) {
                    continue;
                }
            }
            match failure {
                Some(error) if !is_shadowed => {
                    self.say_unreadable(&path_of(&position), &error);
                    self.try_again(id, out.now());
                }
                _ => {
                    let gone = (out.now().monotonic, Why::MissingAfterRestart);
                    let sought = self.sought_of(&position).unwrap_or(gone);
                    self.seek_gone_since(id, sought, out);
                }
            }
        }
    }

    /// A call failed that looked for a file. Its successors wait for it, for a while. Of several that the
    /// path named, the last is the one that it may name still.
    fn try_again(&mut self, id: EpochId, now: Now) {
        let named = self.lineages[id.lineage].as_mut().and_then(Lineage::named);
        let is_last = named.is_some_and(|named| named.number == id.number);
        if let Some(epoch) = self.epoch(id)
            && (epoch.place.is_some() || !is_last)
        {
            epoch.life = Life::Detached(now.monotonic);
            self.attention.insert(id.lineage);
        }
        self.queue(id.lineage);
    }

    /// Goes on in the file that is in the place of one that is gone, if it has the same content.
    fn resume_moved(&mut self, id: EpochId, position: &Position, out: &mut Outlet<'_>) -> bool {
        let Ok(Some(opened)) = self.open(&path_of(position)) else {
            return false;
        };
        let Some(lineage) = &self.lineages[id.lineage] else {
            return false;
        };
        let (directory, name) = (lineage.directory, lineage.name.clone());
        let arrival = Arrival {
            name: &name,
            opened: &opened,
            now: out.now(),
        };
        let is_known = self.known.contains_key(&opened.key);
        if is_known || self.moved_epoch(directory, &arrival) != Some(id) {
            return false;
        }
        self.go_on(id, &Spot { directory, name }, opened, out);
        true
    }

    /// The inode is not found, or has a newer life. Perhaps a copy is left.
    fn seek_gone(&mut self, id: EpochId, why: Why, out: &mut Outlet<'_>) {
        self.seek_gone_since(id, (out.now().monotonic, why), out);
    }

    fn seek_gone_since(
        &mut self,
        id: EpochId,
        (since, why): (Duration, Why),
        out: &mut Outlet<'_>,
    ) {
        if let Some(epoch) = self.epoch(id) {
            epoch.life = Life::Truncated(since);
            epoch.cut_by = why;
            self.seek_copy(id, out);
        }
    }

    /// Nobody can see the file now, and it is not known to be gone.
    pub(super) fn miss(&mut self, id: EpochId, now: Now) {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let path = lineage.path.clone();
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        tracing::warn!(source = self.config.name, path = %path.display(),
            "file cannot be seen; should its file system come back, it is read on");
        epoch.life = Life::Missing(now.monotonic);
        epoch.content = None;
        self.remembering.insert(id.lineage);
    }

    /// The same once its successors have waited for long enough.
    pub(super) fn miss_in_time(&mut self, id: EpochId, now: Now) {
        if let Some(epoch) = self.epoch(id)
            && let Life::Detached(since) = epoch.life
            && now.monotonic.saturating_sub(since) >= HOLD_MAX
        {
            self.miss(id, now);
        }
    }

    /// A file was deleted while it was closed. If it was at its end and no event told of more, that was
    /// all; else a copy may be left.
    pub(super) fn gone_unopened(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        self.attention.insert(id.lineage);
        let directory = self.lineages[id.lineage].as_ref().map(|it| it.directory);
        let is_watched = directory.is_some_and(|it| self.passes.is_watched(it));
        if let Some(epoch) = self.epoch(id)
            && is_watched
            && !(epoch.is_unseen || epoch.is_stirred || epoch.size_seen > epoch.offset)
        {
            epoch.finish(out.now());
            self.remembering.insert(id.lineage);
            self.note(id, out);
            return self.close_finished(id, out);
        }
        self.seek_gone(id, Why::Deleted, out);
    }

    /// Looks again for the files that could not be seen.
    pub(super) fn seek_missing(&mut self, out: &mut Outlet<'_>) {
        let now = out.now().monotonic;
        let mut missing = Vec::new();
        for &index in &self.remembering {
            let Some(lineage) = &self.lineages[index] else {
                continue;
            };
            for epoch in &lineage.epochs {
                if let Life::Missing(since) = epoch.life {
                    let id = EpochId {
                        lineage: index,
                        number: epoch.number,
                    };
                    missing.push((id, since, lineage.position(epoch)));
                }
            }
        }
        let mut listings = Listings::of(missing.iter().map(|(_, _, position)| position));
        for (id, since, position) in missing {
            let path = path_of(&position);
            let is_over = now.saturating_sub(since) >= FORGET_AFTER;
            let why = match self.epoch(id) {
                Some(epoch) if epoch.is_unseen => Why::MissingAfterRestart,
                _ => Why::Deleted,
            };
            match self.find_listed(&path, &position, &mut listings) {
                Ok(Some(found)) => self.resume_found(id, &position, found, out),
                Ok(None) if self.is_gone(&position) => self.seek_gone(id, why, out),
                Ok(None) | Err(_) if is_over => self.end_gone(id, why, out),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Ends an epoch that has no copy and whose file nobody can see, or goes on waiting for it where it
    /// is not known to be gone. Whether it is such a one.
    pub(super) fn close_gone(&mut self, id: EpochId, out: &mut Outlet<'_>) -> bool {
        let Some(lineage) = &self.lineages[id.lineage] else {
            return false;
        };
        let mut epochs = lineage.epochs.iter();
        let Some(epoch) = epochs.find(|epoch| epoch.number == id.number) else {
            return false;
        };
        let why = epoch.cut_by;
        if !matches!(why, Why::MissingAfterRestart | Why::Deleted) {
            return false;
        }
        let is_shadowed = self.known.get(&epoch.key).is_some_and(|of| *of != id);
        if is_shadowed || self.is_gone(&lineage.position(epoch)) {
            self.end_gone(id, why, out);
        } else {
            self.miss(id, out.now());
        }
        true
    }

    /// Ends an epoch whose file is not there. It is remembered: the file may be restored.
    fn end_gone(&mut self, id: EpochId, why: Why, out: &mut Outlet<'_>) {
        let now = out.now();
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let path = lineage.path.clone();
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        let known = epoch.size_seen.saturating_sub(epoch.offset);
        // What was added to it since it was last seen is gone too.
        let rest = (known > 0).then_some(known);
        self.audit.closed(&path, epoch, Ending { rest, why }, out);
        epoch.account.is_closed = true;
        epoch.is_unseen = false;
        epoch.finish(now);
        self.remembering.insert(id.lineage);
        self.note(id, out);
        self.queue(id.lineage);
    }
}

/// What no position tells of a file's life, left by one source to the one that takes its place.
pub struct LeftLife {
    id: (LineageId, u32),
    size_seen: u64,
    account: Account,
    /// Nobody has seen the file since the agent started.
    is_unseen: bool,
    /// Since when its copy is looked for, and what its rest is lost to if there is none.
    sought: Option<(Duration, Why)>,
}

/// A position whose file was not seen, and why if that is known.
type Unseen = (EpochId, Position, Option<io::Error>);

/// The epoch of a position, as far as the position tells.
pub(super) fn resumed(position: &Position, now: Now) -> Epoch {
    Epoch {
        number: position.epoch,
        key: position.key,
        content: None,
        codec: position.codec,
        offset: position.offset,
        head: position.head,
        tail: position.tail,
        milestones: position.milestones,
        form: None,
        searched: 0,
        judged: 0,
        size_seen: position.offset,
        grown_at: now.monotonic,
        life: if position.finished_s.is_some() {
            Life::Finished(now.monotonic)
        } else {
            Life::Named
        },
        copy: None,
        place: place_of(position),
        is_copied: position.is_copied,
        account: Account {
            is_closed: position.finished_s.is_some(),
            ..Account::default()
        },
        cut_by: Why::Truncated,
        finished_s: position.finished_s.unwrap_or(0),
        may_grow: false,
        changed: None,
        is_unseen: position.finished_s.is_none(),
        is_stirred: false,
    }
}

impl Reader {
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
        epoch.milestones = Default::default();
        epoch.offset = offset;
        epoch.size_seen = offset;
        Ok(())
    }
}
