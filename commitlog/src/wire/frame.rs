//! The data streams: a header once, then batches, each behind its length. The decoder is told apart
//! bytes and hands out whole batches, copied once into a buffer of their own.

use crate::batch::header::HEADER_BYTES;
use crate::error::{Error, Result};
use crate::id::Sequence;
use crate::limits::{BATCH_BYTES_MAX, FRAME_BYTES_FIRST};

use super::field::FieldReader;
use super::message::Slot;
use super::varint::{self, VARINT_BYTES_MAX};

/// What a data stream says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamHeader {
    /// The partition, as the control stream named it.
    pub slot: Slot,
    /// Where the first batch begins.
    pub sequence: Sequence,
}

const STREAM_KIND: u8 = 1;
const HEADER_BYTES_MAX: usize = 1 + 2 * VARINT_BYTES_MAX;

impl StreamHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![STREAM_KIND];
        varint::write(&mut out, u64::from(self.slot.0));
        varint::write(&mut out, u64::from(self.sequence.get().unsigned_abs()));
        out
    }

    fn decode(bytes: &[u8]) -> Result<StreamHeader> {
        let mut reader = FieldReader::new(bytes);
        let kind = reader.byte("stream kind")?;
        if kind != STREAM_KIND {
            return Err(Error::input(format!("stream of unknown kind {kind}")));
        }
        Ok(StreamHeader {
            slot: Slot(reader.number32("slot")?),
            sequence: reader.sequence("first sequence")?,
        })
    }
}

/// The bytes before a batch of `batch_bytes`.
pub fn frame_header(batch_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(4);
    varint::write(&mut out, batch_bytes as u64);
    out
}

/// What a [`FrameDecoder`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameEvent {
    /// The stream's first bytes.
    Header(StreamHeader),
    /// A batch of this size follows. Whoever bounds memory waits here.
    Begins(usize),
    /// The batch.
    Batch(Vec<u8>),
}

/// Cuts a data stream into batches.
///
/// It takes at most one event's bytes at a time, so that a caller can wait between the announcement of
/// a batch and its bytes.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    state: State,
}

#[derive(Debug)]
enum State {
    Header(Vec<u8>),
    Length(Vec<u8>),
    Body { batch: Vec<u8>, bytes: usize },
}

impl Default for State {
    fn default() -> State {
        State::Header(Vec::new())
    }
}

impl FrameDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> FrameDecoder {
        FrameDecoder::default()
    }

    /// Takes bytes off the front of `input` up to the next event. `None` means that all were taken.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<FrameEvent>> {
        match &mut self.state {
            State::Header(held) => {
                if !take_until(held, input, header_size) {
                    return Ok(None);
                }
                let header = StreamHeader::decode(held)?;
                self.state = State::Length(Vec::new());
                Ok(Some(FrameEvent::Header(header)))
            }
            State::Length(held) => {
                if !take_until(held, input, |held| held.first().map(|&it| varint::size(it))) {
                    return Ok(None);
                }
                let (len, _) = varint::read(held).expect("take_until held its whole size");
                let bytes = usize::try_from(len)
                    .ok()
                    .filter(|len| (HEADER_BYTES..=BATCH_BYTES_MAX).contains(len))
                    .ok_or_else(|| {
                        Error::input(format!(
                            "frame of {len} bytes; a batch has {HEADER_BYTES} to {BATCH_BYTES_MAX}"
                        ))
                    })?;
                self.state = State::Body {
                    batch: Vec::new(),
                    bytes,
                };
                Ok(Some(FrameEvent::Begins(bytes)))
            }
            State::Body { batch, bytes } => {
                let taken = input.len().min(*bytes - batch.len());
                if batch.capacity() < batch.len() + taken {
                    let wanted = if batch.is_empty() {
                        FRAME_BYTES_FIRST.min(*bytes)
                    } else {
                        *bytes
                    };
                    batch.reserve_exact(wanted.max(batch.len() + taken) - batch.len());
                }
                batch.extend_from_slice(&input[..taken]);
                *input = &input[taken..];
                if batch.len() < *bytes {
                    return Ok(None);
                }
                let batch = std::mem::take(batch);
                self.state = State::Length(Vec::new());
                Ok(Some(FrameEvent::Batch(batch)))
            }
        }
    }

    /// Has the batch that just began gathered in a buffer that was used before.
    pub fn gather_in(&mut self, mut buffer: Vec<u8>) {
        if let State::Body { batch, .. } = &mut self.state
            && batch.is_empty()
        {
            buffer.clear();
            *batch = buffer;
        }
    }

    /// Whether the stream may end here: between two frames.
    pub fn is_between_frames(&self) -> bool {
        matches!(&self.state, State::Length(held) if held.is_empty())
    }
}

/// Moves bytes from `input` to `held` until `held` has the size that `size` names, which may need some
/// of the bytes to tell. Says whether it got there.
fn take_until(
    held: &mut Vec<u8>,
    input: &mut &[u8],
    size: impl Fn(&[u8]) -> Option<usize>,
) -> bool {
    loop {
        if size(held).is_some_and(|size| held.len() >= size) {
            return true;
        }
        let Some((&first, rest)) = input.split_first() else {
            return false;
        };
        held.push(first);
        *input = rest;
        debug_assert!(held.len() <= HEADER_BYTES_MAX);
    }
}

/// The header's size as soon as its bytes tell: kind, then two varints.
fn header_size(held: &[u8]) -> Option<usize> {
    let slot = 1 + varint::size(*held.get(1)?);
    Some(slot + varint::size(*held.get(slot)?))
}
