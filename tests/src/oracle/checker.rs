//! The checker: one bitmap a stream, one fingerprint an offset, and a verdict.
//!
//! It is fed every record that was read, as often as it was read. Reading the same offset again is
//! no duplicate; it must only show the same bytes. A duplicate is the same line at two offsets.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use super::line::{Line, Stream, crc32};

/// Where a record stood in the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The partition of the topic.
    pub partition: u32,
    /// The offset in the partition.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

/// How many lines each stream was given, by the writers' own account.
pub type Written = BTreeMap<Stream, u64>;

/// Collects what was read and compares it with what was written.
#[derive(Default)]
pub struct Checker {
    streams: BTreeMap<Stream, StreamSeen>,
    partitions: BTreeMap<u32, Vec<Option<u32>>>,
    findings: Findings,
}

#[derive(Default)]
struct StreamSeen {
    bitmap: Vec<u64>,
    last: Option<(Place, u64)>,
}

#[derive(Default)]
struct Findings {
    doubled: Vec<String>,
    disordered: Vec<String>,
    invented: Vec<String>,
    changed: Vec<String>,
}

impl Checker {
    /// Takes one record that was read.
    pub fn observe(&mut self, place: Place, value: &[u8]) {
        if !self.is_first_reading(place, value) {
            return;
        }
        let Some(line) = Line::parse(value) else {
            let start = &value[..value.len().min(80)];
            self.findings
                .invented
                .push(format!("at {place}: {}", start.escape_ascii()));
            return;
        };
        let seen = self.streams.entry(line.stream).or_default();
        if !seen.mark(line.number) {
            self.findings
                .doubled
                .push(format!("{}:{} at {place}", line.stream, line.number));
            return;
        }
        if let Some((before, number)) = seen.last {
            let moved = before.partition != place.partition;
            if moved || (number < line.number) != (before.offset < place.offset) {
                self.findings.disordered.push(format!(
                    "{}:{number} at {before}, then :{} at {place}",
                    line.stream, line.number
                ));
            }
        }
        seen.last = Some((place, line.number));
    }

    /// Whether the offset is read for the first time; when not, its bytes must be the same.
    fn is_first_reading(&mut self, place: Place, value: &[u8]) -> bool {
        let offsets = self.partitions.entry(place.partition).or_default();
        let at = usize::try_from(place.offset).expect("a test's offsets fit in memory");
        if offsets.len() <= at {
            offsets.resize(at + 1, None);
        }
        let fingerprint = crc32(value);
        match offsets[at].replace(fingerprint) {
            None => true,
            Some(before) if before == fingerprint => false,
            Some(_) => {
                self.findings
                    .changed
                    .push(format!("offset {place} now holds other bytes"));
                true
            }
        }
    }

    /// How many different lines were read so far.
    pub fn distinct_lines(&self) -> u64 {
        self.streams.values().map(StreamSeen::count).sum()
    }

    /// Whether every line of `written` was read.
    pub fn has_all(&self, written: &Written) -> bool {
        written.iter().all(|(stream, lines)| {
            self.streams
                .get(stream)
                .is_some_and(|seen| seen.missing(*lines).next().is_none())
                || *lines == 0
        })
    }

    /// The verdict over what was `written`, when the product itself counted `counted` lost lines.
    pub fn verdict(mut self, written: &Written, counted: u64) -> Verdict {
        let nothing = StreamSeen::default();
        let mut lost = Vec::new();
        let mut lost_lines = 0;
        for (stream, lines) in written {
            let seen = self.streams.get(stream).unwrap_or(&nothing);
            for range in seen.missing(*lines) {
                lost_lines += range.end() - range.start() + 1;
                lost.push(format!("{stream}:{}..={}", range.start(), range.end()));
            }
        }
        for (stream, seen) in &self.streams {
            let lines = written.get(stream).copied().unwrap_or(0);
            let beyond = seen
                .numbers_from(lines)
                .map(|number| format!("{stream}:{number}"));
            self.findings
                .invented
                .extend(beyond.map(|line| format!("never written: {line}")));
        }
        let holes = self.partitions.iter().flat_map(|(partition, offsets)| {
            let first = offsets
                .iter()
                .position(Option::is_some)
                .unwrap_or(offsets.len());
            let missing = offsets
                .iter()
                .enumerate()
                .skip(first)
                .filter(|(_, seen)| seen.is_none());
            missing.map(move |(offset, _)| format!("{partition}@{offset}"))
        });
        Verdict {
            read_lines: self.distinct_lines(),
            written_lines: written.values().sum(),
            lost,
            lost_lines,
            unexplained_lines: lost_lines.saturating_sub(counted),
            holes: holes.collect(),
            doubled: self.findings.doubled,
            disordered: self.findings.disordered,
            invented: self.findings.invented,
            changed: self.findings.changed,
            deadline: None,
        }
    }
}

impl StreamSeen {
    /// Notes a line; false when it was noted before.
    fn mark(&mut self, number: u64) -> bool {
        let at = usize::try_from(number / 64).expect("a test's line numbers fit in memory");
        if self.bitmap.len() <= at {
            self.bitmap.resize(at + 1, 0);
        }
        let bit = 1 << (number % 64);
        let is_new = self.bitmap[at] & bit == 0;
        self.bitmap[at] |= bit;
        is_new
    }

    fn has(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64)
            .ok()
            .and_then(|at| self.bitmap.get(at));
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    fn count(&self) -> u64 {
        self.bitmap
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The ranges of numbers below `lines` that were not seen.
    fn missing(&self, lines: u64) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = (at..lines).find(|number| !self.has(*number))?;
            let end = (first..lines)
                .find(|number| self.has(*number))
                .unwrap_or(lines);
            at = end;
            Some(first..=end - 1)
        })
    }

    fn numbers_from(&self, first: u64) -> impl Iterator<Item = u64> + '_ {
        (first..self.bitmap.len() as u64 * 64).filter(|number| self.has(*number))
    }
}

/// What the checker found. [`Verdict::is_clean`] is what a test asks for.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Lines the writers wrote.
    pub written_lines: u64,
    /// Different lines that were read.
    pub read_lines: u64,
    /// Ranges of lines that were written and never read.
    pub lost: Vec<String>,
    /// How many lines those are.
    pub lost_lines: u64,
    /// How many of them the product did not count as lost either.
    pub unexplained_lines: u64,
    /// Lines that stand at two offsets.
    pub doubled: Vec<String>,
    /// Lines that do not follow the line before them in their file.
    pub disordered: Vec<String>,
    /// Records that no writer wrote.
    pub invented: Vec<String>,
    /// Offsets that showed different bytes at different times.
    pub changed: Vec<String>,
    /// Offsets between others that held nothing.
    pub holes: Vec<String>,
    /// What was still missing when the fault-free phase ran out of time.
    pub deadline: Option<String>,
}

impl Verdict {
    /// Every line exactly once, in order within its file, at an offset that never changed.
    pub fn is_clean(&self) -> bool {
        self.deadline.is_none() && self.findings().iter().all(|(_, found)| found.is_empty())
    }

    fn findings(&self) -> [(&'static str, &[String]); 6] {
        [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("out of order", &self.disordered),
            ("invented", &self.invented),
            ("changed", &self.changed),
            ("holes", &self.holes),
        ]
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Enough of each kind to see a pattern.
        const SHOWN: usize = 12;
        write!(
            f,
            "{} lines written, {} read",
            self.written_lines, self.read_lines
        )?;
        if self.lost_lines > 0 {
            let (lost, unexplained) = (self.lost_lines, self.unexplained_lines);
            write!(f, "\n{lost} lines lost, {unexplained} of them unexplained")?;
        }
        if let Some(deadline) = &self.deadline {
            write!(f, "\n{deadline}")?;
        }
        for (kind, found) in self
            .findings()
            .into_iter()
            .filter(|(_, found)| !found.is_empty())
        {
            write!(
                f,
                "\n{kind} ({}): {}",
                found.len(),
                found[..found.len().min(SHOWN)].join("; ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Stream = Stream { writer: 0, file: 0 };
    const B: Stream = Stream { writer: 0, file: 1 };

    fn value(stream: Stream, number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Line { stream, number }.write(20, &mut bytes);
        bytes.pop();
        bytes
    }

    /// The history that every case damages: stream A in partition 0, stream B in partition 1.
    fn good_history(lines: u64) -> Vec<(Place, Vec<u8>)> {
        let stream_in = |stream, partition| {
            let place = move |offset| Place { partition, offset };
            (0..lines).map(move |number| (place(number), value(stream, number)))
        };
        stream_in(A, 0).chain(stream_in(B, 1)).collect()
    }

    fn judge(history: &[(Place, Vec<u8>)], written: u64) -> Verdict {
        let mut checker = Checker::default();
        for (place, value) in history {
            checker.observe(*place, value);
        }
        checker.verdict(&BTreeMap::from([(A, written), (B, written)]), 0)
    }

    /// Which kinds a damaged history shows.
    fn kinds(verdict: &Verdict) -> Vec<&'static str> {
        let found = verdict
            .findings()
            .into_iter()
            .filter(|(_, found)| !found.is_empty());
        found.map(|(kind, _)| kind).collect()
    }

    fn check(expected: &[&str], damage: impl Fn(&mut Vec<(Place, Vec<u8>)>)) {
        let mut history = good_history(200);
        damage(&mut history);
        let verdict = judge(&history, 200);
        assert_eq!(kinds(&verdict), expected, "{verdict}");
    }

    #[test]
    fn a_good_history_is_clean_however_often_it_is_read() {
        check(&[], |_| ());
        check(&[], |history| history.extend(good_history(200)));
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        check(&["lost"], |history| {
            history.pop();
        });
        check(&["lost", "holes"], |history| {
            history.remove(50);
        });
        check(&["doubled"], |history| {
            history.push((
                Place {
                    partition: 0,
                    offset: 200,
                },
                value(A, 7),
            ));
        });
        check(&["out of order"], |history| {
            let (left, right) = history.split_at_mut(11);
            std::mem::swap(&mut left[10].1, &mut right[0].1);
        });
        check(&["out of order"], |history| {
            let moved = &mut history[199];
            moved.0 = Place {
                partition: 1,
                offset: 200,
            };
        });
        check(&["invented"], |history| {
            history.push((
                Place {
                    partition: 0,
                    offset: 200,
                },
                b"half a li".to_vec(),
            ));
        });
        check(&["invented"], |history| {
            history.push((
                Place {
                    partition: 0,
                    offset: 200,
                },
                value(A, 200),
            ));
        });
        check(&["lost", "invented"], |history| {
            history[5].1[30] ^= 1;
        });
        check(&["doubled", "changed"], |history| {
            history.push((
                Place {
                    partition: 0,
                    offset: 3,
                },
                value(A, 9),
            ));
        });
    }

    #[test]
    fn any_single_drop_copy_or_swap_is_found() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..300 {
            let mut history = good_history(64);
            let at = random.usize(..history.len());
            let (place, value) = history[at].clone();
            match random.u8(..3) {
                0 => {
                    history.remove(at);
                }
                1 => history.push((
                    Place {
                        offset: 64,
                        ..place
                    },
                    value,
                )),
                _ => {
                    // Another line of the same stream, so that only the order is wrong.
                    let other = (at / 64) * 64 + (at + 1 + random.usize(..63)) % 64;
                    let swapped = std::mem::replace(&mut history[other].1, value);
                    history[at].1 = swapped;
                }
            }
            assert!(
                !judge(&history, 64).is_clean(),
                "seed {seed}, round {round}"
            );
        }
    }

    #[test]
    fn what_the_product_counted_is_explained() {
        let mut checker = Checker::default();
        for (place, value) in good_history(10)
            .into_iter()
            .filter(|(place, _)| place.offset < 8)
        {
            checker.observe(place, &value);
        }
        let verdict = checker.verdict(&BTreeMap::from([(A, 10), (B, 10)]), 3);
        assert_eq!((verdict.lost_lines, verdict.unexplained_lines), (4, 1));
        assert_eq!(verdict.lost, ["0.0:8..=9", "0.1:8..=9"]);
    }
}
