//! Topics on a real disk and on one that fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::Producer;
use commitlog::error::ErrorKind;
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicPartition};
use commitlog::limits::PARTITIONS_MAX;
use commitlog::log::partition::{LogConfig, Outcome};
use commitlog::storage::Storage;
use commitlog::storage::disk::Disk;

use super::*;
use crate::health::Health;
use crate::limits::{APPEND_APART_MS, APPEND_IN_PLACE_MAX};

/// A clock that tests move.
#[derive(Clone)]
pub(super) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(super) fn new() -> TestClock {
        TestClock(Arc::new(AtomicI64::new(1_000_000)))
    }

    pub(super) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    pub(super) fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Arc::new(move || Timestamp(now.load(Ordering::Relaxed)))
    }
}

pub(super) fn id(text: &str) -> TopicPartition {
    text.parse().unwrap()
}

pub(super) fn offset(number: i64) -> Offset {
    Offset::new(number).unwrap()
}

pub(crate) fn config(log_dir: &Path, topics: &[(&str, u32)]) -> TopicsConfig {
    let topic = |partitions| TopicConfig {
        partitions,
        log: LogConfig::default(),
    };
    TopicsConfig {
        log_dir: log_dir.to_owned(),
        topics: topics
            .iter()
            .map(|(name, count)| (name.parse().unwrap(), topic(*count)))
            .collect(),
        defaults: topic(2),
        disk_high_water_percent: 100,
        partitions_max: 1000,
    }
}

pub(super) fn open(
    config: TopicsConfig,
    storage: Arc<dyn Storage>,
    clock: &TestClock,
) -> Result<Topics> {
    Topics::open(
        config,
        storage,
        clock.clock(),
        Blocking::Inline,
        Telemetry::new(),
    )
}

fn open_on_disk(dir: &Path, topics: &[(&str, u32)]) -> Result<Topics> {
    open(
        config(&dir.join("log"), topics),
        Arc::new(Disk),
        &TestClock::new(),
    )
}

/// A batch of `count` records of producer `producer`, from `sequence` on.
pub(crate) fn batch(producer: i64, sequence: i32, count: i32) -> Vec<u8> {
    let none = HeaderBlock::new(&[]).unwrap();
    let mut builder = BatchBuilder::new();
    for number in 0..count {
        let value = format!("producer {producer} record {}", sequence + number);
        builder.push(&NewRecord {
            timestamp: Timestamp(number.into()),
            key: None,
            value: value.as_bytes(),
            headers: &none,
            extra: None,
        });
    }
    let producer = Producer {
        id: ProducerId::new(producer).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::new(sequence).unwrap(),
    };
    let mut batches = Vec::new();
    builder.finish(producer, &mut batches).unwrap();
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

/// Appends and says at which offset.
pub(super) async fn append(
    partition: &Arc<Partition>,
    producer: i64,
    sequence: i32,
    count: i32,
) -> i64 {
    let standing = partition
        .producer(ProducerId::new(producer).unwrap())
        .await
        .unwrap();
    let appended = partition
        .append(standing.generation, &mut batch(producer, sequence, count))
        .await
        .unwrap();
    assert_eq!(appended.outcome, Outcome::Appended);
    appended.base_offset.get()
}

#[tokio::test]
async fn what_may_wait_for_the_disk_is_not_appended_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let config = config(dir.path(), &[("logs", 1)]);
    let topics = open(config, Arc::new(Disk), &clock).unwrap();
    let partition = topics.existing(&id("logs-0")).unwrap();
    let standing = partition.producer(ProducerId::new(1).unwrap()).await;
    let generation = standing.unwrap().generation;
    let in_place = |sequence| {
        // Whatever a write has waited for on this machine is long ago.
        clock.advance(APPEND_APART_MS.cast_signed());
        let mut batch = batch(1, sequence, 2);
        let appended = partition.append_in_place(generation, &mut batch)?;
        Some(appended.unwrap().base_offset.get())
    };
    assert_eq!(in_place(0), Some(0));
    assert_eq!(in_place(0), None, "a duplicate is looked up");
    let writer = partition.lock_writer();
    assert_eq!(in_place(2), None, "the writer is busy");
    drop(writer);
    assert_eq!(in_place(2), Some(2));

    let soon = (topics.shared.clock)().0 + APPEND_APART_MS.cast_signed();
    topics
        .shared
        .disk
        .wrote(2 * APPEND_IN_PLACE_MAX, Timestamp(soon));
    assert_eq!(in_place(4), None, "the disk is slow");
    assert_eq!(in_place(4), Some(4));
    clock.advance(partition.config.segment_age_max_ms + 1);
    assert_eq!(in_place(6), None, "a segment is to be sealed");
    assert_eq!(append(&partition, 1, 6, 2).await, 6);
    assert_eq!(in_place(8), Some(8));
}

#[tokio::test]
async fn what_is_appended_is_visible_once_it_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open_on_disk(dir.path(), &[]).unwrap();
    let partition = topics.partition(&id("logs-1")).await.unwrap();
    assert_eq!(append(&partition, 1, 0, 3).await, 0);
    assert_eq!(*partition.durable().borrow(), offset(0));
    assert!(
        partition
            .read(offset(0), 1000)
            .await
            .unwrap()
            .batches
            .is_empty()
    );

    assert_eq!(topics.sync_dirty(), 1);
    assert_eq!(*partition.durable().borrow(), offset(3));
    assert_eq!(
        partition.read(offset(0), 1000).await.unwrap().next,
        offset(3)
    );
    assert_eq!(topics.sync_dirty(), 0);
}

#[tokio::test]
async fn one_round_syncs_every_dirty_partition() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open_on_disk(dir.path(), &[("logs", 5)]).unwrap();
    for number in 0..5 {
        let partition = topics.existing(&id(&format!("logs-{number}"))).unwrap();
        append(&partition, 1, 0, 1).await;
        append(&partition, 1, 1, 1).await;
    }
    assert_eq!(topics.sync_dirty(), 5);
    for topic in topics.list() {
        for partition in topic.partitions {
            assert_eq!(
                (partition.durable, partition.appended),
                (offset(2), offset(2))
            );
        }
    }
}

#[tokio::test]
async fn sync_threads_make_appends_durable_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open_on_disk(dir.path(), &[("logs", 3)]).unwrap();
    let threads = topics.start_sync_threads(&Health::default()).unwrap();
    for round in 0..20 {
        for number in 0..3 {
            let partition = topics.existing(&id(&format!("logs-{number}"))).unwrap();
            append(&partition, 1, round, 1).await;
            let mut durable = partition.durable();
            durable
                .wait_for(|durable| durable.get() == i64::from(round) + 1)
                .await
                .unwrap();
        }
    }
    tokio::task::spawn_blocking(move || threads.join())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_topic_is_found_again_with_its_partitions_and_producers() {
    let dir = tempfile::tempdir().unwrap();
    {
        let topics = open_on_disk(dir.path(), &[]).unwrap();
        let partition = topics.partition(&id("logs-1")).await.unwrap();
        append(&partition, 1, 0, 3).await;
        topics.close();
        let generation = partition.producer(ProducerId::new(1).unwrap()).await;
        assert_eq!(generation.unwrap_err().kind, ErrorKind::Retry);
    }
    let topics = open_on_disk(dir.path(), &[]).unwrap();
    let partition = topics.existing(&id("logs-1")).unwrap();
    assert_eq!(*partition.durable().borrow(), offset(3));
    let standing = partition
        .producer(ProducerId::new(1).unwrap())
        .await
        .unwrap();
    assert_eq!(
        standing.state.unwrap().next_sequence,
        Sequence::new(3).unwrap()
    );
    let again = partition
        .append(standing.generation, &mut batch(1, 0, 3))
        .await
        .unwrap();
    assert_eq!(again.outcome, Outcome::Duplicate);
    assert_eq!(again.base_offset, offset(0));
}

#[test]
fn partitions_can_be_added_and_not_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    open_on_disk(dir.path(), &[("logs", 2)]).unwrap().close();
    let grown = open_on_disk(dir.path(), &[("logs", 4)]).unwrap();
    assert_eq!(grown.partition_count(&"logs".parse().unwrap()), 4);
    grown.close();
    let Err(error) = open_on_disk(dir.path(), &[("logs", 3)]) else {
        panic!("a topic shrank")
    };
    assert!(error.message.contains("write partitions: 4"), "{error}");
}

#[tokio::test]
async fn a_topic_beyond_its_count_or_the_total_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open_on_disk(dir.path(), &[("logs", 1)]).unwrap();
    for (wanted, legal) in [("logs-0", true), ("logs-1", false), ("new-1", true)] {
        assert_eq!(
            topics.partition(&id(wanted)).await.is_ok(),
            legal,
            "{wanted}"
        );
    }
    let Err(refused) = topics.partition(&id("logs-5")).await else {
        panic!("a configured topic grew")
    };
    let words = "write partitions: 6 for topic logs";
    assert!(refused.message.contains(words), "{refused}");
    let past = TopicPartition {
        topic: "new".parse().unwrap(),
        partition: PARTITIONS_MAX,
    };
    assert!(topics.partition(&past).await.is_err());
}

/// It placed its files when the default was higher, or as another aggregator told it.
#[tokio::test]
async fn a_topic_that_is_not_configured_has_every_partition_that_an_agent_placed_lines_on() {
    let dir = tempfile::tempdir().unwrap();
    {
        let topics = open_on_disk(dir.path(), &[("logs", 1)]).unwrap();
        // Agents name their partitions in order: the first makes the topic with the default count.
        let first = topics.partition(&id("web-0")).await.unwrap();
        append(&first, 1, 0, 1).await;
        assert_eq!(topics.existing_count(&"web".parse().unwrap()), 2);
        let third = topics.partition(&id("web-3")).await.unwrap();
        append(&third, 1, 0, 2).await;
        let again = topics.partition(&id("web-0")).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again), "what was open stays so");
        assert!(topics.partition(&id("new-4")).await.is_ok());
        topics.close();
    }
    let topics = open_on_disk(dir.path(), &[("logs", 1)]).unwrap();
    let counts = ["logs", "new", "web"];
    let counts = counts.map(|name| topics.existing_count(&name.parse().unwrap()));
    assert_eq!(counts, [1, 5, 4]);
    let third = topics.existing(&id("web-3")).unwrap();
    assert_eq!(*third.durable().borrow(), offset(2));
}

#[tokio::test]
async fn topics_that_agents_made_up_to_the_limit_keep_no_start_from_working() {
    let dir = tempfile::tempdir().unwrap();
    let limited = |topics: &[(&str, u32)], partitions_max| {
        let config = TopicsConfig {
            partitions_max,
            ..config(&dir.path().join("log"), topics)
        };
        open(config, Arc::new(Disk), &TestClock::new()).unwrap()
    };
    let topics = limited(&[("logs", 1)], 5);
    topics.partition(&id("made-0")).await.unwrap();
    topics.partition(&id("up-0")).await.unwrap();
    let Err(refused) = topics.partition(&id("more-0")).await else {
        panic!("a topic past the limit");
    };
    let words = "topic more gets no more partitions: all topics have 5 already, at most 5";
    assert!(refused.message.starts_with(words), "{refused}");
    assert!(!dir.path().join("log/more-1").exists());
    topics.close();
    // An operator adds a topic and partitions, and even lowers the limit.
    for partitions_max in [5, 2] {
        let topics = limited(&[("added", 1), ("logs", 3)], partitions_max);
        let counts = ["added", "logs", "made", "up"];
        let counts = counts.map(|name| topics.existing_count(&name.parse().unwrap()));
        assert_eq!(counts, [0, 1, 2, 2]);
        assert!(topics.partition(&id("added-0")).await.is_err());
        topics.close();
    }
}

#[test]
fn foreign_files_in_the_log_directory_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    for name in ["lost+found", "logs", "logs-9999999", "-1", "logs-0"] {
        std::fs::create_dir_all(log.join(name)).unwrap();
    }
    std::fs::write(log.join("logs-7"), "not a directory").unwrap();
    let topics = open_on_disk(dir.path(), &[]).unwrap();
    let names: Vec<String> = topics
        .list()
        .into_iter()
        .map(|topic| topic.name.to_string())
        .collect();
    assert_eq!(names, ["logs"]);
    assert_eq!(topics.existing_count(&"logs".parse().unwrap()), 1);
    assert!(log.join("lost+found").exists());
}

#[tokio::test]
async fn retention_drops_what_is_old_and_readers_are_told_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let mut config = config(&dir.path().join("log"), &[("logs", 1)]);
    for topic in config.topics.values_mut() {
        topic.log.segment_age_max_ms = 1;
        topic.log.retention_ms = Some(10_000);
    }
    let topics = open(config, Arc::new(Disk), &clock).unwrap();
    let partition = topics.existing(&id("logs-0")).unwrap();
    for sequence in 0..4 {
        append(&partition, 1, sequence, 1).await;
        topics.sync_dirty();
        clock.advance(6_000);
    }
    topics.apply_retention();
    let start = partition.reader().unwrap().start();
    assert!(start > offset(0) && start < offset(4), "{start}");
    let error = partition.read(offset(0), 1000).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Input);
    assert!(error.message.contains(&start.to_string()), "{error}");
    assert_eq!(
        partition.read(start, 100_000).await.unwrap().next,
        offset(4)
    );
}
