//! The faulty disk's state: names, files, pending directory changes, planned faults.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::chance::{Chance, Mood};
use super::inode::Inode;
use super::{Call, Fault};

pub(super) type InodeId = u64;

/// What bears a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(InodeId),
    Directory,
}

/// A change of a directory that is not yet synced.
#[derive(Debug, Clone)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

/// One machine with its disk.
#[derive(Clone)]
pub(super) struct Machine {
    pub(super) names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// In order, with the directory whose sync makes them durable.
    pending: Vec<(PathBuf, Change)>,
    pub(super) inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    pub(super) locks: BTreeSet<PathBuf>,
    /// Handles of an earlier run are dead.
    pub(super) run: u64,
    pub(super) off: bool,
    pub(super) calls: u64,
    pub(super) history: Option<Vec<(Call, PathBuf)>>,
    pub(super) faults: BTreeMap<u64, Fault>,
    pub(super) capacity: Option<u64>,
}

impl Machine {
    pub(super) fn new() -> Machine {
        Machine {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            locks: BTreeSet::new(),
            run: 0,
            off: false,
            calls: 0,
            history: None,
            faults: BTreeMap::new(),
            capacity: None,
        }
    }

    /// Counts a changing call, and meets the fault that is planned for it.
    pub(super) fn count(&mut self, call: Call, path: &Path) -> io::Result<Option<Fault>> {
        self.check_on()?;
        let number = self.calls;
        self.calls += 1;
        if let Some(history) = &mut self.history {
            history.push((call, path.to_owned()));
        }
        match self.faults.remove(&number) {
            Some(Fault::PowerCut) => {
                self.off = true;
                self.check_on().map(|()| None)
            }
            fault => Ok(fault),
        }
    }

    pub(super) fn check_on(&self) -> io::Result<()> {
        if self.off {
            return Err(io::Error::other("the machine is off"));
        }
        Ok(())
    }

    pub(super) fn node(&self, path: &Path) -> io::Result<Node> {
        let node = self.names.get(path).copied();
        node.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))
    }

    pub(super) fn has_directory(&self, path: &Path) -> bool {
        is_root(path) || self.names.get(path) == Some(&Node::Directory)
    }

    pub(super) fn create(
        &mut self,
        path: &Path,
        node: impl FnOnce(&mut Machine) -> Node,
    ) -> io::Result<Node> {
        let dir = parent(path);
        if !self.has_directory(&dir) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                dir.display().to_string(),
            ));
        }
        let node = node(self);
        self.names.insert(path.to_owned(), node);
        self.pending
            .push((dir, Change::Link(path.to_owned(), node)));
        Ok(node)
    }

    pub(super) fn new_file(&mut self) -> Node {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, Inode::default());
        Node::File(id)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.node(from)?;
        self.names.remove(from);
        self.names.insert(to.to_owned(), node);
        self.pending.push((
            parent(to),
            Change::Rename(from.to_owned(), to.to_owned(), node),
        ));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.node(path)? == Node::Directory
            && self.names.keys().any(|name| name.parent() == Some(path))
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.names.remove(path);
        self.pending
            .push((parent(path), Change::Unlink(path.to_owned())));
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let pending = std::mem::take(&mut self.pending);
        for (of, change) in pending {
            if of == dir {
                apply(&mut self.durable_names, change);
            } else {
                self.pending.push((of, change));
            }
        }
        self.collect();
    }

    /// Cuts the power and starts again: what was not synced meets its fate.
    pub(super) fn restart(&mut self, seed: u64) {
        let mut chance = Chance::new(seed);
        let mood = Mood::draw(&mut chance);
        for (_, change) in std::mem::take(&mut self.pending) {
            if mood.survives(&mut chance) {
                apply(&mut self.durable_names, change);
            }
        }
        let names = self.durable_names.clone();
        self.durable_names.retain(|path, _| {
            let dir = parent(path);
            is_root(&dir) || names.get(&dir) == Some(&Node::Directory)
        });
        self.names.clone_from(&self.durable_names);
        let mood = Mood::draw(&mut chance);
        for inode in self.inodes.values_mut() {
            inode.lose_power(&mut chance, mood);
        }
        self.start_run();
    }

    /// The process ends and starts again: nothing is lost.
    pub(super) fn start_run(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        self.run += 1;
        self.off = false;
        self.locks.clear();
        self.collect();
    }

    pub(super) fn used(&self) -> u64 {
        self.inodes.values().map(Inode::length).sum()
    }

    /// Forgets the files that nothing leads to any more.
    fn collect(&mut self) {
        let pending = self.pending.iter().filter_map(|(_, change)| match change {
            Change::Link(_, node) | Change::Rename(_, _, node) => Some(node),
            Change::Unlink(_) => None,
        });
        let named = self
            .names
            .values()
            .chain(self.durable_names.values())
            .chain(pending);
        let reached: BTreeSet<InodeId> = named
            .filter_map(|node| match node {
                Node::File(id) => Some(*id),
                Node::Directory => None,
            })
            .collect();
        self.inodes
            .retain(|id, inode| inode.handles > 0 || reached.contains(id));
    }
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: Change) {
    match change {
        Change::Link(path, node) => {
            names.insert(path, node);
        }
        Change::Unlink(path) => {
            names.remove(&path);
        }
        Change::Rename(from, to, node) => {
            names.remove(&from);
            names.insert(to, node);
        }
    }
}

/// The directory of a path; the root is the empty path or `/`.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/")
}
