//! Reads an epoch on from its offset and cuts it into records.
//!
//! Each read begins [`TAIL_BYTES`] before the offset. What comes back must hash to the epoch's guard, so
//! a file that was truncated or written anew is noticed by the very read that would have gone wrong,
//! however large it has grown again. The bytes go from the read buffer into the open batch: one copy.
//! One line is held back until it is known whether it is the last that this batch has of the file: the
//! last one carries the position, and others between when there is much.

use std::fs::File;
use std::io;
use std::time::Duration;

use commitlog::batch::builder::{HeaderBlock, RECORD_OVERHEAD_MAX};
use memchr::{memchr_iter, memrchr};
use model::position::{Guard, Position};

use super::content::{Content, read_at};
use super::guard::{HEAD_BYTES, Hasher, TAIL_BYTES};
use super::lineage::{Epoch, Stream, tail_guard};
use crate::limits::{LINE_PIECE_BYTES, READ_BYTES};
use crate::pipeline::{Batch, Refused};
use crate::spool::positions::Placed;

/// What a read came to.
#[derive(Debug)]
pub(super) enum Read {
    /// Something was taken, and there may be more.
    More(Taken),
    /// Something may have been taken; the rest of the file, if any, is an unfinished line.
    End(Taken),
    /// The spool has no room for all of it.
    NoRoom(Taken),
    /// The file is shorter than what was read of it, or other bytes are there now.
    Replaced,
    /// The file lost so many bytes that were not read yet.
    Shrunk(u64),
}

/// How much was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) bytes: u64,
    pub(super) records: u64,
    /// Lines of which a first piece is among the records.
    pub(super) lines_split: u64,
}

/// What reading needs besides the file.
pub(super) struct Reader {
    hasher: Hasher,
    buffer: Vec<u8>,
    line_bytes_max: usize,
}

/// One read: where records go, the position that they carry, and how far to go.
pub(super) struct Target<'a, 'b> {
    pub(super) stream: &'a Stream,
    pub(super) batch: &'a mut Batch<'b>,
    /// The position as of before the read; offset and guards are filled in.
    pub(super) position: Position,
    pub(super) last_line: LastLine,
    pub(super) now: Duration,
}

/// Whether a last line without newline is taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLine {
    Wait,
    Take,
}

/// What lies in the buffer.
#[derive(Debug, Clone, Copy)]
struct Filled {
    /// The file's byte that the buffer begins with.
    from: u64,
    /// Bytes before this were taken before.
    back: usize,
    /// Bytes in the buffer.
    end: usize,
    /// The file had no more.
    ended: bool,
    /// Bytes after `back` that are whole lines.
    whole: usize,
}

impl Reader {
    pub(super) fn new(hasher: Hasher, line_bytes_max: usize) -> Reader {
        Reader {
            hasher,
            buffer: vec![0; BUFFER_BYTES],
            line_bytes_max,
        }
    }

    pub(super) fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Looks at a file that there is no room to read: what becomes of it meanwhile is told by its length
    /// and by how it begins.
    pub(super) fn look(&self, epoch: &mut Epoch, now: Duration) -> io::Result<Read> {
        let Some(content) = &mut epoch.content else {
            return Ok(Read::NoRoom(Taken::default()));
        };
        let size = content.length()?;
        let mut head = [0; HEAD_BYTES];
        let filled = content.read_at(&mut head, 0)?;
        let known = head[..filled].get(..usize::from(epoch.head.bytes));
        let is_known = known.is_some_and(|known| self.hasher.guard(known) == epoch.head);
        let is_unseen = epoch.head.bytes == 0;
        if size < epoch.offset || !(is_known || is_unseen) {
            return Ok(Read::Replaced);
        }
        if size < epoch.size_seen {
            let lost = epoch.size_seen - size;
            epoch.size_seen = size;
            return Ok(Read::Shrunk(lost));
        }
        if is_unseen && epoch.offset == 0 {
            epoch.head = self.hasher.guard(&head[..filled]);
        }
        epoch.saw_size(size, now);
        Ok(Read::NoRoom(Taken::default()))
    }

    /// Reads once and takes what is whole.
    pub(super) fn read(
        &mut self,
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
    ) -> io::Result<Read> {
        let Some(mut content) = epoch.content.take() else {
            return Ok(Read::End(Taken::default()));
        };
        let filled = self.fill(&mut content, epoch);
        let length = content.length();
        epoch.content = Some(content);
        let Some(filled) = filled? else {
            return Ok(Read::Replaced);
        };
        let mut size = filled.from + filled.end as u64;
        if !filled.ended {
            // What this read has no room for counts too, should it be cut off before the next one.
            size = size.max(length?);
        }
        if size < epoch.size_seen {
            let lost = epoch.size_seen - size;
            epoch.size_seen = size;
            return Ok(Read::Shrunk(lost));
        }
        epoch.saw_size(size, target.now);
        let head = filled.end.min(HEAD_BYTES);
        if filled.from == 0 && usize::from(epoch.head.bytes) < head {
            epoch.head = self.hasher.guard(&self.buffer[..head]);
        }
        let read = self.take(filled, epoch, target);
        if self.buffer.len() > BUFFER_BYTES {
            self.buffer.truncate(BUFFER_BYTES);
            self.buffer.shrink_to_fit();
        }
        Ok(read)
    }

    /// Fills the buffer: at least a whole line, where there is one below the limit. `None`: this is
    /// not what was read before.
    fn fill(&mut self, content: &mut Content, epoch: &Epoch) -> io::Result<Option<Filled>> {
        // A young file is read from its start, so that the guard at its head grows with it.
        let young = epoch.offset < HEAD_BYTES as u64;
        let back = if young {
            epoch.offset
        } else {
            TAIL_BYTES as u64
        };
        let from = epoch.offset - back;
        let back = usize::try_from(back).unwrap_or(TAIL_BYTES);
        let wanted = READ_BYTES + back;
        let mut filled = content.read_at(&mut self.buffer[..wanted], from)?;
        if filled < back || !self.is_known(epoch, &self.buffer[..filled], from) {
            return Ok(None);
        }
        let mut ended = filled < wanted;
        let mut whole = whole_lines(&self.buffer[back..filled]);
        // A line that is longer than the buffer.
        while whole == 0 && !ended && filled - back < self.line_bytes_max {
            let bytes = (self.buffer.len() * 2).min(self.line_bytes_max + HEAD_BYTES + 1);
            self.buffer.resize(bytes.max(self.buffer.len()), 0);
            let more = content.read_at(&mut self.buffer[filled..], from + filled as u64)?;
            ended = filled + more < self.buffer.len();
            whole = match whole_lines(&self.buffer[filled..filled + more]) {
                0 => 0,
                lines => filled - back + lines,
            };
            filled += more;
        }
        Ok(Some(Filled {
            from,
            back,
            end: filled,
            ended,
            whole,
        }))
    }

    /// Whether the bytes that were there before are still there. `bytes` begin at the file's byte
    /// `from`, and reach at least to the offset.
    fn is_known(&self, epoch: &Epoch, bytes: &[u8], from: u64) -> bool {
        let back = usize::try_from(epoch.offset - from).unwrap_or(usize::MAX);
        let Some(before) = bytes.get(..back) else {
            return false;
        };
        let head = || {
            let head = bytes.get(..usize::from(epoch.head.bytes));
            head.is_some_and(|head| self.hasher.guard(head) == epoch.head)
        };
        tail_guard(before, &self.hasher) == epoch.tail && (from > 0 || head())
    }

    fn take(&self, filled: Filled, epoch: &mut Epoch, target: &mut Target<'_, '_>) -> Read {
        let unterminated = filled.end - filled.back - filled.whole;
        let take = if filled.whole == 0 && unterminated >= self.line_bytes_max {
            Take::Piece(self.line_bytes_max)
        } else if unterminated > 0 && filled.ended && target.last_line == LastLine::Take {
            Take::All
        } else {
            Take::Lines(filled.whole)
        };
        let mut cutter = Cutter {
            hasher: &self.hasher,
            bytes: &self.buffer[..filled.end],
            from: filled.from,
            back: filled.back,
            epoch,
            target,
            line_bytes_max: self.line_bytes_max,
            taken: Taken::default(),
        };
        let outcome = cutter.cut(take);
        let taken = cutter.taken;
        match (outcome, take) {
            (Err(_), _) => Read::NoRoom(taken),
            (Ok(()), Take::Lines(_) | Take::All) if filled.ended => Read::End(taken),
            (Ok(()), _) => Read::More(taken),
        }
    }

    /// The guard over `length` bytes from `from` on; `None` when the file does not have them.
    pub(super) fn guard_at(
        &self,
        file: &File,
        from: u64,
        length: usize,
    ) -> io::Result<Option<Guard>> {
        let mut bytes = [0; HEAD_BYTES];
        let bytes = &mut bytes[..length.min(HEAD_BYTES)];
        let filled = read_at(file, bytes, from)?;
        Ok((filled == bytes.len()).then(|| self.hasher.guard(bytes)))
    }
}

/// What of the bytes read is to be taken.
#[derive(Debug, Clone, Copy)]
enum Take {
    /// So many bytes, which end with a newline.
    Lines(usize),
    /// The same, and what follows the last newline.
    All,
    /// So many bytes of a line that is longer than the limit.
    Piece(usize),
}

/// Which headers a record bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Line,
    Split,
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
struct Cutter<'a, 'b, 'c> {
    hasher: &'a Hasher,
    /// The bytes read, from the file's byte `from` on; those before `back` were taken before.
    bytes: &'a [u8],
    from: u64,
    back: usize,
    epoch: &'a mut Epoch,
    target: &'a mut Target<'b, 'c>,
    line_bytes_max: usize,
    taken: Taken,
}

impl Cutter<'_, '_, '_> {
    fn cut(&mut self, take: Take) -> Result<(), Refused> {
        let (lines, rest) = match take {
            Take::Lines(whole) => (whole, None),
            Take::Piece(length) => (0, Some((length, Kind::Split))),
            Take::All => {
                let data = &self.bytes[self.back..];
                let whole = whole_lines(data);
                (whole, Some((data.len() - whole, Kind::Unterminated)))
            }
        };
        let mut held: Option<Held> = None;
        let mut start = self.back;
        for newline in memchr_iter(b'\n', &self.bytes[start..start + lines]) {
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
        if let Some((length, kind)) = rest {
            let to = start + length;
            let part = Held {
                from: start,
                to,
                next: to,
                kind,
            };
            held = self.add(held, part)?;
        }
        match held {
            Some(last) => self.push_last(last),
            None => Ok(()),
        }
    }

    /// Pushes what was held back and holds back the next record, in pieces when it is too long.
    #[inline]
    fn add(&mut self, mut held: Option<Held>, mut record: Held) -> Result<Option<Held>, Refused> {
        while record.to - record.from > self.line_bytes_max {
            let end = record.from + self.line_bytes_max;
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

    #[inline]
    fn hold(&mut self, held: Option<Held>, next: Held) -> Result<Option<Held>, Refused> {
        let Some(held) = held else {
            return Ok(Some(next));
        };
        let stream = self.target.stream;
        let values = held.to - held.from + next.to - next.from;
        // Both or none: a record pushed without a position must be followed by one with it.
        let both = values + 2 * stream.split.encoded_bytes() + RECORD_OVERHEAD_MAX;
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
        self.count(last);
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
                self.count(last);
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
        let offset = self.from + next as u64;
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
        Kind::Unterminated => &stream.unterminated,
    }
}

/// The bytes up to and with the last newline.
fn whole_lines(data: &[u8]) -> usize {
    memrchr(b'\n', data).map_or(0, |at| at + 1)
}

const BUFFER_BYTES: usize = READ_BYTES + HEAD_BYTES;
