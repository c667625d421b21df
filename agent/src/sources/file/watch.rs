//! Directory watches: hints that something happened, never the truth about what.
//!
//! One inotify instance for each source, one watch for each directory. Events are read as they come and
//! say only which name was touched; the source looks for itself. Where watches run out or the kernel's
//! queue overflows, it is told to look everywhere.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{
    CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch,
};
use rustix::io::Errno;

use crate::limits::{DEAF_MAX, DEAF_MIN};

/// The watched directories of a source, each with the number that the source gave it.
pub(super) struct Watch {
    inotify: OwnedFd,
    /// By the kernel's number. It has one for each inode, which several paths may name.
    directories: HashMap<i32, Vec<usize>>,
    watches: HashMap<usize, i32>,
    buffer: Box<[MaybeUninit<u8>]>,
    /// The kernel keeps so many events, then it drops them.
    events_max: u32,
    drained_at: Duration,
    /// How long the queue has room, if events come as they did before the last time it was emptied.
    wait_max: Duration,
}

/// A hint.
pub(super) enum Hint<'a> {
    /// A name in a directory was written to.
    Written { directory: usize, name: &'a OsStr },
    /// A name appeared, went, or means something else now.
    Named { directory: usize, name: &'a OsStr },
    /// A file got another name. Both directories are watched.
    Moved { from: Spot, to: Spot },
    /// A name in a directory was deleted.
    Deleted { directory: usize, name: &'a OsStr },
    /// A directory appeared in a directory, or went.
    Tree,
    /// Events were lost: look everywhere.
    Overflow,
}

/// A name in a watched directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub(super) directory: usize,
    pub(super) name: OsString,
}

/// Events of many files fit into one read.
const BUFFER_BYTES: usize = 64 * 1024;

impl Watch {
    pub(super) fn new() -> io::Result<Watch> {
        Ok(Watch {
            inotify: init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            directories: HashMap::new(),
            watches: HashMap::new(),
            buffer: vec![MaybeUninit::uninit(); BUFFER_BYTES].into_boxed_slice(),
            events_max: events_max(),
            drained_at: Duration::ZERO,
            wait_max: DEAF_MIN,
        })
    }

    /// Watches what a path names from now on, under the number `directory`. Watching it again costs
    /// little and changes nothing, unless the path names another directory by now.
    pub(super) fn add(&mut self, path: &Path, directory: usize) -> io::Result<()> {
        let what = WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let id = add_watch(&self.inotify, path, what)?;
        let named = self.directories.entry(id).or_default();
        if !named.contains(&directory) {
            named.push(directory);
        }
        if let Some(old) = self.watches.insert(directory, id)
            && old != id
        {
            self.leave(old, directory);
        }
        Ok(())
    }

    /// A number does not stand for a directory any more.
    pub(super) fn forget(&mut self, directory: usize) {
        if let Some(id) = self.watches.remove(&directory) {
            self.leave(id, directory);
        }
    }

    fn leave(&mut self, id: i32, directory: usize) {
        let Some(named) = self.directories.get_mut(&id) else {
            return;
        };
        named.retain(|&it| it != directory);
        if named.is_empty() {
            self.directories.remove(&id);
            // The kernel may have dropped it already.
            let removed = remove_watch(&self.inotify, id);
            tracing::debug!(?removed, directory, "a directory is not watched any more");
        }
    }

    /// Reads all events that are there.
    pub(super) fn drain(&mut self, now: Duration, each: &mut dyn FnMut(Hint<'_>)) {
        let events = self.drain_all(each);
        let since = now.saturating_sub(self.drained_at);
        if since.is_zero() {
            // Once more in the same turn.
            return;
        }
        self.drained_at = now;
        // They may come twice as fast at once, and a turn takes its time too.
        let room = since.saturating_mul(self.events_max / 4) / events.max(1);
        self.wait_max = room.clamp(DEAF_MIN, DEAF_MAX);
    }

    /// How long events can wait before the queue could overflow.
    pub(super) fn wait_max(&self) -> Duration {
        self.wait_max
    }

    /// Reads all events; how many they were.
    fn drain_all(&mut self, each: &mut dyn FnMut(Hint<'_>)) -> u32 {
        let mut count = 0;
        let mut events = Reader::new(&self.inotify, &mut self.buffer);
        // The two halves of a rename follow each other and share a cookie.
        let mut moved: Option<Moved> = None;
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => return count,
            };
            count += 1;
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                each(Hint::Overflow);
                continue;
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.directories.remove(&event.wd());
                each(Hint::Tree);
                continue;
            }
            let Some(directories) = self.directories.get(&event.wd()) else {
                continue;
            };
            let Some(name) = event
                .file_name()
                .filter(|_| !flags.contains(ReadFlags::ISDIR))
            else {
                each(Hint::Tree);
                continue;
            };
            let name = OsStr::from_bytes(name.to_bytes());
            for &directory in directories {
                each(if flags.intersects(ReadFlags::MODIFY) {
                    Hint::Written { directory, name }
                } else {
                    Hint::Named { directory, name }
                });
                if flags.contains(ReadFlags::DELETE) {
                    each(Hint::Deleted { directory, name });
                }
            }
            if flags.contains(ReadFlags::MOVED_FROM) {
                moved = Some(Moved {
                    cookie: event.cookie(),
                    watch: event.wd(),
                    name: name.to_owned(),
                });
            } else if flags.contains(ReadFlags::MOVED_TO)
                && let Some(from) = moved.take_if(|moved| moved.cookie == event.cookie())
                && let Some(sources) = self.directories.get(&from.watch)
            {
                tell_moved((sources, &from.name), (directories, name), each);
            }
        }
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The first half of a rename.
struct Moved {
    cookie: u32,
    watch: i32,
    name: OsString,
}

/// Tells of a rename by all paths of both directories; within one, by the same path before and after.
fn tell_moved(
    (sources, old): (&[usize], &OsStr),
    (targets, new): (&[usize], &OsStr),
    each: &mut dyn FnMut(Hint<'_>),
) {
    for &from in sources {
        let is_same = targets.contains(&from);
        for &to in targets.iter().filter(|&&to| !is_same || to == from) {
            each(Hint::Moved {
                from: Spot {
                    directory: from,
                    name: old.to_owned(),
                },
                to: Spot {
                    directory: to,
                    name: new.to_owned(),
                },
            });
        }
    }
}

/// How many events a new queue holds.
fn events_max() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events");
    let told = text.ok().and_then(|text| text.trim().parse().ok());
    told.unwrap_or(EVENTS_MAX_USUAL)
}

/// What the kernel holds unless it was told otherwise.
const EVENTS_MAX_USUAL: u32 = 16_384;
