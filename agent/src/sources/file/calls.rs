//! The system calls that look for files, in one place, so that tests can have them fail as a network
//! file system, a full table of open files or a forbidding kernel do.

use std::fs::{self, File, Metadata, OpenOptions, ReadDir};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::position::FileKey;
#[cfg(not(test))]
use model::position::KeyLevel;
use rustix::fs::{OFlags, fcntl_setfl};

use super::guard::Hasher;
use super::kernel;

/// The calls of one source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls {
    #[cfg(test)]
    pub(crate) faults: faults::Faults,
}

impl Calls {
    /// Opens a regular file; `None` for anything else.
    pub(super) fn open(&self, path: &Path) -> io::Result<Option<(File, Metadata)>> {
        self.fail(Call::Open, path)?;
        // A pipe or a device does something when it is opened: they are never.
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let metadata = file.metadata()?;
        // Else each read of a line that was just written would write the inode. Only a file's owner may ask
        // for that, or who is privileged.
        let flags = OFlags::NONBLOCK | OFlags::NOATIME;
        if let Err(error) = fcntl_setfl(&file, flags) {
            tracing::trace!(%error, path = %path.display(), "reading changes the time of access");
        }
        Ok(metadata.is_file().then_some((file, metadata)))
    }

    /// Lists a directory.
    pub(super) fn list(&self, dir: &Path) -> io::Result<ReadDir> {
        self.fail(Call::List, dir)?;
        fs::read_dir(dir)
    }

    /// The key of an open file.
    pub(super) fn key(&self, file: &File, hasher: &Hasher) -> io::Result<FileKey> {
        let mut key = kernel::file_key(file, hasher, self.best_level())?;
        key.file_system = self.file_system(key.file_system);
        Ok(key)
    }

    /// The identity of the file system that a path lies on, or would lie on.
    pub(super) fn file_system_of(&self, path: &Path) -> io::Result<u64> {
        kernel::file_system_of(path).map(|number| self.file_system(number))
    }

    /// Whether events tell all that happens in a directory.
    pub(super) fn is_event_reliable(&self, dir: &Path) -> bool {
        self.fail(Call::Watch, dir).is_ok() && kernel::is_event_reliable(dir)
    }

    /// Comes before each read of a file that is followed under this path.
    pub(super) fn before_read(&self, path: &Path) -> io::Result<()> {
        self.fail(Call::Read, path)
    }
}

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Open,
    List,
    Read,
    Watch,
}

#[cfg(not(test))]
#[expect(
    clippy::unused_self,
    clippy::unnecessary_wraps,
    reason = "tests have something to look up"
)]
impl Calls {
    fn fail(&self, _: Call, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn best_level(&self) -> KeyLevel {
        KeyLevel::Handle
    }

    fn file_system(&self, number: u64) -> u64 {
        number
    }
}

#[cfg(test)]
mod faults {
    //! What tests have fail.

    use std::fmt;
    use std::io;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use model::position::KeyLevel;

    use super::{Call, Calls};

    /// Shared by a test and the source that it runs, over restarts.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Faults(Arc<Mutex<Plan>>);

    #[derive(Debug)]
    struct Plan {
        failing: Vec<(Call, String, i32)>,
        meanwhile: Vec<(Call, String, Deed)>,
        best_level: KeyLevel,
        file_system_flip: u64,
    }

    /// What others do just before a call.
    struct Deed(Box<dyn FnOnce() + Send>);

    impl fmt::Debug for Deed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Deed")
        }
    }

    impl Default for Plan {
        fn default() -> Plan {
            Plan {
                failing: Vec::new(),
                meanwhile: Vec::new(),
                best_level: KeyLevel::Handle,
                file_system_flip: 0,
            }
        }
    }

    impl Faults {
        /// From now on this call fails with `errno` on every path that ends so.
        pub(crate) fn fail(&self, call: Call, path_end: &str, errno: i32) {
            let mut plan = self.0.lock().unwrap();
            plan.failing.push((call, path_end.to_owned(), errno));
        }

        /// Just before the next such call, others do this.
        pub(crate) fn meanwhile(
            &self,
            call: Call,
            path_end: &str,
            deed: impl FnOnce() + Send + 'static,
        ) {
            let mut plan = self.0.lock().unwrap();
            let deed = Deed(Box::new(deed));
            plan.meanwhile.push((call, path_end.to_owned(), deed));
        }

        /// From now on nothing fails.
        pub(crate) fn heal(&self) {
            self.0.lock().unwrap().failing.clear();
        }

        /// No better keys than of this level can be had.
        pub(crate) fn best_level(&self, level: KeyLevel) {
            self.0.lock().unwrap().best_level = level;
        }

        /// All file systems have other numbers, as after they are mounted anew.
        pub(crate) fn mount_anew(&self) {
            self.0.lock().unwrap().file_system_flip ^= 0x5a5a;
        }
    }

    impl Calls {
        pub(super) fn fail(&self, call: Call, path: &Path) -> io::Result<()> {
            let mut plan = self.faults.0.lock().unwrap();
            let path = path.to_string_lossy();
            let mut meanwhile = plan.meanwhile.iter();
            let due = meanwhile.position(|(due, end, _)| *due == call && path.ends_with(end));
            if let Some(due) = due {
                plan.meanwhile.remove(due).2.0();
            }
            let mut failing = plan.failing.iter();
            match failing.find(|(failing, end, _)| *failing == call && path.ends_with(end)) {
                Some((_, _, errno)) => Err(io::Error::from_raw_os_error(*errno)),
                None => Ok(()),
            }
        }

        pub(super) fn best_level(&self) -> KeyLevel {
            self.faults.0.lock().unwrap().best_level
        }

        pub(super) fn file_system(&self, number: u64) -> u64 {
            number ^ self.faults.0.lock().unwrap().file_system_flip
        }
    }
}
