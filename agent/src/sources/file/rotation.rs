//! Files whose path went on to something else: rotated, deleted, truncated, copied.
//!
//! A rotated or deleted file is read from its descriptor to its end, before its successor. It is at its
//! end when nobody has it open for writing, or when it has been quiet for a while.
//!
//! A truncated file (`copytruncate`, or written anew in place) keeps its unread rest only in a copy. The
//! copy is known by the guards: same head, and the same bytes before the offset. It is read on as the
//! old epoch, and never as a file of its own. No copy: what is known to be unread is counted as lost.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use model::position::FileKey;

use super::discovery::{Opened, next_number};
use super::guard::HEAD_BYTES;
use super::lineage::{Epoch, Life, Lineage};
use super::pattern::is_rotation_of;
use super::reader::{Into, LastLine, Read, read_at};
use super::{FileSource, Progress, kernel};
use crate::ambient::Now;
use crate::limits::{COPY_GRACE, HOLD_MAX, LATE, QUIET};
use crate::pipeline::Outlet;
use crate::spool::positions::Loss;

/// Bytes that were cut off before they could be read.
pub(super) const LOST_TRUNCATED: &str = "truncated";

/// A new file that begins like one that is being read, and bears a name that a rotation would give:
/// it may be a copy in the making. It is not read before that is known.
pub(super) struct Suspect {
    pub(super) directory: usize,
    pub(super) name: OsString,
    key: FileKey,
    size: u64,
    changed_at: Duration,
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

impl FileSource {
    /// The current epoch is read as far as it goes.
    pub(super) fn at_end(
        &mut self,
        index: usize,
        number: u32,
        now: Now,
        out: &mut Outlet<'_>,
    ) -> Progress {
        let Some(epoch) = self.epoch(index, number) else {
            return Progress::None;
        };
        let Life::Detached(since) = epoch.life else {
            return Progress::None;
        };
        let over = |since, pause| now.monotonic.saturating_sub(since) >= pause;
        // Asked before the last read: what was written until then is in it.
        let closed = epoch.file.as_ref().is_none_or(kernel::has_no_writer);
        let (last_line, finish) = if closed || over(epoch.grown_at, QUIET) {
            (LastLine::Take, true)
        } else {
            (LastLine::Wait, over(since, HOLD_MAX))
        };
        if !finish {
            self.attention.insert(index);
            return Progress::None;
        }
        match self.read_epoch(index, number, last_line, now, out) {
            Ok(Read::End(taken)) => self.count(taken),
            Ok(Read::More(taken)) => {
                self.count(taken);
                return Progress::Some(usize::try_from(taken.bytes).unwrap_or(usize::MAX));
            }
            Ok(Read::NoRoom(taken)) => {
                self.count(taken);
                return Progress::NoRoom;
            }
            Ok(Read::Replaced) => {
                self.truncated(index, number, now, out);
                return Progress::Some(1);
            }
            Err(error) => {
                tracing::warn!(source = self.config.name, %error, "rotated file cannot be read");
                return Progress::None;
            }
        }
        if let Some(epoch) = self.epoch(index, number) {
            epoch.life = Life::Finished(now.monotonic);
        }
        self.attention.insert(index);
        self.note(index, number, out);
        Progress::Some(1)
    }

    /// Reads once from an epoch, whatever its turn is.
    fn read_epoch(
        &mut self,
        index: usize,
        number: u32,
        last_line: LastLine,
        now: Now,
        out: &mut Outlet<'_>,
    ) -> io::Result<Read> {
        let nothing = Ok(Read::End(super::reader::Taken::default()));
        let Some(lineage) = &mut self.lineages[index] else {
            return nothing;
        };
        let Some(at) = lineage
            .epochs
            .iter()
            .position(|epoch| epoch.number == number)
        else {
            return nothing;
        };
        let position = lineage.position(&lineage.epochs[at]);
        let Lineage { stream, epochs, .. } = lineage;
        let Some(stream) = stream else {
            return nothing;
        };
        if out.room(stream.destination) == 0 {
            return Ok(Read::NoRoom(super::reader::Taken::default()));
        }
        let mut into = Into {
            stream,
            batch: &mut out.batch(stream.destination),
            position,
        };
        self.reader
            .read(&mut epochs[at], &mut into, last_line, now.monotonic)
    }

    /// The file has less than what was read of it, or something else: its life is over, and the next
    /// one begins in the same inode.
    pub(super) fn truncated(&mut self, index: usize, number: u32, now: Now, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let Some(at) = lineage
            .epochs
            .iter()
            .position(|epoch| epoch.number == number)
        else {
            return;
        };
        let next = next_number(lineage.last_epoch, now);
        lineage.last_epoch = Some(next);
        let old = &mut lineage.epochs[at];
        let life = match old.life {
            Life::Finished(_) => Life::Detached(now.monotonic),
            life => life,
        };
        old.life = Life::Truncated(now.monotonic);
        let key = old.key;
        let Some(file) = old.file.take() else {
            return;
        };
        let mut successor = Epoch::new(next, key, file, now.monotonic);
        successor.life = life;
        successor.place = old.place.clone();
        lineage.epochs.insert(at + 1, successor);
        self.known.insert(key, (index, next));
        self.attention.insert(index);
        self.seek_copy(index, number, now, out);
    }

    /// Looks for the copy of a truncated epoch among the files beside it.
    pub(super) fn seek_copy(&mut self, index: usize, number: u32, now: Now, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let (directory, name) = (lineage.directory, lineage.name.clone());
        let Some(epoch) = lineage.epoch(number) else {
            return;
        };
        let Life::Truncated(since) = epoch.life else {
            return;
        };
        let sample = (epoch.offset, epoch.head, epoch.tail);
        let unread = epoch.size_seen > epoch.offset;
        let mut short = None;
        for candidate in self.siblings(directory, &name) {
            let path = self.directories[directory].path.join(&candidate);
            let Ok(Some(opened)) = self.open(&path) else {
                continue;
            };
            if self.known.contains_key(&opened.key) {
                continue;
            }
            match self.likeness(sample, &opened) {
                Likeness::Copy => {
                    return self.absorb(index, number, (directory, candidate), opened, now, out);
                }
                Likeness::ShortCopy => short = Some((candidate, opened)),
                Likeness::None => {}
            }
        }
        if let Some((candidate, opened)) = short {
            return self.absorb(index, number, (directory, candidate), opened, now, out);
        }
        if !unread || now.monotonic.saturating_sub(since) >= COPY_GRACE {
            self.give_up(index, number, out);
        }
    }

    /// Names in the same directory that a rotation could have given to a copy.
    fn siblings(&self, directory: usize, name: &OsStr) -> Vec<OsString> {
        let Ok(entries) = std::fs::read_dir(&self.directories[directory].path) else {
            return Vec::new();
        };
        let mut names: Vec<OsString> = entries
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|other| is_rotation_of(name, other))
            .collect();
        names.sort();
        names
    }

    fn likeness(
        &self,
        (offset, head, tail): (u64, model::position::Guard, model::position::Guard),
        candidate: &Opened,
    ) -> Likeness {
        if head.bytes == 0 {
            return Likeness::None;
        }
        let guard = |from, length| {
            let guard = self.reader.guard_at(&candidate.file, from, length);
            guard.ok().flatten()
        };
        if guard(0, usize::from(head.bytes)) != Some(head) {
            return Likeness::None;
        }
        if candidate.size < offset {
            return Likeness::ShortCopy;
        }
        let from = offset - u64::from(tail.bytes);
        if guard(from, usize::from(tail.bytes)) == Some(tail) {
            Likeness::Copy
        } else {
            Likeness::None
        }
    }

    /// Goes on with a truncated epoch in its copy.
    fn absorb(
        &mut self,
        index: usize,
        number: u32,
        (directory, name): (usize, OsString),
        copy: Opened,
        now: Now,
        out: &mut Outlet<'_>,
    ) {
        let path = self.directories[directory].path.join(&name);
        tracing::info!(source = self.config.name, copy = %path.display(),
            "truncated file goes on in its copy");
        let Some(epoch) = self.epoch(index, number) else {
            return;
        };
        epoch.key = copy.key;
        epoch.place = Some(path);
        epoch.grown_at = now.monotonic;
        // A copy that ends before what was read has nothing new, and its offset is not the epoch's.
        epoch.life = if copy.size < epoch.offset {
            Life::Finished(now.monotonic)
        } else {
            epoch.size_seen = copy.size;
            epoch.file = Some(copy.file);
            Life::Detached(now.monotonic)
        };
        self.known.insert(copy.key, (index, number));
        self.suspects.retain(|suspect| suspect.key != copy.key);
        if self.is_meant(directory, &name) {
            let alias = self.lineage(directory, &name);
            self.detach_named(alias, now);
            if let Some(alias) = &mut self.lineages[alias] {
                alias.alias_of = Some(copy.key);
            }
        }
        self.note(index, number, out);
        self.queue(index);
    }

    /// There is no copy: what is known to be unread is lost.
    fn give_up(&mut self, index: usize, number: u32, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let id = lineage.id;
        let path = lineage.path.clone();
        let Some(at) = lineage
            .epochs
            .iter()
            .position(|epoch| epoch.number == number)
        else {
            return;
        };
        let Some(epoch) = lineage.epochs.remove(at) else {
            return;
        };
        let bytes = epoch.size_seen.saturating_sub(epoch.offset);
        if bytes > 0 {
            tracing::warn!(source = self.config.name, path = %path.display(), bytes,
                "file was truncated before all of it was read, and no copy of it was found");
            let loss = Loss { records: 1, bytes };
            out.count_loss(&self.config.name, LOST_TRUNCATED, loss);
        }
        out.spool().forget(id, number);
        self.queue(index);
    }

    /// Looks at everything that no event tells of.
    pub(super) fn attend(&mut self, now: Now, out: &mut Outlet<'_>) {
        for index in self.attention.clone() {
            let Some(lineage) = &self.lineages[index] else {
                self.attention.remove(&index);
                continue;
            };
            if !lineage.needs_attention() {
                self.attention.remove(&index);
                continue;
            }
            let lives: Vec<(u32, Life)> = lineage
                .epochs
                .iter()
                .map(|epoch| (epoch.number, epoch.life))
                .collect();
            for (number, life) in lives {
                match life {
                    Life::Named => {}
                    Life::Truncated(_) => self.seek_copy(index, number, now, out),
                    Life::Detached(_) => self.see_growth(index, number, now),
                    Life::Finished(since) => self.read_late(index, number, since, now, out),
                }
            }
            self.queue(index);
        }
        self.judge_suspects(now, out);
    }

    /// A file that waits for its turn may still grow.
    fn see_growth(&mut self, index: usize, number: u32, now: Now) {
        if let Some(epoch) = self.epoch(index, number)
            && let Some(Ok(metadata)) = epoch.file.as_ref().map(std::fs::File::metadata)
        {
            epoch.saw_size(metadata.len(), now.monotonic);
        }
    }

    /// Delivers what a late writer adds to a finished file, and closes it in the end.
    fn read_late(
        &mut self,
        index: usize,
        number: u32,
        since: Duration,
        now: Now,
        out: &mut Outlet<'_>,
    ) {
        let Some(epoch) = self.epoch(index, number) else {
            return;
        };
        let Some(Ok(metadata)) = epoch.file.as_ref().map(std::fs::File::metadata) else {
            return;
        };
        let is_over = now.monotonic.saturating_sub(since) >= LATE;
        if metadata.len() > epoch.offset {
            let last_line = if is_over {
                LastLine::Take
            } else {
                LastLine::Wait
            };
            if metadata.len() > epoch.size_seen {
                epoch.life = Life::Finished(now.monotonic);
            }
            match self.read_epoch(index, number, last_line, now, out) {
                Ok(Read::More(taken) | Read::End(taken) | Read::NoRoom(taken)) => self.count(taken),
                Ok(Read::Replaced) => return self.truncated(index, number, now, out),
                Err(error) => {
                    tracing::warn!(source = self.config.name, %error, "rotated file cannot be read");
                }
            }
        }
        if let Some(epoch) = self.epoch(index, number)
            && is_over
            && metadata.len() == epoch.offset
        {
            epoch.file = None;
            self.note(index, number, out);
        }
    }

    /// Whether a file that was never met may be a copy in the making.
    pub(super) fn is_suspect(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: &Opened,
        now: Now,
    ) -> bool {
        let held = self
            .suspects
            .iter()
            .position(|suspect| suspect.key == opened.key);
        if let Some(at) = held {
            let suspect = &mut self.suspects[at];
            if suspect.size != opened.size {
                suspect.size = opened.size;
                suspect.changed_at = now.monotonic;
            }
            return true;
        }
        if !self.looks_like_a_sibling(directory, name, opened) {
            return false;
        }
        self.suspects.push(Suspect {
            directory,
            name: name.to_owned(),
            key: opened.key,
            size: opened.size,
            changed_at: now.monotonic,
        });
        true
    }

    /// Whether the file begins as a file beside it does, whose rotation it could be named for.
    fn looks_like_a_sibling(&self, directory: usize, name: &OsStr, opened: &Opened) -> bool {
        let mut own = [0; HEAD_BYTES];
        let Ok(length) = read_at(&opened.file, &mut own, 0) else {
            return false;
        };
        let originals = self.directories[directory]
            .names
            .iter()
            .filter(|(other, _)| is_rotation_of(other, name))
            .filter_map(|(_, &index)| self.lineages[index].as_ref());
        for original in originals {
            for epoch in original.epochs.iter().filter(|epoch| !epoch.is_finished()) {
                let seen = usize::from(epoch.head.bytes);
                let guard = |bytes: &[u8]| self.reader.hasher().guard(bytes);
                if seen > 0 && length >= seen && guard(&own[..seen]) == epoch.head {
                    return true;
                }
                // A copy that has only begun: compare what there is with the original itself.
                let mut theirs = [0; HEAD_BYTES];
                let same = epoch.file.as_ref().is_some_and(|file| {
                    file.read_exact_at(&mut theirs[..length], 0).is_ok()
                        && theirs[..length] == own[..length]
                });
                if length < seen.max(1) && same {
                    return true;
                }
            }
        }
        false
    }

    /// Has suspects looked at again: an event says that something happened in their directory.
    pub(super) fn look_again_at_suspects(&mut self) {
        for suspect in &self.suspects {
            self.looks.insert((suspect.directory, suspect.name.clone()));
        }
    }

    /// Reads suspects as files of their own once nothing came of the suspicion.
    fn judge_suspects(&mut self, now: Now, out: &mut Outlet<'_>) {
        let over =
            |suspect: &Suspect| now.monotonic.saturating_sub(suspect.changed_at) >= COPY_GRACE;
        for suspect in self
            .suspects
            .extract_if(.., |suspect| over(suspect))
            .collect::<Vec<_>>()
        {
            let path = self.directories[suspect.directory].path.join(&suspect.name);
            if let Ok(Some(opened)) = self.open(&path)
                && !self.known.contains_key(&opened.key)
            {
                self.begin(suspect.directory, &suspect.name, opened, now, out);
            }
        }
    }
}
