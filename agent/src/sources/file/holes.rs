//! Holes: parts of a file that nobody wrote. A writer that does not append goes on where it was after
//! its file was truncated, and leaves one; they read as NULs.
//!
//! A line that would begin in a hole begins at the data behind it. The system tells holes by whole
//! blocks, so the NULs between the block's start and the first byte that was written are left out too.
//! NULs inside a line, and NULs that somebody wrote, are data.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::content::Content;

/// What there is where a line would begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gap {
    /// Data.
    None,
    /// Nothing that was written before this byte.
    Until(u64),
    /// Nothing yet up to the file's end. What is written there later is read then.
    ToEnd,
}

/// The holes of one file, asked for as seldom as can be.
pub(super) struct Holes<'a> {
    /// `None`: it has none.
    file: Option<&'a File>,
    /// The last hole that the system told of begins here.
    next: Option<u64>,
}

impl<'a> Holes<'a> {
    pub(super) fn of(content: &'a Content) -> Holes<'a> {
        Holes {
            file: content.plain(),
            next: None,
        }
    }

    /// What there is at the byte `at`, where at least so many bytes read as NULs. Where the system does
    /// not know of holes there are none.
    pub(super) fn gap(&mut self, at: u64, nuls: u64) -> Gap {
        let Some(file) = self.file.filter(|_| nuls > 0) else {
            return Gap::None;
        };
        let hole = match self.next.filter(|&hole| at <= hole) {
            Some(hole) => hole,
            None => match position(file, SeekFrom::Hole(at)) {
                Ok(Some(hole)) => hole,
                Ok(None) | Err(_) => return Gap::None,
            },
        };
        self.next = Some(hole);
        if hole > at + nuls {
            return fill(file, at, nuls);
        }
        match position(file, SeekFrom::Data(hole)) {
            // Every file ends with a hole of no length.
            Ok(Some(data)) if data == hole => fill(file, at, nuls),
            Ok(Some(data)) => Gap::Until(data),
            Ok(None) if file.metadata().is_ok_and(|it| it.len() > hole) => Gap::ToEnd,
            Ok(None) | Err(_) => fill(file, at, nuls),
        }
    }
}

/// NULs before the first byte that was written to a block: the file's first, or one behind a hole.
fn fill(file: &File, at: u64, nuls: u64) -> Gap {
    let is_first = at == 0 || data_from(file, at - 1) == Some(at);
    if !is_first {
        return Gap::None;
    }
    match file.metadata() {
        Ok(metadata) if metadata.len() > at + nuls => Gap::Until(at + nuls),
        Ok(_) => Gap::ToEnd,
        Err(_) => Gap::None,
    }
}

/// Where there is data from this byte on; `None` when there is none up to the file's end. A system that
/// does not know says that there is.
pub(super) fn data_from(file: &File, at: u64) -> Option<u64> {
    position(file, SeekFrom::Data(at)).unwrap_or(Some(at))
}

/// `None`: there is no such place before the file's end.
fn position(file: &File, seek_to: SeekFrom) -> Result<Option<u64>, Errno> {
    match seek(file.as_fd(), seek_to) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}
