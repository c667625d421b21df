//! The power-loss explorer: a script works on the log, the power is cut before every call that changes
//! the disk, what was not synced meets many fates, and the log is opened again; and cut again while it
//! recovers, three deep. `STATES=n` explores more.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use commitlog::storage::faulty::Fault;
use support::world::{World, script};
use support::{Random, batches};

const SEED: u64 = 20;
const STATES: u64 = 100_000;
const WORKERS: u64 = 2;

/// The fates that one state went through: enough to go through it again.
#[derive(Debug, Clone)]
#[expect(dead_code, reason = "printed")]
struct Path {
    /// The call of the script before which the power was cut.
    call: u64,
    /// For each cut, what seeded the fate of the un-synced, and before which call of the recovery that
    /// followed the power was cut again.
    cuts: Vec<(u64, Option<u64>)>,
}

#[test]
fn i1_a_power_cut_at_any_call_changes_no_offset_that_was_seen() {
    let states = std::env::var("STATES").map_or(STATES, |states| states.parse().unwrap());
    let sent = batches(SEED, 40, 3, 160);
    let mut clean = World::new(&sent);
    clean.run(&script()).unwrap();
    let calls = clean.disk.calls();
    // A cut, its recovery cut, and that one's recovery cut: three states a path.
    let paths_a_call = states.div_ceil(calls * 3);
    let explored = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (sent, explored) = (&sent, &explored);
            scope.spawn(move || {
                for call in (0..=calls).filter(|call| call % WORKERS == worker) {
                    let cut = cut_before(sent, call);
                    for number in 0..paths_a_call {
                        explored.fetch_add(explore(&cut, call, number), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let explored = explored.into_inner();
    println!("{explored} crash states at {calls} calls");
    assert!(explored >= states, "only {explored} states");
}

#[test]
fn i2_what_was_acknowledged_survives_every_power_cut() {
    let sent = batches(SEED, 40, 3, 160);
    let mut clean = World::new(&sent);
    clean.run(&script()).unwrap();
    for call in 0..=clean.disk.calls() {
        let cut = cut_before(&sent, call);
        for fate in 0..8 {
            let mut world = cut.fork();
            world.disk.restart(fate);
            world.open().unwrap();
            let (end, acknowledged) = (world.log().durable_end(), world.acknowledged);
            assert!(
                end >= acknowledged,
                "{end} of {acknowledged}, call {call}, fate {fate}"
            );
        }
    }
}

#[test]
fn i3_a_recovery_that_is_killed_at_any_call_ends_where_one_that_is_not_does() {
    let sent = batches(SEED, 40, 3, 160);
    let mut clean = World::new(&sent);
    clean.run(&script()).unwrap();
    for call in (0..=clean.disk.calls()).step_by(7) {
        let cut = cut_before(&sent, call);
        cut.disk.restart(call);
        let mut direct = cut.fork();
        let before = direct.disk.calls();
        direct.open().unwrap();
        let expected = direct.everything();
        for first in 0..direct.disk.calls() - before {
            let mut killed = cut.fork();
            // Killed at that call, and the next try a bit later, and the third.
            for (depth, calls) in [first, first + 1, first / 2].into_iter().enumerate() {
                killed
                    .disk
                    .plan(killed.disk.calls() + calls, Fault::PowerCut);
                let opened = killed.open();
                assert!(
                    opened.is_ok() || killed.disk.is_off(),
                    "call {call}, {first}, {depth}"
                );
                killed.drop_log();
                killed.disk.forgive();
                killed.disk.kill();
            }
            killed.open().unwrap();
            assert!(
                killed.everything() == expected,
                "call {call}, killed at {first}"
            );
        }
    }
}

/// The world at the moment the power is cut before a call of the script.
fn cut_before(sent: &[Vec<u8>], call: u64) -> World {
    let mut world = World::new(sent);
    world.disk.plan(call, Fault::PowerCut);
    let done = world.run(&script()).is_ok();
    assert!(
        done != world.disk.is_off(),
        "only the cut stops the script, call {call}"
    );
    world.drop_log();
    world.disk.forgive();
    world
}

/// Goes one way through the fates, and says how many states it saw.
fn explore(cut: &World, call: u64, number: u64) -> u64 {
    let mut random = Random::new(call << 32 | number);
    let mut path = Path {
        call,
        cuts: Vec::new(),
    };
    let mut world = cut.fork();
    for depth in 0..3 {
        let fate = random.next();
        // Few recoveries have more calls; one that ends before its cut is checked at once.
        let again = (depth < 2).then(|| random.below(30));
        path.cuts.push((fate, again));
        let step = catch_unwind(AssertUnwindSafe(|| recover(&mut world, fate, again)));
        if step.unwrap_or_else(|_| panic!("replay with seed {SEED} and {path:?}")) {
            check_apart(&world, &path, number);
        }
    }
    3
}

/// Restarts and opens; whether that got to its end.
fn recover(world: &mut World, fate: u64, cut_again: Option<u64>) -> bool {
    world.drop_log();
    world.disk.restart(fate);
    if let Some(call) = cut_again {
        world.disk.plan(world.disk.calls() + call, Fault::PowerCut);
    }
    match world.open() {
        Ok(()) => {
            world.disk.forgive();
            true
        }
        Err(error) => {
            assert!(world.disk.is_off(), "start-up failed: {error}");
            false
        }
    }
}

/// Checks a copy, so that the world goes on as if nobody had looked. Some copies live to their end.
fn check_apart(world: &World, path: &Path, number: u64) {
    let mut copy = world.fork();
    let checked = catch_unwind(AssertUnwindSafe(|| {
        copy.disk.kill();
        copy.open().unwrap();
        copy.check();
        if number.is_multiple_of(16) {
            copy.finish();
        }
    }));
    assert!(checked.is_ok(), "replay with seed {SEED} and {path:?}");
}
