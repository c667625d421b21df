//! How a file's bytes become text: where its lines end, and what they are in UTF-8.
//!
//! UTF-8, and what is not known to be anything else, is never looked into: bytes are delivered as they
//! are. Everything else is decoded by the Encoding Standard, which has a text for any bytes. A line
//! ends with a newline; in UTF-16 that has two bytes, which begin at an even byte of the file. In all
//! other encodings of the standard a byte 10 is a newline and nothing else.

use encoding_rs::{UTF_8, UTF_16BE, UTF_16LE};
use memchr::{memchr, memrchr};

/// What is said of the files of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A byte order mark at a file's start tells UTF-16; without one bytes are taken as they are.
    Auto,
    /// Bytes are taken as they are.
    Utf8,
    /// They are decoded.
    Decoded(&'static encoding_rs::Encoding),
}

/// How the bytes of one file become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// `None`: they are taken as they are.
    decoded: Option<&'static encoding_rs::Encoding>,
    /// The byte of a newline that is not 0, where it has two.
    wide: Option<Wide>,
    /// The length of the byte order mark.
    pub(super) mark: usize,
}

/// UTF-16's orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wide {
    LowFirst,
    HighFirst,
}

/// Where a line ends: the newline, and the next line's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LineEnd {
    pub(super) newline: usize,
    pub(super) next: usize,
}

impl Encoding {
    /// The encoding of a label: `auto`, or any of the Encoding Standard.
    pub fn for_label(label: &str) -> Option<Encoding> {
        if label == "auto" {
            return Some(Encoding::Auto);
        }
        let encoding = encoding_rs::Encoding::for_label_no_replacement(label.as_bytes())?;
        Some(if encoding == UTF_8 {
            Encoding::Utf8
        } else {
            Encoding::Decoded(encoding)
        })
    }

    /// Its label.
    pub fn label(self) -> String {
        match self {
            Encoding::Auto => "auto".to_owned(),
            Encoding::Utf8 => "utf-8".to_owned(),
            Encoding::Decoded(encoding) => encoding.name().to_lowercase(),
        }
    }

    /// The form of a file that begins with these bytes, of which [`MARK_BYTES`] are enough.
    pub(super) fn form(self, start: &[u8]) -> Form {
        let marked = encoding_rs::Encoding::for_bom(start);
        let (encoding, mark) = match (self, marked) {
            (Encoding::Auto, Some((encoding, mark))) => (encoding, mark),
            (Encoding::Decoded(encoding), Some((of_mark, mark))) if of_mark == encoding => {
                (encoding, mark)
            }
            (Encoding::Decoded(encoding), _) => (encoding, 0),
            (Encoding::Utf8, _) | (Encoding::Auto, None) => (UTF_8, 0),
        };
        let wide = if encoding == UTF_16LE {
            Some(Wide::LowFirst)
        } else if encoding == UTF_16BE {
            Some(Wide::HighFirst)
        } else {
            None
        };
        Form {
            decoded: (encoding != UTF_8).then_some(encoding),
            wide,
            mark,
        }
    }
}

impl Form {
    /// Whether lines are other bytes than their text.
    pub(super) fn is_decoded(self) -> bool {
        self.decoded.is_some()
    }

    /// The most bytes that a text of so many bytes has in the file, as long as it is one that makes sense.
    pub(super) fn bytes_of(self, text_bytes: usize) -> usize {
        if self.wide.is_some() {
            2 * text_bytes
        } else {
            text_bytes
        }
    }

    /// The same number of bytes, or fewer, that end where a unit of the file does.
    pub(super) fn whole_units(self, bytes: u64) -> u64 {
        if self.wide.is_some() {
            bytes & !1
        } else {
            bytes
        }
    }

    /// The end of the line that begins at or goes on at `start`. `bytes` begin at the file's byte `from`.
    #[inline]
    pub(super) fn line_end(self, bytes: &[u8], start: usize, from: u64) -> Option<LineEnd> {
        let Some(wide) = self.wide else {
            let newline = start + memchr(b'\n', &bytes[start..])?;
            let next = newline + 1;
            return Some(LineEnd { newline, next });
        };
        let mut at = start;
        loop {
            let low = at + memchr(b'\n', &bytes[at..])?;
            if let Some(end) = wide
                .newline_at(low, bytes, from)
                .filter(|end| end.newline >= start)
            {
                return Some(end);
            }
            at = low + 1;
        }
    }

    /// The end of the last line that ends after `start`.
    pub(super) fn last_line_end(self, bytes: &[u8], start: usize, from: u64) -> Option<LineEnd> {
        let Some(wide) = self.wide else {
            let newline = start + memrchr(b'\n', &bytes[start..])?;
            let next = newline + 1;
            return Some(LineEnd { newline, next });
        };
        let mut to = bytes.len();
        loop {
            let low = start + memrchr(b'\n', &bytes[start..to])?;
            if let Some(end) = wide
                .newline_at(low, bytes, from)
                .filter(|end| end.newline >= start)
            {
                return Some(end);
            }
            to = low;
        }
    }

    /// Whether a line begins behind these bytes, which are not all there are before it.
    pub(super) fn ends_line(self, before: &[u8]) -> bool {
        match self.wide {
            None => before.ends_with(b"\n"),
            Some(Wide::LowFirst) => before.ends_with(b"\n\0"),
            Some(Wide::HighFirst) => before.ends_with(b"\0\n"),
        }
    }

    /// The text of these bytes, in `text` if it is another.
    pub(super) fn text<'t>(self, bytes: &'t [u8], text: &'t mut Vec<u8>) -> &'t [u8] {
        if !self.is_decoded() {
            return bytes;
        }
        text.clear();
        self.decode(bytes, text);
        text
    }

    /// Appends the text of all these bytes.
    pub(super) fn decode(self, bytes: &[u8], text: &mut Vec<u8>) {
        let Some(encoding) = self.decoded else {
            text.extend_from_slice(bytes);
            return;
        };
        let mut decoder = encoding.new_decoder_without_bom_handling();
        decode_on(&mut decoder, bytes, Last::Yes, text);
    }

    /// Appends the text of as many of these bytes as give whole characters of `text_bytes_max`. How many
    /// bytes those are.
    pub(super) fn decode_some(
        self,
        bytes: &[u8],
        text_bytes_max: usize,
        text: &mut Vec<u8>,
    ) -> usize {
        let Some(encoding) = self.decoded else {
            let some = bytes.len().min(text_bytes_max);
            text.extend_from_slice(&bytes[..some]);
            return some;
        };
        if let Some(wide) = self.wide {
            let some = wide.fitting(bytes, text_bytes_max);
            self.decode(&bytes[..some], text);
            return some;
        }
        let fitting = fitting(encoding, bytes, text_bytes_max);
        // A decoder tells where a character ends by giving some text for its last byte.
        let start = text.len();
        let mut decoder = encoding.new_decoder_without_bom_handling();
        decode_on(&mut decoder, &bytes[..fitting], Last::No, text);
        let mut ends = Vec::new();
        for at in fitting..bytes.len() {
            let before = text.len();
            decode_on(&mut decoder, &bytes[at..=at], Last::No, text);
            if text.len() - start > text_bytes_max {
                break;
            }
            if text.len() > before {
                ends.push((at + 1, text.len()));
            }
        }
        // What makes no sense can give text and begin another character with one byte.
        let first = ends.first().copied();
        while let Some((some, end)) = ends.pop() {
            text.truncate(start);
            self.decode(&bytes[..some], text);
            if text.len() == end || Some((some, end)) == first {
                return some;
            }
        }
        bytes.len()
    }
}

/// A number of bytes that surely have no more text than so much, and not much fewer than do.
fn fitting(encoding: &'static encoding_rs::Encoding, bytes: &[u8], text_bytes_max: usize) -> usize {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let mut text = Vec::new();
    let mut text_bytes = 0;
    let chunks = bytes.chunks(CHUNK_BYTES).take_while(|chunk| {
        text.clear();
        decode_on(&mut decoder, chunk, Last::No, &mut text);
        text_bytes += text.len();
        text_bytes <= text_bytes_max
    });
    // The last of them may end with a character that is not whole.
    chunks.count().saturating_sub(1) * CHUNK_BYTES
}

impl Wide {
    /// How many of these bytes are the whole characters that have no more text than so much.
    fn fitting(self, bytes: &[u8], text_bytes_max: usize) -> usize {
        let units = bytes.chunks_exact(2).map(|unit| match self {
            Wide::LowFirst => u16::from_le_bytes([unit[0], unit[1]]),
            Wide::HighFirst => u16::from_be_bytes([unit[0], unit[1]]),
        });
        let (mut some, mut text_bytes) = (0, 0);
        for character in char::decode_utf16(units) {
            let character = character.unwrap_or(char::REPLACEMENT_CHARACTER);
            text_bytes += character.len_utf8();
            if text_bytes > text_bytes_max {
                break;
            }
            some += 2 * character.len_utf16();
        }
        some
    }

    /// The newline that has its byte 10 at `low`, if it is one.
    fn newline_at(self, low: usize, bytes: &[u8], from: u64) -> Option<LineEnd> {
        let (newline, high) = match self {
            Wide::LowFirst => (low, low + 1),
            Wide::HighFirst => (low.checked_sub(1)?, low.checked_sub(1)?),
        };
        let is_aligned = (from + newline as u64).is_multiple_of(2);
        let is_newline = is_aligned && bytes.get(high) == Some(&0);
        let next = newline + 2;
        is_newline.then_some(LineEnd { newline, next })
    }
}

/// Whether more bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

fn decode_on(decoder: &mut encoding_rs::Decoder, bytes: &[u8], last: Last, text: &mut Vec<u8>) {
    let needed = decoder
        .max_utf8_buffer_length(bytes.len())
        .expect("three times a buffer is no overflow");
    let start = text.len();
    text.resize(start + needed, 0);
    let (_, read, written, _) =
        decoder.decode_to_utf8(bytes, &mut text[start..], last == Last::Yes);
    debug_assert_eq!(read, bytes.len());
    text.truncate(start + written);
}

/// Bytes that tell every byte order mark.
pub(super) const MARK_BYTES: usize = 3;

const CHUNK_BYTES: usize = 4096;

#[cfg(test)]
mod tests;
