//! Compressed files are looked through before anything is made of them: each once, one after the other,
//! a step in each turn.
//!
//! A file's name tells which paths it may be a rotation of; the guards of their epochs are compared in what
//! it decompresses to. What follows from that is in [`verdict`](super::verdict).

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use model::position::{Codec, FileKey, Guard};

use super::audit::Why;
use super::compressed::{Compressed, MAGIC_BYTES, codec_of};
use super::content::read_at;
use super::copies::Sample;
use super::discovery::Opened;
use super::lineage::{Epoch, Life, Lineage};
use super::pattern::{is_rotation_of, is_shifted, without_codec};
use super::watch::Spot;
use super::{EpochId, FileSource, Phase, StartAt, kernel};
use crate::ambient::Now;
use crate::limits::{COMPRESSED_QUIET, COMPRESSED_UNFINISHED, REFUSED_MAX, VETTINGS_MAX};
use crate::pipeline::Outlet;

/// The compressed files of a source that nothing is made of yet.
#[derive(Default)]
pub(super) struct Vettings {
    waiting: VecDeque<Waiting>,
    looking: Option<Looking>,
    /// Files that are nobody's copy, or cannot be read, as they were then, and for whom that was asked.
    refused: HashMap<FileKey, (Stamp, Vec<EpochId>)>,
    /// When those that wait are looked at again.
    next: Duration,
}

/// A compressed file that is not looked through yet.
pub(super) struct Waiting {
    pub(super) directory: usize,
    pub(super) name: OsString,
    pub(super) key: FileKey,
    pub(super) stamp: Stamp,
    changed_at: Duration,
    /// It ended early when it was like this.
    pub(super) unfinished: Option<Stamp>,
    /// That was said.
    is_said: bool,
    /// It seems to be a short copy, and comes after those that may be the whole one.
    pub(super) is_put_off: bool,
    /// Since when epochs that it may be of were seen to change.
    pub(super) doubted_at: Option<Duration>,
    /// Why it is not to be read: it was there before the very first start, or is too old.
    pub(super) passed_over: Option<Why>,
}

/// The one that is looked through.
pub(super) struct Looking {
    pub(super) file: Waiting,
    pub(super) content: Compressed,
    pub(super) candidates: Vec<Candidate>,
}

/// An epoch that the file may be a copy of.
pub(super) struct Candidate {
    pub(super) id: EpochId,
    pub(super) sample: Sample,
    pub(super) state: Match,
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

/// A file's size and time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64);

impl Stamp {
    pub(super) fn of(file: &File) -> io::Result<Stamp> {
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

    /// Whether any wait.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A file waits behind all others, until it has changed or they are done with.
    pub(super) fn wait(&mut self, file: Waiting) {
        self.waiting.push_back(file);
    }

    /// The same, and nothing but time can bring it on.
    pub(super) fn wait_until(&mut self, at: Duration, file: Waiting) {
        self.waiting.push_back(file);
        self.next = at;
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

    /// Looking through the file once more brings nothing new as long as it is the same.
    pub(super) fn refuse(&mut self, file: &Waiting, candidates: &[Candidate]) {
        if self.vettings.refused.len() >= REFUSED_MAX {
            self.vettings.refused.clear();
        }
        let asked = candidates.iter().map(|it| it.id).collect();
        self.vettings.refused.insert(file.key, (file.stamp, asked));
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
        if self.vettings.looking.is_some() || self.can_wake_next() {
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

    pub(super) fn path_of(&self, file: &Waiting) -> PathBuf {
        self.directories[file.directory].path.join(&file.name)
    }
}

/// Whether a compressed file could be an epoch's, by its name: that of the path, or of what a link leads
/// to. What lost its name may have been shifted on before it was compressed.
pub(super) fn is_of(name: &OsStr, lineage: &Lineage, epoch: &Epoch) -> bool {
    let plain = without_codec(name);
    let real = epoch.place.as_ref().and_then(|place| place.file_name());
    let is_left = epoch.life != Life::Named;
    let mut names = real.into_iter().chain([lineage.name.as_os_str()]);
    names.any(|own| own == plain || is_rotation_of(own, plain) || is_left && is_shifted(own, plain))
}
