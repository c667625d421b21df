//! Copies that end before what was read of their file: they bring nothing new.

use std::fs;
use std::io::Write;
use std::time::Duration;

use model::position::Codec;

use super::decompressed::compress;
use super::{expected, numbered, only};
use crate::limits::HOLD_MAX;
use crate::sources::file::audit::Why;
use crate::testing::World;

fn short_copy() -> World {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..500));
    world.settle();
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    // Written and read between the copy and the truncation.
    world.append("a.log", &numbered(500..800));
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "new\n");
    world.run_for(Duration::from_secs(1));
    world
}

#[test]
fn a_copy_that_ends_before_what_was_read_is_never_read() {
    let mut world = short_copy();
    world.run_for(Duration::from_mins(3));
    only(&world, &[expected(0..800), vec!["new".to_owned()]].concat());
}

#[test]
fn of_a_file_with_a_short_copy_all_that_was_read_is_told() {
    let world = short_copy();
    let read = numbered(0..800).len() as u64;
    let whole = ("a.log".to_owned(), read, Some(0), Why::Finished);
    assert_eq!(world.closed(), [whole]);
}

#[test]
fn a_copy_that_ends_before_what_was_read_is_never_read_after_a_restart() {
    let mut world = short_copy();
    world.stop();
    world.run_for(Duration::from_mins(3));
    only(&world, &[expected(0..800), vec!["new".to_owned()]].concat());
}

#[test]
fn a_copy_of_a_small_file_that_ends_before_what_was_read_is_never_read() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..50));
    world.settle();
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.append("a.log", &numbered(50..80));
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "new\n");
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.lines().len(), 1, "{:?}", world.states());
}

#[test]
fn a_short_copy_of_a_small_file_that_was_there_before_a_reload_is_never_read() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..50));
    world.settle();
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.settle();
    world.config.labels.clear();
    world.reload();
    world.settle();
    world.append("a.log", &numbered(50..80));
    world.settle();
    world.truncate("a.log");
    world.append("a.log", "new\n");
    world.run_for(Duration::from_mins(3));
    only(&world, &[expected(0..80), vec!["new".to_owned()]].concat());
}

#[test]
fn a_copy_of_the_next_file_is_no_short_copy_of_the_one_before() {
    let mut world = World::with_rotated();
    let mut late = world.writer("a.log");
    late.write_all(numbered(0..20).as_bytes()).unwrap();
    world.settle();
    world.truncate("a.log");
    late.write_all(numbered(20..25).as_bytes()).unwrap();
    world.rename("a.log", "a.log.1");
    // Waits behind what can still be written to, and is shorter than what the first was known by.
    world.append("a.log", &numbered(25..35));
    fs::copy(world.path("a.log"), world.path("a.log.2")).unwrap();
    world.turn();
    world.truncate("a.log");
    world.run_for(Duration::from_mins(1));
    only(&world, &expected(0..35));
}

#[test]
fn a_short_compressed_copy_of_a_file_that_was_renamed_while_stopped_brings_nothing_twice() {
    for (lines, cut) in [(1000, 55), (1000, 4000), (300, 1), (40_000, 70_000)] {
        let mut world = World::with_rotated();
        world.append("a.log", &numbered(0..lines));
        world.settle();
        world.stop();
        let text = numbered(0..lines);
        let short = &text.as_bytes()[..text.len() - cut];
        fs::write(world.path("a.log.1.gz"), compress(Codec::Gzip, short)).unwrap();
        world.remove("a.log");
        world.append("a.log", "new\n");
        world.run_for(HOLD_MAX * 2);
        let mut all = expected(0..lines);
        all.push("new".to_owned());
        assert_eq!(world.lines_of("a.log"), all, "{lines} {cut}");
        assert_eq!(world.lines().len(), 1);
        // It had more than the copy, and perhaps more than what was read.
        assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
    }
}

#[test]
fn what_is_taken_for_a_short_compressed_copy_of_a_file_that_is_gone_is_told_as_doubtful() {
    let mut world = World::with_rotated();
    let banner = numbered(0..300);
    world.append("a.log", &format!("{banner}{}", numbered(1000..1050)));
    world.settle();
    world.stop();
    // Nothing that is left tells of another file: as far as its guards go it is the same.
    let other = format!("{banner}{}", numbered(5000..5040));
    let other = compress(Codec::Gzip, other.as_bytes());
    fs::write(world.path("a.log.1.gz"), other).unwrap();
    world.remove("a.log");
    world.append("a.log", "new\n");
    world.run_for(HOLD_MAX * 2);
    assert_eq!(world.lines_of("a.log").len(), 351);
    assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
}

#[test]
fn a_shorter_file_that_only_begins_like_one_that_was_read_is_read() {
    let mut world = World::with_rotated();
    let banner = numbered(0..300);
    world.append("a.log", &format!("{banner}{}", numbered(1000..2000)));
    world.settle();
    world.stop();
    let other = format!("{banner}{}", numbered(5000..5500));
    fs::write(
        world.path("a.log.1.gz"),
        compress(Codec::Gzip, other.as_bytes()),
    )
    .unwrap();
    world.remove("a.log");
    world.append("a.log", "new\n");
    world.run_for(HOLD_MAX * 2);
    assert_eq!(world.lines_of("a.log.1.gz").len(), 800);
}
