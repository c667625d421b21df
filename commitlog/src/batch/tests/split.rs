//! Records that pass a batch's limits are cut into several, and one that fits none is named.

use super::{BatchBuilder, ErrorKind, HeaderBlock, NewRecord, Told, producer, read, told, verify};
use crate::batch::builder::RECORD_OVERHEAD_MAX;
use crate::id::{Sequence, Timestamp};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX};

/// Bytes that do not compress, other ones for each `index`.
fn noise(index: u64, bytes: usize) -> Vec<u8> {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut noise: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| step()).collect();
    noise.truncate(bytes);
    noise
}

fn push_all(builder: &mut BatchBuilder, records: &[Told]) {
    for record in records {
        builder.push(&NewRecord {
            timestamp: Timestamp(record.timestamp),
            key: record.key.as_deref(),
            value: record.value.as_deref().unwrap(),
            headers: &HeaderBlock::default(),
            extra: None,
        });
    }
}

/// Cuts the records, and checks that the batches are legal and hold them all in one run.
fn check_cut(records: &[Told], base_sequence: i32) -> usize {
    let mut builder = BatchBuilder::new();
    push_all(&mut builder, records);
    let mut batches = Vec::new();
    builder
        .finish(producer(base_sequence), &mut batches)
        .unwrap();
    assert!(builder.is_empty());

    let mut back = Vec::new();
    let mut sequence = Sequence::new(base_sequence).unwrap();
    for batch in &batches {
        assert!(batch.len() <= BATCH_BYTES_MAX);
        let header = verify(batch).unwrap();
        assert_eq!(header.base_offset.get(), 0);
        assert_eq!(header.producer.unwrap().base_sequence, sequence);
        sequence = header.next_sequence().unwrap();
        let records = read(batch).unwrap();
        let latest = records.iter().map(|record| record.timestamp).max();
        assert_eq!(Some(header.max_timestamp.0), latest);
        back.extend(records);
    }
    assert!(back == records, "the records differ");
    batches.len()
}

#[test]
fn what_does_not_compress_is_cut_into_halves() {
    let records: Vec<Told> = (0..101u64)
        .map(|index| Told {
            key: (index % 3 == 0).then(|| index.to_le_bytes().to_vec()),
            ..told(
                1_000_000 - 7_000 * i64::try_from(index).unwrap(),
                &noise(index, 20_000),
            )
        })
        .collect();
    // The sequences wrap on the way.
    assert_eq!(check_cut(&records, i32::MAX - 50), 4);
}

#[test]
fn a_cut_is_behind_a_record_with_a_header_of_its_own() {
    let mut builder = BatchBuilder::new();
    let headers = HeaderBlock::default();
    // Four runs, each of which fits a batch, and no two of them.
    let runs = [3, 40, 2, 30];
    for (run, records) in (0..).zip(runs) {
        for index in 0..records {
            let value = noise(
                run * 100 + index,
                400 * 1024 / usize::try_from(records).unwrap(),
            );
            builder.push(&NewRecord {
                timestamp: Timestamp(5),
                key: None,
                value: &value,
                headers: &headers,
                extra: (index + 1 == records).then_some(("position", &b"here"[..])),
            });
        }
    }
    let mut batches = Vec::new();
    builder.finish(producer(0), &mut batches).unwrap();
    let counts = batches
        .iter()
        .map(|batch| verify(batch).unwrap().record_count);
    assert_eq!(
        counts.collect::<Vec<_>>(),
        runs.map(|it| u32::try_from(it).unwrap())
    );
    assert!(builder.is_empty());
}

#[test]
fn more_raw_bytes_than_a_batch_holds_are_cut() {
    let value = vec![b'a'; 3 * 1024 * 1024];
    assert_eq!(check_cut(&vec![told(5, &value); 4], 0), 2);
}

#[test]
fn more_records_than_a_batch_counts_are_cut() {
    let records = vec![told(5, b"x"); BATCH_RECORDS_MAX as usize + 1];
    assert_eq!(check_cut(&records, 0), 2);
}

#[test]
fn a_long_record_gets_a_batch_of_its_own() {
    let long = noise(1, BATCH_BYTES_MAX - 4096);
    let records = [
        told(1, b"before"),
        told(2, &long),
        told(3, &long),
        told(4, b"after"),
    ];
    assert_eq!(check_cut(&records, 0), 2);
}

#[test]
fn a_record_that_fits_no_batch_is_named_and_nothing_is_cut() {
    for (record, expected) in [
        (noise(1, BATCH_BYTES_MAX), "does not compress into a batch"),
        (vec![0; RECORD_BYTES_MAX], "is longer than"),
    ] {
        let mut builder = BatchBuilder::new();
        push_all(&mut builder, &[told(1, b"small"), told(2, &record)]);
        let mut batches = vec![vec![1]];
        let error = builder.finish(producer(0), &mut batches).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Input);
        assert!(error.message.contains(expected), "{error}");
        assert_eq!(batches, [vec![1]]);
        assert_eq!(builder.record_count(), 2);

        builder.clear();
        push_all(&mut builder, &[told(1, b"small")]);
        builder.finish(producer(0), &mut batches).unwrap();
        assert_eq!(batches.len(), 2);
    }
}

#[test]
fn fits_tells_when_to_cut_first() {
    let mut builder = BatchBuilder::new();
    let value = vec![b'a'; 1024 * 1024];
    let mut pushed = 0;
    while builder.fits(value.len()) {
        push_all(&mut builder, &[told(5, &value)]);
        pushed += 1;
    }
    assert_eq!(pushed, 7);
    assert!(builder.fits(BATCH_RAW_BYTES_MAX - builder.raw_bytes() - RECORD_OVERHEAD_MAX));
    let mut batches = Vec::new();
    builder.finish(producer(0), &mut batches).unwrap();
    assert_eq!(batches.len(), 1);
}
