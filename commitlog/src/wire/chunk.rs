//! Streams over TCP: chunks of at most 64 KiB, each with its stream's number, so that streams share the
//! connection in turns. Stream 0 is control; stream `s + 1` is slot `s`.

use crate::error::{Error, Result};
use crate::limits::{CHUNK_BYTES_MAX, SESSION_PARTITIONS_MAX};

use super::varint::{self, VARINT_BYTES_MAX};

/// The bytes before a chunk of `bytes` of `stream`.
pub fn chunk_header(stream: u32, bytes: usize) -> Vec<u8> {
    debug_assert!((1..=CHUNK_BYTES_MAX).contains(&bytes));
    let mut out = Vec::with_capacity(2 * VARINT_BYTES_MAX);
    varint::write(&mut out, u64::from(stream));
    varint::write(&mut out, bytes as u64);
    out
}

/// Some bytes of one stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The stream.
    pub stream: u32,
    /// Its next bytes. A chunk that came in pieces is handed out in pieces.
    pub bytes: &'a [u8],
}

/// Tells the streams of a TCP connection apart. Holds no payload.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    header: Vec<u8>,
    stream: u32,
    left: usize,
}

impl ChunkDecoder {
    /// A decoder at the start of a connection.
    pub fn new() -> ChunkDecoder {
        ChunkDecoder::default()
    }

    /// Takes the next piece off the front of `input`. `None` means that all was taken.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Chunk<'a>>> {
        while self.left == 0 {
            let Some((&first, rest)) = input.split_first() else {
                return Ok(None);
            };
            self.header.push(first);
            *input = rest;
            self.parse_header()?;
        }
        if input.is_empty() {
            return Ok(None);
        }
        let (bytes, rest) = input.split_at(self.left.min(input.len()));
        *input = rest;
        self.left -= bytes.len();
        Ok(Some(Chunk {
            stream: self.stream,
            bytes,
        }))
    }

    fn parse_header(&mut self) -> Result<()> {
        let Some((stream, size)) = varint::read(&self.header) else {
            return Ok(());
        };
        let Some((len, _)) = varint::read(&self.header[size..]) else {
            return Ok(());
        };
        self.header.clear();
        self.stream = u32::try_from(stream)
            .ok()
            .filter(|&stream| stream as usize <= SESSION_PARTITIONS_MAX)
            .ok_or_else(|| {
                Error::input(format!(
                    "chunk of stream {stream}; a session has at most {SESSION_PARTITIONS_MAX}"
                ))
            })?;
        self.left = usize::try_from(len)
            .ok()
            .filter(|len| (1..=CHUNK_BYTES_MAX).contains(len))
            .ok_or_else(|| {
                Error::input(format!(
                    "chunk of {len} bytes; allowed are 1 to {CHUNK_BYTES_MAX}"
                ))
            })?;
        Ok(())
    }
}
