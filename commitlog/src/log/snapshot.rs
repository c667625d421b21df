//! `.snapshot`: the producers' state before the offset in the file's name, in Kafka's format.
//!
//! Big-endian: version, 1 (2); CRC-32C of all that follows (4); number of producers (4); each: producer
//! id (8), epoch (2), last sequence (4), last offset (8), offset delta (4), timestamp ms (8),
//! coordinator epoch, -1 (4), first offset of a running transaction, -1 (8).
//! The last batch of a producer is known from it; the four before are read back from the log.

use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::limits::{BATCH_RECORDS_MAX, PRODUCERS_MAX};

const VERSION: i16 = 1;
const SEALED_FROM: usize = 6;
const ENTRY_BYTES: usize = 46;
/// The largest file that is read: all producers a partition remembers.
pub(super) const SNAPSHOT_BYTES_MAX: usize = SEALED_FROM + 4 + PRODUCERS_MAX * ENTRY_BYTES;

/// One producer: its last batch and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SnapshotEntry {
    pub(super) id: ProducerId,
    pub(super) epoch: ProducerEpoch,
    pub(super) base_sequence: Sequence,
    pub(super) base_offset: Offset,
    /// At least 1.
    pub(super) records: u32,
    pub(super) last_append: Timestamp,
}

/// The file's bytes.
pub(super) fn encode(entries: &[SnapshotEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEALED_FROM + 4 + entries.len() * ENTRY_BYTES);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&count.to_be_bytes());
    for entry in entries {
        let delta = entry.records.saturating_sub(1);
        out.extend_from_slice(&entry.id.get().to_be_bytes());
        out.extend_from_slice(&entry.epoch.get().to_be_bytes());
        out.extend_from_slice(&entry.base_sequence.plus(delta).get().to_be_bytes());
        out.extend_from_slice(&entry.base_offset.plus(delta).get().to_be_bytes());
        out.extend_from_slice(&delta.to_be_bytes());
        out.extend_from_slice(&entry.last_append.0.to_be_bytes());
        out.extend_from_slice(&(-1i32).to_be_bytes());
        out.extend_from_slice(&(-1i64).to_be_bytes());
    }
    let crc = crc32c::crc32c(&out[SEALED_FROM..]);
    out[2..SEALED_FROM].copy_from_slice(&crc.to_be_bytes());
    out
}

/// The file's producers; `None` when it is damaged in any way.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<SnapshotEntry>> {
    let (version, rest) = bytes.split_first_chunk::<2>()?;
    let (crc, sealed) = rest.split_first_chunk::<4>()?;
    let whole = i16::from_be_bytes(*version) == VERSION
        && u32::from_be_bytes(*crc) == crc32c::crc32c(sealed);
    if !whole {
        return None;
    }
    let (count, entries) = sealed.split_first_chunk::<4>()?;
    let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() || entries.len() != u32::from_be_bytes(*count) as usize {
        return None;
    }
    entries.iter().map(entry).collect()
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> Option<SnapshotEntry> {
    let i64_at = |at: usize| Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let i32_at = |at: usize| Some(i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let epoch = i16::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
    let last_sequence = i32_at(10)?;
    let delta = u32::try_from(i32_at(22)?).ok()?;
    if delta >= BATCH_RECORDS_MAX {
        return None;
    }
    let wrapped = (i64::from(last_sequence) - i64::from(delta)) & 0x7fff_ffff;
    Some(SnapshotEntry {
        id: ProducerId::new(i64_at(0)?)?,
        epoch: ProducerEpoch::new(epoch)?,
        base_sequence: Sequence::new(i32::try_from(wrapped).ok()?)?,
        base_offset: Offset::new(i64_at(14)?.checked_sub(i64::from(delta))?)?,
        records: delta + 1,
        last_append: Timestamp(i64_at(26)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<SnapshotEntry> {
        let sequence = |n| Sequence::new(n).unwrap();
        [(1, 0, 5, 10, 3), (2, 7, i32::MAX, 0, 9)]
            .map(|(id, epoch, base, offset, records)| SnapshotEntry {
                id: ProducerId::new(id).unwrap(),
                epoch: ProducerEpoch::new(epoch).unwrap(),
                base_sequence: sequence(base),
                base_offset: Offset::new(offset).unwrap(),
                records,
                last_append: Timestamp(1_700_000_000_000),
            })
            .to_vec()
    }

    #[test]
    fn a_snapshot_reads_back_and_each_flipped_bit_is_seen() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes).unwrap(), sample());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "length {length}");
        }
    }

    #[test]
    fn the_bytes_are_kafkas() {
        // Written down from Kafka's ProducerSnapshot schema, version 1.
        let bytes = encode(&sample()[..1]);
        let expected: Vec<u8> = [
            &[0u8, 0, 0, 1][..],
            &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 2],
            &1_700_000_000_000i64.to_be_bytes(),
            &[0xff; 12],
        ]
        .concat();
        assert_eq!(bytes[..2], [0, 1]);
        assert_eq!(bytes[6..], expected);
    }
}
