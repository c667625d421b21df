//! Every changing call fails once, in every way; after that the log goes on, opened again where it must
//! be, and at the end the power is cut: what was acknowledged after the fault is as safe as before. This
//! is what a failed fsync whose retry succeeds would break.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use commitlog::error::ErrorKind;
use commitlog::storage::faulty::Fault;
use support::batches;
use support::world::{Step, World, passes, script};

const SEED: u64 = 21;
/// More than an operator would try by hand.
const TRIES_MAX: usize = 5;

#[test]
fn i4_a_failed_write_or_fsync_closes_the_log_and_costs_nothing_acknowledged() {
    each_call_fails(Fault::Io);
}

#[test]
fn i5_a_full_disk_passes_and_costs_nothing() {
    each_call_fails(Fault::Full);
}

#[test]
fn short_writes_are_finished() {
    each_call_fails(Fault::Short);
}

fn each_call_fails(fault: Fault) {
    let sent = batches(SEED, 40, 3, 160);
    let mut clean = World::new(&sent);
    clean.run(&script()).unwrap();
    let calls = clean.disk.calls();
    for call in 0..calls {
        let lived = catch_unwind(AssertUnwindSafe(|| live_through(&sent, call, fault)));
        assert!(lived.is_ok(), "seed {SEED}, {fault:?} at call {call}");
    }
}

fn live_through(sent: &[Vec<u8>], call: u64, fault: Fault) {
    let mut world = World::new(sent);
    world.disk.plan(call, fault);
    open_again(&mut world);
    for step in script() {
        persist(&mut world, step);
    }
    persist(&mut world, Step::Sync);
    for fate in 0..12 {
        let mut copy = world.fork();
        copy.disk.restart(fate);
        copy.open().unwrap();
        copy.check();
        copy.finish();
    }
}

/// Does a step as an owner would: what passes is tried again, what closes the log has it opened again.
fn persist(world: &mut World, step: Step) {
    for _ in 0..TRIES_MAX {
        let Err(error) = world.step(step) else {
            return;
        };
        if !passes(&error) {
            assert_eq!(error.kind, ErrorKind::Closed, "{error}");
            open_again(world);
        } else if !world.is_open() {
            open_again(world);
        }
    }
    panic!("{step:?} never succeeds");
}

/// Opens the log on the running machine: the page cache is what it was.
fn open_again(world: &mut World) {
    world.drop_log();
    for _ in 0..TRIES_MAX {
        if world.open().is_ok() {
            return world.check();
        }
    }
    panic!("the log never opens");
}
