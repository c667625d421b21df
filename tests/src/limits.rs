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

/// One decoding by a fuzz target. Milliseconds are usual; a busy machine stops a thread for a second.
pub const FUZZ_DECODE_MAX: Duration = Duration::from_secs(10);

/// An input of a fuzz target. Every shape fits, and small inputs are many inputs.
pub const FUZZ_INPUT_BYTES_MAX: usize = 16 << 10;

/// Samples that a fuzz run keeps besides its own. Past it a new one takes another's place.
pub const FUZZ_SAMPLES_MAX: usize = 4096;

/// Address space of a process that fuzzes, with its threads' stacks and heaps: far more than any
/// decoder's limit, far less than a length of 32 bits.
pub const FUZZ_MEMORY_MAX: u64 = 2 << 30;
