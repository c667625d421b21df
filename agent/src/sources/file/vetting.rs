//! Compressed files: whether they are whole, and whose copies they are.
//!
//! Before anything is made of a compressed file it is looked through once, one file after the other, a
//! step in each turn. Its name tells which paths it may be a rotation of; the guards of their epochs are
//! compared in what it decompresses to. A copy goes on as the epoch that it is a copy of, or, where that
//! one has its bytes from elsewhere, is never read. What is nobody's copy and is meant by the patterns is
//! a file of its own.
//!
//! A *short* copy ends before what was read of its epoch: lines were added to the file after it was
//! compressed. It brings nothing new, and read as a file of its own it would bring everything twice. But
//! what only begins alike must not disappear; in doubt it is read. So it is one if nothing else is the
//! epoch's copy, also after all others that wait, and
//!
//! - where the epoch's file is open: its last bytes are those that the file has there;
//! - else: the guard at its head is over [`HEAD_BYTES`], which the copy has, and either the copy's name is
//!   the file's with a suffix, or the file was truncated while it was followed. A rotated file has a name
//!   only until the next rotation or until it is compressed: hardly another one comes by the same.
//!
//! So nothing tells a short copy of a file that is shorter than the guard once the file is closed.
//!
//! A stream that ends early is being written: it is looked through again when it has changed and is
//! quiet. One that is damaged is not read, and that is said.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use model::position::{Codec, FileKey, Guard};

use super::audit::Why;
use super::compressed::{Compressed, End, MAGIC_BYTES, codec_of};
use super::content::{Content, read_at};
use super::copies::{Copy, Sample};
use super::discovery::{Opened, is_absent};
use super::guard::{HEAD_BYTES, TAIL_BYTES};
use super::lineage::{Epoch, Life, Lineage};
use super::pattern::{is_rotation_of, is_shifted, without_codec};
use super::reader::NEWLINE_BYTES_MAX;
use super::watch::Spot;
use super::{EpochId, FileSource, Phase, Progress, StartAt, kernel};
use crate::ambient::Now;
use crate::limits::{
    COMPRESSED_QUIET, COMPRESSED_UNFINISHED, DECOMPRESS_STEP_BYTES, READ_BYTES, REFUSED_MAX,
    VETTINGS_MAX,
};
use crate::pipeline::Outlet;

/// The compressed files of a source that nothing is made of yet.
#[derive(Default)]
pub(super) struct Vettings {
    waiting: VecDeque<Waiting>,
    looking: Option<Looking>,
    /// Files that are nobody's copy, or cannot be read, as they were then, and for whom that was asked.
    refused: HashMap<FileKey, (Stamp, Vec<EpochId>)>,
    /// The epoch that has a decoder to read with.
    awake: Option<EpochId>,
    /// Lineages that wait for one.
    asleep: BTreeSet<usize>,
    /// When those that wait are looked at again.
    next: Duration,
}

/// A compressed file that is not looked through yet.
struct Waiting {
    directory: usize,
    name: OsString,
    key: FileKey,
    stamp: Stamp,
    changed_at: Duration,
    /// It ended early when it was like this.
    unfinished: Option<Stamp>,
    /// That was said.
    is_said: bool,
    /// It seems to be a short copy, and comes after those that may be the whole one.
    is_put_off: bool,
    /// Since when epochs that it may be of were seen to change.
    doubted_at: Option<Duration>,
    /// Why it is not to be read: it was there before the very first start, or is too old.
    passed_over: Option<Why>,
}

/// The one that is looked through.
struct Looking {
    file: Waiting,
    content: Compressed,
    candidates: Vec<Candidate>,
}

/// An epoch that the file may be a copy of.
struct Candidate {
    id: EpochId,
    sample: Sample,
    state: Match,
}

/// How far a candidate's guards were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Unknown,
    Head,
    Both,
    /// The head's holds as far as there is something to compare, which ends before the epoch's offset.
    Short,
    No,
}

/// A file's size and time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(u64, i64, i64);

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp(
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    }
}

impl Waiting {
    /// Whether time alone brings nothing on: it is not whole, and has not changed for long.
    fn is_stuck(&self, now: Duration) -> bool {
        let is_not_whole = self.unfinished == Some(self.stamp) || self.stamp.0 == 0;
        is_not_whole && now.saturating_sub(self.changed_at) >= COMPRESSED_UNFINISHED
    }

    /// It is like this now.
    fn saw(&mut self, stamp: Stamp, now: Duration) {
        if stamp != self.stamp {
            (self.stamp, self.changed_at) = (stamp, now);
            self.is_said = false;
        }
    }
}

impl Vettings {
    /// How many of them are open.
    pub(super) fn files_open(&self) -> usize {
        usize::from(self.looking.is_some())
    }

    /// A file that waits was seen. Where it has changed, it is looked at soon again. Whether it waits.
    fn saw_waiting(&mut self, key: FileKey, stamp: Stamp, now: Duration) -> bool {
        let Some(file) = self.waiting.iter_mut().find(|it| it.key == key) else {
            return false;
        };
        if file.stamp != stamp {
            file.saw(stamp, now);
            self.next = self.next.min(now + COMPRESSED_QUIET / 4);
        }
        true
    }

    /// Where the files are.
    pub(super) fn directories(&self) -> impl Iterator<Item = usize> {
        let looking = self.looking.as_ref().map(|it| it.file.directory);
        let waiting = self.waiting.iter().map(|it| it.directory);
        waiting.chain(looking)
    }
}

/// How the file is compressed, by its first bytes.
pub(super) fn codec(file: &File) -> io::Result<Codec> {
    let mut first = [0; MAGIC_BYTES];
    let filled = read_at(file, &mut first, 0)?;
    Ok(codec_of(&first[..filled]))
}

impl FileSource {
    /// Whether a file that was never met is compressed, or is going to be: then it waits to be looked
    /// through.
    pub(super) fn is_to_be_vetted(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: &Opened,
        now: Now,
    ) -> bool {
        let is_named_so = without_codec(name).len() < name.len();
        let is_begun = opened.size < MAGIC_BYTES as u64 && is_named_so;
        if !is_begun && codec(&opened.file).unwrap_or_default() == Codec::None {
            return false;
        }
        let Ok(stamp) = Stamp::of(&opened.file) else {
            return true;
        };
        let looking = self.vettings.looking.as_ref().map(|it| it.file.key);
        let is_awaited = self.vettings.saw_waiting(opened.key, stamp, now.monotonic)
            || looking == Some(opened.key);
        if !is_awaited && !self.is_refused(name, opened.key, stamp) {
            let is_before = self.phase == Phase::FirstEver && self.config.start_at == StartAt::End;
            let is_old = self.is_old(&opened.file, now);
            let passed_over = if is_before {
                Some(Why::BeforeStart)
            } else {
                is_old.then_some(Why::Older)
            };
            self.vettings.waiting.push_back(Waiting {
                directory,
                name: name.to_owned(),
                key: opened.key,
                stamp,
                changed_at: now.monotonic,
                unfinished: None,
                is_said: false,
                is_put_off: false,
                doubted_at: None,
                passed_over,
            });
            self.vettings.next = self.vettings.next.min(now.monotonic);
        }
        true
    }

    /// A file that may wait to be looked through has another name.
    pub(super) fn waiting_went_to(&mut self, key: FileKey, to: &Spot) {
        let looking = self.vettings.looking.iter_mut().map(|it| &mut it.file);
        let mut all = self.vettings.waiting.iter_mut().chain(looking);
        if let Some(file) = all.find(|file| file.key == key) {
            (file.directory, file.name) = (to.directory, to.name.clone());
        }
    }

    /// Whether nothing new can come of looking through a file once more.
    fn is_refused(&self, name: &OsStr, key: FileKey, stamp: Stamp) -> bool {
        let Some((then, asked)) = self.vettings.refused.get(&key) else {
            return false;
        };
        let candidates = self.candidates(name);
        *then == stamp && candidates.iter().all(|it| asked.contains(&it.id))
    }

    /// A copy was known by what its epoch was then. It is looked through once more.
    pub(super) fn doubt_copy(&mut self, key: FileKey) {
        self.known.remove(&key);
        self.vettings.refused.remove(&key);
    }

    /// Whether a file that waits or is looked through may turn out to be a copy of the epoch.
    pub(super) fn may_be_vetted_for(&self, id: EpochId) -> bool {
        !self.vetted_for(id).is_empty()
    }

    /// The files that wait or are looked through and may turn out to be copies of the epoch.
    pub(super) fn vetted_for(&self, id: EpochId) -> Vec<FileKey> {
        let Some((lineage, epoch)) = self.held(id) else {
            return Vec::new();
        };
        let is_candidate = |looking: &&Looking| {
            let mut candidates = looking.candidates.iter();
            candidates.any(|it| it.id == id && it.state != Match::No)
        };
        let looked = self.vettings.looking.iter().filter(is_candidate);
        let waiting = self.vettings.waiting.iter();
        let waiting = waiting.filter(|it| it.unfinished != Some(it.stamp));
        let files = looked.map(|it| &it.file).chain(waiting);
        let related = files.filter(|it| is_of(&it.name, lineage, epoch));
        related.map(|it| it.key).collect()
    }

    /// Finished epochs that a file which is still to be looked through may be a copy of.
    pub(super) fn awaited_by_vetting(&self) -> Vec<EpochId> {
        if self.vets_at().is_none() {
            return Vec::new();
        }
        let lineages = self.lineages.iter().enumerate();
        let finished = lineages.flat_map(|(lineage, held)| {
            let epochs = held.iter().flat_map(|it| &it.epochs);
            let finished = epochs.filter(|it| it.is_finished());
            finished.map(move |epoch| EpochId {
                lineage,
                number: epoch.number,
            })
        });
        finished.filter(|&id| self.may_be_vetted_for(id)).collect()
    }

    /// Whether time alone brings on what waits.
    pub(super) fn vets_at(&self) -> Option<Duration> {
        let is_free = || self.vettings.awake.is_none_or(|id| !self.is_awake(id));
        let is_awaited = !self.vettings.asleep.is_empty() && is_free();
        if self.vettings.looking.is_some() || is_awaited {
            return Some(Duration::ZERO);
        }
        (!self.vettings.waiting.is_empty()).then_some(self.vettings.next)
    }

    /// Looks through a compressed file for one step, or chooses the next one.
    pub(super) fn vet(&mut self, out: &mut Outlet<'_>) {
        let now = out.now();
        self.wake_next();
        let Some(mut looking) = self.vettings.looking.take() else {
            if self.vettings.next <= now.monotonic && !self.vettings.waiting.is_empty() {
                self.choose(out);
            }
            return;
        };
        let path = self.path_of(&looking.file);
        match looking.content.advance() {
            Ok(is_over) => {
                self.compare(&mut looking);
                let is_refuted = looking.candidates.iter().all(|it| it.state == Match::No);
                let is_meant = self.is_meant(looking.file.directory, &looking.file.name);
                if is_over || (is_refuted && !is_meant) {
                    return self.conclude(looking, out);
                }
                self.vettings.looking = Some(looking);
            }
            Err(error) => self.say_unreadable(&path, &error),
        }
    }

    /// Begins with the first of those that wait which is quiet.
    fn choose(&mut self, out: &mut Outlet<'_>) {
        let now = out.now();
        for _ in 0..self.vettings.waiting.len().min(VETTINGS_MAX) {
            let Some(mut waiting) = self.vettings.waiting.pop_front() else {
                break;
            };
            let path = self.path_of(&waiting);
            // What is gone, or another file now, is met again if it is meant.
            let Some(opened) = self.open(&path).ok().flatten() else {
                continue;
            };
            let is_known = self.known.contains_key(&opened.key);
            let Ok(stamp) = Stamp::of(&opened.file) else {
                continue;
            };
            if opened.key != waiting.key || is_known {
                continue;
            }
            waiting.saw(stamp, now.monotonic);
            let since = now.monotonic.saturating_sub(waiting.changed_at);
            let is_quiet = since >= COMPRESSED_QUIET || kernel::has_no_writer(&opened.file);
            let is_same = waiting.unfinished == Some(stamp);
            if is_same && since >= COMPRESSED_UNFINISHED && !waiting.is_said {
                waiting.is_said = true;
                let error = io::Error::other("its compressed stream ends early");
                self.say_unreadable(&path, &error);
            }
            if !is_quiet || is_same || opened.size == 0 {
                self.vettings.waiting.push_back(waiting);
                continue;
            }
            self.look_through(waiting, opened, out);
            return;
        }
        let mut waiting = self.vettings.waiting.iter();
        let pause = if waiting.all(|it| it.is_stuck(now.monotonic)) {
            COMPRESSED_UNFINISHED
        } else {
            COMPRESSED_QUIET / 4
        };
        self.vettings.next = now.monotonic + pause;
    }

    fn look_through(&mut self, file: Waiting, opened: Opened, out: &mut Outlet<'_>) {
        match codec(&opened.file) {
            // Its first bytes are still to come.
            Ok(Codec::None) if opened.size < MAGIC_BYTES as u64 => {
                self.vettings.waiting.push_back(Waiting {
                    unfinished: Some(file.stamp),
                    ..file
                });
            }
            // Its name promised more than it holds.
            Ok(Codec::None) => self.found_plain(file.directory, &file.name, opened, out),
            Ok(codec) => {
                self.make_room(out.now());
                let candidates = self.candidates(&file.name);
                self.vettings.looking = Some(Looking {
                    content: Compressed::new(opened.file, codec),
                    candidates,
                    file,
                });
            }
            Err(error) => {
                let path = self.path_of(&file);
                self.say_unreadable(&path, &error);
            }
        }
    }

    /// The epochs that a compressed file can be a copy of, by its name.
    fn candidates(&self, name: &OsStr) -> Vec<Candidate> {
        let lineages = self.lineages.iter().enumerate();
        let lineages = lineages.filter_map(|(index, lineage)| Some((index, lineage.as_ref()?)));
        let epochs = lineages.flat_map(|(index, lineage)| {
            let is_related = move |it: &&Epoch| it.head.bytes > 0 && is_of(name, lineage, it);
            let epochs = lineage.epochs.iter().filter(is_related);
            epochs.map(move |epoch| Candidate {
                id: EpochId {
                    lineage: index,
                    number: epoch.number,
                },
                sample: Sample::of(epoch),
                state: Match::Unknown,
            })
        });
        epochs.collect()
    }

    /// Compares the candidates' guards with what was decompressed since the last time.
    fn compare(&self, looking: &mut Looking) {
        let hasher = self.reader.hasher();
        let content = &looking.content;
        let is_over = content.end().is_some();
        let ends_before = |at| is_over && content.decoded() < at;
        let compared = |from, guard: Guard| {
            let bytes = content.in_window(from, usize::from(guard.bytes));
            match bytes {
                Some(bytes) => Some(hasher.guard(&bytes) == guard),
                None => is_over.then_some(false),
            }
        };
        for Candidate { sample, state, .. } in &mut looking.candidates {
            if *state == Match::Unknown {
                *state = match compared(0, sample.head) {
                    _ if ends_before(u64::from(sample.head.bytes)) => Match::Short,
                    Some(true) => Match::Head,
                    Some(false) => Match::No,
                    None => Match::Unknown,
                };
            }
            if *state == Match::Head {
                let from = sample.offset - u64::from(sample.tail.bytes);
                *state = match compared(from, sample.tail) {
                    _ if ends_before(sample.offset) => Match::Short,
                    Some(true) if content.decoded() >= sample.offset => Match::Both,
                    Some(_) => Match::No,
                    None => Match::Head,
                };
            }
        }
    }

    /// The file was looked through, as far as needed.
    fn conclude(&mut self, looking: Looking, out: &mut Outlet<'_>) {
        let Looking {
            mut file,
            mut content,
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
                self.vettings.waiting.push_back(file);
                return;
            }
            Some(End::Whole) => {
                content.set_length(length);
                let last = last.unwrap_or_default();
                let looked = Looking {
                    file,
                    content,
                    candidates,
                };
                return self.conclude_whole(looked, &last, out);
            }
            Some(End::Early) => {
                file.unfinished = Some(file.stamp);
                self.vettings.waiting.push_back(file);
                return;
            }
            Some(End::Damaged(why)) => {
                let path = self.path_of(&file);
                self.say_unreadable(&path, &io::Error::other(why));
            }
            None => {}
        }
        self.refuse(&file, &candidates);
    }

    /// It is a whole stream, which ends with these bytes.
    fn conclude_whole(&mut self, looked: Looking, last: &[u8], out: &mut Outlet<'_>) {
        let Looking {
            mut file,
            content,
            candidates,
        } = looked;
        let length = content.length();
        let best = candidates
            .iter()
            .filter(|it| it.state == Match::Both && self.is_proven(it, &file, length, last))
            .max_by_key(|it| (self.is_cut(it.id), it.sample.offset));
        if let Some(best) = best {
            self.refuse(&file, &candidates);
            return self.is_copy(best.id, &file, content, out);
        }
        let now = out.now().monotonic;
        let since = *file.doubted_at.get_or_insert(now);
        if now.saturating_sub(since) < COMPRESSED_QUIET
            && let Some(lineage) = self.unseen_change(&file, &candidates)
        {
            self.queue(lineage);
            self.vettings.waiting.push_back(file);
            self.vettings.next = now + COMPRESSED_QUIET / 4;
            return;
        }
        let is_short = |it: &&Candidate| self.is_short(it, &file, length, last);
        if let Some(short) = candidates.iter().rfind(is_short) {
            if !file.is_put_off && !self.vettings.waiting.is_empty() {
                file.is_put_off = true;
                self.vettings.waiting.push_back(file);
                return;
            }
            self.refuse(&file, &candidates);
            return self.is_copy(short.id, &file, content, out);
        }
        if self.is_meant(file.directory, &file.name) {
            return self.begin_compressed(&file, &content, out);
        }
        self.refuse(&file, &candidates);
    }

    /// Looking through the file once more brings nothing new as long as it is the same.
    fn refuse(&mut self, file: &Waiting, candidates: &[Candidate]) {
        if self.vettings.refused.len() >= REFUSED_MAX {
            self.vettings.refused.clear();
        }
        let asked = candidates.iter().map(|it| it.id).collect();
        self.vettings.refused.insert(file.key, (file.stamp, asked));
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

    /// A lineage that the file may be of, with an epoch that the candidates do not have as it is by now:
    /// its file was truncated, or begun, and the next read is going to notice.
    fn unseen_change(&self, file: &Waiting, candidates: &[Candidate]) -> Option<usize> {
        let is_changed = |index: usize, lineage: &Lineage, epoch: &Epoch| {
            let Some(own) = epoch.content.as_ref().and_then(Content::plain) else {
                return false;
            };
            let mut ids = candidates.iter().map(|it| it.id);
            let is_candidate = ids.any(|it| it.lineage == index && it.number == epoch.number);
            if is_candidate {
                let is_same = self.reader.is_same(own, &lineage.position(epoch));
                return matches!(is_same, Ok(false));
            }
            own.metadata().is_ok_and(|it| it.len() > 0)
        };
        self.lineages.iter().enumerate().find_map(|(index, held)| {
            let lineage = held.as_ref()?;
            let mut epochs = lineage.epochs.iter();
            epochs
                .any(|it| is_of(&file.name, lineage, it) && is_changed(index, lineage, it))
                .then_some(index)
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
        head == HEAD_BYTES as u64 && length >= head && (is_named_so || is_seen_cut)
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

    /// A compressed file that was there before the very first start is not to be read. That is noted now:
    /// after a restart nobody would know it.
    pub(super) fn pass_over_compressed(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: Opened,
        out: &mut Outlet<'_>,
    ) {
        let key = opened.key;
        self.begin(directory, name, opened, out);
        let Some(id) = self.known.get(&key).copied() else {
            return;
        };
        if let Some(epoch) = self.epoch(id) {
            epoch.finish(out.now());
            epoch.content = None;
            self.note(id, out);
        }
    }

    /// Finished epochs whose files are gone are known by their compressed copies from now on.
    pub(super) fn take_over_copies(&mut self, out: &mut Outlet<'_>) {
        let lineages = self.lineages.iter().flatten();
        let aliased: HashSet<FileKey> = lineages.filter_map(|lineage| lineage.alias_of).collect();
        let mut taken = Vec::new();
        for (index, lineage) in self.lineages.iter_mut().enumerate() {
            for epoch in lineage.iter_mut().flat_map(|it| &mut it.epochs) {
                let is_gone = epoch.is_finished() && epoch.content.is_none();
                if !is_gone || aliased.contains(&epoch.key) {
                    continue;
                }
                let Some((key, codec, path)) = epoch.copy.take() else {
                    continue;
                };
                let id = EpochId {
                    lineage: index,
                    number: epoch.number,
                };
                taken.push((id, std::mem::replace(&mut epoch.key, key)));
                epoch.codec = codec;
                epoch.place = Some(path);
            }
        }
        for (id, old) in taken {
            if self.known.get(&old) == Some(&id) {
                self.known.remove(&old);
            }
            self.note(id, out);
        }
    }

    /// Decompresses towards what is to be read next of an epoch. `None`: it is there.
    pub(super) fn approach(&mut self, id: EpochId, out: &mut Outlet<'_>) -> Option<Progress> {
        let is_free = match self.vettings.awake.filter(|&awake| awake != id) {
            Some(other) => !self.is_awake(other),
            None => true,
        };
        let lineage = self.lineages[id.lineage].as_mut()?;
        let path = lineage.path.clone();
        let epoch = lineage.epoch(id.number)?;
        let offset = epoch.offset;
        let Some(Content::Compressed(content)) = &mut epoch.content else {
            return None;
        };
        if !is_free {
            self.vettings.asleep.insert(id.lineage);
            return Some(Progress::None);
        }
        self.vettings.awake = Some(id);
        let searched = epoch.searched;
        let (from, next) = if searched > offset {
            // A long line's end is looked for: its start lies behind.
            (searched - NEWLINE_BYTES_MAX as u64, searched)
        } else if offset < HEAD_BYTES as u64 {
            (0, offset)
        } else {
            (offset - TAIL_BYTES as u64, offset)
        };
        let to = next + (READ_BYTES + HEAD_BYTES) as u64;
        match content.approach(from, to) {
            Ok(false) => Some(Progress::Some(DECOMPRESS_STEP_BYTES)),
            Ok(true) => match content.end() {
                None | Some(End::Whole) => None,
                // It was whole when it was looked through. Perhaps there is another copy.
                Some(End::Early | End::Damaged(_)) => {
                    let why = epoch.cut_by;
                    self.truncated(id, why, out);
                    Some(Progress::Some(1))
                }
            },
            Err(error) => {
                self.say_unreadable(&path, &error);
                Some(Progress::None)
            }
        }
    }

    fn is_awake(&self, id: EpochId) -> bool {
        self.held(id).is_some_and(
            |(_, epoch)| matches!(&epoch.content, Some(Content::Compressed(it)) if it.is_awake()),
        )
    }

    /// Gives the decoder to the next lineage that waits for it.
    fn wake_next(&mut self) {
        if self.vettings.asleep.is_empty()
            || self.vettings.awake.is_some_and(|id| self.is_awake(id))
        {
            return;
        }
        self.vettings.awake = None;
        if let Some(lineage) = self.vettings.asleep.pop_first() {
            self.queue(lineage);
        }
    }

    fn path_of(&self, file: &Waiting) -> PathBuf {
        self.directories[file.directory].path.join(&file.name)
    }
}

/// Whether a file has these bytes before its byte `end`.
fn has_before(file: &File, end: u64, bytes: &[u8]) -> bool {
    let mut own = vec![0; bytes.len()];
    let filled = read_at(file, &mut own, end - bytes.len() as u64);
    matches!(filled, Ok(filled) if filled == own.len()) && own == bytes
}

/// Whether a compressed file could be an epoch's, by its name: that of the path, or of what a link leads
/// to. What lost its name may have been shifted on before it was compressed.
fn is_of(name: &OsStr, lineage: &Lineage, epoch: &Epoch) -> bool {
    let plain = without_codec(name);
    let real = epoch.place.as_ref().and_then(|place| place.file_name());
    let is_left = epoch.life != Life::Named;
    let mut names = real.into_iter().chain([lineage.name.as_os_str()]);
    names.any(|own| own == plain || is_rotation_of(own, plain) || is_left && is_shifted(own, plain))
}
