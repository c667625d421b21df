//! Reads a log: any number of readers, on any thread, while the writer appends, rolls and trims.
//!
//! Invariant **I6**: damage costs the batches it hit, is told with their exact offsets, and everything else
//! is read, byte for byte, under its own offset.
//!
//! Every batch that leaves is checked: its CRC, its base and last offset against the index, and its
//! length. That is done at every read, not at start-up only: disks lose bits while a process runs, and
//! CRC-32C runs at 10 GB/s. What fails is told as a [`Gap`] with its exact offsets; the others come with
//! their own offsets.

use std::sync::Arc;

use crate::batch::header::{BatchHeader, HEADER_BYTES, patch, verify};
use crate::batch::records::Decompressor;
use crate::error::{Error, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::{BATCH_BYTES_MAX, GAPS_PER_READ_MAX};
use crate::storage::{File, read_full_at};

use super::index::Span;
use super::shared::{Run, Shared, View};

/// Reads one log. Clones are cheap and read the same log.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// How far to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// What is fsynced. Consumers read this: what they saw can never change.
    Durable,
    /// All that was appended. A crash may take the end back.
    Appended,
}

/// A piece of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Whole batches, one after another. The first may begin before the offset that was asked for.
    pub batches: Vec<u8>,
    /// Where to read on.
    pub next: Offset,
    /// What is missing between the offset asked for and `next`, in order.
    pub gaps: Vec<Gap>,
}

/// Offsets whose records are damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The first lost offset.
    pub from: Offset,
    /// The first offset after the lost ones.
    pub to: Offset,
    /// What was found in their place.
    pub reason: String,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> LogReader {
        LogReader { shared }
    }

    /// The first offset that is kept.
    pub fn start(&self) -> Offset {
        self.shared.state().start
    }

    /// The offset that the next appended record gets.
    pub fn end(&self) -> Offset {
        self.shared.state().end
    }

    /// All before it is fsynced.
    pub fn durable_end(&self) -> Offset {
        self.shared.state().durable
    }

    /// The bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.shared.state().bytes()
    }

    /// Where the oldest sealed segment ends: the first offset up to which trimming frees anything.
    pub fn first_sealed_end(&self) -> Option<Offset> {
        let state = self.shared.state();
        state.sealed.values().next().map(|segment| segment.end)
    }

    /// The number of segments, the one being written included.
    pub fn segments(&self) -> usize {
        self.shared.state().sealed.len() + 1
    }

    /// Whole batches from the one that holds `from` on, about `bytes_max` bytes of them and at least
    /// one; none when `from` is the end. An offset before the start or past the end is wrong input.
    pub fn read(&self, from: Offset, bytes_max: usize, until: Until) -> Result<Slice> {
        let bound = self.bound(from, until)?;
        let mut slice = Slice {
            batches: Vec::new(),
            next: from,
            gaps: Vec::new(),
        };
        while slice.next < bound && slice.batches.is_empty() {
            let view = match self.shared.view(slice.next) {
                // Retention overtook this read; what it has is still true.
                Err(_) if !slice.gaps.is_empty() => break,
                view => view?,
            };
            let run = view.run(slice.next, bound, bytes_max);
            if slice.gaps.len() >= GAPS_PER_READ_MAX {
                break;
            }
            match view.end() {
                // Lost segments leave more offsets than an index can tell of.
                Some(end) if run.spans.is_empty() => pass_hole(&mut slice, end.min(bound)),
                None if run.spans.is_empty() => break,
                _ => fetch(&run, &mut slice),
            }
        }
        if !slice.gaps.is_empty() {
            // What retention unlinked under this read is trimmed, not damaged.
            self.bound(from, until)?;
        }
        Ok(slice)
    }

    /// The first durable offset whose record bears `time` or a later one; `None` when there is none.
    /// Timestamps are event time and need not be in order.
    pub fn offset_at(&self, time: Timestamp) -> Result<Option<Offset>> {
        let bound = self.durable_end();
        let mut from = self.start();
        while from < bound {
            let view = self.shared.view(from)?;
            if view.max_timestamp().is_some_and(|max| max >= time) {
                from = from.max(view.offset_before(time));
                if let Some(found) = search(&view, from, bound, time) {
                    return Ok(Some(found));
                }
            }
            from = match view {
                View::Sealed(sealed) => sealed.end,
                View::Active(_) => break,
            };
        }
        Ok(None)
    }

    /// Loads the segment that holds `offset`, which rebuilds its index files when they are wrong.
    pub(super) fn load(&self, offset: Offset) -> Result<()> {
        self.shared.view(offset).map(|_| ())
    }

    /// The header of the batch that holds `offset`, of appended ones too; `None` when it is damaged,
    /// gone or not yet there.
    pub(super) fn header_at(&self, offset: Offset) -> Option<BatchHeader> {
        let view = self.shared.view(offset).ok()?;
        let run = view.run(offset, self.end(), 0);
        whole_batch(&run, run.spans.first()?).and_then(|batch| BatchHeader::parse(&batch).ok())
    }

    /// The header of the batch that ends before `offset`, checked as far as 61 bytes can be.
    pub(super) fn header_before(&self, offset: Offset) -> Option<BatchHeader> {
        let last = Offset::new(offset.get() - 1)?;
        let view = self.shared.view(last).ok()?;
        let run = view.run(last, self.end(), 0);
        header_of(&run, run.spans.first()?)
    }

    fn bound(&self, from: Offset, until: Until) -> Result<Offset> {
        let state = self.shared.state();
        if from < state.start {
            return Err(super::shared::below_start(from, state.start));
        }
        let end = state.end;
        if from > end {
            return Err(Error::input(format!(
                "offset {from} is past the log's end {end}; read from there"
            )));
        }
        Ok(match until {
            Until::Durable => state.durable,
            Until::Appended => end,
        })
    }
}

/// Reads a run's batches into `slice`: the whole ones, and gaps for the others.
fn fetch(run: &Run, slice: &mut Slice) {
    let mut kept = 0;
    if !read_region(run, &mut slice.batches) {
        slice.batches.clear();
    }
    let mut at = 0;
    for span in &run.spans {
        let bytes = held_bytes(span);
        let whole = match slice.batches.get_mut(at..at + bytes) {
            Some(batch) => check(batch, span),
            None => Err("its bytes cannot be read".to_owned()),
        };
        match whole {
            Ok(()) => {
                slice.batches.copy_within(at..at + bytes, kept);
                kept += bytes;
            }
            Err(reason) => lose(slice, span, &reason),
        }
        at += bytes;
        slice.next = span.next();
    }
    slice.batches.truncate(kept);
}

/// Reads all of a run's bytes at once, as far as they are there.
fn read_region(run: &Run, out: &mut Vec<u8>) -> bool {
    let (Some(file), Some(first), Some(last)) = (&run.file, run.spans.first(), run.spans.last())
    else {
        return false;
    };
    let bytes = (last.position + last.bytes).saturating_sub(first.position);
    let legal = run
        .spans
        .iter()
        .all(|span| span.bytes <= BATCH_BYTES_MAX as u64);
    if !legal {
        return read_apart(run, out);
    }
    out.resize(usize::try_from(bytes).unwrap_or(0), 0);
    match read_full_at(file.as_ref(), out, first.position) {
        Ok(read) => {
            out.truncate(read);
            true
        }
        Err(_) => read_apart(run, out),
    }
}

/// Reads a run's batches one by one, so that an unreadable sector costs one batch. An unreadable batch
/// is left as zeros, which no check takes for a batch.
fn read_apart(run: &Run, out: &mut Vec<u8>) -> bool {
    out.clear();
    for span in &run.spans {
        let from = out.len();
        out.resize(from + held_bytes(span), 0);
        let part = out.get_mut(from..).unwrap_or_default();
        let read = run
            .file
            .as_ref()
            .map(|file| read_full_at(file.as_ref(), part, span.position));
        if !matches!(read, Some(Ok(_))) {
            part.fill(0);
        }
    }
    true
}

/// What a batch takes in the buffer. One that is larger than a batch can be is not read to its end: it
/// is damaged, or several that the index lost.
fn held_bytes(span: &Span) -> usize {
    usize::try_from(span.bytes).map_or(BATCH_BYTES_MAX + 1, |bytes| bytes.min(BATCH_BYTES_MAX + 1))
}

/// Checks that `batch` is what the index says lies there, and clears what only the log may set.
fn check(batch: &mut [u8], span: &Span) -> std::result::Result<(), String> {
    let header = verify(batch).map_err(|error| error.message)?;
    let (first, last) = (header.base_offset, header.last_offset());
    if (first, last) != (span.first, span.last) {
        return Err(format!("it bears the offsets {first} to {last}"));
    }
    patch(batch, first);
    Ok(())
}

fn lose(slice: &mut Slice, span: &Span, reason: &str) {
    let from = span.first.max(slice.next);
    let position = span.position;
    let reason = format!("batch at position {position}: {reason}");
    match slice.gaps.last_mut() {
        Some(gap) if gap.to == from && gap.reason == reason => gap.to = span.next(),
        _ => slice.gaps.push(Gap {
            from,
            to: span.next(),
            reason,
        }),
    }
}

/// Passes over offsets that no segment has.
fn pass_hole(slice: &mut Slice, to: Offset) {
    slice.gaps.push(Gap {
        from: slice.next,
        to,
        reason: "their segments are missing".to_owned(),
    });
    slice.next = to;
}

/// The first record from `from` on whose timestamp reaches `time`.
fn search(view: &View, mut from: Offset, bound: Offset, time: Timestamp) -> Option<Offset> {
    loop {
        let run = view.run(from, bound, 0);
        let span = run.spans.first()?;
        let reaches = header_of(&run, span).is_some_and(|header| header.max_timestamp >= time);
        if reaches && let Some(batch) = whole_batch(&run, span) {
            let mut decompressor = Decompressor::new();
            let records = decompressor.records(&batch).ok();
            let mut found = records.into_iter().flatten().filter_map(Result::ok);
            if let Some(record) = found.find(|r| r.timestamp >= time && r.offset >= from) {
                return Some(record.offset);
            }
        }
        from = span.next();
    }
}

fn header_of(run: &Run, span: &Span) -> Option<BatchHeader> {
    let mut header = [0; HEADER_BYTES];
    let file: &dyn File = run.file.as_ref()?.as_ref();
    let read = read_full_at(file, &mut header, span.position).ok()?;
    let header = BatchHeader::parse(header.get(..read)?).ok()?;
    (header.base_offset == span.first && header.last_offset() == span.last).then_some(header)
}

fn whole_batch(run: &Run, span: &Span) -> Option<Vec<u8>> {
    let bytes = usize::try_from(span.bytes).ok()?;
    let file: &dyn File = run.file.as_ref()?.as_ref();
    if bytes > BATCH_BYTES_MAX {
        return None;
    }
    let mut batch = vec![0; bytes];
    read_full_at(file, &mut batch, span.position).ok()?;
    check(&mut batch, span).ok()?;
    Some(batch)
}
