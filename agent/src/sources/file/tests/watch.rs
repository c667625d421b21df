//! Events: how long they wait, what becomes of lost ones, and what is done without them.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use super::child::{child, is_child};
use super::{expected, numbered};
use crate::limits::{DEAF_MAX, LINGER_FILES_FEW, POLL_EVERY};
use crate::sources::file::calls::Call;
use crate::testing::{World, open_below};

/// Writes so many lines to both files in turn that the kernel loses events of it; how many. Events of one
/// file in a row are one event to the kernel; in turn they are all kept, until there are too many.
fn overflow(one: &mut File, two: &mut File) -> u32 {
    let queue = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let lines = queue.trim().parse::<u32>().unwrap() * 2 / 3;
    for line in numbered(0..lines).split_inclusive('\n') {
        one.write_all(line.as_bytes()).unwrap();
        two.write_all(line.as_bytes()).unwrap();
    }
    lines
}

#[test]
fn nothing_is_missed_when_the_kernels_queue_overflows() {
    let mut world = World::new();
    let (mut one, mut two) = (world.writer("1.log"), world.writer("2.log"));
    world.append("moved.log", &numbered(0..10));
    world.settle();
    let lines = overflow(&mut one, &mut two);
    // No event tells of these.
    world.append("moved.log", &numbered(10..20));
    world.rename("moved.log", "moved.old");
    world.append("moved.log", &numbered(20..30));
    world.append("new.log", "one\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("1.log"), expected(0..lines));
    assert_eq!(world.lines_of("2.log"), expected(0..lines));
    assert_eq!(world.lines_of("moved.log"), expected(0..30));
    assert_eq!(world.lines_of("new.log"), ["one"]);
    assert!(world.losses().is_empty());
}

#[test]
fn a_closed_file_that_was_deleted_while_events_were_lost_is_not_known_to_have_been_read_to_its_end()
{
    let mut world = World::new();
    world.config.files_open_max = 2;
    for name in ["a.log", "idle.log"] {
        world.append(name, &numbered(0..10));
    }
    world.run_for(Duration::from_secs(2));
    let (mut one, mut two) = (world.writer("1.log"), world.writer("2.log"));
    overflow(&mut one, &mut two);
    world.run_for(Duration::from_secs(15));
    // The two that are written, by their writers and by the agent.
    assert_eq!(open_below(&world.logs), 4);
    overflow(&mut one, &mut two);
    world.append("a.log", &numbered(10..20));
    world.remove("a.log");
    // What nothing happened to is seen to be as it was, and not opened for that.
    world
        .calls
        .faults
        .fail(Call::Open, "idle.log", libc::EACCES);
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.counted().files_unreadable.get(), 0);
    world.calls.faults.heal();
    world.remove("idle.log");
    world.run_for(Duration::from_mins(1));
    assert_eq!(world.lines_of("a.log"), expected(0..10));
    assert_eq!(world.losses(), ["deleted 1 0"]);
    let closed = world.closed();
    assert!(
        closed
            .iter()
            .any(|it| it.0.ends_with("idle.log") && it.2 == Some(0)),
        "{closed:?}"
    );
}

#[test]
fn events_wait_while_lines_gather_unless_so_many_come_that_some_could_be_lost() {
    let mut world = World::new();
    let (mut one, mut two) = (world.writer("1.log"), world.writer("2.log"));
    world.settle();
    let mut deaf_after = |writes: u32| {
        for other in 0..LINGER_FILES_FEW {
            world.append(&format!("{other}-.log"), "x\n");
        }
        world.settle();
        world.pass(Duration::from_millis(20));
        for _ in 0..writes {
            one.write_all(b"x\n").unwrap();
            two.write_all(b"x\n").unwrap();
        }
        world.turn();
        world.deaf_for().expect("lines gather")
    };
    assert_eq!(deaf_after(1), DEAF_MAX);
    let many = deaf_after(5_000);
    assert!(many <= Duration::from_millis(10), "{many:?}");
}

#[test]
fn without_watches_files_are_polled() {
    let test = "without_watches_files_are_polled";
    if !is_child() {
        // Watches are counted for each user in each namespace.
        let limit = "echo 0 > /proc/sys/user/max_inotify_watches";
        return child(module_path!(), test, &["unshare", "-Ur"], limit);
    }
    let mut world = World::new();
    world.append("a.log", "1\n");
    world.settle();
    world.append("a.log", "2\n");
    world.append("b.log", "3\n");
    assert!(world.lines_of("b.log").is_empty());
    world.run_for(POLL_EVERY * 2);
    assert_eq!(world.lines_of("a.log"), ["1", "2"]);
    assert_eq!(world.lines_of("b.log"), ["3"]);
    world.rename("a.log", "a.old");
    world.append("a.log", "4\n");
    world.run_for(POLL_EVERY * 2);
    assert_eq!(world.lines_of("a.log"), ["1", "2", "4"]);
    // Once there are watches, events are heard again.
    std::fs::write("/proc/sys/user/max_inotify_watches", "100").unwrap();
    world.run_for(Duration::from_secs(11));
    let looks = world.counted().looks.get();
    world.append("a.log", "5\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["1", "2", "4", "5"]);
    assert_eq!(world.counted().looks.get(), looks);
}

#[test]
fn what_to_raise_when_watches_run_out_is_said_with_its_present_value() {
    let error = std::io::Error::from_raw_os_error(libc::ENOSPC);
    let hint = super::super::watch_hint(&error);
    let present = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap();
    let present: u64 = present.trim().parse().unwrap();
    let wanted = format!(
        "fs.inotify.max_user_watches is {present}: raise it (`sysctl -w fs.inotify.max_user_watches={}`)",
        present * 4
    );
    assert_eq!(hint, wanted);
}

#[test]
fn two_paths_to_one_directory_both_have_events() {
    let mut world = World::new();
    let link = world.logs.parent().unwrap().join("link");
    std::os::unix::fs::symlink(&world.logs, &link).unwrap();
    world.config.files = vec![
        world.path("*.log").display().to_string(),
        link.join("*.txt").display().to_string(),
    ];
    world.append("a.log", "1\n");
    world.append("a.txt", "1\n");
    world.run_for(Duration::from_secs(25));
    world.append("a.log", "2\n");
    world.append("a.txt", "2\n");
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.lines_of("a.log"), ["1", "2"]);
    assert_eq!(world.lines_of("a.txt"), ["1", "2"]);
    // No look at everything has met it under its own name.
    world.append("b.log", "1\n");
    world.run_for(Duration::from_secs(2));
    world.rename("b.log", "b.old");
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.lines_of("b.log"), ["1"]);
}
