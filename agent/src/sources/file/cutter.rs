//! Cuts one read into records and pushes them into the open batch.
//!
//! One record is held back until it is known whether it is the last that this batch has of the file: the
//! last one carries the position, and others between when there is much. What is left out, a line that is
//! too long or the rest of it, moves the position with the record before it.

use commitlog::batch::builder::{HeaderBlock, RECORD_OVERHEAD_MAX};
use memchr::memchr_iter;
use model::position::Guard;

use super::LongLines;
use super::guard::Hasher;
use super::holes::{Gap, Holes};
use super::lineage::{Epoch, Stream};
use super::reader::{Taken, Target, whole_lines};
use crate::limits::LINE_PIECE_BYTES;
use crate::pipeline::Refused;
use crate::spool::positions::{Loss, Placed};

/// What of the bytes read is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// So many bytes, which end with a newline.
    Lines(usize),
    /// The same, and what follows the last newline.
    All,
    /// So many bytes of a line that is longer than the limit; the next record continues it.
    Piece(usize),
    /// So many bytes of a line that is longer than the limit, whose rest is left out.
    Start(usize),
}

/// How far a cut came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// All of it was taken.
    Whole,
    /// A line would begin in a hole: the next read begins there.
    ToHole,
}

/// Which headers a record bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Line,
    Split,
    Truncated,
    Unterminated,
}

/// A record that is not pushed yet: its bytes, and where the next one begins.
#[derive(Debug, Clone, Copy)]
struct Held {
    from: usize,
    to: usize,
    next: usize,
    kind: Kind,
}

/// Cuts one read into records.
pub(super) struct Cutter<'a, 'b, 'c> {
    pub(super) hasher: &'a Hasher,
    /// The bytes read, from the file's byte `from` on; those before `back` were taken before.
    pub(super) bytes: &'a [u8],
    pub(super) from: u64,
    pub(super) back: usize,
    /// The file's bytes that are not among `bytes`, before the last of them.
    pub(super) left_out: u64,
    pub(super) holes: Holes<'a>,
    pub(super) epoch: &'a mut Epoch,
    pub(super) target: &'a mut Target<'b, 'c>,
    pub(super) line_bytes_max: usize,
    pub(super) long_lines: LongLines,
    /// What is lost once the epoch moves to these bytes of the read.
    pub(super) losses: Vec<(usize, Loss)>,
    pub(super) taken: Taken,
}

impl Cutter<'_, '_, '_> {
    pub(super) fn cut(&mut self, take: Take) -> Result<Cut, Refused> {
        let (lines, rest) = match take {
            Take::Lines(whole) => (whole, None),
            Take::Piece(length) => (0, Some((length, Kind::Split))),
            Take::Start(length) => (0, Some((length, Kind::Truncated))),
            Take::All => {
                let data = &self.bytes[self.back..];
                let whole = whole_lines(data);
                (whole, Some((data.len() - whole, Kind::Unterminated)))
            }
        };
        let mut held: Option<Held> = None;
        let mut cut = Cut::Whole;
        let mut start = self.back;
        for newline in memchr_iter(b'\n', &self.bytes[start..start + lines]) {
            if self.bytes[start] == 0 && self.is_hole(start) {
                cut = Cut::ToHole;
                break;
            }
            let to = self.back + newline;
            let line = Held {
                from: start,
                to,
                next: to + 1,
                kind: Kind::Line,
            };
            held = self.add(held, line)?;
            start = line.next;
        }
        if let Some((length, kind)) = rest.filter(|_| cut == Cut::Whole) {
            if self.bytes[start] == 0 && self.is_hole(start) {
                cut = Cut::ToHole;
            } else {
                held = self.add_rest(held, start, length, kind)?;
            }
        }
        if let Some(last) = held {
            self.push_last(last)?;
        }
        Ok(cut)
    }

    /// Whether a line would begin in a hole. What a read begins with was looked at before.
    #[cold]
    fn is_hole(&mut self, start: usize) -> bool {
        let nuls = leading_nuls(&self.bytes[start..]);
        start != self.back && self.holes.gap(self.from + start as u64, nuls) != Gap::None
    }

    /// Takes bytes that no newline ends.
    fn add_rest(
        &mut self,
        held: Option<Held>,
        start: usize,
        length: usize,
        kind: Kind,
    ) -> Result<Option<Held>, Refused> {
        let to = start + length;
        if kind == Kind::Truncated {
            let line = Held {
                from: start,
                to: self.bytes.len(),
                next: self.bytes.len(),
                kind,
            };
            return self.add_long(held, line);
        }
        let part = Held {
            from: start,
            to,
            next: to,
            kind,
        };
        self.add(held, part)
    }

    /// Pushes what was held back and holds back the next record.
    #[inline]
    fn add(&mut self, held: Option<Held>, record: Held) -> Result<Option<Held>, Refused> {
        if record.to - record.from > self.line_bytes_max {
            self.add_long(held, record)
        } else {
            self.hold(held, record)
        }
    }

    /// The same of a record that is longer than the limit.
    #[cold]
    fn add_long(
        &mut self,
        mut held: Option<Held>,
        mut record: Held,
    ) -> Result<Option<Held>, Refused> {
        let length_max = self.line_bytes_max;
        match self.long_lines {
            LongLines::Split => {
                while record.to - record.from > length_max {
                    let end = record.from + length_max;
                    let piece = Held {
                        to: end,
                        next: end,
                        kind: Kind::Split,
                        ..record
                    };
                    held = self.hold(held, piece)?;
                    record.from = end;
                }
                self.hold(held, record)
            }
            LongLines::Truncate => {
                let to = record.from + length_max;
                let lost = (record.next - to) as u64 + self.left_out;
                self.lose(record.next, 0, lost);
                let start = Held {
                    to,
                    kind: Kind::Truncated,
                    ..record
                };
                self.hold(held, start)
            }
            LongLines::Drop => {
                let lost = (record.next - record.from) as u64 + self.left_out;
                self.lose(record.next, 1, lost);
                if let Some(held) = &mut held {
                    held.next = record.next;
                } else {
                    self.pass(record.next);
                }
                Ok(held)
            }
        }
    }

    /// So much is lost once the epoch moves to `next`.
    fn lose(&mut self, next: usize, records: u64, bytes: u64) {
        self.losses.push((next, Loss { records, bytes }));
    }

    /// Moves on without a record.
    fn pass(&mut self, next: usize) {
        self.move_to(next);
        self.settle(next);
        self.taken.without_record = true;
    }

    /// Counts what is lost before `next`, which the epoch has moved to.
    fn settle(&mut self, next: usize) {
        for (_, loss) in self.losses.extract_if(.., |(at, _)| *at <= next) {
            self.taken.lost.records += loss.records;
            self.taken.lost.bytes += loss.bytes;
        }
    }

    #[inline]
    fn hold(&mut self, held: Option<Held>, next: Held) -> Result<Option<Held>, Refused> {
        let Some(held) = held else {
            return Ok(Some(next));
        };
        let stream = self.target.stream;
        let values = held.to - held.from + next.to - next.from;
        // Both or none: a record pushed without a position must be followed by one with it.
        let both = values + 2 * stream.unterminated.encoded_bytes() + RECORD_OVERHEAD_MAX;
        if !self.target.batch.fits(both) {
            self.push_last(held)?;
            self.target.batch.cut()?;
        } else if !self.target.batch.can_go_without_position(both) {
            self.push_last(held)?;
        } else {
            let value = &self.bytes[held.from..held.to];
            self.target.batch.push(value, headers(stream, held.kind));
            self.count(held);
        }
        Ok(Some(next))
    }

    /// Pushes a record with the position after it: the last of this turn or this batch, or one between.
    fn push_last(&mut self, last: Held) -> Result<(), Refused> {
        let headers = headers(self.target.stream, last.kind);
        let bytes = last.to - last.from + headers.encoded_bytes();
        if !self.target.batch.fits(bytes) {
            self.target.batch.cut()?;
        }
        if !self.target.batch.can_go_without_position(bytes) {
            return self.push_alone(last);
        }
        let placed = self.move_to(last.next);
        let value = &self.bytes[last.from..last.to];
        self.target.batch.push_last(value, headers, placed);
        self.count_placed(last);
        Ok(())
    }

    /// Counts a record that was pushed.
    #[inline]
    fn count(&mut self, pushed: Held) {
        self.taken.records += 1;
        if pushed.kind == Kind::Split && self.is_line_start(pushed.from) {
            self.taken.lines_split += 1;
        }
    }

    /// The same of a record that carries a position.
    fn count_placed(&mut self, pushed: Held) {
        self.count(pushed);
        self.settle(pushed.next);
        self.taken.without_record = false;
    }

    /// Whether a line begins at this byte of the read.
    fn is_line_start(&self, at: usize) -> bool {
        match at.checked_sub(1) {
            Some(before) => self.bytes[before] == b'\n',
            // A read begins before the offset, but in a file of which nothing was taken.
            None => true,
        }
    }

    /// Pushes a record that is larger than a batch is meant to be: whole when it compresses, in pieces
    /// when it does not.
    fn push_alone(&mut self, last: Held) -> Result<(), Refused> {
        let before = self.mark();
        let placed = self.move_to(last.next);
        let value = &self.bytes[last.from..last.to];
        let headers = headers(self.target.stream, last.kind);
        match self.target.batch.push_alone(value, headers, placed) {
            Ok(()) => {
                self.count_placed(last);
                Ok(())
            }
            Err(Refused::NoRoom) => {
                self.reset(before);
                Err(Refused::NoRoom)
            }
            Err(Refused::TooLarge) => {
                self.reset(before);
                let middle = last.from + LINE_PIECE_BYTES.min((last.to - last.from) / 2);
                let piece = Held {
                    to: middle,
                    next: middle,
                    kind: Kind::Split,
                    ..last
                };
                self.push_last(piece)?;
                self.push_last(Held {
                    from: middle,
                    ..last
                })
            }
        }
    }

    /// Moves the epoch to the byte at `next` of this read; the position of a record that ends there.
    fn move_to(&mut self, next: usize) -> Placed {
        let left_out = if next == self.bytes.len() {
            self.left_out
        } else {
            0
        };
        let offset = self.from + next as u64 + left_out;
        self.taken.bytes += offset - self.epoch.offset;
        self.epoch.advance(offset, &self.bytes[..next], self.hasher);
        let mut position = self.target.position.clone();
        position.offset = offset;
        position.head = self.epoch.head;
        position.tail = self.epoch.tail;
        Placed {
            position,
            partition: Some(self.target.stream.partition.clone()),
        }
    }

    fn mark(&self) -> (u64, Guard, Guard, Taken) {
        (
            self.epoch.offset,
            self.epoch.head,
            self.epoch.tail,
            self.taken,
        )
    }

    fn reset(&mut self, (offset, head, tail, taken): (u64, Guard, Guard, Taken)) {
        self.epoch.offset = offset;
        self.epoch.head = head;
        self.epoch.tail = tail;
        self.taken = taken;
    }
}

fn headers(stream: &Stream, kind: Kind) -> &HeaderBlock {
    match kind {
        Kind::Line => &stream.headers,
        Kind::Split => &stream.split,
        Kind::Truncated => &stream.truncated,
        Kind::Unterminated => &stream.unterminated,
    }
}

/// How many NULs these bytes begin with.
pub(super) fn leading_nuls(bytes: &[u8]) -> u64 {
    let other = bytes.iter().position(|&byte| byte != 0);
    other.unwrap_or(bytes.len()) as u64
}
