//! Rotated, deleted, replaced files and their late writers.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::time::Duration;

use super::mounts::{Mounted, NO_MOUNT};
use super::skip::skip;
use super::{expected, numbered};
use crate::limits::QUIET;
use crate::testing::World;

#[test]
fn a_writer_that_stays_with_the_renamed_file_for_30_s_comes_before_its_successor() {
    let mut world = World::new();
    let mut old = world.writer("a.log");
    old.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.rename("a.log", "a.log.1");
    let mut new = world.writer("a.log");
    for second in 0..30 {
        old.write_all(numbered(10 + second..11 + second).as_bytes())
            .unwrap();
        new.write_all(numbered(100 + second..101 + second).as_bytes())
            .unwrap();
        world.run_for(Duration::from_secs(1));
    }
    drop(old);
    world.run_for(QUIET);
    let mut all = expected(0..40);
    all.extend(expected(100..130));
    assert_eq!(world.lines_of("a.log"), all);
}

#[test]
fn a_file_renamed_out_of_the_glob_is_read_to_its_end_while_the_agent_runs() {
    let mut world = World::new();
    let mut writer = world.writer("a.log");
    writer.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    fs::create_dir(world.path("archive")).unwrap();
    world.rename("a.log", "archive/a.txt");
    writer.write_all(numbered(10..20).as_bytes()).unwrap();
    world.run_for(Duration::from_secs(1));
    writer.write_all(numbered(20..30).as_bytes()).unwrap();
    drop(writer);
    world.append("a.log", &numbered(30..40));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..40));
}

#[test]
fn a_file_truncated_and_rewritten_to_the_same_size_in_one_batch_of_events_is_read_anew() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo\n");
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "six\nten\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one", "two", "six", "ten"]);
}

#[test]
fn a_file_rewritten_to_the_same_size_is_read_anew_where_no_event_tells() {
    let mut world = World::new();
    world.append("a.log", "one\ntwo\n");
    // What is written by a name in a directory that is not watched nobody hears of.
    fs::create_dir(world.path("unwatched")).unwrap();
    fs::hard_link(world.path("a.log"), world.path("unwatched/a")).unwrap();
    world.run_for(Duration::from_secs(11));
    world.truncate("unwatched/a");
    world.append("unwatched/a", "six\nten\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
    world.run_for(Duration::from_secs(11));
    assert_eq!(world.lines_of("a.log"), ["one", "two", "six", "ten"]);
}

#[test]
fn a_deleted_file_that_is_still_written_is_delivered_to_the_last_byte() {
    let mut world = World::new();
    let mut writer = world.writer("a.log");
    writer.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.remove("a.log");
    // Pauses longer than any wait for quiet, but shorter than that for late writers.
    for round in 1..8 {
        world.run_for(Duration::from_secs(7));
        let lines = numbered(round * 10..round * 10 + 10);
        writer.write_all(lines.as_bytes()).unwrap();
    }
    drop(writer);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..80));
    assert!(world.losses().is_empty());
}

#[test]
fn a_file_deleted_with_a_backlog_is_delivered_when_the_spool_has_room_after_5_minutes() {
    let mut world = World::new();
    world.spool_config.bytes_max = 40_000;
    world.spool_config.segment_bytes = 8192;
    let lines: Vec<String> = (0..20_000u64)
        .map(|n| format!("{n} {:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    let mut writer = world.writer("a.log");
    writer
        .write_all(lines[..15_000].join("\n").as_bytes())
        .unwrap();
    writer.write_all(b"\n").unwrap();
    world.run_for(Duration::from_secs(1));
    assert!(world.spool().is_full());
    world.remove("a.log");
    writer
        .write_all(lines[15_000..].join("\n").as_bytes())
        .unwrap();
    writer.write_all(b"\n").unwrap();
    drop(writer);
    for _ in 0..300 {
        world.pass(Duration::from_secs(1));
        world.settle();
    }
    let mut seen = Vec::new();
    while seen.len() < lines.len() {
        let before = seen.len();
        seen.extend(world.lines_of("a.log"));
        let spool = world.spool();
        for partition in spool.partitions() {
            spool.acknowledge(&partition, spool.range(&partition).durable_end);
        }
        world.run_for(Duration::from_millis(500));
        assert!(
            before < seen.len() || !world.lines().is_empty(),
            "{before} lines came"
        );
    }
    assert!(seen == lines, "{} lines", seen.len());
    assert!(world.losses().is_empty());
}

#[test]
fn what_an_editor_saves_over_a_file_is_new_content_from_its_start() {
    let mut world = World::new();
    let long = "x".repeat(60);
    let text = |lines: std::ops::Range<u32>| -> String {
        let lines: Vec<String> = lines.map(|n| format!("{n} {long}\n")).collect();
        lines.concat()
    };
    world.append("a.log", &text(0..50));
    world.append("a.log", "begun");
    world.settle();
    // One line in the middle differs, its length does not.
    let changed = text(0..50).replace("25 xxx", "25 yyy");
    fs::write(world.path("a.log.swp"), &changed).unwrap();
    world.rename("a.log.swp", "a.log");
    world.run_for(QUIET * 2);
    let lines = world.lines_of("a.log");
    assert_eq!(lines.len(), 50 + 1 + 50);
    assert_eq!(lines[50], "begun");
    assert_eq!(lines[51..].join("\n") + "\n", changed);
}

#[test]
fn a_file_that_is_synchronized_by_renames_is_not_read_twice() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..100));
    world.settle();
    for round in 1..5 {
        // As `rsync -t` does it: a new file with the time of the one far away takes the name.
        fs::write(world.path(".a.log.x"), numbered(0..round * 20 + 100)).unwrap();
        let far = fs::metadata(world.path("a.log"))
            .unwrap()
            .modified()
            .unwrap();
        let file = fs::File::options()
            .append(true)
            .open(world.path(".a.log.x"));
        file.unwrap().set_modified(far).unwrap();
        world.rename(".a.log.x", "a.log");
        world.run_for(QUIET * 2);
        assert_eq!(world.lines_of("a.log"), expected(0..round * 20 + 100));
    }
}

#[test]
fn a_file_that_is_written_over_in_place_is_new_content_and_no_lines_are_mixed() {
    let mut world = World::new();
    let text = |word: &str, lines: std::ops::Range<u32>| -> String {
        let lines: Vec<String> = lines.map(|n| format!("{word} {n:04}\n")).collect();
        lines.concat()
    };
    world.append("a.log", &text("old", 0..1000));
    world.settle();
    // As `rsync --inplace` does it: block after block, from the front.
    let new = text("new", 0..1200);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(world.path("a.log"))
        .unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    for block in new.as_bytes().chunks(900) {
        file.write_all(block).unwrap();
        world.settle();
    }
    world.run_for(QUIET * 2);
    let lines = world.lines_of("a.log");
    let all = text("old", 0..1000) + &new;
    assert!(lines.join("\n") + "\n" == all, "{} lines", lines.len());
}

#[test]
fn a_file_that_an_overlay_copies_up_goes_on() {
    let mut world = World::new();
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| world.path(name));
    for dir in [&lower, &upper, &work] {
        fs::create_dir(dir).unwrap();
    }
    // Layers on different file systems, so that the inode's number cannot stay.
    let mounted = Mounted::tmpfs(&lower).and_then(|tmpfs| {
        fs::write(lower.join("a.log"), numbered(0..100)).unwrap();
        Some((Mounted::overlay(&lower, &upper, &work, &merged)?, tmpfs))
    });
    let Some(_mounted) = mounted else {
        return skip("a_file_that_an_overlay_copies_up_goes_on", NO_MOUNT);
    };
    world.config.files = vec![merged.join("*.log").display().to_string()];
    world.settle();
    assert_eq!(world.lines_of("a.log"), expected(0..100));
    for round in 1..4 {
        world.append("merged/a.log", &numbered(round * 100..round * 100 + 100));
        world.run_for(Duration::from_secs(11));
        assert_eq!(world.lines_of("a.log"), expected(0..round * 100 + 100));
    }
    assert!(upper.join("a.log").exists());
    world.stop();
    world.append("merged/a.log", &numbered(400..500));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..500));
    assert!(world.losses().is_empty());
}

#[test]
fn a_late_writer_is_awaited_over_a_restart() {
    let mut world = World::new();
    let mut late = world.writer("a.log");
    late.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.rename("a.log", "a.log-1");
    world.run_for(QUIET * 2);
    world.kill();
    world.run_for(Duration::from_secs(1));
    world.remove("a.log-1");
    late.write_all(numbered(10..11).as_bytes()).unwrap();
    world.run_for(QUIET);
    assert_eq!(world.lines_of("a.log"), expected(0..11));
}
