//! Lines and characters of every encoding, cut anywhere.

use proptest::prelude::*;

use super::{Encoding, Form};

fn form(label: &str) -> Form {
    Encoding::for_label(label).unwrap().form(b"")
}

/// The lines of these bytes and the rest, each with its newline.
fn lines(form: Form, bytes: &[u8], from: u64) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut start = 0;
    while let Some(end) = form.line_end(bytes, start, from) {
        assert!(start <= end.newline && end.newline < end.next);
        lines.push(bytes[start..end.next].to_vec());
        start = end.next;
    }
    lines.push(bytes[start..].to_vec());
    lines
}

#[test]
fn labels_are_those_of_the_standard() {
    for (label, name) in [
        ("auto", "auto"),
        ("utf-8", "utf-8"),
        ("UTF8", "utf-8"),
        ("utf-16", "utf-16le"),
        ("latin1", "windows-1252"),
        ("shift_jis", "shift_jis"),
    ] {
        assert_eq!(Encoding::for_label(label).unwrap().label(), name);
    }
    // The standard has these only so that nobody takes them for anything else.
    for label in ["", "utf-9", "replacement", "iso-2022-kr"] {
        assert_eq!(Encoding::for_label(label), None, "{label}");
    }
}

#[test]
fn a_mark_decides_only_where_it_may() {
    let mark = |label: &str, start: &[u8]| {
        let form = Encoding::for_label(label).unwrap().form(start);
        (form.decoded.map(encoding_rs::Encoding::name), form.mark)
    };
    let low_first = Some("UTF-16LE");
    assert_eq!(mark("auto", b"\xff\xfea\0"), (low_first, 2));
    assert_eq!(mark("auto", b"\xfe\xff\0a"), (Some("UTF-16BE"), 2));
    assert_eq!(mark("auto", b"\xef\xbb\xbfa"), (None, 3));
    assert_eq!(mark("auto", b"\xef\xbb"), (None, 0));
    assert_eq!(mark("utf-8", b"\xff\xfea\0"), (None, 0));
    assert_eq!(mark("utf-16le", b"\xff\xfea\0"), (low_first, 2));
    assert_eq!(mark("utf-16le", b"\xfe\xff\0a"), (low_first, 0));
    assert_eq!(mark("utf-16le", b"a\0"), (low_first, 0));
}

#[test]
fn a_newline_of_two_bytes_begins_at_an_even_byte() {
    let low = form("utf-16le");
    // U+0A41, U+000A, U+4100: a byte 10 and a zero follow each other in three places.
    let bytes = b"\x41\x0a\x0a\0\0\x41";
    assert_eq!(lines(low, bytes, 0), [&b"\x41\x0a\x0a\0"[..], b"\0\x41"]);
    assert_eq!(lines(low, bytes, 1).len(), 1);
    assert_eq!(low.last_line_end(bytes, 0, 0).unwrap().next, 4);
    // Its second half is not there yet.
    assert_eq!(lines(low, b"a\0\x0a", 0).len(), 1);
    let high = form("utf-16be");
    assert_eq!(lines(high, b"\x0a\0\0\x0a\0a", 0).len(), 2);
    assert_eq!(lines(high, b"\0\x0a", 1).len(), 1);
}

proptest! {
    #[test]
    fn lines_are_the_bytes_and_the_last_is_the_last(
        label in prop::sample::select(vec!["utf-8", "utf-16le", "utf-16be", "shift_jis"]),
        bytes in prop::collection::vec(prop::sample::select(b"\0\n\r\x41\x81\xd8\xdc".to_vec()), 0..60),
        from in 0u64..3,
    ) {
        let form = form(label);
        let lines = lines(form, &bytes, from);
        prop_assert_eq!(lines.concat(), bytes.clone());
        let ended = bytes.len() - lines.last().unwrap().len();
        let last = form.last_line_end(&bytes, 0, from).map_or(0, |line| line.next);
        prop_assert_eq!(last, ended);
    }

    #[test]
    fn pieces_are_whole_characters_and_together_the_text(
        label in prop::sample::select(vec!["utf-16le", "utf-16be", "shift_jis", "windows-1252", "gb18030", "euc-kr"]),
        // What makes sense is often enough among a few bytes.
        bytes in prop::collection::vec(
            prop_oneof![
                prop::sample::select(b"\0\x41\x30\x81\xd8\x3d\xdc\x80".to_vec()),
                any::<u8>(),
            ],
            0..12_000,
        ),
        piece in 8usize..6000,
    ) {
        let form = form(label);
        let mut whole = Vec::new();
        form.decode(&bytes, &mut whole);
        prop_assert!(std::str::from_utf8(&whole).is_ok());
        let mut text = Vec::new();
        let mut at = 0;
        while whole.len() - text.len() > piece {
            let before = text.len();
            let some = form.decode_some(&bytes[at..], piece, &mut text);
            prop_assert!(some > 0 && text.len() - before <= piece);
            // Eight bytes: two characters at most, in what makes no sense.
            prop_assert!(text.len() - before + 8 > piece);
            at += some;
        }
        form.decode(&bytes[at..], &mut text);
        prop_assert_eq!(text, whole);
    }
}
