//! Producers: retries are answered with their first offsets, impostors and gaps are found out, also after a
//! restart.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;
use std::sync::Arc;

use commitlog::batch::header::{BatchHeader, Producer};
use commitlog::id::{ProducerEpoch, Sequence, Timestamp};
use commitlog::limits::PRODUCER_EXPIRY_MS;
use commitlog::log::partition::{Appended, LogConfig, Outcome, PartitionLog};
use commitlog::storage::faulty::FaultyDisk;
use support::{NOW, batch, offset, producer};

struct Session {
    disk: FaultyDisk,
    log: Option<PartitionLog>,
    now: Timestamp,
}

impl Session {
    fn new() -> Session {
        let mut log = Session {
            disk: FaultyDisk::new(),
            log: None,
            now: NOW,
        };
        log.open();
        log
    }

    fn open(&mut self) {
        let storage = Arc::new(self.disk.clone());
        let config = LogConfig {
            segment_bytes_max: 400,
            ..LogConfig::default()
        };
        let opened = PartitionLog::open(storage, Path::new("d"), config, self.now).unwrap();
        self.log = Some(opened.0);
    }

    fn log(&mut self) -> &mut PartitionLog {
        self.log.as_mut().unwrap()
    }

    fn send(&mut self, producer: Producer, values: &[&[u8]]) -> Appended {
        let now = self.now;
        self.log()
            .append(&mut batch(producer, NOW, values), now)
            .unwrap()
    }

    fn takes(&mut self, producer: Producer, values: &[&[u8]]) {
        assert_eq!(self.send(producer, values).outcome, Outcome::Appended);
    }

    fn close_and_open(&mut self) {
        self.log.take().unwrap().close().unwrap();
        self.open();
    }

    fn kill_and_open(&mut self) {
        self.log = None;
        self.disk.kill();
        self.open();
    }
}

fn sequence(value: i32) -> Sequence {
    Sequence::new(value).unwrap()
}

/// Ways to come back to the same log.
const RETURNS: [fn(&mut Session); 3] = [|_| {}, Session::close_and_open, Session::kill_and_open];

#[test]
fn i9_the_last_five_batches_are_known_again_with_their_offsets() {
    for come_back in RETURNS {
        let mut log = Session::new();
        for number in 0..7 {
            log.takes(
                producer(1, number * 2),
                &[b"a", &[b'0' + number.to_le_bytes()[0]]],
            );
            // Others lie between.
            log.takes(producer(2, number), &[b"other"]);
        }
        come_back(&mut log);
        let end = log.log().end();
        for number in (2..7).rev() {
            let again = log.send(
                producer(1, number * 2),
                &[b"a", &[b'0' + number.to_le_bytes()[0]]],
            );
            assert_eq!(again.outcome, Outcome::Duplicate, "batch {number}");
            let base = offset(i64::from(number) * 3);
            assert_eq!((again.base_offset, again.next_offset), (base, base.plus(2)));
        }
        let older = log.send(producer(1, 2), &[b"a", b"1"]);
        assert_eq!(
            older.outcome,
            Outcome::OutOfOrder {
                expected: sequence(14)
            }
        );
        assert_eq!(log.log().end(), end);
        let state = log.log().producer(producer(1, 0).id).unwrap();
        assert_eq!(state.next_sequence, sequence(14));
        let last = batch(producer(1, 12), NOW, &[b"a", b"6"]);
        let crc = BatchHeader::parse(&last).unwrap().crc;
        assert_eq!(
            state.last.map(|last| (last.base_sequence, last.crc)),
            Some((sequence(12), crc))
        );
    }
}

#[test]
fn i9_other_content_under_a_known_sequence_is_a_conflict_and_drops_nothing() {
    for come_back in RETURNS {
        let mut log = Session::new();
        log.takes(producer(1, 0), &[b"mine"]);
        log.takes(producer(1, 1), &[b"b", b"c"]);
        come_back(&mut log);
        let end = log.log().end();
        for (at, values) in [
            (0, &[&b"your"[..]][..]),
            (0, &[b"mine", b"more"]),
            (1, &[b"b"]),
            (1, &[b"b", b"x"]),
            (2, &[b"c"]),
        ] {
            let outcome = log.send(producer(1, at), values).outcome;
            assert!(
                matches!(outcome, Outcome::Conflict { crc: Some(_), .. }),
                "{at}: {outcome:?}"
            );
        }
        assert_eq!(log.log().end(), end);
    }
}

#[test]
fn a_gap_is_refused_with_the_sequence_to_go_on_with() {
    for come_back in RETURNS {
        let mut log = Session::new();
        log.takes(producer(1, 1000), &[b"an unknown producer begins anywhere"]);
        come_back(&mut log);
        let outcome = log.send(producer(1, 1002), &[b"x"]).outcome;
        assert_eq!(
            outcome,
            Outcome::OutOfOrder {
                expected: sequence(1001)
            }
        );
        log.takes(producer(1, 1001), &[b"x"]);
    }
}

#[test]
fn a_new_epoch_begins_at_zero_and_fences_the_old() {
    for come_back in RETURNS {
        let epoch = |epoch, at| Producer {
            epoch: ProducerEpoch::new(epoch).unwrap(),
            ..producer(1, at)
        };
        let mut log = Session::new();
        log.takes(producer(1, 5), &[b"a"]);
        come_back(&mut log);
        let outcome = log.send(epoch(1, 6), &[b"b"]).outcome;
        assert_eq!(
            outcome,
            Outcome::OutOfOrder {
                expected: sequence(0)
            }
        );
        log.takes(epoch(1, 0), &[b"b"]);
        come_back(&mut log);
        let outcome = log.send(producer(1, 6), &[b"c"]).outcome;
        assert_eq!(
            outcome,
            Outcome::Fenced {
                current: ProducerEpoch::new(1).unwrap()
            }
        );
        log.takes(epoch(3, 0), &[b"d"]);
    }
}

#[test]
fn sequences_wrap() {
    for come_back in RETURNS {
        let mut log = Session::new();
        log.takes(producer(1, i32::MAX - 1), &[b"a", b"b", b"c"]);
        come_back(&mut log);
        let again = log.send(producer(1, i32::MAX - 1), &[b"a", b"b", b"c"]);
        assert_eq!(again.outcome, Outcome::Duplicate);
        log.takes(producer(1, 1), &[b"d"]);
    }
}

#[test]
fn a_producer_is_forgotten_after_thirty_days_of_silence() {
    for come_back in RETURNS {
        let mut log = Session::new();
        log.takes(producer(1, 0), &[b"a"]);
        log.now = Timestamp(NOW.0 + PRODUCER_EXPIRY_MS);
        come_back(&mut log);
        assert_eq!(
            log.send(producer(1, 0), &[b"a"]).outcome,
            Outcome::Duplicate
        );
        log.now = Timestamp(log.now.0 + PRODUCER_EXPIRY_MS + 1);
        come_back(&mut log);
        log.takes(producer(1, 77), &[b"a"]);
    }
}

#[test]
fn what_is_durable_of_a_producer_lags_behind_what_is_appended() {
    let mut log = Session::new();
    log.takes(producer(1, 0), &[b"a", b"b"]);
    let job = log.log().start_sync().unwrap();
    log.takes(producer(1, 2), &[b"c"]);
    assert!(log.log().start_sync().is_none(), "one at a time");
    let durable = |log: &mut Session| {
        log.log()
            .producer(producer(1, 0).id)
            .unwrap()
            .durable_sequence
    };
    assert_eq!(durable(&mut log), sequence(0));
    let end = log.log().finish_sync(job.run()).unwrap();
    assert_eq!((end, durable(&mut log)), (offset(2), sequence(2)));
    let job = log.log().start_sync().unwrap();
    log.log().finish_sync(job.run()).unwrap();
    assert_eq!(durable(&mut log), sequence(3));
    assert!(log.log().start_sync().is_none(), "nothing waits");
}

#[test]
fn a_duplicate_of_what_retention_dropped_is_not_dropped() {
    let mut log = Session::new();
    log.takes(producer(1, 0), &[b"a"]);
    for number in 0..10 {
        log.takes(producer(2, number), &[b"fills a segment or two"]);
    }
    let job = log.log().start_sync().unwrap();
    log.log().finish_sync(job.run()).unwrap();
    log.log().trim(offset(8)).unwrap();
    log.kill_and_open();
    let outcome = log.send(producer(1, 0), &[b"a"]).outcome;
    // It cannot be compared any more: what cannot be proven a duplicate is kept.
    assert!(
        matches!(outcome, Outcome::Conflict { crc: None, .. }),
        "{outcome:?}"
    );
}
