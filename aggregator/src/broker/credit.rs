//! How much agents may send: credit by streams and disk, memory by what really arrives, and the linger
//! that keeps the number of batches in hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use commitlog::limits::BATCH_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    BATCHES_PER_SECOND_TARGET, CREDIT_TOTAL_BYTES, CREDIT_WINDOW_MAX, CREDIT_WINDOW_MIN,
    FRAME_MEMORY_BYTES, LINGER_LONGEST, LINGER_SHORTEST,
};

/// Shared by all sessions; clones are the same.
#[derive(Clone)]
pub(super) struct Budget {
    streams: Arc<AtomicUsize>,
    agents: Arc<AtomicUsize>,
    /// One permit is a kibibyte of batches that are being received or appended.
    memory: Arc<Semaphore>,
}

/// Counts something for as long as it lives.
pub(super) struct Counted(Arc<AtomicUsize>);

const PERMIT_BYTES: usize = 1024;

impl Budget {
    pub(super) fn new() -> Budget {
        Budget {
            streams: Arc::default(),
            agents: Arc::default(),
            memory: Arc::new(Semaphore::new(FRAME_MEMORY_BYTES / PERMIT_BYTES)),
        }
    }

    /// An agent is connected.
    pub(super) fn agent(&self) -> Counted {
        Counted::new(&self.agents)
    }

    /// A stream is open.
    pub(super) fn stream(&self) -> Counted {
        Counted::new(&self.streams)
    }

    /// How far past what it has sent each stream may go.
    pub(super) fn window(&self) -> u64 {
        let streams = self.streams.load(Ordering::Relaxed).max(1) as u64;
        (CREDIT_TOTAL_BYTES / streams).clamp(CREDIT_WINDOW_MIN, CREDIT_WINDOW_MAX)
    }

    /// Waits for the memory of a batch.
    pub(super) async fn memory(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = bytes.min(BATCH_BYTES_MAX);
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.memory).acquire_many_owned(permits).await;
        permit.expect("this semaphore is never closed")
    }

    /// How long agents should gather a batch: each sends at most one batch per linger, so this holds
    /// the sum near the target; brief while few are connected.
    pub(super) fn linger(&self) -> Duration {
        let agents = self.agents.load(Ordering::Relaxed);
        let agents = u32::try_from(agents).unwrap_or(u32::MAX);
        let linger = Duration::from_secs(1).saturating_mul(agents) / BATCHES_PER_SECOND_TARGET;
        linger.clamp(LINGER_SHORTEST, LINGER_LONGEST)
    }
}

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linger_is_brief_for_few_agents_and_a_second_for_thousands() {
        let budget = Budget::new();
        let few: Vec<_> = (0..20).map(|_| budget.agent()).collect();
        assert_eq!(budget.linger(), Duration::from_millis(1));
        let more: Vec<_> = (0..1980).map(|_| budget.agent()).collect();
        assert_eq!(budget.linger(), Duration::from_millis(100));
        let most: Vec<_> = (0..98_000).map(|_| budget.agent()).collect();
        assert_eq!(budget.linger(), LINGER_LONGEST);
        drop((few, more, most));
        assert_eq!(budget.linger(), LINGER_SHORTEST);
    }

    #[test]
    fn a_window_holds_two_batches_of_the_largest_size() {
        let budget = Budget::new();
        let streams: Vec<_> = (0..100_000).map(|_| budget.stream()).collect();
        assert!(budget.window() >= 2 * BATCH_BYTES_MAX as u64);
        drop(streams);
        assert_eq!(budget.window(), CREDIT_WINDOW_MAX);
    }
}
