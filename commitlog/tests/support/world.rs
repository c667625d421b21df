//! A log on the faulty disk, a script that works on it, and what must hold of it whatever happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use commitlog::batch::header::BatchHeader;
use commitlog::error::{Error, ErrorKind};
use commitlog::id::{Offset, ProducerId, Sequence, Timestamp};
use commitlog::log::partition::{LogConfig, Outcome, PartitionLog, SyncJob};
use commitlog::log::reader::Until;
use commitlog::storage::faulty::FaultyDisk;

use super::NOW;

pub const DIR: &str = "data/logs-0";

/// Small segments, so that a short script rolls often.
pub const CONFIG: LogConfig = LogConfig {
    segment_bytes_max: 900,
    segment_age_max_ms: 3_600_000,
    retention_bytes: Some(3000),
    retention_ms: Some(86_400_000),
};

/// A step of a script.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// The next batch.
    Append,
    /// An fsync, begun and finished.
    Sync,
    /// An fsync is begun; the steps up to [`Step::FinishSync`] happen meanwhile.
    StartSync,
    FinishSync,
    /// Frees what lies before the n-th batch.
    Trim(usize),
    Retention,
    /// Closes the log and opens it again.
    Reopen,
    /// The process is killed and starts again.
    Kill,
}

/// The script of the power-loss and fault tests: every kind of step, in every state of a segment.
pub fn script() -> Vec<Step> {
    use Step::{Append, FinishSync, Kill, Reopen, Retention, StartSync, Sync, Trim};
    let mut steps = vec![Append, Sync, Append, Append, Sync];
    steps.extend([StartSync, Append, Append, FinishSync, Append, Kill]);
    steps.extend([
        Append, Sync, Append, Append, StartSync, Append, Append, FinishSync,
    ]);
    steps.extend([Append, Append, Trim(3), Append, Sync, Reopen]);
    steps.extend([Append, Append, Sync, Append, Trim(16), Append, Append, Kill]);
    steps.extend([
        Sync, Append, Retention, Append, Append, Sync, Append, Append,
    ]);
    steps.extend([
        Retention, StartSync, Append, Append, FinishSync, Reopen, Kill, Append, Sync,
    ]);
    steps
}

/// A log with its disk, and what its clients know.
pub struct World {
    pub disk: FaultyDisk,
    log: Option<PartitionLog>,
    job: Option<SyncJob>,
    /// What producers send, in order; patched when appended.
    batches: Vec<Vec<u8>>,
    /// What the log took, by base offset.
    pub taken: BTreeMap<Offset, Vec<u8>>,
    /// The number of the batch that is sent next.
    next: usize,
    /// All before it was acknowledged as durable.
    pub acknowledged: Offset,
    /// The latest start that was asked for.
    start: Offset,
}

impl World {
    pub fn new(batches: &[Vec<u8>]) -> World {
        World {
            disk: FaultyDisk::new(),
            log: None,
            job: None,
            batches: batches.to_vec(),
            taken: BTreeMap::new(),
            next: 0,
            acknowledged: Offset::ZERO,
            start: Offset::ZERO,
        }
    }

    /// What is known of another machine, with the disk as it is now.
    pub fn fork(&self) -> World {
        World {
            disk: self.disk.snapshot(),
            log: None,
            job: None,
            batches: self.batches.clone(),
            taken: self.taken.clone(),
            next: self.next,
            acknowledged: self.acknowledged,
            start: self.start,
        }
    }

    /// Opens the log, which may only fail when the disk does.
    pub fn open(&mut self) -> Result<(), Error> {
        let storage = Arc::new(self.disk.clone());
        let (log, recovery) = PartitionLog::open(storage, Path::new(DIR), CONFIG, NOW)?;
        assert_eq!(
            recovery.gaps,
            [],
            "no power loss or fault is damage: {recovery:?}"
        );
        self.log = Some(log);
        Ok(())
    }

    pub fn log(&mut self) -> &mut PartitionLog {
        self.log.as_mut().unwrap()
    }

    pub fn is_open(&self) -> bool {
        self.log.is_some()
    }

    /// Ends the process.
    pub fn drop_log(&mut self) {
        self.log = None;
        self.job = None;
    }

    pub fn run(&mut self, steps: &[Step]) -> Result<(), Error> {
        self.open()?;
        steps.iter().try_for_each(|&step| self.step(step))
    }

    pub fn step(&mut self, step: Step) -> Result<(), Error> {
        let done = self.try_step(step);
        if let Some(log) = &self.log {
            // Clients are told this at any time.
            let durable = log.durable_end();
            assert!(durable >= self.acknowledged, "a durable end never falls");
            self.acknowledged = durable;
        }
        done
    }

    fn try_step(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Append => self.append(),
            Step::Sync => {
                self.job = self.log().start_sync();
                self.step(Step::FinishSync)
            }
            Step::StartSync => {
                self.job = self.log().start_sync();
                Ok(())
            }
            Step::FinishSync => {
                let Some(job) = self.job.take() else {
                    return Ok(());
                };
                self.log().finish_sync(job.run()).map(|_| ())
            }
            Step::Trim(batch) => {
                let before = self.taken.keys().nth(batch).copied().unwrap_or_default();
                let before = before.min(self.log().durable_end());
                self.start = self.start.max(before);
                self.log().trim(before).map(|_| ())
            }
            Step::Retention => {
                // What it may drop: all but the segment that is written.
                let end = self.log().durable_end();
                let start = std::mem::replace(&mut self.start, end);
                let trimmed = self.log().apply_retention(NOW)?;
                self.start = start.max(trimmed.start);
                Ok(())
            }
            Step::Reopen => {
                self.job = None;
                let log = self.log.take().unwrap();
                let end = log.end();
                log.close()?;
                self.acknowledged = end;
                self.open()
            }
            Step::Kill => {
                self.drop_log();
                self.disk.kill();
                self.open()
            }
        }
    }

    /// Sends the next batch.
    fn append(&mut self) -> Result<(), Error> {
        let Some(mut batch) = self.batches.get(self.next).cloned() else {
            return Ok(());
        };
        let appended = self.log().append(&mut batch, NOW)?;
        assert_eq!(
            appended.outcome,
            Outcome::Appended,
            "batch {} at {}",
            self.next,
            appended.base_offset
        );
        self.taken.insert(appended.base_offset, batch);
        self.next += 1;
        Ok(())
    }

    /// After an opening: what the log has must be what clients know. Then the producers go on, as they do
    /// in life: from the sequence that the log tells.
    pub fn check(&mut self) {
        let (start, end) = (self.log().start(), self.log().end());
        let acknowledged = self.acknowledged;
        assert!(
            end >= acknowledged,
            "acknowledged {acknowledged}, only {end} are left"
        );
        assert!(
            start <= self.start,
            "start {start}, asked for at most {}",
            self.start
        );
        assert_eq!(
            self.log().durable_end(),
            end,
            "what an opening finds it makes durable"
        );
        let kept = self.read_all(start);
        let mut next = start;
        for (base, batch) in &kept {
            let taken = self.taken.get(base);
            assert!(
                taken == Some(batch),
                "offset {base} has bytes that nobody appended there"
            );
            next = BatchHeader::parse(batch).unwrap().next_offset();
        }
        assert_eq!(next, end, "the log ends with its last batch");
        self.check_producers(end);
        self.taken.retain(|&base, _| base < end);
        self.next = self.taken.len();
        self.acknowledged = end;
    }

    /// All that the log has, and where it ends.
    pub fn everything(&mut self) -> (Offset, BTreeMap<Offset, Vec<u8>>) {
        let (start, end) = (self.log().start(), self.log().end());
        (end, self.read_all(start))
    }

    /// Everything from `start` on, by base offset. The first batch may begin before it.
    fn read_all(&mut self, start: Offset) -> BTreeMap<Offset, Vec<u8>> {
        let reader = self.log().reader();
        let mut kept = BTreeMap::new();
        let mut next = start;
        loop {
            let slice = reader.read(next, 700, Until::Durable).unwrap();
            assert_eq!(slice.gaps, [], "no power loss or fault is damage");
            let mut rest = slice.batches.as_slice();
            while !rest.is_empty() {
                let header = BatchHeader::parse(rest).unwrap();
                let (batch, after) = rest.split_at(header.total_bytes());
                assert!(
                    header.next_offset() > next && header.base_offset <= next,
                    "in order, no holes"
                );
                next = header.next_offset();
                kept.insert(header.base_offset, batch.to_vec());
                rest = after;
            }
            if slice.batches.is_empty() {
                assert_eq!(slice.next, next);
                return kept;
            }
        }
    }

    /// A retry of a producer's last batch is a duplicate, and its next one is expected.
    fn check_producers(&mut self, end: Offset) {
        let mut last: BTreeMap<ProducerId, Vec<u8>> = BTreeMap::new();
        for batch in self.taken.range(..end).map(|(_, batch)| batch) {
            let producer = BatchHeader::parse(batch).unwrap().producer.unwrap();
            last.insert(producer.id, batch.clone());
        }
        let next: Vec<(ProducerId, Sequence)> = last
            .iter()
            .map(|(&id, batch)| {
                (
                    id,
                    BatchHeader::parse(batch).unwrap().next_sequence().unwrap(),
                )
            })
            .collect();
        for (id, expected) in next {
            let known = self.log().producer(id).unwrap();
            assert_eq!(
                (known.next_sequence, known.durable_sequence),
                (expected, expected)
            );
        }
        for batch in last.values() {
            let header = BatchHeader::parse(batch).unwrap();
            let again = self.log().append(&mut batch.clone(), NOW).unwrap();
            assert!(
                again.outcome == Outcome::Duplicate && again.base_offset == header.base_offset
                    || matches!(again.outcome, Outcome::Conflict { crc: None, .. })
                        && header.base_offset < self.log().start(),
                "a retry of offset {}: {again:?}",
                header.base_offset
            );
        }
    }

    /// Sends the rest of the batches and closes, with no fault in the way; then all must be there.
    pub fn finish(&mut self) {
        while self.next < self.batches.len() {
            self.step(Step::Append).unwrap();
        }
        self.step(Step::Sync).unwrap();
        self.step(Step::Reopen).unwrap();
        self.check();
        assert_eq!(self.taken.len(), self.batches.len());
    }
}

/// Whether an error may pass by itself.
pub fn passes(error: &Error) -> bool {
    error.kind == ErrorKind::Retry
}

/// A later time.
pub fn later(ms: i64) -> Timestamp {
    Timestamp(NOW.0 + ms)
}
