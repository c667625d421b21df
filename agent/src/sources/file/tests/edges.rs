//! Crashes in the first second, full spools, directories that come and go.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use commitlog::storage::faulty::{Fault, FaultyDisk};

use super::{expected, noise, numbered};
use crate::limits::COPY_GRACE;
use crate::sources::file::StartAt;
use crate::testing::World;

#[test]
fn a_crash_right_after_the_first_start_does_not_move_the_end_where_it_began() {
    for turns in 1..40 {
        let mut world = World::new();
        world.config.start_at = StartAt::End;
        world.tell_partitions = false;
        world.append("a.log", "old\n");
        world.append("b.log", "old\n");
        // How far it comes before the crash differs; whatever is read once the agent has looked counts.
        for _ in 0..turns {
            world.turn();
            world.spool().sync_turn();
            world.pass(Duration::from_millis(100));
        }
        let is_settled = world.spool().knows_source("app") && turns > 3;
        world.kill();
        world.append("a.log", "new\n");
        world.run_for(Duration::from_secs(4));
        let lines = world.lines();
        let seen: Vec<&String> = lines.values().flatten().collect();
        assert!(
            !seen.contains(&&"old".to_owned()),
            "after {turns} turns: {seen:?}"
        );
        assert!(
            !is_settled || seen == ["new"],
            "after {turns} turns: {seen:?}"
        );
    }
}

#[test]
fn lines_of_the_first_second_survive_a_crash_where_reading_began_at_the_end() {
    let mut world = World::new();
    world.config.start_at = StartAt::End;
    world.append("a.log", "old\n");
    world.append("b.log", "old\n");
    world.settle();
    world.append("a.log", "one\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one"]);
    // Nothing of the second file was read yet, and its start is known all the same.
    world.kill();
    world.append("b.log", "two\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one"]);
    assert_eq!(world.lines_of("b.log"), ["two"]);
}

#[test]
fn a_file_that_is_gone_after_a_restart_counts_as_one_loss() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.run_for(Duration::from_secs(2));
    world.stop();
    world.append("a.log", "two\n");
    world.remove("a.log");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
}

/// A world whose spool is full of one file's lines, of which nothing is acknowledged.
pub(super) fn full() -> World {
    let mut world = World::new();
    world.spool_config.bytes_max = 40_000;
    world.spool_config.segment_bytes = 8192;
    let lines: Vec<String> = (0..20_000u64)
        .map(|n| format!("{n} {:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    world.append("full.log", &lines.concat());
    world.run_for(Duration::from_secs(1));
    assert!(world.spool().is_full());
    world
}

/// Acknowledges all there is, until nothing has come for longer than anything is waited for.
pub(super) fn drain(world: &mut World) -> Vec<String> {
    let mut seen = Vec::new();
    let mut quiet = Duration::ZERO;
    while quiet < 3 * COPY_GRACE {
        let step = Duration::from_millis(300);
        world.run_for(step);
        let mut lines = world.lines();
        quiet = if lines.is_empty() {
            quiet + step
        } else {
            Duration::ZERO
        };
        seen.extend(lines.remove("a.log").unwrap_or_default());
        let spool = world.spool();
        for partition in spool.partitions() {
            spool.acknowledge(&partition, spool.range(&partition).durable_end);
        }
    }
    seen
}

#[test]
fn a_file_that_was_never_read_and_is_truncated_counts_in_full() {
    let mut world = full();
    world.append("a.log", &numbered(0..100));
    world.run_for(Duration::from_secs(1));
    world.append("a.log", &numbered(100..200));
    world.run_for(Duration::from_secs(1));
    world.truncate("a.log");
    world.append("a.log", &numbered(200..500));
    world.run_for(Duration::from_secs(1));
    assert_eq!(drain(&mut world), expected(200..500));
    let lost = numbered(0..200).len();
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.losses(), [format!("truncated 1 {lost}")]);
}

#[test]
fn a_file_that_was_never_read_goes_on_in_its_copy() {
    let mut world = full();
    world.append("a.log", &numbered(0..100));
    world.run_for(Duration::from_secs(1));
    world.copy_truncate("a.log", "a.log.1");
    world.append("a.log", &numbered(100..300));
    world.run_for(Duration::from_secs(1));
    assert_eq!(drain(&mut world), expected(0..300));
    assert!(world.losses().is_empty());
}

#[test]
fn what_was_excluded_meanwhile_is_not_followed_and_comes_once_when_it_is_meant_again() {
    for exclude in ["secret.log", "**"] {
        let mut world = World::new();
        world.append("a.log", "1\n");
        world.append("secret.log", "1\n");
        world.settle();
        world.stop();
        world.config.exclude = vec![world.path(exclude).display().to_string()];
        world.append("secret.log", "2\n");
        for _ in 0..2 {
            world.run_for(Duration::from_secs(1));
            world.append("secret.log", "3\n");
            world.append("a.log", "2\n");
            world.run_for(Duration::from_secs(1));
            assert_eq!(world.lines_of("secret.log"), ["1"]);
            world.stop();
        }
        world.config.exclude.clear();
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.lines_of("secret.log"), ["1", "2", "3", "3"]);
        assert_eq!(world.lines_of("a.log"), ["1", "2", "2"], "{exclude}");
        assert!(world.losses().is_empty());
    }
}

#[test]
fn a_file_under_a_path_that_is_meant_now_goes_on_where_the_other_left_off() {
    let mut world = World::new();
    world.append("a.log", "1\n");
    world.settle();
    world.stop();
    world.config.files = vec![world.path("*.txt").display().to_string()];
    world.append("a.log", "2\n");
    world.rename("a.log", "a.txt");
    world.run_for(Duration::from_secs(1));
    world.kill();
    world.append("a.txt", "3\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["1"]);
    assert_eq!(world.lines_of("a.txt"), ["2", "3"]);
}

#[test]
fn a_truncation_counts_what_was_never_read() {
    let mut world = World::new();
    world.append("a.log", "first\n");
    world.settle();
    world.append("a.log", &"0123456789\n".repeat(1_000_000));
    world.turn();
    let total = 6 + 11_000_000;
    let read = world.counted().read_bytes.get();
    assert!(read > 6 && read < total, "{read} of {total}");
    world.truncate("a.log");
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.losses(), [format!("truncated 1 {}", total - read)]);
}

#[test]
fn a_copy_that_is_met_while_it_is_empty_is_not_read_as_a_file_of_its_own() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..100));
    world.settle();
    // The copy is made: its name comes first, its bytes later.
    world.append("a.log.1", "");
    world.run_for(Duration::from_millis(50));
    world.append("a.log.1", &numbered(0..100));
    world.run_for(Duration::from_millis(50));
    world.truncate("a.log");
    world.append("a.log", &numbered(100..150));
    world.run_for(COPY_GRACE * 3);
    let lines = world.lines();
    let all: usize = lines.values().map(Vec::len).sum();
    assert_eq!(all, 150, "{lines:?}");
    assert!(world.losses().is_empty());
}

#[test]
fn a_rotated_name_that_is_new_and_empty_is_read_once_it_has_lines_of_its_own() {
    let mut world = World::with_rotated();
    world.append("a.log", "one\n");
    world.settle();
    world.append("a.log.1", "");
    world.run_for(Duration::from_millis(50));
    // It grows on and on: it must not wait for its end.
    for number in 0..100 {
        world.append("a.log.1", &format!("other {number}\n"));
        world.run_for(Duration::from_millis(100));
    }
    assert_eq!(world.lines_of("a.log.1").len(), 100);
    assert_eq!(world.lines_of("a.log"), ["one"]);
}

#[test]
fn a_directory_that_is_deleted_and_made_again_is_followed() {
    for pattern in ["x/*.log", "x/y/*.log", "x/**/*.log"] {
        let mut world = World::new();
        world.config.files = vec![world.path(pattern).display().to_string()];
        world.settle();
        for round in 0..4u32 {
            std::fs::create_dir_all(world.path("x/y")).unwrap();
            let name = if pattern == "x/*.log" {
                "x/a.log"
            } else {
                "x/y/a.log"
            };
            // Found by its events, long before everything is looked at again.
            world.run_for(Duration::from_millis(100));
            world.append(name, &numbered(round..round + 1));
            world.run_for(Duration::from_millis(100));
            assert_eq!(
                world.lines_of("a.log"),
                expected(0..round + 1),
                "{pattern} {round}"
            );
            std::fs::remove_dir_all(world.path("x")).unwrap();
            world.run_for(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_line_that_does_not_compress_waits_for_a_failing_disk_and_comes_in_pieces() {
    let long = noise(&mut 7, 900_000);
    for call in 0..12 {
        let disk = FaultyDisk::new();
        let mut world = World::on(Arc::new(disk.clone()));
        world.append("a.log", "");
        world.run_for(Duration::from_secs(2));
        let mut writer = world.writer("a.log");
        writer.write_all(&long).unwrap();
        writer.write_all(b"\n").unwrap();
        disk.plan(disk.calls() + call, Fault::Io);
        world.run_for(Duration::from_secs(2));
        let records = world.records();
        let values: Vec<u8> = records.into_iter().flat_map(|line| line.value).collect();
        assert!(values == long, "{} bytes, fault at {call}", values.len());
    }
}

#[test]
fn a_truncated_file_that_has_no_copy_is_not_remembered_over_restarts() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.settle();
    // Taken, and in the open batch when the file is found to be truncated.
    world.append("a.log", "two\n");
    world.turn();
    world.truncate("a.log");
    world.append("a.log", "3\n");
    world.run_for(Duration::from_secs(7));
    assert_eq!(world.lines_of("a.log"), ["one", "two", "3"]);
    for _ in 0..2 {
        world.kill();
        world.run_for(Duration::from_secs(12));
    }
    assert_eq!(world.lines_of("a.log"), ["one", "two", "3"]);
    assert_eq!(world.losses(), Vec::<String>::new());
    let positions = world.spool().positions();
    assert_eq!(positions.len(), 1, "{positions:?}");
}

#[test]
fn what_may_be_a_copy_at_the_very_first_start_is_begun_at_its_end_too() {
    let mut world = World::with_rotated();
    world.config.start_at = StartAt::End;
    world.append("a.log", &numbered(0..50));
    world.append("a.log.1", &numbered(0..60));
    world.settle();
    world.append("a.log", "new\n");
    world.append("a.log.1", "newer\n");
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), ["new"]);
    assert_eq!(world.lines_of("a.log.1"), ["newer"]);
}

#[test]
fn a_pipe_in_the_place_of_a_closed_file_does_not_block_a_turn() {
    let mut world = World::with_rotated();
    world.config.files_open_max = 1;
    world.append("a.log", &numbered(0..3));
    world.append("z.log", &numbered(0..3));
    world.settle();
    world.run_for(Duration::from_secs(3));
    world.append("z.log", &numbered(3..4));
    world.settle();
    world.remove("a.log");
    let pipe = world.path("a.log");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    world.append("a.log.1", "something else\n");
    let (done, is_done) = std::sync::mpsc::channel();
    // Whoever opens the pipe waits for a writer, which comes only after a while.
    let release = std::thread::spawn(move || {
        let was_done = is_done.recv_timeout(Duration::from_secs(10)).is_ok();
        if !was_done {
            drop(
                std::fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(pipe),
            );
        }
        was_done
    });
    world.turn();
    done.send(()).ok();
    assert!(release.join().unwrap(), "a turn waits for a writer");
}
