//! Files that begin like another one, which they may be named after, and are no copies of it.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, SystemTime};

use super::{expected, numbered, only};
use crate::files::State;
use crate::limits::{COPY_BYTES_PER_SECOND_MIN, COPY_GRACE, HOLD_MAX, QUIET};
use crate::sources::file::StartAt;
use crate::testing::World;

/// A second worker is started after the first, which begins its log in the same way.
fn workers(banner: &str) -> World {
    let mut world = World::new();
    world.append("worker-1.log", &format!("{banner}worker 1\n"));
    world.settle();
    world.append("worker-10.log", banner);
    world.settle();
    world
}

#[test]
fn a_file_that_begins_like_another_and_grows_is_read_once_it_differs() {
    for banner in ["starting\n".to_owned(), numbered(0..1000)] {
        let mut world = workers(&banner);
        let lines = banner.lines().count();
        assert!(world.lines_of("worker-10.log").is_empty());
        for second in 0..20 {
            world.append("worker-10.log", &format!("worker 10 {second}\n"));
            world.run_for(Duration::from_secs(1));
            let read = world.lines_of("worker-10.log").len();
            assert_eq!(read, lines + second + 1, "{:?}", world.states());
        }
        assert_eq!(world.lines_of("worker-1.log").len(), lines + 1);
        assert!(world.losses().is_empty());
    }
}

#[test]
fn a_file_that_goes_on_like_another_for_ever_is_read_in_bounded_time() {
    let mut world = World::new();
    world.append("worker-1.log", &numbered(0..10_000));
    world.settle();
    let seconds = u32::try_from(HOLD_MAX.as_secs()).unwrap() + 5;
    for second in 0..seconds {
        world.append("worker-10.log", &numbered(second..second + 1));
        world.run_for(Duration::from_secs(1));
    }
    assert_eq!(world.lines_of("worker-10.log"), expected(0..seconds));
}

#[test]
fn a_copy_that_is_made_slowly_is_not_read_twice() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..1000));
    world.settle();
    world.append("a.log", &numbered(1000..1100));
    let mut copy = world.writer("a.log.1");
    for piece in numbered(0..1100).as_bytes().chunks(300) {
        copy.write_all(piece).unwrap();
        world.run_for(Duration::from_secs(1));
    }
    world.append("a.log", &numbered(1100..1200));
    copy.write_all(numbered(1100..1200).as_bytes()).unwrap();
    world.truncate("a.log");
    world.append("a.log", &numbered(1200..1300));
    world.run_for(COPY_GRACE * 3);
    only(&world, &expected(0..1300));
}

#[test]
fn a_copy_that_takes_long_because_its_file_is_long_is_not_read_on_its_own() {
    let mut world = World::with_rotated();
    world.config.start_at = StartAt::End;
    let seconds = HOLD_MAX.as_secs() * 2;
    let length = seconds * COPY_BYTES_PER_SECOND_MIN;
    let fill = |name: &str, length: u64| {
        let file = world.writer(name);
        file.set_len(length).unwrap();
    };
    world.append("a.log", &numbered(0..1000));
    fill("a.log", length);
    world.append("a.log", "\nbefore\n");
    let (logs, mut run) = (world.path("a.log.1"), world);
    run.settle();
    run.append("a.log.1", &numbered(0..1000));
    for second in 1..=seconds {
        let copy = std::fs::OpenOptions::new()
            .append(true)
            .open(&logs)
            .unwrap();
        copy.set_len(second * COPY_BYTES_PER_SECOND_MIN).unwrap();
        run.run_in_steps(Duration::from_secs(1), Duration::from_millis(500));
    }
    run.append("a.log.1", "\nbefore\n");
    for name in ["a.log", "a.log.1"] {
        run.append(name, "rest\n");
    }
    run.truncate("a.log");
    run.append("a.log", "new\n");
    run.run_for(COPY_GRACE * 3);
    only(&run, &["rest".to_owned(), "new".to_owned()]);
}

#[test]
fn what_was_too_old_of_a_file_that_begins_like_another_stays_passed_over_when_it_grows() {
    let mut world = World::new();
    world.config.ignore_older = Some(Duration::from_hours(1));
    world.append("worker-1.log", "starting\nworker 1\n");
    world.settle();
    let mut old = world.writer("worker-10.log");
    old.write_all(b"starting\n").unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    old.set_modified(long_ago).unwrap();
    world.settle();
    old.set_modified(SystemTime::now()).unwrap();
    world.append("worker-10.log", "worker 10\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("worker-10.log"), ["worker 10"]);
}

#[test]
fn what_is_unread_of_a_file_that_may_be_a_copy_is_told() {
    let mut world = workers("starting\n");
    assert_eq!(world.totals().unread_bytes, "starting\n".len() as u64);
    world.run_for(COPY_GRACE * 2);
    assert_eq!(world.totals().unread_bytes, 0);
}

/// The second worker's log is replaced while it may be a copy, and its writer writes on to the old one.
fn replaced_while_suspected(to: Option<&str>) -> (World, File) {
    let mut world = workers("starting\n");
    let old = world.writer("worker-10.log");
    match to {
        Some(to) => world.rename("worker-10.log", to),
        None => world.remove("worker-10.log"),
    }
    world.append("worker-10.log", "other\n");
    world.settle();
    assert_eq!(world.lines_of("worker-10.log"), ["other"]);
    world.run_for(COPY_GRACE + Duration::from_secs(1));
    (world, old)
}

#[test]
fn a_file_that_was_no_copy_and_is_gone_comes_before_the_one_in_its_place() {
    for to in [None, Some("old")] {
        let (mut world, mut old) = replaced_while_suspected(to);
        world.append("worker-10.log", "more\n");
        world.settle();
        old.write_all(b"late\n").unwrap();
        drop(old);
        world.run_for(QUIET * 2);
        let lines = ["other", "starting", "late", "more"];
        assert_eq!(world.lines_of("worker-10.log"), lines);
        world.append("worker-10.log", "again\n");
        world.run_for(QUIET * 2);
        assert_eq!(world.lines_of("worker-10.log").last().unwrap(), "again");
        let size = "other\nmore\nagain\n".len() as u64;
        let live = ("worker-10.log".to_owned(), size, size, State::AtEnd);
        assert!(world.states().contains(&live), "{:?}", world.states());
        assert!(world.losses().is_empty());
    }
}

#[test]
fn a_file_that_was_no_copy_comes_before_the_one_in_its_place_also_after_a_restart() {
    let (mut world, mut old) = replaced_while_suspected(Some("old"));
    world.settle();
    world.kill();
    world.append("worker-10.log", "more\n");
    world.rename("worker-10.log", "older");
    old.write_all(b"late\n").unwrap();
    drop(old);
    world.run_for(QUIET * 2);
    let lines = ["other", "starting", "late", "more"];
    assert_eq!(world.lines_of("worker-10.log"), lines);
    assert!(world.losses().is_empty());
}

#[test]
fn files_that_were_no_copies_and_had_one_name_are_read_in_their_order() {
    for pause in [Duration::ZERO, Duration::from_secs(1)] {
        let mut world = workers("starting\n");
        let mut writers = Vec::new();
        for to in ["1", "2", "3"] {
            writers.push(world.writer("worker-10.log"));
            world.rename("worker-10.log", to);
            world.append("worker-10.log", "starting\n");
            world.run_for(pause);
        }
        world.run_for(COPY_GRACE + Duration::from_millis(100));
        for (number, writer) in writers.iter_mut().enumerate().rev() {
            writeln!(writer, "late {number}").unwrap();
        }
        drop(writers);
        world.run_for(QUIET * 4);
        let lines = world.lines_of("worker-10.log").into_iter();
        let late: Vec<_> = lines.filter(|line| line != "starting").collect();
        assert_eq!(late, ["late 0", "late 1", "late 2"]);
        assert_eq!(world.lines_of("worker-10.log").len(), 7);
    }
}

#[test]
fn a_file_that_was_no_copy_and_is_gone_comes_after_the_one_in_whose_place_it_was() {
    for to in [None, Some("old")] {
        let mut world = World::new();
        world.append("worker-1.log", "starting\nworker 1\n");
        world.append("worker-10.log", "first\n");
        world.settle();
        world.append("new", "starting\n");
        world.rename("new", "worker-10.log");
        world.settle();
        match to {
            Some(to) => world.rename("worker-10.log", to),
            None => world.remove("worker-10.log"),
        }
        world.run_for(COPY_GRACE + QUIET * 2);
        assert_eq!(world.lines_of("worker-10.log"), ["first", "starting"]);
    }
}

#[test]
fn a_file_that_may_be_a_copy_and_lost_its_name_is_read_after_a_reload() {
    for to in [None, Some("old")] {
        for is_removed in [false, true] {
            let mut world = workers("starting\n");
            match to {
                Some(to) => world.rename("worker-10.log", to),
                None => world.remove("worker-10.log"),
            }
            world.settle();
            let mut config = world.config.clone();
            if is_removed {
                config.files.clear();
            }
            world.reload_to(&[config]);
            world.run_for(COPY_GRACE + QUIET * 2);
            let lines = world.lines_of("worker-10.log");
            assert_eq!(lines, ["starting"], "{to:?} {is_removed}");
            assert_eq!(world.lines_of("worker-1.log").len(), 2);
            assert!(world.losses().is_empty());
        }
    }
}

#[test]
fn a_file_that_may_be_a_copy_does_not_wait_behind_what_took_its_name_after_a_reload() {
    let mut world = workers("starting\n");
    world.settle();
    world.remove("worker-10.log");
    world.append("worker-10.log", "other\n");
    world.settle();
    world.reload();
    world.run_for(COPY_GRACE + QUIET * 2);
    assert_eq!(world.lines_of("worker-10.log"), ["other", "starting"]);
    assert!(world.losses().is_empty());
}

#[test]
fn a_file_that_may_be_a_copy_and_has_its_name_is_read_once_after_a_reload() {
    let mut world = workers("starting\n");
    world.settle();
    world.reload();
    world.run_for(COPY_GRACE + QUIET * 2);
    assert_eq!(world.lines_of("worker-10.log"), ["starting"]);
    let mut config = world.config.clone();
    world.append("worker-11.log", "starting\n");
    world.settle();
    config.files.clear();
    world.reload_to(&[config]);
    world.run_for(COPY_GRACE + QUIET * 2);
    assert!(
        world.lines_of("worker-11.log").is_empty(),
        "nobody means it"
    );
}
