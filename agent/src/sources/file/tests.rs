//! What becomes of lines under everything that is done to log files. Paths are real, time is not.

use std::io::Write;
use std::time::Duration;

use crate::limits::{COPY_GRACE, QUIET};
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
