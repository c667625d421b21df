//! redb's file on our [`Storage`], so that the faulty disk can cut its power too.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use commitlog::error::{Error, Result};
use commitlog::storage::{File, OpenMode, Storage, read_full_at, write_all_at};

/// One file of a [`Storage`].
pub(super) struct StorageFile {
    file: Arc<dyn File>,
    /// Set for good by a failed fsync.
    sync_failed: Arc<AtomicBool>,
}

impl StorageFile {
    /// Opens or makes the file, its name durable; on a real disk only its owner may read it.
    pub(super) fn open(
        storage: &dyn Storage,
        path: &Path,
        sync_failed: Arc<AtomicBool>,
    ) -> Result<StorageFile> {
        let told = |error| Error::io(path.display().to_string(), error);
        let file = storage.open(path, OpenMode::Write).map_err(told)?;
        restrict(path).map_err(told)?;
        if let Some(dir) = path.parent() {
            storage.sync_dir(dir).map_err(told)?;
        }
        Ok(StorageFile { file, sync_failed })
    }
}

/// The keys that prove join tokens are in it. A simulated disk has no such path.
fn restrict(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl fmt::Debug for StorageFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageFile")
    }
}

impl redb::StorageBackend for StorageFile {
    fn len(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let filled = read_full_at(&*self.file, out, offset)?;
        if filled == out.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file
            .sync()
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier fsync failed"));
        }
        write_all_at(&*self.file, data, offset)
    }
}
