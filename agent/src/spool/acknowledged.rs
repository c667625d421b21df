//! `acknowledged`: up to where aggregators have made each partition durable. Written whole, replaced in
//! one step, and never ahead of what was acknowledged.
//!
//! A log's own start moves by whole segments. Without this file a spool that was killed would send the
//! acknowledged part of its first segment again, and an aggregator that never met it would append that a
//! second time. Who is killed keeps what the kernel has, so nothing waits for the disk most of the time:
//! every [`ACKNOWLEDGED_EVERY_MS`](crate::limits::ACKNOWLEDGED_EVERY_MS) the same bytes go to
//! `acknowledged.recent`, which is written in place, and every
//! [`ACKNOWLEDGED_SYNC_EVERY_MS`](crate::limits::ACKNOWLEDGED_SYNC_EVERY_MS) to `acknowledged`, durably,
//! and the recent one is removed. Whichever is further holds. A recent one that is damaged was torn by a
//! power cut; where `acknowledged` is missing or damaged, the logs' starts hold.
//!
//! ```text
//! "WEIRACK1" | partitions u32, each: name (field), offset i64 | CRC32C u32
//! ```
//! A field is a u32 length and bytes; integers are big-endian.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use commitlog::id::{Offset, TopicPartition};
use commitlog::storage::{File, OpenMode, replace, sync_names, write_all_at};

use super::codec::{Input, put_field, sealed, unseal};
use super::partition::Partition;
use super::{Spool, open};
use crate::limits::{ACKNOWLEDGED_EVERY_MS, ACKNOWLEDGED_SYNC_EVERY_MS};

const MAGIC: &[u8; 8] = b"WEIRACK1";

/// For each partition, the first offset that no aggregator acknowledged.
pub(crate) type Acknowledged = BTreeMap<TopicPartition, Offset>;

/// When the files were written.
#[derive(Default)]
pub(crate) struct Saved {
    pub(crate) written_at_ms: i64,
    pub(crate) synced_at_ms: i64,
    /// The one that is written in place, while there is one.
    pub(crate) recent: Option<Arc<dyn File>>,
    /// Why it could not be written last, so that it is said once.
    pub(crate) failure: Option<String>,
}

impl Spool {
    /// Whether there is news to save, and the last time was long enough ago.
    pub(super) fn are_acknowledgements_due(&self) -> bool {
        self.acknowledgements_due_in() == Some(Duration::ZERO)
    }

    /// When there is something to save, how long that has time.
    pub(super) fn acknowledgements_due_in(&self) -> Option<Duration> {
        let is_news = self.inner.is_acknowledged_news.load(SeqCst);
        let now = (self.inner.clock)().0;
        let state = self.state();
        let left = |since: i64, every: u64| every.saturating_sub((now - since).unsigned_abs());
        let news = is_news.then(|| left(state.saved.written_at_ms, ACKNOWLEDGED_EVERY_MS));
        let is_recent = state.saved.recent.is_some();
        let recent = is_recent.then(|| left(state.saved.synced_at_ms, ACKNOWLEDGED_SYNC_EVERY_MS));
        let soonest = news.into_iter().chain(recent).min();
        soonest.map(Duration::from_millis)
    }

    /// Saves these offsets; whether anybody could tell them after a kill. A failure is said and tried again.
    pub(super) fn save_acknowledged(&self, offsets: &Acknowledged, keep: Keep) -> bool {
        self.inner.is_acknowledged_news.store(false, SeqCst);
        if of_all(&self.all_partitions()) != *offsets {
            // What came since they were taken waits for the next time.
            self.inner.is_acknowledged_news.store(true, SeqCst);
        }
        let now = (self.inner.clock)().0;
        let waited = (now - self.state().saved.synced_at_ms).unsigned_abs();
        let bytes = encode(offsets);
        let is_due = keep == Keep::Always || waited >= ACKNOWLEDGED_SYNC_EVERY_MS;
        let durable = is_due.then(|| self.write_acknowledged(&bytes));
        let (is_durable, failure) = match durable {
            Some(Ok(())) => (true, None),
            Some(Err(error)) => (false, Some(error)),
            None => (false, None),
        };
        // What a power cut would take back a kill need not.
        let recent = (!is_durable).then(|| self.write_recent(&bytes));
        let is_kept = !matches!(recent, Some(Err(_)));
        let failure = failure.or(recent.and_then(Result::err));
        let mut state = self.state();
        state.saved.written_at_ms = now;
        if is_durable {
            state.saved.synced_at_ms = now;
        }
        if failure.is_some() {
            self.inner.is_acknowledged_news.store(true, SeqCst);
        }
        let failure = failure.map(|error| error.to_string());
        if let Some(error) = failure
            .as_ref()
            .filter(|it| state.saved.failure.as_ref() != Some(it))
        {
            let dir = self.inner.dir.display();
            tracing::warn!(%dir, %error, "acknowledgements are not saved");
        }
        state.saved.failure = failure;
        is_kept
    }

    /// For power cuts. The recent one stays until what it tells is durable.
    pub(super) fn write_acknowledged(&self, bytes: &[u8]) -> io::Result<()> {
        let storage = &*self.inner.storage;
        replace(storage, &self.inner.dir.join(open::ACKNOWLEDGED), bytes)?;
        self.state().saved.recent = None;
        match storage.remove(&self.inner.dir.join(open::ACKNOWLEDGED_RECENT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sync_names(storage, &self.inner.dir)
    }

    /// For kills.
    fn write_recent(&self, bytes: &[u8]) -> io::Result<()> {
        let held = self.state().saved.recent.clone();
        let file = if let Some(file) = held {
            file
        } else {
            let path = self.inner.dir.join(open::ACKNOWLEDGED_RECENT);
            self.inner.storage.open(&path, OpenMode::Write)?
        };
        if file.bytes()? > bytes.len() as u64 {
            file.truncate(0)?;
        }
        write_all_at(&*file, bytes, 0)?;
        self.state().saved.recent = Some(file);
        Ok(())
    }
}

/// What saved offsets are to outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// A kill; now and then also a power cut.
    Usual,
    /// A power cut, where the disk has room for it.
    Always,
}

/// The further of two, for each partition.
pub(super) fn furthest(mut one: Acknowledged, other: Acknowledged) -> Acknowledged {
    for (name, offset) in other {
        let held = one.entry(name).or_insert(offset);
        *held = (*held).max(offset);
    }
    one
}

/// What is acknowledged of each partition now.
pub(super) fn of_all(partitions: &BTreeMap<TopicPartition, Arc<Partition>>) -> Acknowledged {
    let offsets = partitions.iter();
    offsets
        .map(|(name, partition)| (name.clone(), partition.acknowledged()))
        .collect()
}

/// The file's bytes.
pub(crate) fn encode(acknowledged: &Acknowledged) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let count = u32::try_from(acknowledged.len()).expect("partitions are far fewer than 2³²");
    bytes.extend(count.to_be_bytes());
    for (name, offset) in acknowledged {
        put_field(&mut bytes, name.to_string().as_bytes());
        bytes.extend(offset.get().to_be_bytes());
    }
    sealed(bytes)
}

/// Reads the file's bytes; `None` when they are damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Acknowledged> {
    let mut input = Input::new(unseal(bytes)?);
    if input.array::<8>()? != *MAGIC {
        return None;
    }
    let mut acknowledged = Acknowledged::new();
    for _ in 0..input.u32()? {
        let name = std::str::from_utf8(input.field()?).ok()?;
        acknowledged.insert(name.parse().ok()?, Offset::new(input.i64()?)?);
    }
    input.is_empty().then_some(acknowledged)
}
