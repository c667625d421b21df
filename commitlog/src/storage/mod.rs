//! The disk as the log sees it: a few file operations behind one trait.
//!
//! Every file operation of this crate, of the agent's spool and of the aggregator's topics goes
//! through [`Storage`], so that [`disk::Disk`] serves production and [`faulty::FaultyDisk`] can cut
//! the power between any two of them. No mmap anywhere: what a crash can leave behind changes only
//! at these calls.
//!
//! Invariant **I11**: a file's name is durable before anything relies on the file ([`write_atomically`],
//! [`sync_names`], [`Storage::create_dir`]).
//!
//! What a caller may rely on, and no more:
//! - [`File::sync`] makes the bytes and the length of that file durable, not its name;
//! - [`Storage::sync_dir`] makes the names in that directory durable;
//! - a rename replaces its target in one step, and is durable after [`Storage::sync_dir`];
//! - after a failed [`File::sync`] nothing is known about the bytes, and a later success of the same
//!   file says nothing (the kernel drops the dirty pages and forgets the error).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod disk;
pub mod faulty;

/// A disk.
pub trait Storage: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Creates a directory and its missing parents, each durable in its own parent. A directory that
    /// exists is made durable too: whoever made it may have died before.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// What a directory holds, sorted by name.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Gives a file another name in one step, replacing what bears it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file or an empty directory. Whoever has the file open can go on reading it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// How much room there is where `dir` lies.
    fn free_bytes(&self, dir: &Path) -> io::Result<DiskSpace>;

    /// Takes a lock that no other process holds, until the [`Lock`] is dropped or the process ends.
    /// The error names the process that holds it.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// An open file. Reads and writes carry their position, so threads share one handle.
pub trait File: Send + Sync {
    /// Reads some bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes some bytes and says how many.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;

    /// Makes the file's bytes and length durable.
    fn sync(&self) -> io::Result<()>;

    /// Cuts or extends (with zeros) the file.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// The file's length.
    fn bytes(&self) -> io::Result<u64>;
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; created when absent.
    Write,
    /// For reading and writing; an error when it exists.
    CreateNew,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, without the directory.
    pub name: OsString,
    /// The file's length, 0 for a directory.
    pub bytes: u64,
    /// What bears the name.
    pub kind: EntryKind,
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: a link, a socket, a device.
    Other,
}

/// Room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes an unprivileged process can still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A held lock; dropping it frees the lock.
pub struct Lock {
    _hold: Box<dyn Send + Sync>,
}

impl Lock {
    /// A lock that lasts as long as `hold`.
    pub fn new(hold: impl Send + Sync + 'static) -> Lock {
        Lock {
            _hold: Box::new(hold),
        }
    }
}

/// Writes all of `bytes`, over short writes and interruptions.
pub fn write_all_at(file: &dyn File, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                position += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills as much of `buffer` as the file has from `position` on, and says how much that was.
pub fn read_full_at(file: &dyn File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, position + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The whole of a small file. A file larger than `limit` is an error, read not at all.
pub fn read_whole(storage: &dyn Storage, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let bytes = file.bytes()?;
    if bytes > limit as u64 {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{} has {bytes} bytes, more than {limit}", path.display()),
        ));
    }
    let mut content = vec![0; usize::try_from(bytes).unwrap_or(limit)];
    let filled = read_full_at(file.as_ref(), &mut content, 0)?;
    content.truncate(filled);
    Ok(content)
}

/// Replaces a file's content so that a crash leaves the old content or the new, never a mix: a new
/// file beside it is written, fsynced and renamed over it, and the directory is fsynced.
pub fn write_atomically(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(storage, path, bytes)?;
    match path.parent() {
        Some(dir) => sync_names(storage, dir),
        None => Ok(()),
    }
}

/// Makes the names in `dir` durable: what was created, renamed or removed there.
pub fn sync_names(storage: &dyn Storage, dir: &Path) -> io::Result<()> {
    #[cfg(mutant = "no_dir_fsync")]
    return Ok(());
    #[cfg(not(mutant = "no_dir_fsync"))]
    storage.sync_dir(dir)
}

/// [`write_atomically`] without the directory's fsync, for a caller that does it for several files.
pub fn replace(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_name(path);
    match storage.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.open(&temporary, OpenMode::CreateNew)?;
    write_all_at(file.as_ref(), bytes, 0)?;
    file.sync()?;
    storage.rename(&temporary, path)
}

/// The name under which a replacement of `path` is written: `path.tmp`.
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}
