//! Every byte of a file is emitted once, or told as unread with its reason.

use std::time::Duration;

use super::{expected, numbered};
use crate::limits::COPY_GRACE;
use crate::testing::World;

#[test]
fn what_was_written_between_a_copy_and_the_truncation_is_told_as_lost() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..50));
    world.settle();
    world.append("a.log", &numbered(50..60));
    std::fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
    world.append("a.log", "not in the copy");
    world.settle();
    world.truncate("a.log");
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..60));
    assert_eq!(world.losses(), ["truncated 1 15"]);
}

#[test]
fn a_file_that_was_written_anew_while_the_agent_was_stopped_has_an_unknown_rest() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.settle();
    world.kill();
    world.truncate("a.log");
    world.append("a.log", "something else, and longer\n");
    world.run_for(COPY_GRACE + Duration::from_secs(1));
    assert_eq!(
        world.lines_of("a.log"),
        ["one", "something else, and longer"]
    );
    assert_eq!(world.losses(), ["cut_while_stopped 1 0"]);
}
