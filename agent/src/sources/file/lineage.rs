//! A path that is followed, and the files that it named one after the other.
//!
//! A *lineage* is one path of one source. Each life of an inode under that path is an *epoch*: a
//! rotation, a deletion with a successor, and a truncation begin the next. Epochs are read strictly in
//! their order, so the order of a file's lines survives its rotation.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use commitlog::batch::builder::HeaderBlock;
use commitlog::id::{Timestamp, TopicPartition};
use model::position::{Codec, FileKey, Guard, LineageId, Position, milestones_of};

use super::audit::{Account, Why};
use super::content::Content;
use super::discovery::next_number;
use super::encoding::Form;
use super::guard::{Hasher, TAIL_BYTES};
use super::watch::Spot;
use super::{EpochId, FileSource};
use crate::ambient::Now;
use crate::limits::EPOCH_NUMBERS_APART;
use crate::pipeline::DestinationId;
use crate::spool::positions::Placed;

/// One path of the source.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each tells another thing that is so or not, whatever the others say"
)]
pub(super) struct Lineage {
    pub(super) id: LineageId,
    pub(super) path: PathBuf,
    /// The directory's number in the source.
    pub(super) directory: usize,
    pub(super) name: OsString,
    /// Where its records go, once that is decided.
    pub(super) partition: Option<TopicPartition>,
    /// What reading takes. Only while there is or was lately something to read.
    pub(super) stream: Option<Box<Stream>>,
    /// In the order in which they are read. Finished ones stay at the front while their files can be
    /// met again.
    pub(super) epochs: VecDeque<Epoch>,
    /// The highest number that an epoch had.
    pub(super) last_epoch: Option<u32>,
    /// What the path leads to, where it is a link.
    pub(super) leads_to: Option<Box<Spot>>,
    /// The path names a file that belongs to another lineage: a rotated one, a second link.
    pub(super) alias_of: Option<FileKey>,
    /// Waits to be read.
    pub(super) queued: bool,
    /// It is read again because a record may be whole by then.
    pub(super) awaited: bool,
    /// Something may have happened to it since it was read or looked at.
    pub(super) touched: bool,
    /// The inode number that the directory's last listing had for the name, or the file that was begun under
    /// it since; 0 before that.
    pub(super) entry: u64,
    /// The path was there when it was looked for last.
    pub(super) met: bool,
}

/// Where a lineage's records go and what they bear.
pub(super) struct Stream {
    pub(super) partition: TopicPartition,
    pub(super) destination: DestinationId,
    pub(super) headers: HeaderBlock,
    /// The same, for a piece of a line that the next record continues.
    pub(super) split: HeaderBlock,
    /// The same, for the start of a line whose rest is left out.
    pub(super) truncated: HeaderBlock,
    /// The same, for a last line without its newline.
    pub(super) unterminated: HeaderBlock,
}

/// One life of one inode.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each tells another thing that is so or not, whatever the others say"
)]
pub(super) struct Epoch {
    pub(super) number: u32,
    pub(super) key: FileKey,
    /// Open while there is or may be something to read.
    pub(super) content: Option<Content>,
    /// How the file is compressed. Offsets and sizes count what it holds.
    pub(super) codec: Codec,
    /// The end of the last record that was taken.
    pub(super) offset: u64,
    /// How its bytes become text, once that was looked at.
    pub(super) form: Option<Form>,
    /// The line at `offset` is longer than the limit, and does not end before this byte.
    pub(super) searched: u64,
    /// The record at `offset` of several lines goes on in all lines that end before this byte.
    pub(super) judged: u64,
    /// Over the first bytes that were seen, read or not.
    pub(super) head: Guard,
    /// Over the last bytes that were taken.
    pub(super) tail: Guard,
    /// Over the last bytes before each of [`milestones_of`] its offset, the greater one first.
    pub(super) milestones: [Guard; 2],
    /// The most that was seen of the file.
    pub(super) size_seen: u64,
    /// When it was last seen to grow.
    pub(super) grown_at: Duration,
    pub(super) life: Life,
    /// A compressed copy of it that was met. It takes the file's place when that is gone.
    pub(super) copy: Option<(FileKey, Codec, PathBuf)>,
    /// Where the inode was seen last, when that is not the lineage's path.
    pub(super) place: Option<PathBuf>,
    /// Its file is a copy of the one that it began in.
    pub(super) is_copied: bool,
    /// What was told of its bytes.
    pub(super) account: Account,
    /// What its unread rest is lost to if no copy of it is found.
    pub(super) cut_by: Why,
    /// When it was finished, in seconds of the wall clock: it is remembered over restarts.
    pub(super) finished_s: u64,
    /// It is finished, and somebody who has it open may add to it yet. Until the time for that is over a
    /// position does not tell that it is finished: a file that is gone after a restart may have had more.
    pub(super) may_grow: bool,
    /// The file's change time as of the last look at everything.
    pub(super) changed: Option<(i64, i64)>,
    /// It was not seen since the agent started: nobody knows what was added to it.
    pub(super) is_unseen: bool,
    /// An event told that it was written to, and it was closed then or since, and not opened again.
    pub(super) is_stirred: bool,
}

/// What is known of an epoch's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// The path names it.
    Named,
    /// The path does not name it any more, since this time: it was rotated or deleted. It is read to
    /// its end.
    Detached(Duration),
    /// Its content was cut off or replaced. What was not read may be in a copy, which is looked for
    /// since this time.
    Truncated(Duration),
    /// It cannot be seen, since this time, and is not known to be gone: its directory cannot be read, or
    /// its file system is not mounted. Its successors do not wait for it.
    Missing(Duration),
    /// Read to its end, since this time. It is kept to know the file when it is met again.
    Finished(Duration),
}

/// Where an epoch stands that is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The path names its file: it is the newest.
    Newest,
    /// Others may have come since the path ceased to name its file: it stands behind those that the path
    /// had when it was met, of which this was the last.
    Behind(Option<u32>),
}

impl FileSource {
    /// An epoch, and the lineage that it is of; `None` where either is forgotten.
    pub(super) fn held(&self, id: EpochId) -> Option<(&Lineage, &Epoch)> {
        let lineage = self.lineages[id.lineage].as_ref()?;
        let mut epochs = lineage.epochs.iter();
        Some((lineage, epochs.find(|epoch| epoch.number == id.number)?))
    }

    /// The position of an epoch, with its partition once it has one.
    pub(super) fn placed_of(&self, id: EpochId) -> Option<Placed> {
        let (lineage, epoch) = self.held(id)?;
        Some(lineage.placed(epoch))
    }
}

impl Lineage {
    /// A lineage without epochs.
    pub(super) fn new(id: LineageId, path: PathBuf, directory: usize, name: OsString) -> Lineage {
        Lineage {
            id,
            path,
            directory,
            name,
            partition: None,
            stream: None,
            // Most files are never rotated.
            epochs: VecDeque::with_capacity(1),
            last_epoch: None,
            leads_to: None,
            alias_of: None,
            queued: false,
            awaited: false,
            touched: false,
            entry: 0,
            met: true,
        }
    }

    /// The epoch that is read at present.
    pub(super) fn current(&mut self) -> Option<(usize, &mut Epoch)> {
        self.epochs
            .iter_mut()
            .enumerate()
            .find(|(_, epoch)| !epoch.is_finished() && !epoch.is_missing())
    }

    /// The epoch that the path names.
    pub(super) fn named(&mut self) -> Option<&mut Epoch> {
        self.epochs
            .iter_mut()
            .rev()
            .find(|epoch| epoch.life == Life::Named)
    }

    /// The epoch of this number.
    pub(super) fn epoch(&mut self, number: u32) -> Option<&mut Epoch> {
        self.epochs.iter_mut().find(|epoch| epoch.number == number)
    }

    /// Where a new epoch stands among the others, and its number.
    pub(super) fn place_of(&self, standing: Standing, now: Now) -> (usize, u32) {
        let newest = next_number(self.last_epoch, now);
        let mut numbers = self.epochs.iter().map(|epoch| epoch.number);
        let later = match standing {
            Standing::Newest => None,
            Standing::Behind(last) => numbers.position(|number| Some(number) > last),
        };
        match later {
            Some(at) => (at, self.number_before(at).unwrap_or(newest)),
            None => (self.epochs.len(), newest),
        }
    }

    /// A free number for an epoch between the one at `at` and the next; `None` where there is no next one,
    /// or no room before it.
    pub(super) fn number_after(&self, at: usize) -> Option<u32> {
        let number = self.number_before(at + 1)?;
        (number > self.epochs[at].number).then_some(number)
    }

    /// A free number for an epoch before the one at `at`; `None` where there is none, or no room before it.
    fn number_before(&self, at: usize) -> Option<u32> {
        let next = self.epochs.get(at)?.number;
        let numbers = self.epochs.iter().map(|epoch| epoch.number);
        let before = numbers.filter(|&number| number < next).max();
        let before = before.unwrap_or(next.saturating_sub(EPOCH_NUMBERS_APART));
        (before + 1 < next).then_some(before + 1)
    }

    /// The epoch of this number comes behind all others.
    pub(super) fn move_to_back(&mut self, number: u32) {
        let mut numbers = self.epochs.iter().map(|epoch| epoch.number);
        if let Some(at) = numbers.position(|it| it == number)
            && let Some(epoch) = self.epochs.remove(at)
        {
            self.epochs.push_back(epoch);
        }
    }

    /// Whether anything but events of its own name can change it: then it is looked at by time.
    pub(super) fn needs_attention(&self) -> bool {
        self.epochs.iter().any(|epoch| match epoch.life {
            Life::Named | Life::Missing(_) => false,
            Life::Detached(_) | Life::Truncated(_) => true,
            Life::Finished(_) => epoch.content.is_some(),
        })
    }

    /// Whether all that is left of it is remembered.
    pub(super) fn is_over(&self) -> bool {
        self.alias_of.is_none() && self.epochs.iter().all(Epoch::is_finished)
    }

    /// The position of an epoch as of its fields.
    pub(super) fn position(&self, epoch: &Epoch) -> Position {
        Position {
            lineage: self.id,
            epoch: epoch.number,
            offset: epoch.offset,
            codec: epoch.codec,
            key: epoch.key,
            head: epoch.head,
            tail: epoch.tail,
            milestones: epoch.milestones,
            path: self.path.as_os_str().as_bytes().to_vec(),
            place: epoch.place.as_deref().map(bytes_of),
            is_copied: epoch.is_copied,
            finished_s: epoch.is_over().then_some(epoch.finished_s.max(1)),
        }
    }

    /// The position of an epoch, with its partition once it has one.
    pub(super) fn placed(&self, epoch: &Epoch) -> Placed {
        Placed {
            position: self.position(epoch),
            partition: self.partition.clone(),
        }
    }
}

impl Epoch {
    /// An epoch that begins at the first byte of `content`.
    pub(super) fn new(number: u32, key: FileKey, content: Content, now: Duration) -> Epoch {
        Epoch {
            number,
            key,
            codec: content.codec(),
            content: Some(content),
            offset: 0,
            form: None,
            searched: 0,
            judged: 0,
            head: Guard::default(),
            tail: Guard::default(),
            milestones: Default::default(),
            size_seen: 0,
            grown_at: now,
            life: Life::Named,
            copy: None,
            place: None,
            is_copied: false,
            account: Account::default(),
            cut_by: Why::Truncated,
            finished_s: 0,
            may_grow: false,
            changed: None,
            is_unseen: false,
            is_stirred: false,
        }
    }

    /// Whether it is a compressed file under its own path, and no other file's copy.
    pub(super) fn is_own_compressed(&self) -> bool {
        self.codec != Codec::None && self.place.is_none()
    }

    pub(super) fn is_finished(&self) -> bool {
        matches!(self.life, Life::Finished(_))
    }

    /// It is finished for good, for all that anybody can know.
    fn is_over(&self) -> bool {
        self.is_finished() && !self.may_grow
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self.life, Life::Missing(_))
    }

    /// Nothing more is expected of it.
    pub(super) fn finish(&mut self, now: Now) {
        self.life = Life::Finished(now.monotonic);
        self.finished_s = seconds(now);
        self.may_grow = false;
    }

    /// The file is at least this long.
    pub(super) fn saw_size(&mut self, size: u64, now: Duration) {
        if size > self.size_seen {
            self.size_seen = size;
            self.grown_at = now;
        }
    }

    /// Moves on to `offset`, before which the guard is `tail`.
    pub(super) fn move_to(&mut self, offset: u64, tail: Guard) {
        self.offset = offset;
        self.searched = 0;
        self.judged = 0;
        self.tail = tail;
    }

    /// Moves on to `offset`. `before` are the bytes just before it, at least [`TAIL_BYTES`] of them or
    /// all there are.
    pub(super) fn advance(&mut self, offset: u64, before: &[u8], hasher: &Hasher) {
        self.move_to(offset, tail_guard(before, hasher));
    }

    /// The milestones once it is moved on to `offset`. `before` are the bytes just before that, without a gap, as
    /// far as they are known.
    pub(super) fn milestones_at(&self, offset: u64, before: &[u8], hasher: &Hasher) -> [Guard; 2] {
        let [greater, lesser] = milestones_of(offset);
        let [passed, _] = milestones_of(self.offset);
        if greater == passed {
            return self.milestones;
        }
        let guard_before = |at: u64| {
            let behind = usize::try_from(offset - at).ok()?;
            let end = before.len().checked_sub(behind)?;
            let start = end.checked_sub(TAIL_BYTES)?;
            Some(hasher.guard(&before[start..end]))
        };
        let lesser = if lesser == passed {
            Some(self.milestones[0])
        } else {
            guard_before(lesser)
        };
        [guard_before(greater), lesser].map(Option::unwrap_or_default)
    }
}

/// The wall clock, as positions have it. Never that of one that is forgotten.
pub(super) fn seconds(now: Now) -> u64 {
    seconds_of(now.wall)
}

/// The same of a time.
pub(super) fn seconds_of(wall: Timestamp) -> u64 {
    u64::try_from(wall.0 / 1000).unwrap_or(0).max(1)
}

/// The guard over the last of these bytes.
pub(super) fn tail_guard(before: &[u8], hasher: &Hasher) -> Guard {
    hasher.guard(&before[before.len().saturating_sub(TAIL_BYTES)..])
}

/// A path as the system's bytes.
pub(super) fn bytes_of(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}
