//! What a restart costs, and what a thousand rotations leave behind.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use commitlog::storage::faulty::FaultyDisk;

use super::{expected, numbered};
use crate::limits::{LATE, RECONCILE_EVERY};
use crate::testing::{World, open_below};

/// A world with ten durable lines, and ten that are appended to the spool and not synced.
fn half_durable() -> (World, FaultyDisk) {
    let disk = FaultyDisk::new();
    let mut world = World::on(Arc::new(disk.clone()));
    world.revive = Some((disk.clone(), 1));
    world.append("a.log", &numbered(0..10));
    world.run_for(Duration::from_secs(3));
    world.append("a.log", &numbered(10..20));
    // Longer than any linger, and without a sync.
    for _ in 0..100 {
        world.turn();
        world.pass(Duration::from_millis(1));
    }
    assert_eq!(world.lines_of("a.log"), expected(0..10));
    (world, disk)
}

#[test]
fn a_power_cut_between_append_and_fsync_has_only_what_was_not_durable_read_again() {
    let (mut world, disk) = half_durable();
    disk.power_cut();
    world.revive(7);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    let again = world.counted().read_bytes.get();
    assert_eq!(again, numbered(10..20).len() as u64);
}

#[test]
fn a_kill_between_append_and_fsync_has_nothing_read_again() {
    let (mut world, _) = half_durable();
    world.kill();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    assert_eq!(world.counted().read_bytes.get(), 0);
}

/// Rotates two logs once in each round, one by rename and one by copying and truncating, and keeps three
/// rotated files of each. What is open and remembered when all has come to rest.
fn rotate(world: &mut World, rounds: Range<u32>) -> (usize, usize) {
    for round in rounds {
        for name in ["renamed", "copied"] {
            let (log, to) = (format!("{name}.log"), format!("{name}.log-{round}"));
            world.append(&log, &numbered(2 * round..2 * round + 1));
            world.settle();
            world.append(&log, &numbered(2 * round + 1..2 * round + 2));
            if name == "renamed" {
                world.rename(&log, &to);
            } else {
                world.copy_truncate(&log, &to);
            }
            if let Some(old) = round.checked_sub(3) {
                world.remove(&format!("{name}.log-{old}"));
            }
        }
        world.pass(Duration::from_secs(1));
    }
    world.run_in_steps(LATE + RECONCILE_EVERY * 3, Duration::from_secs(1));
    (open_below(&world.logs), world.spool().positions().len())
}

#[test]
fn a_thousand_rotations_lose_nothing_and_leave_nothing_behind() {
    let mut world = World::new();
    let early = rotate(&mut world, 0..50);
    let late = rotate(&mut world, 50..500);
    assert_eq!(world.lines_of("renamed.log"), expected(0..1_000));
    assert_eq!(world.lines_of("copied.log"), expected(0..1_000));
    assert!(world.losses().is_empty(), "{:?}", world.losses());
    assert_eq!(early, late, "open files and positions");
}
