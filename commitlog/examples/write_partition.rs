//! Writes a partition directory and what its records must read as, for readers that share no code
//! with ours: `tests/interop/`.
//!
//! `cargo run -p commitlog --example write_partition -- FOLDER ID ID` makes `FOLDER/interop-0/`, some
//! segments of batches by the two producer ids, and `FOLDER/expected.tsv`, a record a line: offset,
//! timestamp, key, value, then name and value of each header; all but the first two in hex, `-` for
//! null.
#![expect(clippy::unwrap_used, reason = "a program of the tests")]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::Producer;
use commitlog::id::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use commitlog::log::partition::{LogConfig, PartitionLog};
use commitlog::storage::disk::Disk;

const BATCHES: u32 = 60;
const NOW: Timestamp = Timestamp(1_795_000_000_000);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, ids @ ..] = &arguments[..] else {
        panic!("needs the folder to write to and two producer ids");
    };
    let folder = Path::new(folder);
    let ids: [i64; 2] = [0, 1].map(|writer: usize| ids[writer].parse().unwrap());
    let config = LogConfig {
        segment_bytes_max: 16 * 1024,
        ..LogConfig::default()
    };
    let disk = Arc::new(Disk);
    let (mut log, _) = PartitionLog::open(disk, &folder.join("interop-0"), config, NOW).unwrap();
    let mut expected = String::new();
    let mut builder = BatchBuilder::new();
    let mut sequences = [0, 0];
    for number in 0..BATCHES {
        let writer = usize::from(number % 3 == 1);
        let records = 1 + number * 7 % 50;
        let first = log.end();
        for index in 0..records {
            push(&mut builder, first.plus(index).get(), &mut expected);
        }
        let mut batches = Vec::new();
        let producer = Producer {
            id: ProducerId::new(ids[writer]).unwrap(),
            epoch: ProducerEpoch::ZERO,
            base_sequence: Sequence::ZERO.plus(sequences[writer]),
        };
        builder.finish(producer, &mut batches).unwrap();
        sequences[writer] += records;
        log.append(&mut batches[0], NOW).unwrap();
        if number % 10 == 0 {
            let job = log.start_sync().unwrap();
            log.finish_sync(job.run()).unwrap();
        }
    }
    log.close().unwrap();
    std::fs::write(folder.join("expected.tsv"), expected).unwrap();
}

/// A record of every shape in turn, also with times that run backwards.
fn push(builder: &mut BatchBuilder, offset: i64, expected: &mut String) {
    let timestamp = NOW.0 + offset * 13 - offset % 5 * 60_000;
    let key = format!("key-{offset}");
    let key = match offset % 3 {
        0 => None,
        1 => Some(key.as_bytes()),
        _ => Some(&b""[..]),
    };
    let value = match offset % 4 {
        0 => Vec::new(),
        1 => b"\xff\xfe not UTF-8 \r\n\0".to_vec(),
        2 => format!("GET /item/{offset} HTTP/1.1 200").into_bytes(),
        _ => (0..offset % 700)
            .map(|at| (at * at * offset % 251).to_le_bytes()[0])
            .collect(),
    };
    let shared: &[(&str, &[u8])] = match offset % 2 {
        0 => &[],
        _ => &[
            ("host.name", b"web-1"),
            ("label", b"one"),
            ("label", b"two"),
        ],
    };
    let extra = (offset % 7 == 0).then_some(("position-ä", &b"\x00\xff"[..]));
    builder.push(&NewRecord {
        timestamp: Timestamp(timestamp),
        key,
        value: &value,
        headers: &HeaderBlock::new(shared).unwrap(),
        extra,
    });

    let key = key.map_or("-".to_owned(), hex);
    write!(expected, "{offset}\t{timestamp}\t{key}\t{}", hex(&value)).unwrap();
    for (name, value) in shared.iter().copied().chain(extra) {
        write!(expected, "\t{}\t{}", hex(name.as_bytes()), hex(value)).unwrap();
    }
    expected.push('\n');
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}
