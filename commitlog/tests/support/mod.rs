//! Batches for the tests of the log: numbered records of one or several producers.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses its part, and a test may unwrap"
)]

pub mod craft;
pub mod world;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::Producer;
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// A time to begin with.
pub const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// An offset.
pub fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// A producer of epoch 0.
pub fn producer(id: i64, base_sequence: i32) -> Producer {
    Producer {
        id: ProducerId::new(id).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::new(base_sequence).unwrap(),
    }
}

/// One batch of these values.
pub fn batch(producer: Producer, timestamp: Timestamp, values: &[&[u8]]) -> Vec<u8> {
    let headers = HeaderBlock::new(&[]).unwrap();
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(&NewRecord {
            timestamp,
            key: None,
            value,
            headers: &headers,
            extra: None,
        });
    }
    let mut out = Vec::new();
    builder.finish(producer, &mut out).unwrap();
    assert_eq!(out.len(), 1);
    out.remove(0)
}

/// A small deterministic generator (xorshift64*): tests print its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

/// Batches that continue each other: `producers` take turns, each batch has 1 to 4 records.
pub fn batches(seed: u64, count: usize, producers: i64, value_bytes: usize) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed);
    let mut next = vec![0i32; usize::try_from(producers).unwrap()];
    let mut out = Vec::new();
    for number in 0..count {
        let who = number % next.len();
        let records = 1 + usize::try_from(random.below(4)).unwrap();
        let values: Vec<Vec<u8>> = (0..records)
            .map(|_| {
                let bytes = 1 + random.below(value_bytes as u64);
                random.bytes(usize::try_from(bytes).unwrap())
            })
            .collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let time = Timestamp(NOW.0 + i64::try_from(number).unwrap());
        let id = 100 + i64::try_from(who).unwrap();
        out.push(batch(producer(id, next[who]), time, &values));
        next[who] += i32::try_from(records).unwrap();
    }
    out
}
