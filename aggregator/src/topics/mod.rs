//! The topics: every partition's log, its one writer, and the two watermarks.
//!
//! A partition is a directory `data_dir/log/<topic>-<partition>`; the directories are the truth
//! about which topics exist and how many partitions each has, so nothing can disagree with them.
//!
//! Invariants:
//! - One writer per partition, behind a mutex; whoever appends does so on a thread that may wait.
//! - **I20** The durable watermark ([`Partition::durable`]) only grows, and only after the fsync that covers
//!   it has returned. Readers here get durable records only, so no offset is ever handed out twice
//!   for different data.
//! - A partition whose disk fails stops alone. It is opened again with backoff, by recovery, never
//!   by syncing the same file again.
//! - A full disk refuses nothing for good: [`Topics::disk`] goes to zero until there is room.

mod catalog;
mod disk;
mod fan_out;
#[cfg(test)]
mod fault_tests;
mod maintenance;
mod partition;
mod settings;
mod sync;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use commitlog::error::Result;
use commitlog::id::{Offset, TopicName, TopicPartition};
use commitlog::log::partition::LogConfig;
use commitlog::storage::Storage;

pub use disk::DiskCredit;
#[cfg(test)]
pub(crate) mod tests;

pub use partition::{Generation, Partition, Standing};
pub use sync::SyncThreads;

use crate::blocking::Blocking;
use crate::parts::Clock;
use crate::telemetry::Telemetry;

/// Which topics there are to be, and where.
#[derive(Debug, Clone)]
pub struct TopicsConfig {
    /// The directory that holds one directory per partition.
    pub log_dir: PathBuf,
    /// The topics that are configured.
    pub topics: BTreeMap<TopicName, TopicConfig>,
    /// What a topic gets that is not configured.
    pub defaults: TopicConfig,
    /// Credits go to zero once this much of the disk is used, in percent.
    pub disk_high_water_percent: u8,
    /// Partitions of all topics together past which none is made.
    pub partitions_max: usize,
}

/// One topic's settings.
#[derive(Debug, Clone)]
pub struct TopicConfig {
    /// How many partitions; may grow, never shrink.
    pub partitions: u32,
    /// Segments and retention.
    pub log: LogConfig,
}

/// All topics; a handle, cheap to clone.
#[derive(Clone)]
pub struct Topics {
    shared: Arc<Shared>,
    table: Arc<RwLock<BTreeMap<TopicName, Topic>>>,
    /// Held while a topic is made, so that two first uses do not race to open one directory. Holds the
    /// configured topics of which more partitions were asked for than they have, and how many: what was
    /// logged of them.
    creation: Arc<Mutex<BTreeMap<TopicName, u32>>>,
}

/// What all partitions share.
struct Shared {
    config: TopicsConfig,
    storage: Arc<dyn Storage>,
    clock: Clock,
    blocking: Blocking,
    telemetry: Telemetry,
    dirty: sync::DirtyQueue,
    disk: disk::DiskGauge,
    schedule: maintenance::Schedule,
}

/// A topic that exists.
#[derive(Clone)]
struct Topic {
    config: TopicConfig,
    partitions: Vec<Arc<Partition>>,
}

/// What is told about a topic.
#[derive(Debug, Clone)]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// Its settings.
    pub config: TopicConfig,
    /// Its partitions, from 0 on.
    pub partitions: Vec<PartitionInfo>,
}

/// What is told about a partition.
#[derive(Debug, Clone)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: u32,
    /// The first offset that is still there.
    pub start: Offset,
    /// Everything before this offset is fsynced, and visible to consumers.
    pub durable: Offset,
    /// Everything before this offset is appended.
    pub appended: Offset,
    /// Bytes on disk.
    pub bytes: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Why it takes nothing at the moment, where that is so.
    pub failure: Option<String>,
}

impl Topics {
    /// Opens every partition found under the log directory and makes the configured ones.
    ///
    /// Fails only for what the user must decide (a topic configured with fewer partitions than it
    /// has, a log directory that cannot be read). A damaged or unreadable partition is reported
    /// and tried again later; the rest works.
    pub fn open(
        config: TopicsConfig,
        storage: Arc<dyn Storage>,
        clock: Clock,
        blocking: Blocking,
        telemetry: Telemetry,
    ) -> Result<Topics> {
        let shared = Arc::new(Shared {
            disk: disk::DiskGauge::new(),
            dirty: sync::DirtyQueue::new(),
            schedule: maintenance::Schedule::new(),
            config,
            storage,
            clock,
            blocking,
            telemetry,
        });
        let table = catalog::open_all(&shared)?;
        let topics = Topics {
            shared,
            table: Arc::new(RwLock::new(table)),
            creation: Arc::default(),
        };
        topics.check_disk();
        Ok(topics)
    }

    /// The partition, if it exists.
    pub fn existing(&self, id: &TopicPartition) -> Option<Arc<Partition>> {
        let table = read_lock(&self.table);
        let topic = table.get(&id.topic)?;
        topic
            .partitions
            .get(usize::try_from(id.partition).ok()?)
            .cloned()
    }

    /// The partition; makes its topic on first use, with the configured count or, when it is not
    /// configured, the default one or more.
    pub async fn partition(&self, id: &TopicPartition) -> Result<Arc<Partition>> {
        if let Some(partition) = self.existing(id) {
            return Ok(partition);
        }
        let topics = self.clone();
        let id = id.clone();
        self.shared
            .blocking
            .run(move || catalog::create(&topics, &id))
            .await
    }

    /// All topics by name.
    pub fn list(&self) -> Vec<TopicInfo> {
        let topics: Vec<(TopicName, Topic)> = {
            let table = read_lock(&self.table);
            let pairs = table.iter();
            pairs
                .map(|(name, topic)| (name.clone(), topic.clone()))
                .collect()
        };
        topics
            .into_iter()
            .map(|(name, topic)| TopicInfo {
                name,
                partitions: topic.partitions.iter().map(|p| p.info()).collect(),
                config: topic.config,
            })
            .collect()
    }

    /// How many partitions a topic has, or would have when it were made now: what agents spread
    /// their lines over.
    pub fn partition_count(&self, topic: &TopicName) -> u32 {
        match read_lock(&self.table).get(topic) {
            Some(topic) => catalog::count(topic),
            None => self.shared.config.topic(topic).partitions,
        }
    }

    /// How many partitions a topic gets that is not configured, when it is made.
    pub fn partitions_of_new(&self) -> u32 {
        self.shared.config.defaults.partitions
    }

    /// Bytes that agents may still send before the disk reaches its high-water mark; zero while
    /// the disk refuses writes.
    pub fn disk(&self) -> DiskCredit {
        self.shared.disk.credit()
    }

    /// How many partitions the topic has; 0 when it does not exist.
    pub fn existing_count(&self, topic: &TopicName) -> u32 {
        read_lock(&self.table).get(topic).map_or(0, catalog::count)
    }

    /// What keeps agents from shipping or consumers from reading, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let closed = |partition: Arc<Partition>| {
            let why = partition.failure()?;
            Some(format!("partition {} is closed: {why}", partition.id()))
        };
        let mut problems: Vec<String> = self.partitions().into_iter().filter_map(closed).collect();
        if self.disk().is_zero() {
            problems
                .push("the disk is full: agents keep their lines until there is room".to_owned());
        }
        problems
    }

    /// Brings the gauges up to date, for a scrape.
    pub fn observe(&self) {
        let telemetry = &self.shared.telemetry;
        let mut closed = 0;
        for topic in self.list() {
            for partition in topic.partitions {
                let number = partition.partition.to_string();
                let labels = &[topic.name.as_str(), number.as_str()];
                let (durable, appended) = (partition.durable.get(), partition.appended.get());
                telemetry
                    .durable_lag
                    .with_label_values(labels)
                    .set(appended - durable);
                telemetry.end_offset.with_label_values(labels).set(durable);
                telemetry
                    .start_offset
                    .with_label_values(labels)
                    .set(partition.start.get());
                let bytes = i64::try_from(partition.bytes).unwrap_or(i64::MAX);
                telemetry
                    .partition_bytes
                    .with_label_values(labels)
                    .set(bytes);
                closed += i64::from(partition.failure.is_some());
            }
        }
        telemetry.partitions_closed.set(closed);
    }

    /// Every partition of every topic.
    fn partitions(&self) -> Vec<Arc<Partition>> {
        let table = read_lock(&self.table);
        let all = table
            .values()
            .flat_map(|topic| topic.partitions.iter().cloned());
        all.collect()
    }
}

impl TopicsConfig {
    /// The settings of a topic, configured or not.
    fn topic(&self, name: &TopicName) -> &TopicConfig {
        self.topics.get(name).unwrap_or(&self.defaults)
    }
}

/// A panic elsewhere while the lock was held leaves the table whole: it is only ever replaced by
/// single inserts.
fn read_lock<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As [`read_lock`], for a mutex.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
