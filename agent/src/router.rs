//! Decides where a file's records go: the topic is configured, the partition is drawn from the
//! lineage, and stays.
//!
//! All lines of a path go to one partition, so that their order holds; the positions remember which,
//! over restarts and when a topic gets more partitions. The lineage is a salted hash, so the same path
//! on a thousand hosts spreads over the partitions.

use std::time::Duration;

use commitlog::id::{TopicName, TopicPartition};
use model::position::LineageId;

use crate::spool::Spool;

/// How long the very first records wait to be told how many partitions a topic has. Once a file has a
/// partition it keeps it; without an answer, partition 0 is the only one that surely exists.
pub const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Draws partitions.
pub struct Router {
    spool: Spool,
    started: Option<Duration>,
}

impl Router {
    /// A router that knows what the spool was told.
    pub fn new(spool: Spool) -> Router {
        Router {
            spool,
            started: None,
        }
    }

    /// Where a new lineage's records go; `None` while an answer is worth waiting for.
    pub fn place(
        &mut self,
        topic: &TopicName,
        lineage: LineageId,
        monotonic: Duration,
    ) -> Option<TopicPartition> {
        let started = *self.started.get_or_insert(monotonic);
        let count = match self.spool.partition_count(topic) {
            Some(count) => count,
            None if monotonic.saturating_sub(started) < FIRST_ANSWER_WAIT => return None,
            None => 1,
        };
        let partition = lineage.0 % u64::from(count);
        Some(TopicPartition {
            topic: topic.clone(),
            partition: u32::try_from(partition).expect("below a u32"),
        })
    }
}
