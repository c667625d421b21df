//! Reads a producer's earlier batches back from the log.
//!
//! A snapshot holds a producer's last batch only. A retry of an earlier one is rare after a restart (the
//! session begins by telling the agent where to go on), so the rest is read when it is asked for.

use std::collections::VecDeque;

use crate::id::{ProducerEpoch, ProducerId};
use crate::limits::{PRODUCER_BATCHES_KEPT, RECALL_BATCHES_MAX};

use super::producer_state::KnownBatch;
use super::reader::LogReader;

/// `batches`, with the CRCs that were unknown and with the batches before the first, as far as the log
/// still has them within [`RECALL_BATCHES_MAX`].
pub(super) fn recall(
    reader: &LogReader,
    id: ProducerId,
    epoch: ProducerEpoch,
    mut batches: VecDeque<KnownBatch>,
) -> VecDeque<KnownBatch> {
    for batch in &mut batches {
        let header = reader.header_at(batch.base_offset);
        let same = header.filter(|header| {
            header.producer.is_some_and(|producer| {
                producer.id == id && producer.base_sequence == batch.base_sequence
            })
        });
        batch.crc = batch.crc.or(same.map(|header| header.crc));
    }
    let Some(mut before) = batches.front().map(|first| first.base_offset) else {
        return batches;
    };
    for _ in 0..RECALL_BATCHES_MAX {
        if batches.len() >= PRODUCER_BATCHES_KEPT {
            break;
        }
        let Some(header) = reader.header_before(before) else {
            break;
        };
        before = header.base_offset;
        let of_producer = header.producer.filter(|producer| producer.id == id);
        let Some(producer) = of_producer else {
            continue;
        };
        if producer.epoch != epoch {
            break;
        }
        // The whole batch is read for its CRC: a header that lost a bit must not prove a duplicate.
        let Some(header) = reader.header_at(header.base_offset) else {
            continue;
        };
        batches.push_front(KnownBatch {
            base_sequence: producer.base_sequence,
            records: header.record_count,
            base_offset: header.base_offset,
            crc: Some(header.crc),
        });
    }
    batches
}
