//! Reads a partition's directory through, front to back, and compares everything with the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::header::{BatchHeader, HEADER_BYTES, verify as verify_batch};
use crate::error::{Error, Result};
use crate::id::Offset;
use crate::log::checkpoint::{CheckpointFile, Loaded};
use crate::log::index;
use crate::log::names::{self, FileKind};
use crate::log::recovery::{Found, list, newest_snapshot};
use crate::log::sealed::IndexFiles;
use crate::log::snapshot;
use crate::log::time_index::TimeIndex;
use crate::log::walk::{Walk, Walked, Window};
use crate::storage::{File, OpenMode, Storage, read_whole};

use super::{Finding, Harm, PartitionReport, SegmentReport};

/// Of a file that the next opening removes.
pub(super) const LEFT_OVER: &str = "belongs to nothing, a crash left it";

/// A batch, as [`scan`] shows it.
pub(super) struct Seen<'a> {
    pub(super) file: &'a Path,
    pub(super) position: u64,
    pub(super) header: &'a BatchHeader,
}

/// See [`super::verify_dir`].
pub(super) fn verify(storage: &Arc<dyn Storage>, dir: &Path) -> Result<PartitionReport> {
    scan(storage, dir, &mut |_| Ok(()))
}

/// Reads the directory through and shows each whole batch.
pub(super) fn scan(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    show: &mut dyn FnMut(&Seen<'_>) -> Result<()>,
) -> Result<PartitionReport> {
    let found = list(storage.as_ref(), dir)
        .map_err(|error| Error::io(format!("cannot list {}", dir.display()), error))?;
    let (checkpoint, loaded) = CheckpointFile::load(storage.clone(), dir);
    let mut findings = beside_the_log(storage.as_ref(), dir, &found, loaded);
    let mut snapshot_report = crate::log::recovery::Recovery::default();
    let (snapshot_at, _) = newest_snapshot(storage.as_ref(), dir, &found, &mut snapshot_report);
    let content = checkpoint.content().clone();
    let known = content.recovery_point().max(snapshot_at);
    let first = found.segments.keys().next().copied();
    let start = content.start.max(first.unwrap_or(known));
    let mut report = PartitionReport {
        dir: dir.to_owned(),
        start,
        end: known,
        segments: Vec::new(),
        findings: Vec::new(),
    };
    let bases: Vec<Offset> = found.segments.keys().copied().collect();
    for (number, &base) in bases.iter().enumerate() {
        let next = bases.get(number + 1).copied();
        let files = IndexFiles::read(storage.as_ref(), dir, base);
        let segment = Segment {
            path: names::path(dir, base, FileKind::Log),
            base,
            next,
            known,
            files: &files,
        };
        let (read, walked, times) = segment.read(storage.as_ref(), show)?;
        report.end = report.end.max(read.end);
        if next.is_none_or(|next| next > start) {
            findings.extend(segment.findings(storage.as_ref(), &walked)?);
            let mark = content.marks.get(&base);
            let is_marked = mark.is_some_and(|mark| {
                next.unwrap_or(mark.end) == mark.end && files.begin_with(mark).is_some()
            });
            if !is_marked {
                findings.extend(segment.index_findings(dir, &walked, &times));
            }
        }
        report.segments.push(read);
    }
    report.findings = findings;
    Ok(report)
}

/// What is wrong with the files that are not a segment's.
fn beside_the_log(
    storage: &dyn Storage,
    dir: &Path,
    found: &Found,
    loaded: Loaded,
) -> Vec<Finding> {
    let derived = |file: PathBuf, what: &str| Finding {
        file,
        position: None,
        lost: None,
        what: what.to_owned(),
        harm: Harm::Derived,
    };
    let mut findings = Vec::new();
    let checkpoint = dir.join(names::CHECKPOINT);
    match loaded {
        Loaded::Whole => {}
        Loaded::Missing => findings.push(derived(checkpoint, "is missing")),
        Loaded::Damaged => findings.push(derived(checkpoint, "is damaged")),
    }
    for &offset in &found.snapshots {
        let path = names::path(dir, offset, FileKind::Snapshot);
        let bytes = read_whole(storage, &path, snapshot::SNAPSHOT_BYTES_MAX);
        if bytes
            .ok()
            .and_then(|bytes| snapshot::decode(&bytes))
            .is_none()
        {
            findings.push(derived(path, "is damaged"));
        }
    }
    for path in &found.leftovers {
        findings.push(derived(path.clone(), LEFT_OVER));
    }
    findings
}

struct Segment<'a> {
    path: PathBuf,
    base: Offset,
    next: Option<Offset>,
    known: Offset,
    files: &'a IndexFiles,
}

impl Segment<'_> {
    fn read(
        &self,
        storage: &dyn Storage,
        show: &mut dyn FnMut(&Seen<'_>) -> Result<()>,
    ) -> Result<(SegmentReport, Walked, TimeIndex)> {
        let file = self.open(storage)?;
        let mut times = TimeIndex::default();
        let mut records = 0;
        let mut shown = Ok(());
        let walk = Walk {
            file: file.as_ref(),
            base: self.base,
            from: (self.base, 0),
            claims: &index::decode(&self.files.index),
            durable: self.next.unwrap_or(self.known.max(self.base)),
            stop: self.next,
        };
        let walked = walk.run(&mut |header, position| {
            records += u64::from(header.record_count);
            if let Some(entry) = index::entry(self.base, header.last_offset(), position) {
                times.push(header.max_timestamp, entry.last, position);
            }
            if shown.is_ok() {
                shown = show(&Seen {
                    file: &self.path,
                    position,
                    header,
                });
            }
        })?;
        shown?;
        let report = SegmentReport {
            file: self.path.clone(),
            base: self.base,
            end: walked.end,
            bytes: walked.file_bytes,
            batches: walked.batches,
            records,
            max_timestamp: times.max,
        };
        Ok((report, walked, times))
    }

    fn open(&self, storage: &dyn Storage) -> Result<Arc<dyn File>> {
        let opened = storage.open(&self.path, OpenMode::Read);
        opened.map_err(|e| Error::io(format!("cannot open {}", self.path.display()), e))
    }

    /// What is lost of the segment, and what is torn.
    fn findings(&self, storage: &dyn Storage, walked: &Walked) -> Result<Vec<Finding>> {
        let file = self.open(storage)?;
        let mut window = Window::new(file.as_ref(), walked.file_bytes);
        let mut findings = Vec::new();
        for (gap, position) in &walked.lost {
            findings.push(Finding {
                file: self.path.clone(),
                position: Some(*position),
                lost: Some((gap.from, gap.to)),
                what: what_is_wrong(&mut window, *position, gap.from)?,
                harm: Harm::Lost,
            });
        }
        let torn = walked
            .position
            .map_or(0, |end| walked.file_bytes.saturating_sub(end));
        if torn > 0 {
            let what = match self.next {
                None => format!("{torn} bytes are no whole batch"),
                Some(next) => {
                    format!("{torn} bytes follow offset {next}, where the next segment begins")
                }
            };
            findings.push(Finding {
                file: self.path.clone(),
                position: walked.position,
                lost: None,
                what,
                harm: Harm::Torn,
            });
        }
        Ok(findings)
    }

    /// How the index files differ from the log.
    fn index_findings(&self, dir: &Path, walked: &Walked, times: &TimeIndex) -> Vec<Finding> {
        let mut index_bytes = Vec::new();
        index::encode(&walked.entries, &mut index_bytes);
        let time_bytes = crate::log::time_index::encode(&times.entries);
        let differs = |found: &[u8], true_bytes: &[u8]| match self.next {
            Some(_) => found != true_bytes,
            // Of the last segment less may be written, never more.
            None => !true_bytes.starts_with(found),
        };
        let files = [
            (FileKind::Index, differs(&self.files.index, &index_bytes)),
            (
                FileKind::TimeIndex,
                differs(&self.files.time_index, &time_bytes),
            ),
        ];
        let bad = files.into_iter().filter(|(_, differs)| *differs);
        bad.map(|(kind, _)| Finding {
            file: names::path(dir, self.base, kind),
            position: None,
            lost: None,
            what: "differs from the log".to_owned(),
            harm: Harm::Derived,
        })
        .collect()
    }
}

/// What is found where a batch should be.
fn what_is_wrong(window: &mut Window<'_>, position: u64, offset: Offset) -> Result<String> {
    let header = match BatchHeader::parse(window.bytes(position, HEADER_BYTES)?) {
        Err(error) => return Ok(error.message),
        Ok(header) => header,
    };
    Ok(
        match verify_batch(window.bytes(position, header.total_bytes())?) {
            Err(error) => error.message,
            Ok(header) => format!(
                "a batch of offset {} lies where offset {offset} belongs",
                header.base_offset
            ),
        },
    )
}
