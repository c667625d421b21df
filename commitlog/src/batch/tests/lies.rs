//! Batches whose checksum is true and whose content is not: each is refused, with words that name it.

use zstd::bulk::Compressor;

use super::{
    CRC_AT, Error, ErrorKind, PRODUCER_AT, SEALED_FROM, build_one, forge, read, sample, seal, told,
    verify,
};
use crate::batch::varint::{append, zigzag};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX};

const NONE: u8 = 0;
const ZSTD: u8 = 4;

#[track_caller]
fn check_refused(refused: Result<impl Sized, Error>, words: &str) {
    let Err(error) = refused else {
        panic!("accepted, expected: {words}");
    };
    assert_eq!(error.kind, ErrorKind::Input, "{error}");
    assert!(
        error.message.contains(words),
        "{words:?} is not in: {error}"
    );
}

/// A true batch with some bytes overwritten and sealed again.
fn overwritten(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = build_one(&sample());
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    if at != CRC_AT {
        seal(&mut batch);
    }
    batch
}

#[test]
fn the_ingest_rules_hold() {
    let length = |bytes: usize| u32::try_from(bytes - 12).unwrap().to_be_bytes();
    let count = |count: u32| count.to_be_bytes();
    for (at, bytes, words) in [
        (0, &(-1i64).to_be_bytes()[..], "base offset -1"),
        (0, &i64::MAX.to_be_bytes(), "passes the largest offset"),
        (8, &length(60), "legal are 61"),
        (8, &length(BATCH_BYTES_MAX + 1), "legal are 61"),
        (8, &u32::MAX.to_be_bytes(), "legal are 61"),
        (8, &length(100), "says it has 100 bytes"),
        (16, &[1], "format 1"),
        (
            SEALED_FROM,
            &[0, 1],
            "gzip; set the producer to zstd or none",
        ),
        (SEALED_FROM, &[0, 2], "snappy"),
        (SEALED_FROM, &[0, 3], "lz4"),
        (SEALED_FROM, &[0, 7], "codec 7"),
        (SEALED_FROM, &[0, 4 | 1 << 3], "append time"),
        (SEALED_FROM, &[0, 4 | 1 << 4], "transaction"),
        (SEALED_FROM, &[0, 4 | 1 << 5], "control batch"),
        (SEALED_FROM, &[0, 4 | 3 << 4], "control batch"),
        (SEALED_FROM, &[0, 4 | 1 << 6], "unknown meaning"),
        (SEALED_FROM, &[0x80, 4], "unknown meaning"),
        (23, &count(1), "last offset delta is 1"),
        (23, &count(u32::MAX), "last offset delta is 4294967295"),
        (57, &count(0), "has 0 records"),
        (57, &count(2), "last offset delta is 2"),
        (57, &count(BATCH_RECORDS_MAX + 1), "legal are 1 to"),
        (57, &count(u32::MAX), "legal are 1 to"),
        (PRODUCER_AT, &(-1i64).to_be_bytes(), "either all are valid"),
        (PRODUCER_AT, &(-2i64).to_be_bytes(), "either all are valid"),
        (PRODUCER_AT + 8, &[0xff, 0xff], "either all are valid"),
        (PRODUCER_AT + 10, &[0x80, 0, 0, 0], "either all are valid"),
    ] {
        check_refused(verify(&overwritten(at, bytes)), words);
    }
    let anonymous = verify(&overwritten(PRODUCER_AT, &[0xff; 14])).unwrap();
    assert_eq!(anonymous.producer, None);
    assert_eq!(anonymous.next_sequence(), None);
}

/// A piece of a record: a number, written as a varint, or bytes.
#[derive(Clone, Copy)]
enum Part<'a> {
    Number(i64),
    Bytes(&'a [u8]),
}
use Part::{Bytes, Number};

fn record(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = vec![0];
    for part in parts {
        match part {
            Number(number) => append(&mut body, zigzag(*number)),
            Bytes(bytes) => body.extend_from_slice(bytes),
        }
    }
    let mut record = Vec::new();
    append(&mut record, zigzag(i64::try_from(body.len()).unwrap()));
    [record, body].concat()
}

/// A record with the timestamp and offset deltas, null key and value and no header.
fn bare(timestamp_delta: i64, offset_delta: i64) -> Vec<u8> {
    let parts = [timestamp_delta, offset_delta, -1, -1, 0].map(Number);
    record(&parts)
}

#[test]
fn nulls_are_read() {
    let key_and_header = record(&[
        Number(3),
        Number(1),
        Number(1),
        Bytes(b"k"),
        Number(-1),
        Number(1),
        Number(1),
        Bytes(b"h"),
        Number(-1),
    ]);
    let payload = [bare(-4, 0), key_and_header].concat();
    let records = read(&forge(NONE, 2, &payload)).unwrap();
    assert_eq!((records[0].timestamp, &records[0].value), (996, &None));
    assert_eq!(records[1].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(records[1].headers, [("h".to_owned(), None)]);
}

#[test]
fn counts_and_deltas_must_be_true() {
    let two = [bare(0, 0), bare(0, 1)].concat();
    assert_eq!(read(&forge(NONE, 2, &two)).unwrap().len(), 2);
    check_refused(read(&forge(NONE, 1, &two)), "7 bytes after its 1 records");
    check_refused(read(&forge(NONE, 3, &two)), "record 2 of 3");
    check_refused(read(&forge(NONE, 1, &bare(0, 1))), "offset delta 1");
    let doubled = [bare(0, 0), bare(0, 0)].concat();
    check_refused(
        read(&forge(NONE, 2, &doubled)),
        "record 1 of 2 in the batch at offset 0 has the offset delta 0",
    );
    check_refused(read(&forge(NONE, 1, &bare(0, i64::MAX))), "offset delta");
    check_refused(read(&forge(NONE, 1, &bare(i64::MAX, 0))), "beyond 64 bits");
    check_refused(read(&forge(NONE, 1, &[])), "record 0 of 1");
}

#[test]
fn lengths_are_checked_before_use() {
    let huge = i64::from(i32::MAX);
    for parts in [
        &[Number(0), Number(0), Number(huge)][..],
        &[Number(0), Number(0), Number(-2), Number(0), Number(0)],
        &[Number(0), Number(0), Number(-1), Number(huge), Number(0)],
        &[
            Number(0),
            Number(0),
            Number(-1),
            Number(i64::MIN),
            Number(0),
        ],
        &[Number(0), Number(0), Number(-1), Number(-1), Number(huge)],
        &[Number(0), Number(0), Number(-1), Number(-1), Number(-1)],
        &[Number(0), Number(0), Number(-1), Number(-1)],
        &[Number(0), Number(0), Number(-1), Number(-1), Number(1)],
        &[
            Number(0),
            Number(0),
            Number(-1),
            Number(i64::MAX),
            Number(0),
        ],
    ] {
        check_refused(read(&forge(NONE, 1, &record(parts))), "passes its end");
    }
    for payload in [
        &[0x80; 4][..],
        &[0xff; 12],
        &[0x01, 0, 0],
        &[0x00],
        &[0x02, 0],
        &[0x0e, 0, 0, 0, 1, 1],
        &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0],
    ] {
        check_refused(read(&forge(NONE, 1, payload)), "record 0 of 1");
    }
}

#[test]
fn headers_fill_their_place() {
    let start = [Number(0), Number(0), Number(-1), Number(-1)];
    for end in [
        &[Number(1), Number(-1), Number(0)][..],
        &[Number(1), Number(1), Bytes(b"\xff"), Number(0)],
        &[Number(1), Number(9), Bytes(b"name")],
        &[Number(1), Number(1), Bytes(b"n"), Number(9), Bytes(b"v")],
        &[Number(1), Number(1), Bytes(b"n"), Number(-2)],
        &[
            Number(1),
            Number(1),
            Bytes(b"n"),
            Number(0),
            Bytes(b"surplus"),
        ],
        &[Number(0), Bytes(b"surplus")],
        &[Number(2), Number(1), Bytes(b"n"), Number(0), Bytes(b"s")],
    ] {
        let payload = record(&[&start[..], end].concat());
        check_refused(read(&forge(NONE, 1, &payload)), "headers do not fill");
    }
}

/// One whole frame of this content, with or without its size.
fn frame(content: &[u8], states_size: bool) -> Vec<u8> {
    let mut compressor = Compressor::new(1).unwrap();
    compressor.include_contentsize(states_size).unwrap();
    compressor.compress(content).unwrap()
}

/// Where a frame states its content's size, in four bytes for the sizes used here.
fn size_at(frame: &[u8]) -> usize {
    let descriptor = frame[4];
    assert_eq!(descriptor >> 6, 2, "four bytes");
    let is_single_segment = descriptor & 1 << 5 != 0;
    if is_single_segment { 5 } else { 6 }
}

#[test]
fn i13_a_bomb_is_refused_before_it_goes_off() {
    let zeros = vec![0; BATCH_RAW_BYTES_MAX + 1];
    let stated = forge(ZSTD, 1, &frame(&zeros, true));
    check_refused(verify(&stated), "would decompress to 8388609 bytes");
    check_refused(read(&stated), "would decompress to 8388609 bytes");

    let silent = forge(ZSTD, 1, &frame(&zeros, false));
    assert!(verify(&silent).is_ok());
    check_refused(read(&silent), "do not decompress");

    // The zeros are records of length 0, which none is.
    let largest = forge(ZSTD, 1, &frame(&zeros[1..], true));
    check_refused(read(&largest), "record 0 of 1");
}

#[test]
fn a_frame_holds_what_it_states() {
    let content = vec![0; 1 << 20];
    let honest = frame(&content, true);
    let at = size_at(&honest);
    for stated in [100u32, (1 << 20) - 1, (1 << 20) + 1, 8 << 20] {
        let mut lying = honest.clone();
        lying[at..at + 4].copy_from_slice(&stated.to_le_bytes());
        check_refused(read(&forge(ZSTD, 1, &lying)), "do not decompress");
    }
}

#[test]
fn the_records_are_one_frame() {
    let payload = bare(0, 0);
    let whole = frame(&payload, true);
    assert_eq!(read(&forge(ZSTD, 1, &whole)).unwrap().len(), 1);
    assert_eq!(
        read(&forge(ZSTD, 1, &frame(&payload, false)))
            .unwrap()
            .len(),
        1
    );

    let twice = [&whole[..], &whole].concat();
    check_refused(read(&forge(ZSTD, 1, &twice)), "not one whole zstd frame");
    let surplus = [&whole[..], b"x"].concat();
    check_refused(read(&forge(ZSTD, 1, &surplus)), "not one whole zstd frame");
    let short = &whole[..whole.len() - 1];
    check_refused(read(&forge(ZSTD, 1, short)), "not one whole zstd frame");
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0][..], b"ab"].concat();
    check_refused(read(&forge(ZSTD, 1, &skippable)), "record 0 of 1");
    check_refused(verify(&forge(ZSTD, 1, b"not a frame")), "they are not");
    check_refused(verify(&forge(ZSTD, 1, b"")), "they are not");
}

#[test]
fn reading_goes_on_with_the_next_batch_after_a_bad_one() {
    let mut decompressor = crate::batch::records::Decompressor::new();
    let bad = forge(ZSTD, 1, &frame(&vec![0; 1 << 20], false)[..30]);
    let good = build_one(&[told(1, b"good")]);
    for _ in 0..3 {
        assert!(decompressor.records(&bad).is_err());
        let mut records = decompressor.records(&good).unwrap();
        assert_eq!(records.next().unwrap().unwrap().value, Some(&b"good"[..]));
        assert!(records.next().is_none());
    }
}
