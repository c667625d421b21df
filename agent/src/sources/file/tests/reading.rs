//! What is read of odd files: lines that never end, holes, lines that come in parts.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::noise;
use crate::limits::{COPY_GRACE, READ_BYTES};
use crate::sources::file::LongLines;
use crate::testing::World;

/// A world whose lines have at most 1000 bytes.
fn with_short_lines(long_lines: LongLines) -> World {
    let mut world = World::new();
    world.config.line_bytes_max = 1000;
    world.config.long_lines = long_lines;
    world
}

/// Each record's length, its first byte, and what it is a part of.
fn shapes(world: &World) -> Vec<(usize, char, String)> {
    let shape = |line: crate::testing::Line| {
        let partial = line.partial.unwrap_or_default();
        let first = line.value.first().copied().unwrap_or(b' ');
        let partial = String::from_utf8(partial).unwrap();
        (line.value.len(), char::from(first), partial)
    };
    world.records().into_iter().map(shape).collect()
}

fn shape(length: usize, first: char, partial: &str) -> (usize, char, String) {
    (length, first, partial.to_owned())
}

#[test]
fn a_partial_last_line_waits_ten_minutes_for_its_rest_and_is_one_record() {
    let mut world = World::new();
    world.append("a.log", "one\ntw");
    world.run_for(Duration::from_secs(1));
    world.pass(Duration::from_mins(10));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one"]);
    world.append("a.log", "o\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
}

#[test]
fn of_a_line_that_is_too_long_its_start_is_kept_or_nothing() {
    let long = "x".repeat(2500);
    let text = format!("a\n{long}\nb\n{long}\n{long}\nc\n");
    let mut world = with_short_lines(LongLines::Truncate);
    world.append("a.log", &text);
    world.settle();
    let start = || shape(1000, 'x', "truncated");
    let line = |first| shape(1, first, "");
    assert_eq!(
        shapes(&world),
        [line('a'), start(), line('b'), start(), start(), line('c')]
    );
    assert_eq!(world.losses(), [format!("line_too_long 0 {}", 3 * 1501)]);

    let mut world = with_short_lines(LongLines::Drop);
    world.append("a.log", &text);
    world.settle();
    assert_eq!(shapes(&world), [line('a'), line('b'), line('c')]);
    assert_eq!(world.losses(), [format!("line_too_long 3 {}", 3 * 2501)]);
}

#[test]
fn a_line_of_exactly_the_limit_is_whole_however_it_comes() {
    for long_lines in [LongLines::Split, LongLines::Truncate, LongLines::Drop] {
        for first in [1, 999, 1000] {
            let mut world = with_short_lines(long_lines);
            let line = "x".repeat(1000);
            let (first, rest) = line.split_at(first);
            world.append("a.log", first);
            world.settle();
            world.append("a.log", &format!("{rest}\nb\n"));
            world.settle();
            let whole: String = world.lines_of("a.log").concat();
            assert_eq!(whole, format!("{line}b"), "{long_lines:?}");
            assert!(world.losses().is_empty(), "{long_lines:?}");
        }
    }
}

#[test]
fn a_line_of_1_gib_is_looked_through_in_bounded_memory_and_the_lines_after_it_are_fine() {
    // The reader asserts that its buffer stays below the limit and one read.
    const LENGTH: usize = 1 << 30;
    for (long_lines, start) in [(LongLines::Truncate, 1), (LongLines::Drop, 0)] {
        let mut world = World::new();
        world.config.long_lines = long_lines;
        world.config.line_bytes_max = 64 * 1024;
        let mut writer = world.writer("a.log");
        writer.write_all(b"before\n").unwrap();
        let part = vec![b'x'; 1 << 20];
        for _ in 0..LENGTH / part.len() {
            writer.write_all(&part).unwrap();
        }
        world.settle();
        assert_eq!(world.lines_of("a.log"), ["before"]);
        writer.write_all(b"\nafter\n").unwrap();
        world.settle();
        let mut expected = vec![shape(6, 'b', "")];
        expected.extend(vec![shape(64 * 1024, 'x', "truncated"); start]);
        expected.push(shape(5, 'a', ""));
        assert_eq!(shapes(&world), expected);
        let lost = LENGTH + 1 - start * 64 * 1024;
        let records = 1 - start;
        assert_eq!(world.losses(), [format!("line_too_long {records} {lost}")]);
    }
}

#[test]
fn a_line_of_64_mib_is_split_in_bounded_memory_and_the_lines_after_it_are_fine() {
    const LENGTH: usize = 64 << 20;
    let mut world = World::new();
    let mut writer = world.writer("a.log");
    let part = vec![b'x'; 1 << 20];
    for _ in 0..LENGTH / part.len() {
        writer.write_all(&part).unwrap();
    }
    writer.write_all(b"\nafter\n").unwrap();
    world.settle();
    let mut records = world.records();
    assert_eq!(records.pop().unwrap().value, b"after");
    let bytes: usize = records.iter().map(|record| record.value.len()).sum();
    assert_eq!(bytes, LENGTH);
    assert_eq!(world.counted().lines_split.get(), 1);
}

#[test]
fn the_rest_of_a_long_line_stays_out_over_a_restart_anywhere_in_it() {
    for long_lines in [LongLines::Truncate, LongLines::Drop] {
        for turns in 0..12 {
            let mut world = with_short_lines(long_lines);
            world.append("a.log", "before\n");
            world.run_for(Duration::from_secs(2));
            world.append("a.log", &"x".repeat(4 * READ_BYTES));
            for _ in 0..turns {
                world.turn();
            }
            if turns % 2 == 0 {
                world.kill();
            } else {
                world.stop();
            }
            world.append("a.log", &format!("{}\nafter\n", "y".repeat(READ_BYTES)));
            world.run_for(Duration::from_secs(2));
            world.kill();
            world.run_for(Duration::from_secs(2));
            let mut expected = vec![shape(6, 'b', "")];
            if long_lines == LongLines::Truncate {
                expected.push(shape(1000, 'x', "truncated"));
            }
            expected.push(shape(5, 'a', ""));
            assert_eq!(shapes(&world), expected, "{turns} turns");
        }
    }
}

#[test]
fn a_dropped_line_at_the_end_is_counted_once_over_restarts() {
    let mut world = with_short_lines(LongLines::Drop);
    world.append("a.log", &format!("a\n{}\n", "x".repeat(3 * READ_BYTES)));
    world.run_for(Duration::from_secs(2));
    let lost = format!("line_too_long 1 {}", 3 * READ_BYTES + 1);
    for _ in 0..3 {
        world.kill();
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.losses(), [lost.as_str()]);
    }
    world.append("a.log", "b\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["a", "b"]);
}

#[test]
fn a_long_line_at_a_rotated_files_end_ends_with_the_file() {
    for (long_lines, start) in [(LongLines::Truncate, 1), (LongLines::Drop, 0)] {
        let mut world = with_short_lines(long_lines);
        world.append("a.log", &"x".repeat(2 * READ_BYTES));
        world.settle();
        world.rename("a.log", "a.old");
        world.append("a.log", "next\n");
        world.run_for(Duration::from_secs(1));
        let mut expected = vec![shape(1000, 'x', "truncated"); start];
        expected.push(shape(4, 'n', ""));
        assert_eq!(shapes(&world), expected);
        let lost = 2 * READ_BYTES - 1000 * start;
        let records = 1 - start;
        assert_eq!(world.losses(), [format!("line_too_long {records} {lost}")]);
    }
}

#[test]
fn a_file_that_is_truncated_within_a_long_line_begins_anew() {
    let mut world = with_short_lines(LongLines::Drop);
    world.append("a.log", &format!("a\n{}", "x".repeat(2 * READ_BYTES)));
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "b\nc\n");
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), ["a", "b", "c"]);
    assert_eq!(world.losses(), [format!("truncated 1 {}", 2 * READ_BYTES)]);
}

#[test]
fn a_long_line_that_does_not_compress_is_truncated_to_the_limit() {
    let mut world = World::new();
    world.config.long_lines = LongLines::Truncate;
    world.config.line_bytes_max = 900_000;
    let line = noise(&mut 7, 2_000_000);
    let mut writer = world.writer("a.log");
    writer.write_all(&line).unwrap();
    writer.write_all(b"\nnext\n").unwrap();
    world.settle();
    let mut records = world.records();
    assert_eq!(records.pop().unwrap().value, b"next");
    let last = records.last().unwrap().partial.clone();
    assert_eq!(last.as_deref(), Some(&b"truncated"[..]));
    let value: Vec<u8> = records
        .into_iter()
        .flat_map(|record| record.value)
        .collect();
    assert!(value == line[..900_000]);
}

/// Opens a file as a logger does that does not append.
fn plain_writer(world: &World, name: &str) -> fs::File {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false);
    file.open(world.path(name)).unwrap()
}

#[test]
fn a_writer_that_does_not_append_leaves_no_nul_record_after_copytruncate() {
    // Less than a block, and more; the second hole is behind lines that another writer had put there.
    for lines in [1u32, 20, 1000, 100_000] {
        let mut world = World::new();
        let mut writer = plain_writer(&world, "a.log");
        writer
            .write_all(super::numbered(0..lines).as_bytes())
            .unwrap();
        world.run_for(Duration::from_secs(1));
        world.copy_truncate("a.log", "a.log.1");
        writer.write_all(b"after\nmore\n").unwrap();
        world.run_for(COPY_GRACE * 2);
        world.kill();
        writer.write_all(b"end\n").unwrap();
        world.run_for(COPY_GRACE * 2);
        let mut expected = super::expected(0..lines);
        expected.extend(["after", "more", "end"].map(str::to_owned));
        assert!(world.lines_of("a.log") == expected, "{lines} lines before");
        assert!(world.losses().is_empty());
    }
}

#[test]
fn a_hole_of_a_tebibyte_is_passed_over_wherever_it_begins() {
    const TEBIBYTE: u64 = 1 << 40;
    for before in ["", "one\n", "one\nhalf"] {
        for long_lines in [LongLines::Split, LongLines::Truncate, LongLines::Drop] {
            let mut world = with_short_lines(long_lines);
            world.append("a.log", before);
            world.settle();
            let mut writer = plain_writer(&world, "a.log");
            if writer.seek(SeekFrom::Start(TEBIBYTE + 77)).is_err()
                || writer.write_all(b"two\nthree\n").is_err()
            {
                // The file system has no such files.
                writer.seek(SeekFrom::Start((1 << 33) + 77)).unwrap();
                writer.write_all(b"two\nthree\n").unwrap();
            }
            world.settle();
            let mut lines = world.lines_of("a.log");
            assert_eq!(lines.pop().unwrap(), "three", "{before:?}");
            if !before.contains("half") {
                assert_eq!(lines.pop().unwrap(), "two");
                assert_eq!(lines.concat(), before.trim_end());
                assert!(world.counted().read_bytes.get() < 1 << 20);
            }
            world.kill();
            world.append("a.log", "four\n");
            world.settle();
            assert_eq!(world.lines_of("a.log").pop().unwrap(), "four");
        }
    }
}

#[test]
fn a_hole_within_one_read_is_passed_over_and_nuls_that_were_written_are_kept() {
    let mut world = World::new();
    let writer = plain_writer(&world, "a.log");
    writer.write_all_at(b"one\n\0\0\nx\0y\n", 0).unwrap();
    writer.write_all_at(b"two\n", 20_000).unwrap();
    writer.write_all_at(b"three\n\0four\n", 60_000).unwrap();
    world.settle();
    let expected = ["one", "\0\0", "x\0y", "two", "three", "\0four"];
    assert_eq!(world.lines_of("a.log"), expected);
}

#[test]
fn what_is_written_into_a_preallocated_file_is_read_where_it_comes() {
    let mut world = World::new();
    let writer = plain_writer(&world, "a.log");
    writer.set_len(100_000_000).unwrap();
    world.run_for(Duration::from_secs(1));
    let mut at = 0;
    for number in 0..20u32 {
        let lines = super::numbered(number * 100..number * 100 + 100);
        writer.write_all_at(lines.as_bytes(), at).unwrap();
        at += lines.len() as u64;
        world.run_for(Duration::from_millis(100));
    }
    assert_eq!(world.lines_of("a.log"), super::expected(0..2000));
    drop(writer);
    world.rename("a.log", "a.old");
    world.append("a.log", "next\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log").pop().unwrap(), "next");
    assert_eq!(world.lines_of("a.log").len(), 2001);
}

#[test]
fn reading_a_file_leaves_its_time_of_access() {
    let mut world = World::new();
    world.append("app.log", "one\n");
    let accessed = |world: &World| {
        let metadata = fs::metadata(world.logs.join("app.log")).unwrap();
        metadata.accessed().unwrap()
    };
    let before = accessed(&world);
    // A read of what was written since sets it, where nobody asks that it does not.
    std::thread::sleep(Duration::from_millis(20));
    world.append("app.log", "two\n");
    world.settle();
    assert_eq!(world.lines_of("app.log"), ["one", "two"]);
    assert_eq!(accessed(&world), before);
}
