//! Batches made, verified, patched, broken and read back.

mod damage;
mod golden;
mod lies;
mod round_trip;
mod split;

use super::builder::{BatchBuilder, HeaderBlock, NewRecord};
use super::header::{
    BatchHeader, CRC_AT, HEADER_BYTES, LENGTH_EXCLUDES, PRODUCER_AT, Producer, SEALED_FROM, patch,
    restamp, seal, verify,
};
use super::records::Decompressor;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// A record as it is told to a builder, and as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn told(timestamp: i64, value: &[u8]) -> Told {
    Told {
        timestamp,
        key: None,
        value: Some(value.to_vec()),
        headers: Vec::new(),
    }
}

fn producer(base_sequence: i32) -> Producer {
    Producer {
        id: ProducerId::new(0x1234_5678_9abc).unwrap(),
        epoch: ProducerEpoch::new(3).unwrap(),
        base_sequence: Sequence::new(base_sequence).unwrap(),
    }
}

/// Builds the records, the last header of each as its own and the others as shared ones.
fn build(records: &[Told]) -> Result<Vec<Vec<u8>>> {
    let mut builder = BatchBuilder::new();
    for record in records {
        let headers: Vec<(&str, &[u8])> = record
            .headers
            .iter()
            .map(|(name, value)| (&name[..], value.as_deref().unwrap()))
            .collect();
        let (extra, shared) = match headers.split_last() {
            None => (None, &[][..]),
            Some((last, others)) => (Some(*last), others),
        };
        builder.push(&NewRecord {
            timestamp: Timestamp(record.timestamp),
            key: record.key.as_deref(),
            value: record.value.as_deref().unwrap(),
            headers: &HeaderBlock::new(shared)?,
            extra,
        });
    }
    let mut batches = Vec::new();
    builder.finish(producer(0), &mut batches)?;
    Ok(batches)
}

fn build_one(records: &[Told]) -> Vec<u8> {
    let [batch] = <[Vec<u8>; 1]>::try_from(build(records).unwrap()).unwrap();
    batch
}

/// Reads all records of a batch, their offsets checked.
fn read(batch: &[u8]) -> Result<Vec<Told>> {
    let first = verify(batch)?.base_offset;
    let mut decompressor = Decompressor::new();
    let records = decompressor.records(batch)?;
    (0..)
        .zip(records)
        .map(|(index, record)| {
            let record = record?;
            assert_eq!(record.offset, first.plus(index));
            let owned =
                |(name, value): (&str, Option<&[u8]>)| (name.to_owned(), value.map(<[u8]>::to_vec));
            Ok(Told {
                timestamp: record.timestamp.0,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers: record
                    .headers
                    .map(|header| header.map(owned))
                    .collect::<Result<_>>()?,
            })
        })
        .collect()
}

/// A batch as another producer might have made it: `payload` after the header of a true batch, sealed.
fn forge(codec: u8, record_count: u32, payload: &[u8]) -> Vec<u8> {
    let mut batch = build_one(&[told(1_000, b"")]);
    batch.truncate(HEADER_BYTES);
    batch.extend_from_slice(payload);
    batch[SEALED_FROM + 1] = codec;
    let length = u32::try_from(batch.len() - LENGTH_EXCLUDES).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[23..27].copy_from_slice(&record_count.wrapping_sub(1).to_be_bytes());
    batch[57..61].copy_from_slice(&record_count.to_be_bytes());
    seal(&mut batch);
    batch
}

/// The records' bytes, decompressed.
fn raw_records(batch: &[u8]) -> Vec<u8> {
    zstd::bulk::decompress(&batch[HEADER_BYTES..], 1 << 20).unwrap()
}

/// A few records of every shape.
fn sample() -> Vec<Told> {
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
    vec![
        Told {
            headers: vec![
                header("host.name", b"web-1"),
                header("label", b"one"),
                header("label", b"two"),
            ],
            ..told(1_700_000_000_123, b"GET / 200")
        },
        Told {
            key: Some(b"key".to_vec()),
            ..told(1_699_999_999_000, b"")
        },
        Told {
            key: Some(Vec::new()),
            headers: vec![header("weir.position", b"\x00\xff\x80")],
            ..told(-5, b"\xff\xfe not UTF-8 \r\n\0")
        },
    ]
}

#[test]
fn a_batch_reads_as_it_was_told() {
    let batch = build_one(&sample());
    assert_eq!(read(&batch).unwrap(), sample());
    let header = verify(&batch).unwrap();
    assert_eq!(header, BatchHeader::parse(&batch).unwrap());
    assert_eq!(header.total_bytes(), batch.len());
    assert_eq!(header.base_timestamp, Timestamp(1_700_000_000_123));
    assert_eq!(header.max_timestamp, Timestamp(1_700_000_000_123));
    assert_eq!(header.leader_epoch, -1);
    assert_eq!(header.producer, Some(producer(0)));
}

#[test]
fn i12_a_placed_batch_differs_in_twelve_bytes() {
    let made = build_one(&sample());
    let mut placed = made.clone();
    patch(&mut placed, Offset::new(40).unwrap());
    assert_eq!(made[8..12], placed[8..12]);
    assert_eq!(made[16..], placed[16..]);
    let header = verify(&placed).unwrap();
    assert_eq!(header.leader_epoch, 0);
    assert_eq!(
        (header.last_offset().get(), header.next_offset().get()),
        (42, 43)
    );
    assert_eq!(read(&placed).unwrap(), sample());
}

#[test]
fn a_restamped_batch_is_the_other_producers() {
    let made = build_one(&sample());
    let mut stamped = made.clone();
    restamp(&mut stamped, producer(i32::MAX));
    let header = verify(&stamped).unwrap();
    assert_eq!(header.producer, Some(producer(i32::MAX)));
    assert_eq!(header.next_sequence(), Sequence::new(2));
    assert_eq!(read(&stamped).unwrap(), sample());
    restamp(&mut stamped, producer(0));
    assert_eq!(stamped, made);
}

#[test]
fn an_empty_builder_cuts_nothing() {
    assert!(build(&[]).unwrap().is_empty());
}

#[test]
fn a_record_has_a_bounded_number_of_headers() {
    use crate::limits::RECORD_HEADERS_MAX;
    let mut record = told(0, b"x");
    record.headers = vec![("name".to_owned(), Some(b"v".to_vec())); RECORD_HEADERS_MAX];
    assert_eq!(read(&build_one(&[record.clone()])).unwrap(), [record]);
    let too_many = vec![("name", &b"v"[..]); RECORD_HEADERS_MAX];
    let error = HeaderBlock::new(&too_many).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Input);
}

#[test]
fn batches_in_a_row_are_split_apart() {
    let batches = [build_one(&sample()), build_one(&[told(1, b"x")])];
    let together = batches.concat();
    let (_, first, rest) = super::header::split_first(&together).unwrap();
    let (_, second, rest) = super::header::split_first(rest).unwrap();
    assert_eq!([first, second], [&batches[0][..], &batches[1][..]]);
    assert!(rest.is_empty());
}
