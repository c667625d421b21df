//! Copies of files: what `copytruncate` leaves, found and not read twice.
//!
//! A copy is known by the guards: the same head, and the same bytes before the offset. It is read on as
//! the epoch that it is a copy of, and never as a file of its own. Where there is none, what is known
//! to be unread is counted as lost.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use model::position::{FileKey, Guard};

use super::audit::{Ending, Why};
use super::content::Content;
use super::discovery::{Opened, is_absent};
use super::likeness::Beginning;
use super::lineage::{Epoch, Life};
use super::moved::is_restored;
use super::siblings::Listed;
use super::watch::Spot;
use super::{EpochId, FileSource, Phase};
use crate::limits::{COPY_GRACE, HOLD_MAX};
use crate::pipeline::Outlet;

/// What a copy must have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) offset: u64,
    pub(super) head: Guard,
    pub(super) tail: Guard,
    pub(super) milestones: [Guard; 2],
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
            milestones: epoch.milestones,
        }
    }
}

/// What a file is to a truncated epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
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

    pub(super) fn likeness(&self, id: EpochId, sample: Sample, candidate: &Opened) -> Likeness {
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
        let is_all = self.is_surely_all(id, &copy);
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let original = lineage.path.clone();
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        let reason = epoch.cut_by.label();
        tracing::info!(source = self.config.name, path = %original.display(), copy = %path.display(), reason,
            "file goes on in its copy");
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
    /// of it. A copy that ends before what was read is an earlier one, or not even a copy.
    fn is_surely_all(&self, id: EpochId, copy: &Copy) -> bool {
        let Some((_, epoch)) = self.held(id) else {
            return true;
        };
        let is_gone = matches!(epoch.cut_by, Why::MissingAfterRestart | Why::Deleted);
        let is_shadowed = self.known.get(&epoch.key).is_some_and(|of| *of != id);
        if !is_gone || is_shadowed {
            return true;
        }
        let is_moved = epoch.key.file_system != copy.key.file_system;
        let is_later = is_moved || copy.content.plain().is_none_or(is_restored);
        is_later && copy.size >= epoch.offset
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
}
