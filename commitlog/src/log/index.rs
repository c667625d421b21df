//! The offset index: where each batch of a segment lies.
//!
//! 8 bytes an entry, big-endian, as Kafka writes them: the batch's last offset less the segment's base
//! (4), the batch's position (4). Kafka allows any density; ours has an entry for every batch, so a
//! look-up never scans and a damaged batch costs nobody else: its entry says where the next one lies
//! and which offsets it took.
//!
//! An entry is written only after its batch is durable. So an entry that is found on disk, whole and
//! in its place, is also a claim: *that batch was fsynced*. Recovery leans on it (`walk.rs`).

use crate::id::Offset;

/// The bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 8;

/// One batch: its last offset and its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// The batch's last offset less the segment's base.
    pub(super) last: u32,
    /// Where the batch begins in the `.log` file.
    pub(super) position: u32,
}

/// A batch as the index places it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: Offset,
    pub(super) last: Offset,
    pub(super) position: u64,
    pub(super) bytes: u64,
}

impl Span {
    pub(super) fn next(&self) -> Offset {
        self.last.plus(1)
    }
}

/// An entry for a batch that ends with `last`, in the segment that begins with `base`.
pub(super) fn entry(base: Offset, last: Offset, position: u64) -> Option<IndexEntry> {
    Some(IndexEntry {
        last: u32::try_from(last.get().checked_sub(base.get())?).ok()?,
        position: u32::try_from(position).ok()?,
    })
}

/// The entry's last offset.
pub(super) fn last_offset(base: Offset, entry: IndexEntry) -> Offset {
    base.plus(entry.last)
}

/// Appends the bytes of `entries` to `out`.
pub(super) fn encode(entries: &[IndexEntry], out: &mut Vec<u8>) {
    out.reserve(entries.len() * ENTRY_BYTES);
    for entry in entries {
        out.extend_from_slice(&entry.last.to_be_bytes());
        out.extend_from_slice(&entry.position.to_be_bytes());
    }
}

/// Reads entries; a torn one at the end is left out. Nothing is checked: these may be any bytes.
pub(super) fn decode(bytes: &[u8]) -> Vec<IndexEntry> {
    let (chunks, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let number = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
    chunks
        .iter()
        .map(|&[a, b, c, d, e, f, g, h]| IndexEntry {
            last: number([a, b, c, d]),
            position: number([e, f, g, h]),
        })
        .collect()
}

/// The number of the batch that holds `offset`, or of the first after it.
pub(super) fn find(base: Offset, entries: &[IndexEntry], offset: Offset) -> usize {
    entries.partition_point(|&entry| last_offset(base, entry) < offset)
}

/// The `number`th batch of a segment whose batches end at `log_bytes`.
pub(super) fn span(
    base: Offset,
    entries: &[IndexEntry],
    number: usize,
    log_bytes: u64,
) -> Option<Span> {
    let entry = *entries.get(number)?;
    let first = match number.checked_sub(1).and_then(|before| entries.get(before)) {
        Some(&before) => last_offset(base, before).plus(1),
        None => base,
    };
    let end = match entries.get(number + 1) {
        Some(next) => u64::from(next.position),
        None => log_bytes,
    };
    let position = u64::from(entry.position);
    Some(Span {
        first,
        last: last_offset(base, entry),
        position,
        bytes: end.saturating_sub(position),
    })
}
