//! The oracle's line: `SEQ=<writer>.<file>:<number> CRC=<eight hex digits> <padding>`.
//!
//! A stream is the life of one file: the writer starts a new one at each rotation, so that "in
//! order within its file" is a statement about one stream. Numbers start at 0 and rise by one.
//! The checksum is CRC-32 (IEEE) over `<writer>.<file>:<number> <padding>`: a line that was cut,
//! glued to another or made up does not pass. The product uses CRC-32C; the oracle must not
//! inherit its table.

use std::fmt;

/// One file's life: which writer wrote it, and how many files that writer had begun before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// The writer's number, given by the test.
    pub writer: u32,
    /// Rises at each rotation.
    pub file: u32,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.writer, self.file)
    }
}

impl std::str::FromStr for Stream {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (writer, file) = text.split_once('.')?;
            Some(Stream {
                writer: writer.parse().ok()?,
                file: file.parse().ok()?,
            })
        };
        parse().ok_or_else(|| format!("not a stream: {text:?}"))
    }
}

/// A line's place in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The file it was written to.
    pub stream: Stream,
    /// Its number there.
    pub number: u64,
}

impl Line {
    /// Appends the line and its newline. The padding follows from the line's place alone, looks
    /// like text and compresses about as badly as text.
    pub fn write(self, padding_bytes: usize, out: &mut Vec<u8>) {
        let seed = (u64::from(self.stream.writer) << 48)
            ^ (u64::from(self.stream.file) << 32)
            ^ self.number;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut body = format!("{}:{} ", self.stream, self.number).into_bytes();
        body.extend((0..padding_bytes).map(|_| random.choice(ALPHABET).unwrap_or(b'.')));
        let checksum = crc32(&body);
        let place = body
            .iter()
            .position(|byte| *byte == b' ')
            .unwrap_or(body.len());
        out.extend_from_slice(b"SEQ=");
        out.extend_from_slice(&body[..place]);
        out.extend_from_slice(format!(" CRC={checksum:08x} ").as_bytes());
        out.extend_from_slice(&body[place + 1..]);
        out.push(b'\n');
    }

    /// Reads a line without its newline; `None` when it is not one that a writer wrote.
    pub fn parse(bytes: &[u8]) -> Option<Line> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix("SEQ=")?;
        let (place, rest) = text.split_once(' ')?;
        let (checksum, padding) = rest.strip_prefix("CRC=")?.split_once(' ')?;
        let (stream, number) = place.split_once(':')?;
        let body = [place.as_bytes(), b" ", padding.as_bytes()].concat();
        if checksum != format!("{:08x}", crc32(&body)) {
            return None;
        }
        Some(Line {
            stream: stream.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

/// What padding is made of: 64 characters, spaces among them.
const ALPHABET: [u8; 64] = *b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 /";

/// CRC-32 (IEEE 802.3), one byte at a time.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (crc >> 8) ^ CRC_TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)]
    })
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut at = 0;
    let mut value: u32 = 0;
    while at < 256 {
        let mut crc = value;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
        value += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line = Line {
        stream: Stream {
            writer: 3,
            file: 17,
        },
        number: 42,
    };

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_written_line_reads_back() {
        for padding in [0, 1, 100] {
            let mut bytes = Vec::new();
            LINE.write(padding, &mut bytes);
            assert_eq!(bytes.pop(), Some(b'\n'));
            assert!(
                bytes.starts_with(b"SEQ=3.17:42 CRC="),
                "{}",
                bytes.escape_ascii()
            );
            assert_eq!(Line::parse(&bytes), Some(LINE));
        }
    }

    #[test]
    fn a_changed_cut_or_glued_line_is_not_one() {
        let mut bytes = Vec::new();
        LINE.write(30, &mut bytes);
        bytes.pop();
        for at in 0..bytes.len() {
            assert_eq!(Line::parse(&bytes[..at]), None, "cut at {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert_eq!(Line::parse(&changed), None, "bit {bit} of byte {at}");
            }
        }
        assert_eq!(Line::parse(&[bytes.clone(), bytes].concat()), None);
    }
}
