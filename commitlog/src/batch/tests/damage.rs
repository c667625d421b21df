//! Every flipped bit and every cut is found, nothing panics, and a forged batch in a payload stays
//! payload.

use super::{
    BatchHeader, ErrorKind, Offset, build_one, forge, patch, raw_records, read, sample, told,
    verify,
};
use crate::batch::header::{LEADER_EPOCH_AT, MAGIC_AT, split_first};

/// The bytes that the log assigns and checks by itself.
fn is_assigned_by_the_log(byte: usize) -> bool {
    byte < 8 || (LEADER_EPOCH_AT..MAGIC_AT).contains(&byte)
}

#[test]
fn every_flipped_bit_is_found() {
    let batch = build_one(&sample());
    for bit in 0..batch.len() * 8 {
        let mut flipped = batch.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        if is_assigned_by_the_log(bit / 8) {
            // The base offset is read as it stands, so that a log can compare it with its place.
            if let Ok(header) = verify(&flipped) {
                let mut placed = batch.clone();
                patch(&mut placed, header.base_offset);
                assert_eq!(read(&flipped).unwrap(), read(&placed).unwrap(), "bit {bit}");
            }
        } else {
            assert!(verify(&flipped).is_err(), "bit {bit}");
            assert!(read(&flipped).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_wrong_checksum_is_damage() {
    let mut batch = build_one(&sample());
    *batch.last_mut().unwrap() ^= 1;
    let error = verify(&batch).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert!(error.message.contains("checksum"), "{error}");
}

#[test]
fn every_truncation_is_found() {
    let batch = build_one(&sample());
    for end in 0..batch.len() {
        assert!(verify(&batch[..end]).is_err(), "cut at {end}");
        assert!(split_first(&batch[..end]).is_err(), "cut at {end}");
        assert!(read(&batch[..end]).is_err(), "cut at {end}");
    }
    let longer = [&batch[..], b"x"].concat();
    assert!(verify(&longer).is_err());
}

#[test]
fn every_swap_of_two_blocks_is_found() {
    let batch = build_one(&vec![told(1, b"0123456789abcdef"); 40]);
    for first in (16..batch.len() - 8).step_by(4) {
        for second in (first + 4..batch.len() - 4).step_by(4) {
            let mut swapped = batch.clone();
            for byte in 0..4 {
                swapped.swap(first + byte, second + byte);
            }
            if swapped != batch {
                assert!(verify(&swapped).is_err(), "{first} and {second}");
            }
        }
    }
}

#[test]
fn a_batch_inside_a_payload_stays_payload() {
    let mut inner = build_one(&[told(7, b"forged")]);
    patch(&mut inner, Offset::new(1).unwrap());
    let outer = build_one(&[told(1, b"first"), told(2, &inner), told(3, b"last")]);
    // Uncompressed, so that the inner one lies there bare.
    let outer = forge(0, 3, &raw_records(&outer));
    assert_eq!(read(&outer).unwrap()[1].value.as_deref(), Some(&inner[..]));

    let at = outer
        .windows(inner.len())
        .position(|window| window == inner)
        .unwrap();
    assert!(verify(&outer[at..at + inner.len()]).is_ok());
    for byte in (0..at).filter(|&byte| !is_assigned_by_the_log(byte)) {
        let mut damaged = outer.clone();
        damaged[byte] ^= 0x55;
        assert!(split_first(&damaged).is_err(), "byte {byte}");
    }
}

#[test]
fn a_header_alone_is_parsed_whatever_follows() {
    let batch = build_one(&sample());
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(BatchHeader::parse(&batch[..61]).unwrap(), header);
    assert!(BatchHeader::parse(&batch[..60]).is_err());
}
