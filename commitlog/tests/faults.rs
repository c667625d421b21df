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
        if fate == 0 {
            copy.finish();
        }
    }
}

#[test]
fn an_fsync_of_a_log_that_was_closed_says_nothing_of_the_one_in_its_place() {
    let sent = batches(SEED, 6, 1, 100);
    for fails in [false, true] {
        let mut world = World::new(&sent);
        world
            .run(&[Step::Append, Step::Sync, Step::Append])
            .unwrap();
        let of_closed = world.log().start_sync().unwrap();
        world.drop_log();
        world.open().unwrap();
        world.step(Step::Append).unwrap();
        let durable = world.log().durable_end();
        let job = world.log().start_sync().unwrap();
        if fails {
            world.disk.plan(world.disk.calls(), Fault::Io);
        }
        let done = of_closed.run();
        assert_eq!(world.log().finish_sync(done).unwrap(), durable);
        // Its own runs still.
        assert!(world.log().start_sync().is_none());
        let end = world.log().end();
        assert_eq!(world.log().finish_sync(job.run()).unwrap(), end);
    }
}

#[test]
fn a_failed_fsync_closes_the_writer_and_readers_keep_what_is_durable() {
    let sent = batches(SEED, 6, 1, 100);
    let mut world = World::new(&sent);
    world
        .run(&[Step::Append, Step::Append, Step::Sync, Step::Append])
        .unwrap();
    let durable = world.acknowledged;
    world.disk.plan(world.disk.calls(), Fault::Io);
    let failed = world.step(Step::Sync).unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Closed);
    let refused = world.step(Step::Append).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Closed);
    assert!(
        refused.message.contains("until it is opened again"),
        "{refused}"
    );
    assert!(
        world.log().start_sync().is_none(),
        "that file is never synced again"
    );
    assert_eq!(world.everything().1.len(), 2);
    assert_eq!(world.log().durable_end(), durable);
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
