//! The last batches of a partition, in memory: those that are not fsynced, so that a failing disk costs
//! none, and a few that are, so that a producer that keeps up never reads the disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use commitlog::id::Offset;

use crate::limits::{SPOOL_RECENT_BYTES_MAX, SPOOL_UNSYNCED_BYTES_MAX};

/// Batches by their first offset, without gaps between them.
pub(super) struct Recent {
    batches: VecDeque<(Offset, Bytes)>,
    /// So many of them are fsynced.
    synced: usize,
    synced_bytes: usize,
    /// Those that are not, of all partitions of the spool.
    unsynced_bytes: Arc<AtomicUsize>,
}

impl Recent {
    pub(super) fn new(unsynced_bytes: Arc<AtomicUsize>) -> Recent {
        Recent {
            batches: VecDeque::new(),
            synced: 0,
            synced_bytes: 0,
            unsynced_bytes,
        }
    }

    /// Whether the disk has to catch up first.
    pub(super) fn is_full(&self) -> bool {
        self.unsynced_bytes.load(Ordering::Relaxed) >= SPOOL_UNSYNCED_BYTES_MAX
    }

    /// A batch was written.
    pub(super) fn push(&mut self, base: Offset, batch: Bytes) {
        self.unsynced_bytes
            .fetch_add(batch.len(), Ordering::Relaxed);
        self.batches.push_back((base, batch));
    }

    /// Everything before `end` is fsynced. Of that only a little is kept.
    pub(super) fn synced_before(&mut self, end: Offset) {
        while let Some((base, batch)) = self.batches.get(self.synced) {
            if *base >= end {
                break;
            }
            self.unsynced_bytes
                .fetch_sub(batch.len(), Ordering::Relaxed);
            self.synced_bytes += batch.len();
            self.synced += 1;
        }
        while self.synced_bytes > SPOOL_RECENT_BYTES_MAX {
            self.pop_synced();
        }
    }

    /// Nobody asks for anything before `upto` any more.
    pub(super) fn forget_before(&mut self, upto: Offset) {
        while self.synced > 0 && self.batches.front().is_some_and(|(base, _)| *base < upto) {
            self.pop_synced();
        }
    }

    /// What is not fsynced.
    pub(super) fn unsynced(&self) -> impl Iterator<Item = &(Offset, Bytes)> {
        self.batches.iter().skip(self.synced)
    }

    /// Fsynced batches from the one that begins at `from` on: one, and more up to `bytes_max`. `None`
    /// when that one is not here.
    pub(super) fn read(&self, from: Offset, bytes_max: usize) -> Option<Vec<Bytes>> {
        let at = self
            .batches
            .binary_search_by_key(&from, |(base, _)| *base)
            .ok()?;
        let mut bytes = 0;
        let mut found = Vec::new();
        for (_, batch) in self.batches.iter().take(self.synced).skip(at) {
            bytes += batch.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(batch.clone());
        }
        (!found.is_empty()).then_some(found)
    }

    fn pop_synced(&mut self) {
        if let Some((_, batch)) = self.batches.pop_front() {
            self.synced -= 1;
            self.synced_bytes -= batch.len();
        }
    }
}

impl Drop for Recent {
    fn drop(&mut self) {
        let bytes = self.unsynced().map(|(_, batch)| batch.len()).sum();
        self.unsynced_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
