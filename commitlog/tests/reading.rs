//! Readers: whole batches from any offset, durable ones unless told otherwise, while the writer writes.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use commitlog::batch::header::{BatchHeader, verify};
use commitlog::id::{Offset, Timestamp};
use commitlog::log::partition::{LogConfig, PartitionLog};
use commitlog::log::reader::{LogReader, Until};
use commitlog::storage::faulty::FaultyDisk;
use support::{NOW, batch, batches, offset, producer};

const CONFIG: LogConfig = LogConfig {
    segment_bytes_max: 2000,
    segment_age_max_ms: 3_600_000,
    retention_bytes: None,
    retention_ms: None,
};

fn new_log() -> PartitionLog {
    let disk = Arc::new(FaultyDisk::new());
    PartitionLog::open(disk, Path::new("d"), CONFIG, NOW)
        .unwrap()
        .0
}

fn sync(log: &mut PartitionLog) {
    let job = log.start_sync().unwrap();
    log.finish_sync(job.run()).unwrap();
}

#[test]
fn an_offset_inside_a_batch_gets_the_whole_batch() {
    let mut log = new_log();
    for number in 0..10 {
        let mut batch = batch(producer(1, number * 3), NOW, &[b"a", b"b", b"c"]);
        log.append(&mut batch, NOW).unwrap();
    }
    sync(&mut log);
    let reader = log.reader();
    for from in 0..30 {
        let slice = reader.read(offset(from), 0, Until::Durable).unwrap();
        let header = verify(&slice.batches).unwrap();
        assert_eq!(header.base_offset, offset(from / 3 * 3));
        assert_eq!((slice.next, slice.gaps), (header.next_offset(), vec![]));
    }
    let slice = reader.read(offset(30), 1000, Until::Durable).unwrap();
    assert!(slice.batches.is_empty() && slice.next == offset(30));
}

#[test]
fn a_read_holds_what_fits_and_at_least_one_batch() {
    let mut log = new_log();
    let mut sizes = Vec::new();
    for mut batch in batches(41, 12, 1, 300) {
        sizes.push(batch.len());
        log.append(&mut batch, NOW).unwrap();
    }
    sync(&mut log);
    for bytes_max in [0, 1, 500, 1500, 100_000] {
        let mut next = Offset::ZERO;
        let mut seen = 0;
        while next < log.end() {
            let slice = log.reader().read(next, bytes_max, Until::Durable).unwrap();
            let held = slice.batches.len();
            assert!(
                held <= bytes_max || held == sizes[seen],
                "{held} of {bytes_max}"
            );
            let mut rest = slice.batches.as_slice();
            while !rest.is_empty() {
                rest = &rest[BatchHeader::parse(rest).unwrap().total_bytes()..];
                seen += 1;
            }
            next = slice.next;
        }
        assert_eq!(seen, sizes.len());
    }
}

#[test]
fn consumers_see_what_is_durable_and_nothing_else() {
    let mut log = new_log();
    let reader = log.reader();
    let read = |until| reader.read(Offset::ZERO, 10_000, until).unwrap().next;
    log.append(&mut batch(producer(1, 0), NOW, &[b"a"]), NOW)
        .unwrap();
    assert_eq!(
        (read(Until::Durable), read(Until::Appended)),
        (offset(0), offset(1))
    );
    let job = log.start_sync().unwrap();
    log.append(&mut batch(producer(1, 1), NOW, &[b"b"]), NOW)
        .unwrap();
    let done = job.run();
    assert_eq!(
        read(Until::Durable),
        offset(0),
        "not before the writer knows"
    );
    log.finish_sync(done).unwrap();
    assert_eq!(
        (read(Until::Durable), read(Until::Appended)),
        (offset(1), offset(2))
    );
}

#[test]
fn the_first_record_at_or_after_a_time_is_found_in_any_order_of_times() {
    let mut log = new_log();
    let mut random = support::Random::new(42);
    let mut times: Vec<i64> = Vec::new();
    let mut at = 0;
    for number in 0..120 {
        let time = i64::try_from(random.below(1000)).unwrap() + number * 5;
        let values: Vec<Vec<u8>> = (0..2).map(|_| random.bytes(90)).collect();
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let mut made = batch(producer(1, at), Timestamp(time), &values);
        log.append(&mut made, NOW).unwrap();
        times.extend([time, time]);
        at += 2;
    }
    sync(&mut log);
    assert!(log.reader().segments() > 5);
    log.trim(offset(31)).unwrap();
    for time in (0..1700).step_by(7) {
        let expected = (31..times.len()).find(|&at| times[at] >= time);
        let expected = expected.map(|at| offset(i64::try_from(at).unwrap()));
        assert_eq!(
            log.reader().offset_at(Timestamp(time)).unwrap(),
            expected,
            "time {time}"
        );
    }
}

#[test]
fn readers_on_other_threads_see_a_prefix_that_only_grows() {
    let mut log = new_log();
    let sent = batches(43, 400, 2, 120);
    let done = AtomicBool::new(false);
    let read_all = |reader: LogReader| {
        let (mut next, mut read) = (Offset::ZERO, Vec::new());
        while !done.load(Ordering::Acquire) || next < reader.durable_end() {
            let slice = match reader.read(next, 3000, Until::Durable) {
                Ok(slice) => slice,
                // The writer trims behind the slowest; the others may be slower still.
                Err(_) if next < reader.start() => {
                    next = reader.start();
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            assert_eq!(slice.gaps, []);
            assert!(slice.next >= next);
            next = slice.next;
            read.push(slice.batches);
        }
        (next, read)
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| (log.reader(), &read_all))
            .map(|(r, f)| scope.spawn(move || f(r)))
            .collect();
        for (number, mut batch) in sent.into_iter().enumerate() {
            log.append(&mut batch, NOW).unwrap();
            if number % 3 == 0
                && let Some(job) = log.start_sync()
            {
                log.finish_sync(job.run()).unwrap();
            }
            if number % 50 == 49 {
                let keep = log.durable_end().get() - 60;
                log.trim(offset(keep.max(0))).unwrap();
            }
        }
        if let Some(job) = log.start_sync() {
            log.finish_sync(job.run()).unwrap();
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            let (next, read) = reader.join().unwrap();
            assert_eq!(next, log.end());
            for slice in read {
                let mut rest = slice.as_slice();
                while !rest.is_empty() {
                    let header = BatchHeader::parse(rest).unwrap();
                    let (batch, after) = rest.split_at(header.total_bytes());
                    verify(batch).unwrap();
                    rest = after;
                }
            }
        }
    });
}
