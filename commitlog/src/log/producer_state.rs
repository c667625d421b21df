//! What each producer last appended: duplicates are answered with their original offsets, and a
//! producer that is not who it says is found out.
//!
//! Invariant **I9**: a retry is answered with its first offsets and nothing else ever is; also after a
//! restart.
//!
//! A retry bears the same producer, epoch, first sequence and content. The content's checksum is the
//! batch's own CRC: it does not cover the 12 bytes that the log patches, so the stored batch and the one
//! sent again compare. The same sequence with other content is another machine under the same name (a
//! clone, a rolled-back disk): a conflict, and nothing of it may be taken for a duplicate.

use std::collections::{BTreeMap, VecDeque};

use crate::batch::header::{BatchHeader, Producer};
use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::limits::{PRODUCER_BATCHES_KEPT, PRODUCER_EXPIRY_MS, PRODUCERS_MAX};

use super::snapshot::SnapshotEntry;

/// A batch that a producer appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownBatch {
    pub(super) base_sequence: Sequence,
    pub(super) records: u32,
    pub(super) base_offset: Offset,
    /// `None` until it is read back from the log.
    pub(super) crc: Option<u32>,
}

impl KnownBatch {
    pub(super) fn next_offset(&self) -> Offset {
        self.base_offset.plus(self.records)
    }

    fn holds(&self, sequence: Sequence) -> bool {
        sequence.since(self.base_sequence) < self.records
    }
}

/// What is known of one producer.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) epoch: ProducerEpoch,
    pub(super) next: Sequence,
    /// The sequence after the last durable record.
    pub(super) durable: Sequence,
    /// The last batches, oldest first; at most [`PRODUCER_BATCHES_KEPT`].
    pub(super) batches: VecDeque<KnownBatch>,
    /// Whether earlier batches of the producer may lie in the log unread.
    pub(super) incomplete: bool,
    pub(super) last_append: Timestamp,
}

/// What a producer's batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The next one, or the first of an unknown producer.
    Next,
    /// One that was appended before.
    Duplicate(KnownBatch),
    /// Bears the sequence of this one, with other content.
    Conflict(KnownBatch),
    /// Not the next; this is.
    OutOfOrder(Sequence),
    /// Of an epoch before this one.
    Fenced(ProducerEpoch),
    /// Comes before what is remembered: read back more, then ask again.
    Recall,
}

/// The producers of a partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Producers {
    by_id: BTreeMap<ProducerId, Known>,
}

impl Producers {
    /// What is known of a producer that has not expired.
    pub(super) fn find(&self, id: ProducerId) -> Option<&Known> {
        self.by_id.get(&id)
    }

    pub(super) fn find_mut(&mut self, id: ProducerId) -> Option<&mut Known> {
        self.by_id.get_mut(&id)
    }

    /// Judges a batch that came at `now`.
    pub(super) fn judge(
        &mut self,
        producer: Producer,
        header: &BatchHeader,
        now: Timestamp,
    ) -> Verdict {
        let Some(known) = self.by_id.get(&producer.id) else {
            return Verdict::Next;
        };
        if is_expired(known, now) {
            self.by_id.remove(&producer.id);
            return Verdict::Next;
        }
        if producer.epoch < known.epoch {
            return Verdict::Fenced(known.epoch);
        }
        if producer.epoch > known.epoch {
            return match producer.base_sequence {
                Sequence::ZERO => Verdict::Next,
                _ => Verdict::OutOfOrder(Sequence::ZERO),
            };
        }
        if producer.base_sequence == known.next {
            return Verdict::Next;
        }
        known.judge_old(producer.base_sequence, header)
    }

    /// Takes in a batch that was appended.
    pub(super) fn admit(&mut self, header: &BatchHeader, now: Timestamp) {
        let (Some(producer), Some(next)) = (header.producer, header.next_sequence()) else {
            return;
        };
        if !self.by_id.contains_key(&producer.id) {
            self.make_room();
        }
        let fresh = || Known {
            epoch: producer.epoch,
            next: producer.base_sequence,
            durable: producer.base_sequence,
            batches: VecDeque::new(),
            incomplete: false,
            last_append: now,
        };
        let known = self.by_id.entry(producer.id).or_insert_with(fresh);
        if known.epoch != producer.epoch {
            *known = fresh();
        }
        if known.batches.len() == PRODUCER_BATCHES_KEPT {
            known.batches.pop_front();
            known.incomplete = false;
        }
        known.batches.push_back(KnownBatch {
            base_sequence: producer.base_sequence,
            records: header.record_count,
            base_offset: header.base_offset,
            crc: Some(header.crc),
        });
        known.next = next;
        known.last_append = known.last_append.max(now);
    }

    /// Everything appended is durable.
    pub(super) fn all_durable(&mut self) {
        for known in self.by_id.values_mut() {
            known.durable = known.next;
        }
    }

    /// Forgets the producers that were silent for too long.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.by_id.retain(|_, known| !is_expired(known, now));
    }

    /// What a snapshot holds.
    pub(super) fn snapshot(&self) -> Vec<SnapshotEntry> {
        let entry = |(&id, known): (&ProducerId, &Known)| {
            let last = known.batches.back()?;
            Some(SnapshotEntry {
                id,
                epoch: known.epoch,
                base_sequence: last.base_sequence,
                base_offset: last.base_offset,
                records: last.records,
                last_append: known.last_append,
            })
        };
        self.by_id.iter().filter_map(entry).collect()
    }

    /// The producers of a snapshot.
    pub(super) fn restore(entries: &[SnapshotEntry]) -> Producers {
        let known = |entry: &SnapshotEntry| {
            let next = entry.base_sequence.plus(entry.records);
            let last = KnownBatch {
                base_sequence: entry.base_sequence,
                records: entry.records,
                base_offset: entry.base_offset,
                crc: None,
            };
            let known = Known {
                epoch: entry.epoch,
                next,
                durable: next,
                batches: VecDeque::from([last]),
                incomplete: true,
                last_append: entry.last_append,
            };
            (entry.id, known)
        };
        Producers {
            by_id: entries.iter().map(known).collect(),
        }
    }

    /// Forgets the longest silent, a sixteenth at a time, so that this stays rare.
    fn make_room(&mut self) {
        if self.by_id.len() < PRODUCERS_MAX {
            return;
        }
        let mut by_age: Vec<(Timestamp, ProducerId)> = self
            .by_id
            .iter()
            .map(|(&id, known)| (known.last_append, id))
            .collect();
        by_age.sort_unstable();
        for (_, id) in by_age.iter().take(PRODUCERS_MAX / 16) {
            self.by_id.remove(id);
        }
    }
}

impl Known {
    /// Judges a batch of this epoch that is not the next.
    fn judge_old(&self, sequence: Sequence, header: &BatchHeader) -> Verdict {
        for batch in self.batches.iter().rev() {
            if !batch.holds(sequence) {
                continue;
            }
            let same_place =
                batch.base_sequence == sequence && batch.records == header.record_count;
            return match batch.crc {
                _ if !same_place => Verdict::Conflict(*batch),
                Some(crc) if is_same_content(crc, header.crc) => Verdict::Duplicate(*batch),
                None if self.incomplete => Verdict::Recall,
                // Without a CRC, it is no longer in the log to compare with. What cannot be proven a
                // duplicate is kept.
                _ => Verdict::Conflict(*batch),
            };
        }
        let behind = self.next.since(sequence) < 1 << 30;
        if behind && self.incomplete {
            Verdict::Recall
        } else {
            Verdict::OutOfOrder(self.next)
        }
    }
}

fn is_same_content(known_crc: u32, crc: u32) -> bool {
    #[cfg(mutant = "dedup_by_sequence_only")]
    return known_crc == crc || known_crc != crc;
    #[cfg(not(mutant = "dedup_by_sequence_only"))]
    return known_crc == crc;
}

fn is_expired(known: &Known, now: Timestamp) -> bool {
    now.0.saturating_sub(known.last_append.0) > PRODUCER_EXPIRY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(id: i64) -> BatchHeader {
        let producer = Producer {
            id: ProducerId::new(id).unwrap(),
            epoch: ProducerEpoch::ZERO,
            base_sequence: Sequence::ZERO,
        };
        BatchHeader {
            base_offset: Offset::new(id).unwrap(),
            batch_length: 100,
            leader_epoch: 0,
            crc: 7,
            attributes: 0,
            last_offset_delta: 0,
            base_timestamp: Timestamp(0),
            max_timestamp: Timestamp(0),
            producer: Some(producer),
            record_count: 1,
        }
    }

    #[test]
    fn the_longest_silent_go_when_there_are_too_many() {
        let mut producers = Producers::default();
        let count = i64::try_from(PRODUCERS_MAX).unwrap();
        for id in 0..=count {
            // The first come last: it is silence that counts, not the number.
            producers.admit(&header(id), Timestamp(count - id));
        }
        assert!(producers.by_id.len() <= PRODUCERS_MAX);
        let known = |id| producers.find(ProducerId::new(id).unwrap()).is_some();
        assert!(known(0) && known(count) && !known(count - 1));
    }

    #[test]
    fn a_snapshot_gives_the_same_producers_back() {
        let mut producers = Producers::default();
        for id in 0..10 {
            producers.admit(&header(id), Timestamp(id));
        }
        let again = Producers::restore(&producers.snapshot());
        assert_eq!(again.snapshot(), producers.snapshot());
    }
}
