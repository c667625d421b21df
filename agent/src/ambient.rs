//! What a program takes from its surroundings besides disk and network: the time and chance. Both are
//! passed in, so that the simulation can replay a run by its seed.

use std::sync::Arc;
use std::time::Duration;

use commitlog::id::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};

/// Tells the wall clock's time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Fills a buffer with random bytes.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// One moment, by both clocks. Timers use the monotonic one, so that a step of the wall clock moves
/// none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since an arbitrary moment in the past; never goes back.
    pub monotonic: Duration,
    /// Wall time.
    pub wall: Timestamp,
}

/// The system's wall clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    })
}

/// The system's randomness.
///
/// # Panics
/// Where the kernel gives no random bytes: no key can be made there.
pub fn system_random() -> Random {
    let system = SystemRandom::new();
    Arc::new(move |buffer| {
        system
            .fill(buffer)
            .expect("getrandom does not fail on a kernel that has booted");
    })
}
