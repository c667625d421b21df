//! Topics on a disk that fails: what consumers were shown never changes, one partition's failure
//! stays its own, and a full disk passes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use commitlog::batch::header::split_first;
use commitlog::batch::records::Decompressor;
use commitlog::error::ErrorKind;
use commitlog::id::{ProducerId, Sequence};
use commitlog::log::partition::Outcome;
use commitlog::storage::OpenMode;
use commitlog::storage::faulty::{Fault, FaultyDisk};

use super::tests::{TestClock, append, batch, config, id, offset, open};
use super::*;
use crate::health::Health;
use crate::limits::{DISK_FULL_PAUSE_MS, REOPEN_BACKOFF_MAX_MS};

fn producer() -> ProducerId {
    ProducerId::new(1).unwrap()
}

fn open_faulty(disk: &FaultyDisk, clock: &TestClock) -> Topics {
    open(
        config(Path::new("/data/log"), &[("logs", 2)]),
        Arc::new(disk.clone()),
        clock,
    )
    .unwrap()
}

/// Every durable record, by offset.
fn durable_records(partition: &Partition) -> BTreeMap<i64, Vec<u8>> {
    let reader = partition.reader().unwrap();
    let mut records = BTreeMap::new();
    let mut from = reader.start();
    let mut decompressor = Decompressor::new();
    loop {
        let slice = reader
            .read(from, 1 << 20, commitlog::log::reader::Until::Durable)
            .unwrap();
        assert_eq!(slice.gaps, []);
        if slice.next == from {
            return records;
        }
        from = slice.next;
        let mut rest = slice.batches.as_slice();
        while !rest.is_empty() {
            let (_, one, behind) = split_first(rest).unwrap();
            for record in decompressor.records(one).unwrap() {
                let record = record.unwrap();
                records.insert(record.offset.get(), record.value.unwrap().to_vec());
            }
            rest = behind;
        }
    }
}

#[tokio::test]
async fn a_failed_fsync_closes_one_partition_which_opens_again() {
    let disk = FaultyDisk::new();
    let clock = TestClock::new();
    let topics = open_faulty(&disk, &clock);
    let (bad, good) = (
        topics.existing(&id("logs-0")).unwrap(),
        topics.existing(&id("logs-1")).unwrap(),
    );
    append(&bad, 1, 0, 3).await;
    topics.sync_dirty();
    let stale = bad.producer(producer()).await.unwrap().generation;

    append(&bad, 1, 3, 2).await;
    disk.plan(disk.calls(), Fault::Io);
    topics.sync_dirty();
    assert_eq!(
        *bad.durable().borrow(),
        offset(3),
        "no watermark without an fsync"
    );
    assert!(
        !bad.is_current(stale),
        "sessions see at once that they must start over"
    );
    assert!(
        topics.problems()[0].contains("logs-0"),
        "{:?}",
        topics.problems()
    );
    assert_eq!(durable_records(&bad).len(), 3, "reads go on");
    assert_eq!(
        bad.producer(producer()).await.unwrap_err().kind,
        ErrorKind::Retry
    );
    assert_eq!(append(&good, 1, 0, 1).await, 0);
    topics.sync_dirty();
    assert_eq!(*good.durable().borrow(), offset(1));

    clock.advance(REOPEN_BACKOFF_MAX_MS);
    topics.maintain();
    assert_eq!(topics.problems(), Vec::<String>::new());
    let refused = bad.append(stale, &mut batch(1, 5, 1)).await.unwrap_err();
    assert_eq!(
        refused.kind,
        ErrorKind::Closed,
        "an old session must start over"
    );
    let standing = bad.producer(producer()).await.unwrap();
    let next = standing.state.unwrap().next_sequence;
    assert_eq!(append(&bad, 1, next.get(), 1).await, i64::from(next.get()));
    topics.sync_dirty();
    assert_eq!(bad.durable().borrow().get(), i64::from(next.get()) + 1);
}

#[tokio::test]
async fn a_disk_that_stays_broken_is_tried_again_with_longer_waits() {
    let disk = FaultyDisk::new();
    let clock = TestClock::new();
    let topics = open_faulty(&disk, &clock);
    let bad = topics.existing(&id("logs-0")).unwrap();
    append(&bad, 1, 0, 1).await;
    for call in 0..1000 {
        disk.plan(disk.calls() + call, Fault::Io);
    }
    topics.sync_dirty();
    let mut attempts = 0;
    for _ in 0..100 {
        let before = disk.calls();
        clock.advance(100);
        topics.maintain();
        attempts += u32::from(disk.calls() > before);
    }
    assert!((3..20).contains(&attempts), "{attempts} attempts in 10 s");
    disk.forgive();
    clock.advance(REOPEN_BACKOFF_MAX_MS);
    topics.maintain();
    assert_eq!(topics.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn i21_a_full_disk_takes_credits_away_and_resumes_by_itself() {
    let disk = FaultyDisk::new();
    let clock = TestClock::new();
    let topics = open_faulty(&disk, &clock);
    let partition = topics.existing(&id("logs-0")).unwrap();
    append(&partition, 1, 0, 1).await;
    topics.sync_dirty();
    assert!(!topics.disk().is_zero());

    disk.limit(Some(0));
    let generation = partition.producer(producer()).await.unwrap().generation;
    let error = partition
        .append(generation, &mut batch(1, 1, 1))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry, "{error}");
    assert!(topics.disk().is_zero(), "at once, not at the next check");
    assert!(
        topics
            .problems()
            .iter()
            .any(|problem| problem.contains("disk is full"))
    );
    clock.advance(10 * DISK_FULL_PAUSE_MS);
    topics.maintain();
    assert!(topics.disk().is_zero());

    disk.limit(None);
    clock.advance(10 * DISK_FULL_PAUSE_MS);
    topics.maintain();
    assert!(!topics.disk().is_zero());
    // Nothing of the session was lost: the very same batch goes in.
    let again = partition
        .append(generation, &mut batch(1, 1, 1))
        .await
        .unwrap();
    assert_eq!(
        (again.outcome, again.base_offset),
        (Outcome::Appended, offset(1))
    );
}

#[tokio::test]
async fn free_space_below_the_high_water_mark_gives_no_credit() {
    let disk = FaultyDisk::new();
    let clock = TestClock::new();
    disk.limit(Some(1_000_000));
    let mut config = config(Path::new("/data/log"), &[]);
    config.disk_high_water_percent = 90;
    let topics = open(config, Arc::new(disk.clone()), &clock).unwrap();
    assert_eq!(topics.disk().bytes(), 900_000);
    let filler = disk
        .open(Path::new("/data/log/filler"), OpenMode::Write)
        .unwrap();
    filler.write_at(&vec![0; 850_000], 0).unwrap();
    topics.check_disk();
    assert_eq!(topics.disk().bytes(), 50_000);
    filler.write_at(&vec![0; 80_000], 850_000).unwrap();
    topics.check_disk();
    assert_eq!(topics.disk().bytes(), 0);
    disk.overwrite(Path::new("/data/log/filler"), &[]);
    topics.check_disk();
    assert!(topics.disk().bytes() > 800_000);
}

/// Appends, syncs, reads, cuts the power anywhere, recovers, and so on; what was read once is read
/// for ever.
#[tokio::test]
async fn i20_what_a_consumer_has_read_no_crash_takes_back() {
    for seed in 0..150 {
        run_crashes(seed).await;
    }
}

async fn run_crashes(seed: u64) {
    let disk = FaultyDisk::new();
    let clock = TestClock::new();
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut seen: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
    for life in 0..4 {
        disk.plan(disk.calls() + 30 + chance.below(60), Fault::PowerCut);
        let topics = Topics::open(
            config(Path::new("/data/log"), &[("logs", 1)]),
            Arc::new(disk.clone()),
            clock.clock(),
            Blocking::Inline,
            Telemetry::new(),
        );
        if let Ok(topics) = topics {
            live_until_the_cut(&topics, &disk, &mut chance, &mut seen, seed).await;
        }
        disk.forgive();
        disk.power_cut();
        disk.restart(seed * 10 + life);
        let topics = open_faulty(&disk, &clock);
        let partition = topics.existing(&id("logs-0")).unwrap();
        let records = durable_records(&partition);
        for (offset, value) in &seen {
            assert_eq!(
                records.get(offset),
                Some(value),
                "seed {seed}, life {life}, offset {offset}"
            );
        }
        topics.close();
    }
}

async fn live_until_the_cut(
    topics: &Topics,
    disk: &FaultyDisk,
    chance: &mut Chance,
    seen: &mut BTreeMap<i64, Vec<u8>>,
    seed: u64,
) {
    let Some(partition) = topics.existing(&id("logs-0")) else {
        return;
    };
    while !disk.is_off() {
        let Ok(standing) = partition.producer(producer()).await else {
            return;
        };
        let next = standing
            .state
            .map_or(Sequence::ZERO, |state| state.next_sequence);
        let count = 1 + i32::try_from(chance.below(3)).unwrap();
        let appended = partition
            .append(standing.generation, &mut batch(1, next.get(), count))
            .await;
        if chance.below(2) == 0 {
            topics.sync_dirty();
        }
        let durable = *partition.durable().borrow();
        if disk.is_off() {
            return;
        }
        if let Ok(appended) = appended {
            assert!(durable <= appended.next_offset, "seed {seed}");
        }
        for (offset, value) in durable_records(&partition) {
            assert!(
                offset < durable.get(),
                "seed {seed}: offset {offset} is beyond {durable}"
            );
            let before = seen.insert(offset, value.clone());
            assert!(
                before.is_none_or(|before| before == value),
                "seed {seed}: offset {offset} changed"
            );
        }
    }
}

/// Three writers, two sync threads, a reader and the maintenance at once, on a disk whose calls fail
/// now and then: what was read once stays, and every writer gets to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn failing_fsyncs_under_load_change_nothing_that_was_read() {
    let disk = FaultyDisk::new();
    let clock = TestClock::new();
    let topics = Topics::open(
        config(Path::new("/data/log"), &[("logs", 1)]),
        Arc::new(disk.clone()),
        clock.clock(),
        Blocking::Threads,
        Telemetry::new(),
    )
    .unwrap();
    let threads = topics.start_sync_threads(&Health::default()).unwrap();
    let partition = topics.existing(&id("logs-0")).unwrap();
    let writers: Vec<_> = (1..=3)
        .map(|number| tokio::spawn(write_through_failures(Arc::clone(&partition), number)))
        .collect();
    let mut seen = BTreeMap::new();
    let mut chance = Chance(7);
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        disk.plan(disk.calls() + chance.below(200), Fault::Io);
        clock.advance(REOPEN_BACKOFF_MAX_MS);
        let (upkeep, reader) = (topics.clone(), Arc::clone(&partition));
        let records = tokio::task::spawn_blocking(move || {
            upkeep.maintain();
            durable_records(&reader)
        });
        for (offset, value) in records.await.unwrap() {
            let before = seen.insert(offset, value.clone());
            assert!(
                before.is_none_or(|before| before == value),
                "offset {offset} changed"
            );
        }
    }
    disk.forgive();
    for writer in writers {
        writer.await.unwrap();
    }
    tokio::task::spawn_blocking(move || threads.join())
        .await
        .unwrap();
    topics.close();
    let values: BTreeSet<Vec<u8>> = durable_records(&partition).into_values().collect();
    assert_eq!(values.len(), 3 * LOAD_RECORDS as usize, "every record once");
    let failures = topics
        .shared
        .telemetry
        .partition(partition.id())
        .failures
        .get();
    assert!(
        failures > 3,
        "only {failures} failures: the test tests nothing"
    );
    let end = partition.durable().borrow().get();
    assert_eq!(end, 3 * i64::from(LOAD_RECORDS), "and nothing twice");
}

const LOAD_RECORDS: i32 = 300;

/// Appends all records of one producer, starting over from what is known of it after each failure.
async fn write_through_failures(partition: Arc<Partition>, number: i64) {
    let id = ProducerId::new(number).unwrap();
    loop {
        let Ok(standing) = partition.producer(id).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut next = standing.state.map_or(0, |state| state.next_sequence.get());
        while next < LOAD_RECORDS {
            match partition
                .append(standing.generation, &mut batch(number, next, 1))
                .await
            {
                Ok(appended) => assert_eq!(appended.outcome, Outcome::Appended),
                Err(_) => break,
            }
            next += 1;
        }
        if next == LOAD_RECORDS && stays_durable(&partition, id, standing.generation).await {
            return;
        }
    }
}

/// Waits until all records of a producer are durable; false when a failure may have taken some back.
async fn stays_durable(partition: &Arc<Partition>, id: ProducerId, generation: Generation) -> bool {
    let mut durable = partition.durable();
    loop {
        let Ok(standing) = partition.producer(id).await else {
            return false;
        };
        if standing.generation != generation {
            return false;
        }
        if standing
            .state
            .is_some_and(|state| state.durable_sequence.get() == LOAD_RECORDS)
        {
            return true;
        }
        // A failure shows in the generation, not in the watermark: look again now and then.
        let grown = durable.changed();
        tokio::time::timeout(std::time::Duration::from_millis(5), grown)
            .await
            .ok();
    }
}

/// A small generator (xorshift), so that a seed replays a run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

#[tokio::test]
async fn a_damaged_data_directory_starts_and_takes_records() {
    let clock = TestClock::new();
    let whole = FaultyDisk::new();
    {
        let topics = open_faulty(&whole, &clock);
        let partition = topics.existing(&id("logs-0")).unwrap();
        for sequence in 0..5 {
            append(&partition, 1, sequence, 1).await;
        }
        topics.sync_dirty();
        topics.close();
    }
    let dir = Path::new("/data/log/logs-0");
    let files: Vec<PathBuf> = whole
        .list(dir)
        .unwrap()
        .into_iter()
        .map(|entry| dir.join(entry.name))
        .collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in &files {
        let content = whole.content(file).unwrap();
        let half = content.len() / 2;
        let garbage = vec![0xa5; content.len().max(7)];
        for damage in [&[][..], &content[..half], &garbage] {
            let disk = whole.snapshot();
            disk.kill();
            disk.overwrite(file, damage);
            let topics = open_faulty(&disk, &clock);
            assert_eq!(topics.problems(), Vec::<String>::new(), "{file:?}");
            let partition = topics.existing(&id("logs-0")).unwrap();
            let standing = partition
                .producer(ProducerId::new(2).unwrap())
                .await
                .unwrap();
            partition
                .append(standing.generation, &mut batch(2, 0, 1))
                .await
                .unwrap();
            topics.sync_dirty();
            let end = *partition.durable().borrow();
            assert!(end >= offset(1), "{file:?}: {end}");
        }
    }
}
