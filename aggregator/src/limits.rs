//! Every limit of the aggregator, each with its reason.

use std::time::Duration;

use commitlog::limits::{BATCH_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use config::join::message::FRAME_BYTES_MAX;

/// Partitions of all topics together. Each holds a few open files and about 10 KiB; an agent that
/// makes topics up must not use up either.
pub const PARTITIONS_TOTAL_MAX: usize = 10_000;

/// The wait before the first attempt to open a failed partition again.
pub const REOPEN_BACKOFF_MIN_MS: i64 = 100;

/// The longest wait between attempts to open a failed partition again: an operator who freed the
/// disk sees it within seconds.
pub const REOPEN_BACKOFF_MAX_MS: i64 = 5_000;

/// After the disk refused a write credits stay zero for this long, then one more attempt shows
/// whether it is still full (inodes and quotas do not show in the free bytes).
pub const DISK_FULL_PAUSE_MS: i64 = 1_000;

/// How often free space is asked for and failed partitions are looked at.
pub const MAINTENANCE_INTERVAL_MS: u64 = 100;

/// How often the free space is asked for. A gigabyte per second fills 10 % of a 100 GB disk in ten
/// seconds.
pub const DISK_CHECK_INTERVAL_MS: i64 = 1_000;

/// How often retention runs over all partitions.
pub const RETENTION_INTERVAL_MS: i64 = 60_000;

/// Threads that sync partitions. A journalling file system commits fsyncs together that come together:
/// 1,000 dirty partitions were durable in 1.6 s with eight threads and in 5.1 s with two, on two busy
/// cores. An idle thread costs nothing.
pub const SYNC_THREADS: usize = 8;

/// An fsync of at least so many bytes is followed by a rest: the partition gets more as fast as it can
/// be sent, and one fsync for several batches costs as much as for one.
pub const SYNC_BUSY_BYTES: usize = 128 * 1024;

/// The rest of a partition after a large fsync.
pub const SYNC_REST: Duration = Duration::from_millis(10);

/// A write into the page cache that takes longer than this has waited for the disk, or for a processor
/// that is busy elsewhere. The kernel throttles writers by tens of milliseconds at a time.
pub const APPEND_IN_PLACE_MAX: Duration = Duration::from_millis(10);

/// How long appends run on threads of their own after one that waited, in milliseconds: what throttles
/// writes lasts about as long as the disk needs for what is dirty.
pub const APPEND_APART_MS: u64 = 1_000;

/// Threads that open partitions at start and close them at the end; each waits for the disk most of
/// the time.
pub const DISK_THREADS_MAX: usize = 8;

/// Raw bytes of records in one fetch answer when the client names no bound.
pub const FETCH_BYTES_DEFAULT: usize = 4 * 1024 * 1024;

/// Raw bytes of records in one fetch answer at most: what one request may keep in memory.
pub const FETCH_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The least that a fetch reads from the log at once: a whole batch of the usual size.
pub const FETCH_READ_BYTES_MIN: usize = 128 * 1024;

/// The longest long poll: shorter than what proxies cut.
pub const FETCH_WAIT_MAX: Duration = Duration::from_secs(50);

/// A piece of ndjson: what one fetch holds in memory of its answer. The client's reading paces the
/// next.
pub const NDJSON_PIECE_BYTES: usize = 4 * 1024 * 1024;

/// Room for the record that fills a piece, as a guess that saves a reallocation.
pub const RECORD_JSON_BYTES: usize = 16 * 1024;

/// The body of a request: offsets of a thousand partitions, or a token's settings.
pub const HTTP_BODY_BYTES_MAX: usize = 256 * 1024;

/// All headers of a request together.
pub const HTTP_HEADER_BYTES_MAX: usize = 32 * 1024;

/// How long a client may take to send its headers; idle connections end then, too.
pub const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// The same on the connections that are reserved for health and metrics: whoever watches is near, and
/// who says nothing must not hold the last places for longer than a probe waits.
pub const HTTP_HEADER_TIMEOUT_RESERVED: Duration = Duration::from_secs(1);

/// How long a client may take nothing of its answer.
pub const HTTP_STALL_MAX: Duration = Duration::from_mins(2);

/// HTTP connections at once. Each may hold one piece of an answer.
pub const HTTP_CONNECTIONS_MAX: usize = 512;

/// HTTP connections past those, for health and metrics alone: whoever watches this process must hear
/// from it above all when it is full.
pub const HTTP_CONNECTIONS_RESERVED: usize = 32;

/// Requests that wait for a record at once. The rest of the connections is for those that do not wait.
pub const HTTP_LONG_POLLS_MAX: usize = 384;

const _: () = assert!(HTTP_LONG_POLLS_MAX < HTTP_CONNECTIONS_MAX);

/// Who finds no room is told to come again after so many seconds.
pub const HTTP_RETRY_AFTER_SECONDS: u64 = 1;

/// After a failed accept, which is out of file descriptors as a rule.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A consumer group's name, which is a key in a table.
pub const GROUP_NAME_BYTES_MAX: usize = 200;

/// Consumer groups with committed offsets.
pub const GROUPS_MAX: usize = 10_000;

/// Agents that are listed. Past it those are forgotten that have been away longest.
pub const AGENTS_MAX: usize = 20_000;

/// Reasons of loss that one agent may report.
pub const LOSS_REASONS_MAX: usize = 64;

/// Identity conflicts that are kept of an agent.
pub const CONFLICTS_KEPT: usize = 8;

/// How long a certificate of an agent or of the server lives; it is renewed at two thirds of it. An
/// agent that was off for a holiday still gets in.
pub const CERTIFICATE_DAYS: u32 = 30;

/// How long the built-in authority lives: longer than the machine.
pub const AUTHORITY_DAYS: u32 = 20 * 365;

/// Certificates begin this much before they are made: clocks of hosts may be behind.
pub const CERTIFICATE_BACKDATED_HOURS: u32 = 24;

/// A key or a certificate chain in PEM.
pub const IDENTITY_FILE_BYTES_MAX: u64 = 256 * 1024;

/// Topic patterns of one token: they stand in the certificate, which must fit a handshake.
pub const TOPIC_PATTERNS_MAX: usize = 16;

/// Join tokens kept at once, used ones among them.
pub const TOKENS_MAX: usize = 10_000;

/// How long a token that can no longer be used stays in the list, so that an agent that tries it is
/// told why.
pub const TOKEN_KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// How long an agent stays in the list after its certificate has ended, or since it was seen where it
/// has none of ours: as long as a certificate lives, so that a host that was away for two months is
/// still known by its name.
pub const AGENT_KEPT_MS: i64 = CERTIFICATE_DAYS as i64 * 24 * 3_600_000;

/// How often agents are looked for that can be forgotten.
pub const AGENTS_FORGET_INTERVAL: Duration = Duration::from_hours(1);

/// The longest life of a token.
pub const TOKEN_TTL_MAX: Duration = Duration::from_hours(365 * 24);

/// The most uses of a token.
pub const TOKEN_USES_MAX: u32 = 1_000_000;

/// An exchange of enrolment: one round trip, and an fsync that may be slow.
pub const ENROL_TIMEOUT: Duration = Duration::from_secs(20);

/// Failed attempts to enrol that one address has in [`ENROL_WINDOW_MS`]. Guessing a secret of 128
/// bits is hopeless anyway; this bounds the work and the log lines that somebody can cause.
pub const ENROL_FAILURES_MAX: u32 = 60;

/// See [`ENROL_FAILURES_MAX`].
pub const ENROL_WINDOW_MS: i64 = 60_000;

/// Addresses whose failures are counted at once; past it the oldest are forgotten.
pub const ENROL_ADDRESSES_MAX: usize = 4_096;

/// A host's name as an agent tells it. Linux has 64, DNS 253.
pub const HOST_NAME_BYTES_MAX: usize = 255;

/// A segment that is written for longer is sealed: retention drops whole segments.
pub const SEGMENT_AGE_MAX: Duration = Duration::from_hours(1);

/// How long a stop may take until what still runs is left behind.
pub const STOP_MAX: Duration = Duration::from_secs(10);

/// How often what changed in the registry of agents is written.
pub const AGENTS_WRITE_INTERVAL: Duration = Duration::from_mins(1);

/// The file with the admin token.
pub const ADMIN_TOKEN_BYTES_MAX: u64 = 1024;

/// Kernel buffers of the QUIC socket. Linux' default of 208 KiB overflows when many agents send at
/// once.
pub const UDP_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// TCP connections that wait to be accepted.
pub const TCP_BACKLOG: i32 = 1024;

/// QUIC handshakes under way past which a client must first show that its address is its own (a Retry
/// packet, one round trip): forged addresses then cost nothing.
pub const HANDSHAKES_UNVALIDATED_MAX: usize = 64;

/// Handshakes under way at once, of each transport. Each costs about 0.2 ms of signing.
pub const HANDSHAKES_MAX: usize = 2048;

/// A handshake, and the Hello after it.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Connected agents. Each costs about 50 KiB.
pub const CONNECTIONS_MAX: usize = 20_000;

/// QUIC: the largest datagram taken, a jumbo frame's payload; agents probe for less. quinn reserves 64
/// of them in 32 buffers, of which the kernel fills 64 KiB each: 2 MiB become resident.
pub const QUIC_DATAGRAM_BYTES_MAX: u16 = 8952;

/// QUIC: unread bytes of one connection, out-of-order ones included.
pub const QUIC_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// QUIC: unread bytes of one stream. 32 MB/s at a round trip of 125 ms.
pub const QUIC_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// QUIC: acknowledgements that an agent has not taken.
pub const QUIC_SEND_WINDOW_BYTES: u64 = 1024 * 1024;

/// QUIC: a peer that answers nothing for this long is gone. Agents probe every five seconds.
pub const QUIC_IDLE_MAX: Duration = Duration::from_secs(15);

/// Batches of all sessions that are being received or appended.
pub const FRAME_MEMORY_BYTES: usize = 128 * 1024 * 1024;

/// Buffers of batches that are kept for the next ones: as many as are in hand at once when few agents
/// send all they can. 8 MiB of the largest size.
pub const BUFFERS_KEPT: usize = 16;

/// Batches of one session that are being received or appended: 32 of the largest size at once, a
/// hundred and more of the usual one, and an eighth of what all sessions have.
pub const SESSION_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(SESSION_FRAME_BYTES_MAX >= BATCH_BYTES_MAX);
const _: () = assert!(SESSION_FRAME_BYTES_MAX < FRAME_MEMORY_BYTES);

/// Credit of all streams together, while there are few enough of them.
pub const CREDIT_TOTAL_BYTES: u64 = 256 * 1024 * 1024;

/// Credit of one stream at least: two batches of the largest size, so that one can be sent while the
/// other is appended.
pub const CREDIT_WINDOW_MIN: u64 = 2 * BATCH_BYTES_MAX as u64;

/// Credit of one stream at most. 40 MB/s at a round trip of 100 ms.
pub const CREDIT_WINDOW_MAX: u64 = 4 * 1024 * 1024;

/// Batches of one slot that came by TCP and wait for the append. Credit bounds their bytes, so the
/// queue is never full.
pub const SLOT_QUEUE_BATCHES: usize = 128 * 1024;

/// Batches per second that one aggregator should see; agents are told to gather longer when more are
/// connected.
pub const BATCHES_PER_SECOND_TARGET: u32 = 20_000;

/// The linger while few agents are connected. An fsync takes about as long.
pub const LINGER_SHORTEST: Duration = Duration::from_millis(1);

/// The linger when very many are.
pub const LINGER_LONGEST: Duration = Duration::from_secs(1);

/// A frame that has begun must end within this time plus a second for every KiB: slower peers only
/// hold memory.
pub const FRAME_PROGRESS_GRACE: Duration = Duration::from_secs(10);

/// See [`FRAME_PROGRESS_GRACE`].
pub const FRAME_BYTES_PER_SECOND_MIN: usize = 1024;

/// How long a session that ends waits until its last words are taken.
pub const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// How long sessions may take to end at shutdown.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

const _: () = assert!(
    CREDIT_WINDOW_MAX < (SLOT_QUEUE_BATCHES * commitlog::batch::header::HEADER_BYTES) as u64,
    "credit bounds the queue"
);

/// How long a client may take to send a body.
pub const HTTP_BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pieces of a TCP connection's control stream that wait for the session.
pub const CONTROL_QUEUE_CHUNKS: usize = 8;

/// How often a session looks at the time.
pub const SESSION_TICK: Duration = Duration::from_millis(500);

/// How long a session that ends waits for the fsync of what it appended.
pub const SETTLE_GRACE: Duration = Duration::from_secs(1);

/// How long a session looks at no request for a certificate after the last: each costs a signature and
/// an fsync, and agents need one in weeks.
pub const RENEWAL_INTERVAL_MIN: Duration = Duration::from_hours(1);

/// How often a user's own certificate is read again.
pub const OWN_CERTIFICATE_INTERVAL: Duration = Duration::from_mins(1);

/// Topics that a joining agent is told of.
pub const ENROL_TOPICS_MAX: usize = 256;

const _: () = assert!(
    ENROL_TOPICS_MAX * (TOPIC_NAME_BYTES_MAX + 64) < FRAME_BYTES_MAX / 2,
    "names are ASCII, and JSON puts less than 64 bytes around each"
);
