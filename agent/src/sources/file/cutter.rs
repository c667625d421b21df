//! Cuts one read into records and pushes them into the open batch.
//!
//! One record is held back until it is known whether it is the last that this batch has of the file: the
//! last one carries the position, and others between when there is much. What is left out, a line that is
//! too long or the rest of it, moves the position with the record before it.

use commitlog::batch::builder::{HeaderBlock, RECORD_OVERHEAD_MAX};
use model::position::Guard;

use super::LongLines;
use super::encoding::{Form, LineEnd};
use super::guard::Hasher;
use super::holes::{Gap, Holes};
use super::lineage::{Epoch, Stream};
use super::multiline::Multiline;
use super::reader::{Taken, Target};
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
    /// As much of a line that is longer than the limit as fits; the next record continues it.
    Piece,
    /// The same, and the rest of the line is left out.
    Start,
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

/// A record that is not pushed yet.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Its text: among the bytes, or among what was decoded of them.
    from: usize,
    to: usize,
    /// Where its bytes begin, and where the next record's do.
    start: usize,
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
    pub(super) form: Form,
    /// Which lines are one record.
    pub(super) multiline: Option<&'a Multiline>,
    /// What was decoded of them.
    pub(super) text: Vec<u8>,
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
        let end = match take {
            Take::Lines(whole) => self.back + whole,
            Take::All | Take::Piece | Take::Start => self.bytes.len(),
        };
        let rest = match take {
            Take::Lines(_) => None,
            Take::All => Some(Kind::Unterminated),
            Take::Piece => Some(Kind::Split),
            Take::Start => Some(Kind::Truncated),
        };
        let mut held: Option<Held> = None;
        let mut open: Option<Held> = None;
        let mut start = self.back;
        if self.from == 0 && self.back == 0 {
            start += self.form.mark.min(end);
        }
        while let Some(line) = self.line_end(take, start, end) {
            if self.bytes[start] == 0 && self.is_hole(start) {
                return self.end(held, open, Cut::ToHole);
            }
            let record = self.record(start, line, Kind::Line);
            held = match self.multiline {
                None => self.add(held, record)?,
                Some(multiline) => self.gather(held, &mut open, record, multiline)?,
            };
            start = line.next;
        }
        if let Some(kind) = rest.filter(|_| start < end) {
            if self.bytes[start] == 0 && self.is_hole(start) {
                return self.end(held, open, Cut::ToHole);
            }
            let end = self.bytes.len();
            let line = LineEnd {
                newline: end,
                next: end,
            };
            let rest = self.record(start, line, kind);
            if let Some(multiline) = self.multiline {
                held = self.gather(held, &mut open, rest, multiline)?;
            } else {
                held = self.add_rest(held, rest)?;
            }
        } else if rest.is_some() && open.is_none() && held.is_none() && start > self.back {
            // Nothing but a byte order mark.
            self.pass(start);
        }
        self.end(held, open, Cut::Whole)
    }

    /// Pushes what is held back at the end.
    fn end(
        &mut self,
        mut held: Option<Held>,
        open: Option<Held>,
        cut: Cut,
    ) -> Result<Cut, Refused> {
        if let Some(open) = open {
            held = self.add_rest(held, open)?;
        }
        if let Some(last) = held {
            self.push_last(last)?;
        }
        Ok(cut)
    }

    /// The end of the line at `start`, if it is one of those to be taken.
    #[inline]
    fn line_end(&self, take: Take, start: usize, end: usize) -> Option<LineEnd> {
        match take {
            Take::Lines(_) | Take::All => self.form.line_end(&self.bytes[..end], start, self.from),
            Take::Piece | Take::Start => None,
        }
    }

    /// The record of the bytes from `start` on.
    #[inline]
    fn record(&mut self, start: usize, line: LineEnd, kind: Kind) -> Held {
        let (mut from, mut to) = (start, line.newline);
        if self.form.is_decoded() {
            from = self.text.len();
            self.form
                .decode(&self.bytes[start..line.newline], &mut self.text);
            to = self.text.len();
            // Should the next line belong to the same record.
            self.text.push(b'\n');
        }
        Held {
            from,
            to,
            start,
            next: line.next,
            kind,
        }
    }

    /// Whether a line would begin in a hole. What a read begins with was looked at before.
    #[cold]
    fn is_hole(&mut self, start: usize) -> bool {
        let nuls = self.form.whole_units(leading_nuls(&self.bytes[start..]));
        start != self.back && self.holes.gap(self.from + start as u64, nuls) != Gap::None
    }

    /// Adds a line to the open record, or takes that one and opens the next.
    fn gather(
        &mut self,
        mut held: Option<Held>,
        open: &mut Option<Held>,
        line: Held,
        multiline: &Multiline,
    ) -> Result<Option<Held>, Refused> {
        let text = &text_of(self.form, self.bytes, &self.text)[line.from..line.to];
        match open {
            Some(open) if !multiline.begins(text) => {
                open.to = line.to;
                open.next = line.next;
                open.kind = line.kind;
            }
            _ => {
                if let Some(whole) = open.replace(line) {
                    held = self.add_rest(held, whole)?;
                }
            }
        }
        Ok(held)
    }

    /// Takes the last bytes, or what is not one line.
    fn add_rest(&mut self, held: Option<Held>, rest: Held) -> Result<Option<Held>, Refused> {
        match rest.kind {
            Kind::Split => {
                let piece = self.piece(rest, self.line_bytes_max);
                self.hold(held, piece)
            }
            Kind::Truncated => self.add_long(held, rest),
            Kind::Line | Kind::Unterminated => self.add(held, rest),
        }
    }

    /// The first so many bytes of a record's text, which the rest continues. Where text is decoded they may
    /// be a few less, so that no character is cut; UTF-8 is taken as it is, and may be cut anywhere.
    fn piece(&mut self, record: Held, text_bytes_max: usize) -> Held {
        let (to, next) = if self.form.is_decoded() {
            let (end, form) = (self.text.len(), self.form);
            let bytes = &self.bytes[record.start..record.next];
            let some = form.decode_some(bytes, text_bytes_max, &mut self.text);
            let text_bytes = self.text.len() - end;
            self.text.truncate(end);
            (record.from + text_bytes, record.start + some)
        } else {
            let to = record.to.min(record.from + text_bytes_max);
            (to, to)
        };
        Held {
            to,
            next,
            kind: Kind::Split,
            ..record
        }
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
                    let piece = self.piece(record, length_max);
                    held = self.hold(held, piece)?;
                    record.from = piece.to;
                    record.start = piece.next;
                }
                self.hold(held, record)
            }
            LongLines::Truncate => {
                let piece = self.piece(record, length_max);
                let lost = (record.next - piece.next) as u64 + self.left_out;
                self.lose(record.next, 0, lost);
                let start = Held {
                    next: record.next,
                    kind: Kind::Truncated,
                    ..piece
                };
                self.hold(held, start)
            }
            LongLines::Drop => {
                let lost = (record.next - record.start) as u64 + self.left_out;
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
    fn lose(&mut self, next: usize, count: u64, bytes: u64) {
        self.losses.push((next, Loss { count, bytes }));
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
            self.taken.lost.count += loss.count;
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
            let value = &text_of(self.form, self.bytes, &self.text)[held.from..held.to];
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
        let value = &text_of(self.form, self.bytes, &self.text)[last.from..last.to];
        self.target.batch.push_last(value, headers, vec![placed]);
        self.count_placed(last);
        Ok(())
    }

    /// Counts a record that was pushed.
    #[inline]
    fn count(&mut self, pushed: Held) {
        self.taken.records += 1;
        if pushed.kind == Kind::Split && self.is_line_start(pushed.start) {
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
        // A read begins before the offset, but in a file of which nothing was taken.
        at <= self.form.mark && self.from == 0 || self.form.ends_line(&self.bytes[..at])
    }

    /// Pushes a record that is larger than a batch is meant to be: whole when it compresses, in pieces
    /// when it does not.
    fn push_alone(&mut self, last: Held) -> Result<(), Refused> {
        let before = self.mark();
        let placed = self.move_to(last.next);
        let value = &text_of(self.form, self.bytes, &self.text)[last.from..last.to];
        let headers = headers(self.target.stream, last.kind);
        match self.target.batch.push_alone(value, headers, vec![placed]) {
            Ok(()) => {
                self.count_placed(last);
                Ok(())
            }
            Err(Refused::NoRoom) => {
                self.reset(&before);
                Err(Refused::NoRoom)
            }
            Err(Refused::TooLarge) => {
                self.reset(&before);
                let text_bytes = LINE_PIECE_BYTES.min((last.to - last.from) / 2);
                let piece = self.piece(last, text_bytes);
                self.push_last(piece)?;
                self.push_last(Held {
                    from: piece.to,
                    start: piece.next,
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
        let before = &self.bytes[..next];
        let known = if self.left_out == 0 { before } else { &[] };
        self.epoch.milestones = self.epoch.milestones_at(offset, known, self.hasher);
        self.epoch.advance(offset, before, self.hasher);
        let mut position = self.target.position.clone();
        position.offset = offset;
        position.head = self.epoch.head;
        position.tail = self.epoch.tail;
        position.milestones = self.epoch.milestones;
        Placed {
            position,
            partition: Some(self.target.stream.partition.clone()),
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            offset: self.epoch.offset,
            head: self.epoch.head,
            tail: self.epoch.tail,
            milestones: self.epoch.milestones,
            taken: self.taken,
        }
    }

    fn reset(&mut self, to: &Mark) {
        self.epoch.offset = to.offset;
        self.epoch.head = to.head;
        self.epoch.tail = to.tail;
        self.epoch.milestones = to.milestones;
        self.taken = to.taken;
    }
}

/// How far an epoch was.
struct Mark {
    offset: u64,
    head: Guard,
    tail: Guard,
    milestones: [Guard; 2],
    taken: Taken,
}

/// What records' texts lie in.
#[inline]
fn text_of<'t>(form: Form, bytes: &'t [u8], text: &'t [u8]) -> &'t [u8] {
    if form.is_decoded() { text } else { bytes }
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
