//! Continuous group commit: while one fsync runs, the next group gathers. No timer, but a short rest
//! after a large group: what comes at full speed is fsynced a few batches at once.
//!
//! The first append to a partition queues it; a sync thread takes it, starts the sync under the
//! partition's lock, runs the fsync outside, and finishes under the lock. Appends that come
//! meanwhile queue the partition again when the running sync has ended, so that a partition has at
//! most one fsync in flight.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use commitlog::error::{Error, Result};
use tokio::sync::Notify;

use super::{Partition, Topics, lock};
use crate::health::Health;
use crate::limits::{SYNC_BUSY_BYTES, SYNC_REST, SYNC_THREADS};

/// Where a partition stands between an append and the fsync that covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncState {
    /// Nothing to sync.
    Clean,
    /// In the queue.
    Queued,
    /// An fsync runs.
    Running,
    /// An fsync runs, and there were appends that it does not cover.
    RunningDirty,
}

/// Partitions that wait for an fsync, first come first served.
pub(super) struct DirtyQueue {
    state: Mutex<QueueState>,
    /// Wakes a sync thread.
    wake: Condvar,
    /// Ends a sync thread's rest.
    rest: Condvar,
    /// Wakes the task that stands in for the threads in the simulation.
    notify: Notify,
}

struct QueueState {
    waiting: VecDeque<Arc<Partition>>,
    /// Sync threads that have nothing to do.
    idle: usize,
    closed: bool,
}

impl QueueState {
    /// Whether a partition waits that no idle thread takes.
    fn is_short_of_threads(&self) -> bool {
        self.waiting.len() > self.idle
    }
}

impl DirtyQueue {
    pub(super) fn new() -> DirtyQueue {
        DirtyQueue {
            state: Mutex::new(QueueState {
                waiting: VecDeque::new(),
                idle: 0,
                closed: false,
            }),
            wake: Condvar::new(),
            rest: Condvar::new(),
            notify: Notify::new(),
        }
    }

    pub(super) fn push(&self, partition: Arc<Partition>) {
        let mut state = lock(&self.state);
        state.waiting.push_back(partition);
        let is_short = state.is_short_of_threads();
        drop(state);
        self.wake.notify_one();
        if is_short {
            self.rest.notify_one();
        }
        self.notify.notify_one();
    }

    fn pop(&self) -> Option<Arc<Partition>> {
        lock(&self.state).waiting.pop_front()
    }

    fn len(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// The next partition; waits for one. `None` once the queue is closed and empty.
    fn wait(&self) -> Option<Arc<Partition>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(partition) = state.waiting.pop_front() {
                return Some(partition);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Waits for a moment, unless this thread is needed.
    fn rest(&self) {
        let state = lock(&self.state);
        let is_free = |state: &mut QueueState| !state.closed && !state.is_short_of_threads();
        drop(self.rest.wait_timeout_while(state, SYNC_REST, is_free));
    }

    fn set_closed(&self, closed: bool) {
        lock(&self.state).closed = closed;
        self.wake.notify_all();
        self.rest.notify_all();
    }
}

impl Topics {
    /// One round: syncs every partition that is dirty now. Says how many there were.
    ///
    /// Threads do this by themselves in production; the simulation calls it, after
    /// [`Topics::dirty`].
    pub fn sync_dirty(&self) -> usize {
        let round = self.shared.dirty.len();
        for _ in 0..round {
            let Some(partition) = self.shared.dirty.pop() else {
                break;
            };
            partition.sync(|_| {});
        }
        round
    }

    /// Waits until [`Topics::sync_dirty`] may have something to do.
    pub async fn dirty(&self) {
        if self.shared.dirty.len() == 0 {
            self.shared.dirty.notify.notified().await;
        }
    }

    /// Starts the threads that sync what is appended; `health` shows when one ends.
    pub fn start_sync_threads(&self, health: &Health) -> Result<SyncThreads> {
        self.shared.dirty.set_closed(false);
        let mut threads = SyncThreads {
            topics: self.clone(),
            threads: Vec::new(),
        };
        for number in 0..SYNC_THREADS {
            let topics = self.clone();
            let alive = health.expect("sync");
            alive.running();
            let thread = std::thread::Builder::new()
                .name(format!("sync-{number}"))
                .spawn(move || {
                    let _until_it_ends = alive;
                    while let Some(partition) = topics.shared.dirty.wait() {
                        partition.sync(|bytes| {
                            if bytes >= SYNC_BUSY_BYTES {
                                topics.shared.dirty.rest();
                            }
                        });
                    }
                })
                .map_err(|error| Error::io("cannot start a sync thread", error))?;
            threads.threads.push(thread);
        }
        Ok(threads)
    }
}

/// The running sync threads; joined by [`SyncThreads::join`], or on drop.
#[must_use = "dropping it stops the sync threads"]
pub struct SyncThreads {
    topics: Topics,
    threads: Vec<JoinHandle<()>>,
}

impl SyncThreads {
    /// Syncs what is still queued, then ends the threads. Waits for them: call it where waiting is
    /// allowed.
    pub fn join(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.topics.shared.dirty.set_closed(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a sync thread panicked");
            }
        }
    }
}

impl Drop for SyncThreads {
    fn drop(&mut self) {
        self.stop();
    }
}
