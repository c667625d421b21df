//! A configuration that changes while the agent runs: committed offsets stay, whatever changes.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use super::{expected, numbered};
use crate::files::State;
use crate::limits::{ASIDE_EVERY, COPY_GRACE, IDLE_CLOSED_AFTER, LATE, QUIET};
use crate::reload::compare;
use crate::sources::file::FileConfig;
use crate::sources::file::audit::Why;
use crate::spool::SyncTurn;
use crate::testing::{World, open_below};

#[test]
fn a_reload_that_changes_labels_keeps_every_offset() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..50));
    world.turn();
    // Something is taken and not in the spool yet.
    world.config.labels = vec![("host.name".to_owned(), "other".to_owned())];
    world.reload();
    world.append("a.log", &numbered(50..60));
    world.settle();
    assert_eq!(world.lines_of("a.log"), expected(0..60));
    assert!(world.losses().is_empty());
}

#[test]
fn a_topic_that_is_changed_goes_for_the_records_from_then_on() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.settle();
    world.config.topic = "other".parse().unwrap();
    world.reload();
    world.append("a.log", "two\n");
    world.run_for(Duration::from_secs(3));
    let topics = world.spool().partitions();
    let topics: Vec<&str> = topics.iter().map(|it| it.topic.as_str()).collect();
    assert_eq!(topics, ["logs", "other"]);
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
}

#[test]
fn a_file_that_is_excluded_is_set_aside_with_its_unread_bytes_told() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.append("b.log", "one\nunread");
    world.settle();
    world.config.exclude = vec![world.path("b.log").display().to_string()];
    world.reload();
    world.settle();
    assert_eq!(
        world.closed(),
        [("b.log".to_owned(), 4, Some(6), Why::Excluded)]
    );
    world.append("b.log", " too\n");
    world.append("a.log", "two\n");
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
    assert_eq!(world.lines_of("b.log"), ["one"]);
    assert!(world.losses().is_empty());
    // It is told once, however often is reloaded, and goes on where it was.
    world.reload();
    world.settle();
    assert_eq!(world.closed().len(), 1);
    world.config.exclude.clear();
    world.reload();
    world.settle();
    assert_eq!(world.lines_of("b.log"), ["one", "unread too"]);
}

#[test]
fn a_rotated_file_that_is_not_meant_any_more_is_drained() {
    let mut world = World::new();
    let mut old = world.writer("b.log");
    old.write_all(b"one\n").unwrap();
    world.settle();
    world.rename("b.log", "old");
    world.settle();
    world.append("b.log", "new\n");
    world.settle();
    world.config.exclude = vec![world.path("b.log").display().to_string()];
    world.reload();
    old.write_all(b"two\n").unwrap();
    drop(old);
    world.run_for(QUIET + LATE + Duration::from_secs(11));
    assert_eq!(world.lines_of("b.log"), ["one", "two"]);
    let aside = ("b.log".to_owned(), 0, 0, State::NotMeant);
    let remembered = ("b.log".to_owned(), 8, 8, State::Finished);
    assert_eq!(world.states(), [aside, remembered]);
    let ended: Vec<Why> = world
        .closed()
        .into_iter()
        .map(|(_, _, _, why)| why)
        .collect();
    assert_eq!(ended, [Why::Excluded, Why::Finished]);
    assert!(world.losses().is_empty());
}

#[test]
fn a_deleted_file_outlives_a_reload_by_its_descriptor() {
    let mut world = World::new();
    let mut old = world.writer("a.log");
    old.write_all(b"one\n").unwrap();
    world.settle();
    world.remove("a.log");
    world.settle();
    old.write_all(b"two\n").unwrap();
    world.config.labels.clear();
    world.reload();
    world.settle();
    old.write_all(b"three\n").unwrap();
    drop(old);
    world.run_for(QUIET + COPY_GRACE);
    assert_eq!(world.lines_of("a.log"), ["one", "two", "three"]);
    assert!(world.losses().is_empty());
}

#[test]
fn files_that_are_meant_anew_are_read_from_their_beginning() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.append("b.txt", "one\n");
    world.settle();
    world
        .config
        .files
        .push(world.path("*.txt").display().to_string());
    world.reload();
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one"]);
    assert_eq!(world.lines_of("b.txt"), ["one"]);
}

#[test]
fn a_source_that_is_gone_reads_nothing_and_forgets_nothing() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.settle();
    let files = std::mem::take(&mut world.config.files);
    world.reload();
    world.append("a.log", "two\n");
    world.append("b.log", "two\n");
    world.run_for(Duration::from_secs(12));
    assert_eq!(world.lines_of("a.log"), ["one"]);
    assert!(world.lines_of("b.log").is_empty());
    world.config.files = files;
    world.reload();
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
    assert_eq!(world.lines_of("b.log"), ["two"]);
}

#[test]
fn a_reload_waits_until_a_full_spool_has_room() {
    let mut world = World::new();
    world.spool_config.bytes_max = 16 << 10;
    world.spool_config.segment_bytes = 4 << 10;
    world.append("a.log", "one\n");
    world.settle();
    let mut seed = 1;
    let lines = (0..64).flat_map(|_| [super::noise(&mut seed, 1000), b"\n".to_vec()]);
    std::fs::write(world.path("b.log"), lines.flatten().collect::<Vec<u8>>()).unwrap();
    world.run_for(Duration::from_secs(1));
    assert!(world.spool().is_full());
    world.config.labels.clear();
    world.reload();
    world.append("a.log", "two\n");
    world.run_for(Duration::from_secs(1));
    let mut lines = 0;
    for _ in 0..100 {
        let spool = world.spool();
        while matches!(spool.sync_turn(), SyncTurn::Worked { .. }) {}
        lines += world
            .lines_of("a.log")
            .iter()
            .filter(|line| *line == "two")
            .count();
        for partition in spool.partitions() {
            spool.acknowledge(&partition, spool.range(&partition).durable_end);
        }
        world.run_for(Duration::from_millis(200));
    }
    assert_eq!(lines, 1);
    assert!(world.losses().is_empty());
}

#[test]
fn an_entry_that_gets_another_name_reads_nothing_twice() {
    let mut world = World::with_rotated();
    let mut writer = world.writer("a.log");
    writer.write_all(b"1\npart").unwrap();
    world.settle();
    world.rename("a.log", "a.log.1");
    world.append("a.log", "new\nmore");
    world.run_for(Duration::from_secs(1));
    let renamed = FileConfig {
        name: "app2".to_owned(),
        beside: vec!["app2".to_owned()],
        ..world.config.clone()
    };
    let gone = FileConfig {
        files: Vec::new(),
        heirs: vec![renamed.clone()],
        ..world.config.clone()
    };
    world.reload_to(&[gone, renamed]);
    world.settle();
    writer.write_all(b"ial\n").unwrap();
    drop(writer);
    world.append("a.log", " new\n");
    world.run_for(Duration::from_secs(30));
    let mut all: Vec<String> = world.lines().into_values().flatten().collect();
    all.sort();
    assert_eq!(all, ["1", "more new", "new", "partial"]);
    // What goes on is not lost.
    assert!(world.closed().iter().all(|it| it.3 != Why::Excluded));
    assert!(world.losses().is_empty());
}

#[test]
fn a_reload_while_a_copy_is_looked_for_still_counts_what_was_lost() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..50));
    world.append("a.log", &"x".repeat(1000));
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "new\n");
    world.run_for(Duration::from_secs(1));
    world.config.labels.push(("x".to_owned(), "y".to_owned()));
    world.reload();
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.losses(), ["truncated 1 1000"]);
}

#[test]
fn what_is_cut_off_of_a_file_just_before_a_reload_is_counted() {
    let whole = numbered(0..500);
    for (left, lost) in [(0, 6), (whole.len() + 2, 4)] {
        let mut world = World::new();
        world.append("a.log", &format!("{whole}unread"));
        world.settle();
        world.writer("a.log").set_len(left as u64).unwrap();
        if left == 0 {
            world.append("a.log", "new\n");
        }
        world.config.labels.clear();
        world.reload();
        world.run_for(COPY_GRACE * 2);
        assert_eq!(world.losses(), [format!("truncated 1 {lost}")]);
    }
}

#[test]
fn a_source_that_is_gone_ends_once_its_last_file_is_drained() {
    let mut world = World::new();
    let mut old = world.writer("a.log");
    old.write_all(b"one\n").unwrap();
    world.settle();
    world.remove("a.log");
    world.settle();
    world.config.files.clear();
    world.reload();
    old.write_all(b"two\n").unwrap();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.sources(), 1);
    drop(old);
    world.run_for(QUIET + LATE + Duration::from_secs(11));
    assert_eq!(world.sources(), 0);
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
}

#[test]
fn a_source_that_stays_gives_open_files_up_to_one_that_comes() {
    let mut world = World::new();
    for file in 0..10 {
        world.append(&format!("{file}.log"), &numbered(0..3));
    }
    world.settle();
    assert_eq!(open_below(&world.logs), 10);
    let comes = FileConfig {
        name: "b".to_owned(),
        files: vec![world.path("*.txt").display().to_string()],
        ..world.config.clone()
    };
    world.config.files_open_max = 3;
    world.reload_to(&[comes]);
    world.run_for(IDLE_CLOSED_AFTER);
    assert_eq!(open_below(&world.logs), 3);
    for file in 0..10 {
        world.append(&format!("{file}.log"), &numbered(3..6));
    }
    world.run_for(IDLE_CLOSED_AFTER);
    for file in 0..10 {
        assert_eq!(world.lines_of(&format!("{file}.log")), expected(0..6));
    }
}

/// Another entry than the first, which means these files.
fn other(world: &World, files: &[&str]) -> FileConfig {
    let files = files.iter().map(|it| world.path(it).display().to_string());
    FileConfig {
        name: "b".to_owned(),
        files: files.collect(),
        beside: vec!["b".to_owned()],
        ..world.config.clone()
    }
}

#[test]
fn an_entry_that_is_changed_to_mean_what_another_one_had_reads_nothing_twice() {
    let mut world = World::with_rotated();
    let (app, before) = (world.config.clone(), other(&world, &["*.txt"]));
    world.more = vec![before.clone()];
    let mut writer = world.writer("a.log");
    writer.write_all(b"1\npart").unwrap();
    world.settle();
    world.rename("a.log", "a.log.1");
    world.append("a.log", "new\nmore");
    world.run_for(Duration::from_secs(1));
    let after = other(&world, &["*.txt", "*.log*"]);
    world.reload_to(&compare(&[app, before], &[after]).sources);
    world.settle();
    writer.write_all(b"ial\n").unwrap();
    drop(writer);
    world.append("a.log", " new\n");
    world.run_for(Duration::from_secs(30));
    assert_eq!(all_lines(&world), ["1", "more new", "new", "partial"]);
    assert!(world.closed().iter().all(|it| it.3 != Why::Excluded));
    assert!(world.losses().is_empty());
}

#[test]
fn what_a_changed_entry_meant_before_is_still_drained_by_one_that_is_gone() {
    for (had, has) in [("*.log*", "*.log*"), ("*.log", "*.log*")] {
        let mut world = World::with_rotated();
        let (app, before) = (world.config.clone(), other(&world, &[had]));
        world.more = vec![before.clone()];
        let mut writer = world.writer("a.log");
        writer.write_all(b"one\n").unwrap();
        world.settle();
        world.rename("a.log", "a.log.1");
        world.run_for(Duration::from_secs(1));
        let after = FileConfig {
            labels: Vec::new(),
            ..other(&world, &[has])
        };
        world.reload_to(&compare(&[app, before], &[after]).sources);
        world.settle();
        writer.write_all(b"two\n").unwrap();
        drop(writer);
        world.run_for(Duration::from_secs(30));
        let mut lines = world.lines_of("a.log");
        lines.sort();
        assert_eq!(lines, ["one", "one", "two", "two"], "{had}");
        assert!(world.losses().is_empty());
    }
}

/// A world whose entry is gone for another one, and drains a file that was renamed to `old`.
fn draining(to: &str) -> (World, FileConfig, File) {
    let mut world = World::new();
    let app = world.config.clone();
    let mut writer = world.writer("a.log");
    writer.write_all(b"one\n").unwrap();
    world.settle();
    world.rename("a.log", "old");
    world.settle();
    let new = FileConfig {
        topic: to.parse().unwrap(),
        ..other(&world, &["*.txt"])
    };
    world.reload_to(&compare(&[app], std::slice::from_ref(&new)).sources);
    world.settle();
    writer.write_all(b"two\n").unwrap();
    (world, new, writer)
}

fn all_lines(world: &World) -> Vec<String> {
    let mut all: Vec<String> = world.lines().into_values().flatten().collect();
    all.sort();
    all
}

#[test]
fn what_an_entry_that_is_gone_has_drained_is_not_read_again_under_a_name_of_another_one() {
    let (mut world, _, writer) = draining("logs");
    drop(writer);
    world.run_for(QUIET * 2);
    world.rename("old", "b.txt");
    world.run_for(QUIET * 2);
    assert_eq!(all_lines(&world), ["one", "two"]);
}

#[test]
fn a_file_that_is_drained_goes_on_under_a_name_of_another_entry() {
    for topic in ["logs", "other"] {
        for turns in 0..4 {
            let (mut world, _, mut writer) = draining(topic);
            for _ in 0..turns {
                world.turn();
            }
            world.rename("old", "b.txt");
            world.turn();
            writer.write_all(b"three\n").unwrap();
            world.run_for(Duration::from_secs(1));
            writer.write_all(b"zzz\n").unwrap();
            drop(writer);
            world.run_for(QUIET + LATE + Duration::from_secs(11));
            assert_eq!(all_lines(&world), ["one", "three", "two", "zzz"], "{turns}");
            assert!(world.losses().is_empty());
            assert_eq!(world.sources(), 1);
        }
    }
}

#[test]
fn what_was_drained_is_not_read_again_when_its_file_was_out_of_sight() {
    let (mut world, new, writer) = draining("logs");
    drop(writer);
    world.run_for(QUIET * 2);
    std::fs::create_dir(world.path("far")).unwrap();
    world.rename("old", "far/old");
    world.pass(ASIDE_EVERY);
    world.run_for(Duration::from_secs(11));
    world.kill();
    world.config = new;
    world.rename("far/old", "b.txt");
    world.run_for(QUIET * 2);
    assert_eq!(all_lines(&world), ["one", "two"]);
}

#[test]
fn an_entry_that_gets_another_name_just_after_a_truncation_counts_what_was_cut_off() {
    let mut world = World::new();
    let app = world.config.clone();
    world.append("a.log", "one\ntwo\nunread");
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "new\n");
    world.run_for(Duration::from_secs(1));
    let new = other(&world, &["*.log"]);
    world.reload_to(&compare(&[app], &[new]).sources);
    world.run_for(QUIET * 2);
    assert_eq!(world.lines_of("a.log"), ["one", "two", "new"]);
    assert_eq!(world.losses(), ["truncated 1 6"]);
}
