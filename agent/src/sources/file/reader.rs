//! Reads an epoch on from its offset and cuts it into records.
//!
//! Each read begins [`TAIL_BYTES`] before the offset. What comes back must hash to the epoch's guard, so
//! a file that was truncated or written anew is noticed by the very read that would have gone wrong,
//! however large it has grown again. The bytes go from the read buffer into the open batch: one copy.
//!
//! The offset stays at the start of what is not taken yet: an unfinished line, or one that is longer than
//! the limit and is not to be split. Such a line is never held: it is looked through to its end with the
//! same buffer, and after a restart looked through again.

use std::fs::File;
use std::io;
use std::time::Duration;

use memchr::{memchr, memrchr};
use model::position::{Guard, Position};

use super::LongLines;
use super::content::{Content, read_at};
use super::cutter::{Cut, Cutter, Take, leading_nuls};
use super::guard::{HEAD_BYTES, Hasher, TAIL_BYTES};
use super::holes::{Gap, Holes, data_from};
use super::lineage::{Epoch, Stream, tail_guard};
use crate::limits::READ_BYTES;
use crate::pipeline::Batch;
use crate::spool::positions::Loss;

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
    /// Bytes that were looked through or passed over.
    pub(super) passed: u64,
    /// Bytes of holes.
    pub(super) holes: u64,
    /// Lines and parts of lines that were too long.
    pub(super) lost: Loss,
    /// The epoch stands behind what its last record tells.
    pub(super) without_record: bool,
}

/// What reading needs besides the file.
pub(super) struct Reader {
    hasher: Hasher,
    buffer: Vec<u8>,
    line_bytes_max: usize,
    long_lines: LongLines,
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
    /// The file's bytes that are not in the buffer, before the last of those that are.
    left_out: u64,
}

impl Reader {
    pub(super) fn new(hasher: Hasher, line_bytes_max: usize, long_lines: LongLines) -> Reader {
        Reader {
            hasher,
            buffer: vec![0; BUFFER_BYTES],
            line_bytes_max,
            long_lines,
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
            self.see_head(epoch, &head[..filled]);
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
        let read = self.read_content(&mut content, epoch, target);
        epoch.content = Some(content);
        debug_assert!(self.buffer.len() <= BUFFER_BYTES.max(self.line_bytes_max + HEAD_BYTES + 1));
        if self.buffer.len() > BUFFER_BYTES {
            self.buffer.truncate(BUFFER_BYTES);
            self.buffer.shrink_to_fit();
        }
        read
    }

    fn read_content(
        &mut self,
        content: &mut Content,
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
    ) -> io::Result<Read> {
        if epoch.searched > epoch.offset {
            return self.search(content, epoch, target);
        }
        let Some(mut filled) = self.fill(content, epoch)? else {
            return Ok(Read::Replaced);
        };
        let nuls = leading_nuls(&self.buffer[filled.back..filled.end]);
        match Holes::of(content).gap(epoch.offset, nuls) {
            Gap::None => self.grow(content, &mut filled)?,
            gap => return self.pass_hole(content, epoch, target, gap),
        }
        let end = filled.from + filled.end as u64;
        if let Some(lost) = see_size(content, epoch, end, filled.ended, target.now)? {
            return Ok(Read::Shrunk(lost));
        }
        if filled.from == 0 {
            self.see_head(epoch, &self.buffer[..filled.end]);
        }
        let is_unfinished = filled.whole == 0 && filled.end - filled.back > self.line_bytes_max;
        if is_unfinished && self.long_lines != LongLines::Split {
            epoch.searched = end;
            return self.search(content, epoch, target);
        }
        Ok(self.take(content, filled, epoch, target))
    }

    /// Fills the buffer. `None`: this is not what was read before.
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
        let end = content.read_at(&mut self.buffer[..wanted], from)?;
        if end < back || !self.is_known(epoch, &self.buffer[..end], from) {
            return Ok(None);
        }
        Ok(Some(Filled {
            from,
            back,
            end,
            ended: end < wanted,
            whole: whole_lines(&self.buffer[back..end]),
            left_out: 0,
        }))
    }

    /// Reads on until the buffer holds a whole line, where there is one below the limit.
    fn grow(&mut self, content: &mut Content, filled: &mut Filled) -> io::Result<()> {
        let Filled { from, back, .. } = *filled;
        while filled.whole == 0 && !filled.ended && filled.end - back <= self.line_bytes_max {
            let bytes = (self.buffer.len() * 2).min(self.line_bytes_max + HEAD_BYTES + 1);
            self.buffer.resize(bytes.max(self.buffer.len()), 0);
            let more = content.read_at(&mut self.buffer[filled.end..], from + filled.end as u64)?;
            let end = filled.end + more;
            filled.ended = end < self.buffer.len();
            filled.whole = match whole_lines(&self.buffer[filled.end..end]) {
                0 => 0,
                lines => filled.end - back + lines,
            };
            filled.end = end;
        }
        Ok(())
    }

    /// Goes on behind a hole, or at the file's end when nothing more is expected of it.
    fn pass_hole(
        &mut self,
        content: &mut Content,
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
        gap: Gap,
    ) -> io::Result<Read> {
        let size = content.length()?;
        if let Some(lost) = see_size(content, epoch, size, true, target.now)? {
            return Ok(Read::Shrunk(lost));
        }
        let to = match (gap, target.last_line) {
            (Gap::Until(data), _) => data,
            (Gap::ToEnd, LastLine::Take) => size,
            (Gap::ToEnd, LastLine::Wait) | (Gap::None, _) => {
                return Ok(Read::End(Taken::default()));
            }
        };
        let taken = Taken {
            holes: to - epoch.offset,
            passed: READ_BYTES as u64,
            without_record: true,
            ..Taken::default()
        };
        self.restart_at(content.file(), epoch, to)?;
        epoch.saw_size(size, target.now);
        Ok(match gap {
            Gap::ToEnd => Read::End(taken),
            Gap::Until(_) | Gap::None => Read::More(taken),
        })
    }

    /// Looks on for the end of a line that is longer than the limit, and takes what is to be taken of it
    /// once that is found.
    fn search(
        &mut self,
        content: &mut Content,
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
    ) -> io::Result<Read> {
        if let Some(file) = content.plain()
            && !self.is_same(file, &target.position)?
        {
            return Ok(Read::Replaced);
        }
        let size = content.length()?;
        // A line goes on behind a hole; nobody reads through it.
        let data = content.plain().map(|file| data_from(file, epoch.searched));
        let from = data
            .unwrap_or(Some(epoch.searched))
            .unwrap_or(size)
            .min(size);
        let wanted = &mut self.buffer[..READ_BYTES];
        let bytes = content.read_at(wanted, from)?;
        let ended = bytes < wanted.len();
        let searched = from + bytes as u64;
        if let Some(lost) = see_size(content, epoch, searched, ended, target.now)? {
            epoch.searched = 0;
            return Ok(Read::Shrunk(lost));
        }
        let passed = Taken {
            passed: bytes as u64,
            ..Taken::default()
        };
        let end = match memchr(b'\n', &self.buffer[..bytes]) {
            Some(newline) => from + newline as u64 + 1,
            None if ended && target.last_line == LastLine::Take => searched,
            None => {
                epoch.searched = searched;
                return Ok(if ended {
                    Read::End(passed)
                } else {
                    Read::More(passed)
                });
            }
        };
        self.take_start(content, epoch, target, end)
    }

    /// Takes the start of a line that is longer than the limit and ends before the byte `end`, or
    /// nothing of it. The buffer gets the line's start, and the bytes before `end` for the guard.
    fn take_start(
        &mut self,
        content: &mut Content,
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
        end: u64,
    ) -> io::Result<Read> {
        let back = epoch.offset.min(TAIL_BYTES as u64);
        let from = epoch.offset - back;
        let back = usize::try_from(back).unwrap_or(TAIL_BYTES);
        let start = back + self.line_bytes_max;
        let start_end = from + start as u64;
        let rest = end.saturating_sub(TAIL_BYTES as u64).max(start_end);
        let rest_bytes = usize::try_from(end - rest).unwrap_or(TAIL_BYTES);
        let bytes = start + rest_bytes;
        self.buffer.resize(bytes.max(self.buffer.len()), 0);
        let read = content.read_at(&mut self.buffer[..start], from)?
            + content.read_at(&mut self.buffer[start..bytes], rest)?;
        if read < bytes {
            return Ok(Read::Replaced);
        }
        let filled = Filled {
            from,
            back,
            end: bytes,
            ended: false,
            whole: 0,
            left_out: rest - start_end,
        };
        let take = Take::Start(self.line_bytes_max);
        Ok(self.cut(content, (filled, take), epoch, target))
    }

    /// The epoch's file begins with these bytes. NULs at their end that were not read may be bytes that
    /// nobody wrote yet, in a file that was made as long as it will be.
    fn see_head(&self, epoch: &mut Epoch, bytes: &[u8]) {
        let head = &bytes[..bytes.len().min(HEAD_BYTES)];
        let read = usize::try_from(epoch.offset).unwrap_or(usize::MAX);
        let written = head.iter().rposition(|&byte| byte != 0);
        let written = written.map_or(0, |last| last + 1);
        let known = written.max(read.min(head.len()));
        if usize::from(epoch.head.bytes) < known {
            epoch.head = self.hasher.guard(&head[..known]);
        }
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

    fn take(
        &self,
        content: &mut Content,
        filled: Filled,
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
    ) -> Read {
        let unterminated = filled.end - filled.back - filled.whole;
        let is_split = self.long_lines == LongLines::Split;
        let take = if filled.whole == 0 && is_split && unterminated >= self.line_bytes_max {
            Take::Piece(self.line_bytes_max)
        } else if unterminated > 0 && filled.ended && target.last_line == LastLine::Take {
            Take::All
        } else {
            Take::Lines(filled.whole)
        };
        self.cut(content, (filled, take), epoch, target)
    }

    fn cut(
        &self,
        content: &mut Content,
        (filled, take): (Filled, Take),
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
    ) -> Read {
        let mut cutter = Cutter {
            hasher: &self.hasher,
            bytes: &self.buffer[..filled.end],
            from: filled.from,
            back: filled.back,
            left_out: filled.left_out,
            holes: Holes::of(content),
            epoch,
            target,
            line_bytes_max: self.line_bytes_max,
            long_lines: self.long_lines,
            losses: Vec::new(),
            taken: Taken::default(),
        };
        let outcome = cutter.cut(take);
        let taken = cutter.taken;
        match (outcome, take) {
            (Err(_), _) => Read::NoRoom(taken),
            (Ok(Cut::Whole), Take::Lines(_) | Take::All) if filled.ended => Read::End(taken),
            (Ok(_), _) => Read::More(taken),
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

/// An epoch's file has at least `end` bytes, and no more if it `ended` there. How many bytes it lost that
/// were not read yet.
fn see_size(
    content: &Content,
    epoch: &mut Epoch,
    end: u64,
    ended: bool,
    now: Duration,
) -> io::Result<Option<u64>> {
    let size = if ended {
        end
    } else {
        // What a read has no room for counts too, should it be cut off before the next one.
        end.max(content.length()?)
    };
    if size < epoch.size_seen {
        let lost = epoch.size_seen - size;
        epoch.size_seen = size;
        return Ok(Some(lost));
    }
    epoch.saw_size(size, now);
    Ok(None)
}

/// The bytes up to and with the last newline.
pub(super) fn whole_lines(data: &[u8]) -> usize {
    memrchr(b'\n', data).map_or(0, |at| at + 1)
}

const BUFFER_BYTES: usize = READ_BYTES + HEAD_BYTES;
