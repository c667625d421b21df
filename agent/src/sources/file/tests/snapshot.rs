//! A position snapshot that the disk did not keep: the agent starts, and goes on where it was.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{expected, numbered};
use crate::spool::SyncTurn;
use crate::testing::World;

/// The snapshot that was written last.
fn newest(spool_dir: &Path) -> PathBuf {
    let paths = ["positions.0", "positions.1"].map(|name| spool_dir.join(name));
    let generation = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        // Behind eight bytes of magic.
        u64::from_be_bytes(bytes[8..16].try_into().unwrap())
    };
    paths.into_iter().max_by_key(generation).unwrap()
}

/// Acknowledges everything and lets segments go.
fn acknowledge(world: &World) {
    let spool = world.spool();
    for partition in spool.partitions() {
        spool.acknowledge(&partition, spool.range(&partition).durable_end);
    }
    while matches!(spool.sync_turn(), SyncTurn::Worked { .. }) {}
}

fn check(damage: impl Fn(Vec<u8>) -> Vec<u8>) {
    let mut world = World::new();
    world.spool_config.segment_bytes = 4096;
    for round in 0..3 {
        world.append("a.log", &numbered(round * 500..(round + 1) * 500));
        world.run_for(Duration::from_secs(2));
        acknowledge(&world);
        world.run_for(Duration::from_secs(2));
        world.stop();
    }
    let snapshot = newest(&world.spool_config.data_dir.join("spool"));
    let whole = std::fs::read(&snapshot).unwrap();
    std::fs::write(&snapshot, damage(whole)).unwrap();
    world.append("a.log", &numbered(1500..1510));
    world.run_for(Duration::from_secs(1));
    // What was acknowledged may still be in a segment; nothing of it is read from the file again.
    let lines = world.lines_of("a.log");
    let first: Vec<&String> = lines
        .iter()
        .take_while(|line| **line != "line 1500")
        .collect();
    assert_eq!(lines[first.len()..], expected(1500..1510));
    assert!(first.len() < 500, "{} lines are read again", first.len());
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_zeroed_snapshot_costs_nothing() {
    check(|whole| vec![0; whole.len()]);
}

#[test]
fn a_half_written_snapshot_costs_nothing() {
    check(|whole| whole[..whole.len() / 2].to_vec());
}

#[test]
fn a_flipped_bit_of_a_snapshot_costs_nothing() {
    check(|mut whole| {
        let middle = whole.len() / 2;
        whole[middle] ^= 4;
        whole
    });
}

#[test]
fn an_empty_snapshot_costs_nothing() {
    check(|_| Vec::new());
}

#[test]
fn without_any_snapshot_lines_come_again_rather_than_not_at_all() {
    let mut world = World::new();
    world.spool_config.segment_bytes = 4096;
    world.append("a.log", &numbered(0..1500));
    world.run_for(Duration::from_secs(2));
    acknowledge(&world);
    world.stop();
    for name in ["positions.0", "positions.1"] {
        let path = world.spool_config.data_dir.join("spool").join(name);
        std::fs::write(path, b"").unwrap();
    }
    world.append("a.log", &numbered(1500..1510));
    world.run_for(Duration::from_secs(1));
    let lines = world.lines_of("a.log");
    assert_eq!(lines[lines.len() - 10..], expected(1500..1510));
    assert!(lines.len() >= 1510, "{} lines", lines.len());
}
