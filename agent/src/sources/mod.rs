//! Where records come from: the trait, and the list of kinds.
//!
//! A source is driven by the pipeline's thread, one turn at a time. It asks the [`Outlet`] for room
//! before it takes anything from the world, and puts into each batch, on the last record of a file,
//! the position to go on from. So it never buffers, and it needs no checkpoint of its own.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use model::position::FileKey;

use crate::files::{SourceFiles, Totals};
use crate::pipeline::Outlet;
use crate::spool::Spool;
use file::audit::ClosedEpoch;
use file::{LeftLife, LeftSuspect};

pub mod file;

/// A source of records.
pub trait Source: Send {
    /// The user's name for it.
    fn name(&self) -> &str;

    /// Looks at the world and takes what there is room for, for about a millisecond. Never blocks.
    fn turn(&mut self, out: &mut Outlet<'_>) -> Next;

    /// Readable when a turn would find something new. `None`: only time tells.
    fn event(&self) -> Option<BorrowedFd<'_>>;

    /// How long events can wait for a turn before any could be lost.
    fn events_wait_max(&self) -> Duration;

    /// What it knows of its files. A list, made only when somebody asks for it.
    fn files(&self, spool: &Spool) -> SourceFiles {
        let _ = spool;
        SourceFiles {
            source: self.name().to_owned(),
            ..SourceFiles::default()
        }
    }

    /// How many files it may hold open from now on.
    fn share_files(&mut self, share: FilesShare) {
        let _ = share;
    }

    /// Whether it can never have anything more to do.
    fn is_over(&self) -> bool {
        false
    }

    /// What it leaves to the source that takes its place. It has no more turns.
    fn hand_over(&mut self) -> Inheritance {
        Inheritance::default()
    }

    /// Takes over what the source left whose place it takes, before its first turn.
    fn inherit(&mut self, left: Inheritance) {
        drop(left);
    }

    /// How much it has before it, told by positions.
    fn totals(&self) -> Totals {
        Totals::default()
    }
}

/// A source's share of the files that may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesShare {
    /// Held open at once.
    pub open_max: usize,
    /// The same where they are rotated or deleted ones with unread bytes: what the process can have.
    pub detached_max: usize,
}

/// What a source leaves to the one that takes its place.
#[derive(Default)]
pub struct Inheritance {
    /// Files that may have no name any more: nobody can open them again.
    pub files: Vec<OpenFile>,
    /// What no position tells of the lives of files that go on.
    pub lives: Vec<LeftLife>,
    /// Files that may be copies in the making.
    pub suspects: Vec<LeftSuspect>,
    /// Files that were said not to be meant.
    pub aside: HashSet<FileKey>,
    /// Lives of files that ended, the last ones.
    pub closed: Vec<ClosedEpoch>,
}

/// An open file that is left to another source.
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// Which inode it is.
    pub key: FileKey,
    /// Its path names it no more, and it is not read to its end.
    pub is_draining: bool,
}

/// When a source wants its next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Next {
    /// There is more right now.
    Now,
    /// At this monotonic time, or earlier at an event.
    At(Duration),
}
