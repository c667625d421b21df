//! Bytes that others wrote, made safe for a terminal.
//!
//! A log line can hold anything: an escape sequence that moves the cursor, sets the clipboard or
//! hides what comes next, a newline that forges a second line, a bidirectional override that swaps
//! what is read. On a terminal all of them are shown as `\x1b`, `\u{202e}`. A pipe gets the bytes.
//!
//! Invariant **I27**: no byte of a record, a name or an answer acts on a terminal.

use std::fmt::Write;

/// What becomes of a line feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// It is written as `\n`: one record stays one line.
    Escape,
    /// It stays: the text is ours and has several lines.
    Keep,
}

/// Appends `bytes` with everything escaped that could act on a terminal. A tab stays.
pub(crate) fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    if bytes.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        out.extend_from_slice(bytes);
        return;
    }
    out.extend_from_slice(shown(bytes).as_bytes());
}

/// Foreign bytes as one line that cannot act on a terminal.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        escape_text(part.valid(), Lines::Escape, &mut text);
        for byte in part.invalid() {
            append(&mut text, format_args!("\\x{byte:02x}"));
        }
    }
    text
}

/// Appends `text` with everything escaped that could act on a terminal.
pub(crate) fn escape_text(text: &str, lines: Lines, out: &mut String) {
    for c in text.chars() {
        match c {
            '\n' if lines == Lines::Keep => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push(c),
            c if !acts_on_a_terminal(c) => out.push(c),
            c if c.is_ascii() => append(out, format_args!("\\x{:02x}", u32::from(c))),
            c => append(out, format_args!("\\u{{{:x}}}", u32::from(c))),
        }
    }
}

/// Appends a line of JSON, still JSON and with the same meaning, in which DEL, C1 and bidirectional
/// controls are written as `\u202e` (JSON itself already escapes C0).
pub(crate) fn escape_json(line: &[u8], out: &mut Vec<u8>) {
    let Ok(text) = std::str::from_utf8(line) else {
        return escape(line, out);
    };
    for c in text.chars() {
        let mut utf16 = [0; 2];
        if acts_on_a_terminal(c) {
            for unit in c.encode_utf16(&mut utf16) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        } else {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// C0, DEL, C1; the marks, embeddings, overrides and isolates of the bidirectional algorithm; line
/// and paragraph separators, which some terminals break a line at; the byte order mark and the
/// invisible tag characters.
fn acts_on_a_terminal(c: char) -> bool {
    matches!(c,
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Appends what `format_args!` made, without a string in between.
pub(crate) fn append(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments)
        .expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &[u8], expected: &str) {
        let mut out = Vec::new();
        escape(input, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn what_acts_on_a_terminal_is_shown_as_an_escape() {
        check(b"plain\ttext ~", "plain\ttext ~");
        check(b"\x1b[2J\x1b]52;c;cm0=\x07", "\\x1b[2J\\x1b]52;c;cm0=\\x07");
        check(b"one\nforged two\r", "one\\nforged two\\r");
        check("\u{9b}31m é 漢 🦀".as_bytes(), "\\u{9b}31m é 漢 🦀");
        check("a\u{202e}b\u{2066}".as_bytes(), "a\\u{202e}b\\u{2066}");
        check(b"\xff\x80ok\xc3", "\\xff\\x80ok\\xc3");
    }

    /// Every code point of the basic plane: none that comes out is a control, and all that are
    /// harmless come out as they went in.
    #[test]
    fn i27_no_code_point_of_the_basic_plane_controls_the_terminal() {
        for c in (0..=0xffff).filter_map(char::from_u32) {
            let mut raw = Vec::new();
            escape(c.to_string().as_bytes(), &mut raw);
            let shown = String::from_utf8(raw).unwrap();
            let safe = |c: char| c == '\t' || !(c.is_control() || acts_on_a_terminal(c));
            assert!(shown.chars().all(safe), "{:04x}", u32::from(c));
            if safe(c) {
                assert_eq!(shown, c.to_string());
            }
        }
    }

    #[test]
    fn escaped_json_means_the_same() {
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            let line = serde_json::to_vec(&c.to_string()).unwrap();
            let mut shown = Vec::new();
            escape_json(&line, &mut shown);
            let shown = String::from_utf8(shown).unwrap();
            assert!(
                !shown.chars().any(acts_on_a_terminal),
                "{:04x}",
                u32::from(c)
            );
            assert_eq!(
                serde_json::from_str::<String>(&shown).unwrap(),
                c.to_string()
            );
        }
    }
}
