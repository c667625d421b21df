//! Batches made, verified, patched, broken and read back.

use super::builder::{BatchBuilder, HeaderBlock, NewRecord};
use super::header::{BatchHeader, Producer, patch, restamp, verify};
use super::records::Decompressor;
use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

fn producer(base_sequence: i32) -> Producer {
    Producer {
        id: ProducerId::new(0x1234_5678_9abc).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::new(base_sequence).unwrap(),
    }
}

#[test]
fn a_patched_and_restamped_batch_reads_the_same() {
    let headers = HeaderBlock::new(&[("host.name", b"a"), ("k", b"1"), ("k", b"2")]).unwrap();
    let mut builder = BatchBuilder::new();
    for (index, value) in [&b"one"[..], b"", b"\xff\xfe three"]
        .into_iter()
        .enumerate()
    {
        builder.push(&NewRecord {
            timestamp: Timestamp([5, -3, 9][index]),
            key: (index == 1).then_some(b"key"),
            value,
            headers: &headers,
            extra: (index == 2).then_some(("weir.position", b"p")),
        });
    }
    let mut batches = Vec::new();
    builder.finish(producer(7), &mut batches).unwrap();
    assert!(builder.is_empty());
    let [mut batch] = <[Vec<u8>; 1]>::try_from(batches).unwrap();
    patch(&mut batch, Offset::new(40).unwrap());
    restamp(&mut batch, producer(i32::MAX));

    let header = verify(&batch).unwrap();
    assert_eq!(header, BatchHeader::parse(&batch).unwrap());
    assert_eq!(header.max_timestamp, Timestamp(9));
    assert_eq!(header.next_offset().get(), 43);
    assert_eq!(header.next_sequence(), Sequence::new(2));

    let mut decompressor = Decompressor::new();
    let records: Vec<_> = decompressor
        .records(&batch)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let values: Vec<_> = records.iter().map(|record| record.value.unwrap()).collect();
    assert_eq!(values, [&b"one"[..], b"", b"\xff\xfe three"]);
    let times: Vec<_> = records.iter().map(|record| record.timestamp.0).collect();
    assert_eq!(times, [5, -3, 9]);
    assert_eq!(records[1].key, Some(&b"key"[..]));
    assert_eq!(records[2].offset.get(), 42);
    let headers: Vec<_> = records[2].headers.clone().map(Result::unwrap).collect();
    let expected: [(&str, Option<&[u8]>); 4] = [
        ("host.name", Some(b"a")),
        ("k", Some(b"1")),
        ("k", Some(b"2")),
        ("weir.position", Some(b"p")),
    ];
    assert_eq!(headers, expected);
}
