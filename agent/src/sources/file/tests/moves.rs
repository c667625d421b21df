//! Files that are moved out of the pattern before anything was made of them.
//!
//! What was moved before it was met, and deleted where it went, is none of the files that lie there.

use std::fs;
use std::io::Write;
use std::time::Duration;

use model::position::Codec;

use super::decompressed::compress;
use super::{expected, numbered};
use crate::testing::World;

#[test]
fn a_compressed_file_that_is_moved_out_of_the_pattern_is_not_read_as_text() {
    let mut world = World::with_rotated();
    world.config.exclude = vec![world.path("*.done").display().to_string()];
    world.append("x.log", &numbered(0..3));
    world.settle();
    let mut writer = world.writer("b.log.gz");
    writer
        .write_all(&compress(Codec::Gzip, numbered(0..5000).as_bytes()))
        .unwrap();
    world.settle();
    world.rename("b.log.gz", "b.log.gz.done");
    world.settle();
    drop(writer);
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.lines().get("b.log.gz").map(Vec::len), None);
}

#[test]
fn a_suspect_that_is_moved_out_of_the_pattern_is_no_file_of_its_own() {
    let mut world = World::with_rotated();
    world.config.exclude = vec![world.path("*.done").display().to_string()];
    world.append("a.log", &numbered(0..500));
    world.settle();
    fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.settle();
    world.rename("a.log.1", "a.log.1.done");
    world.truncate("a.log");
    world.append("a.log", "new\n");
    world.run_for(Duration::from_mins(1));
    let counts: Vec<(String, usize)> = world
        .lines()
        .into_iter()
        .map(|(name, lines)| (name, lines.len()))
        .collect();
    assert_eq!(counts, [("a.log".to_owned(), 501)], "{:?}", world.states());
}

#[test]
fn a_file_that_was_rotated_before_it_was_met_and_deleted_is_not_taken_for_an_old_copy() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..16));
    // From before the first start: what it holds is older than anything that is read.
    world.copy_truncate("a.log", "a.log-1");
    world.settle();
    world.rename("a.log", "a.log-2");
    world.append("a.log-2", &numbered(16..17));
    world.append("a.log", &numbered(17..20));
    world.rename("a.log", "a.log-3");
    world.remove("a.log-3");
    world.append("a.log", &numbered(20..30));
    world.run_for(Duration::from_secs(10));
    let expected = [expected(16..17), expected(20..30)].concat();
    assert_eq!(world.lines_of("a.log"), expected);
}

#[test]
fn a_file_that_takes_the_name_of_a_deleted_one_is_not_taken_for_it() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..1));
    world.settle();
    world.rename("a.log", "a.log-1");
    world.append("a.log", &numbered(1..2));
    world.rename("a.log", "a.log-2");
    world.remove("a.log-2");
    world.append("a.log-2", "somebody's\n");
    world.rename("a.log-2", "a.log-3");
    world.append("a.log", &numbered(2..3));
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.lines_of("a.log"), ["line 0", "line 2"]);
}
