//! `acknowledged`: up to where aggregators have made each partition durable. Written whole, replaced in
//! one step, and never ahead of what was acknowledged.
//!
//! A log's own start moves by whole segments. Without this file a spool that was killed would send the
//! acknowledged part of its first segment again, and an aggregator that never met it would append that a
//! second time. The file lags by [`ACKNOWLEDGED_EVERY_MS`](crate::limits::ACKNOWLEDGED_EVERY_MS) at most
//! while the disk works; where it is missing or damaged, the logs' starts hold.
//!
//! ```text
//! "WEIRACK1" | partitions u32, each: name (field), offset i64 | CRC32C u32
//! ```
//! A field is a u32 length and bytes; integers are big-endian.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use commitlog::id::{Offset, TopicPartition};
use commitlog::storage::write_atomically;

use super::codec::{Input, put_field, sealed, unseal};
use super::partition::Partition;
use super::{Spool, open};
use crate::limits::ACKNOWLEDGED_EVERY_MS;

const MAGIC: &[u8; 8] = b"WEIRACK1";

/// For each partition, the first offset that no aggregator acknowledged.
pub(crate) type Acknowledged = BTreeMap<TopicPartition, Offset>;

/// What the file holds, and when it was written.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) offsets: Acknowledged,
    pub(crate) written_at_ms: i64,
    /// Why it could not be written last, so that it is said once.
    pub(crate) failure: Option<String>,
}

impl Saved {
    /// What was read from the file.
    pub(super) fn holding(offsets: Acknowledged) -> Saved {
        Saved {
            offsets,
            written_at_ms: 0,
            failure: None,
        }
    }
}

impl Spool {
    /// Whether there is news to save, and the last time was long enough ago.
    pub(super) fn are_acknowledgements_due(&self) -> bool {
        self.acknowledgements_due_in() == Some(Duration::ZERO)
    }

    /// When there is news to save, how long that has time.
    pub(super) fn acknowledgements_due_in(&self) -> Option<Duration> {
        let is_news = self.inner.is_acknowledged_news.load(SeqCst);
        is_news.then(|| {
            let now = (self.inner.clock)().0;
            let waited = (now - self.state().saved.written_at_ms).unsigned_abs();
            Duration::from_millis(ACKNOWLEDGED_EVERY_MS.saturating_sub(waited))
        })
    }

    /// Saves these offsets; whether the disk took them. A failure is said and tried again.
    pub(super) fn save_acknowledged(&self, offsets: Acknowledged) -> bool {
        self.inner.is_acknowledged_news.store(false, SeqCst);
        if of_all(&self.all_partitions()) != offsets {
            // What came since they were taken waits for the next time.
            self.inner.is_acknowledged_news.store(true, SeqCst);
        }
        let path = self.inner.dir.join(open::ACKNOWLEDGED);
        let written = write_atomically(&*self.inner.storage, &path, &encode(&offsets));
        let mut state = self.state();
        state.saved.written_at_ms = (self.inner.clock)().0;
        match written {
            Ok(()) => {
                state.saved.offsets = offsets;
                state.saved.failure = None;
                true
            }
            Err(error) => {
                self.inner.is_acknowledged_news.store(true, SeqCst);
                let failure = Some(error.to_string());
                if state.saved.failure != failure {
                    tracing::warn!(path = %path.display(), %error, "acknowledgements are not saved");
                }
                state.saved.failure = failure;
                false
            }
        }
    }
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
