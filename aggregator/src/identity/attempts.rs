//! Counts failed attempts to enrol by address, and says when it is enough.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use commitlog::id::Timestamp;
use config::join::refusal::{Code, Refusal};

use crate::limits::{ENROL_ADDRESSES_MAX, ENROL_FAILURES_MAX, ENROL_WINDOW_MS};

/// The counts.
#[derive(Default)]
pub(super) struct Attempts {
    failures: Mutex<HashMap<IpAddr, Failures>>,
}

struct Failures {
    since: Timestamp,
    count: u32,
}

impl Attempts {
    /// Whether this address may try.
    pub(super) fn admit(&self, address: IpAddr, now: Timestamp) -> Result<(), Refusal> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.get(&address) {
            Some(found) if found.count >= ENROL_FAILURES_MAX && in_window(found, now) => {
                Err(Refusal::new(
                    Code::RateLimited,
                    "too many wrong attempts from this address",
                    "wait a minute, then run `weir-agent join` with a token that is right",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Counts a failure.
    pub(super) fn failed(&self, address: IpAddr, now: Timestamp) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ENROL_ADDRESSES_MAX && !failures.contains_key(&address) {
            failures.retain(|_, found| in_window(found, now));
            let oldest = failures
                .iter()
                .min_by_key(|(_, found)| found.since)
                .map(|(key, _)| *key);
            if let Some(oldest) = oldest.filter(|_| failures.len() >= ENROL_ADDRESSES_MAX) {
                failures.remove(&oldest);
            }
        }
        let found = failures.entry(address).or_insert(Failures {
            since: now,
            count: 0,
        });
        if !in_window(found, now) {
            *found = Failures {
                since: now,
                count: 0,
            };
        }
        found.count += 1;
    }
}

fn in_window(failures: &Failures, now: Timestamp) -> bool {
    now.0.saturating_sub(failures.since.0) < ENROL_WINDOW_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits() {
        let attempts = Attempts::default();
        let (bad, good) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..ENROL_FAILURES_MAX {
            attempts.admit(bad, Timestamp(0)).unwrap();
            attempts.failed(bad, Timestamp(0));
        }
        assert_eq!(
            attempts.admit(bad, Timestamp(1)).unwrap_err().code,
            Code::RateLimited
        );
        attempts.admit(good, Timestamp(1)).unwrap();
        attempts.admit(bad, Timestamp(ENROL_WINDOW_MS)).unwrap();
        attempts.failed(bad, Timestamp(ENROL_WINDOW_MS));
        attempts.admit(bad, Timestamp(ENROL_WINDOW_MS)).unwrap();
    }

    #[test]
    fn the_addresses_are_bounded() {
        let attempts = Attempts::default();
        for n in 0..u32::try_from(ENROL_ADDRESSES_MAX).unwrap() + 500 {
            attempts.failed(IpAddr::from(n.to_be_bytes()), Timestamp(i64::from(n)));
        }
        assert!(attempts.failures.lock().unwrap().len() <= ENROL_ADDRESSES_MAX);
    }
}
