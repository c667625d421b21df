//! What goes and what stays: trimming, retention by age and by bytes, on a full disk, under a reader.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;
use std::sync::Arc;

use commitlog::batch::header::restamp;
use commitlog::error::ErrorKind;
use commitlog::id::{Offset, Timestamp};
use commitlog::limits::INDEX_ENTRIES_MAX;
use commitlog::log::partition::{LogConfig, Outcome, PartitionLog};
use commitlog::log::reader::Until;
use commitlog::storage::Storage;
use commitlog::storage::faulty::{Fault, FaultyDisk};
use support::{NOW, batch, offset, producer};

const DAY_MS: i64 = 86_400_000;
const CONFIG: LogConfig = LogConfig {
    segment_bytes_max: 500,
    segment_age_max_ms: 3 * DAY_MS,
    retention_bytes: None,
    retention_ms: None,
};

fn open(disk: &FaultyDisk, config: LogConfig, now: Timestamp) -> PartitionLog {
    PartitionLog::open(Arc::new(disk.clone()), Path::new("d"), config, now)
        .unwrap()
        .0
}

fn later(days: i64) -> Timestamp {
    Timestamp(NOW.0 + days * DAY_MS)
}

/// Appends a batch of one record per day, each of its own producer; its timestamp is nonsense.
fn fill(log: &mut PartitionLog, days: std::ops::Range<i64>) {
    for day in days {
        let nonsense = Timestamp(if day % 2 == 0 {
            i64::MIN / 4
        } else {
            i64::MAX / 4
        });
        let mut batch = batch(producer(day, 0), nonsense, &[&[b'x'; 100]]);
        let appended = log.append(&mut batch, later(day)).unwrap();
        assert_eq!(appended.outcome, Outcome::Appended);
    }
    let job = log.start_sync().unwrap();
    log.finish_sync(job.run()).unwrap();
}

fn logs(disk: &FaultyDisk) -> usize {
    let names = disk.list(Path::new("d")).unwrap();
    names
        .iter()
        .filter(|entry| entry.name.to_string_lossy().ends_with(".log"))
        .count()
}

#[test]
fn age_counts_from_the_append_not_from_what_records_say() {
    let disk = FaultyDisk::new();
    let config = LogConfig {
        retention_ms: Some(10 * DAY_MS),
        ..CONFIG
    };
    let mut log = open(&disk, config, NOW);
    fill(&mut log, 0..20);
    let before = log.reader().segments();
    let trimmed = log.apply_retention(later(20)).unwrap();
    assert!(trimmed.segments > 0 && log.reader().segments() == before - trimmed.segments);
    // A segment goes when all its batches are older than ten days, no sooner.
    let start = log.start();
    assert!((offset(7)..=offset(10)).contains(&start), "{start}");
    assert_eq!(trimmed.left, [] as [std::path::PathBuf; 0]);
    assert_eq!(logs(&disk), log.reader().segments());
    // The ages are known again after a restart.
    log.close().unwrap();
    let mut log = open(&disk, config, later(25));
    assert_eq!(log.start(), start);
    assert_eq!(log.apply_retention(later(20)).unwrap().segments, 0);
    let trimmed = log.apply_retention(later(25)).unwrap();
    assert!(
        (offset(12)..=offset(15)).contains(&trimmed.start),
        "{}",
        trimmed.start
    );
    // Also the segment that was being written, and offsets go on.
    let trimmed = log.apply_retention(later(100)).unwrap();
    assert_eq!((trimmed.start, log.end()), (offset(20), offset(20)));
    assert_eq!(log.bytes(), 0);
    fill(&mut log, 20..21);
    assert_eq!(log.end(), offset(21));
}

#[test]
fn an_idle_log_gives_up_the_segment_being_written_when_all_of_it_is_too_old() {
    let disk = FaultyDisk::new();
    let config = LogConfig {
        retention_ms: Some(10 * DAY_MS),
        ..CONFIG
    };
    let mut log = open(&disk, config, NOW);
    fill(&mut log, 0..2);
    assert_eq!(log.reader().segments(), 1);
    assert_eq!(log.apply_retention(later(11)).unwrap().segments, 0);
    let trimmed = log.apply_retention(later(12)).unwrap();
    assert_eq!((trimmed.segments, trimmed.start), (1, offset(2)));
    assert_eq!((log.bytes(), logs(&disk)), (0, 1));
    // Again and again it has nothing to do, and makes no segments.
    assert_eq!(log.apply_retention(later(30)).unwrap().segments, 0);
    assert_eq!(logs(&disk), 1);
    disk.kill();
    let mut log = open(&disk, config, later(30));
    assert_eq!((log.start(), log.end()), (offset(2), offset(2)));
    fill(&mut log, 30..31);
    assert_eq!(log.end(), offset(3));
}

#[test]
fn by_bytes_the_oldest_go_while_enough_is_kept() {
    let disk = FaultyDisk::new();
    let config = LogConfig {
        retention_bytes: Some(1500),
        ..CONFIG
    };
    let mut log = open(&disk, config, NOW);
    fill(&mut log, 0..30);
    log.apply_retention(later(30)).unwrap();
    let bytes = log.bytes();
    assert!((1500..1500 + 500).contains(&bytes), "{bytes}");
    assert_eq!(log.apply_retention(later(30)).unwrap().segments, 0);
}

#[test]
fn trimming_frees_whole_segments_and_never_the_one_being_written() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk, CONFIG, NOW);
    fill(&mut log, 0..10);
    let segments = logs(&disk);
    assert_eq!(log.trim(offset(1)).unwrap().segments, 0);
    assert_eq!((log.start(), logs(&disk)), (offset(1), segments));
    assert!(log.trim(log.end()).unwrap().segments > 0);
    assert_eq!((log.start(), logs(&disk)), (offset(10), 1));
    assert_eq!(
        log.trim(offset(3)).unwrap().start,
        offset(10),
        "a start never falls"
    );
    let slice = log.reader().read(offset(10), 1000, Until::Durable).unwrap();
    assert!(slice.batches.is_empty());
    disk.kill();
    let log = open(&disk, CONFIG, NOW);
    assert_eq!((log.start(), log.end()), (offset(10), offset(10)));
}

#[test]
fn what_is_not_durable_is_not_trimmed() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk, CONFIG, NOW);
    fill(&mut log, 0..2);
    log.append(&mut batch(producer(100, 0), NOW, &[b"x"]), NOW)
        .unwrap();
    assert_eq!(log.trim(offset(3)).unwrap().start, offset(2));
}

#[test]
fn a_reader_below_the_start_is_told_where_to_go_on() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk, CONFIG, NOW);
    fill(&mut log, 0..10);
    let reader = log.reader();
    let slice = reader.read(Offset::ZERO, 100, Until::Durable).unwrap();
    log.trim(offset(6)).unwrap();
    let error = reader.read(slice.next, 100, Until::Durable).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Input);
    assert!(error.message.contains("begins at 6"), "{error}");
    assert_eq!(
        reader.read(offset(6), 100, Until::Durable).unwrap().next,
        offset(7)
    );
    let error = reader.read(offset(11), 100, Until::Durable).unwrap_err();
    assert!(error.message.contains("end 10"), "{error}");
}

#[test]
fn a_full_disk_refuses_appends_serves_reads_and_can_be_trimmed() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk, CONFIG, NOW);
    fill(&mut log, 0..10);
    let space = disk.free_bytes(Path::new("d")).unwrap();
    disk.limit(Some(space.total - space.free));
    let mut next = batch(producer(100, 0), NOW, &[&[b'x'; 100]]);
    for _ in 0..3 {
        let error = log.append(&mut next.clone(), NOW).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Retry, "{error}");
    }
    let reader = log.reader();
    assert_eq!(
        reader.read(offset(9), 1000, Until::Durable).unwrap().next,
        offset(10)
    );
    // Not even a new checkpoint fits: segments go one by one, from the first.
    assert!(log.trim(offset(8)).unwrap().segments > 0);
    assert_eq!(log.append(&mut next, NOW).unwrap().base_offset, offset(10));
    let job = log.start_sync().unwrap();
    assert_eq!(log.finish_sync(job.run()).unwrap(), offset(11));
    for fate in 0..200 {
        let copy = disk.snapshot();
        copy.restart(fate);
        let log = open(&copy, CONFIG, NOW);
        assert_eq!(log.end(), offset(11));
        let slice = log
            .reader()
            .read(offset(9), 10_000, Until::Durable)
            .unwrap();
        assert_eq!(slice.gaps, [], "fate {fate}");
    }
}

#[test]
fn a_log_with_a_torn_tail_opens_on_a_full_disk() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk, CONFIG, NOW);
    fill(&mut log, 0..2);
    log.append(&mut batch(producer(100, 0), NOW, &[b"not synced"]), NOW)
        .unwrap();
    let space = disk.free_bytes(Path::new("d")).unwrap();
    disk.limit(Some(space.total - space.free));
    disk.kill();
    let log = open(&disk, CONFIG, NOW);
    assert_eq!((log.end(), log.durable_end()), (offset(3), offset(3)));
}

#[test]
fn i10_a_power_cut_while_segments_go_leaves_no_hole() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk, CONFIG, NOW);
    fill(&mut log, 0..20);
    drop(log);
    disk.restart(0);
    let opened = disk.snapshot();
    drop(open(&opened, CONFIG, NOW));
    for call in opened.calls()..opened.calls() + 40 {
        let cut = opened.snapshot();
        let mut log = open(&cut, CONFIG, NOW);
        cut.plan(call, Fault::PowerCut);
        let done = log.trim(offset(17)).is_ok();
        drop(log);
        for fate in 0..40 {
            let copy = cut.snapshot();
            copy.restart(fate);
            copy.forgive();
            let log = open(&copy, CONFIG, NOW);
            let what = format!("call {call}, fate {fate}");
            assert!(
                log.start() <= offset(17) && log.end() == offset(20),
                "{what}"
            );
            assert!(!done || cut.is_off() || log.start() == offset(17), "{what}");
            let slice = log
                .reader()
                .read(log.start(), 100_000, Until::Durable)
                .unwrap();
            assert_eq!(slice.gaps, [], "{what}");
        }
    }
}

#[test]
fn an_idle_segment_is_sealed_when_it_is_too_old() {
    let disk = FaultyDisk::new();
    let mut log = open(
        &disk,
        LogConfig {
            segment_age_max_ms: DAY_MS,
            ..CONFIG
        },
        NOW,
    );
    fill(&mut log, 0..1);
    fill(&mut log, 2..3);
    assert_eq!(log.reader().segments(), 2);
    log.close().unwrap();
    let days_later = LogConfig {
        segment_age_max_ms: 3 * DAY_MS,
        ..CONFIG
    };
    let mut log = open(&disk, days_later, later(3));
    fill(&mut log, 4..5);
    assert_eq!(
        log.reader().segments(),
        2,
        "its age is known after a restart"
    );
    fill(&mut log, 6..7);
    assert_eq!(log.reader().segments(), 3);
}

#[test]
fn a_segment_of_tiny_batches_is_sealed_before_its_index_is_too_large() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk, LogConfig::default(), NOW);
    let mut tiny = batch(producer(1, 0), NOW, &[b""]);
    for sequence in 0..=INDEX_ENTRIES_MAX {
        restamp(&mut tiny, producer(1, i32::try_from(sequence).unwrap()));
        log.append(&mut tiny, NOW).unwrap();
    }
    assert_eq!(log.reader().segments(), 2);
    let entries = disk.list(Path::new("d")).unwrap();
    let index = entries
        .iter()
        .find(|entry| entry.name.to_string_lossy().ends_with(".index"));
    assert_eq!(index.unwrap().bytes, INDEX_ENTRIES_MAX as u64 * 8);
}
