//! Tables, sizes and times for people. Programs ask for `--json`.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use crate::terminal::{Lines, append, escape_text};

/// Columns under a heading; as wide as their widest cell, two spaces apart, no lines around them.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// Which side of its column a cell stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; whatever a cell holds cannot act on a terminal.
    pub(crate) fn row<const N: usize>(&mut self, cells: &[String; N]) {
        assert_eq!(N, self.columns.len());
        let escaped = cells.iter().map(|cell| {
            let mut out = String::with_capacity(cell.len());
            escape_text(cell, Lines::Escape, &mut out);
            out
        });
        self.rows.push(escaped.collect());
    }

    /// Prints to stdout; a table without rows says `nothing` on stderr instead.
    pub(crate) fn print_or(&self, nothing: &str) -> io::Result<()> {
        if self.rows.is_empty() {
            return writeln!(io::stderr(), "{nothing}");
        }
        self.print(&mut io::stdout().lock())
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let cells = self.rows.iter().map(|row| row[at].chars().count());
                cells.chain([self.columns[at].0.len()]).max().unwrap_or(0)
            })
            .collect();
        let headings: Vec<&str> = self.columns.iter().map(|(name, _)| *name).collect();
        self.print_line(&headings, &widths, out)?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            self.print_line(&cells, &widths, out)?;
        }
        Ok(())
    }

    fn print_line(&self, cells: &[&str], widths: &[usize], out: &mut impl Write) -> io::Result<()> {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            match align {
                Align::Left => append(&mut line, format_args!("{cell:<width$}  ")),
                Align::Right => append(&mut line, format_args!("{cell:>width$}  ")),
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// `1536` → `1.5 KiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let unit = ((u64::BITS - 1 - count.leading_zeros()) / 10).min(6) as usize;
    let tenths = (u128::from(count) * 10) >> (10 * unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit - 1])
}

/// `1234567` → `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The one or two largest units, rounded: `42s`, `3m 20s`, `2h`, `5d 3h`.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.saturating_add(Duration::from_millis(500)).as_secs();
    let (large, small, rest) = match seconds {
        0..60 => return format!("{seconds}s"),
        60..3600 => (seconds / 60, seconds % 60, ('m', 's')),
        3600..86_400 => (seconds / 3600, seconds % 3600 / 60, ('h', 'm')),
        _ => (seconds / 86_400, seconds % 86_400 / 3600, ('d', 'h')),
    };
    match small {
        0 => format!("{large}{}", rest.0),
        _ => format!("{large}{} {small}{}", rest.0, rest.1),
    }
}

/// An RFC 3339 time as seen from now: `3s ago`, `in 29d 23h`. Text that is no time stays as it is.
pub(crate) fn relative(rfc3339: &str, now: SystemTime) -> String {
    let Ok(time) = rfc3339.parse::<jiff::Timestamp>() else {
        return rfc3339.to_owned();
    };
    match SystemTime::from(time).duration_since(now) {
        Ok(ahead) => format!("in {}", duration(ahead)),
        Err(past) => format!("{} ago", duration(past.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_spans_read_well() {
        for (input, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(input), expected);
        }
        for (input, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(input), expected);
        }
        for (input, expected) in [(0, "0s"), (200, "3m 20s"), (7200, "2h"), (442_800, "5d 3h")] {
            assert_eq!(duration(Duration::from_secs(input)), expected);
        }
    }

    #[test]
    fn a_time_is_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_mins(1);
        assert_eq!(relative("1970-01-01T00:00:50Z", now), "10s ago");
        assert_eq!(relative("1970-01-01T01:01:00+00:00", now), "in 1h");
        assert_eq!(relative("soon", now), "soon");
    }

    #[test]
    fn columns_align_and_cells_cannot_break_out() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right)]);
        table.row(&["a".into(), "1".into()]);
        table.row(&["x\n\x1b[0m".into(), "10,000".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let expected = "\
NAME          SIZE
a                1
x\\n\\x1b[0m  10,000
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
