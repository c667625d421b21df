//! The lineages of a source, by number, and by what compressed copies of their files would be named and
//! begin with.
//!
//! A lineage keeps its number; one that is free is used again. Epochs are indexed from the first time that
//! somebody asks for one by its name. They change in many places: so each access that can change a lineage
//! marks it, and at the next question it is looked at again. No place need know of the index, and none can
//! forget it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::ops::{Index, IndexMut};

use model::position::Guard;

use super::guard::Hasher;
use super::lineage::Lineage;
use super::related::{Key, keys_of_epoch, keys_of_file};

/// See the module.
#[derive(Default)]
pub(super) struct Lineages {
    held: Vec<Option<Lineage>>,
    free: Vec<usize>,
    names: Option<Names>,
}

/// The index of epochs, as of when each lineage was looked at last.
#[derive(Default)]
struct Names {
    entries: BTreeSet<Entry>,
    of_lineages: Vec<Vec<Entry>>,
    /// Those that may have changed since, each once.
    marked: Vec<usize>,
    is_marked: Vec<bool>,
}

/// An epoch's, in the order in which they are sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: Key,
    is_open: bool,
    head_bytes: u16,
    head_hash: u128,
    lineage: usize,
}

impl Lineages {
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Option<Lineage>> {
        self.held.iter()
    }

    /// Adds a lineage under a free number.
    pub(super) fn add(&mut self, lineage: Lineage) -> usize {
        let index = self.free.pop().unwrap_or(self.held.len());
        if index == self.held.len() {
            self.held.push(None);
        }
        self[index] = Some(lineage);
        index
    }

    /// Takes a lineage out. Its number is free then.
    pub(super) fn remove(&mut self, index: usize) -> Option<Lineage> {
        let lineage = self[index].take()?;
        self.free.push(index);
        Some(lineage)
    }

    /// The lineages, in the order of their numbers, that a compressed file of this name may be of which begins
    /// with `head`: they have an epoch that began so, or one that is open and was seen to begin with more
    /// than the file has. A filter: of which of their epochs, [`is_of`](super::related::is_of) tells.
    pub(super) fn that_begin(
        &mut self,
        name: &OsStr,
        head: &[u8],
        hasher: &Hasher,
    ) -> BTreeSet<usize> {
        let mut guards: HashMap<u16, Guard> = HashMap::new();
        let mut guard_of = |bytes: u16| {
            let beginning = head.get(..usize::from(bytes))?;
            let guard = guards.entry(bytes);
            Some(*guard.or_insert_with(|| hasher.guard(beginning)))
        };
        let names = self.names();
        let mut found = BTreeSet::new();
        for key in keys_of_file(name) {
            for is_open in [false, true] {
                let mut from = Entry::first(key, is_open, 1);
                // One length of what epochs begin with after the other.
                while let Some(bytes) = names.from(from).next().map(|it| it.head_bytes)
                    && let Some(guard) = guard_of(bytes)
                {
                    from.head_bytes = bytes;
                    from.head_hash = guard.hash;
                    let alike = names.from(from).take_while(|it| it.head() == guard);
                    found.extend(alike.map(|it| it.lineage));
                    from = Entry::first(key, is_open, bytes + 1);
                }
                let longer = names.from(from).take_while(|it| it.is_open);
                found.extend(longer.map(|it| it.lineage));
            }
        }
        found
    }

    /// The same that have an epoch whose file is open, whatever that begins with.
    pub(super) fn that_are_open(&mut self, name: &OsStr) -> BTreeSet<usize> {
        let names = self.names();
        let open = keys_of_file(name).flat_map(|key| names.from(Entry::first(key, true, 0)));
        open.map(|it| it.lineage).collect()
    }

    /// The index as of now.
    fn names(&mut self) -> &Names {
        let names = self.names.get_or_insert_default();
        for index in names.is_marked.len()..self.held.len() {
            names.mark(index);
        }
        for index in std::mem::take(&mut names.marked) {
            names.look_at(index, self.held[index].as_ref());
        }
        names
    }
}

impl Index<usize> for Lineages {
    type Output = Option<Lineage>;

    fn index(&self, index: usize) -> &Option<Lineage> {
        &self.held[index]
    }
}

impl IndexMut<usize> for Lineages {
    fn index_mut(&mut self, index: usize) -> &mut Option<Lineage> {
        if let Some(names) = &mut self.names {
            names.mark(index);
        }
        &mut self.held[index]
    }
}

impl Names {
    /// What comes from here on of the same key, and is open as this is.
    fn from(&self, first: Entry) -> impl Iterator<Item = &Entry> {
        let all = self.entries.range(first..);
        all.take_while(move |it| (it.key, it.is_open) == (first.key, first.is_open))
    }

    fn mark(&mut self, index: usize) {
        if index >= self.is_marked.len() {
            self.is_marked.resize(index + 1, false);
            self.of_lineages.resize_with(index + 1, Vec::new);
        }
        if !std::mem::replace(&mut self.is_marked[index], true) {
            self.marked.push(index);
        }
    }

    fn look_at(&mut self, index: usize, lineage: Option<&Lineage>) {
        self.is_marked[index] = false;
        let present = lineage.map_or_else(Vec::new, |lineage| entries_of(index, lineage));
        let before = std::mem::take(&mut self.of_lineages[index]);
        if before != present {
            for entry in &before {
                self.entries.remove(entry);
            }
            self.entries.extend(&present);
        }
        self.of_lineages[index] = present;
    }
}

impl Entry {
    /// What comes before all others that begin with so many bytes or more.
    fn first(key: Key, is_open: bool, head_bytes: u16) -> Entry {
        Entry {
            key,
            is_open,
            head_bytes,
            head_hash: 0,
            lineage: 0,
        }
    }

    fn head(&self) -> Guard {
        Guard {
            bytes: self.head_bytes,
            hash: self.head_hash,
        }
    }
}

fn entries_of(index: usize, lineage: &Lineage) -> Vec<Entry> {
    let entries = lineage.epochs.iter().flat_map(|epoch| {
        let keys = keys_of_epoch(lineage, epoch).into_iter();
        keys.map(|key| Entry {
            key,
            is_open: epoch.content.is_some(),
            head_bytes: epoch.head.bytes,
            head_hash: epoch.head.hash,
            lineage: index,
        })
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::PathBuf;
    use std::time::Duration;

    use model::position::{FileKey, KeyLevel, LineageId};

    use super::super::lineage::{Epoch, Life};
    use super::*;

    #[test]
    fn an_epoch_is_found_by_what_it_is_now() {
        let hasher = Hasher::new(&[0; 16]);
        let key = FileKey {
            level: KeyLevel::Inode,
            file_system: 0,
            inode: 0,
            object: 0,
        };
        let mut lineages = Lineages::default();
        let path = PathBuf::from("/a.log");
        let index = lineages.add(Lineage::new(LineageId(0), path, 0, "a.log".into()));
        let begin = |lineages: &mut Lineages, name: &str, head: &[u8]| {
            let found = lineages.that_begin(OsStr::new(name), head, &hasher);
            found.contains(&index)
        };
        assert!(!begin(&mut lineages, "a.log.gz", b"begins"));
        let content = File::open("/dev/null").unwrap().into();
        let epoch = Epoch::new(1, key, content, Duration::ZERO);
        lineages[index].as_mut().unwrap().epochs.push_back(epoch);
        assert!(
            lineages
                .that_are_open(OsStr::new("a.log.gz"))
                .contains(&index)
        );
        assert!(!begin(&mut lineages, "a.log.gz", b"begins"));
        let change = |lineages: &mut Lineages, change: &dyn Fn(&mut Epoch)| {
            change(&mut lineages[index].as_mut().unwrap().epochs[0]);
        };
        change(&mut lineages, &|epoch| epoch.head = hasher.guard(b"begin"));
        assert!(begin(&mut lineages, "a.log.gz", b"begins"));
        assert!(!begin(&mut lineages, "a.log.gz", b"other"));
        // It is open, and the file ends before it could be compared.
        assert!(begin(&mut lineages, "a.log.gz", b"oth"));
        change(&mut lineages, &|epoch| epoch.content = None);
        assert!(!begin(&mut lineages, "a.log.gz", b"oth"));
        assert!(lineages.that_are_open(OsStr::new("a.log.gz")).is_empty());
        assert!(!begin(&mut lineages, "b.log.gz", b"begins"));
        change(&mut lineages, &|epoch| {
            epoch.place = Some("/b.log.1".into());
        });
        assert!(begin(&mut lineages, "b.log.1.gz", b"begins"));
        assert!(!begin(&mut lineages, "b.log.2.gz", b"begins"));
        change(&mut lineages, &|epoch| {
            epoch.life = Life::Finished(Duration::ZERO);
        });
        assert!(begin(&mut lineages, "b.log.2.gz", b"begins"));
        lineages.remove(index);
        assert!(!begin(&mut lineages, "a.log.gz", b"begins"));
    }
}
