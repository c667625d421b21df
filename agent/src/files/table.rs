//! The report for people: two tables and their sums.

use std::fmt::{self, Write};

use super::text::{one_line, safe_json};
use super::{ClosedRow, FileRow, FilesReport};

impl FilesReport {
    /// The report as one JSON document.
    pub fn json(&self) -> serde_json::Result<String> {
        let document = serde_json::to_string_pretty(self)?;
        Ok(safe_json(&document) + "\n")
    }
}

impl fmt::Display for FilesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(note) = &self.note {
            writeln!(f, "{}", one_line(note))?;
        }
        if self.files.is_empty() {
            writeln!(f, "no files yet")?;
        } else {
            let headings = [
                "LAG",
                "SIZE",
                "COMMITTED",
                "EPOCH",
                "INODE",
                "STATE",
                "SOURCE",
                "PATH",
                "WHY",
            ];
            print(f, headings, 3, self.files.iter().map(FileRow::cells))?;
            let totals = &self.totals;
            writeln!(
                f,
                "{} files, {} behind",
                totals.files,
                bytes(totals.lag_bytes)
            )?;
        }
        if self.closed.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nended last:")?;
        let headings = ["READ", "UNREAD", "EPOCH", "REASON", "SOURCE", "PATH"];
        print(f, headings, 2, self.closed.iter().map(ClosedRow::cells))?;
        let unread = bytes(self.totals.closed_unread_bytes);
        write!(f, "{} ended, {unread} unread", self.closed.len())?;
        match self.totals.closed_unknown {
            0 => writeln!(f),
            unknown => writeln!(f, ", and of {unknown} nobody knows how much"),
        }
    }
}

impl FileRow {
    fn cells(&self) -> [String; 9] {
        let none = || "-".to_owned();
        let key = self.key.as_ref();
        [
            bytes(self.lag_bytes),
            bytes(self.size_bytes),
            bytes(self.committed_offset),
            self.epoch.map_or_else(none, |epoch| epoch.to_string()),
            key.map_or_else(none, |key| format!("{} ({})", key.inode, key.level)),
            self.state.label().to_owned(),
            self.source.clone(),
            self.path.clone(),
            self.why.clone(),
        ]
    }
}

impl ClosedRow {
    fn cells(&self) -> [String; 6] {
        let unknown = || "unknown".to_owned();
        [
            bytes(self.bytes_read),
            self.bytes_unread.map_or_else(unknown, bytes),
            self.epoch.to_string(),
            self.reason.label().to_owned(),
            self.source.clone(),
            self.path.clone(),
        ]
    }
}

/// Prints columns under headings, as wide as their widest cell; the first `numbers` of them stand at
/// the right. Cells are made safe for a terminal.
fn print<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    headings: [&str; N],
    numbers: usize,
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let safe = |row: [String; N]| row.map(|cell| one_line(&cell));
    let rows: Vec<[String; N]> = std::iter::once(headings.map(str::to_owned))
        .chain(rows.map(safe))
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            if at < numbers {
                write!(line, "{cell:>width$}  ")?;
            } else {
                write!(line, "{cell:<width$}  ")?;
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A number of bytes with a unit that keeps it short; exact as long as that is short.
fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 10_000 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut at) = (bytes.saturating_mul(10) / 1024, 0);
    while tenths >= 10_240 && at + 1 < units.len() {
        tenths /= 1024;
        at += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, units[at])
}
