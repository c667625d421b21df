//! Rotated files and copies, however fast they follow each other.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use model::position::Codec;

use super::decompressed::compress;
use super::{expected, numbered};
use crate::limits::{COPY_DIRECTORIES_MAX, COPY_GRACE, POLL_EVERY, QUIET, SUSPECTS_OPEN_MAX};
use crate::sources::file::calls::Call;
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

/// Shifts all rotated files of a log by one, rotates it, and begins it anew.
fn rotate(logs: &Path, rotated: u32, lines: &str) {
    let name = |number: u32| logs.join(format!("a.log.{number}"));
    for number in (1..=rotated).rev() {
        fs::rename(name(number), name(number + 1)).unwrap();
    }
    fs::rename(logs.join("a.log"), name(1)).unwrap();
    fs::write(logs.join("a.log"), lines).unwrap();
}

#[test]
fn a_file_that_is_shifted_on_between_its_event_and_the_look_at_it_is_delivered_in_order() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    rotate(&world.logs, 0, &numbered(10..20));
    rotate(&world.logs, 1, &numbered(20..30));
    for (rotated, lines) in [(2, 30..40), (3, 40..50), (4, 50..60)] {
        let logs = world.logs.clone();
        let deed = move || rotate(&logs, rotated, &numbered(lines));
        world.calls.faults.meanwhile(Call::Open, ".log.1", deed);
    }
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..60));
}

#[test]
fn a_file_that_is_rotated_just_before_it_is_opened_comes_before_its_successor() {
    let mut world = World::new();
    world.settle();
    world.append("a.log", &numbered(0..10));
    let logs = world.logs.clone();
    let deed = move || rotate(&logs, 0, &numbered(10..20));
    world.calls.faults.meanwhile(Call::Open, "/a.log", deed);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..20));
}

#[test]
fn a_file_that_cannot_be_opened_where_it_was_moved_to_is_found_by_its_name_and_its_age() {
    let mut world = World::new();
    // What was rotated before the first start is not followed.
    world.append("a.log.7", "old\n");
    let born = |name: &str| fs::metadata(world.path(name)).unwrap().created().unwrap();
    // The clock of the file system has ticks.
    while !world.path("a.log").exists() || born("a.log") == born("a.log.7") {
        fs::remove_file(world.path("a.log")).ok();
        world.append("a.log", &numbered(0..10));
    }
    world.settle();
    rotate(&world.logs, 0, &numbered(10..20));
    rotate(&world.logs, 1, &numbered(20..30));
    // Neither rotated, nor made by a rotation.
    world.append("a.log.swp", "no\n");
    fs::copy(world.path("a.log.2"), world.path("a.log.9")).unwrap();
    world.calls.faults.fail(Call::Open, "a.log.1", libc::EIO);
    let logs = world.logs.clone();
    world.calls.faults.meanwhile(Call::List, "logs", move || {
        fs::rename(logs.join("a.log.1"), logs.join("a.log.5")).unwrap();
    });
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..30));
}

#[test]
fn a_file_that_looked_like_a_copy_and_was_deleted_is_delivered() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..10));
    world.settle();
    // Begins as the other does, and goes on otherwise.
    world.append("a.log.1", &numbered(0..100));
    world.settle();
    assert!(world.lines_of("a.log.1").is_empty());
    world.remove("a.log.1");
    world.run_for(COPY_GRACE * 3);
    assert_eq!(world.lines_of("a.log"), expected(0..10));
    assert_eq!(world.lines_of("a.log.1"), expected(0..100));
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn more_files_that_looked_like_copies_and_were_deleted_than_are_held_open_are_counted() {
    let mut world = World::with_rotated();
    world.append("a.log", &numbered(0..10));
    world.settle();
    let more = 3;
    for number in 0..SUSPECTS_OPEN_MAX + more {
        world.append(&format!("a.log.{number}"), &numbered(0..100));
    }
    world.settle();
    for number in 0..SUSPECTS_OPEN_MAX + more {
        world.remove(&format!("a.log.{number}"));
    }
    world.run_for(COPY_GRACE * 3);
    let delivered = world.lines().len() - 1;
    assert_eq!(delivered, SUSPECTS_OPEN_MAX);
    let lost = numbered(0..100).len() * more;
    assert_eq!(world.losses(), [format!("deleted {more} {lost}")]);
}

#[test]
fn a_copy_is_not_given_up_while_a_directory_cannot_be_listed() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    let mut begun = world.writer("a.log");
    begun.write_all(b"half a line").unwrap();
    world.settle();
    world.calls.faults.fail(Call::List, "logs", libc::EMFILE);
    world.copy_truncate("a.log", "a.log.1");
    world.append("a.log", &numbered(20..30));
    world.run_for(COPY_GRACE * 3);
    assert!(world.losses().is_empty());
    world.calls.faults.heal();
    world.run_for(QUIET * 2);
    let mut all = expected(0..10);
    all.push("half a line".to_owned());
    all.extend(expected(20..30));
    assert_eq!(world.lines_of("a.log"), all);
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_directory_whose_events_do_not_tell_all_is_polled() {
    let mut world = World::new();
    world.calls.faults.fail(Call::Watch, "logs", libc::ENOTSUP);
    world.append("a.log", &numbered(0..10));
    world.settle();
    fs::create_dir(world.path("unwatched")).unwrap();
    fs::hard_link(world.path("a.log"), world.path("unwatched/a")).unwrap();
    world.append("unwatched/a", &numbered(10..20));
    world.run_for(POLL_EVERY * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
}

#[test]
fn a_backup_is_not_taken_for_the_file_that_was_compressed_after_it() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.run_for(Duration::from_secs(3));
    fs::copy(world.path("a.log"), world.path("a.log-backup")).unwrap();
    world.kill();
    world.append("a.log", &numbered(10..20));
    world.remove("a.log");
    let rotated = compress(Codec::Gzip, numbered(0..20).as_bytes());
    fs::write(world.path("a.log-1.gz"), rotated).unwrap();
    world.run_for(COPY_GRACE * 3);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
}

#[test]
fn copies_from_before_the_start_are_not_taken_for_a_renamed_file_that_is_gone() {
    let mut world = World::new();
    for name in ["a.log", "b.log"] {
        world.append(name, &numbered(0..10));
        world.copy_truncate(name, &format!("{name}-1"));
    }
    world.settle();
    world.rename("a.log", "a.log-2");
    world.remove("a.log-2");
    world.run_for(QUIET * 2);
    assert!(world.lines().is_empty(), "{:?}", world.lines());
}

#[test]
fn a_line_of_a_late_writer_that_is_only_in_the_compressed_file_comes_before_the_next_file() {
    let mut world = World::with_rotated();
    world.config.files_open_max = 1;
    world.append("a.log", &numbered(0..10));
    world.settle();
    // Closes the first.
    world.append("b.log", "b\n");
    world.run_for(Duration::from_secs(2));
    world.rename("a.log", "a.log.1");
    world.append("a.log.1", &numbered(10..11));
    let rotated = compress(Codec::Gzip, numbered(0..11).as_bytes());
    // It is looked through once it is quiet.
    let mut compressor = world.writer("a.log.1.gz");
    compressor.write_all(&rotated).unwrap();
    world.remove("a.log.1");
    world.settle();
    world.append("a.log", &numbered(11..20));
    world.run_for(COPY_GRACE * 3);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
}

#[test]
fn a_copy_in_its_own_olddir_is_found_among_many_directories() {
    let mut world = World::new();
    world.config.files = ["*/*.log*", "*/archive/*.log*"]
        .map(|pattern| world.path(pattern).display().to_string())
        .to_vec();
    let apps = COPY_DIRECTORIES_MAX + 4;
    let named = |app: usize| format!("app-{app:02}/{app:02}.log");
    let begun = |app: usize| format!("application {app}\n");
    for app in 0..apps {
        fs::create_dir_all(world.path(&format!("app-{app:02}/archive"))).unwrap();
        world.append(&named(app), &(begun(app) + &numbered(0..10)));
    }
    world.settle();
    for app in 0..apps {
        world.append(&named(app), &numbered(10..20));
        world.copy_truncate(&named(app), &format!("app-{app:02}/archive/{app:02}.log.1"));
        world.append(&named(app), &numbered(20..30));
    }
    world.run_for(COPY_GRACE * 3);
    for app in 0..apps {
        let mut all = vec![begun(app).trim_end().to_owned()];
        all.extend(expected(0..30));
        assert_eq!(world.lines_of(&format!("{app:02}.log")), all);
    }
    assert_eq!(world.lines().len(), apps, "copies are not read");
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_copy_in_one_of_many_directories_below_is_found() {
    let mut world = World::new();
    world.config.files = vec![world.path("**/*.log").display().to_string()];
    for application in 0..20 {
        let directory = world.path(&format!("{application:02}"));
        fs::create_dir(directory).unwrap();
        world.append(&format!("{application:02}/app.log"), "other\n");
    }
    fs::create_dir(world.path("zz")).unwrap();
    world.append("zz/old.log", "old\n");
    world.append("a.log", &numbered(0..100));
    world.settle();
    world.append("a.log", &numbered(100..120));
    world.copy_truncate("a.log", "zz/a.log.1");
    world.append("a.log", &numbered(120..130));
    world.run_for(COPY_GRACE * 3);
    assert_eq!(world.lines_of("a.log"), expected(0..130));
    assert_eq!(world.losses(), [""; 0]);
}
