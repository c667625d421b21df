//! A piece of a topic-partition's log, from an offset on, as a file of the table.
//!
//! What is durable is read, and no more: what a table has can never be taken back. A file ends where the records have
//! [`SealLimits::raw_bytes`], at the end of a batch.
//!
//! Everything between two offsets is accounted for: a row of the file, or told as refused or lost.

use commitlog::batch::header;
use commitlog::batch::records::Decompressor;
use commitlog::id::Offset;
use commitlog::log::reader::{LogReader, Until};

use super::columns::Refused;
use super::file::{self, File};
use super::rows::Rows;
use super::table::Offsets;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::SEAL_READ_BYTES;

/// How much becomes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealLimits {
    /// Bytes of values after which no further batch is read.
    pub raw_bytes: usize,
}

/// A piece of the log, ready for the table.
#[derive(Debug)]
pub struct Sealed {
    /// What it is.
    pub offsets: Offsets,
    /// Its log records; none where there is none.
    pub file: Option<File>,
    /// Records that are none.
    pub refused: Vec<Refused>,
    /// Offsets whose records are damaged or gone.
    pub lost: Vec<Lost>,
}

/// Offsets whose records cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The first.
    pub from: i64,
    /// The first that is not of them.
    pub to: i64,
    /// Why.
    pub reason: String,
}

/// What is read of a piece.
struct Reading {
    rows: Rows,
    refused: Vec<Refused>,
    lost: Vec<Lost>,
    bytes: usize,
    /// The first offset of which nothing is known yet.
    next: i64,
    decompressor: Decompressor,
}

/// Makes a file of what is durable from `from` on; `None` where that is nothing. This takes as long as
/// reading, compressing and indexing take: not for an async thread.
pub fn seal(
    log: &LogReader,
    topic: &str,
    partition: i32,
    from: Offset,
    limits: SealLimits,
) -> Result<Option<Sealed>> {
    let mut reading = Reading {
        rows: Rows::new(topic, partition),
        refused: Vec::new(),
        lost: Vec::new(),
        bytes: 0,
        next: from.get(),
        decompressor: Decompressor::new(),
    };
    let mut at = reading.pass_trimmed(from, log.start());
    while at < log.durable_end() && reading.bytes < limits.raw_bytes {
        let slice = log.read(at, SEAL_READ_BYTES, Until::Durable);
        let slice = slice.map_err(Error::storage)?;
        let next = match reading.take(&slice.batches, limits) {
            Some(end) => end,
            None => slice.next,
        };
        let gaps = slice.gaps.iter().filter(|gap| gap.from < next);
        reading.lost.extend(gaps.map(|gap| Lost {
            from: gap.from.get(),
            to: gap.to.get(),
            reason: gap.reason.clone(),
        }));
        if next <= at {
            return Err(Error::new(ErrorKind::Damaged, "a log that does not go on"));
        }
        at = next;
    }
    if at == from {
        return Ok(None);
    }
    let mut refused = reading.refused;
    let file = file::write(&reading.rows.sort(), &mut refused)?;
    Ok(Some(Sealed {
        offsets: Offsets {
            topic: topic.to_owned(),
            partition,
            from: from.get(),
            to: at.get(),
        },
        file,
        refused,
        lost: reading.lost,
    }))
}

impl Reading {
    /// Where reading begins: retention may have been faster.
    fn pass_trimmed(&mut self, from: Offset, start: Offset) -> Offset {
        if from < start {
            self.lost.push(Lost {
                from: from.get(),
                to: start.get(),
                reason: "retention removed it before it was converted".to_owned(),
            });
        }
        from.max(start)
    }

    /// Takes the records of batches. Where that is enough, what is behind them is not taken, and where that
    /// begins is told.
    fn take(&mut self, mut batches: &[u8], limits: SealLimits) -> Option<Offset> {
        while let Ok((head, batch, rest)) = header::split_first(batches) {
            batches = rest;
            let end = head.next_offset();
            if let Err(error) = self.take_batch(batch) {
                self.lost.push(Lost {
                    from: self.next.max(head.base_offset.get()),
                    to: end.get(),
                    reason: error,
                });
            }
            self.next = self.next.max(end.get());
            if self.bytes >= limits.raw_bytes {
                return Some(end);
            }
        }
        None
    }

    fn take_batch(&mut self, batch: &[u8]) -> std::result::Result<(), String> {
        let records = self.decompressor.records(batch);
        for record in records.map_err(|it| it.to_string())? {
            let record = record.map_err(|it| it.to_string())?;
            if record.offset.get() < self.next {
                continue;
            }
            self.next = record.offset.get() + 1;
            self.bytes += record.value.map_or(0, <[u8]>::len);
            if let Err(error) = self.rows.push(&record) {
                self.refused.push(Refused {
                    offset: record.offset.get(),
                    reason: error.to_string(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
    use commitlog::batch::header::{Producer, restamp};
    use commitlog::id::{ProducerEpoch, ProducerId, Sequence, Timestamp};
    use commitlog::log::partition::{LogConfig, PartitionLog};
    use commitlog::storage::faulty::FaultyDisk;

    use super::*;

    const CONFIG: LogConfig = LogConfig {
        segment_bytes_max: 1000,
        segment_age_max_ms: 1000,
        retention_bytes: None,
        retention_ms: None,
    };
    const ALL: SealLimits = SealLimits {
        raw_bytes: usize::MAX,
    };

    fn open() -> PartitionLog {
        let disk = Arc::new(FaultyDisk::new());
        let opened = PartitionLog::open(disk, Path::new("d"), CONFIG, Timestamp(0));
        opened.unwrap().0
    }

    /// Appends batches of three records each, with these values.
    fn append(log: &mut PartitionLog, batches: usize, content_type: &str) {
        let headers = [("content-type", content_type.as_bytes())];
        let headers = HeaderBlock::new(if content_type.is_empty() {
            &[]
        } else {
            &headers
        });
        let headers = headers.unwrap();
        for _ in 0..batches {
            let mut builder = BatchBuilder::new();
            for n in 0..3 {
                builder.push(&NewRecord {
                    timestamp: Timestamp(n),
                    key: None,
                    value: b"ten bytes.",
                    headers: &headers,
                    extra: None,
                });
            }
            let mut cut = Vec::new();
            builder.finish(producer(0), &mut cut).unwrap();
            let end = i32::try_from(log.reader().end().get()).unwrap();
            restamp(&mut cut[0], producer(end));
            log.append(&mut cut[0], Timestamp(0)).unwrap();
        }
    }

    fn sync(log: &mut PartitionLog) {
        let job = log.start_sync().unwrap();
        log.finish_sync(job.run()).unwrap();
    }

    fn producer(sequence: i32) -> Producer {
        Producer {
            id: ProducerId::new(1).unwrap(),
            epoch: ProducerEpoch::new(0).unwrap(),
            base_sequence: Sequence::new(sequence).unwrap(),
        }
    }

    fn sealed(log: &PartitionLog, from: i64, limits: SealLimits) -> Option<Sealed> {
        let from = Offset::new(from).unwrap();
        seal(&log.reader(), "logs", 0, from, limits).unwrap()
    }

    #[test]
    fn what_is_durable_is_sealed_and_no_more() {
        let mut log = open();
        append(&mut log, 2, "");
        assert!(sealed(&log, 0, ALL).is_none());
        sync(&mut log);
        append(&mut log, 1, "");
        let piece = sealed(&log, 0, ALL).unwrap();
        assert_eq!((piece.offsets.from, piece.offsets.to), (0, 6));
        assert_eq!(piece.file.unwrap().statistics.rows, 6);
        assert!(sealed(&log, 6, ALL).is_none());
    }

    #[test]
    fn a_piece_begins_in_a_batch_and_ends_with_one() {
        let mut log = open();
        append(&mut log, 40, "");
        sync(&mut log);
        let limits = SealLimits { raw_bytes: 1 };
        let piece = sealed(&log, 1, limits).unwrap();
        assert_eq!(piece.offsets.from, 1);
        let rows = piece.file.unwrap().statistics.rows;
        assert_eq!(i64::try_from(rows).unwrap(), piece.offsets.to - 1);
        assert!(piece.offsets.to < 120);
    }

    #[test]
    fn what_is_no_log_record_is_told_and_passed() {
        let mut log = open();
        append(&mut log, 1, "image/png");
        sync(&mut log);
        let piece = sealed(&log, 0, ALL).unwrap();
        assert!(piece.file.is_none());
        assert_eq!((piece.refused.len(), piece.offsets.to), (3, 3));
        append(&mut log, 1, "");
        sync(&mut log);
        let piece = sealed(&log, 0, ALL).unwrap();
        assert_eq!(
            (piece.refused.len(), piece.file.unwrap().statistics.rows),
            (3, 3)
        );
    }

    #[test]
    fn what_retention_removed_is_told_as_lost() {
        let mut log = open();
        append(&mut log, 40, "");
        sync(&mut log);
        let keep = log.reader().first_sealed_end().unwrap();
        log.trim(keep).unwrap();
        let start = log.reader().start().get();
        assert!(start > 0);
        let piece = sealed(&log, 0, ALL).unwrap();
        assert_eq!(
            piece.offsets,
            Offsets {
                topic: "logs".to_owned(),
                partition: 0,
                from: 0,
                to: 120
            }
        );
        assert_eq!((piece.lost[0].from, piece.lost[0].to), (0, start));
        let rows = i64::try_from(piece.file.unwrap().statistics.rows).unwrap();
        assert_eq!(rows, 120 - start);
    }
}
