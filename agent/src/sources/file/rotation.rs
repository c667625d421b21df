//! Files whose path went on to something else: rotated, deleted, truncated.
//!
//! A rotated or deleted file is read from its descriptor to its end, before its successor. It is at its
//! end when nobody has it open for writing, or when it has been quiet for a while. A writer that comes
//! later still is delivered, out of its turn.
//!
//! A truncated file (`copytruncate`, or written anew in place) keeps its unread rest only in a copy,
//! which [`copies`](super::copies) looks for; its inode goes on as the next epoch.

use std::io;
use std::time::Duration;

use super::audit::{Ending, Why};
use model::position::Codec;

use super::content::Content;
use super::discovery::next_number;
use super::find::doubted;
use super::lineage::{Epoch, Life, Lineage};
use super::multiline::Join;
use super::reader::{LastLine, Read, Taken, Target};
use super::siblings::Listed;
use super::{EpochId, FileSource, Progress, kernel};
use crate::limits::{COPIES_SOUGHT_MAX, HOLD_MAX, LATE, QUIET};
use crate::pipeline::Outlet;

impl FileSource {
    /// Reads once from an epoch.
    pub(super) fn read_epoch(
        &mut self,
        id: EpochId,
        last_line: LastLine,
        out: &mut Outlet<'_>,
    ) -> io::Result<Read> {
        let nothing = Ok(Read::End(Taken::default()));
        if !self.make_stream(id.lineage, out) {
            return Ok(Read::NoRoom(Taken::default()));
        }
        if let Some(read) = self.save_beginning(id, out)? {
            return Ok(read);
        }
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return nothing;
        };
        let mut numbers = lineage.epochs.iter().map(|epoch| epoch.number);
        let Some(at) = numbers.position(|number| number == id.number) else {
            return nothing;
        };
        let position = lineage.position(&lineage.epochs[at]);
        let Lineage {
            stream,
            epochs,
            path,
            ..
        } = lineage;
        let Some(stream) = stream else {
            return nothing;
        };
        let now = out.now().monotonic;
        self.calls.before_read(path)?;
        let epoch = &mut epochs[at];
        if out.room(stream.destination) == 0 {
            return self.reader.look(epoch, now);
        }
        let mut target = Target {
            stream,
            batch: &mut out.batch(stream.destination),
            position,
            last_line,
            now,
        };
        self.reader.read(epoch, &mut target)
    }

    /// Before anything is taken of a file its beginning is saved, by which a copy of it can be known: what
    /// is taken may wait for room in the spool until the agent is stopped, and its position with it.
    /// `None` if that is done, or there is nothing yet.
    fn save_beginning(&mut self, id: EpochId, out: &mut Outlet<'_>) -> io::Result<Option<Read>> {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return Ok(None);
        };
        let Lineage { epochs, path, .. } = lineage;
        let mut untouched = epochs.iter_mut().filter(|epoch| epoch.offset == 0);
        let Some(epoch) = untouched.find(|epoch| epoch.number == id.number) else {
            return Ok(None);
        };
        if epoch.head.bytes > 0 {
            if self.descriptors.was_seen(id) {
                self.note(id, out);
            }
            return Ok(None);
        }
        self.calls.before_read(path)?;
        let looked = self.reader.look(epoch, out.now().monotonic)?;
        let is_begun = epoch.head.bytes > 0;
        if is_begun {
            self.note(id, out);
        }
        Ok(match looked {
            Read::NoRoom(taken) if is_begun => Some(Read::More(taken)),
            Read::NoRoom(_) => None,
            looked => Some(looked),
        })
    }

    /// Looks at the path's present file when it waits for its turn, also when it was closed meanwhile: it
    /// may have to be closed again for the one that is read.
    pub(super) fn open_waiting(&mut self, index: usize, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let current = lineage.current().map(|(_, epoch)| epoch.number);
        let named = lineage.named().map(|epoch| epoch.number);
        if let Some(number) = named.filter(|_| named != current) {
            let id = EpochId {
                lineage: index,
                number,
            };
            self.open_epoch(id, out);
            self.look_at(id, out);
        }
    }

    /// Looks at the epochs that wait for their turn. Should one be cut off meanwhile, its copy is known by
    /// how it began, and what was seen of it counts.
    pub(super) fn look_at_waiting(&mut self, index: usize, out: &mut Outlet<'_>) {
        let Some(lineage) = &self.lineages[index] else {
            return;
        };
        let unfinished = lineage.epochs.iter().filter(|epoch| !epoch.is_finished());
        let waiting: Vec<u32> = unfinished.skip(1).map(|epoch| epoch.number).collect();
        for number in waiting {
            let id = EpochId {
                lineage: index,
                number,
            };
            self.look_at(id, out);
        }
    }

    /// Looks at an open file, and reads nothing of it.
    fn look_at(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let epoch = lineage.epoch(id.number);
        let Some(epoch) = epoch.filter(|epoch| epoch.content.is_some()) else {
            return;
        };
        let was_unseen = epoch.head.bytes == 0;
        let looked = self.reader.look(epoch, out.now().monotonic);
        if was_unseen && epoch.head.bytes > 0 {
            self.note(id, out);
        }
        self.after_read(id, looked, out);
    }

    /// Counts what a read came to, and what follows from it.
    pub(super) fn after_read(
        &mut self,
        id: EpochId,
        read: io::Result<Read>,
        out: &mut Outlet<'_>,
    ) -> Progress {
        let was_unseen = match (&read, self.epoch(id)) {
            (Ok(_), Some(epoch)) => std::mem::take(&mut epoch.is_unseen),
            _ => false,
        };
        match read {
            Ok(Read::More(taken)) => {
                self.count(id, taken, out);
                let bytes = taken.bytes.max(taken.passed);
                Progress::Some(usize::try_from(bytes).unwrap_or(usize::MAX))
            }
            Ok(Read::NoRoom(taken)) => {
                self.count(id, taken, out);
                Progress::NoRoom
            }
            Ok(Read::End(taken)) => {
                self.count(id, taken, out);
                Progress::None
            }
            Ok(Read::Replaced) => {
                let why = if was_unseen {
                    Why::CutWhileStopped
                } else {
                    Why::Truncated
                };
                self.truncated(id, why, out);
                Progress::Some(1)
            }
            Ok(Read::Shrunk(bytes)) => {
                if let Some(lineage) = &mut self.lineages[id.lineage] {
                    self.audit.unread(&lineage.path, bytes, Why::Truncated, out);
                    if let Some(epoch) = lineage.epoch(id.number) {
                        epoch.account.cut += bytes;
                    }
                }
                Progress::Some(1)
            }
            // Not an end: the next look at everything tries again.
            Err(error) => {
                let lineage = self.lineages[id.lineage].as_ref();
                let path = lineage.map(|lineage| lineage.path.clone());
                if error.raw_os_error() == Some(libc::ESTALE) {
                    self.doubt(id);
                }
                self.say_unreadable(&path.unwrap_or_default(), &error);
                Progress::None
            }
        }
    }

    /// The current epoch is read as far as it goes: whether the next one may begin.
    pub(super) fn at_end(&mut self, id: EpochId, out: &mut Outlet<'_>) -> Progress {
        let now = out.now().monotonic;
        let Some(epoch) = self.epoch(id) else {
            return Progress::None;
        };
        let since = match epoch.life {
            Life::Detached(since) => since,
            // Nobody adds to what is compressed.
            Life::Named if epoch.codec != Codec::None => now,
            _ => return Progress::None,
        };
        // Asked before the last read: what was written until then is in it.
        let content = epoch.content.as_ref();
        let is_closed = content.is_none_or(Content::is_closed);
        let is_quiet = now.saturating_sub(epoch.grown_at) >= QUIET;
        let last_line = if is_closed || is_quiet {
            LastLine::Take
        } else if now.saturating_sub(since) >= HOLD_MAX {
            LastLine::Wait
        } else {
            self.attention.insert(id.lineage);
            return Progress::None;
        };
        let joined = match last_line {
            LastLine::Take => self.join(id, out),
            LastLine::Wait => Ok(Join::Alone),
        };
        let read = match joined {
            Ok(Join::Wait) if now.saturating_sub(since) < HOLD_MAX => {
                self.attention.insert(id.lineage);
                return Progress::None;
            }
            Ok(Join::Read(read)) => Ok(read),
            Ok(Join::Alone | Join::Wait) => self.read_epoch(id, last_line, out),
            Err(error) => Err(error),
        };
        let is_end = matches!(read, Ok(Read::End(_)));
        let progress = self.after_read(id, read, out);
        if !is_end {
            return progress;
        }
        if let Some(epoch) = self.epoch(id) {
            epoch.finish(out.now());
            epoch.may_grow = !is_closed;
        }
        if let Some(epoch) = self.epoch(id).filter(|it| it.codec != Codec::None) {
            epoch.content = None;
            self.close_finished(id, out);
        }
        self.attention.insert(id.lineage);
        self.remembering.insert(id.lineage);
        self.note(id, out);
        Progress::Some(1)
    }

    /// The server does not know the descriptor any more. The file may be there all the same, under
    /// another handle: it is opened again by its path at the next look, and judged by its guards.
    fn doubt(&mut self, id: EpochId) {
        let Some(epoch) = self.epoch(id) else {
            return;
        };
        epoch.content = None;
        let key = doubted(epoch.key);
        self.take_key(id, key);
    }

    /// The file has less than what was read of it, or something else: its life is over. The next one
    /// begins in the same inode, unless that was a copy.
    pub(super) fn truncated(&mut self, id: EpochId, cut_by: Why, out: &mut Outlet<'_>) {
        let now = out.now();
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let mut numbers = lineage.epochs.iter().map(|epoch| epoch.number);
        let Some(at) = numbers.position(|number| number == id.number) else {
            return;
        };
        let between = lineage.number_after(at);
        let number = between.unwrap_or_else(|| next_number(lineage.last_epoch, now));
        let old = &mut lineage.epochs[at];
        let Some(content) = old.content.take() else {
            return;
        };
        if old.codec != Codec::None {
            // It is not what it was taken for, or not whole any more: nobody's next life.
            old.life = Life::Truncated(now.monotonic);
            old.cut_by = cut_by;
            let key = old.key;
            self.known.remove(&key);
            self.attention.insert(id.lineage);
            return self.seek_copy(id, out);
        }
        // Nobody writes to a copy: it is another file by now, perhaps the next copy.
        let is_copy = old.is_copied && old.life != Life::Named;
        let other = is_copy.then(|| kernel::name_of(content.file()));
        let other = other.flatten();
        let mut next = Epoch::new(number, old.key, content, now.monotonic);
        // It may have to wait behind the old one, and be cut off too meanwhile.
        if let Err(error) = self.reader.look(&mut next, now.monotonic) {
            tracing::debug!(source = self.config.name, %error, "a new life is not seen yet");
        }
        next.place.clone_from(&old.place);
        next.life = match old.life {
            Life::Finished(_) => Life::Detached(now.monotonic),
            life => life,
        };
        old.life = Life::Truncated(now.monotonic);
        old.cut_by = cut_by;
        let key = old.key;
        self.attention.insert(id.lineage);
        if let Some(other) = other {
            if self.known.get(&key) == Some(&id) {
                self.known.remove(&key);
            }
            self.look_at_path(&other);
        } else {
            lineage.last_epoch = lineage.last_epoch.max(Some(number));
            lineage.epochs.insert(at + 1, next);
            let next = EpochId { number, ..id };
            self.known.insert(key, next);
            self.opened(next, now);
            self.note(next, out);
        }
        self.seek_copy(id, out);
    }

    /// Looks at everything that no event tells of. Where many copies are sought, it goes on with the others
    /// the next time.
    pub(super) fn attend(&mut self, out: &mut Outlet<'_>) {
        let mut listed = Listed::default();
        let mut to_seek = COPIES_SOUGHT_MAX;
        let first = self.next_sought.take();
        let (before, from): (Vec<usize>, Vec<usize>) = self
            .attention
            .iter()
            .partition(|&index| Some(*index) < first);
        for index in from.into_iter().chain(before) {
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
                let id = EpochId {
                    lineage: index,
                    number,
                };
                match life {
                    Life::Named | Life::Missing(_) => {}
                    Life::Truncated(_) if to_seek == 0 => {
                        self.next_sought.get_or_insert(index);
                    }
                    Life::Truncated(_) => {
                        to_seek -= 1;
                        self.seek_copy_in(&mut listed, id, out);
                    }
                    Life::Detached(_) => {
                        self.take_hold(id, out);
                        // It may still grow, or be written anew.
                        self.look_at(id, out);
                    }
                    Life::Finished(since) => self.read_late(id, since, out),
                }
            }
            self.queue(index);
        }
        self.judge_suspects(out);
    }

    /// A file that its path ceased to name while it was closed is opened before its turn, where there is
    /// room: it may lose its next name too, and what becomes of it then is to be seen in time.
    fn take_hold(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let epoch = self.epoch(id);
        let is_plain = epoch.is_some_and(|epoch| epoch.codec == Codec::None);
        if is_plain && self.may_hold_one_more() {
            self.open_epoch(id, out);
        }
    }

    /// Delivers what a late writer adds to a finished file, and closes it in the end.
    fn read_late(&mut self, id: EpochId, since: Duration, out: &mut Outlet<'_>) {
        let now = out.now().monotonic;
        let Some(epoch) = self.epoch(id) else {
            return;
        };
        let Some(Ok(size)) = epoch.content.as_ref().map(Content::length) else {
            return;
        };
        if size > epoch.size_seen {
            epoch.life = Life::Finished(now);
        }
        let is_over = now.saturating_sub(since) >= LATE;
        if size != epoch.offset {
            let last_line = if is_over {
                LastLine::Take
            } else {
                LastLine::Wait
            };
            let read = self.read_epoch(id, last_line, out);
            self.after_read(id, read, out);
        } else if is_over {
            epoch.content = None;
            epoch.may_grow = false;
            self.note(id, out);
            self.close_finished(id, out);
        }
    }

    /// Tells of a file that was read whole. Should a writer add to it even now, that is delivered too,
    /// and not told again.
    pub(super) fn close_finished(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let path = lineage.path.clone();
        if let Some(epoch) = lineage.epoch(id.number)
            && !std::mem::replace(&mut epoch.account.is_closed, true)
        {
            self.audit.closed(&path, epoch, Ending::FINISHED, out);
        }
    }
}
