//! Records of several lines, whatever happens to the file between two of their lines.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use commitlog::storage::faulty::FaultyDisk;
use proptest::prelude::*;

use crate::limits::{COPY_GRACE, HOLD_MAX, READ_BYTES};
use crate::sources::file::LongLines;
use crate::sources::file::encoding::Encoding;
use crate::sources::file::multiline::{Multiline, Rule, compile};
use crate::testing::World;

const TIMEOUT: Duration = Duration::from_secs(1);

/// A world in which lines that begin with a blank continue a record.
fn world() -> World {
    let mut world = World::new();
    set_rule(&mut world, Rule::Continue(compile(r"^\s").unwrap()));
    world
}

fn set_rule(world: &mut World, rule: Rule) {
    world.config.multiline = Some(Multiline {
        rule,
        timeout: TIMEOUT,
    });
}

#[test]
fn a_stack_trace_is_one_record_whose_newlines_are_kept() {
    for rule in [
        Rule::Continue(compile(r"^\s").unwrap()),
        Rule::Start(compile(r"^\d+ ").unwrap()),
    ] {
        let mut world = World::new();
        set_rule(&mut world, rule);
        world.append(
            "a.log",
            "1 one\r\n at x\r\n at y\r\n2 two\n3 three\n at z\n",
        );
        world.settle();
        let whole = ["1 one\r\n at x\r\n at y\r", "2 two"];
        assert_eq!(world.lines_of("a.log"), whole);
        world.run_for(TIMEOUT + Duration::from_millis(100));
        assert_eq!(world.lines_of("a.log")[2..], ["3 three\n at z"]);
    }
}

#[test]
fn a_record_waits_for_more_as_long_as_something_comes() {
    let mut world = world();
    let mut expected = "one".to_owned();
    world.append("a.log", "one\n");
    for number in 0..20 {
        world.run_for(TIMEOUT / 2);
        assert!(world.lines_of("a.log").is_empty());
        world.append("a.log", &format!(" at {number}\n"));
        expected.extend(["\n at ", &number.to_string()]);
    }
    world.run_for(TIMEOUT * 2);
    assert_eq!(world.lines_of("a.log"), [expected]);
    // What comes later than that is a record of its own.
    world.append("a.log", " late\n");
    world.run_for(TIMEOUT * 2);
    assert_eq!(world.lines_of("a.log")[1..], [" late"]);
}

#[test]
fn the_timeout_does_not_run_while_there_is_more_to_read() {
    let mut world = world();
    let trace = format!("start\n{}", " at some place\n".repeat(READ_BYTES / 4));
    world.config.line_bytes_max = 2 * trace.len();
    world.append("a.log", &trace.repeat(5));
    for _ in 0..20 {
        world.turn();
        world.pass(TIMEOUT * 3);
    }
    world.run_for(TIMEOUT * 2);
    let lines = world.lines_of("a.log");
    assert!(
        lines == vec![trace.trim_end(); 5],
        "{} records",
        lines.len()
    );
}

#[test]
fn a_record_that_waits_is_read_again_after_a_restart() {
    let mut world = world();
    world.append("a.log", "zero\none\n at x\n");
    for round in 0..4 {
        world.run_for(TIMEOUT / 4);
        if round % 2 == 0 {
            world.kill();
        } else {
            world.stop();
        }
    }
    world.append("a.log", " at y\ntwo\n");
    world.run_for(TIMEOUT * 2);
    assert_eq!(
        world.lines_of("a.log"),
        ["zero", "one\n at x\n at y", "two"]
    );
}

#[test]
fn a_record_that_a_rotation_cuts_in_two_is_one_record_over_restarts() {
    for turns in 0..40 {
        let mut world = world();
        world.append("a.log", "zero\none\n at x\n");
        world.run_for(TIMEOUT / 4);
        world.rename("a.log", "a.old");
        world.append("a.log", " at y\n at z\n");
        for _ in 0..turns / 2 {
            world.turn();
            world.pass(Duration::from_millis(20));
        }
        if turns % 2 == 0 {
            world.kill();
        } else {
            world.stop();
        }
        world.append("a.log", "two\n");
        world.run_for(TIMEOUT * 3);
        world.kill();
        world.run_for(TIMEOUT * 3);
        let lines = world.lines_of("a.log");
        let expected = ["zero", "one\n at x\n at y\n at z", "two"];
        assert_eq!(lines, expected, "{turns} turns");
        assert!(world.losses().is_empty());
    }
}

#[test]
fn a_record_that_a_copytruncate_cuts_in_two_is_one_record() {
    let mut world = world();
    world.append("a.log", "zero\none\n at x\n");
    world.run_for(TIMEOUT / 4);
    world.copy_truncate("a.log", "a.log.1");
    world.append("a.log", " at y\ntwo\n");
    world.run_for(COPY_GRACE * 2);
    assert_eq!(
        world.lines_of("a.log"),
        ["zero", "one\n at x\n at y", "two"]
    );
    assert!(world.losses().is_empty());
}

#[test]
fn the_last_record_of_a_rotated_file_goes_alone_when_nothing_continues_it() {
    // The next file begins with a record of its own.
    let mut world = world();
    world.append("a.log", "one\n at x\n");
    world.run_for(TIMEOUT / 4);
    world.rename("a.log", "a.old");
    world.append("a.log", "two\nthree\n");
    world.run_for(TIMEOUT / 4);
    assert_eq!(world.lines_of("a.log"), ["one\n at x", "two"]);

    // Nothing comes for longer than the timeout: what continues then is a record of its own.
    let mut world = self::world();
    world.append("a.log", "one\n at x\n");
    world.run_for(TIMEOUT / 4);
    world.rename("a.log", "a.old");
    world.append("a.log", "");
    world.run_for(TIMEOUT / 2);
    assert!(world.lines_of("a.log").is_empty());
    world.run_for(TIMEOUT);
    assert_eq!(world.lines_of("a.log"), ["one\n at x"]);
    world.append("a.log", " at y\ntwo\n");
    world.run_for(TIMEOUT * 2);
    assert_eq!(world.lines_of("a.log")[1..], [" at y", "two"]);

    // There is no next file, and the last line has no newline.
    let mut world = self::world();
    world.append("a.log", "one\n at x");
    world.run_for(TIMEOUT / 4);
    world.remove("a.log");
    world.run_for(TIMEOUT * 2);
    let last = world.records().pop().unwrap();
    assert_eq!(last.value, b"one\n at x");
    assert_eq!(last.partial.as_deref(), Some(&b"unterminated"[..]));
}

#[test]
fn records_longer_than_the_limit_are_split_truncated_or_dropped() {
    let long = format!("long\n{}", " at some place\n".repeat(READ_BYTES / 5));
    let long = long.trim_end();
    for long_lines in [LongLines::Split, LongLines::Truncate, LongLines::Drop] {
        let mut world = world();
        world.config.long_lines = long_lines;
        world.config.line_bytes_max = 2000;
        world.append("a.log", &format!("a\n at x\n{long}\nb\n at y\nc\n"));
        world.run_for(TIMEOUT * 2);
        let mut lines = world.lines_of("a.log");
        assert_eq!(lines.remove(0), "a\n at x");
        assert_eq!(lines.pop().unwrap(), "c");
        assert_eq!(lines.pop().unwrap(), "b\n at y");
        match long_lines {
            LongLines::Split => assert!(lines.concat() == long),
            LongLines::Truncate => assert_eq!(lines, [&long[..2000]]),
            LongLines::Drop => assert!(lines.is_empty()),
        }
        let lost = match long_lines {
            LongLines::Split => Vec::new(),
            LongLines::Truncate => vec![format!("line_too_long 0 {}", long.len() + 1 - 2000)],
            LongLines::Drop => vec![format!("line_too_long 1 {}", long.len() + 1)],
        };
        assert_eq!(world.losses(), lost);
    }
}

#[test]
fn a_pattern_meets_the_text_of_what_is_decoded() {
    let mut world = world();
    let text = "\u{feff}один\n в x\n в y\nдва\n";
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    world.writer("a.log").write_all(&bytes).unwrap();
    world.run_for(TIMEOUT * 2);
    assert_eq!(world.lines_of("a.log"), ["один\n в x\n в y", "два"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Lines in any writes, with rotations and restarts between them: records are what the lines make,
    /// wherever a file ends.
    #[test]
    fn records_are_what_the_lines_make(
        steps in prop::collection::vec((0u8..10, 1usize..40), 1..30),
    ) {
        let mut world = World::on(Arc::new(FaultyDisk::new()));
        set_rule(&mut world, Rule::Continue(compile(r"^\s").unwrap()));
        let mut expected: Vec<String> = Vec::new();
        // A record in more than two files is not put together.
        let mut can_rotate = false;
        for (number, (step, count)) in steps.into_iter().enumerate() {
            match step {
                0..=2 => {
                    world.append("a.log", &format!("{number}\n"));
                    expected.push(number.to_string());
                    can_rotate = true;
                }
                3..=5 if !expected.is_empty() => {
                    let line = format!(" {}", "x".repeat(count));
                    world.append("a.log", &format!("{line}\n"));
                    let last = expected.last_mut().unwrap();
                    *last += "\n";
                    *last += &line;
                }
                6 | 7 if can_rotate => {
                    can_rotate = false;
                    world.settle();
                    world.rename("a.log", &format!("a.{number}"));
                    world.append("a.log", "");
                    world.settle();
                }
                8 => {
                    world.turn();
                }
                _ => {
                    // What the files were called must be durable where rotated ones are not looked for.
                    world.settle();
                    world.stop();
                }
            }
        }
        world.run_for(TIMEOUT * 4);
        prop_assert_eq!(world.lines_of("a.log"), expected);
        prop_assert!(world.losses().is_empty());
    }
}

#[test]
fn a_record_is_not_joined_over_a_file_that_is_closed() {
    let mut world = World::new();
    world.config.files_open_max = 1;
    set_rule(&mut world, Rule::Start(compile("^S").unwrap()));
    let mut writer = world.writer("a.log");
    writer.write_all(b"S1\n  c1\n").unwrap();
    world.settle();
    world.rename("a.log", "old1");
    world.append("a.log", "SB\n");
    world.settle();
    world.append("z.log", "S\n");
    world.settle();
    world.rename("a.log", "old2");
    world.append("a.log", "  cC\n");
    world.settle();
    drop(writer);
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.lines_of("a.log"), ["S1\n  c1", "SB\n  cC"]);
}

#[test]
fn a_record_that_goes_on_over_a_rotation_for_long_holds_its_file_up_only_for_a_while() {
    let mut world = world();
    world.append("a.log", "one\n");
    world.settle();
    world.rename("a.log", "a.old");
    let mut whole = Vec::new();
    for _ in 0..2 * HOLD_MAX.as_secs() {
        world.append("a.log", " goes on\n");
        world.run_for(TIMEOUT / 2);
        whole = world.lines_of("a.log");
    }
    assert_eq!(whole, ["one"]);
}

#[test]
fn lines_that_were_judged_are_not_judged_again() {
    let rule = Rule::Start(compile("^S").unwrap());
    let multiline = Multiline {
        rule,
        timeout: TIMEOUT,
    };
    let form = Encoding::Utf8.form(b"");
    let mut judged = 0;
    let mut start = |bytes: &[u8]| multiline.last_start(form, (bytes, 10), 0, &mut judged);
    assert_eq!(start(b"S 1\n  2\n"), None);
    assert_eq!(
        start(b"S 1\nS 2\n  3\n"),
        None,
        "its second line was judged"
    );
    assert_eq!(start(b"S 1\nS 2\n  3\nS 4\n  5\n"), Some(12));
    assert_eq!(
        start(b"S 1\nS 2\n  3\nS 4\n  5\n  6\n"),
        Some(12),
        "it was not taken"
    );
    assert_eq!(judged, 10 + 12);
}
