//! Compressed files are looked through before anything is made of them: each once, one after the other,
//! a step in each turn.
//!
//! A file's name tells which paths it may be a rotation of; the guards of their epochs are compared in what
//! it decompresses to. What follows from that is in [`verdict`](super::verdict).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::position::{Codec, FileKey, Guard, milestones_of};

use super::audit::Why;
use super::compressed::{Compressed, MAGIC_BYTES, codec_of};
use super::content::read_at;
use super::copies::Sample;
use super::discovery::{Opened, is_absent};
use super::guard::HEAD_BYTES;
use super::lineage::Epoch;
use super::pattern::without_codec;
use super::related::{is_of, keys_of_epoch};
use super::waiting::{Queue, Stamp, Waiting};
use super::watch::Spot;
use super::{EpochId, FileSource, Phase, StartAt, kernel};
use crate::ambient::Now;
use crate::limits::{
    COMPRESSED_QUIET, COMPRESSED_UNFINISHED, REFUSED_MAX, VETTINGS_MAX, VETTINGS_WAITING_MAX,
};
use crate::pipeline::Outlet;

/// The compressed files of a source that nothing is made of yet.
#[derive(Default)]
pub(super) struct Vettings {
    waiting: Queue,
    /// Directories with files that found no room to wait.
    turned_away: BTreeSet<usize>,
    looking: Option<Looking>,
    /// Files that are nobody's copy, or cannot be read.
    refused: HashMap<FileKey, Refused>,
    /// When those that wait are looked at again.
    next: Duration,
}

/// The one that is looked through.
pub(super) struct Looking {
    pub(super) file: Waiting,
    pub(super) content: Compressed,
    /// What it begins with, once that is known.
    pub(super) head: Option<Vec<u8>>,
    /// Epochs that begin so.
    pub(super) candidates: Vec<Candidate>,
}

/// What is known of a file that was looked through in vain.
struct Refused {
    /// It was like this then.
    stamp: Stamp,
    head: Vec<u8>,
    /// For whom that was asked.
    asked: Vec<EpochId>,
    is_damaged: bool,
}

/// An epoch that the file may be a copy of.
pub(super) struct Candidate {
    pub(super) id: EpochId,
    pub(super) sample: Sample,
    pub(super) state: Match,
    /// Whether the file has what the epoch's had before each of its milestones, where it gets so far.
    has_milestones: [Option<bool>; 2],
}

impl Candidate {
    /// Whether a file of this length, which begins as the epoch's, has the same as that at the last
    /// milestone before its end. It is a copy then: the head alone can be a program's banner.
    pub(super) fn has_last_milestone(&self, length: u64) -> bool {
        let milestones = milestones_of(self.sample.offset).into_iter();
        let mut found = milestones.zip(self.has_milestones);
        let last = found.find(|&(at, _)| at <= length);
        // What lies within the head says no more than that.
        last.is_some_and(|(at, has)| at > HEAD_BYTES as u64 && has == Some(true))
    }
}

/// How far a candidate's guards were compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Unknown,
    Head,
    Both,
    /// The head's holds as far as there is something to compare, which ends before the epoch's offset.
    Short,
    No,
}

impl Looking {
    /// Whether it may turn out to be a copy of the epoch, if it is by its name.
    fn may_be_of(&self, id: EpochId) -> bool {
        let mut candidates = self.candidates.iter();
        self.head.is_none() || candidates.any(|it| it.id == id && it.state != Match::No)
    }

    /// What it begins with, if so much of it was decompressed.
    fn beginning(&self) -> Option<Vec<u8>> {
        let is_known = self.content.end().is_some() || self.content.decoded() >= HEAD_BYTES as u64;
        let length = self.content.decoded().min(HEAD_BYTES as u64);
        let length = usize::try_from(length).ok().filter(|_| is_known)?;
        self.content.in_window(0, length)
    }
}

impl Vettings {
    /// How many of them are open.
    pub(super) fn files_open(&self) -> usize {
        usize::from(self.looking.is_some())
    }

    /// A file was seen. Where it waits and has changed, it is looked at soon again. Whether it waits.
    fn saw_waiting(&mut self, key: FileKey, stamp: Stamp, now: Duration) -> bool {
        let seen = self.waiting.saw(key, stamp, now);
        if seen == Some(true) {
            self.next = self.next.min(now + COMPRESSED_QUIET / 4);
        }
        seen.is_some()
    }

    /// Whether any wait.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A file waits behind all others, until it has changed or they are done with.
    pub(super) fn wait(&mut self, file: Waiting) {
        self.waiting.push(file);
    }

    /// The same, and nothing but time can bring it on.
    pub(super) fn wait_until(&mut self, at: Duration, file: Waiting) {
        self.waiting.push(file);
        self.next = at;
    }

    /// Whether as many wait as may.
    fn is_full(&self) -> bool {
        self.waiting.len() >= VETTINGS_WAITING_MAX
    }

    /// Whether there is room for those that found none: much of it, or all that there will be for a while.
    fn has_room_again(&self, now: Duration) -> bool {
        let is_paused = self.next > now && !self.is_full();
        is_paused || self.waiting.len() <= VETTINGS_WAITING_MAX / 2
    }

    /// Where the files are.
    pub(super) fn directories(&self) -> impl Iterator<Item = usize> {
        let looking = self.looking.as_ref().map(|it| it.file.directory);
        let waiting = self.waiting.iter().map(|it| it.directory);
        let turned_away = self.turned_away.iter().copied();
        waiting.chain(looking).chain(turned_away)
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
        if is_awaited {
            let name = name.to_owned();
            self.waiting_went_to(opened.key, &Spot { directory, name });
        }
        if !is_awaited && !self.is_refused(name, opened.key, stamp) {
            // Nothing finds a file again that is not meant, but those who ask for it are few.
            if self.vettings.is_full() && self.is_meant(directory, name) {
                self.turn_away(directory, name);
                return true;
            }
            let is_before = self.phase == Phase::FirstEver && self.config.start_at == StartAt::End;
            let is_old = self.is_old(&opened.file, now);
            let passed_over = if is_before {
                Some(Why::BeforeStart)
            } else {
                is_old.then_some(Why::Older)
            };
            self.vettings.waiting.push(Waiting {
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

    /// A file finds no room to wait. It is met again by a listing of its directory.
    fn turn_away(&mut self, directory: usize, name: &OsStr) {
        self.vettings.turned_away.insert(directory);
        let index = self.directories[directory].names.get(name);
        if let Some(lineage) = index.and_then(|&index| self.lineages[index].as_mut()) {
            lineage.entry = 0;
        }
    }

    /// Lists the directories again whose files found no room to wait, if there is some now.
    fn call_back(&mut self, now: Duration) {
        if self.vettings.turned_away.is_empty() || !self.vettings.has_room_again(now) {
            return;
        }
        for directory in std::mem::take(&mut self.vettings.turned_away) {
            self.directories[directory].list_again();
        }
        self.reconcile_by(now);
    }

    /// A file that may wait to be looked through has another name.
    pub(super) fn waiting_went_to(&mut self, key: FileKey, to: &Spot) {
        if let Some(Looking { file, .. }) = &mut self.vettings.looking
            && file.key == key
        {
            file.go_to(to);
        }
        self.vettings.waiting.went_to(key, to);
    }

    /// Whether nothing new can come of looking through a file once more.
    fn is_refused(&mut self, name: &OsStr, key: FileKey, stamp: Stamp) -> bool {
        let Some(refused) = self.vettings.refused.remove(&key) else {
            return false;
        };
        let is_new = |it: &Candidate| !refused.asked.contains(&it.id);
        if refused.stamp != stamp || self.candidates(name, &refused.head).iter().any(is_new) {
            return false;
        }
        self.vettings.refused.insert(key, refused);
        true
    }

    /// Looking through the file once more brings nothing new as long as it is the same.
    pub(super) fn refuse(&mut self, file: &Waiting, head: Vec<u8>, candidates: &[Candidate]) {
        if self.vettings.refused.len() >= REFUSED_MAX {
            self.vettings.refused.clear();
        }
        let refused = Refused {
            stamp: file.stamp,
            head,
            asked: candidates.iter().map(|it| it.id).collect(),
            is_damaged: false,
        };
        self.vettings.refused.insert(file.key, refused);
    }

    /// The stream of a file that was refused is damaged.
    pub(super) fn refused_as_damaged(&mut self, key: FileKey) {
        if let Some(refused) = self.vettings.refused.get_mut(&key) {
            refused.is_damaged = true;
        }
    }

    /// Whether that is known of a file as it is.
    pub(super) fn is_damaged(&self, opened: &Opened) -> bool {
        let refused = self.vettings.refused.get(&opened.key);
        refused.is_some_and(|it| it.is_damaged && Stamp::of(&opened.file).ok() == Some(it.stamp))
    }

    /// A copy was known by what its epoch was then. It is looked through once more.
    pub(super) fn doubt_copy(&mut self, key: FileKey) {
        self.known.remove(&key);
        self.vettings.refused.remove(&key);
    }

    /// Whether a file that waits or is looked through, or has to come again for it, may turn out to be a
    /// copy of the epoch.
    pub(super) fn may_be_vetted_for(&self, id: EpochId) -> bool {
        if !self.vettings.turned_away.is_empty() {
            return true;
        }
        let Some((lineage, epoch)) = self.held(id) else {
            return false;
        };
        let keys = keys_of_epoch(lineage, epoch);
        let mut waiting = self.vettings.waiting.related(keys);
        let mut looked = self.vettings.looking.iter();
        waiting.any(|it| it.may_be_whole() && is_of(&it.name, lineage, epoch))
            || looked.any(|it| it.may_be_of(id) && is_of(&it.file.name, lineage, epoch))
    }

    /// Whether this file does.
    pub(super) fn is_vetted_for(&self, id: EpochId, key: FileKey) -> bool {
        if !self.vettings.turned_away.is_empty() {
            return true;
        }
        let Some((lineage, epoch)) = self.held(id) else {
            return false;
        };
        let waiting = self.vettings.waiting.of(key);
        let waiting = waiting.filter(|it| it.may_be_whole());
        let looked = self.vettings.looking.as_ref();
        let looked = looked.filter(|it| it.file.key == key && it.may_be_of(id));
        let file = waiting.or(looked.map(|it| &it.file));
        file.is_some_and(|it| is_of(&it.name, lineage, epoch))
    }

    /// Finished epochs that a file which is still to be looked through may be a copy of.
    pub(super) fn awaited_by_vetting(&self) -> HashSet<EpochId> {
        if self.vets_at().is_none() {
            return HashSet::new();
        }
        let finished = self.epochs_that(Epoch::is_finished).into_iter();
        finished.filter(|&id| self.may_be_vetted_for(id)).collect()
    }

    /// Whether time alone brings on what waits.
    pub(super) fn vets_at(&self) -> Option<Duration> {
        if self.vettings.looking.is_some() || self.can_wake_next() {
            return Some(Duration::ZERO);
        }
        (!self.vettings.waiting.is_empty()).then_some(self.vettings.next)
    }

    /// Looks through a compressed file for one step, or chooses the next one.
    pub(super) fn vet(&mut self, out: &mut Outlet<'_>) {
        let now = out.now();
        self.wake_next();
        self.call_back(now.monotonic);
        let Some(mut looking) = self.vettings.looking.take() else {
            if self.vettings.next <= now.monotonic && !self.vettings.waiting.is_empty() {
                self.choose(out);
            }
            return;
        };
        let path = self.path_of(&looking.file);
        match looking.content.advance() {
            Ok(is_over) => {
                if looking.head.is_none()
                    && let Some(head) = looking.beginning()
                {
                    looking.candidates = self.candidates(&looking.file.name, &head);
                    looking.head = Some(head);
                }
                self.compare(&mut looking);
                let mut candidates = looking.candidates.iter();
                let is_refuted =
                    looking.head.is_some() && candidates.all(|it| it.state == Match::No);
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
            let Some(mut waiting) = self.vettings.waiting.pop() else {
                break;
            };
            let path = self.path_of(&waiting);
            let opened = self.open_or_make_room(&path, now);
            let stamped = opened.and_then(|opened| {
                let opened = opened.ok_or(io::ErrorKind::NotFound)?;
                Ok((Stamp::of(&opened.file)?, opened))
            });
            // What is gone, or another file now, is met again if it is meant.
            let (stamp, opened) = match stamped {
                Ok(stamped) => stamped,
                Err(error) if is_absent(&error) => continue,
                Err(error) => {
                    self.say_unreadable(&path, &error);
                    continue;
                }
            };
            let is_known = self.known.contains_key(&opened.key);
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
                self.vettings.waiting.push(waiting);
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
                self.vettings.waiting.push(Waiting {
                    unfinished: Some(file.stamp),
                    ..file
                });
            }
            // Its name promised more than it holds.
            Ok(Codec::None) => self.found_plain(file.directory, &file.name, opened, out),
            Ok(codec) => {
                self.vettings.looking = Some(Looking {
                    content: Compressed::new(opened.file, codec),
                    head: None,
                    candidates: Vec::new(),
                    file,
                });
                // Only now: what it may be a copy of is needed to tell.
                self.close_surplus(out.now());
            }
            Err(error) => {
                let path = self.path_of(&file);
                self.say_unreadable(&path, &error);
            }
        }
    }

    /// The epochs that a compressed file can be a copy of, by its name and by what it begins with.
    pub(super) fn candidates(&mut self, name: &OsStr, head: &[u8]) -> Vec<Candidate> {
        let hasher = self.reader.hasher();
        let lineages = self.lineages.that_begin(name, head, hasher).into_iter();
        let lineages = lineages.filter_map(|index| Some((index, self.lineages[index].as_ref()?)));
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
                has_milestones: [None; 2],
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
        for Candidate {
            sample,
            state,
            has_milestones,
            ..
        } in &mut looking.candidates
        {
            let milestones = milestones_of(sample.offset).into_iter();
            for ((at, guard), has) in milestones.zip(sample.milestones).zip(has_milestones) {
                if has.is_none() && guard.bytes > 0 && content.decoded() >= at {
                    *has = compared(at - u64::from(guard.bytes), guard);
                }
            }
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

    pub(super) fn path_of(&self, file: &Waiting) -> PathBuf {
        self.directories[file.directory].path.join(&file.name)
    }
}
