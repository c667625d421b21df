//! Every limit of the aggregator, each with its reason.

use std::time::Duration;

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

/// Threads that sync partitions. Two keep two fsyncs in flight, which a journalling file system
/// commits together; more only wait for the same journal.
pub const SYNC_THREADS: usize = 2;

/// Threads that open partitions at start; each waits for the disk most of the time.
pub const OPEN_THREADS_MAX: usize = 8;

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

/// How long a client may take nothing of its answer.
pub const HTTP_STALL_MAX: Duration = Duration::from_mins(2);

/// HTTP connections at once. Each may hold one piece of an answer.
pub const HTTP_CONNECTIONS_MAX: usize = 512;

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
