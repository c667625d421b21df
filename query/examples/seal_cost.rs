//! What it costs to make files of a log's records: megabytes of lines for a second of one core, bytes of the files,
//! and the table that it leaves, for other engines to read.
//!
//! `cargo run --release -p query --example seal_cost -- FILE FOLDER`
//!
//! FILE has the lines. FOLDER gets `logs`, a table.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that prints figures"
)]

use std::path::Path;
use std::sync::Arc;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::{Producer, restamp};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use commitlog::log::partition::{LogConfig, PartitionLog};
use commitlog::storage::disk::Disk;
use query::lake::seal::{SealLimits, seal};
use query::lake::table::Table;
use rustix::time::{ClockId, clock_gettime};
use url::Url;

const PIECE: SealLimits = SealLimits {
    raw_bytes: 256 * 1024 * 1024,
};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let lines = std::fs::read(arguments.next().unwrap()).unwrap();
    let folder = std::path::absolute(arguments.next().unwrap()).unwrap();
    let log = log_of(&lines, &folder.join("log"));
    let location = Url::from_directory_path(folder.join("logs")).unwrap();
    let mut table = Table::open(&location).unwrap();
    loop {
        let from = table.converted_upto("logs", 0).unwrap().unwrap_or(0);
        let began = seconds();
        let from = Offset::new(from).unwrap();
        let Some(piece) = seal(&log.reader(), "logs", 0, from, PIECE).unwrap() else {
            break;
        };
        let cost = seconds() - began;
        let file = piece.file.as_ref().unwrap();
        let raw = lines.len() as f64 * file.statistics.rows as f64
            / log.reader().durable_end().get() as f64;
        println!(
            "{} rows, {:.0} MB raw: {:.0} MB for a second of one core, {:.1} MB of file",
            file.statistics.rows,
            raw / 1e6,
            raw / 1e6 / cost,
            file.bytes.len() as f64 / 1e6
        );
        table.append(&piece.offsets, piece.file, 0).unwrap();
    }
}

/// A log that has these lines.
fn log_of(lines: &[u8], directory: &Path) -> PartitionLog {
    let config = LogConfig {
        segment_bytes_max: 1 << 30,
        segment_age_max_ms: 86_400_000,
        retention_bytes: None,
        retention_ms: None,
    };
    let opened = PartitionLog::open(Arc::new(Disk), directory, config, Timestamp(0));
    let mut log = opened.unwrap().0;
    let headers = [
        ("host.name", &b"web-1"[..]),
        ("service.name", b"web"),
        ("log.file.path", b"/var/log/web/access.log"),
    ];
    let headers = HeaderBlock::new(&headers).unwrap();
    let mut builder = BatchBuilder::new();
    let all = lines.trim_ascii_end().split(|&byte| byte == b'\n');
    for (time, line) in (1_700_000_000_000..).zip(all) {
        if builder.raw_bytes() > 1 << 20 {
            append(&mut log, &mut builder);
        }
        builder.push(&NewRecord {
            timestamp: Timestamp(time),
            key: None,
            value: line,
            headers: &headers,
            extra: None,
        });
    }
    append(&mut log, &mut builder);
    let job = log.start_sync().unwrap();
    log.finish_sync(job.run()).unwrap();
    log
}

fn append(log: &mut PartitionLog, builder: &mut BatchBuilder) {
    let producer = |offset| Producer {
        id: ProducerId::new(1).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::of_spool_offset(offset),
    };
    let mut batches = Vec::new();
    builder
        .finish(producer(Offset::ZERO), &mut batches)
        .unwrap();
    for batch in &mut batches {
        restamp(batch, producer(log.reader().end()));
        log.append(batch, Timestamp(0)).unwrap();
    }
}

/// Of processor time of this thread.
fn seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
