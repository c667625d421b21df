//! Batches made by hand: with payloads that hold other batches.

use commitlog::batch::header::{HEADER_BYTES, Producer, patch, restamp, verify};
use commitlog::id::Offset;

use super::{NOW, batch, producer};

/// A batch of one record's header and `payload` as its uncompressed records. The log does not look inside.
pub fn uncompressed(of: Producer, records: u32, payload: &[u8]) -> Vec<u8> {
    let mut made = batch(of, NOW, &[b"x"]);
    made.truncate(HEADER_BYTES);
    made.extend_from_slice(payload);
    let length = u32::try_from(made.len() - 12).unwrap();
    made[8..12].copy_from_slice(&length.to_be_bytes());
    made[21..23].copy_from_slice(&0u16.to_be_bytes());
    made[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    made[57..61].copy_from_slice(&records.to_be_bytes());
    restamp(&mut made, of);
    verify(&made).unwrap();
    made
}

/// A batch that looks like one that the log placed at `base`.
pub fn forged(base: Offset, records: u32) -> Vec<u8> {
    let mut made = uncompressed(producer(666, 0), records, b"never appended");
    patch(&mut made, base);
    made
}
