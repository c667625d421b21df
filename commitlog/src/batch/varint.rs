//! Zigzag varints: seven bits a byte, low bits first, the top bit set on all bytes but the last; the
//! sign lies in bit 0, so that small numbers of either sign are short.

/// Folds the sign into bit 0: 0, -1, 1, -2 become 0, 1, 2, 3.
pub(super) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The zigzag number of a length.
pub(super) const fn zigzag_length(length: usize) -> u64 {
    (length as u64) << 1
}

/// How many bytes `folded` takes.
pub(super) const fn encoded_bytes(folded: u64) -> usize {
    // Nine bits of every eight bytes' worth: one division-free step instead of a loop.
    let bits = 64 - (folded | 1).leading_zeros();
    ((bits * 9 + 64) / 64) as usize
}

/// Writes `folded` at `at` and tells where it ends. The caller leaves [`VARINT_BYTES_MAX`] bytes.
pub(super) fn put(bytes: &mut [u8], mut at: usize, mut folded: u64) -> usize {
    while folded >= 0x80 {
        bytes[at] = low_seven(folded) | 0x80;
        folded >>= 7;
        at += 1;
    }
    bytes[at] = low_seven(folded);
    at + 1
}

/// Appends `folded` to `bytes`.
pub(super) fn append(bytes: &mut Vec<u8>, folded: u64) {
    let mut buffer = [0; VARINT_BYTES_MAX];
    let end = put(&mut buffer, 0, folded);
    bytes.extend_from_slice(&buffer[..end]);
}

/// Reads the number at the front of `bytes`, and moves `bytes` behind it. `None`: cut short, or more
/// than 64 bits.
pub(super) fn take(bytes: &mut &[u8]) -> Option<i64> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(unfold(u64::from(first)));
    }
    take_long(bytes)
}

fn take_long(bytes: &mut &[u8]) -> Option<i64> {
    let mut folded = 0;
    for (index, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let seven = u64::from(byte & 0x7f);
        if index == VARINT_BYTES_MAX - 1 && seven > 1 {
            return None;
        }
        folded |= seven << (7 * index);
        if byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Some(unfold(folded));
        }
    }
    None
}

const fn unfold(folded: u64) -> i64 {
    (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed()
}

const fn low_seven(folded: u64) -> u8 {
    (folded & 0x7f) as u8
}

/// The most bytes one number takes.
pub(super) const VARINT_BYTES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_back_and_its_size_is_foretold() {
        let edges = (0..64).flat_map(|bit| {
            let power = 1i64.wrapping_shl(bit);
            [power.wrapping_sub(1), power, power.wrapping_neg(), !power]
        });
        for value in edges {
            let mut bytes = Vec::new();
            append(&mut bytes, zigzag(value));
            assert_eq!(bytes.len(), encoded_bytes(zigzag(value)), "{value}");
            let mut rest = &bytes[..];
            assert_eq!(take(&mut rest), Some(value));
            assert!(rest.is_empty(), "{value}");
            for cut in 0..bytes.len() {
                assert_eq!(take(&mut &bytes[..cut]), None, "{value} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_refused() {
        assert_eq!(take(&mut &[0xff; 11][..]), None);
        let mut bytes = [0xff; 10];
        bytes[9] = 0x02;
        assert_eq!(take(&mut &bytes[..]), None);
        bytes[9] = 0x01;
        assert_eq!(take(&mut &bytes[..]), Some(i64::MIN));
    }
}
