//! What there is to read of an epoch: so far the bytes of its open file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// An epoch's readable content. Offsets count its bytes.
pub(super) enum Content {
    /// The file's own bytes.
    Plain(File),
}

impl Content {
    /// The open file behind it: which inode it is, who writes to it, what the system knows of it.
    pub(super) fn file(&self) -> &File {
        match self {
            Content::Plain(file) => file,
        }
    }

    /// The file, where its bytes are the content.
    #[expect(clippy::unnecessary_wraps, reason = "a compressed file's are not")]
    pub(super) fn plain(&self) -> Option<&File> {
        match self {
            Content::Plain(file) => Some(file),
        }
    }

    /// How long it is at present.
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            Content::Plain(file) => Ok(file.metadata()?.len()),
        }
    }

    /// Fills as much of `buffer` as there is from the byte `from` on.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], from: u64) -> io::Result<usize> {
        match self {
            Content::Plain(file) => read_at(file, buffer, from),
        }
    }
}

impl From<File> for Content {
    fn from(file: File) -> Content {
        Content::Plain(file)
    }
}

/// Fills as much of `buffer` as the file has.
pub(super) fn read_at(file: &File, buffer: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
