//! Every limit of the log and the wire, each with its reason.

/// A record batch on disk and wire, compressed. Half of Kafka's default `max.message.bytes`
/// (1,048,588), so that any cluster takes our batches as they are.
pub const BATCH_BYTES_MAX: usize = 512 * 1024;

/// The records of one batch before compression. Bounds what a reader must allocate for one batch,
/// far below librdkafka's 100 MB.
pub const BATCH_RAW_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Records in one batch. Bounds the work a single header can ask of a reader.
pub const BATCH_RECORDS_MAX: u32 = 65_536;

/// One record's key, value and headers together. Leaves room for the batch's own fields.
pub const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Headers of one record. OpenTelemetry's default attribute limit is 128.
pub const RECORD_HEADERS_MAX: usize = 256;

/// Batches of a producer that are remembered for de-duplication. Kafka's number
/// (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
pub const PRODUCER_BATCHES_KEPT: usize = 5;

/// How long a silent producer's last sequence is remembered. An agent may be offline for a holiday.
pub const PRODUCER_EXPIRY_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Producers remembered per partition. Past it the longest silent are forgotten.
pub const PRODUCERS_MAX: usize = 100_000;

/// A topic's name: with `-`, the partition and a suffix it must fit a file name of 255 bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 200;

/// Partitions of one topic. More than any single machine can use; bounds what a peer can ask for.
pub const PARTITIONS_MAX: u32 = 1024;
