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

use model::position::{Guard, Position};

use super::content::{Content, read_at};
use super::cutter::{Cut, Cutter, Take, leading_nuls};
use super::encoding::{Encoding, Form, MARK_BYTES};
use super::guard::{HEAD_BYTES, Hasher, TAIL_BYTES};
use super::holes::{Gap, Holes, data_from};
use super::lineage::{Epoch, Life, Stream, tail_guard};
use super::multiline::Multiline;
use super::{FileConfig, LongLines};
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
    /// A record at the file's end waits for more, or for time to pass.
    pub(super) pending: bool,
}

/// What reading needs besides the file.
pub(super) struct Reader {
    hasher: Hasher,
    pub(super) buffer: Vec<u8>,
    /// What was decoded of the last read.
    text: Vec<u8>,
    encoding: Encoding,
    pub(super) line_bytes_max: usize,
    long_lines: LongLines,
    pub(super) multiline: Option<Multiline>,
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

/// What was found of a long record's end.
#[derive(Debug, Clone, Copy)]
enum Found {
    /// It ends here.
    End(usize),
    /// It has these lines, and the next may be one more.
    Lines(usize),
    /// It goes on here, within a line.
    Within(usize),
}

/// What lies in the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    /// The file's byte that the buffer begins with.
    pub(super) from: u64,
    /// Bytes before this were taken before.
    back: usize,
    /// Bytes in the buffer.
    pub(super) end: usize,
    /// The file had no more.
    pub(super) ended: bool,
    /// Bytes after `back` that are whole records.
    pub(super) whole: usize,
    pub(super) form: Form,
    /// The file's bytes that are not in the buffer, before the last of those that are.
    left_out: u64,
}

impl Filled {
    /// Where the text begins that is to be taken.
    pub(super) fn start(&self) -> usize {
        if self.from == 0 && self.back == 0 {
            self.form.mark.min(self.end)
        } else {
            self.back
        }
    }
}

impl Reader {
    pub(super) fn new(hasher: Hasher, config: &FileConfig) -> Reader {
        Reader {
            hasher,
            buffer: vec![0; BUFFER_BYTES],
            text: Vec::new(),
            encoding: config.encoding,
            line_bytes_max: config.line_bytes_max,
            long_lines: config.long_lines,
            multiline: config.multiline.clone(),
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
        if content.plain().is_none() {
            return Ok(Read::NoRoom(Taken::default()));
        }
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
            epoch.judged = 0;
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
        debug_assert!(
            self.buffer.len() <= BUFFER_BYTES.max(2 * (self.line_bytes_max + HEAD_BYTES))
        );
        self.shrink();
        read
    }

    /// Gives back what a long line needed.
    pub(super) fn shrink(&mut self) {
        if self.buffer.len() > BUFFER_BYTES {
            self.buffer.truncate(BUFFER_BYTES);
            self.buffer.shrink_to_fit();
            self.text.shrink_to(BUFFER_BYTES);
        }
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
        match self.gap(content, &filled, epoch.offset) {
            Gap::None => self.grow(content, epoch, &mut filled)?,
            gap => return self.pass_hole(content, epoch, target, gap),
        }
        let end = filled.from + filled.end as u64;
        if let Some(lost) = see_size(content, epoch, end, filled.ended, target.now)? {
            return Ok(Read::Shrunk(lost));
        }
        self.see_young(epoch, &filled);
        let bytes_max = filled.form.bytes_of(self.line_bytes_max);
        let is_unfinished = filled.whole == 0 && filled.end - filled.start() > bytes_max;
        if is_unfinished && self.begins_last(&mut filled) {
            // The last line is not whole, but by its start it is not the record's.
        } else if is_unfinished && self.long_lines != LongLines::Split {
            epoch.searched = filled.form.whole_units(end);
            return self.search(content, epoch, target);
        }
        Ok(self.take(content, filled, epoch, target))
    }

    /// What there is at the offset.
    pub(super) fn gap(&self, content: &Content, filled: &Filled, offset: u64) -> Gap {
        let nuls = leading_nuls(&self.buffer[filled.back..filled.end]);
        Holes::of(content).gap(offset, filled.form.whole_units(nuls))
    }

    /// A young file's guard grows with it.
    pub(super) fn see_young(&self, epoch: &mut Epoch, filled: &Filled) {
        if filled.from == 0 {
            self.see_head(epoch, &self.buffer[..filled.end]);
        }
    }

    /// Fills the buffer. `None`: this is not what was read before.
    pub(super) fn fill(
        &mut self,
        content: &mut Content,
        epoch: &mut Epoch,
    ) -> io::Result<Option<Filled>> {
        // Before anything else is read: what is decompressed goes back only at a price.
        let form = self.form(content, epoch)?;
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
        let mut end = content.read_once(&mut self.buffer[..wanted], from)?;
        // A read that gives less has come to the end. Only what would follow from that if it had not is
        // worth another one: a last line that is taken as it is, bytes that were cut off.
        let is_followed = epoch.life == Life::Named && from + end as u64 >= epoch.size_seen;
        if end < wanted && !is_followed {
            end += content.read_at(&mut self.buffer[end..wanted], from + end as u64)?;
        }
        if end < back || !self.is_known(epoch, &self.buffer[..end], from) {
            return Ok(None);
        }
        let form = match form {
            Some(form) => form,
            None => self.encoding.form(&self.buffer[..end]),
        };
        epoch.form = Some(form);
        let whole = self.whole(form, (&self.buffer[..end], from), back, &mut epoch.judged);
        Ok(Some(Filled {
            from,
            back,
            end,
            ended: end < wanted,
            whole,
            form,
            left_out: 0,
        }))
    }

    /// Whether the unfinished last line begins a record, by as much as there is of it. Then the one before
    /// it is whole.
    fn begins_last(&self, filled: &mut Filled) -> bool {
        let bytes = &self.buffer[..filled.end];
        let last = filled.form.last_line_end(bytes, filled.back, filled.from);
        let (Some(multiline), Some(last)) = (&self.multiline, last) else {
            return false;
        };
        let rest = &bytes[last.next..];
        let begins = !rest.is_empty() && multiline.begins(filled.form.text(rest, &mut Vec::new()));
        if begins {
            filled.whole = last.next - filled.back;
        }
        begins
    }

    /// How many bytes after `back` are whole records. Lines before `judged` begin none.
    fn whole(
        &self,
        form: Form,
        (bytes, from): (&[u8], u64),
        back: usize,
        judged: &mut u64,
    ) -> usize {
        let end = match &self.multiline {
            None => form.last_line_end(bytes, back, from).map(|line| line.next),
            Some(multiline) => multiline.last_start(form, (bytes, from), back, judged),
        };
        end.map_or(0, |end| end - back)
    }

    /// The form of an epoch's file; `None` while nothing was taken of it: then its start is read anyway.
    fn form(&self, content: &mut Content, epoch: &Epoch) -> io::Result<Option<Form>> {
        if epoch.offset == 0 {
            return Ok(None);
        }
        if epoch.form.is_some() {
            return Ok(epoch.form);
        }
        let mut start = [0; MARK_BYTES];
        let filled = content.read_at(&mut start, 0)?;
        Ok(Some(self.encoding.form(&start[..filled])))
    }

    /// Where the file's last newline ends, looking back one buffer; else the file's end.
    pub(super) fn last_line_end(&self, file: &File) -> io::Result<u64> {
        let mut start = [0; MARK_BYTES];
        let filled = read_at(file, &mut start, 0)?;
        let form = self.encoding.form(&start[..filled]);
        let size = file.metadata()?.len();
        let from = size.saturating_sub(READ_BYTES as u64);
        let mut bytes = vec![0; READ_BYTES];
        let filled = read_at(file, &mut bytes, from)?;
        Ok(match form.last_line_end(&bytes[..filled], 0, from) {
            Some(line) => from + line.next as u64,
            None if from == 0 => 0,
            None => form.whole_units(size),
        })
    }

    /// Reads on until the buffer holds a whole line, where there is one below the limit.
    pub(super) fn grow(
        &mut self,
        content: &mut Content,
        epoch: &mut Epoch,
        filled: &mut Filled,
    ) -> io::Result<()> {
        let Filled {
            from, back, form, ..
        } = *filled;
        let bytes_max = form.bytes_of(self.line_bytes_max);
        while filled.whole == 0 && !filled.ended && filled.end - filled.start() <= bytes_max {
            let bytes = (self.buffer.len() * 2).min(bytes_max + HEAD_BYTES + MARK_BYTES);
            self.buffer.resize(bytes.max(self.buffer.len()), 0);
            let more = content.read_at(&mut self.buffer[filled.end..], from + filled.end as u64)?;
            let end = filled.end + more;
            filled.ended = end < self.buffer.len();
            // A newline of two bytes may begin before what was read now.
            let unseen = filled.end.saturating_sub(1).max(back);
            if form
                .last_line_end(&self.buffer[..end], unseen, from)
                .is_some()
            {
                let bytes = &self.buffer[..end];
                filled.whole = self.whole(form, (bytes, from), back, &mut epoch.judged);
            }
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
        let Some(form) = epoch.form else {
            epoch.searched = 0;
            return Ok(Read::More(Taken::default()));
        };
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
        // With the newline before it, if there is one.
        let back = NEWLINE_BYTES_MAX.min(usize::try_from(from).unwrap_or(NEWLINE_BYTES_MAX));
        let from = from - back as u64;
        let wanted = &mut self.buffer[..back + READ_BYTES];
        let filled = content.read_at(wanted, from)?;
        let ended = filled < wanted.len();
        let filled = filled.max(back);
        if let Some(lost) = see_size(content, epoch, from + filled as u64, ended, target.now)? {
            epoch.searched = 0;
            return Ok(Read::Shrunk(lost));
        }
        let mut passed = Taken {
            passed: (filled - back) as u64,
            ..Taken::default()
        };
        let bytes = &self.buffer[..filled];
        let is_over = |it: &Multiline| it.is_over(epoch, target.now);
        let end = match self.record_end(form, bytes, back, from) {
            Found::End(end) => end,
            _ if ended && target.last_line == LastLine::Take => filled,
            Found::Lines(end) if ended && self.multiline.as_ref().is_some_and(is_over) => end,
            Found::Lines(end) | Found::Within(end) => {
                epoch.searched = form.whole_units(from + end as u64);
                passed.pending = ended && self.multiline.is_some();
                return Ok(if ended {
                    Read::End(passed)
                } else {
                    Read::More(passed)
                });
            }
        };
        let end = from + end as u64;
        self.take_start(content, (epoch, form), target, end)
    }

    /// Where the record ends that goes on at `start` of these bytes.
    fn record_end(&self, form: Form, bytes: &[u8], start: usize, from: u64) -> Found {
        let first = form.line_end(bytes, start, from);
        let Some(multiline) = &self.multiline else {
            return first.map_or(Found::Within(bytes.len()), |line| Found::End(line.next));
        };
        let mut at = start;
        if !form.ends_line(&bytes[..start]) {
            let Some(line) = first else {
                return Found::Within(bytes.len());
            };
            at = line.next;
        }
        let mut text = Vec::new();
        while let Some(line) = form.line_end(bytes, at, from) {
            if multiline.begins(form.text(&bytes[at..line.newline], &mut text)) {
                return Found::End(at);
            }
            at = line.next;
        }
        // A line that is longer than a read is judged by its start.
        let is_long = bytes.len() - at >= READ_BYTES;
        if is_long && multiline.begins(form.text(&bytes[at..], &mut text)) {
            Found::End(at)
        } else if is_long {
            Found::Within(bytes.len())
        } else {
            Found::Lines(at)
        }
    }

    /// Takes the start of a line that is longer than the limit and ends before the byte `end`, or
    /// nothing of it. The buffer gets the line's start, and the bytes before `end` for the guard.
    fn take_start(
        &mut self,
        content: &mut Content,
        (epoch, form): (&mut Epoch, Form),
        target: &mut Target<'_, '_>,
        end: u64,
    ) -> io::Result<Read> {
        let back = epoch.offset.min(TAIL_BYTES as u64);
        let from = epoch.offset - back;
        let back = usize::try_from(back).unwrap_or(TAIL_BYTES);
        let mark = if epoch.offset == 0 { form.mark } else { 0 };
        let start = back + mark + form.bytes_of(self.line_bytes_max);
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
            form,
            left_out: rest - start_end,
        };
        Ok(self.cut(content, (filled, Take::Start), epoch, target))
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
        &mut self,
        content: &mut Content,
        filled: Filled,
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
    ) -> Read {
        let unterminated = filled.end - filled.back - filled.whole;
        let bytes_max = filled.form.bytes_of(self.line_bytes_max);
        let is_long = filled.whole == 0 && filled.end - filled.start() >= bytes_max;
        let bytes = &self.buffer[..filled.end];
        let mut pending = false;
        let take = if is_long && self.long_lines == LongLines::Split {
            Take::Piece
        } else if unterminated > 0 && filled.ended && target.last_line == LastLine::Take {
            Take::All
        } else if let Some(multiline) = &self.multiline
            && let Some(last) = filled.form.last_line_end(bytes, filled.back, filled.from)
            && filled.ended
        {
            pending = !multiline.is_over(epoch, target.now);
            Take::Lines(if pending {
                filled.whole
            } else {
                last.next - filled.back
            })
        } else {
            Take::Lines(filled.whole)
        };
        let mut read = self.cut(content, (filled, take), epoch, target);
        if let Read::End(taken) = &mut read {
            taken.pending = pending;
        }
        read
    }

    fn cut(
        &mut self,
        content: &mut Content,
        (filled, take): (Filled, Take),
        epoch: &mut Epoch,
        target: &mut Target<'_, '_>,
    ) -> Read {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let mut cutter = Cutter {
            hasher: &self.hasher,
            bytes: &self.buffer[..filled.end],
            from: filled.from,
            back: filled.back,
            form: filled.form,
            multiline: self.multiline.as_ref(),
            text,
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
        self.text = cutter.text;
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
        epoch.judged = 0;
        return Ok(Some(lost));
    }
    epoch.saw_size(size, now);
    Ok(None)
}

/// UTF-16's.
pub(super) const NEWLINE_BYTES_MAX: usize = 2;

const BUFFER_BYTES: usize = READ_BYTES + HEAD_BYTES;
