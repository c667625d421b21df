//! What becomes of a compressed file that was looked through: whether it is whole, and whose copy it is.
//!
//! A copy goes on as the epoch that it is a copy of, or, where that one has its bytes from elsewhere, is
//! never read. What is nobody's copy and is meant by the patterns is a file of its own.
//!
//! A stream that ends early is being written: it is looked through again when it has changed and is
//! quiet. One that is damaged is not read, and that is said.
//!
//! A *short* copy ends before what was read of its epoch: lines were added to the file after it was
//! compressed. It brings nothing new, and read as a file of its own it would bring everything twice. But
//! what only begins alike must not disappear; in doubt it is read. So it is one if nothing else is the
//! epoch's copy, also after all others that wait, and
//!
//! - where the epoch's file is open: its last bytes are those that the file has there;
//! - else: the guard at its head is over [`HEAD_BYTES`], which the copy has, and it has as well what the file
//!   had before its last milestone, or its name is the file's with a suffix, or the file was truncated while
//!   it was followed. A rotated file has a name only until the next rotation or until it is compressed:
//!   hardly another one comes by the same.
//!
//! So nothing tells a short copy of a file that is shorter than the guard once the file is closed.

use std::fs::File;
use std::io;

use model::position::Codec;

use super::audit::Why;
use super::compressed::{Compressed, End};
use super::content::{Content, read_at};
use super::copies::Copy;
use super::discovery::is_absent;
use super::guard::HEAD_BYTES;
use super::lineage::{Epoch, Life, Lineage};
use super::pattern::without_codec;
use super::related::is_of;
use super::vetting::{Candidate, Looking, Match};
use super::waiting::{Stamp, Waiting};
use super::{EpochId, FileSource};
use crate::limits::COMPRESSED_QUIET;
use crate::pipeline::Outlet;

impl FileSource {
    /// The file was looked through, as far as needed.
    pub(super) fn conclude(&mut self, looking: Looking, out: &mut Outlet<'_>) {
        let Looking {
            mut file,
            mut content,
            head,
            candidates,
        } = looking;
        let end = content.end().cloned();
        let length = content.decoded();
        let last = length.min(HEAD_BYTES as u64);
        let last = content.in_window(length - last, usize::try_from(last).unwrap_or(0));
        content.rest();
        match end {
            // Somebody has gone on writing to it.
            Some(End::Whole) if Stamp::of(content.file()).ok() != Some(file.stamp) => {
                return self.vettings.wait(file);
            }
            Some(End::Whole) => {
                content.set_length(length);
                let last = last.unwrap_or_default();
                let looked = Looking {
                    file,
                    content,
                    head,
                    candidates,
                };
                return self.conclude_whole(looked, &last, out);
            }
            Some(End::Early) => {
                file.unfinished = Some(file.stamp);
                return self.vettings.wait(file);
            }
            Some(End::Damaged(why)) => {
                let path = self.path_of(&file);
                self.refuse(&file, head.unwrap_or_default(), &candidates);
                self.refused_as_damaged(file.key);
                return self.say_unreadable(&path, &io::Error::other(why));
            }
            None => {}
        }
        self.refuse(&file, head.unwrap_or_default(), &candidates);
    }

    /// It is a whole stream, which ends with these bytes.
    fn conclude_whole(&mut self, looked: Looking, last: &[u8], out: &mut Outlet<'_>) {
        let Looking {
            mut file,
            content,
            head,
            candidates,
        } = looked;
        let head = head.unwrap_or_default();
        let length = content.length();
        let best = candidates
            .iter()
            .filter(|it| it.state == Match::Both && self.is_proven(it, &file, length, last))
            .max_by_key(|it| (self.is_cut(it.id), it.sample.offset));
        if let Some(best) = best {
            self.refuse(&file, head, &candidates);
            return self.is_copy(best.id, &file, content, out);
        }
        let now = out.now().monotonic;
        let since = *file.doubted_at.get_or_insert(now);
        if now.saturating_sub(since) < COMPRESSED_QUIET
            && let Some(lineage) = self.unseen_change(&file, &head, &candidates)
        {
            self.queue(lineage);
            let again_at = now + COMPRESSED_QUIET / 4;
            return self.vettings.wait_until(again_at, file);
        }
        let is_short = |it: &&Candidate| self.is_short(it, &file, length, last);
        if let Some(short) = candidates.iter().rfind(is_short) {
            if !file.is_put_off && self.vettings.has_waiting() {
                file.is_put_off = true;
                return self.vettings.wait(file);
            }
            self.refuse(&file, head, &candidates);
            return self.is_copy(short.id, &file, content, out);
        }
        if self.is_meant(file.directory, &file.name) {
            return self.begin_compressed(&file, &content, out);
        }
        self.refuse(&file, head, &candidates);
    }

    /// Whether a file is as much of an epoch's as its guards say. Where the epoch has its bytes from
    /// elsewhere the file is not read, so that few equal bytes at its start are not enough: it must end
    /// as well like what the epoch's file has there, or be in its place.
    fn is_proven(&self, candidate: &Candidate, file: &Waiting, length: u64, last: &[u8]) -> bool {
        let Some((lineage, epoch)) = self.held(candidate.id) else {
            return false;
        };
        let is_closed = epoch.is_finished() && epoch.content.is_none();
        if is_closed || matches!(epoch.life, Life::Truncated(_)) {
            return true;
        }
        let Some(own) = epoch.content.as_ref().and_then(Content::plain) else {
            let is_long = candidate.sample.offset >= HEAD_BYTES as u64;
            return is_long || self.is_in_place_of(lineage, epoch, file);
        };
        has_before(own, length, last)
    }

    /// Whether a file bears an epoch's name as a compressor writes it, and the epoch's file is not there
    /// any more.
    fn is_in_place_of(&self, lineage: &Lineage, epoch: &Epoch, file: &Waiting) -> bool {
        let own = epoch.place.as_ref().unwrap_or(&lineage.path);
        let path = self.path_of(file);
        path.with_file_name(without_codec(&file.name)) == *own
            && matches!(self.open(own), Err(error) if is_absent(&error))
    }

    /// A lineage that the file may be of, with an epoch that the candidates do not have as it is by now: it
    /// was seen to begin so since, or its file was truncated, or begun, and the next read is going to notice.
    fn unseen_change(
        &mut self,
        file: &Waiting,
        head: &[u8],
        candidates: &[Candidate],
    ) -> Option<usize> {
        let present = self.candidates(&file.name, head);
        let is_new = |it: &&Candidate| candidates.iter().all(|known| known.id != it.id);
        if let Some(new) = present.iter().find(is_new) {
            return Some(new.id.lineage);
        }
        let is_changed = |lineage: &Lineage, epoch: &Epoch| {
            let Some(own) = epoch.content.as_ref().and_then(Content::plain) else {
                return false;
            };
            if epoch.head.bytes == 0 {
                return own.metadata().is_ok_and(|it| it.len() > 0);
            }
            let is_same = self.reader.is_same(own, &lineage.position(epoch));
            matches!(is_same, Ok(false))
        };
        let open = self.lineages.that_are_open(&file.name);
        open.into_iter().find(|&index| {
            let lineage = self.lineages[index].as_ref();
            lineage.is_some_and(|lineage| {
                let mut epochs = lineage.epochs.iter();
                epochs.any(|it| is_of(&file.name, lineage, it) && is_changed(lineage, it))
            })
        })
    }

    /// Whether a file is an epoch's, compressed before the last that was read of it.
    fn is_short(&self, candidate: &Candidate, file: &Waiting, length: u64, last: &[u8]) -> bool {
        let Some((lineage, epoch)) = self.held(candidate.id) else {
            return false;
        };
        let has_copy = epoch.copy.is_some() || epoch.codec != Codec::None;
        if candidate.state != Match::Short || has_copy || last.is_empty() {
            return false;
        }
        if let Some(content) = &epoch.content {
            return has_before(content.file(), length, last);
        }
        let own = epoch.place.as_ref().unwrap_or(&lineage.path);
        let path = self.path_of(file);
        let is_named_so = path == *own || path.with_file_name(without_codec(&file.name)) == *own;
        let is_seen_cut =
            matches!(epoch.life, Life::Truncated(_)) && epoch.cut_by == Why::Truncated;
        let head = u64::from(candidate.sample.head.bytes);
        // Many begin alike for longer than one of them is: what is there does not tell of another file.
        let is_gone = matches!(epoch.cut_by, Why::MissingAfterRestart | Why::Deleted)
            && matches!(epoch.life, Life::Truncated(_));
        let is_known = is_gone && candidate.has_last_milestone(length);
        let is_proven = is_named_so || is_seen_cut || is_known;
        head == HEAD_BYTES as u64 && length >= head && is_proven
    }

    fn is_cut(&self, id: EpochId) -> bool {
        self.held(id)
            .is_some_and(|(_, epoch)| matches!(epoch.life, Life::Truncated(_)))
    }

    /// The file is an epoch's copy, and a whole stream.
    fn is_copy(&mut self, id: EpochId, file: &Waiting, content: Compressed, out: &mut Outlet<'_>) {
        let path = self.path_of(file);
        let size = content.length();
        let Some(epoch) = self.epoch(id) else {
            return;
        };
        let goes_on = match epoch.life {
            Life::Truncated(_) | Life::Missing(_) => true,
            Life::Finished(_) => epoch.content.is_none() && size > epoch.offset,
            Life::Named | Life::Detached(_) => false,
        };
        if goes_on {
            let copy = Copy {
                key: file.key,
                size,
                content: Content::Compressed(Box::new(content)),
                directory: file.directory,
                name: file.name.clone(),
            };
            return self.absorb(id, copy, out);
        }
        if !self.is_meant(file.directory, &file.name) {
            return;
        }
        tracing::debug!(source = self.config.name, copy = %path.display(), "is known as a copy");
        if let Some(epoch) = self.epoch(id) {
            if epoch.life != Life::Named {
                // By its name it is known again after a restart.
                epoch.place = Some(path.clone());
            }
            epoch.copy = Some((file.key, content.codec(), path));
        }
        self.note(id, out);
        self.known.insert(file.key, id);
        let alias = self.lineage(file.directory, &file.name);
        self.become_alias(alias, file.key, out.now());
    }

    /// The file is nobody's copy.
    fn begin_compressed(&mut self, file: &Waiting, content: &Compressed, out: &mut Outlet<'_>) {
        let path = self.path_of(file);
        if let Ok(Some(mut opened)) = self.open(&path)
            && opened.key == file.key
        {
            opened.codec = content.codec();
            self.begin(file.directory, &file.name, opened, out);
        }
        let id = self.known.get(&file.key).copied();
        if let Some((id, why)) = id.zip(file.passed_over)
            && let Some(epoch) = self.epoch(id)
        {
            epoch.account.unread = content.length();
            epoch.finish(out.now());
            epoch.content = None;
            self.audit.unread(&path, content.length(), why, out);
            self.note(id, out);
            self.close_finished(id, out);
        }
    }
}

/// Whether a file has these bytes before its byte `end`.
fn has_before(file: &File, end: u64, bytes: &[u8]) -> bool {
    let mut own = vec![0; bytes.len()];
    let filled = read_at(file, &mut own, end - bytes.len() as u64);
    matches!(filled, Ok(filled) if filled == own.len()) && own == bytes
}
