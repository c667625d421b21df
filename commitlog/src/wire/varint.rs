//! RFC 9000 variable-length integers: the first byte's two high bits give the size, so a reader knows
//! after one byte how many follow, and no input can overflow.

/// The largest number a varint holds, 2⁶²-1.
pub(super) const VARINT_MAX: u64 = (1 << 62) - 1;

/// The bytes of the longest varint.
pub(super) const VARINT_BYTES_MAX: usize = 8;

/// How many bytes the varint has that begins with `first`.
pub(super) const fn size(first: u8) -> usize {
    1 << (first >> 6)
}

/// Reads the varint at the front of `bytes`: its value and its size. `None` if it is cut short.
pub(super) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let size = size(first);
    let rest = bytes.get(1..size)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, &byte| {
        value << 8 | u64::from(byte)
    });
    Some((value, size))
}

/// Appends `value` in its shortest form.
///
/// Numbers past [`VARINT_MAX`] cannot be written; every caller's numbers are counts, lengths and
/// sequences that are far below.
pub(super) fn write(out: &mut Vec<u8>, value: u64) {
    assert!(value <= VARINT_MAX, "a varint holds 62 bits");
    let bytes = value.to_be_bytes();
    let (size, tag) = match value {
        0..=0x3f => (1, 0),
        0x40..=0x3fff => (2, 0x40),
        0x4000..=0x3fff_ffff => (4, 0x80),
        _ => (8, 0xc0),
    };
    let start = out.len();
    out.extend_from_slice(&bytes[8 - size..]);
    out[start] |= tag;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_read_back() {
        let edges = [
            0,
            0x3f,
            0x40,
            0x3fff,
            0x4000,
            0x3fff_ffff,
            0x4000_0000,
            VARINT_MAX,
        ];
        for value in edges {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            assert_eq!(read(&bytes), Some((value, bytes.len())));
            assert_eq!(size(bytes[0]), bytes.len());
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), None, "{value} cut to {cut}");
            }
        }
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // RFC 9000, appendix A.1.
        let long = [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c];
        assert_eq!(read(&long), Some((151_288_809_941_952_652, 8)));
        assert_eq!(read(&[0x9d, 0x7f, 0x3e, 0x7d]), Some((494_878_333, 4)));
        assert_eq!(read(&[0x7b, 0xbd]), Some((15_293, 2)));
        assert_eq!(read(&[0x25]), Some((37, 1)));
    }
}
