//! `weir-agent files`: what of each file is read and durable, what is not, and why.
//!
//! A running agent tells it over the socket in its data directory ([`control`](crate::control)). Sources
//! make their part only when somebody asks. Where no agent runs the positions in its spool tell the
//! rest, see [`stopped`].

mod stopped;
mod table;
mod text;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::position::{FileKey, KeyLevel, LineageId};
use serde::{Deserialize, Serialize};

use crate::sources::file::audit::{ClosedEpoch, Why};

pub use stopped::stopped;
pub use text::one_line;
pub(crate) use text::safe_json;

/// What one source knows of its files, as of a turn.
#[derive(Debug, Clone, Default)]
pub struct SourceFiles {
    /// The user's name for the source.
    pub source: String,
    /// Each file that it follows or passes over.
    pub files: Vec<FileState>,
    /// Lives of files that ended, the last ones.
    pub closed: Vec<ClosedEpoch>,
}

/// How much a source has before it, as of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of its files that were not read yet.
    pub unread_bytes: u64,
    /// Files that it holds open.
    pub open_files: u64,
    /// Files that it follows.
    pub files: u64,
}

/// One file of a source: a life of an inode, or a path that is not read.
#[derive(Debug, Clone)]
pub struct FileState {
    /// The path that it is followed by.
    pub path: PathBuf,
    /// Its inode, where it was opened.
    pub key: Option<FileKey>,
    /// Which of the path's lives it is, where it is one.
    pub epoch: Option<(LineageId, u32)>,
    /// The most that was seen of it.
    pub size: u64,
    /// The end of what was read of it.
    pub offset: u64,
    /// What it waits for.
    pub state: State,
    /// More about that: another path, an error.
    pub detail: Option<String>,
}

/// What a file waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// More of it is being read.
    Reading,
    /// All of it is read.
    AtEnd,
    /// All of it is read but a last line without its newline.
    UnfinishedLine,
    /// The spool has no room.
    WaitingForRoom,
    /// An older file of the same path comes first.
    Behind,
    /// It was renamed, and is read to its end.
    Rotated,
    /// It was deleted, and is read to its end while it is open.
    Deleted,
    /// It was cut or replaced; a copy of what was not read is looked for.
    LookingForCopy,
    /// It was rotated or deleted and is read; what a late writer adds is taken too.
    Finished,
    /// It may be the copy of another file that is about to be truncated.
    SuspectCopy,
    /// Another path names the same file and it is read there.
    OtherPath,
    /// It cannot be opened or read.
    Unreadable,
    /// The configuration does not mean it any more.
    NotMeant,
    /// No agent runs.
    Stopped,
    /// No agent runs, and no file is found at its path.
    Missing,
}

/// Everything there is to tell, as one document.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FilesReport {
    /// Whether a running agent told it.
    pub running: bool,
    /// What else is to be known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The sums of what follows.
    pub totals: ReportTotals,
    /// The furthest behind first.
    pub files: Vec<FileRow>,
    /// The last that ended first.
    pub closed: Vec<ClosedRow>,
}

/// The sums of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportTotals {
    /// Files that are listed.
    pub files: u64,
    /// Bytes that are not durable in the spool.
    pub lag_bytes: u64,
    /// Bytes of the closed ones that were never read, as far as is known.
    pub closed_unread_bytes: u64,
    /// Closed ones of which nobody knows how much was never read.
    pub closed_unknown: u64,
}

/// A file in a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileRow {
    /// The source's name.
    pub source: String,
    /// The path, with � for what is not UTF-8.
    pub path: String,
    /// The path's bytes in hexadecimal, where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// The inode.
    pub key: Option<KeyRow>,
    /// Which of the path's lives it is; a later one has a higher number.
    pub epoch: Option<u32>,
    /// Its size.
    pub size_bytes: u64,
    /// The end of what was read.
    pub read_offset: u64,
    /// The end of what is durable in the spool.
    pub committed_offset: u64,
    /// What is missing to its size.
    pub lag_bytes: u64,
    /// What it waits for.
    pub state: State,
    /// The same in words.
    pub why: String,
}

/// An inode in a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyRow {
    /// What tells it from a later inode with the same number.
    pub level: String,
    /// Its number.
    pub inode: u64,
}

/// A life of a file that ended, in a report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClosedRow {
    /// The source's name.
    pub source: String,
    /// The path, with � for what is not UTF-8.
    pub path: String,
    /// Which of the path's lives it was.
    pub epoch: u32,
    /// Bytes that were taken of it.
    pub bytes_read: u64,
    /// Bytes that were not; `null` when nobody knows.
    pub bytes_unread: Option<u64>,
    /// What ended it.
    pub reason: Why,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
}

/// How far each epoch is durable.
pub(crate) type Committed = BTreeMap<(LineageId, u32), u64>;

impl State {
    /// What it means, for people.
    pub fn words(self) -> &'static str {
        match self {
            State::Reading => "is being read",
            State::AtEnd => "all of it is read",
            State::UnfinishedLine => "its last line has no newline yet",
            State::WaitingForRoom => "the spool is full: an aggregator must take something first",
            State::Behind => "an older file of this path is read first",
            State::Rotated => "was renamed and is read to its end",
            State::Deleted => "was deleted and is read to its end while it is open",
            State::LookingForCopy => "was cut or replaced; a copy of the rest is looked for",
            State::Finished => "is read to its end; what a late writer adds is taken too",
            State::SuspectCopy => "may be a copy in the making of a file beside it",
            State::OtherPath => "is read under another path",
            State::Unreadable => "cannot be read",
            State::NotMeant => "`files` and `exclude` do not mean it any more",
            State::Stopped => "no agent runs",
            State::Missing => "no agent runs, and it is not at its path",
        }
    }

    /// Its name in documents.
    pub fn label(self) -> &'static str {
        match self {
            State::Reading => "reading",
            State::AtEnd => "at_end",
            State::UnfinishedLine => "unfinished_line",
            State::WaitingForRoom => "waiting_for_room",
            State::Behind => "behind",
            State::Rotated => "rotated",
            State::Deleted => "deleted",
            State::LookingForCopy => "looking_for_copy",
            State::Finished => "finished",
            State::SuspectCopy => "suspect_copy",
            State::OtherPath => "other_path",
            State::Unreadable => "unreadable",
            State::NotMeant => "not_meant",
            State::Stopped => "stopped",
            State::Missing => "missing",
        }
    }

    /// Whether what is missing of it is still to come.
    fn is_followed(self) -> bool {
        !matches!(self, State::OtherPath | State::NotMeant)
    }
}

impl FilesReport {
    /// What the sources told, with what of it is durable.
    pub(crate) fn new(sources: Vec<SourceFiles>, committed: &Committed) -> FilesReport {
        let mut report = FilesReport {
            running: true,
            ..FilesReport::default()
        };
        for SourceFiles {
            source,
            files,
            closed,
        } in sources
        {
            let rows = files.into_iter().map(|file| {
                let durable = file.epoch.and_then(|epoch| committed.get(&epoch));
                let durable = durable.copied().unwrap_or(0);
                FileRow::new(&source, &file, durable)
            });
            report.files.extend(rows);
            let ended = closed.iter().map(|closed| ClosedRow::new(&source, closed));
            report.closed.extend(ended);
        }
        report.sort();
        report
    }

    /// Puts the furthest behind first and sums up.
    fn sort(&mut self) {
        self.files.sort_by(|a, b| {
            let by_lag = b.lag_bytes.cmp(&a.lag_bytes);
            by_lag.then_with(|| (&a.source, &a.path, a.epoch).cmp(&(&b.source, &b.path, b.epoch)))
        });
        self.closed
            .sort_by_key(|closed| std::cmp::Reverse(closed.at_ms));
        let unread = self.closed.iter().filter_map(|closed| closed.bytes_unread);
        let known = unread.clone().count();
        self.totals = ReportTotals {
            files: self.files.len() as u64,
            lag_bytes: self.files.iter().map(|file| file.lag_bytes).sum(),
            closed_unread_bytes: unread.sum(),
            closed_unknown: (self.closed.len() - known) as u64,
        };
    }
}

impl FileRow {
    fn new(source: &str, file: &FileState, durable: u64) -> FileRow {
        let committed = durable.min(file.offset);
        let lag = file.size.saturating_sub(committed);
        let words = file.state.words();
        FileRow {
            source: source.to_owned(),
            path: file.path.to_string_lossy().into_owned(),
            path_hex: path_hex(&file.path),
            key: file.key.map(KeyRow::new),
            epoch: file.epoch.map(|(_, number)| number),
            size_bytes: file.size,
            read_offset: file.offset,
            committed_offset: committed,
            lag_bytes: if file.state.is_followed() { lag } else { 0 },
            state: file.state,
            why: match &file.detail {
                Some(detail) => format!("{words}: {detail}"),
                None => words.to_owned(),
            },
        }
    }
}

impl KeyRow {
    fn new(key: FileKey) -> KeyRow {
        let level = match key.level {
            KeyLevel::Handle => "handle",
            KeyLevel::HandleId => "handle_id",
            KeyLevel::Generation => "generation",
            KeyLevel::BirthTime => "birth_time",
            KeyLevel::Inode => "inode",
        };
        KeyRow {
            level: level.to_owned(),
            inode: key.inode,
        }
    }
}

impl ClosedRow {
    fn new(source: &str, closed: &ClosedEpoch) -> ClosedRow {
        ClosedRow {
            source: source.to_owned(),
            path: closed.path.to_string_lossy().into_owned(),
            epoch: closed.epoch,
            bytes_read: closed.bytes_read,
            bytes_unread: closed.bytes_unread,
            reason: closed.why,
            at_ms: closed.at.0,
        }
    }
}

/// A path's bytes, where a string cannot say them.
fn path_hex(path: &Path) -> Option<String> {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut hex = String::new();
    if path.to_str().is_none() {
        for byte in path.as_os_str().as_bytes() {
            write!(hex, "{byte:02x}").ok()?;
        }
    }
    (!hex.is_empty()).then_some(hex)
}

#[cfg(test)]
mod tests;
