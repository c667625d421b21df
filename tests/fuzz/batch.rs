//! Record batches. Each input is decoded as it came and once more with length and checksum made true,
//! which a broken disk cannot do and a hostile producer can.

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::{
    BatchHeader, HEADER_BYTES, Producer, patch, raw_bytes, restamp, split_first, verify,
};
use commitlog::batch::records::Decompressor;
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use commitlog::limits::BATCH_RAW_BYTES_MAX;
use weir_tests::fuzz::fuzz;

#[test]
fn a_batch_is_read_or_refused() {
    let mut decompressor = Decompressor::new();
    fuzz("batch", &samples(), |bytes| {
        let mut sealed = bytes.to_vec();
        make_true(&mut sealed);
        let as_it_came = decode(&mut decompressor, bytes);
        let made_true = decode(&mut decompressor, &sealed);
        format!("{as_it_came}; {made_true}")
    });
}

fn decode(decompressor: &mut Decompressor, bytes: &[u8]) -> String {
    let header = match verify(bytes) {
        Ok(header) => header,
        Err(refusal) => return refusal.to_string(),
    };
    assert_eq!(header.total_bytes(), bytes.len());
    check_patches(bytes, &header);
    let raw = raw_bytes(bytes);
    assert!(raw <= BATCH_RAW_BYTES_MAX);
    match read(decompressor, bytes, &header) {
        Ok(read_bytes) => {
            assert!(read_bytes <= raw);
            "read".to_owned()
        }
        Err(refusal) => refusal.to_string(),
    }
}

/// Reads everything and tells how many bytes the records hold.
fn read(
    decompressor: &mut Decompressor,
    batch: &[u8],
    header: &BatchHeader,
) -> commitlog::error::Result<usize> {
    let mut expected = header.base_offset;
    let mut bytes = 0;
    for record in decompressor.records(batch)? {
        let record = record?;
        assert_eq!(record.offset, expected);
        expected = expected.plus(1);
        bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        for header in record.headers {
            let (name, value) = header?;
            bytes += name.len() + value.map_or(0, <[u8]>::len);
        }
    }
    assert_eq!(expected, header.next_offset());
    Ok(bytes)
}

/// What a log and a spool do to a batch that was accepted leaves one that is accepted.
fn check_patches(batch: &[u8], header: &BatchHeader) {
    let row = [batch, b"behind"].concat();
    assert_eq!(split_first(&row).unwrap(), (*header, batch, &b"behind"[..]));

    let mut other = batch.to_vec();
    patch(&mut other, Offset::ZERO);
    let patched = verify(&other).unwrap();
    assert_eq!((patched.crc, patched.leader_epoch), (header.crc, 0));
    restamp(&mut other, producer());
    assert_eq!(verify(&other).unwrap().producer, Some(producer()));
}

fn make_true(batch: &mut [u8]) {
    if batch.len() < HEADER_BYTES {
        return;
    }
    let length = u32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// One record, some of every shape, and many alike; each with its records compressed and bare.
fn samples() -> Vec<Vec<u8>> {
    let headers = HeaderBlock::new(&[("host.name", b"a"), ("k", b"1"), ("k", b"2")]).unwrap();
    let none = HeaderBlock::default();
    let record = |index: i64, value, headers| NewRecord {
        timestamp: Timestamp(1_700_000_000_000 - 7 * index),
        key: (index % 3 == 1).then_some(&b"key"[..]),
        value,
        headers,
        extra: (index % 3 == 2).then_some(("weir.position", &b"\x00\xff"[..])),
    };
    let one = vec![record(0, &b"x"[..], &none)];
    let some = vec![
        record(0, b"GET / 200", &headers),
        record(1, b"", &none),
        record(2, b"\xff\xfe", &headers),
    ];
    let alike = (0..50)
        .map(|index| record(index, b"a line", &headers))
        .collect();

    let mut samples = Vec::new();
    for records in [one, some, alike] {
        let mut builder = BatchBuilder::new();
        for record in &records {
            builder.push(record);
        }
        builder.finish(producer(), &mut samples).unwrap();
        let compressed = samples.last().unwrap();
        let raw = zstd::bulk::decompress(&compressed[HEADER_BYTES..], 1 << 20).unwrap();
        let mut bare = [&compressed[..HEADER_BYTES], &raw].concat();
        bare[22] = 0;
        make_true(&mut bare);
        samples.push(bare);
    }
    samples
}

fn producer() -> Producer {
    Producer {
        id: ProducerId::new(77).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::ZERO,
    }
}
