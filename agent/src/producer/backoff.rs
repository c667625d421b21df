//! How long to wait before the next attempt: a random part of a bound that doubles ("full jitter"), so
//! that ten thousand agents do not come back to a restarted aggregator in the same millisecond.

use std::time::Duration;

use crate::ambient::Random;
use crate::limits::{RECONNECT_BOUND_FIRST, RECONNECT_BOUND_MAX};

/// The wait between attempts.
pub(super) struct Backoff {
    random: Random,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(random: Random) -> Backoff {
        Backoff {
            random,
            failures: 0,
        }
    }

    /// Something worked: the next failure waits briefly again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The wait after one more failure.
    pub(super) fn next(&mut self) -> Duration {
        let bound = RECONNECT_BOUND_FIRST * 2_u32.pow(self.failures.min(16));
        self.failures += 1;
        self.part_of(bound.min(RECONNECT_BOUND_MAX))
    }

    /// A random part of `bound`.
    pub(super) fn part_of(&self, bound: Duration) -> Duration {
        let mut bytes = [0; 4];
        (self.random)(&mut bytes);
        let part = f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX);
        bound.mul_f64(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_bound_doubles_up_to_its_limit_and_starts_over() {
        let mut backoff = Backoff::new(Arc::new(|bytes| bytes.fill(0xff)));
        assert_eq!(backoff.next(), RECONNECT_BOUND_FIRST);
        assert_eq!(backoff.next(), RECONNECT_BOUND_FIRST * 2);
        for _ in 0..40 {
            backoff.next();
        }
        assert_eq!(backoff.next(), RECONNECT_BOUND_MAX);
        backoff.reset();
        assert_eq!(backoff.next(), RECONNECT_BOUND_FIRST);
    }
}
