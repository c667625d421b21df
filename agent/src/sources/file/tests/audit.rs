//! Every byte of a file is emitted once, or told as unread with its reason.

use std::time::Duration;

use model::position::Codec;

use super::decompressed::compress;
use super::{expected, numbered};
use crate::files::State;
use crate::limits::{CLOSED_EPOCHS_MAX, COMPRESSED_UNFINISHED, COPY_GRACE, LATE, QUIET};
use crate::sources::file::audit::Why;
use crate::sources::file::{LongLines, StartAt};
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

#[test]
fn a_rotated_file_is_told_as_finished_once() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.settle();
    world.rename("a.log", "old");
    world.run_for(QUIET + LATE + Duration::from_secs(1));
    let whole = ("a.log".to_owned(), 4, Some(0), Why::Finished);
    assert_eq!(world.closed(), [whole]);
    assert!(world.losses().is_empty());
}

#[test]
fn what_was_there_before_the_first_start_is_told_as_passed_over() {
    let mut world = World::new();
    world.config.start_at = StartAt::End;
    world.append("a.log", "before\n");
    world.settle();
    world.append("a.log", "one\n");
    world.settle();
    world.remove("a.log");
    world.run_for(QUIET + LATE + Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one"]);
    assert_eq!(
        world.closed(),
        [("a.log".to_owned(), 4, Some(7), Why::Finished)]
    );
    assert!(world.losses().is_empty());
}

#[test]
fn each_file_says_what_it_waits_for() {
    let mut world = World::new();
    world.append("end.log", "one\n");
    world.append("line.log", "one\ntwo");
    world.append("rotated.log", "one\n");
    world.append("deleted.log", "one\n");
    let _writers = [world.writer("rotated.log"), world.writer("deleted.log")];
    std::os::unix::fs::symlink(world.path("end.log"), world.path("link.log")).unwrap();
    world.settle();
    world.rename("rotated.log", "old");
    world.remove("deleted.log");
    world.append("rotated.log", "two\n");
    world.settle();
    let mut states = world.states();
    states.sort();
    let state = |name: &str, size, offset, state| (name.to_owned(), size, offset, state);
    assert_eq!(
        states,
        [
            state("deleted.log", 4, 4, State::Deleted),
            state("end.log", 4, 4, State::AtEnd),
            state("line.log", 7, 4, State::UnfinishedLine),
            state("link.log", 0, 0, State::OtherPath),
            state("rotated.log", 4, 0, State::Behind),
            state("rotated.log", 4, 4, State::Rotated),
        ]
    );
}

#[test]
fn the_list_of_what_ended_is_bounded_and_keeps_what_was_not_read() {
    let mut world = World::new();
    world.append("lost.log", "unread");
    world.settle();
    world.truncate("lost.log");
    world.run_for(COPY_GRACE * 2);
    for n in 0..2 * CLOSED_EPOCHS_MAX {
        world.append(&format!("{n}.log"), &format!("line {n}\n"));
    }
    world.settle();
    for n in 0..2 * CLOSED_EPOCHS_MAX {
        world.remove(&format!("{n}.log"));
    }
    world.run_for(QUIET + LATE + Duration::from_secs(1));
    let closed = world.closed();
    assert_eq!(closed.len(), CLOSED_EPOCHS_MAX);
    assert_eq!(
        closed[0],
        ("lost.log".to_owned(), 0, Some(6), Why::Truncated)
    );
}

#[test]
fn the_unread_bytes_are_told_by_positions() {
    let mut world = World::new();
    world.append("a.log", "one\nunfinished");
    world.settle();
    let of = |world: &World| {
        world
            .files()
            .files
            .iter()
            .map(|it| it.size - it.offset)
            .sum::<u64>()
    };
    assert_eq!((world.totals().unread_bytes, of(&world)), (10, 10));
    world.append("a.log", "\n");
    world.settle();
    assert_eq!((world.totals().unread_bytes, of(&world)), (0, 0));
}

#[test]
fn lines_that_are_dropped_are_unread_bytes_of_their_file() {
    let mut world = World::new();
    world.config.line_bytes_max = 1024;
    world.config.long_lines = LongLines::Drop;
    let long = "x".repeat(2000);
    world.append("a.log", &format!("one\n{long}\ntwo\n"));
    world.settle();
    world.remove("a.log");
    world.run_for(QUIET + LATE + Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one", "two"]);
    let (_, read, unread, why) = world.closed().remove(0);
    assert_eq!(why, Why::Finished);
    assert_eq!(read + unread.unwrap(), 2009);
    assert_eq!(
        world.losses(),
        [format!("line_too_long 1 {}", unread.unwrap())]
    );
}

#[test]
fn where_a_file_is_that_was_renamed_is_told_as_long_as_it_is_there() {
    let mut world = World::new();
    world.append("a.log", "one\n");
    world.settle();
    world.rename("a.log", "a.1");
    let place = |world: &World| world.files().files[0].detail.clone();
    world.run_for(QUIET * 2);
    let told = format!("it is at {}", world.path("a.1").display());
    assert_eq!(place(&world), Some(told));
    world.run_for(LATE * 2);
    world.rename("a.1", "b");
    world.append("a.1", "another\n");
    world.settle();
    assert_eq!(place(&world), None);
}

#[test]
fn a_compressed_file_that_is_damaged_is_listed_until_it_is_whole() {
    let mut world = World::with_rotated();
    let whole = compress(Codec::Gzip, b"one\n");
    let mut damaged = whole.clone();
    let end = damaged.len() - 6;
    damaged[end] ^= 0xff;
    std::fs::write(world.path("a.log.gz"), damaged).unwrap();
    world.run_for(COMPRESSED_UNFINISHED * 2);
    let listed = ("a.log.gz".to_owned(), 0, 0, State::Unreadable);
    assert_eq!(world.states(), [listed]);
    assert_eq!(world.counted().files_unreadable.get(), 1);
    std::fs::write(world.path("a.log.gz"), whole).unwrap();
    world.run_for(COMPRESSED_UNFINISHED * 2);
    assert_eq!(world.lines_of("a.log.gz"), ["one"]);
    assert_eq!(world.counted().files_unreadable.get(), 0);
}
