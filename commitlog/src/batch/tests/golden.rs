//! A batch of the first version is kept forever: `testdata/batch-1.bin` and what it says,
//! `batch-1.txt`. The bytes are never written again; `UPDATE=1` rewrites the text.

use std::fmt::Write as _;
use std::path::Path;

use super::{Told, build_one, raw_records, read, sample, verify};
use crate::batch::records::RawRecord;

/// The header's fields and every record, a line each.
fn describe(batch: &[u8]) -> String {
    let header = verify(batch).unwrap();
    let producer = header.producer.unwrap();
    let mut text = format!(
        "base offset {}, leader epoch {}, attributes {}, crc {:08x}\n\
         timestamps {} to {}\n\
         producer {}, epoch {}, sequence {}\n\
         {} records, last offset delta {}\n",
        header.base_offset,
        header.leader_epoch,
        header.attributes,
        header.crc,
        header.base_timestamp.0,
        header.max_timestamp.0,
        producer.id.get(),
        producer.epoch.get(),
        producer.base_sequence,
        header.record_count,
        header.last_offset_delta,
    );
    let bytes = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        None => "null".to_owned(),
    };
    for record in read(batch).unwrap() {
        let Told {
            timestamp,
            key,
            value,
            headers,
        } = &record;
        write!(text, "{timestamp} {} {}", bytes(key), bytes(value)).unwrap();
        for (name, value) in headers {
            write!(text, " {name}={}", bytes(value)).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_first_versions_batch_is_read_as_ever() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let batch = std::fs::read(folder.join("batch-1.bin")).unwrap();
    let text = folder.join("batch-1.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&text, describe(&batch)).unwrap();
    }
    assert_eq!(describe(&batch), std::fs::read_to_string(&text).unwrap());
}

#[test]
fn records_are_still_encoded_the_same() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let kept = std::fs::read(folder.join("batch-1.bin")).unwrap();
    // Not the compressed bytes: another zstd may choose others.
    let today = build_one(&sample());
    assert_eq!(raw_records(&today), raw_records(&kept));

    let mut rest = &raw_records(&kept)[..];
    let first = RawRecord::take(&mut rest).unwrap();
    assert_eq!((first.timestamp_delta, first.offset_delta), (0, 0));
}
