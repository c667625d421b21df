//! The time index: the offset from which on a segment's timestamps reach a given time.
//!
//! 12 bytes an entry, big-endian, as Kafka writes them: a timestamp (8), and less the segment's base
//! the last offset of the batch that first bore it (4). Records' timestamps are event time and come in
//! any order, so the entries hold the running maximum and both columns only grow. An entry is made at
//! most every [`TIME_INDEX_INTERVAL_BYTES`] of log, and one whenever the file is written, because Kafka
//! takes the last entry of a closed segment for the segment's latest timestamp. A look-up takes the last
//! entry before the time sought and reads batch headers from there.

use crate::id::Timestamp;
use crate::limits::TIME_INDEX_INTERVAL_BYTES;

/// The bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 12;

/// The running maximum of the timestamps, and where it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeEntry {
    pub(super) timestamp: Timestamp,
    /// The last offset of the batch that bears it, less the segment's base.
    pub(super) last: u32,
}

/// A segment's time index while it grows.
#[derive(Debug, Clone, Default)]
pub(super) struct TimeIndex {
    pub(super) entries: Vec<TimeEntry>,
    /// The latest timestamp of the segment, `None` while it is empty.
    pub(super) max: Option<Timestamp>,
    /// Its entry, where it has none yet.
    due: Option<TimeEntry>,
    entered_at: Option<u64>,
}

impl TimeIndex {
    /// What a file's entries amount to, for a segment that grew to `log_bytes`.
    pub(super) fn resume(
        entries: Vec<TimeEntry>,
        max: Option<Timestamp>,
        log_bytes: u64,
    ) -> TimeIndex {
        TimeIndex {
            entered_at: (!entries.is_empty()).then_some(log_bytes),
            entries,
            max,
            due: None,
        }
    }

    /// Takes a batch that begins at `position`.
    pub(super) fn push(&mut self, max_timestamp: Timestamp, last: u32, position: u64) {
        if self.max.is_some_and(|max| max >= max_timestamp) {
            return;
        }
        self.max = Some(max_timestamp);
        self.due = Some(TimeEntry {
            timestamp: max_timestamp,
            last,
        });
        let is_far = |at: u64| position.saturating_sub(at) >= TIME_INDEX_INTERVAL_BYTES;
        if self.entered_at.is_none_or(is_far) {
            self.entered_at = Some(position);
            self.complete();
        }
    }

    /// Makes the last entry that of the latest timestamp.
    pub(super) fn complete(&mut self) {
        self.entries.extend(self.due.take());
    }
}

/// Of `entries`, the offset (less the base) up to which all timestamps are before `time`, and which
/// itself is; `None` when that is not known of any.
pub(super) fn floor(entries: &[TimeEntry], time: Timestamp) -> Option<u32> {
    let after = entries.partition_point(|entry| entry.timestamp < time);
    after
        .checked_sub(1)
        .and_then(|before| entries.get(before))
        .map(|entry| entry.last)
}

/// The bytes of `entries`.
pub(super) fn encode(entries: &[TimeEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for entry in entries {
        out.extend_from_slice(&entry.timestamp.0.to_be_bytes());
        out.extend_from_slice(&entry.last.to_be_bytes());
    }
    out
}

/// Reads entries; a torn one at the end is left out. Nothing is checked: these may be any bytes.
pub(super) fn decode(bytes: &[u8]) -> Vec<TimeEntry> {
    let (chunks, _) = bytes.as_chunks::<ENTRY_BYTES>();
    chunks
        .iter()
        .map(|&[a, b, c, d, e, f, g, h, i, j, k, l]| TimeEntry {
            timestamp: Timestamp(i64::from_be_bytes([a, b, c, d, e, f, g, h])),
            last: u32::from_be_bytes([i, j, k, l]),
        })
        .collect()
}
