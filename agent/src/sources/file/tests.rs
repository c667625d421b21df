//! What becomes of lines under everything that is done to log files. Paths are real, time is not.

mod archives;
mod audit;
mod budgets;
mod child;
mod compressed;
mod copies;
mod decompressed;
mod discovery;
mod edges;
mod encoding;
mod identity;
mod logrotate;
mod losses;
mod lost_sight;
mod mounts;
mod moves;
mod multiline;
mod passed_over;
mod reading;
mod reload;
mod restarts;
mod resume;
mod rotation;
mod short_copies;
mod skip;
mod snapshot;
mod suspects;
mod waiting;
mod watch;

use std::io::Write;
use std::time::Duration;

use crate::limits::{COPY_GRACE, LABELS_BYTES_MAX, QUIET};
use crate::spool::SyncTurn;
use crate::testing::World;

#[test]
fn appended_lines_become_durable_records() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
    world.append("a.log", "three\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one", "two", "three"]);
    assert!(world.losses().is_empty());
}

#[test]
fn a_file_shorter_than_any_fingerprint_is_delivered_at_once() {
    let mut world = World::new();
    world.append("a.log", "x");
    world.settle();
    assert!(world.lines_of("a.log").is_empty());
    world.append("a.log", "\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["x"]);
}

#[test]
fn a_partial_line_waits_for_its_newline_over_a_restart() {
    let mut world = World::new();
    world.append("a.log", "one\ntw");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one"]);
    world.kill();
    world.append("a.log", "o\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
}

#[test]
fn a_renamed_file_is_read_to_its_end_before_its_successor() {
    let mut world = World::new();
    let mut old = world.writer("a.log");
    old.write_all(b"1\n").unwrap();
    world.settle();
    world.rename("a.log", "a.log.1");
    let mut new = world.writer("a.log");
    new.write_all(b"4\n").unwrap();
    world.settle();
    old.write_all(b"2\n").unwrap();
    world.run_for(Duration::from_secs(3));
    old.write_all(b"3\n").unwrap();
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.lines_of("a.log"), ["1", "2", "3"]);
    drop(old);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["1", "2", "3", "4"]);
}

/// These came, each once and in order, all by the path `a.log`, and nothing was lost.
fn only(world: &World, expected: &[String]) {
    only_lines(world, expected);
    assert_eq!(world.losses(), Vec::<String>::new());
}

/// These came, each once and in order, all by the path `a.log`.
fn only_lines(world: &World, expected: &[String]) {
    let found = world.lines();
    let counts: Vec<(&str, usize)> = found
        .iter()
        .map(|(name, lines)| (name.as_str(), lines.len()))
        .collect();
    assert_eq!(counts, [("a.log", expected.len())], "{:?}", world.states());
    assert!(found["a.log"] == expected, "not in order");
}

/// `line 0` to `line n-1`, one after the other.
fn numbered(lines: std::ops::Range<u32>) -> String {
    expected(lines)
        .iter()
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// The same, as they come out.
fn expected(lines: std::ops::Range<u32>) -> Vec<String> {
    lines.map(|n| format!("line {n}")).collect()
}

#[test]
fn a_copied_and_truncated_file_goes_on_in_its_copy() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..50));
    world.settle();
    // Not read before the copy is made and the file truncated.
    world.append("a.log", &numbered(50..80));
    world.copy_truncate("a.log", "a.log.1");
    world.append("a.log", &numbered(80..90));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..90));
    assert!(world.losses().is_empty());
}

#[test]
fn a_copy_inside_the_glob_is_not_read_twice() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..50));
    world.settle();
    world.append("a.log", &numbered(50..80));
    world.copy_truncate("a.log", "a.log.1");
    world.append("a.log", &numbered(80..90));
    world.run_for(Duration::from_secs(20));
    world.kill();
    world.run_for(Duration::from_secs(20));
    assert_eq!(
        world.lines().into_iter().collect::<Vec<_>>(),
        [("a.log".to_owned(), expected(0..90))]
    );
}

#[test]
fn a_copy_in_the_making_waits_for_the_truncation() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..50));
    world.settle();
    std::fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.run_for(COPY_GRACE / 2);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(world.path("a.log"));
    file.unwrap().set_len(0).unwrap();
    world.append("a.log", &numbered(50..60));
    world.run_for(COPY_GRACE * 4);
    assert_eq!(
        world.lines().into_iter().collect::<Vec<_>>(),
        [("a.log".to_owned(), expected(0..60))]
    );
}

#[test]
fn a_copy_that_stays_a_copy_is_a_file_of_its_own() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..50));
    world.settle();
    std::fs::copy(world.path("a.log"), world.path("a.log.bak")).unwrap();
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..50));
    assert_eq!(world.lines_of("a.log.bak"), expected(0..50));
}

#[test]
fn a_truncation_without_a_copy_counts_what_it_knows_to_be_lost() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo\npartial");
    world.settle();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(world.path("a.log"))
        .unwrap();
    file.set_len(0).unwrap();
    world.append("a.log", "x\n");
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), ["one", "two", "x"]);
    assert_eq!(world.losses(), ["truncated 1 7"]);
}

#[test]
fn a_file_rewritten_to_the_same_size_is_read_anew() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo\n");
    world.settle();
    std::fs::write(world.path("a.log"), "six\nten\n").unwrap();
    world.append("a.log", "end\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one", "two", "six", "ten", "end"]);
}

#[test]
fn a_file_deleted_while_open_is_delivered_to_the_last_byte() {
    let mut world = World::new();
    let mut writer = world.writer("a.log");
    writer.write_all(b"1\n").unwrap();
    world.settle();
    world.remove("a.log");
    world.settle();
    writer.write_all(b"2\nunfinished").unwrap();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["1", "2"]);
    drop(writer);
    world.run_for(Duration::from_secs(1));
    let last = world.records().pop().unwrap();
    assert_eq!(last.value, b"unfinished");
    assert_eq!(last.partial.as_deref(), Some(&b"unterminated"[..]));
}

#[test]
fn a_file_that_was_deleted_and_made_again_is_read_from_its_start() {
    let mut world = World::new();
    for round in 0..5 {
        world.append("a.log", &numbered(round * 10..round * 10 + 10));
        world.run_for(Duration::from_millis(100));
        world.remove("a.log");
    }
    world.run_for(QUIET * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..50));
}

#[test]
fn a_file_rotated_while_the_agent_is_stopped_is_drained_first() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.append("a.log", &numbered(10..20));
    world.rename("a.log", "elsewhere");
    world.append("a.log", &numbered(20..30));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..30));
}

#[test]
fn a_chain_of_rotations_while_the_agent_is_stopped_is_not_read_again() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..10));
    world.settle();
    for round in [2, 1] {
        let older = format!("a.log.{round}");
        if world.path(&older).exists() {
            world.rename(&older, &format!("a.log.{}", round + 1));
        }
    }
    world.rename("a.log", "a.log.1");
    world.append("a.log", &numbered(10..20));
    world.run_for(Duration::from_secs(10));
    world.stop();
    world.rename("a.log.1", "a.log.2");
    world.rename("a.log", "a.log.1");
    world.append("a.log", &numbered(20..30));
    world.run_for(Duration::from_secs(10));
    assert_eq!(
        world.lines().into_iter().collect::<Vec<_>>(),
        [("a.log".to_owned(), expected(0..30))]
    );
}

#[test]
fn a_truncation_while_the_agent_is_stopped_is_found_in_the_copy() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..100));
    world.settle();
    world.kill();
    world.append("a.log", &numbered(100..120));
    world.copy_truncate("a.log", "a.log.1");
    // Grown again beyond where it was read.
    world.append("a.log", &numbered(120..400));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..400));
}

#[test]
fn two_files_with_the_same_content_are_both_delivered() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..100));
    world.append("b.log", &numbered(0..100));
    world.settle();
    assert_eq!(world.lines_of("a.log"), expected(0..100));
    assert_eq!(world.lines_of("b.log"), expected(0..100));
}

#[test]
fn a_second_link_to_a_file_is_not_read() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    std::fs::hard_link(world.path("a.log"), world.path("b.log")).unwrap();
    world.settle();
    assert_eq!(world.lines().len(), 1);
}

#[test]
fn lines_longer_than_the_limit_are_delivered_in_pieces() {
    let mut world = World::new();
    world.config.line_bytes_max = 1000;
    let long = "x".repeat(2500);
    world.append("a.log", &format!("{long}\nshort\n"));
    world.settle();
    assert_eq!(world.counted().lines_split.get(), 1);
    let records = world.records();
    let pieces: Vec<(usize, bool)> = records
        .iter()
        .map(|record| (record.value.len(), record.partial.is_some()))
        .collect();
    assert_eq!(
        pieces,
        [(1000, true), (1000, true), (500, false), (5, false)]
    );
}

#[test]
fn each_line_that_is_too_long_is_counted_once_however_it_comes() {
    let mut world = World::new();
    world.config.line_bytes_max = 1000;
    for _ in 0..3 {
        // Longer than one read, and first without its end.
        world.append("a.log", &"x".repeat(300_000));
        world.settle();
        world.append("a.log", &"x".repeat(300_000));
        world.append("a.log", "\nshort\n");
        world.settle();
    }
    assert_eq!(world.counted().lines_split.get(), 3);
}

/// Bytes without a newline that do not compress.
fn noise(state: &mut u64, length: usize) -> Vec<u8> {
    let mut next = || {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0].max(11)
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_line_that_does_not_compress_into_one_batch_is_delivered_in_pieces() {
    let mut world = World::new();
    let mut writer = world.writer("a.log");
    writer.write_all(&noise(&mut 7, 900_000)).unwrap();
    writer.write_all(b"\nnext\n").unwrap();
    world.settle();
    let mut records = world.records();
    assert_eq!(records.pop().unwrap().value, b"next");
    assert!(records.len() > 1);
    assert_eq!(world.counted().lines_split.get(), 1);
    assert!(records.pop().unwrap().partial.is_none());
}

#[test]
fn the_longest_line_that_can_be_configured_comes_out_whatever_it_is() {
    let mut world = World::new();
    world.config.line_bytes_max = usize::try_from(crate::config::LINE_MAX.0).unwrap();
    let mut seed = 3;
    // Labels as long as they may be, and as incompressible as the line.
    let label = String::from_utf8(
        noise(&mut seed, 2 * LABELS_BYTES_MAX)
            .iter()
            .map(|b| b & 0x7f)
            .collect(),
    );
    world.config.labels = vec![("l".to_owned(), label.unwrap())];
    let lines = [
        noise(&mut seed, world.config.line_bytes_max),
        vec![b'x'; world.config.line_bytes_max],
        noise(&mut seed, world.config.line_bytes_max - 1),
    ];
    for line in &lines {
        world.writer("a.log").write_all(line).unwrap();
        world.append("a.log", "\n");
        world.settle();
    }
    let mut joined = vec![Vec::new()];
    for record in world.records() {
        joined.last_mut().unwrap().extend(record.value);
        if record.partial.is_none() {
            joined.push(Vec::new());
        }
    }
    joined.pop();
    assert!(
        joined == lines,
        "{:?}",
        joined.iter().map(Vec::len).collect::<Vec<_>>()
    );
}

#[test]
fn bytes_are_delivered_as_they_are() {
    let mut world = World::new();
    let odd: &[u8] = b"odd \xff\xfe\0\r\n\n \xf0\x9f\x98\x80\r\n\x1b[31m\n";
    world.writer("a.log").write_all(odd).unwrap();
    world.settle();
    let values: Vec<Vec<u8>> = world.records().into_iter().map(|line| line.value).collect();
    let joined: Vec<u8> = values
        .iter()
        .flat_map(|value| value.iter().copied().chain([b'\n']))
        .collect();
    assert_eq!(joined, odd);
}

#[test]
fn reading_begins_at_the_end_only_at_the_very_first_start() {
    let mut world = World::new();
    world.config.start_at = super::StartAt::End;
    world.append("a.log", "old\n");
    world.settle();
    world.append("a.log", "new\n");
    world.append("b.log", "appeared\n");
    world.run_for(Duration::from_secs(2));
    world.stop();
    world.append("a.log", "stopped\n");
    world.append("c.log", "made while stopped\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["new", "stopped"]);
    assert_eq!(world.lines_of("b.log"), ["appeared"]);
    assert_eq!(world.lines_of("c.log"), ["made while stopped"]);
}

#[test]
fn deep_patterns_follow_directories_that_appear_later() {
    let mut world = World::new();
    world.config.files = vec![world.path("**/*.log").display().to_string()];
    world.config.exclude = vec![world.path("skip/**").display().to_string()];
    world.settle();
    for dir in ["x/y", "skip/z"] {
        std::fs::create_dir_all(world.path(dir)).unwrap();
        world.append(&format!("{dir}/a.log"), &format!("{dir}\n"));
    }
    world.run_for(Duration::from_millis(200));
    world.append("x/y/a.log", "more\n");
    world.settle();
    assert_eq!(
        world.lines().into_values().flatten().collect::<Vec<_>>(),
        ["x/y", "more"]
    );
}

#[test]
fn more_files_than_may_be_open_are_all_followed() {
    let mut world = World::new();
    world.config.files_open_max = 3;
    for round in 0..4u32 {
        for file in 0..10 {
            world.append(&format!("{file}.log"), &numbered(round..round + 1));
        }
        world.settle();
    }
    world.rename("5.log", "5.old");
    world.append("5.log", &numbered(4..5));
    world.run_for(Duration::from_secs(1));
    for file in 0..10 {
        let last = if file == 5 { 5 } else { 4 };
        assert_eq!(
            world.lines_of(&format!("{file}.log")),
            expected(0..last),
            "{file}.log"
        );
    }
}

#[test]
fn files_that_come_and_go_between_two_turns_are_delivered() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    for round in 1..5 {
        world.rename("a.log", &format!("a.old.{round}"));
        world.append("a.log", &numbered(round * 10..round * 10 + 10));
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..50));
}

#[test]
fn a_link_is_followed_to_a_file_that_no_pattern_matches() {
    let mut world = World::new();
    std::fs::create_dir(world.path("real")).unwrap();
    world.append("real/out.txt", "one\n");
    std::os::unix::fs::symlink(world.path("real/out.txt"), world.path("a.log")).unwrap();
    world.settle();
    world.append("real/out.txt", "two\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
}

#[test]
fn a_directory_is_followed_when_it_appears_goes_and_comes_back() {
    let mut world = World::new();
    world.config.files = vec![world.path("x/y/*.log").display().to_string()];
    world.settle();
    for round in 0..3u32 {
        std::fs::create_dir_all(world.path("x/y")).unwrap();
        world.run_for(Duration::from_millis(200));
        world.append("x/y/a.log", &numbered(round..round + 1));
        world.settle();
        assert_eq!(world.lines_of("a.log"), expected(0..round + 1));
        std::fs::rename(world.path("x"), world.path(&format!("old{round}"))).unwrap();
        world.run_for(Duration::from_millis(200));
    }
}

#[test]
fn what_helps_follows_from_why_a_directory_is_not_watched() {
    let hint = |code| super::watch_hint(&std::io::Error::from_raw_os_error(code));
    assert!(hint(libc::ENOSPC).contains("max_user_watches"));
    assert!(hint(libc::EMFILE).contains("max_user_instances"));
    assert!(hint(libc::EACCES).contains("setfacl"));
    assert!(!hint(libc::ENOTSUP).contains("max_user"));
}

#[test]
fn what_is_no_file_is_left_alone() {
    let mut world = World::new();
    std::fs::create_dir(world.path("dir.log")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.path("s.log")).unwrap();
    std::os::unix::fs::symlink(world.path("nothing"), world.path("dangling.log")).unwrap();
    std::os::unix::fs::symlink(world.path("loop.log"), world.path("loop.log")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", world.path("zero.log")).unwrap();
    world.append("a.log", "one\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines().into_keys().collect::<Vec<_>>(), ["a.log"]);
}

#[test]
fn a_hot_file_does_not_starve_the_others() {
    let mut world = World::new();
    world.config.line_bytes_max = 1024 * 1024;
    let hot = "x".repeat(999) + "\n";
    world.append("hot.log", &hot.repeat(20_000));
    world.append("quiet.log", "one\n");
    for _ in 0..4 {
        world.turn();
    }
    world.pass(Duration::from_millis(10));
    world.turn();
    while matches!(world.spool().sync_turn(), SyncTurn::Worked { .. }) {}
    assert_eq!(world.lines_of("quiet.log"), ["one"]);
    assert!(world.lines_of("hot.log").len() < 20_000);
    world.settle();
    assert_eq!(world.lines_of("hot.log").len(), 20_000);
}
