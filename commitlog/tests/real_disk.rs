//! The log on the real disk: what it writes, it reads, and opens again.

#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;

use commitlog::batch::header::BatchHeader;
use commitlog::id::{Offset, Timestamp};
use commitlog::log::partition::{LogConfig, Outcome, PartitionLog, SyncJob};
use commitlog::log::reader::{LogReader, Until};
use commitlog::storage::Storage;
use commitlog::storage::disk::Disk;
use support::{NOW, batches, offset};

const SMALL: LogConfig = LogConfig {
    segment_bytes_max: 4096,
    segment_age_max_ms: 3_600_000,
    retention_bytes: None,
    retention_ms: None,
};

fn open(dir: &std::path::Path) -> PartitionLog {
    let (log, recovery) = PartitionLog::open(Arc::new(Disk), dir, SMALL, NOW).unwrap();
    assert_eq!(recovery.gaps, []);
    log
}

fn read_all(reader: &LogReader) -> Vec<Vec<u8>> {
    let mut next = reader.start();
    let mut out = Vec::new();
    loop {
        let slice = reader.read(next, 1000, Until::Durable).unwrap();
        assert_eq!(slice.gaps, []);
        if slice.batches.is_empty() {
            return out;
        }
        let mut rest = slice.batches.as_slice();
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest).unwrap();
            let (batch, after) = rest.split_at(header.total_bytes());
            out.push(batch.to_vec());
            rest = after;
        }
        next = slice.next;
    }
}

#[test]
fn segments_are_sealed_while_a_sync_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path());
    let (jobs, waiting) = std::sync::mpsc::sync_channel(0);
    let (done, results) = std::sync::mpsc::channel();
    let syncing = std::thread::spawn(move || {
        for job in waiting {
            let job: SyncJob = job;
            done.send(job.run()).unwrap();
        }
    });
    let mut expected = Vec::new();
    let mut runs = false;
    // Every segment holds about eight; its first sync makes a mark, and so does its sealing.
    for mut batch in batches(1, 2000, 3, 100) {
        log.append(&mut batch, NOW).unwrap();
        expected.push(batch);
        if let Ok(result) = results.try_recv() {
            log.finish_sync(result).unwrap();
            runs = false;
        }
        if !runs && let Some(job) = log.start_sync() {
            jobs.send(job).unwrap();
            runs = true;
        }
    }
    drop(jobs);
    syncing.join().unwrap();
    if runs {
        log.finish_sync(results.recv().unwrap()).unwrap();
    }
    log.close().unwrap();
    let log = open(dir.path());
    assert_eq!(read_all(&log.reader()), expected);
    let left = Disk.list(dir.path()).unwrap().into_iter();
    let left: Vec<_> = left.map(|it| it.name.into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.contains(".tmp")), "{left:?}");
}

#[test]
fn what_was_appended_is_read_and_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a").join("logs-0");
    let mut log = open(&dir);
    let reader = log.reader();
    let mut expected = Vec::new();
    for mut batch in batches(1, 100, 3, 100) {
        let appended = log.append(&mut batch, NOW).unwrap();
        assert_eq!(appended.outcome, Outcome::Appended);
        let again = log.append(&mut batch.clone(), NOW).unwrap();
        assert_eq!(again.outcome, Outcome::Duplicate);
        assert_eq!(again.base_offset, appended.base_offset);
        expected.push(batch);
        if let Some(job) = log.start_sync() {
            let durable = log.finish_sync(job.run()).unwrap();
            assert_eq!(durable, appended.next_offset);
        }
    }
    assert_eq!(read_all(&reader), expected);
    log.close().unwrap();
    let mut names: Vec<_> = Disk
        .list(&dir)
        .unwrap()
        .into_iter()
        .map(|e| e.name)
        .collect();
    names.retain(|name| !name.to_string_lossy().contains('.'));
    assert_eq!(names, ["leader-epoch-checkpoint"]);

    // Once after a close, once after a process that just ended.
    for _ in 0..2 {
        let mut log = open(&dir);
        assert_eq!(read_all(&log.reader()), expected);
        let again = log
            .append(&mut expected.last().unwrap().clone(), NOW)
            .unwrap();
        assert_eq!(again.outcome, Outcome::Duplicate);
    }
    let time = Timestamp(NOW.0 + 50);
    let at = open(&dir).reader().offset_at(time).unwrap().unwrap();
    assert_eq!(BatchHeader::parse(&expected[50]).unwrap().base_offset, at);
}

#[test]
fn appended_batches_are_kept_when_the_process_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for mut batch in batches(2, 60, 2, 200) {
        let mut log = open(dir.path());
        assert_eq!(
            log.append(&mut batch, NOW).unwrap().outcome,
            Outcome::Appended
        );
        expected.push(batch);
        assert_eq!(log.start(), Offset::ZERO);
    }
    assert_eq!(read_all(&open(dir.path()).reader()), expected);
}

#[test]
fn a_second_lock_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let held = Disk.lock(&path).unwrap();
    let refused = Disk.lock(&path).err().unwrap().to_string();
    assert!(
        refused.contains(&std::process::id().to_string()),
        "{refused}"
    );
    drop(held);
    drop(Disk.lock(&path).unwrap());
    assert!(offset(0) == Offset::ZERO);
}
