//! Rotated files and copies, however fast they follow each other.

use std::time::Duration;

use super::{expected, numbered};
use crate::testing::World;

#[test]
fn files_shifted_by_several_rotations_between_two_turns_are_all_delivered() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    for round in 1..5 {
        for older in (1..round).rev() {
            world.rename(&format!("a.log.{older}"), &format!("a.log.{}", older + 1));
        }
        world.rename("a.log", "a.log.1");
        world.append("a.log", &numbered(round * 10..round * 10 + 10));
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..50));
}
