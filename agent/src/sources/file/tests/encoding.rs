//! What is read of files in other encodings: text by the definition, however the bytes come.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use commitlog::storage::faulty::FaultyDisk;
use proptest::prelude::*;

use crate::limits::READ_BYTES;
use crate::sources::file::encoding::Encoding;
use crate::sources::file::{LongLines, StartAt};
use crate::testing::World;

/// How UTF-16 is written.
#[derive(Debug, Clone, Copy)]
enum Order {
    LowFirst,
    HighFirst,
}

const ORDERS: [Order; 2] = [Order::LowFirst, Order::HighFirst];

fn utf_16(text: &str, order: Order) -> Vec<u8> {
    let bytes = |unit: u16| match order {
        Order::LowFirst => unit.to_le_bytes(),
        Order::HighFirst => unit.to_be_bytes(),
    };
    text.encode_utf16().flat_map(bytes).collect()
}

fn write(world: &World, name: &str, bytes: &[u8]) {
    world.writer(name).write_all(bytes).unwrap();
}

#[test]
fn utf_16_is_told_by_its_mark_and_comes_out_as_utf_8_also_byte_by_byte() {
    // Newlines, carriage returns, NULs, surrogates, and characters with a byte 10 in them.
    let text = "\u{feff}one\r\n\nт\0wo 😀\u{a0a}\u{10a}\u{a00}\n\u{a00}\n";
    let expected = ["one\r", "", "т\0wo 😀\u{a0a}\u{10a}\u{a00}", "\u{a00}"];
    for order in ORDERS {
        let mut world = World::new();
        write(&world, "a.log", &utf_16(text, order));
        for byte in utf_16(text, order) {
            write(&world, "b.log", &[byte]);
            world.settle();
        }
        assert_eq!(world.lines_of("a.log"), expected, "{order:?}");
        assert_eq!(world.lines_of("b.log"), expected, "{order:?}");
    }
}

#[test]
fn the_mark_is_known_again_after_a_restart_anywhere_in_the_file() {
    for order in ORDERS {
        let mut world = World::new();
        write(&world, "a.log", &utf_16("\u{feff}", order));
        let mut expected = Vec::new();
        for number in 0..40 {
            // Files shorter and longer than what the guards cover.
            let line = format!("{number} {}", "ä".repeat(100));
            write(&world, "a.log", &utf_16(&format!("{line}\n"), order));
            expected.push(line);
            world.run_for(Duration::from_millis(100));
            if number % 3 == 0 {
                world.kill();
            } else if number % 3 == 1 {
                world.stop();
            }
        }
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.lines_of("a.log"), expected, "{order:?}");
    }
}

#[test]
fn half_a_character_at_the_end_waits_and_is_replaced_when_the_file_is_over() {
    let mut world = World::new();
    let mut bytes = utf_16("\u{feff}one\ntwo", Order::LowFirst);
    bytes.push(b'x');
    write(&world, "a.log", &bytes);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one"]);
    world.rename("a.log", "a.old");
    write(&world, "a.log", b"three\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one", "two\u{fffd}", "three"]);
}

#[test]
fn a_mark_of_utf_8_is_no_part_of_the_first_line_and_a_file_of_it_alone_has_none() {
    let mut world = World::new();
    write(&world, "a.log", "\u{feff}one\n\u{feff}two\n".as_bytes());
    write(&world, "b.log", "\u{feff}".as_bytes());
    world.run_for(Duration::from_secs(1));
    world.rename("b.log", "b.old");
    write(&world, "b.log", b"next\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one", "\u{feff}two"]);
    assert_eq!(world.lines_of("b.log"), ["next"]);
}

#[test]
fn what_is_said_to_be_utf_8_is_delivered_as_it_is_whatever_it_begins_with() {
    let mut world = World::new();
    world.config.encoding = Encoding::Utf8;
    let odd: &[u8] = b"\xff\xfea\0\r\n\xef\xbb\xbf\xf0\n";
    write(&world, "a.log", odd);
    world.settle();
    let records = world.records();
    assert_eq!(records[0].value, b"\xff\xfea\0\r");
    assert_eq!(records[1].value, b"\xef\xbb\xbf\xf0");
}

#[test]
fn other_encodings_are_decoded_as_the_configuration_says() {
    for (label, text) in [
        ("windows-1252", "naïve €\nzwölf\n"),
        ("shift_jis", "日本語\nテスト\n"),
        ("gb18030", "简体中文\n😀\n"),
        ("koi8-r", "привет\nмир\n"),
        ("utf-16be", "plain\n日本語\n"),
    ] {
        let mut world = World::new();
        world.config.encoding = Encoding::for_label(label).unwrap();
        let bytes = if label == "utf-16be" {
            utf_16(text, Order::HighFirst)
        } else {
            let encoding = encoding_rs::Encoding::for_label(label.as_bytes());
            encoding.unwrap().encode(text).0.into_owned()
        };
        write(&world, "a.log", &bytes);
        world.settle();
        assert_eq!(world.lines_of("a.log").concat(), text.replace('\n', ""));
    }
}

#[test]
fn reading_begins_behind_a_newline_of_two_bytes_at_the_very_first_start() {
    for order in ORDERS {
        let mut world = World::new();
        world.config.start_at = StartAt::End;
        write(&world, "a.log", &utf_16("\u{feff}old\n", order));
        world.settle();
        write(&world, "a.log", &utf_16("new\n", order));
        world.settle();
        assert_eq!(world.lines_of("a.log"), ["new"]);
    }
}

#[test]
fn a_long_line_of_utf_16_is_cut_between_characters() {
    let line = "😀ä\u{800}a".repeat(3 * READ_BYTES / 10);
    for order in ORDERS {
        for long_lines in [LongLines::Split, LongLines::Truncate, LongLines::Drop] {
            let mut world = World::new();
            world.config.long_lines = long_lines;
            world.config.line_bytes_max = 100_000;
            let text = format!("\u{feff}before\n{line}\nafter\n");
            write(&world, "a.log", &utf_16(&text, order));
            world.settle();
            let lines = world.lines_of("a.log");
            let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
            assert_eq!([first, last], ["before", "after"]);
            let long = lines[1..lines.len() - 1].concat();
            match long_lines {
                LongLines::Split => assert!(long == line),
                LongLines::Truncate => {
                    assert!(line.starts_with(&long) && long.len() > 99_996);
                }
                LongLines::Drop => assert!(long.is_empty()),
            }
        }
    }
}

#[test]
fn a_long_first_line_behind_a_mark_is_cut_at_the_limit_and_has_its_own_bytes() {
    // Longer than the limit only with its mark; and longer than that by little, and by more than a guard.
    for length in [98, 100, 101, 103, 104, 700] {
        let mut world = World::new();
        world.config.long_lines = LongLines::Truncate;
        world.config.line_bytes_max = 100;
        let line: String = ('a'..='z').cycle().take(length).collect();
        write(&world, "a.log", "\u{feff}".as_bytes());
        write(&world, "a.log", line.as_bytes());
        world.settle();
        write(&world, "a.log", b"\nnext\n");
        world.settle();
        assert_eq!(world.lines_of("a.log"), [&line[..length.min(100)], "next"]);
        let partial = world.records().swap_remove(0).partial;
        assert_eq!(partial.is_some(), length > 100, "{length}");
    }
}

/// What the records of a whole file are by the definition: each line's text, and what it is a part of
/// once the pieces of split ones are joined.
fn records_of(
    bytes: &[u8],
    encoding: Encoding,
    long_lines: LongLines,
    limit: usize,
) -> Vec<(Vec<u8>, &'static str)> {
    let form = encoding.form(bytes);
    let nuls = bytes.iter().take_while(|byte| **byte == 0).count() as u64;
    let mut start = usize::try_from(form.whole_units(nuls))
        .unwrap()
        .max(form.mark);
    let mut records = Vec::new();
    loop {
        let line = form.line_end(bytes, start, 0);
        let end = line.map_or(bytes.len(), |line| line.newline);
        let mut text = Vec::new();
        form.decode(&bytes[start..end], &mut text);
        let mut part = if line.is_none() { "unterminated" } else { "" };
        let is_long = text.len() > limit;
        if is_long && long_lines == LongLines::Truncate {
            text.clear();
            form.decode_some(&bytes[start..end], limit, &mut text);
            part = "truncated";
        }
        let is_there = line.is_some() || start < bytes.len();
        if is_there && !(is_long && long_lines == LongLines::Drop) {
            records.push((text, part));
        }
        match line {
            Some(line) => start = line.next,
            None => return records,
        }
    }
}

/// The records of `a.log`, pieces joined.
fn joined(world: &World) -> Vec<(Vec<u8>, String)> {
    let mut joined = Vec::new();
    let mut open = Vec::new();
    for record in world.records() {
        open.extend(record.value);
        let part = String::from_utf8(record.partial.unwrap_or_default()).unwrap();
        if part != "split" {
            joined.push((std::mem::take(&mut open), part));
        }
    }
    if !open.is_empty() {
        // The file ended behind a piece.
        joined.push((open, "unterminated".to_owned()));
    }
    joined
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Any bytes, however they come, under every encoding and policy, over restarts: what is taken is
    /// what the definition says.
    #[test]
    fn records_are_those_of_the_definition(
        label in prop::sample::select(vec!["auto", "utf-8", "utf-16le", "utf-16be", "shift_jis", "windows-1252"]),
        long_lines in prop::sample::select(vec![LongLines::Split, LongLines::Truncate, LongLines::Drop]),
        limit in 16usize..200,
        mark in prop::sample::select(vec![&b""[..], b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"]),
        writes in prop::collection::vec(
            (
                prop::collection::vec(
                    prop_oneof![
                        prop::sample::select(vec![&b"\n"[..], b"\n\0", b"\0\n", b"\0", b"a\0", b"\x3d\xd8\0\xde", b"\x82\xa0"])
                            .prop_map(<[u8]>::to_vec),
                        any::<u8>().prop_map(|byte| vec![byte]),
                        (any::<u8>(), 1usize..300).prop_map(|(byte, count)| vec![byte; count]),
                    ],
                    0..20,
                ),
                0u8..6,
            ),
            1..6,
        ),
    ) {
        let encoding = Encoding::for_label(label).unwrap();
        let mut world = World::on(Arc::new(FaultyDisk::new()));
        world.config.encoding = encoding;
        world.config.long_lines = long_lines;
        world.config.line_bytes_max = limit;
        let mut bytes = mark.to_vec();
        write(&world, "a.log", mark);
        for (parts, then) in writes {
            let part = parts.concat();
            write(&world, "a.log", &part);
            bytes.extend(part);
            match then {
                0 => world.kill(),
                1 => world.stop(),
                2 | 3 => world.settle(),
                _ => {}
            }
        }
        world.settle();
        world.rename("a.log", "a.old");
        world.run_for(Duration::from_millis(200));
        let found = joined(&world);
        let found: Vec<(&[u8], &str)> = found.iter().map(|(text, part)| (text.as_slice(), part.as_str())).collect();
        let expected = records_of(&bytes, encoding, long_lines, limit);
        let expected: Vec<(&[u8], &str)> = expected.iter().map(|(text, part)| (text.as_slice(), *part)).collect();
        prop_assert_eq!(found, expected, "{:02x?}", bytes);
    }
}
