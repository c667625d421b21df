//! Every limit of the command line, each with its reason.

use std::time::Duration;

/// A response held in memory. The largest is a chunk of records as JSON: one batch is at most 8 MiB
/// raw, JSON writes a byte as six at worst, and a chunk may hold several batches.
pub(crate) const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of records asked for at once, as they are before compression: enough to keep one connection
/// busy, little enough that nobody waits long for the first.
pub(crate) const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes asked for at once over all partitions; each gets its share. Bounds the memory of a tail.
pub(crate) const CHUNKS_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The least that is asked for at once. A single batch comes whole however large it is.
pub(crate) const CHUNK_BYTES_MIN: usize = 1024 * 1024;

/// Chunks that wait between the network and the printer, per partition.
pub(crate) const CHUNKS_WAITING_MAX: usize = 2;

/// How long one long poll waits for a record.
pub(crate) const POLL_WAIT: Duration = Duration::from_secs(5);

/// A connection is given up when it takes longer to be made: an address where nobody answers.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A response's head comes within this time, a long poll's wait included.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_mins(1);

/// A server that has no room is asked again after this time, as it asks for.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// For so long; then there is something wrong that people must look at.
pub(crate) const BUSY_MAX: Duration = Duration::from_mins(1);

/// `tail --follow` waits this long before it tries a lost server again.
pub(crate) const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Chunks of all followed partitions that wait for the printer.
pub(crate) const FOLLOW_EVENTS_MAX: usize = 16;

/// How often `tail --follow` looks for a new partition, and whether anyone still reads.
pub(crate) const FOLLOW_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Text gathered before it is written: as much as a pipe takes in a few writes.
pub(crate) const OUTPUT_BUFFER_BYTES: usize = 256 * 1024;

/// What `tail` shows of a topic when neither `--from` nor `-n` is given, as the Unix `tail`.
pub(crate) const TAIL_RECORDS_DEFAULT: u64 = 10;

const _: () = assert!(CHUNK_BYTES_MIN <= CHUNK_BYTES_MAX && CHUNK_BYTES_MAX <= RESPONSE_BYTES_MAX);
