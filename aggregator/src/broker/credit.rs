//! How much agents may send: credit by streams and disk, memory by what really arrives, and the linger
//! that keeps the number of batches in hand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use commitlog::limits::BATCH_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::{
    BATCHES_PER_SECOND_TARGET, BUFFERS_KEPT, CREDIT_TOTAL_BYTES, CREDIT_WINDOW_MAX,
    CREDIT_WINDOW_MIN, FRAME_MEMORY_BYTES, LINGER_LONGEST, LINGER_SHORTEST,
    SESSION_FRAME_BYTES_MAX, SESSION_TICK,
};

/// Shared by all sessions; clones are the same.
#[derive(Clone)]
pub(super) struct Budget {
    streams: Arc<AtomicUsize>,
    agents: Arc<AtomicUsize>,
    /// One permit is a kibibyte of batches that are being received or appended.
    memory: Arc<Semaphore>,
    buffers: Buffers,
}

/// Buffers that batches were received in, for the next ones: fresh memory costs a page fault for every
/// 4 KiB, which is more than receiving into it does.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// For a batch of so many bytes: one that was used before, or an empty one. What it holds is
    /// accounted for by the batch's size, so it has at most twice the room: a large buffer under a small
    /// batch would be memory that nobody counts.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut kept = self.kept();
        let fits = |buffer: &Vec<u8>| buffer.capacity() / 2 <= bytes;
        let found = kept.iter().rposition(fits);
        found.map_or_else(Vec::new, |at| kept.swap_remove(at))
    }

    /// Keeps one for the next batch, unless there are enough.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.kept();
        if kept.len() < BUFFERS_KEPT {
            kept.push(buffer);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
            buffers: Buffers::default(),
        }
    }

    /// Buffers for batches.
    pub(super) fn buffers(&self) -> &Buffers {
        &self.buffers
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

    /// A new session's part of the memory.
    pub(super) fn frames(&self) -> Frames {
        Frames {
            memory: Arc::clone(&self.memory),
            room: Arc::new(Semaphore::new(SESSION_FRAME_BYTES_MAX / PERMIT_BYTES)),
            receiving: Arc::default(),
        }
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

/// The memory of one session's batches.
///
/// A session whose batches come interleaved must not wait for others' memory while it holds a batch of
/// which only a part has come: all sessions could wait for one another so, and the rest of what they
/// hold would stay unread. Only a session that is receiving nothing waits for the memory of all; for
/// its further batches it takes what is free, and the lack is bounded by its own room.
pub(super) struct Frames {
    memory: Arc<Semaphore>,
    room: Arc<Semaphore>,
    /// Batches of which a part has still to come.
    receiving: Arc<AtomicUsize>,
}

/// The memory of a batch, until it is dropped.
pub(super) struct FrameMemory {
    receiving: Option<Counted>,
    _room: OwnedSemaphorePermit,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Frames {
    /// Waits for the memory of a batch.
    pub(super) async fn take(&self, bytes: usize) -> FrameMemory {
        let bytes = bytes.min(BATCH_BYTES_MAX);
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let room = acquire(&self.room, permits).await;
        let mut waiting = std::pin::pin!(acquire(&self.memory, permits));
        let memory = loop {
            let patience = if self.is_receiving() {
                Duration::ZERO
            } else {
                SESSION_TICK
            };
            match timeout(patience, &mut waiting).await {
                Ok(memory) => break Some(memory),
                Err(_) if self.is_receiving() => break None,
                Err(_) => {}
            }
        };
        FrameMemory {
            receiving: Some(Counted::new(&self.receiving)),
            _room: room,
            _memory: memory,
        }
    }

    /// Whether a batch has come in part.
    pub(super) fn is_receiving(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) > 0
    }
}

impl FrameMemory {
    /// The batch is whole; it waits for nothing but the log.
    pub(super) fn received(&mut self) {
        self.receiving = None;
    }
}

async fn acquire(memory: &Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    let permit = Arc::clone(memory).acquire_many_owned(permits).await;
    permit.expect("this semaphore is never closed")
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
    fn buffers_are_used_again_and_few_are_kept() {
        let budget = Budget::new();
        for number in 0..2 * BUFFERS_KEPT {
            budget.buffers().give_back(Vec::with_capacity(100 + number));
        }
        let capacities = || budget.buffers().take(100).capacity();
        let kept = std::iter::repeat_with(capacities).take_while(|&it| it > 0);
        assert_eq!(kept.count(), BUFFERS_KEPT);
    }

    #[test]
    fn a_small_batch_gets_no_large_buffer() {
        let budget = Budget::new();
        for capacity in [BATCH_BYTES_MAX, 200, BATCH_BYTES_MAX] {
            budget.buffers().give_back(Vec::with_capacity(capacity));
        }
        let capacities = [61, 100, 100, BATCH_BYTES_MAX / 2, BATCH_BYTES_MAX];
        let capacities = capacities.map(|bytes| budget.buffers().take(bytes).capacity());
        assert_eq!(capacities, [0, 200, 0, BATCH_BYTES_MAX, BATCH_BYTES_MAX]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_a_part_of_a_batch_never_waits_for_the_memory_of_others() {
        let budget = Budget::new();
        let (mut held, mut sessions) = (Vec::new(), Vec::new());
        // Every session holds a batch in part, and together they hold all there is.
        for _ in 0..FRAME_MEMORY_BYTES / BATCH_BYTES_MAX {
            let frames = budget.frames();
            held.push(frames.take(BATCH_BYTES_MAX).await);
            sessions.push(frames);
        }
        for session in &sessions {
            held.push(session.take(BATCH_BYTES_MAX).await);
        }
        // Who holds nothing waits.
        let late = budget.frames();
        let mut waiting = std::pin::pin!(late.take(1));
        let waited = timeout(Duration::from_mins(1), &mut waiting).await;
        assert!(waited.is_err());
        held.clear();
        waiting.await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_session_never_holds_the_memory_of_all() {
        let budget = Budget::new();
        let greedy = budget.frames();
        let mut held = Vec::new();
        while let Ok(memory) = timeout(Duration::from_mins(1), greedy.take(BATCH_BYTES_MAX)).await {
            held.push(memory);
        }
        assert_eq!(held.len() * BATCH_BYTES_MAX, SESSION_FRAME_BYTES_MAX);
        budget.frames().take(BATCH_BYTES_MAX).await;
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
