//! A partition's log: a directory that is a valid Kafka 4.x partition directory, with one writer and any
//! number of readers.
//!
//! - [`partition`]: the writer, [`partition::PartitionLog`]: append, sync, close.
//! - [`reader`]: [`reader::LogReader`]: whole batches from an offset, gaps, offsets by time.
//! - [`retention`]: sealing, trimming, retention.
//! - [`recovery`]: opening, after whatever happened.
//! - [`inspect`]: verify, dump, repair, for a log that nobody writes.
//!
//! Beneath: `segment` (the files being written), `sealed` (those that are not), `walk` (verifying batch by
//! batch), `index`, `time_index`, `snapshot`, `checkpoint` (the files beside the `.log`),
//! `producer_state` and `recall` (duplicates), `shared` (what writer and readers share).

mod checkpoint;
pub mod common;
mod index;
pub mod inspect;
mod names;
pub mod partition;
mod producer_state;
pub mod reader;
mod recall;
pub mod recovery;
mod resume;
pub mod retention;
mod sealed;
mod segment;
mod shared;
mod snapshot;
mod time_index;
mod walk;
