//! Goes on with the last segment of a log, or seals it and begins the next: steps 3 and 4 of the
//! recovery.

use std::io;
use std::sync::Arc;

use crate::batch::header::{BatchHeader, HEADER_BYTES};
use crate::error::{Error, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::READ_WINDOW_BYTES;
use crate::storage::{File, OpenMode, read_full_at, sync_names, temporary_name, write_all_at};

use super::checkpoint::{Mark, take_mark};
use super::index::{self, IndexEntry};
use super::names::{self, FileKind};
use super::partition::is_full;
use super::producer_state::Producers;
use super::recovery::{Found, Opening, Recovery, missing_gap};
use super::sealed::{IndexFiles, Sealed};
use super::segment::SegmentWriter;
use super::shared::{Active, Grown};
use super::time_index::{self, TimeIndex};
use super::walk::{Walk, Walked};

/// The segment to write on, and the producers before its end.
pub(super) struct Resumed {
    pub(super) segment: SegmentWriter,
    pub(super) producers: Producers,
}

/// The last segment, read as far as needed.
struct Last {
    base: Offset,
    file: Arc<dyn File>,
    files: IndexFiles,
    mark: Option<Mark>,
    /// For each batch of the segment.
    entries: Vec<IndexEntry>,
    times: TimeIndex,
    walked: Walked,
    /// Whether the mark, the index files and the newest snapshot agree with all that was found.
    marked: bool,
}

/// Goes on with the segment that begins with `base`, the last of `found`.
pub(super) fn resume(
    opening: &Opening<'_>,
    base: Offset,
    found: &mut Found,
    (snapshot_at, mut producers): (Offset, Producers),
    report: &mut Recovery,
) -> Result<Resumed> {
    let mut admit = |header: &BatchHeader| {
        if header.base_offset >= snapshot_at {
            producers.admit(header, opening.now);
        }
    };
    replay_sealed(opening, found, snapshot_at, &mut admit)?;
    let last = read_last(opening, base, snapshot_at, &mut admit)?;
    note_findings(&last, report);
    let walked = &last.walked;
    let vouched = walked.durable == walked.end && walked.position == Some(walked.file_bytes);
    if vouched {
        let segment = go_on(opening, last)?;
        return Ok(Resumed { segment, producers });
    }
    match begin_next(opening, &last, found) {
        Ok(segment) => Ok(Resumed { segment, producers }),
        // No room for a copy of the tail. The file itself holds it; that its last fsync failed and the
        // disk is full as well is one fault more than is promised.
        Err(error) if is_full(&error) && walked.position.is_some() => {
            let segment = cut_and_go_on(opening, last)?;
            Ok(Resumed { segment, producers })
        }
        Err(error) => Err(Error::io(
            "cannot begin a segment behind the damaged one",
            error,
        )),
    }
}

/// Shows the batches from the snapshot on that lie in sealed segments: only when newer snapshots are lost.
fn replay_sealed(
    opening: &Opening<'_>,
    found: &Found,
    snapshot_at: Offset,
    admit: &mut dyn FnMut(&BatchHeader),
) -> Result<()> {
    let bases: Vec<Offset> = found.segments.keys().copied().collect();
    for (&base, &end) in bases.iter().zip(bases.iter().skip(1)) {
        if end <= snapshot_at {
            continue;
        }
        let path = names::path(opening.dir, base, FileKind::Log);
        let file = opening.storage.open(&path, OpenMode::Read);
        let file = file.map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
        let files = IndexFiles::read(opening.storage.as_ref(), opening.dir, base);
        let walk = Walk {
            file: file.as_ref(),
            base,
            from: (base, 0),
            claims: &index::decode(&files.index),
            durable: end,
            stop: Some(end),
        };
        walk.run(&mut |header, _| admit(header))?;
    }
    Ok(())
}

/// Reads the last segment: what its mark vouches for by its index, the rest batch by batch.
fn read_last(
    opening: &Opening<'_>,
    base: Offset,
    snapshot_at: Offset,
    admit: &mut dyn FnMut(&BatchHeader),
) -> Result<Last> {
    let path = names::path(opening.dir, base, FileKind::Log);
    let opened = opening.storage.open(&path, OpenMode::Write);
    let file = opened.map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
    let files = IndexFiles::read(opening.storage.as_ref(), opening.dir, base);
    let mark = opening.checkpoint.content().marks.get(&base).copied();
    let vouched = mark.and_then(|mark| Some((mark, files.begin_with(&mark)?)));
    let (mut entries, mut times, from) = match &vouched {
        Some((mark, part)) => {
            let mut entries = index::decode(&part.index);
            let from = seek(base, &mut entries, mark, snapshot_at);
            let log_bytes = u64::from(mark.log_bytes);
            let times = time_index::decode(&part.time_index);
            let times = TimeIndex::resume(times, mark.max_timestamp, log_bytes);
            (entries, times, from)
        }
        None => (Vec::new(), TimeIndex::default(), (base, 0)),
    };
    let walk = Walk {
        file: file.as_ref(),
        base,
        from,
        claims: &index::decode(&files.index),
        durable: opening.known.max(base),
        stop: None,
    };
    let walked = walk.run(&mut |header, position| {
        admit(header);
        if let Some(entry) = index::entry(base, header.last_offset(), position) {
            times.push(header.max_timestamp, entry.last, position);
        }
    })?;
    let marked = vouched.as_ref().is_some_and(|(mark, part)| {
        (mark.end, Some(u64::from(mark.log_bytes))) == (walked.end, walked.position)
            && snapshot_at >= mark.end
            && part.index.len() == files.index.len()
            && part.time_index.len() == files.time_index.len()
    });
    entries.extend_from_slice(&walked.entries);
    Ok(Last {
        base,
        file,
        files,
        mark,
        entries,
        times,
        walked,
        marked,
    })
}

/// Where to begin reading: at the mark, or earlier when the newest snapshot is older. Cuts `entries` there.
fn seek(
    base: Offset,
    entries: &mut Vec<IndexEntry>,
    mark: &Mark,
    snapshot_at: Offset,
) -> (Offset, u64) {
    let log_bytes = u64::from(mark.log_bytes);
    if snapshot_at >= mark.end {
        return (mark.end, log_bytes);
    }
    let number = index::find(base, entries, snapshot_at);
    let span = index::span(base, entries, number, log_bytes);
    entries.truncate(number);
    span.map_or((mark.end, log_bytes), |span| (span.first, span.position))
}

fn note_findings(last: &Last, report: &mut Recovery) {
    let walked = &last.walked;
    report.batches += walked.batches;
    report
        .gaps
        .extend(walked.lost.iter().map(|(gap, _)| gap.clone()));
    if let Some(position) = walked.position {
        report.bytes_cut += walked.file_bytes.saturating_sub(position);
        if position > walked.file_bytes {
            let lost = last
                .entries
                .partition_point(|entry| u64::from(entry.position) < walked.file_bytes);
            let from = index::span(last.base, &last.entries, lost.saturating_sub(1), position);
            let from = from.map_or(last.base, |span| span.first);
            report.gaps.push(missing_gap(from, walked.end));
        }
    }
    if last.mark.is_none() && walked.batches > 0 {
        report.notes.push(format!(
            "the index of the segment at {} was made anew",
            last.base
        ));
    }
}

/// Goes on writing the segment: all its bytes are known to be durable.
fn go_on(opening: &Opening<'_>, last: Last) -> Result<SegmentWriter> {
    let path = names::path(opening.dir, last.base, FileKind::Index);
    let opened = opening.storage.open(&path, OpenMode::Write);
    let same = index::decode(&last.files.index)
        .iter()
        .zip(&last.entries)
        .take_while(|(on_disk, true_one)| on_disk == true_one)
        .count();
    let cut = opened.and_then(|file| {
        if last.files.index.len() != same * index::ENTRY_BYTES {
            file.truncate((same * index::ENTRY_BYTES) as u64)?;
        }
        Ok(file)
    });
    let index_file = cut.map_err(|e| Error::io(format!("cannot open {}", path.display()), e))?;
    let appended = appended(&last, opening.now);
    let position = last.walked.position.unwrap_or(last.walked.file_bytes);
    let grown = Grown {
        entries: last.entries,
        times: last.times,
        position,
    };
    Ok(SegmentWriter {
        active: Arc::new(Active::new(last.base, last.file, grown)),
        index_file,
        end: last.walked.end,
        index_written: same,
        appended,
        marked_bytes: last.marked.then_some(position),
        sealing: false,
    })
}

/// When the first and the last batch of the segment were appended, as far as is known: never later than
/// now, and now for what no mark speaks of.
fn appended(last: &Last, now: Timestamp) -> Option<(Timestamp, Timestamp)> {
    if last.entries.is_empty() {
        return None;
    }
    let Some(mark) = last.mark else {
        return Some((now, now));
    };
    let unmarked = last.walked.end > mark.end;
    let last_append = if unmarked {
        now
    } else {
        mark.last_append.min(now)
    };
    Some((mark.first_append.min(last_append), last_append))
}

/// Cuts what is not a batch off the segment and goes on writing it.
fn cut_and_go_on(opening: &Opening<'_>, mut last: Last) -> Result<SegmentWriter> {
    let position = last.walked.position.unwrap_or(last.walked.file_bytes);
    last.file
        .truncate(position)
        .and_then(|()| last.file.sync())
        .map_err(|e| Error::io("cannot cut a torn tail", e))?;
    last.marked = false;
    go_on(opening, last)
}

/// Seals the segment where its known durable part ends, and begins the next with a copy of the whole
/// batches that follow.
fn begin_next(opening: &Opening<'_>, last: &Last, found: &mut Found) -> io::Result<SegmentWriter> {
    let walked = &last.walked;
    let base = walked.durable;
    let from = walked.durable_position.unwrap_or(walked.file_bytes);
    let to = match walked.position {
        Some(position) if walked.end > base => position,
        _ => from,
    };
    seal(opening, last)?;
    let log = copy_tail(opening, last, base, from..to)?;
    let open_empty = |kind| {
        let file = opening
            .storage
            .open(&names::path(opening.dir, base, kind), OpenMode::Write)?;
        file.truncate(0)?;
        Ok::<_, io::Error>(file)
    };
    let index_file = open_empty(FileKind::Index)?;
    open_empty(FileKind::TimeIndex)?;
    let path = names::path(opening.dir, base, FileKind::Log);
    opening.storage.rename(&temporary_name(&path), &path)?;
    sync_names(opening.storage.as_ref(), opening.dir)?;
    if base > last.base {
        // For other readers of the directory; ours stop where the next segment begins.
        let _uncut = last.file.truncate(from.min(walked.file_bytes));
        found
            .segments
            .insert(last.base, from.min(walked.file_bytes));
    }
    let grown = tail_grown(last, log.as_ref(), base, from..to)?;
    let appended = (!grown.entries.is_empty()).then_some((opening.now, opening.now));
    Ok(SegmentWriter {
        active: Arc::new(Active::new(base, log, grown)),
        index_file,
        end: walked.end,
        index_written: 0,
        appended,
        marked_bytes: None,
        sealing: false,
    })
}

/// Writes the index files and the mark of the part that stays behind, while the claims that told where
/// damage ends are still at hand.
fn seal(opening: &Opening<'_>, last: &Last) -> io::Result<()> {
    let end = last.walked.durable;
    if end == last.base {
        return Ok(());
    }
    let keep = |relative: u32| last.base.plus(relative) < end;
    let times: Vec<_> = last
        .times
        .entries
        .iter()
        .copied()
        .filter(|time| keep(time.last))
        .collect();
    let position = last
        .walked
        .durable_position
        .unwrap_or(last.walked.file_bytes);
    let part = Sealed {
        base: last.base,
        end,
        file: None,
        entries: last
            .entries
            .iter()
            .copied()
            .filter(|entry| keep(entry.last))
            .collect(),
        max_timestamp: last.times.max,
        times,
        log_bytes: position,
    };
    let appended = appended(last, opening.now).unwrap_or((opening.now, opening.now));
    let mark = part.store(opening.storage.as_ref(), opening.dir, appended)?;
    if let Some(mark) = mark {
        let mut content = opening.checkpoint.content();
        content.marks.remove(&mark.base);
        take_mark(&mut content, mark);
    }
    Ok(())
}

/// Copies a part of the last segment to a new file, durable but for its name.
fn copy_tail(
    opening: &Opening<'_>,
    last: &Last,
    base: Offset,
    part: std::ops::Range<u64>,
) -> io::Result<Arc<dyn File>> {
    let temporary = temporary_name(&names::path(opening.dir, base, FileKind::Log));
    match opening.storage.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let copy = opening.storage.open(&temporary, OpenMode::CreateNew)?;
    let mut buffer = vec![0; READ_WINDOW_BYTES];
    let mut at = part.start;
    while at < part.end {
        let want = usize::try_from(part.end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let piece = buffer.get_mut(..want).unwrap_or_default();
        let read = read_full_at(last.file.as_ref(), piece, at)?;
        if read < want {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all_at(copy.as_ref(), piece, at - part.start)?;
        at += read as u64;
    }
    copy.sync()?;
    Ok(copy)
}

/// The index of the copied part.
fn tail_grown(
    last: &Last,
    log: &dyn File,
    base: Offset,
    part: std::ops::Range<u64>,
) -> io::Result<Grown> {
    let mut grown = Grown {
        position: part.end - part.start,
        ..Grown::default()
    };
    for entry in &last.entries {
        let offset = index::last_offset(last.base, *entry);
        let moved = u64::from(entry.position).checked_sub(part.start);
        let moved = moved.filter(|_| offset >= base);
        let Some(entry) = moved.and_then(|position| index::entry(base, offset, position)) else {
            continue;
        };
        let mut header = [0; HEADER_BYTES];
        read_full_at(log, &mut header, u64::from(entry.position))?;
        if let Ok(header) = BatchHeader::parse(&header) {
            grown
                .times
                .push(header.max_timestamp, entry.last, u64::from(entry.position));
        }
        grown.entries.push(entry);
    }
    Ok(grown)
}
