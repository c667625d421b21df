//! The compressed files that wait to be looked through, in their order, found by key and by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use model::position::FileKey;

use super::audit::Why;
use super::related::{Key, keys_of_file};
use super::watch::Spot;
use crate::limits::COMPRESSED_UNFINISHED;

/// See the module. Each file waits once.
#[derive(Default)]
pub(super) struct Queue {
    /// By a number that grows.
    files: BTreeMap<u64, Waiting>,
    numbers: HashMap<FileKey, u64>,
    names: BTreeSet<(Key, u64)>,
    last: u64,
}

/// A compressed file that is not looked through yet.
pub(super) struct Waiting {
    pub(super) directory: usize,
    pub(super) name: OsString,
    pub(super) key: FileKey,
    pub(super) stamp: Stamp,
    pub(super) changed_at: Duration,
    /// It ended early when it was like this.
    pub(super) unfinished: Option<Stamp>,
    /// That was said.
    pub(super) is_said: bool,
    /// It seems to be a short copy, and comes after those that may be the whole one.
    pub(super) is_put_off: bool,
    /// Since when epochs that it may be of were seen to change.
    pub(super) doubted_at: Option<Duration>,
    /// Why it is not to be read: it was there before the very first start, or is too old.
    pub(super) passed_over: Option<Why>,
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

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.files.values()
    }

    /// A file waits behind all others.
    pub(super) fn push(&mut self, file: Waiting) {
        debug_assert!(!self.numbers.contains_key(&file.key), "it waits already");
        self.last += 1;
        self.numbers.insert(file.key, self.last);
        self.put(self.last, file);
    }

    /// The file that has waited for longest.
    pub(super) fn pop(&mut self) -> Option<Waiting> {
        let (&number, file) = self.files.first_key_value()?;
        self.numbers.remove(&file.key);
        self.take(number)
    }

    /// A file that waits was seen. `None` if it does not wait, else whether it has changed.
    pub(super) fn saw(&mut self, key: FileKey, stamp: Stamp, now: Duration) -> Option<bool> {
        let file = self.files.get_mut(self.numbers.get(&key)?)?;
        let is_changed = file.stamp != stamp;
        file.saw(stamp, now);
        Some(is_changed)
    }

    /// A file that may wait has another name.
    pub(super) fn went_to(&mut self, key: FileKey, to: &Spot) {
        if let Some(&number) = self.numbers.get(&key)
            && let Some(mut file) = self.take(number)
        {
            file.go_to(to);
            self.put(number, file);
        }
    }

    /// The file of this key.
    pub(super) fn of(&self, key: FileKey) -> Option<&Waiting> {
        self.files.get(self.numbers.get(&key)?)
    }

    /// Files that have one of these keys of names, one for each.
    pub(super) fn related(&self, keys: Vec<Key>) -> impl Iterator<Item = &Waiting> {
        let of_key = |key| self.names.range((key, 0)..=(key, u64::MAX));
        let numbers = keys.into_iter().flat_map(of_key);
        numbers.filter_map(|(_, number)| self.files.get(number))
    }

    fn put(&mut self, number: u64, file: Waiting) {
        let keys = keys_of_file(&file.name).map(|key| (key, number));
        self.names.extend(keys);
        self.files.insert(number, file);
    }

    fn take(&mut self, number: u64) -> Option<Waiting> {
        let file = self.files.remove(&number)?;
        for key in keys_of_file(&file.name) {
            self.names.remove(&(key, number));
        }
        Some(file)
    }
}

impl Waiting {
    /// Whether time alone brings nothing on: it is not whole, and has not changed for long.
    pub(super) fn is_stuck(&self, now: Duration) -> bool {
        let is_not_whole = self.unfinished == Some(self.stamp) || self.stamp.0 == 0;
        is_not_whole && now.saturating_sub(self.changed_at) >= COMPRESSED_UNFINISHED
    }

    /// Whether it may be whole, for all that is known.
    pub(super) fn may_be_whole(&self) -> bool {
        self.unfinished != Some(self.stamp)
    }

    /// It is like this now.
    pub(super) fn saw(&mut self, stamp: Stamp, now: Duration) {
        if stamp != self.stamp {
            (self.stamp, self.changed_at) = (stamp, now);
            self.is_said = false;
        }
    }

    /// It has another name.
    pub(super) fn go_to(&mut self, to: &Spot) {
        (self.directory, self.name) = (to.directory, to.name.clone());
    }
}
