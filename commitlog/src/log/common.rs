//! How much two copies of one spool have in common with the log.
//!
//! A cloned machine and a snapshot that was rolled back both hold batches that may or may not have been
//! appended before the copies went different ways. The agent claims its batches by sequence and CRC;
//! the log is searched, backwards, for the producer's batches, and what agrees from the front on needs
//! not be sent again under another id.

use std::collections::BTreeMap;

use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence};
use crate::limits::COMMON_SCAN_BATCHES_MAX;

use super::reader::LogReader;

/// The batches that a log and a spool share, counted from the first that was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Common {
    /// The sequence after the last shared one.
    pub next: Sequence,
    /// Its records end here in the log.
    pub end: Offset,
}

impl LogReader {
    /// How many of the `claimed` batches, given by first sequence and CRC, one after another, the log
    /// holds of this producer. `None` when it does not hold the first, or holds it too far back.
    pub fn common(
        &self,
        id: ProducerId,
        epoch: ProducerEpoch,
        claimed: &[(Sequence, u32)],
    ) -> Option<Common> {
        let (first, _) = claimed.first()?;
        let mut found: BTreeMap<i32, Offset> = BTreeMap::new();
        let mut before = self.end();
        for _ in 0..COMMON_SCAN_BATCHES_MAX {
            let Some(header) = self.header_before(before) else {
                break;
            };
            before = header.base_offset;
            let of_producer = header
                .producer
                .filter(|it| it.id == id && it.epoch == epoch);
            if let Some(producer) = of_producer {
                found.insert(producer.base_sequence.get(), header.base_offset);
                if producer.base_sequence == *first {
                    break;
                }
            }
        }
        let mut common: Option<Common> = None;
        for (sequence, crc) in claimed {
            let Some(offset) = found.get(&sequence.get()) else {
                break;
            };
            // The whole batch is read for its CRC: a header that lost a bit proves nothing.
            let Some(header) = self.header_at(*offset) else {
                break;
            };
            let continues = common.is_none_or(|it| it.next == *sequence);
            let Some(next) = header.next_sequence() else {
                break;
            };
            if header.crc != *crc || !continues {
                break;
            }
            common = Some(Common {
                next,
                end: header.next_offset(),
            });
        }
        common
    }
}
