//! Copies and compressed copies of files that the agent loses sight of: each comes once.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::time::Duration;

use model::position::Codec;

use super::decompressed::compress;
use super::{expected, numbered, only, only_lines};
use crate::limits::{COPY_GRACE, LATE};
use crate::sources::file::calls::Call;
use crate::testing::World;

/// What `gzip` does, all at once.
fn gzip(world: &World, name: &str) {
    let content = fs::read(world.path(name)).unwrap();
    let packed = compress(Codec::Gzip, &content);
    fs::write(world.path(&format!("{name}.gz")), packed).unwrap();
    world.remove(name);
}

/// How many lines came of each path.
fn counts(world: &World) -> BTreeMap<String, usize> {
    let lines = world.lines().into_iter();
    lines.map(|(name, lines)| (name, lines.len())).collect()
}

#[test]
fn a_rotated_file_that_is_shifted_on_and_compressed_between_two_looks_comes_once() {
    for is_killed in [false, true] {
        for is_copied in [false, true] {
            let mut world = World::with_rotated();
            world.append("a.log", &numbered(0..10));
            if is_copied {
                world.copy_truncate("a.log", "a.log.1");
            } else {
                world.rename("a.log", "a.log.1");
            }
            world.run_for(Duration::from_secs(4));
            if is_killed {
                world.kill();
            }
            world.rename("a.log.1", "a.log.2");
            gzip(&world, "a.log.2");
            world.run_for(LATE);
            assert_eq!(counts(&world), [("a.log.1".to_owned(), 10)].into());
        }
    }
}

#[test]
fn a_compressed_file_that_is_numbered_and_begins_like_one_that_is_there_is_read_all_the_same() {
    let mut world = World::with_rotated();
    world.append("worker-1.log", &numbered(0..10));
    world.run_for(Duration::from_secs(2));
    world.append("worker-2.log", &numbered(0..10));
    gzip(&world, "worker-2.log");
    world.run_for(LATE);
    let both = ["worker-1.log", "worker-2.log.gz"].map(|name| (name.to_owned(), 10));
    assert_eq!(counts(&world), both.into());
}

#[test]
fn a_compressed_copy_that_ends_before_what_was_read_is_known_over_a_restart() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..1000));
    world.run_for(Duration::from_secs(2));
    let mut late = world.writer("a.log");
    world.rename("a.log", "a.log.1");
    gzip(&world, "a.log.1");
    world.run_for(Duration::from_secs(4));
    late.write_all(numbered(1000..1003).as_bytes()).unwrap();
    world.run_for(Duration::from_secs(1));
    world.stop();
    drop(late);
    world.run_for(LATE);
    only_lines(&world, &expected(0..1003));
    // Nobody knows what else was written late.
    assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
}

#[test]
fn a_copy_of_a_file_that_may_not_be_read_for_a_while_comes_once() {
    let mut world = World::with_rotated();
    world.config.files_open_max = 1;
    world.append("a.log", &numbered(0..10));
    world.run_for(Duration::from_secs(2));
    world.append("b.log", "other\n");
    world.run_for(Duration::from_secs(2));
    world.calls.faults.fail(Call::Open, "a.log", libc::EACCES);
    world.copy_truncate("a.log", "a.log.1");
    world.append("a.log", &numbered(10..20));
    world.run_for(COPY_GRACE * 4);
    world.calls.faults.heal();
    world.run_for(COPY_GRACE * 4);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    let each = [("a.log", 20), ("b.log", 1)].map(|(name, lines)| (name.to_owned(), lines));
    assert_eq!(counts(&world), each.into());
}

#[test]
fn a_copy_that_is_overwritten_by_the_next_one_brings_nothing_twice() {
    for pause in [Duration::from_secs(1), COPY_GRACE * 3, LATE * 2] {
        for mut world in [World::with_rotated(), World::new()] {
            // As scripts do that keep one copy: `cp a.log a.log.1 && : > a.log`.
            for day in 0..4 {
                world.append("a.log", &numbered(day * 10..day * 10 + 10 + day));
                world.run_for(pause);
                fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
                world.turn();
                world.truncate("a.log");
                world.run_for(pause);
            }
            world.run_for(COPY_GRACE * 3);
            let days = (0..4).flat_map(|day| expected(day * 10..day * 10 + 10 + day));
            only(&world, &days.collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_copy_that_is_overwritten_while_the_agent_is_stopped_brings_nothing_twice() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.run_for(Duration::from_secs(3));
    // Under a name that no pattern means.
    fs::copy(world.path("a.log"), world.path("a.log-1")).unwrap();
    // It may grow yet, for all that can be seen.
    let writer = world.writer("a.log-1");
    world.truncate("a.log");
    world.append("a.log", &numbered(10..30));
    world.run_for(Duration::from_secs(3));
    world.stop();
    drop(writer);
    fs::copy(world.path("a.log"), world.path("a.log-1")).unwrap();
    world.run_for(COPY_GRACE * 4);
    assert_eq!(world.lines_of("a.log"), expected(0..30));
    // Whether it did grow is not known.
    assert_eq!(world.losses(), ["cut_while_stopped 1 0"]);
}

#[test]
fn a_short_file_that_is_compressed_while_it_cannot_be_looked_for_comes_once() {
    let mut world = World::with_rotated();
    world.config.files_open_max = 1;
    world.append("a.log.1", &numbered(0..10));
    world.append("b.log", "other\n");
    world.turn();
    world.turn();
    // Whether it went somewhere else cannot be seen.
    world.calls.faults.fail(Call::List, "logs", libc::EIO);
    gzip(&world, "a.log.1");
    world.run_for(COPY_GRACE * 4);
    world.calls.faults.heal();
    world.run_for(COPY_GRACE * 4);
    assert_eq!(world.lines_of("a.log.1"), expected(0..10));
    let each = [("a.log.1", 10), ("b.log", 1)].map(|(name, lines)| (name.to_owned(), lines));
    assert_eq!(counts(&world), each.into());
}
