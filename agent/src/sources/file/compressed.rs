//! Reads what a compressed file holds, by offset: forward, with a window to go back a little.
//!
//! Four formats, told by their first bytes. Files of several members, frames or streams are one content.
//! Work is done in steps of bounded input and output, so that a large file, or one that is made to be
//! large, takes its turns like any other. Memory is bounded by the window and the decoder's limit.
//!
//! A stream that ends early is not damaged: whoever compresses it is still at work.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::sync::Arc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use model::position::Codec;

use super::content::read_at;
use super::encoding::MARK_BYTES;
use crate::limits::{
    COMPRESSED_READ_BYTES, DECODER_BYTES_MAX, DECOMPRESS_STEP_BYTES, DECOMPRESSED_ALWAYS_BYTES,
    DECOMPRESSED_KEPT_BYTES, DECOMPRESSED_RATIO_MAX, ZSTD_WINDOW_LOG_MAX,
};

/// The codec whose files begin like this.
pub(super) fn codec_of(first: &[u8]) -> Codec {
    let is_bzip2 = |first: &[u8]| {
        let level = first.get(3).is_some_and(u8::is_ascii_digit);
        let block = first.get(4..10);
        level
            && first.starts_with(b"BZh")
            && (block == Some(BZIP2_BLOCK) || block == Some(BZIP2_END))
    };
    match first {
        [0x1f, 0x8b, 8, ..] => Codec::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Codec::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Codec::Xz,
        first if is_bzip2(first) => Codec::Bzip2,
        _ => Codec::None,
    }
}

/// So many first bytes tell every codec.
pub(super) const MAGIC_BYTES: usize = 10;

const BZIP2_BLOCK: &[u8] = &[0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
const BZIP2_END: &[u8] = &[0x17, 0x72, 0x45, 0x38, 0x50, 0x90];

/// A compressed file, decompressed as far as somebody wanted to read.
pub(super) struct Compressed {
    file: Arc<File>,
    codec: Codec,
    /// None before the first step and after the last.
    decoder: Option<Decoder>,
    /// The last bytes that were decompressed.
    window: VecDeque<u8>,
    /// The content's byte that the window begins with.
    window_from: u64,
    /// The content's first bytes, which are asked for by whoever begins far behind them.
    first: Vec<u8>,
    end: Option<End>,
    /// How long the content is, once it was decompressed to its end.
    length: Option<u64>,
}

/// How the content ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// As it should.
    Whole,
    /// In the midst of a stream.
    Early,
    /// In bytes that no compressor writes, or in more than is allowed.
    Damaged(String),
}

/// Whether there is more to decompress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    More,
    /// The allowance of input is used up.
    Paused,
    Ended,
}

impl Compressed {
    /// Nothing is read yet.
    pub(super) fn new(file: File, codec: Codec) -> Compressed {
        Compressed {
            file: Arc::new(file),
            codec,
            decoder: None,
            window: VecDeque::new(),
            window_from: 0,
            first: Vec::new(),
            end: None,
            length: None,
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn codec(&self) -> Codec {
        self.codec
    }

    /// How the content ends, once that is known.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// How long the content is, or as far as it is known.
    pub(super) fn length(&self) -> u64 {
        self.length.unwrap_or_else(|| self.decoded())
    }

    /// The content was decompressed to its end before.
    pub(super) fn set_length(&mut self, length: u64) {
        self.length = Some(length);
    }

    /// How far it is decompressed.
    pub(super) fn decoded(&self) -> u64 {
        self.window_from + self.window.len() as u64
    }

    /// Whether it holds a decoder's memory.
    pub(super) fn is_awake(&self) -> bool {
        self.decoder.is_some() || !self.window.is_empty()
    }

    /// Gives all memory back. The next use begins at the start.
    pub(super) fn rest(&mut self) {
        self.decoder = None;
        self.window = VecDeque::new();
        self.window_from = 0;
        self.end = None;
    }

    /// Does one step towards the end. Whether it is reached.
    pub(super) fn advance(&mut self) -> io::Result<bool> {
        self.approach(self.decoded(), u64::MAX)
    }

    /// Does one step towards the bytes from `from` to `to`. Whether they are there, or the end is.
    pub(super) fn approach(&mut self, from: u64, to: u64) -> io::Result<bool> {
        if from < self.window_from {
            self.rest();
        }
        let until = to.min(self.decoded() + DECOMPRESS_STEP_BYTES as u64);
        let mut input = DECOMPRESS_STEP_BYTES;
        while self.decoded() < until {
            if self.step(&mut input)? != Step::More {
                break;
            }
        }
        Ok(self.end.is_some() || self.decoded() >= to)
    }

    /// The bytes from `from` on, where the window has all of them.
    pub(super) fn in_window(&self, from: u64, length: usize) -> Option<Vec<u8>> {
        let skip = usize::try_from(from.checked_sub(self.window_from)?).ok()?;
        let bytes: Vec<u8> = self
            .window
            .range(skip.min(self.window.len())..)
            .take(length)
            .copied()
            .collect();
        (bytes.len() == length).then_some(bytes)
    }

    /// Fills as much of `buffer` as the content has from the byte `from` on. An error where it ends in
    /// another way than it should.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], from: u64) -> io::Result<usize> {
        if from == 0 && self.window_from > 0 && buffer.len() <= self.first.len() {
            buffer.copy_from_slice(&self.first[..buffer.len()]);
            return Ok(buffer.len());
        }
        if from < self.window_from {
            self.rest();
        }
        let mut unbounded = usize::MAX;
        let mut filled = 0;
        loop {
            filled += self.copy(&mut buffer[filled..], from + filled as u64);
            if filled == buffer.len() {
                return Ok(filled);
            }
            match &self.end {
                Some(End::Whole) => return Ok(filled),
                Some(End::Early) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(End::Damaged(why)) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why.as_str()));
                }
                None => {
                    self.step(&mut unbounded)?;
                }
            }
        }
    }

    /// Copies what the window has of the bytes from `from` on.
    fn copy(&self, buffer: &mut [u8], from: u64) -> usize {
        let Some(skip) = from.checked_sub(self.window_from) else {
            return 0;
        };
        let skip = usize::try_from(skip)
            .unwrap_or(usize::MAX)
            .min(self.window.len());
        let length = buffer.len().min(self.window.len() - skip);
        let (front, back) = self.window.as_slices();
        let first = front.get(skip..).unwrap_or_default();
        let first = &first[..first.len().min(length)];
        let second = &back[skip.saturating_sub(front.len())..][..length - first.len()];
        buffer[..first.len()].copy_from_slice(first);
        buffer[first.len()..length].copy_from_slice(second);
        length
    }

    /// Decompresses the next bytes, from at most so much input.
    fn step(&mut self, input: &mut usize) -> io::Result<Step> {
        if self.end.is_some() {
            return Ok(Step::Ended);
        }
        let mut decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => Decoder::new(self.codec, Input::new(Arc::clone(&self.file), *input))?,
        };
        decoder.input().allowed = *input;
        let mut bytes = [0; STEP_BYTES];
        let read = decoder.read(&mut bytes);
        *input = decoder.input().allowed;
        let error = match read {
            Ok(0) => {
                self.end = Some(End::Whole);
                self.length = Some(self.decoded());
                return Ok(Step::Ended);
            }
            Ok(read) => {
                if self.decoded() == self.first.len() as u64 {
                    let missing = MARK_BYTES - self.first.len();
                    self.first.extend(&bytes[..read.min(missing)]);
                }
                self.window.extend(&bytes[..read]);
                let surplus = self.window.len().saturating_sub(DECOMPRESSED_KEPT_BYTES);
                self.window.drain(..surplus);
                self.window_from += surplus as u64;
                let consumed = decoder.input().from;
                if self.decoded() > DECOMPRESSED_ALWAYS_BYTES + DECOMPRESSED_RATIO_MAX * consumed {
                    self.end = Some(End::Damaged("holds far more than its size".to_owned()));
                    return Ok(Step::Ended);
                }
                self.decoder = Some(decoder);
                return Ok(Step::More);
            }
            Err(error) => error,
        };
        if let Some(error) = decoder.input().failure.take() {
            // The disk's failure, not the stream's: the next use begins anew.
            self.rest();
            return Err(error);
        }
        self.end = Some(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {
                self.decoder = Some(decoder);
                return Ok(Step::Paused);
            }
            io::ErrorKind::UnexpectedEof => End::Early,
            _ => End::Damaged(error.to_string()),
        });
        Ok(Step::Ended)
    }
}

/// One of the formats.
enum Decoder {
    Gzip(Box<MultiGzDecoder<Input>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input>>),
    Bzip2(Box<MultiBzDecoder<Input>>),
    Xz(Box<XzDecoder<Input>>),
}

impl Decoder {
    fn new(codec: Codec, input: Input) -> io::Result<Decoder> {
        Ok(match codec {
            Codec::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(input))),
            Codec::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Decoder::Zstd(Box::new(decoder))
            }
            Codec::Bzip2 => Decoder::Bzip2(Box::new(MultiBzDecoder::new(input))),
            Codec::Xz => {
                let stream = Stream::new_stream_decoder(DECODER_BYTES_MAX, CONCATENATED)?;
                Decoder::Xz(Box::new(XzDecoder::new_stream(input, stream)))
            }
            Codec::None => return Err(io::Error::other("is not compressed")),
        })
    }

    fn input(&mut self) -> &mut Input {
        match self {
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
            Decoder::Bzip2(decoder) => decoder.get_mut(),
            Decoder::Xz(decoder) => decoder.get_mut(),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Gzip(decoder) => decoder.read(bytes),
            Decoder::Zstd(decoder) => decoder.read(bytes),
            Decoder::Bzip2(decoder) => decoder.read(bytes),
            Decoder::Xz(decoder) => decoder.read(bytes),
        }
    }
}

/// The compressed bytes, as many as are allowed: past them the decoder is told to wait, which all four
/// take as it is meant.
struct Input {
    file: Arc<File>,
    buffer: Box<[u8]>,
    /// What of the buffer was not consumed yet.
    at: usize,
    end: usize,
    /// The file's byte behind the buffer.
    from: u64,
    allowed: usize,
    /// Why the file could not be read.
    failure: Option<io::Error>,
}

impl Input {
    fn new(file: Arc<File>, allowed: usize) -> Input {
        Input {
            file,
            buffer: vec![0; COMPRESSED_READ_BYTES].into_boxed_slice(),
            at: 0,
            end: 0,
            from: 0,
            allowed,
            failure: None,
        }
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.end {
            if self.allowed == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let most = self.buffer.len().min(self.allowed);
            match read_at(&self.file, &mut self.buffer[..most], self.from) {
                Ok(read) => {
                    (self.at, self.end) = (0, read);
                    self.from += read as u64;
                    self.allowed -= read;
                }
                Err(error) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the file cannot be read"));
                }
            }
        }
        Ok(&self.buffer[self.at..self.end])
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.end.min(self.at + amount);
    }
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffered = self.fill_buf()?;
        let read = buffered.read(bytes)?;
        self.consume(read);
        Ok(read)
    }
}

/// Bytes decompressed at once.
const STEP_BYTES: usize = 16 * 1024;
