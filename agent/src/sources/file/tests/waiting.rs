//! Files that wait for their turn behind another of their path, and what becomes of them meanwhile.

use std::io::Write;
use std::time::Duration;

use super::{expected, numbered};
use crate::limits::{COPY_GRACE, QUIET};
use crate::testing::World;

/// A world in which `a.log` has begun anew and waits: whoever wrote to the file before still could.
fn held_up() -> (World, std::fs::File) {
    let mut world = World::new();
    let mut late = world.writer("a.log");
    late.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.rename("a.log", "a.log-1");
    world.append("a.log", &numbered(10..20));
    world.settle();
    assert_eq!(world.lines_of("a.log"), expected(0..10));
    (world, late)
}

#[test]
fn a_file_that_is_copied_and_truncated_while_it_waits_goes_on_in_its_copy() {
    let (mut world, late) = held_up();
    world.copy_truncate("a.log", "a.log-2");
    world.append("a.log", &numbered(20..30));
    drop(late);
    world.run_for(QUIET + COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..30));
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn two_copies_in_a_row_are_both_read() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    for round in 1..4 {
        world.copy_truncate("a.log", &format!("a.log-{round}"));
        world.append("a.log", &numbered(round * 10..round * 10 + 10));
        world.turn();
        world.pass(Duration::from_millis(1));
    }
    world.run_for(COPY_GRACE * 3);
    assert_eq!(world.lines_of("a.log"), expected(0..40));
}

#[test]
fn a_file_that_is_truncated_while_it_waits_counts_in_full() {
    let (mut world, late) = held_up();
    world.truncate("a.log");
    world.append("a.log", &numbered(20..25));
    drop(late);
    world.run_for(QUIET + COPY_GRACE * 2);
    let lost = numbered(10..20).len();
    assert_eq!(world.losses(), [format!("truncated 1 {lost}")]);
}

#[test]
fn a_rotated_file_that_waits_is_read_first_after_a_restart_whatever_its_number() {
    let mut world = World::new();
    let mut late = world.writer("a.log");
    late.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    // The truncation is found after the successor was met, and gets the higher number.
    world.copy_truncate("a.log", "a.log-1");
    late.write_all(numbered(10..20).as_bytes()).unwrap();
    world.rename("a.log", "a.log-2");
    world.append("a.log", &numbered(30..40));
    world.settle();
    late.write_all(numbered(20..30).as_bytes()).unwrap();
    world.stop();
    drop(late);
    world.run_for(QUIET * 4);
    assert_eq!(world.lines_of("a.log"), expected(0..40));
}

#[test]
fn content_that_replaced_another_while_the_agent_was_stopped_is_not_counted_as_lost() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..1));
    world.settle();
    world.stop();
    world.truncate("a.log");
    world.append("a.log", &numbered(1..20));
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    // What there was besides nobody knows.
    assert_eq!(world.losses(), ["cut_while_stopped 1 0"]);
}

#[test]
fn content_that_is_met_before_it_is_read_is_not_counted_as_lost() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..1));
    world.settle();
    world.truncate("a.log");
    world.append("a.log", &numbered(1..20));
    // The path is looked at before the file is read.
    std::fs::set_permissions(
        world.path("a.log"),
        std::os::unix::fs::PermissionsExt::from_mode(0o640),
    )
    .unwrap();
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_life_that_begins_while_its_path_waits_is_known_by_its_beginning() {
    let (mut world, late) = held_up();
    world.truncate("a.log");
    world.append("a.log", &numbered(20..30));
    world.turn();
    world.copy_truncate("a.log", "a.log-2");
    world.append("a.log", &numbered(30..40));
    drop(late);
    world.run_for(QUIET + COPY_GRACE * 2);
    let all = [expected(0..10), expected(20..40)].concat();
    assert_eq!(world.lines_of("a.log"), all);
}

#[test]
fn what_was_seen_of_a_file_when_it_was_closed_is_known_after_a_kill() {
    let mut world = World::new();
    world.config.files_open_max = 1;
    let mut late = world.writer("a.log");
    late.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.rename("a.log", "a.log-1");
    world.append("a.log", "");
    world.settle();
    // It is closed for this one before its first look.
    world.append("a.log", &numbered(10..20));
    world.append("b.log", "b\n");
    world.run_for(Duration::from_secs(3));
    world.copy_truncate("a.log", "a.log-2");
    world.kill();
    drop(late);
    world.run_for(QUIET + COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
}

#[test]
fn a_life_that_is_noticed_after_its_successor_was_met_comes_first_after_a_restart() {
    let mut world = World::new();
    let mut late = world.writer("a.log");
    late.write_all(numbered(0..10).as_bytes()).unwrap();
    world.settle();
    world.copy_truncate("a.log", "a.log-1");
    late.write_all(numbered(10..20).as_bytes()).unwrap();
    world.rename("a.log", "a.log-2");
    world.append("a.log", &numbered(30..40));
    world.settle();
    late.write_all(numbered(20..30).as_bytes()).unwrap();
    // Neither is at the path, which would tell the order.
    world.rename("a.log", "a.log-3");
    world.stop();
    drop(late);
    world.run_for(QUIET * 4);
    assert_eq!(world.lines_of("a.log"), expected(0..40));
}
