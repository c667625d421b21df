//! What the aggregator takes from outside: disk, time, chance and threads. Production passes the
//! real ones, the simulation its own.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use commitlog::id::Timestamp;
use commitlog::storage::Storage;
use commitlog::storage::disk::Disk;

use crate::blocking::Blocking;

/// Tells the wall time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Fills a buffer with unpredictable bytes.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Disk, time, chance and threads.
#[derive(Clone)]
pub struct Parts {
    /// Where files live.
    pub storage: Arc<dyn Storage>,
    /// The wall time.
    pub clock: Clock,
    /// Unpredictable bytes.
    pub random: Random,
    /// Where work that waits for the disk runs.
    pub blocking: Blocking,
}

impl Parts {
    /// The real disk, the system's clock and random numbers, threads for what waits.
    pub fn real() -> Parts {
        Parts {
            storage: Arc::new(Disk),
            clock: Arc::new(system_time),
            random: Arc::new(system_random),
            blocking: Blocking::Threads,
        }
    }
}

fn system_time() -> Timestamp {
    // A clock before 1970 reads as 1970: retention then keeps everything, which loses nothing.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn system_random(bytes: &mut [u8]) {
    use ring::rand::SecureRandom;
    ring::rand::SystemRandom::new()
        .fill(bytes)
        .expect("the kernel's getrandom does not fail once it is seeded, and it blocks until then");
}
