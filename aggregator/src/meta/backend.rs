//! redb's file on our [`Storage`], so that the faulty disk can cut its power too.
//!
//! redb writes its first page in place. Its two commit slots lie in one sector there, and a power cut
//! that leaves garbage in that sector would take the whole database. So that page is kept twice, each
//! copy with a counter and a checksum, written in turns; the newest whole one counts. A torn copy
//! leaves the one before it, which is the database as of its last sync.
//!
//! | bytes | what |
//! |---|---|
//! | 0-4095 | the first page, copy 0 |
//! | 4096-4103, 4104-4107 | its counter, CRC-32C of page and counter; then zeros |
//! | 8192-16383 | copy 1, likewise |
//! | 16384.. | the database from its second page on |

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use commitlog::error::{Error, Result};
use commitlog::storage::{File, OpenMode, Storage, read_full_at, write_all_at};

/// redb's page, and what it writes in place of it.
const PAGE_BYTES: usize = 4096;

/// From one copy of the first page to the other.
const COPY_BYTES: u64 = 8192;

/// How much further back the database's other pages lie than redb believes.
const SHIFT_BYTES: u64 = 2 * COPY_BYTES - PAGE_BYTES as u64;

/// One file of a [`Storage`].
pub(super) struct StorageFile {
    file: Arc<dyn File>,
    first: Mutex<FirstPage>,
    /// Set for good by a failed fsync.
    sync_failed: Arc<AtomicBool>,
}

/// The first page, as redb has written it.
struct FirstPage {
    bytes: Vec<u8>,
    /// Of the copy that was synced last; the next one goes over the other copy.
    counter: u64,
    is_changed: bool,
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
        let first = FirstPage::read(&*file).map_err(told)?;
        Ok(StorageFile {
            file,
            first: Mutex::new(first.ok_or_else(|| super::damaged(path))?),
            sync_failed,
        })
    }

    /// A panic while it was held leaves a page that redb checks by itself.
    fn first(&self) -> MutexGuard<'_, FirstPage> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_sync(&self) -> io::Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier fsync failed"));
        }
        Ok(())
    }
}

impl FirstPage {
    /// The newest whole copy, zeros in a new file; `None` when both are damaged.
    fn read(file: &dyn File) -> io::Result<Option<FirstPage>> {
        if file.bytes()? == 0 {
            return Ok(Some(FirstPage {
                bytes: vec![0; PAGE_BYTES],
                counter: 0,
                is_changed: false,
            }));
        }
        let mut newest: Option<FirstPage> = None;
        for copy in 0..2 {
            let mut bytes = vec![0; PAGE_BYTES + 12];
            read_full_at(file, &mut bytes, copy * COPY_BYTES)?;
            let Some(page) = FirstPage::parse(bytes) else {
                continue;
            };
            if newest
                .as_ref()
                .is_none_or(|newest| newest.counter < page.counter)
            {
                newest = Some(page);
            }
        }
        Ok(newest)
    }

    fn parse(mut bytes: Vec<u8>) -> Option<FirstPage> {
        let (sealed, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(sealed) != u32::from_le_bytes(*crc) {
            return None;
        }
        let counter = u64::from_le_bytes(*sealed.last_chunk::<8>()?);
        bytes.truncate(PAGE_BYTES);
        (counter > 0).then_some(FirstPage {
            bytes,
            counter,
            is_changed: false,
        })
    }

    /// Writes the page over the older copy.
    fn write(&self, file: &dyn File) -> io::Result<()> {
        let counter = self.counter + 1;
        let mut bytes = self.bytes.clone();
        bytes.extend_from_slice(&counter.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        write_all_at(file, &bytes, (counter % 2) * COPY_BYTES)
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

/// Where in the first page a range begins, how much of it lies there, and where the rest lies in the
/// file.
fn split(offset: u64, bytes: usize) -> (usize, usize, u64) {
    let at = usize::try_from(offset)
        .unwrap_or(PAGE_BYTES)
        .min(PAGE_BYTES);
    let within = bytes.min(PAGE_BYTES - at);
    (at, within, offset + within as u64 + SHIFT_BYTES)
}

impl redb::StorageBackend for StorageFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.bytes()?.saturating_sub(SHIFT_BYTES))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (at, within, behind) = split(offset, out.len());
        let (first, rest) = out.split_at_mut(within);
        first.copy_from_slice(&self.first().bytes[at..at + within]);
        if rest.is_empty() || read_full_at(&*self.file, rest, behind)? == rest.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len + SHIFT_BYTES)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut first = self.first();
        if first.is_changed {
            self.check_sync()?;
            first.write(&*self.file)?;
        }
        self.file
            .sync()
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))?;
        if first.is_changed {
            first.counter += 1;
            first.is_changed = false;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_sync()?;
        let (at, within, behind) = split(offset, data.len());
        let (head, rest) = data.split_at(within);
        if within > 0 {
            let mut first = self.first();
            first.bytes[at..at + within].copy_from_slice(head);
            first.is_changed = true;
        }
        if rest.is_empty() {
            return Ok(());
        }
        write_all_at(&*self.file, rest, behind)
    }

    fn close(&self) -> io::Result<()> {
        let is_changed = self.first().is_changed;
        if is_changed { self.sync_data() } else { Ok(()) }
    }
}
