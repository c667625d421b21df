//! Records of several lines: a stack trace with the line that it belongs to.
//!
//! A pattern tells which lines begin a record, or which continue one. A record is whole when the next
//! one begins, or when nothing was added for a while; until then it is not taken and the offset stays
//! before it, so that a restart reads it again. Its newlines are kept, but the last.
//!
//! A rotation may cut a record in two. When the old file is at its end and the new one begins with lines
//! that continue, they are one record, which carries the positions of both files. One that would be
//! longer than the limit, that fits no batch, or that has parts in more than two files, is not put
//! together.

use std::io;
use std::time::Duration;

use model::position::{Guard, Position};
use regex::bytes::{Regex, RegexBuilder};

use super::content::Content;
use super::encoding::Form;
use super::guard::Hasher;
use super::holes::Gap;
use super::lineage::{Epoch, Life, Lineage, seconds_of, tail_guard};
use super::reader::{Filled, LastLine, NEWLINE_BYTES_MAX, Read, Reader, Taken, Target};
use super::{EpochId, FileSource};
use crate::limits::MULTILINE_PATTERN_BYTES_MAX;
use crate::pipeline::{Outlet, Refused};
use crate::spool::positions::Placed;

/// How lines become records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multiline {
    /// Which lines belong together.
    pub rule: Rule,
    /// A record at the end of its file is whole when nothing was added for so long.
    pub timeout: Duration,
}

/// Which lines belong together.
#[derive(Debug, Clone)]
pub enum Rule {
    /// What matches begins a record.
    Start(Regex),
    /// What matches continues one.
    Continue(Regex),
}

impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        match (self, other) {
            (Rule::Start(one), Rule::Start(other))
            | (Rule::Continue(one), Rule::Continue(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl Eq for Rule {}

/// What becomes of the record at the end of a file that another one follows.
pub(super) enum Join {
    /// It is taken as it is.
    Alone,
    /// It is not known yet.
    Wait,
    /// It was looked for in both files.
    Read(Read),
}

/// Compiles a pattern, within bounds.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .size_limit(MULTILINE_PATTERN_BYTES_MAX)
        .dfa_size_limit(MULTILINE_PATTERN_BYTES_MAX)
        .build()
}

impl Multiline {
    /// Whether a line begins a record. A carriage return at its end is no part of it.
    pub(super) fn begins(&self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match &self.rule {
            Rule::Start(pattern) => pattern.is_match(line),
            Rule::Continue(pattern) => !pattern.is_match(line),
        }
    }

    /// Whether an epoch's last record is whole, because nothing was added for so long. One that a rotation
    /// may have cut is judged when its file is over.
    pub(super) fn is_over(&self, epoch: &Epoch, now: Duration) -> bool {
        !matches!(epoch.life, Life::Detached(_)) && self.is_quiet(epoch.grown_at, now)
    }

    fn is_quiet(&self, grown_at: Duration, now: Duration) -> bool {
        now.saturating_sub(grown_at) >= self.timeout
    }

    /// Where the last record begins among these lines, which another begins before. `bytes` begin at the
    /// file's byte `from`, what is to be taken of them at `start`. Lines that end before the file's byte
    /// `judged` are known not to begin one; if none does, that is known of more.
    pub(super) fn last_start(
        &self,
        form: Form,
        (bytes, from): (&[u8], u64),
        start: usize,
        judged: &mut u64,
    ) -> Option<usize> {
        let mut text = Vec::new();
        let last = form.last_line_end(bytes, start, from)?;
        let known = usize::try_from(judged.saturating_sub(from)).unwrap_or(usize::MAX);
        // With the newline before the first line that was not judged.
        let start = start.max(known.saturating_sub(NEWLINE_BYTES_MAX));
        let mut end = last.newline;
        while let Some(before) = bytes
            .get(..end)
            .filter(|_| start < end)
            .and_then(|bytes| form.last_line_end(bytes, start, from))
        {
            if self.begins(form.text(&bytes[before.next..end], &mut text)) {
                return Some(before.next);
            }
            end = before.newline;
        }
        *judged = from + last.next as u64;
        None
    }
}

impl FileSource {
    /// Puts the record at the end of a finished file and the start of the next one together, if it is
    /// one.
    pub(super) fn join(&mut self, id: EpochId, out: &mut Outlet<'_>) -> io::Result<Join> {
        self.open_following(id, out);
        // A file of the same path may have been closed for that.
        if !self.make_stream(id.lineage, out) {
            return Ok(Join::Read(Read::NoRoom(Taken::default())));
        }
        let (Some(multiline), Some(lineage)) =
            (&self.config.multiline, &mut self.lineages[id.lineage])
        else {
            return Ok(Join::Alone);
        };
        let now = out.now().monotonic;
        let mut numbers = lineage.epochs.iter().map(|epoch| epoch.number);
        let Some(at) = numbers.position(|number| number == id.number) else {
            return Ok(Join::Alone);
        };
        let first = &lineage.epochs[at];
        if first.size_seen <= first.offset {
            return Ok(Join::Alone);
        }
        let Some(next_at) = following(lineage, at) else {
            return Ok(if multiline.is_quiet(first.grown_at, now) {
                Join::Alone
            } else {
                Join::Wait
            });
        };
        let position = lineage.position(first);
        let next = lineage.placed(&lineage.epochs[next_at]);
        let Lineage { stream, epochs, .. } = lineage;
        let Some(stream) = stream else {
            return Ok(Join::Alone);
        };
        if out.room(stream.destination) == 0 {
            return Ok(Join::Read(Read::NoRoom(Taken::default())));
        }
        let mut target = Target {
            stream,
            batch: &mut out.batch(stream.destination),
            position,
            last_line: LastLine::Wait,
            now,
        };
        let (left, right) = epochs.make_contiguous().split_at_mut(next_at);
        let seam = Seam {
            first: &mut left[at],
            next: &mut right[0],
            placed: next,
        };
        self.reader.join(seam, &mut target)
    }

    /// Opens the file behind an epoch's that it could be joined with: more than one if some are empty.
    fn open_following(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let mut tried = None;
        while let Some(number) = self.closed_behind(id).filter(|&it| Some(it) != tried) {
            tried = Some(number);
            self.open_epoch(EpochId { number, ..id }, out);
        }
    }

    /// The epoch behind this one, where its file is closed and this one has a record to join it with.
    fn closed_behind(&self, id: EpochId) -> Option<u32> {
        let lineage = self.lineages[id.lineage].as_ref()?;
        let mut numbers = lineage.epochs.iter().map(|epoch| epoch.number);
        let at = numbers.position(|number| number == id.number)?;
        let first = &lineage.epochs[at];
        let next = &lineage.epochs[behind(lineage, at)?];
        let is_wanted = self.config.multiline.is_some() && first.size_seen > first.offset;
        (is_wanted && next.content.is_none()).then_some(next.number)
    }
}

/// Two epochs of a lineage, one behind the other.
struct Seam<'a> {
    first: &'a mut Epoch,
    next: &'a mut Epoch,
    /// The position of the next as of now.
    placed: Placed,
}

/// A part of a record: up to where it goes in its file.
struct Part {
    offset: u64,
    tail: Guard,
    milestones: [Guard; 2],
}

impl Part {
    /// Up to `offset` of an epoch's file, of which `before` is read before that.
    fn new(epoch: &Epoch, offset: u64, before: &[u8], hasher: &Hasher) -> Part {
        Part {
            offset,
            tail: tail_guard(before, hasher),
            milestones: epoch.milestones_at(offset, before, hasher),
        }
    }

    fn place(&self, position: &mut Position) {
        position.offset = self.offset;
        position.tail = self.tail;
        position.milestones = self.milestones;
    }

    fn take(&self, epoch: &mut Epoch) {
        epoch.move_to(self.offset, self.tail);
        epoch.milestones = self.milestones;
    }
}

impl Reader {
    fn join(&mut self, seam: Seam<'_>, target: &mut Target<'_, '_>) -> io::Result<Join> {
        let contents = (seam.first.content.take(), seam.next.content.take());
        let (Some(mut first), Some(mut next)) = contents else {
            return Ok(Join::Alone);
        };
        let mut text = Vec::new();
        let Seam {
            first: first_epoch,
            next: next_epoch,
            placed,
        } = seam;
        let joined = self.join_parts(
            (&mut first, first_epoch),
            (&mut next, next_epoch),
            target,
            &mut text,
        );
        first_epoch.content = Some(first);
        next_epoch.content = Some(next);
        self.shrink();
        let (end, start) = match joined? {
            Ok(parts) => parts,
            Err(join) => return Ok(join),
        };
        // The newline between the parts is kept, the last one is not.
        text.pop();
        let mut position = target.position.clone();
        end.place(&mut position);
        position.head = first_epoch.head;
        position.finished_s = Some(seconds_of(target.batch.timestamp()));
        let first_placed = Placed {
            position,
            partition: placed.partition.clone(),
        };
        let mut placed = placed;
        start.place(&mut placed.position);
        placed.position.head = next_epoch.head;
        match push(&text, vec![first_placed, placed], target) {
            Err(Refused::NoRoom) => return Ok(Join::Read(Read::NoRoom(Taken::default()))),
            Err(Refused::TooLarge) => return Ok(Join::Alone),
            Ok(()) => {}
        }
        let taken = Taken {
            bytes: end.offset - first_epoch.offset + start.offset,
            records: 1,
            ..Taken::default()
        };
        end.take(first_epoch);
        start.take(next_epoch);
        Ok(Join::Read(Read::End(taken)))
    }

    /// Appends the record's text in both files to `text`; how far it goes in each.
    fn join_parts(
        &mut self,
        (first, first_epoch): (&mut Content, &mut Epoch),
        (next, next_epoch): (&mut Content, &mut Epoch),
        target: &Target<'_, '_>,
        text: &mut Vec<u8>,
    ) -> io::Result<Result<(Part, Part), Join>> {
        let Some(filled) = self.fill_whole(first, first_epoch)? else {
            return Ok(Err(Join::Alone));
        };
        let is_record = filled.ended && filled.whole == 0;
        let bytes = &self.buffer[..filled.end];
        if !is_record || !filled.form.ends_line(bytes) {
            return Ok(Err(Join::Alone));
        }
        filled.form.decode(&bytes[filled.start()..], text);
        let end_offset = filled.from + filled.end as u64;
        let end = Part::new(first_epoch, end_offset, bytes, self.hasher());
        let Some(filled) = self.fill_whole(next, next_epoch)? else {
            return Ok(Err(Join::Alone));
        };
        next_epoch.saw_size(filled.from + filled.end as u64, target.now);
        let Some(multiline) = &self.multiline else {
            return Ok(Err(Join::Alone));
        };
        let bytes = &self.buffer[..filled.end];
        let (mut at, mut is_whole) = (filled.start(), false);
        while let Some(line) = filled.form.line_end(bytes, at, filled.from) {
            let before = text.len();
            filled.form.decode(&bytes[at..line.newline], text);
            if multiline.begins(&text[before..]) {
                text.truncate(before);
                is_whole = true;
                break;
            }
            text.push(b'\n');
            at = line.next;
        }
        let quiet_since = first_epoch.grown_at.max(next_epoch.grown_at);
        is_whole |= multiline.is_quiet(quiet_since, target.now);
        let is_too_long = text.len() > self.line_bytes_max;
        if is_too_long || is_whole && at == filled.start() {
            return Ok(Err(Join::Alone));
        }
        if !is_whole {
            return Ok(Err(Join::Wait));
        }
        let start_offset = filled.from + at as u64;
        let start = Part::new(next_epoch, start_offset, &bytes[..at], self.hasher());
        Ok(Ok((end, start)))
    }

    /// Fills the buffer with a whole record, where there is one below the limit, and begins with data.
    fn fill_whole(
        &mut self,
        content: &mut Content,
        epoch: &mut Epoch,
    ) -> io::Result<Option<Filled>> {
        let Some(mut filled) = self.fill(content, epoch)? else {
            return Ok(None);
        };
        if self.gap(content, &filled, epoch.offset) != Gap::None {
            return Ok(None);
        }
        self.grow(content, epoch, &mut filled)?;
        self.see_young(epoch, &filled);
        Ok(Some(filled))
    }
}

/// Pushes a record that ends in one file and began in another.
fn push(text: &[u8], placed: Vec<Placed>, target: &mut Target<'_, '_>) -> Result<(), Refused> {
    let headers = &target.stream.headers;
    let bytes = text.len() + headers.encoded_bytes();
    if !target.batch.fits(bytes) {
        target.batch.cut()?;
    }
    if target.batch.can_go_without_position(bytes) {
        target.batch.push_last(text, headers, placed);
        Ok(())
    } else {
        target.batch.push_alone(text, headers, placed)
    }
}

/// The epoch behind the one at this place, if it can be read from its start now.
fn following(lineage: &Lineage, at: usize) -> Option<usize> {
    behind(lineage, at).filter(|&next| lineage.epochs[next].content.is_some())
}

/// The same if it can be read from its start, now or once it is open. One that was rotated empty is
/// none.
fn behind(lineage: &Lineage, at: usize) -> Option<usize> {
    let is_empty = |epoch: &Epoch| {
        let content = epoch.content.as_ref();
        matches!(epoch.life, Life::Detached(_))
            && epoch.size_seen == 0
            && content.is_some_and(|it| it.length().is_ok_and(|it| it == 0) && it.is_closed())
    };
    let mut behind = lineage.epochs.iter().enumerate().skip(at + 1);
    let (next_at, next) = behind.find(|(_, epoch)| !is_empty(epoch))?;
    let is_there = matches!(next.life, Life::Named | Life::Detached(_));
    (is_there && next.offset == 0).then_some(next_at)
}
