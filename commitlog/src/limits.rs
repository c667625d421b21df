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

/// A control message on the wire. Holds a Hello that names [`SESSION_PARTITIONS_MAX`] partitions with
/// the longest names.
pub const CONTROL_BYTES_MAX: usize = 256 * 1024;

/// Partitions of one session, and so its data streams. A stream that is silent costs each side some
/// hundred bytes.
pub const SESSION_PARTITIONS_MAX: usize = 1024;

/// A host name, a machine id, a version, an address on the wire. DNS names have at most 253 bytes.
pub const WIRE_NAME_BYTES_MAX: usize = 256;

/// A refusal's words. A sentence that says what to do, not a page.
pub const WIRE_TEXT_BYTES_MAX: usize = 1024;

/// A certificate request or chain on the wire. An Ed25519 chain of two has about 1 KiB.
pub const WIRE_CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// Certificates of one chain, or authorities, on the wire. Two of each are usual.
pub const WIRE_CERTIFICATES_MAX: usize = 7;

/// Addresses in one redirect.
pub const WIRE_ADDRESSES_MAX: usize = 64;

/// Topics in one hint, reasons in one status.
pub const WIRE_LIST_MAX: usize = 1024;

/// One chunk of a stream over TCP. Small, so that a full batch cannot hold up an acknowledgement:
/// 64 KiB are half a millisecond at 1 Gbit/s.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// Control bytes that wait to be written. A peer that does not read its acknowledgements is cut off
/// rather than remembered.
pub const CONTROL_BACKLOG_BYTES_MAX: usize = 4 * CONTROL_BYTES_MAX;

/// A side that sent nothing for this long says that it lives, where the transport does not.
pub const SESSION_PING_AFTER: std::time::Duration = std::time::Duration::from_secs(5);

/// A peer that was silent for this long is gone. Three pings may be lost; the agent has its spool.
pub const SESSION_SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(15);

/// What a frame's buffer takes before the frame's bytes arrive. A peer gets memory for what it sends,
/// not for what it says it will send.
pub const FRAME_BYTES_FIRST: usize = 64 * 1024;

const _: () = {
    // A Hello with every partition at its longest name fits one control message.
    assert!(SESSION_PARTITIONS_MAX * (TOPIC_NAME_BYTES_MAX + 2 + 4) + 2048 <= CONTROL_BYTES_MAX);
    assert!(2 * WIRE_CERTIFICATES_MAX * (WIRE_CERTIFICATE_BYTES_MAX + 4) < CONTROL_BYTES_MAX);
    assert!(BATCH_BYTES_MAX > CHUNK_BYTES_MAX);
};

/// A segment, whatever the configuration says. Kafka's positions have 31 bits.
pub const SEGMENT_BYTES_LIMIT: u64 = 1 << 30;

/// Batches of one segment. Bounds the index that is held in memory for the segment being written, 2 MiB;
/// tiny batches roll the segment early.
pub const INDEX_ENTRIES_MAX: usize = 256 * 1024;

/// Sealed segments of one log whose index and file are held open for readers. A few consumers at
/// different places; each costs a file descriptor and at most 6 MiB, typically 50 KiB.
pub const SEALED_SEGMENTS_LOADED_MAX: usize = 4;

/// Log bytes between two entries of the time index (Kafka's `index.interval.bytes`).
pub const TIME_INDEX_INTERVAL_BYTES: u64 = 4096;

/// Synced bytes after which the recovery point is made durable. Bounds what a start-up after a power
/// loss reads, at four more fsyncs for this many bytes.
pub const CHECKPOINT_EVERY_BYTES: u64 = 16 * 1024 * 1024;

/// The checkpoint file: 60 bytes a segment, so a quarter of a million segments.
pub const CHECKPOINT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a scan reads at once.
pub const READ_WINDOW_BYTES: usize = 1024 * 1024;

/// Batches that are looked through, backwards, for the earlier batches of one producer after a restart.
/// Past it a retry that old is answered as out of order, with the sequence to go on with.
pub const RECALL_BATCHES_MAX: usize = 4096;

/// Batches that are looked through, backwards, for what a cloned or rolled-back spool shares with the log.
/// A read of 61 bytes each; past it the spool's batches are sent again.
pub const COMMON_SCAN_BATCHES_MAX: usize = 65_536;

/// Batches that an agent claims at once to find what its spool shares with a log.
pub const CLAIMS_MAX: usize = 4096;

/// Gaps told in one read; the next read tells the next.
pub const GAPS_PER_READ_MAX: usize = 1024;

/// How deep below a path partitions' directories are looked for. Ours lie two deep.
pub const DIRECTORY_DEPTH_MAX: usize = 6;
