//! The real disk. What it makes only its owner may read: log lines are often private.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place that the replacements of the banned calls lead to"
)]

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FlockOperation;

use super::{DiskSpace, Entry, EntryKind, File, Lock, OpenMode, Storage};

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Storage for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).mode(FILE_MODE);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true).create(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        Ok(Arc::new(DiskFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // Directories are made from the top down and each is synced before the next, so only the
        // deepest that exists can still be un-synced.
        let mut missing = Vec::new();
        let mut existing = path;
        while !existing.as_os_str().is_empty() && !existing.is_dir() {
            missing.push(existing);
            match existing.parent() {
                Some(parent) => existing = parent,
                None => break,
            }
        }
        sync_parent(existing)?;
        for dir in missing.into_iter().rev() {
            match DirBuilder::new().mode(DIRECTORY_MODE).create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => sync_parent(dir)?,
            }
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let (kind, bytes) = if metadata.is_file() {
                (EntryKind::File, metadata.len())
            } else if metadata.is_dir() {
                (EntryKind::Directory, 0)
            } else {
                (EntryKind::Other, 0)
            };
            entries.push(Entry {
                name: entry.file_name(),
                bytes,
                kind,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_dir() {
            fs::remove_dir(path)
        } else {
            fs::remove_file(path)
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // An empty path is the working directory, as in the parent of "name".
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(DiskSpace {
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = fs::read_to_string(path).unwrap_or_default();
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                let message = format!("{} is held by {holder}; stop it first", path.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, message));
            }
            Err(error) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
        Ok(Lock::new(file))
    }
}

/// Makes the name of `path` durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => Disk.sync_dir(parent),
        None => Ok(()),
    }
}

struct DiskFile(fs::File);

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_read_what_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let topic = dir.path().join("topics/logs");
        Disk.create_dir(&topic).unwrap();
        Disk.open(&topic.join("new"), OpenMode::CreateNew).unwrap();
        Disk.open(&topic.join("other"), OpenMode::Write).unwrap();
        let _lock = Disk.lock(&topic.join("lock")).unwrap();
        for (path, mode) in [
            ("topics", 0o700),
            ("topics/logs", 0o700),
            ("topics/logs/new", 0o600),
            ("topics/logs/other", 0o600),
            ("topics/logs/lock", 0o600),
        ] {
            let made = fs::metadata(dir.path().join(path)).unwrap();
            assert_eq!(made.permissions().mode() & 0o777, mode, "{path}");
        }
    }
}
