//! The record batch: Kafka's `RecordBatch` v2, cut once by the agent and never changed after.
//!
//! The same bytes lie in the spool, travel on the wire, lie in the topic's log and are fetched by a
//! Kafka consumer. All integers are big-endian; lengths inside records are zigzag varints.
//!
//! | bytes | field | under the CRC |
//! |---|---|---|
//! | 0-7 | base offset | no: the log assigns it |
//! | 8-11 | batch length: bytes after this field | no: a wrong one moves the CRC's end |
//! | 12-15 | partition leader epoch | no: the log sets it to 0 |
//! | 16 | magic, 2 | no: any other value is refused |
//! | 17-20 | CRC-32C of all bytes from 21 on | |
//! | 21-22 | attributes: codec in bits 0-2 (0 none, 4 zstd), all other bits 0 | yes |
//! | 23-26 | last offset delta: record count - 1 | yes |
//! | 27-34, 35-42 | base and maximum timestamp, ms | yes |
//! | 43-50, 51-52, 53-56 | producer id, producer epoch, base sequence; all -1 or none | yes |
//! | 57-60 | record count | yes |
//! | 61.. | the records, compressed as one zstd frame that states its content's size | yes |
//!
//! A record: length; attributes (one byte, 0); timestamp delta; offset delta; key length (-1: null),
//! key; value length, value; header count; each header: name length, UTF-8 name, value length
//! (-1: null), value. Header names may repeat and keep their order.
//!
//! - [`builder`] cuts records into batches.
//! - [`header`] reads, verifies and patches what lies around the records. It never decompresses.
//! - [`records`] reads the records again.
//!
//! Invariants: a batch that `verify` accepts has the bytes that its producer sealed; `patch` changes
//! nothing that a consumer of the records could see; no input makes any of this panic, and none makes
//! it allocate more than [`BATCH_RAW_BYTES_MAX`](crate::limits::BATCH_RAW_BYTES_MAX).

pub mod builder;
pub mod header;
pub mod records;
#[cfg(test)]
mod tests;
mod varint;
