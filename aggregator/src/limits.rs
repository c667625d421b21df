//! Every limit of the aggregator, each with its reason.

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
