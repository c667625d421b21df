//! Walks the batches of a segment, verifying each: recovery of the active segment, and rebuilding a
//! sealed segment's index.
//!
//! Invariant **I7**: bytes are never searched for a batch: payloads are other people's bytes and may hold a
//! forged one.
//!
//! A batch is where the one before it ends. Past a damaged batch the walk goes on only at a position
//! that the segment's index names, where a whole batch with the right base offset and last offset
//! begins whose producer's sequence continues.
//!
//! What is not a whole batch is either **damage** or a **torn tail**. It is damage when it lies before
//! an offset that is known to be durable, or when the index has an entry for it (entries are written
//! after their batches are durable); its offsets are a gap and are never given out again. Else nobody
//! was told that it is durable, and the segment ends there.

use std::collections::BTreeMap;

use crate::batch::header::{BatchHeader, HEADER_BYTES, verify};
use crate::error::{Error, Result};
use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, READ_WINDOW_BYTES};
use crate::storage::{File, read_full_at};

use super::index::{self, IndexEntry};
use super::reader::Gap;

/// What to walk.
pub(super) struct Walk<'a> {
    pub(super) file: &'a dyn File,
    /// The segment's base.
    pub(super) base: Offset,
    /// Where the walk begins: an offset and the position of its batch.
    pub(super) from: (Offset, u64),
    /// The index file's entries, as they were found.
    pub(super) claims: &'a [IndexEntry],
    /// All before it is known to be durable.
    pub(super) durable: Offset,
    /// Where the next segment begins: this one ends there, whatever bytes follow.
    pub(super) stop: Option<Offset>,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// An entry for each batch from the start of the walk on, damaged ones included.
    pub(super) entries: Vec<IndexEntry>,
    /// What is damaged, and where its bytes begin.
    pub(super) lost: Vec<(Gap, u64)>,
    pub(super) batches: u64,
    /// The offset after the last entry.
    pub(super) end: Offset,
    /// Where a batch with the offset `end` would begin; `None` after a damaged batch.
    pub(super) position: Option<u64>,
    /// Up to here batches are known to be durable; what follows was found whole, no more.
    pub(super) durable: Offset,
    /// Where the batch with the offset `durable` begins; `None` after a damaged batch.
    pub(super) durable_position: Option<u64>,
    /// The file's length.
    pub(super) file_bytes: u64,
}

impl Walk<'_> {
    /// Walks to the segment's end. `visit` sees every whole batch and its position, in order.
    pub(super) fn run(&self, visit: &mut dyn FnMut(&BatchHeader, u64)) -> Result<Walked> {
        let file_bytes = self.file.bytes().map_err(read_error)?;
        let mut walker = Walker {
            walk: self,
            window: Window::new(self.file, file_bytes),
            claims: claims(self.claims),
            continuity: Continuity::default(),
            found: Walked {
                end: self.from.0,
                position: Some(self.from.1),
                durable: self.from.0,
                durable_position: Some(self.from.1),
                file_bytes,
                ..Walked::default()
            },
        };
        walker.run(visit)?;
        Ok(walker.found)
    }
}

struct Walker<'a> {
    walk: &'a Walk<'a>,
    window: Window<'a>,
    /// Position to last offset, less the base.
    claims: BTreeMap<u32, u32>,
    continuity: Continuity,
    found: Walked,
}

impl Walker<'_> {
    fn run(&mut self, visit: &mut dyn FnMut(&BatchHeader, u64)) -> Result<()> {
        while let Some(position) = self.found.position {
            if self.walk.stop.is_some_and(|stop| self.found.end >= stop) {
                break;
            }
            match self.whole_batch(position, self.found.end)? {
                Some(header) => self.take(&header, position, visit),
                None if self.is_known(position) => self.pass_damage(position)?,
                None => break,
            }
        }
        if let Some(stop) = self.walk.stop.filter(|&stop| self.found.end < stop) {
            let position = self.found.position.unwrap_or(self.found.file_bytes);
            self.lose(stop, position);
        }
        Ok(())
    }

    /// The batch at `position`, when it is whole, of this offset, and its sequence continues.
    fn whole_batch(&mut self, position: u64, offset: Offset) -> Result<Option<BatchHeader>> {
        let Some(header) = self.window.batch(position)? else {
            return Ok(None);
        };
        let fits = header.base_offset == offset
            && self
                .walk
                .stop
                .is_none_or(|stop| header.next_offset() <= stop)
            && self.continuity.continues(&header);
        Ok(fits.then_some(header))
    }

    fn take(
        &mut self,
        header: &BatchHeader,
        position: u64,
        visit: &mut dyn FnMut(&BatchHeader, u64),
    ) {
        let claimed = self.claim(position);
        let Some(entry) = index::entry(self.walk.base, header.last_offset(), position) else {
            // Past what an index can address; no writer of ours gets here.
            self.found.position = None;
            return;
        };
        self.found.entries.push(entry);
        self.found.batches += 1;
        self.found.end = header.next_offset();
        self.found.position = Some(position + header.total_bytes() as u64);
        self.continuity.see(header);
        visit(header, position);
        if claimed == Some(entry.last) || self.found.end <= self.walk.durable {
            self.found.durable = self.found.end;
            self.found.durable_position = self.found.position;
        }
    }

    /// Whether what lies at `position` was durable once, so that it is damaged and not torn.
    fn is_known(&self, position: u64) -> bool {
        self.found.end < self.walk.durable || self.claim(position).is_some()
    }

    /// The last offset, less the base, of the batch that the index has at `position`.
    fn claim(&self, position: u64) -> Option<u32> {
        let position = u32::try_from(position).ok()?;
        self.claims.get(&position).copied()
    }

    /// Goes on behind the damaged batch at `position`, where the index says, or ends.
    fn pass_damage(&mut self, position: u64) -> Result<()> {
        let base = self.walk.base;
        let mut before = position;
        while let Some(at) = self.next_place(before) {
            before = at;
            let Some(header) = self.window.batch(at)? else {
                continue;
            };
            let gap = header
                .base_offset
                .get()
                .saturating_sub(self.found.end.get());
            let in_place = gap > 0
                && self
                    .claim(at)
                    .is_none_or(|last| header.last_offset() == base.plus(last))
                && self
                    .walk
                    .stop
                    .is_none_or(|stop| header.next_offset() <= stop)
                && self.continuity.resumes(&header, gap);
            if in_place {
                self.lose(header.base_offset, position);
                self.found.position = Some(at);
                self.found.durable_position = Some(at);
                return Ok(());
            }
        }
        let end = self.walk.durable.max(self.claimed_end(position));
        self.lose(self.walk.stop.map_or(end, |stop| stop.min(end)), position);
        Ok(())
    }

    /// Where the index has its first batch behind `position`: the only place to go on at.
    fn next_place(&self, position: u64) -> Option<u64> {
        #[cfg(mutant = "resync_by_search")]
        return Some(position + 1).filter(|&at| at < self.found.file_bytes);
        #[cfg(not(mutant = "resync_by_search"))]
        {
            let after = u32::try_from(position).ok()?.checked_add(1)?;
            self.claims
                .range(after..)
                .next()
                .map(|(&at, _)| u64::from(at))
        }
    }

    /// The offset after the last batch that the index claims from `position` on, as far as its entries
    /// follow each other the way batches do.
    fn claimed_end(&self, position: u64) -> Offset {
        let mut end = self.found.end;
        let mut before = None;
        let from = u32::try_from(position).unwrap_or(u32::MAX);
        for (&at, &last) in self.claims.range(from..) {
            let next = self.walk.base.plus(last).plus(1);
            let records = next.get() - end.get();
            let follows = match before {
                None => at == from,
                Some(before) => {
                    (HEADER_BYTES..=BATCH_BYTES_MAX).contains(&((at - before) as usize))
                }
            };
            if !follows || !(1..=i64::from(BATCH_RECORDS_MAX)).contains(&records) {
                break;
            }
            end = next;
            before = Some(at);
        }
        end
    }

    /// Gives up the offsets before `to`, whose bytes begin at `position`.
    fn lose(&mut self, to: Offset, position: u64) {
        let from = self.found.end;
        if let Some(last) = Offset::new(to.get() - 1).filter(|_| to > from)
            && let Some(entry) = index::entry(self.walk.base, last, position)
        {
            self.found.entries.push(entry);
            let reason = format!("batch at position {position} is damaged");
            self.found.lost.push((Gap { from, to, reason }, position));
            self.continuity.lost += u64::try_from(to.get() - from.get()).unwrap_or(0);
        }
        self.found.end = to.max(from);
        self.found.durable = self.found.end;
        self.found.position = None;
        self.found.durable_position = None;
    }
}

/// The index's entries by position. One of all zeros is left out: a sector that never reached the disk
/// looks the same.
fn claims(entries: &[IndexEntry]) -> BTreeMap<u32, u32> {
    entries
        .iter()
        .filter(|entry| (entry.last, entry.position) != (0, 0))
        .map(|entry| (entry.position, entry.last))
        .collect()
}

/// Whether each producer's sequences go on without a break, as far as this walk has seen them.
#[derive(Default)]
struct Continuity {
    producers: BTreeMap<ProducerId, Seen>,
    /// Records passed over so far.
    lost: u64,
}

struct Seen {
    epoch: ProducerEpoch,
    next: Sequence,
    lost: u64,
}

impl Continuity {
    fn continues(&self, header: &BatchHeader) -> bool {
        self.resumes(header, 0)
    }

    /// Whether `header` can follow when `gap` more records lie between.
    fn resumes(&self, header: &BatchHeader, gap: i64) -> bool {
        let Some(producer) = header.producer else {
            return true;
        };
        let Some(seen) = self.producers.get(&producer.id) else {
            return true;
        };
        let lost = (self.lost - seen.lost).saturating_add(gap.unsigned_abs());
        if producer.epoch != seen.epoch {
            return producer.epoch > seen.epoch
                && (producer.base_sequence == Sequence::ZERO || lost > 0);
        }
        u64::from(producer.base_sequence.since(seen.next)) <= lost
    }

    fn see(&mut self, header: &BatchHeader) {
        if let (Some(producer), Some(next)) = (header.producer, header.next_sequence()) {
            let seen = Seen {
                epoch: producer.epoch,
                next,
                lost: self.lost,
            };
            self.producers.insert(producer.id, seen);
        }
    }
}

/// A file read front to back through one buffer.
pub(super) struct Window<'a> {
    file: &'a dyn File,
    file_bytes: u64,
    buffer: Vec<u8>,
    at: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File, file_bytes: u64) -> Window<'a> {
        Window {
            file,
            file_bytes,
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// The verified header of the batch at `position`, `None` when no whole batch begins there.
    pub(super) fn batch(&mut self, position: u64) -> Result<Option<BatchHeader>> {
        let Ok(header) = BatchHeader::parse(self.bytes(position, HEADER_BYTES)?) else {
            return Ok(None);
        };
        Ok(verify(self.bytes(position, header.total_bytes())?).ok())
    }

    /// `count` bytes from `position` on, fewer at the end of the file.
    pub(super) fn bytes(&mut self, position: u64, count: usize) -> Result<&[u8]> {
        let left = self.file_bytes.saturating_sub(position);
        let count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
        let held = self.at + self.buffer.len() as u64;
        if position < self.at || position + count as u64 > held {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(READ_WINDOW_BYTES);
            self.buffer.resize(want.max(count), 0);
            let read = read_full_at(self.file, &mut self.buffer, position).map_err(read_error)?;
            self.buffer.truncate(read);
            self.at = position;
        }
        let from = usize::try_from(position - self.at).unwrap_or(usize::MAX);
        let rest = self.buffer.get(from..).unwrap_or_default();
        Ok(rest.get(..count).unwrap_or(rest))
    }
}

fn read_error(error: std::io::Error) -> Error {
    Error::io("cannot read a segment", error)
}

const _: () = assert!(READ_WINDOW_BYTES >= BATCH_BYTES_MAX);
