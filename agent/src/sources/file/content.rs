//! What there is to read of an epoch: the bytes of its open file, or what a compressed file holds.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use model::position::Codec;

use super::compressed::Compressed;
use super::kernel;

/// An epoch's readable content. Offsets count its bytes.
pub(super) enum Content {
    /// The file's own bytes.
    Plain(File),
    /// What the file decompresses to. It is complete, and nobody adds to it.
    Compressed(Box<Compressed>),
}

impl Content {
    /// What a file holds that is compressed like this.
    pub(super) fn new(file: File, codec: Codec) -> Content {
        match codec {
            Codec::None => Content::Plain(file),
            codec => Content::Compressed(Box::new(Compressed::new(file, codec))),
        }
    }

    /// The open file behind it: which inode it is, who writes to it, what the system knows of it.
    pub(super) fn file(&self) -> &File {
        match self {
            Content::Plain(file) => file,
            Content::Compressed(compressed) => compressed.file(),
        }
    }

    /// The file, where its bytes are the content.
    pub(super) fn plain(&self) -> Option<&File> {
        match self {
            Content::Plain(file) => Some(file),
            Content::Compressed(_) => None,
        }
    }

    pub(super) fn codec(&self) -> Codec {
        match self {
            Content::Plain(_) => Codec::None,
            Content::Compressed(compressed) => compressed.codec(),
        }
    }

    /// How long it is at present, or as far as that is known.
    pub(super) fn length(&self) -> io::Result<u64> {
        match self {
            Content::Plain(file) => Ok(file.metadata()?.len()),
            Content::Compressed(compressed) => Ok(compressed.length()),
        }
    }

    /// Whether nobody can add to it, as far as can be known.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Content::Plain(file) => kernel::has_no_writer(file),
            Content::Compressed(_) => true,
        }
    }

    /// Fills as much of `buffer` as one read gives: of an ordinary file, all that there is.
    pub(super) fn read_once(&mut self, buffer: &mut [u8], from: u64) -> io::Result<usize> {
        match self {
            Content::Plain(file) => match file.read_at(buffer, from) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.read_at(buffer, from)
                }
                read => read,
            },
            Content::Compressed(_) => self.read_at(buffer, from),
        }
    }

    /// Fills as much of `buffer` as there is from the byte `from` on.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], from: u64) -> io::Result<usize> {
        match self {
            Content::Plain(file) => read_at(file, buffer, from),
            Content::Compressed(compressed) => compressed.read_at(buffer, from),
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
