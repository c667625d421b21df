//! Writes JSON into a byte buffer, for the one place where a general serializer costs too much: a
//! record a line, millions of them.
//!
//! Whatever bytes come in, what comes out is valid JSON in UTF-8: text is checked and escaped, all
//! else goes as base64 under a name that says so.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Writes a number.
pub(super) fn push_number(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        // The remainder is below 10.
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes a string with its quotes.
pub(super) fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    push_escaped(out, text);
    out.push(b'"');
}

/// Writes `"name":value`: a string when the bytes are UTF-8, null for none, and otherwise
/// `"name_base64":"…"`.
pub(super) fn push_field(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    out.push(b'"');
    push_escaped(out, name);
    let Some(bytes) = value else {
        return out.extend_from_slice(b"\":null");
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        out.extend_from_slice(b"\":");
        push_string(out, text);
    } else {
        out.extend_from_slice(b"_base64\":\"");
        out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        out.push(b'"');
    }
}

/// Copies runs of plain bytes whole; only quotes, backslashes and control characters are escaped.
fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    loop {
        let plain = plain_prefix(rest);
        let (copied, from_special) = rest.split_at(plain);
        out.extend_from_slice(copied);
        let Some((&special, behind)) = from_special.split_first() else {
            return;
        };
        match special {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(control >> 4)]);
                out.push(HEX[usize::from(control & 15)]);
            }
        }
        rest = behind;
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// How many bytes at the front need no escape. Eight at a time: a byte's high bit is set in `found`
/// when it is special (Mycroft's test, exact up to the first special byte).
fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quote = zero_bytes(word ^ (ONES * u64::from(b'"')));
        let backslash = zero_bytes(word ^ (ONES * u64::from(b'\\')));
        let found = (control | quote | backslash) & HIGHS;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = bytes.get(at..).unwrap_or_default();
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    at + tail.iter().position(special).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_reads_back_as_it_was() {
        let mut texts: Vec<String> = vec![String::new(), "ä€𝄞 \u{7f}\u{80}\u{2028}".into()];
        for special in 0..=255_u8 {
            for at in 0..20 {
                let mut text = "x".repeat(20);
                text.insert(at, char::from(special));
                texts.push(text);
            }
        }
        for text in texts {
            let mut out = Vec::new();
            push_string(&mut out, &text);
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_go_as_base64() {
        let check = |value: Option<&[u8]>, expected: &str| {
            let mut out = Vec::new();
            push_field(&mut out, "value", value);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(Some(b"a\"b"), r#""value":"a\"b""#);
        check(Some(b"\xff\x00"), r#""value_base64":"/wA=""#);
        check(Some(b""), r#""value":"""#);
        check(None, r#""value":null"#);
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 7, -1, 1_000, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
