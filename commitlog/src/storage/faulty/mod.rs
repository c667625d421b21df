//! A disk in memory that fails the way disks do. Seeded: the same calls and seeds give the same bytes.
//!
//! Power cut ([`FaultyDisk::power_cut`], or planned for the N-th changing call): of what was not synced,
//! - each 512-byte sector becomes old (any version since the last sync), new, zeros, garbage, or new up to
//!   a point; a page of 4096 is torn between its sectors. The bytes of a sector that were durable and are
//!   not changed stay as they are: a disk writes a sector whole or not at all, and no format that appends
//!   without padding could bear less;
//! - a file's length becomes any it had since the last sync, with zeros where the data did not follow;
//! - each change of a directory (create, rename, unlink) survives or not, on its own.
//!
//! Faults for the N-th changing call: EIO, ENOSPC after half of the bytes, a short write, a power cut. A
//! sync that fails drops the dirty pages: readers still see them, the next sync succeeds and lies, a power
//! cut brings the old bytes back. Besides: a capacity, sectors that cannot be read, edits of what lies on
//! disk. A directory's sync can fail but does not lie: journals abort for good.
//!
//! [`FaultyDisk::snapshot`] copies a whole machine (a clone, or a crash state to try again),
//! [`FaultyDisk::restore`] rolls one back.

mod chance;
mod inode;
mod machine;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::inode::Inode;
use self::machine::{InodeId, Machine, Node, parent};
use super::{DiskSpace, Entry, EntryKind, File, Lock, OpenMode, Storage};

/// The disk. Clones are handles of the same one; see [`FaultyDisk::snapshot`] for copies.
#[derive(Clone)]
pub struct FaultyDisk {
    machine: Arc<Mutex<Machine>>,
}

/// What happens to one changing call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO. A write does nothing; a sync drops what it should have written.
    Io,
    /// ENOSPC. A write leaves half of its bytes.
    Full,
    /// A write takes half of its bytes, at least one, and says so. Other calls succeed.
    Short,
    /// The power is cut before the call.
    PowerCut,
}

/// A call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A file or directory was made.
    Create,
    /// [`Storage::rename`].
    Rename,
    /// [`Storage::remove`].
    Remove,
    /// [`Storage::sync_dir`].
    SyncDir,
    /// [`File::write_at`].
    Write,
    /// [`File::sync`].
    Sync,
    /// [`File::truncate`].
    Truncate,
}

impl Default for FaultyDisk {
    fn default() -> FaultyDisk {
        FaultyDisk::new()
    }
}

impl FaultyDisk {
    /// An empty disk without faults.
    pub fn new() -> FaultyDisk {
        FaultyDisk::of(Machine::new())
    }

    /// How many changing calls there were.
    pub fn calls(&self) -> u64 {
        self.machine().calls
    }

    /// Remembers the changing calls from now on, for [`FaultyDisk::history`].
    pub fn record(&self) {
        self.machine().history = Some(Vec::new());
    }

    /// The changing calls since [`FaultyDisk::record`], with the path each was about.
    pub fn history(&self) -> Vec<(Call, PathBuf)> {
        self.machine().history.clone().unwrap_or_default()
    }

    /// Plans a fault for the changing call with this number, counted from 0 as [`FaultyDisk::calls`] does.
    pub fn plan(&self, call: u64, fault: Fault) {
        self.machine().faults.insert(call, fault);
    }

    /// Forgets the planned faults.
    pub fn forgive(&self) {
        self.machine().faults.clear();
    }

    /// How many bytes all files together may have; `None` for no limit.
    pub fn limit(&self, bytes: Option<u64>) {
        self.machine().capacity = bytes;
    }

    /// The machine stops at once: every call fails until it is started again.
    pub fn power_cut(&self) {
        self.machine().off = true;
    }

    /// Whether the power was cut.
    pub fn is_off(&self) -> bool {
        self.machine().off
    }

    /// Starts the machine after a power cut; `seed` decides what was not synced. Open files are dead and
    /// locks are free.
    pub fn restart(&self, seed: u64) {
        self.machine().restart(seed);
    }

    /// The process ends, as by `kill -9`, and nothing is lost. Open files are dead and locks are free.
    pub fn kill(&self) {
        self.machine().start_run();
    }

    /// A copy of the whole machine, page cache, pending faults and all, that goes its own way. Files that
    /// are open stay with this one.
    #[must_use]
    pub fn snapshot(&self) -> FaultyDisk {
        FaultyDisk::of(self.machine().clone())
    }

    /// Becomes a copy of another machine: a snapshot that is rolled back. Open files are dead.
    pub fn restore(&self, from: &FaultyDisk) {
        let copy = from.machine().clone();
        let mut machine = self.machine();
        let run = machine.run.max(copy.run);
        *machine = copy;
        machine.run = run;
        machine.start_run();
    }

    /// The content of a file, `None` when it does not exist.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let machine = self.machine();
        match machine.node(path).ok()? {
            Node::File(id) => machine.inodes.get(&id).map(Inode::content),
            Node::Directory => None,
        }
    }

    /// Damages a file: it has this content now, as if it always had.
    pub fn overwrite(&self, path: &Path, content: &[u8]) {
        let mut machine = self.machine();
        if let Ok(Node::File(id)) = machine.node(path)
            && let Some(inode) = machine.inodes.get_mut(&id)
        {
            let handles = inode.handles;
            *inode = Inode::of(content);
            inode.handles = handles;
        }
    }

    /// Makes the sector at `position` of a file unreadable: reads of it fail with EIO.
    pub fn break_sector(&self, path: &Path, position: u64) {
        let mut machine = self.machine();
        if let Ok(Node::File(id)) = machine.node(path)
            && let Some(inode) = machine.inodes.get_mut(&id)
        {
            inode.break_sector(position);
        }
    }

    fn of(machine: Machine) -> FaultyDisk {
        FaultyDisk {
            machine: Arc::new(Mutex::new(machine)),
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(
        &self,
        call: Call,
        path: &Path,
    ) -> io::Result<(MutexGuard<'_, Machine>, Option<Fault>)> {
        let mut machine = self.machine();
        let fault = machine.count(call, path)?;
        match fault {
            Some(Fault::Io) if call != Call::Sync => Err(eio()),
            Some(Fault::Full) if matches!(call, Call::Create | Call::Rename) => Err(enospc()),
            fault => Ok((machine, fault)),
        }
    }
}

impl Storage for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut machine = self.machine();
        machine.check_on()?;
        let node = match (machine.node(path), mode) {
            (Ok(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(node), _) => node,
            (Err(error), OpenMode::Read) => return Err(error),
            (Err(_), OpenMode::Write | OpenMode::CreateNew) => {
                drop(machine);
                machine = self.change(Call::Create, path)?.0;
                machine.create(path, Machine::new_file)?
            }
        };
        let Node::File(id) = node else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        if let Some(inode) = machine.inodes.get_mut(&id) {
            inode.handles += 1;
        }
        Ok(Arc::new(FaultyFile {
            disk: self.clone(),
            path: path.to_owned(),
            id,
            run: machine.run,
        }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut dir = path.to_owned();
        while !self.machine().has_directory(&dir) {
            missing.push(dir.clone());
            dir = parent(&dir);
        }
        self.sync_dir(&parent(&dir))?;
        for dir in missing.into_iter().rev() {
            self.change(Call::Create, &dir)?
                .0
                .create(&dir, |_| Node::Directory)?;
            self.sync_dir(&parent(&dir))?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let machine = self.machine();
        machine.check_on()?;
        if !machine.has_directory(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let children = machine
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        let entry = |(path, node): (&PathBuf, &Node)| {
            let (kind, bytes) = match node {
                Node::File(id) => (
                    EntryKind::File,
                    machine.inodes.get(id).map_or(0, Inode::length),
                ),
                Node::Directory => (EntryKind::Directory, 0),
            };
            let name = path.file_name()?.to_owned();
            Some(Entry { name, bytes, kind })
        };
        Ok(children.filter_map(entry).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Call::Rename, to)?.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // As a real one, it looks first: removing nothing changes nothing.
        self.machine().node(path)?;
        self.change(Call::Remove, path)?.0.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.change(Call::SyncDir, dir)?.0.sync_dir(dir);
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<DiskSpace> {
        let machine = self.machine();
        machine.check_on()?;
        let total = machine.capacity.unwrap_or(1 << 50);
        Ok(DiskSpace {
            free: total.saturating_sub(machine.used()),
            total,
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let mut machine = self.machine();
        machine.check_on()?;
        if !machine.locks.insert(path.to_owned()) {
            let message = format!("{} is held by another process", path.display());
            return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
        }
        Ok(Lock::new(Held {
            disk: self.clone(),
            path: path.to_owned(),
            run: machine.run,
        }))
    }
}

struct Held {
    disk: FaultyDisk,
    path: PathBuf,
    run: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut machine = self.disk.machine();
        if machine.run == self.run {
            machine.locks.remove(&self.path);
        }
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    id: InodeId,
    run: u64,
}

impl FaultyFile {
    fn inode<T>(&self, machine: &mut Machine, work: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        machine.check_on()?;
        if machine.run != self.run {
            return Err(io::Error::other("the file was opened before a restart"));
        }
        let inode = machine.inodes.get_mut(&self.id);
        inode
            .map(work)
            .ok_or_else(|| io::Error::other("the file is gone"))
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut machine = self.disk.machine();
        if machine.run == self.run
            && let Some(inode) = machine.inodes.get_mut(&self.id)
        {
            inode.handles = inode.handles.saturating_sub(1);
        }
    }
}

impl File for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut machine = self.disk.machine();
        self.inode(&mut machine, |inode| inode.read(buffer, position))?
            .ok_or_else(eio)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let (mut machine, fault) = self.disk.change(Call::Write, &self.path)?;
        let half = bytes.len().div_ceil(2);
        let room = machine
            .capacity
            .map(|capacity| capacity.saturating_sub(machine.used()));
        let grows = self.inode(&mut machine, |inode| {
            (position + bytes.len() as u64).saturating_sub(inode.length())
        })?;
        let lacking = grows.saturating_sub(room.unwrap_or(u64::MAX));
        let fits = bytes
            .len()
            .saturating_sub(usize::try_from(lacking).unwrap_or(usize::MAX));
        let (takes, answer) = match fault {
            Some(Fault::Full) => (half, Err(enospc())),
            Some(Fault::Short) => (half, Ok(half)),
            _ if fits == 0 && !bytes.is_empty() => (0, Err(enospc())),
            _ => (fits, Ok(fits)),
        };
        let taken = bytes.get(..takes).unwrap_or_default();
        if !taken.is_empty() {
            self.inode(&mut machine, |inode| inode.write(taken, position))?;
        }
        answer
    }

    fn sync(&self) -> io::Result<()> {
        let (mut machine, fault) = self.disk.change(Call::Sync, &self.path)?;
        match fault {
            Some(Fault::Io | Fault::Full) => {
                self.inode(&mut machine, Inode::fail_sync)?;
                Err(eio())
            }
            _ => self.inode(&mut machine, Inode::sync),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut machine = self.disk.change(Call::Truncate, &self.path)?.0;
        self.inode(&mut machine, |inode| inode.truncate(bytes))
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inode(&mut self.disk.machine(), |inode| inode.length())
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

fn enospc() -> io::Error {
    io::Error::from_raw_os_error(28)
}
