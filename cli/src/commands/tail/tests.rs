use std::io::{Read, Seek};

use bytes::Bytes;
use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::{Producer, patch};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use super::chunk::{Block, Chunk, Cursor, Decoder, Format, Gap, Target};
use super::fetch::Share;
use super::print::{Lane, Printer, Quota};

/// A batch of `values` whose first record has the offset `base`.
fn batch(base: i64, values: &[&[u8]]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for (at, value) in (0..).zip(values) {
        builder.push(&NewRecord {
            timestamp: Timestamp(base * 10 + at),
            key: None,
            value,
            headers: &HeaderBlock::new(&[]).unwrap(),
            extra: None,
        });
    }
    let producer = Producer {
        id: ProducerId::new(1).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::ZERO,
    };
    let mut out = Vec::new();
    builder.finish(producer, &mut out).unwrap();
    let [mut batch] = <[_; 1]>::try_from(out).unwrap();
    patch(&mut batch, Offset::new(base).unwrap());
    batch
}

fn decode_all(
    format: Format,
    target: Target,
    chunk: Chunk,
    cursor: &mut Cursor,
) -> (String, Vec<Gap>) {
    let (mut text, mut gaps) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::new(format, target);
    let mut block = Block::default();
    let mut rest = Some(chunk);
    while let Some(chunk) = rest {
        rest = decoder.decode(chunk, cursor, &mut block).unwrap();
        text.extend_from_slice(&block.text);
        gaps.append(&mut block.gaps);
        let ends: Vec<usize> = block.records.iter().map(|record| record.end).collect();
        assert!(ends.is_sorted() && ends.last().is_none_or(|end| *end == block.text.len()));
    }
    (String::from_utf8(text).unwrap(), gaps)
}

fn chunk(from: i64, next: i64, parts: &[Vec<u8>]) -> Chunk {
    Chunk {
        from,
        rest: Bytes::from(parts.concat()),
        next,
        reason: "skipped",
    }
}

fn gap(from: i64, to: i64) -> (i64, i64) {
    (from, to)
}

fn ranges(gaps: &[Gap]) -> Vec<(i64, i64)> {
    gaps.iter().map(|it| gap(it.from, it.to)).collect()
}

#[test]
fn only_records_of_the_range_are_shown() {
    let parts = [batch(0, &[b"a", b"b", b"c"]), batch(3, &[b"d", b"e"])];
    let mut cursor = Cursor { next: 1, until: 4 };
    let chunk = chunk(1, 5, &parts);
    let (text, gaps) = decode_all(Format::Raw, Target::Pipe, chunk, &mut cursor);
    assert_eq!(text, "b\nc\nd\n");
    assert_eq!(gaps, []);
    assert_eq!(cursor.next, 4);
}

#[test]
fn i28_missing_records_are_told_wherever_they_are_missing() {
    let parts = [batch(2, &[b"a"]), batch(5, &[b"b"])];
    let mut cursor = Cursor {
        next: 0,
        until: 100,
    };
    let chunk = chunk(0, 9, &parts);
    let (text, gaps) = decode_all(Format::Raw, Target::Pipe, chunk, &mut cursor);
    assert_eq!(text, "a\nb\n");
    assert_eq!(ranges(&gaps), [(0, 2), (3, 5), (6, 9)]);
    assert_eq!(cursor.next, 9);
}

#[test]
fn a_chunk_without_records_is_one_gap() {
    for format in [Format::Raw, Format::Json] {
        let mut cursor = Cursor {
            next: 3,
            until: 100,
        };
        let (text, gaps) = decode_all(format, Target::Pipe, chunk(3, 7, &[]), &mut cursor);
        assert_eq!((text.as_str(), ranges(&gaps)), ("", vec![(3, 7)]));
    }
}

/// Every bit of a batch's payload flipped in turn: its range is told as missing, the batches around
/// it are shown.
#[test]
fn a_damaged_batch_is_a_gap_between_its_neighbours() {
    let (first, last) = (batch(0, &[b"first"]), batch(3, &[b"last"]));
    let sound = batch(1, &[b"one", b"two"]);
    // The bytes before are patched by the log and lie outside the checksum.
    for bit in 8 * 17..8 * sound.len() {
        let mut damaged = sound.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let parts = [first.clone(), damaged, last.clone()];
        let mut cursor = Cursor { next: 0, until: 4 };
        let mut decoder = Decoder::new(Format::Raw, Target::Pipe);
        let mut block = Block::default();
        let mut rest = Some(chunk(0, 4, &parts));
        let mut shown = Vec::new();
        let mut missing = Vec::new();
        while let Some(chunk) = rest.take() {
            // A header that contradicts itself ends the chunk with an error instead.
            let Ok(left) = decoder.decode(chunk, &mut cursor, &mut block) else {
                break;
            };
            shown.extend_from_slice(&block.text);
            missing.extend(ranges(&block.gaps));
            rest = left;
        }
        let shown = String::from_utf8(shown).unwrap();
        match missing.as_slice() {
            [] => assert_eq!(shown, "first\n", "bit {bit}"),
            missing => {
                assert_eq!(missing, [(1, 3)], "bit {bit}");
                assert_eq!(shown, "first\nlast\n", "bit {bit}");
            }
        }
    }
}

#[test]
fn a_terminal_gets_no_control_characters_and_a_pipe_gets_them_all() {
    let parts = [batch(0, &[b"\x1b[2Jx\ny\xff"])];
    let mut cursor = Cursor { next: 0, until: 1 };
    let (text, _) = decode_all(
        Format::Raw,
        Target::Terminal,
        chunk(0, 1, &parts),
        &mut cursor,
    );
    assert_eq!(text, "\\x1b[2Jx\\ny\\xff\n");

    let mut decoder = Decoder::new(Format::Raw, Target::Pipe);
    let mut block = Block::default();
    let mut cursor = Cursor { next: 0, until: 1 };
    decoder
        .decode(chunk(0, 1, &parts), &mut cursor, &mut block)
        .unwrap();
    assert_eq!(block.text, b"\x1b[2Jx\ny\xff\n");
}

#[test]
fn json_lines_pass_as_they_are_and_gap_lines_are_told() {
    let lines = "\
{\"topic\":\"t\",\"partition\":0,\"offset\":4,\"timestamp\":7,\"value\":\"a\u{7f}\"}
{\"topic\":\"t\",\"partition\":0,\"gap\":{\"from\":5,\"to\":8,\"reason\":\"damaged\"}}
{\"topic\":\"t\",\"partition\":0,\"offset\":8,\"timestamp\":9,\"value\":\"b\"}
";
    let parts = [lines.as_bytes().to_vec()];
    let mut cursor = Cursor {
        next: 4,
        until: 100,
    };
    let (text, gaps) = decode_all(Format::Json, Target::Pipe, chunk(4, 9, &parts), &mut cursor);
    let expected: Vec<&str> = lines
        .lines()
        .filter(|line| line.contains("value"))
        .collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert_eq!(ranges(&gaps), [(5, 8)]);
    assert_eq!(gaps[0].reason, "damaged");

    let mut cursor = Cursor { next: 4, until: 5 };
    let (text, gaps) = decode_all(
        Format::Json,
        Target::Terminal,
        chunk(4, 9, &parts),
        &mut cursor,
    );
    assert!(text.contains("a\\u007f") && text.lines().count() == 1);
    assert_eq!(gaps, []);
}

/// Prints partitions that are whole chunks, and tells whether it ended well.
fn print(quota: Quota, partitions: Vec<(Share, Chunk)>) -> (String, bool) {
    let mut file = tempfile::tempfile().unwrap();
    let out = (Format::Raw, Target::Pipe);
    let copy = file.try_clone().unwrap();
    let mut printer = Printer::onto(copy, "t".to_owned(), out, quota).unwrap();
    let lanes = partitions.into_iter().map(|(share, chunk)| {
        let (sender, chunks) = tokio::sync::mpsc::channel(1);
        assert!(sender.try_send(Ok(chunk)).is_ok());
        Lane::new(share, chunks)
    });
    printer.drain(lanes.collect()).unwrap();
    let ended = printer.finish();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    (text, ended.is_ok())
}

fn share(partition: u32, from: i64, until: i64) -> Share {
    Share {
        partition,
        from,
        until,
    }
}

/// Records that are gone were counted as if they came, so that the last N were N less those.
#[test]
fn i28_the_last_records_are_as_many_as_asked_for_where_older_ones_are_damaged() {
    let old = [batch(3, &[b"d", b"e"])];
    let new = [batch(10, &[b"v", b"w", b"x", b"y", b"z"])];
    let quota = Quota {
        skip: 5,
        take: u64::MAX,
        expected: 10,
    };
    let partitions = vec![
        (share(0, 0, 5), chunk(0, 5, &old)),
        (share(1, 10, 15), chunk(10, 15, &new)),
    ];
    let (text, ended_well) = print(quota, partitions);
    assert_eq!(text, "v\nw\nx\ny\nz\n");
    assert!(!ended_well, "three records are missing");
}

#[test]
fn what_is_missing_behind_the_records_asked_for_is_not_told() {
    let parts = [batch(0, &[b"a", b"b"]), batch(9, &[b"z"])];
    let quota = Quota {
        skip: 0,
        take: 2,
        expected: 10,
    };
    let printed = print(quota, vec![(share(0, 0, 10), chunk(0, 10, &parts))]);
    assert_eq!(printed, ("a\nb\n".to_owned(), true));
}
