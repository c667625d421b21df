//! Every limit of the harness, with its reason.

use std::time::Duration;

/// How long a program may take from its start to answering `/readyz`. Debug builds on a busy
/// two-core machine were seen at 2 s; ten times that is a hang.
pub const READY_MAX: Duration = Duration::from_secs(20);

/// How long a program may take to end after SIGTERM: its own grace is 10 s.
pub const TERMINATE_MAX: Duration = Duration::from_secs(15);

/// The fault-free phase: everything written must have arrived and a fresh line must flow within it.
pub const DRAIN_MAX: Duration = Duration::from_mins(2);

/// Pause between two looks at a condition of another process. Short beside every deadline here and
/// long enough that looking costs nothing.
pub const POLL: Duration = Duration::from_millis(10);

/// One HTTP request to the aggregator, its long poll included.
pub const HTTP_MAX: Duration = Duration::from_secs(30);

/// The largest HTTP body the harness takes: more than any `max_bytes` it asks for.
pub const BODY_BYTES_MAX: u64 = 256 << 20;

/// Bytes asked of the aggregator in one fetch.
pub const FETCH_BYTES: u64 = 8 << 20;

/// Lines of each program's log that a failing test shows.
pub const LOG_TAIL_LINES: usize = 60;

/// The longest padding of an oracle line: an agent's line limit is 1 MiB and the oracle stays below.
pub const PADDING_BYTES_MAX: usize = 512 << 10;
