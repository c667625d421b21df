//! What many files cost: descriptors, looks at the disk, batches.

use std::fs;
use std::time::Duration;

use model::position::Codec;

use super::child::{child, is_child};
use super::decompressed::compress;
use super::{expected, numbered};
use crate::limits::{
    COPY_GRACE, FILES_IDLE_OPEN, IDLE_CLOSED_AFTER, LATE, LOOK_EVERY, QUIET, READ_BYTES,
    RECONCILE_EVERY, STAT_FILES_MIN, SUSPECTS_OPEN_MAX, VETTINGS_WAITING_MAX,
};
use crate::sources::file::audit::Why;
use crate::testing::World;

/// Names of which none could be another's after a rotation.
fn name(file: u32) -> String {
    format!("{file:04}.log")
}

/// Descriptors of this process that lead below the world's logs.
fn open_files(world: &World) -> usize {
    let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
    links
        .filter_map(|link| fs::read_link(link.path()).ok())
        .filter(|to| to.starts_with(&world.logs) && *to != world.logs)
        .count()
}

#[test]
fn open_files_are_bounded_from_the_first_look_on() {
    let mut world = World::new();
    world.config.files_open_max = 20;
    for file in 0..300 {
        world.append(&name(file), &numbered(0..3));
    }
    world.turn();
    assert!(open_files(&world) <= 21, "{}", open_files(&world));
    world.settle();
    assert!(open_files(&world) <= 21, "{}", open_files(&world));
    for file in 0..300 {
        assert_eq!(world.lines_of(&name(file)), expected(0..3));
    }
}

#[test]
fn idle_files_are_closed_but_for_those_that_grew_last_and_followed_on() {
    let mut world = World::new();
    let files = u32::try_from(FILES_IDLE_OPEN).unwrap() * 5;
    for file in 0..files {
        world.append(&name(file), &numbered(0..1));
    }
    world.settle();
    assert_eq!(open_files(&world), FILES_IDLE_OPEN * 5);
    world.run_for(IDLE_CLOSED_AFTER * 2);
    assert_eq!(open_files(&world), FILES_IDLE_OPEN);
    for file in 0..files {
        world.append(&name(file), &numbered(1..2));
    }
    // Rotated while it is closed.
    world.rename(&name(0), "0.old");
    world.append(&name(0), &numbered(2..3));
    world.run_for(IDLE_CLOSED_AFTER * 2);
    for file in 0..files {
        let end = if file == 0 { 3 } else { 2 };
        assert_eq!(world.lines_of(&name(file)), expected(0..end));
    }
    assert!(world.losses().is_empty());
}

#[test]
fn what_is_written_to_one_of_a_few_idle_files_and_deleted_at_once_is_delivered() {
    let mut world = World::new();
    world.append("a.log", "1\n");
    world.run_for(IDLE_CLOSED_AFTER * 3);
    world.append("a.log", "2\n");
    world.remove("a.log");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["1", "2"]);
}

#[test]
fn a_rotated_file_stays_open_while_others_need_descriptors() {
    let mut world = World::new();
    world.config.files_open_max = 4;
    let mut writer = world.writer("a.log");
    std::io::Write::write_all(&mut writer, b"1\n").unwrap();
    world.settle();
    world.remove("a.log");
    world.settle();
    for file in 0..30 {
        world.append(&name(file), &numbered(0..1));
    }
    world.settle();
    std::io::Write::write_all(&mut writer, b"2\n").unwrap();
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["1", "2"]);
}

#[test]
fn a_process_without_descriptors_loses_nothing_and_goes_on() {
    let test = "a_process_without_descriptors_loses_nothing_and_goes_on";
    if !is_child() {
        return child(module_path!(), test, &[], "ulimit -n 64");
    }
    let mut world = World::new();
    world.config.files_open_max = 20;
    for file in 0..100 {
        world.append(&name(file), &numbered(0..2));
    }
    world.run_for(Duration::from_secs(5));
    // Others take what is left, while files are written, rotated and made.
    let mut taken = Vec::new();
    for file in 0..100 {
        world.append(&name(file), &numbered(2..3));
    }
    world.rename(&name(7), "7.old");
    world.append(&name(7), &numbered(3..4));
    world.append("new.log", "new\n");
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file);
    }
    world.run_for(Duration::from_secs(15));
    taken.clear();
    world.run_for(Duration::from_secs(15));
    for file in 0..100 {
        let end = if file == 7 { 4 } else { 3 };
        assert_eq!(world.lines_of(&name(file)), expected(0..end), "{file}");
    }
    assert_eq!(world.lines_of("new.log"), ["new"]);
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_file_that_may_not_be_read_for_a_while_goes_on_where_it_was() {
    let test = "a_file_that_may_not_be_read_for_a_while_goes_on_where_it_was";
    if !is_child() {
        // Root may read everything.
        let user = ["setpriv", "--reuid=65534", "--clear-groups"];
        return child(module_path!(), test, &user, "true");
    }
    let allow = |world: &World, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(world.path("a.log"), mode).unwrap();
    };
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    let mut writer = world.writer("a.log");
    world.kill();
    allow(&world, 0o000);
    std::io::Write::write_all(&mut writer, numbered(10..20).as_bytes()).unwrap();
    world.run_for(Duration::from_secs(15));
    assert_eq!(world.lines_of("a.log"), expected(0..10));
    assert_eq!(world.counted().files_unreadable.get(), 1);
    allow(&world, 0o600);
    world.run_for(Duration::from_secs(15));
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    assert_eq!(world.counted().files_unreadable.get(), 0);
    assert!(world.losses().is_empty());
}

#[test]
fn a_directory_that_did_not_change_is_not_listed_again() {
    let mut world = World::new();
    // These were written long before the test runs; a listing of a directory that changed within the
    // last seconds is not relied on.
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/src/pipeline/*.rs");
    world.config.files = vec![old.to_owned()];
    world.run_for(Duration::from_secs(61));
    let before = world.counted().looks.get();
    world.run_for(Duration::from_mins(1));
    let looks = world.counted().looks.get() - before;
    let files = u64::try_from(world.counted().files.get()).unwrap();
    assert!(files > 0);
    // Few files are all asked for their length each time.
    assert_eq!(looks, 6 * files);
}

#[test]
fn the_first_listing_after_files_were_begun_asks_none_of_them() {
    let mut world = World::new();
    let files = u32::try_from(STAT_FILES_MIN).unwrap() + 500;
    for file in 0..files {
        world.append(&name(file), &numbered(0..1));
    }
    world.run_for(Duration::from_secs(5));
    let before = world.counted().looks.get();
    // The directory was new when it was listed first.
    world.run_for(Duration::from_secs(10));
    let looks = world.counted().looks.get() - before;
    // Some files are asked for their length each time, whatever changed.
    assert!(looks <= STAT_FILES_MIN as u64 + 1, "{looks} looks");
}

#[test]
fn lines_of_many_files_share_few_batches() {
    let mut world = World::new();
    for file in 0..100 {
        world.append(&name(file), &numbered(0..1));
    }
    world.settle();
    let before = world.batches();
    // A line each millisecond, for a second.
    for line in 0..1000 {
        world.append(&name(line % 100), &numbered(1..2));
        world.pass(Duration::from_millis(1));
        world.turn();
    }
    world.settle();
    let batches = world.batches() - before;
    // Four partitions, cut all at once.
    assert!((4 * 10..=4 * 20).contains(&batches), "{batches} batches");
}

#[test]
fn while_the_spool_is_full_files_are_looked_at_once_a_second_and_nothing_is_lost() {
    let mut world = World::new();
    world.spool_config.bytes_max = 1;
    world.append("a.log", &numbered(0..10));
    world.append("b.log", &numbered(0..10));
    world.run_for(Duration::from_secs(2));
    let mut lines = Vec::new();
    for _ in 0..20 {
        world.append("a.log", &"x".repeat(READ_BYTES / 100));
        world.run_for(LOOK_EVERY / 10);
        lines.push(world.lines_of("a.log").len());
    }
    assert!(lines.iter().all(|&count| count == lines[0]));
    world.append("a.log", "\n");
    world.kill();
    world.spool_config.bytes_max = 1 << 30;
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.lines_of("a.log").len(), 11);
    assert_eq!(world.lines_of("b.log"), expected(0..10));
    assert!(world.losses().is_empty());
}

/// Rotates a log as often as this, with ten lines in each file.
fn rotate(world: &mut World, rotations: std::ops::Range<u32>, each: Duration) {
    for number in rotations {
        world.append("a.log", &numbered(number * 10..number * 10 + 10));
        world.settle();
        world.rename("a.log", &format!("a.log.{number}"));
        world.run_for(each);
    }
}

#[test]
fn rotated_files_that_are_finished_are_closed_first_and_told_once() {
    let mut world = World::new();
    world.config.files_open_max = 20;
    for file in 0..10 {
        world.append(&name(file), &numbered(0..1));
    }
    world.settle();
    for number in 0..40 {
        rotate(&mut world, number..number + 1, Duration::from_millis(50));
        assert!(open_files(&world) <= 20, "{}", open_files(&world));
    }
    // Idle files are written and deleted at once: they were not closed for the rotated ones.
    for file in 0..10 {
        world.append(&name(file), &numbered(1..2));
        world.remove(&name(file));
    }
    world.run_for(LATE * 2);
    for file in 0..10 {
        assert_eq!(world.lines_of(&name(file)), expected(0..2));
    }
    assert_eq!(world.lines_of("a.log"), expected(0..400));
    let closed = world.closed();
    let told = closed.iter().filter(|(path, ..)| path.ends_with("a.log"));
    assert_eq!(told.count(), 40);
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_late_line_to_a_finished_file_that_was_closed_early_is_delivered() {
    let mut world = World::new();
    world.config.files_open_max = 2;
    rotate(&mut world, 0..8, Duration::from_secs(1));
    // It was shifted on since, and is told by an event.
    world.rename("a.log.1", "a.log.0.1");
    world.append("a.log.0.1", "late\n");
    world.settle();
    world.run_for(Duration::from_millis(200));
    assert_eq!(world.lines_of("a.log").last().unwrap(), "late");
    // Where no event tells of it, a look does.
    fs::create_dir(world.path("unwatched")).unwrap();
    fs::hard_link(world.path("a.log.2"), world.path("unwatched/a")).unwrap();
    world.append("unwatched/a", "later\n");
    world.run_for(RECONCILE_EVERY * 2);
    let lines = world.lines_of("a.log");
    assert_eq!(lines.last().unwrap(), "later");
    assert_eq!(lines.len(), 82);
    assert!(open_files(&world) <= 2);
    world.run_for(LATE * 3);
    assert_eq!(world.lines_of("a.log").len(), 82);
    assert_eq!(world.closed().len(), 8);
}

/// A world whose spool is full, so that nothing is read.
fn blocked() -> World {
    let mut world = World::new();
    world.config.files_open_max = 20;
    world.config.files_detached_max = 30;
    world.settle();
    world.kill();
    world.spool_config.bytes_max = 1;
    world
}

#[test]
fn rotated_files_that_wait_for_a_full_spool_are_bounded_and_found_again_by_their_names() {
    let mut world = blocked();
    world.append("b.log", "first\n");
    world.settle();
    for number in 0..60 {
        rotate(&mut world, number..number + 1, Duration::from_millis(50));
        assert!(open_files(&world) <= 30, "{}", open_files(&world));
    }
    // They are shifted on while they are closed.
    for number in 0..60 {
        let name = format!("a.log.{number}");
        world.rename(&name, &format!("a.old.{number}"));
    }
    world.run_for(Duration::from_secs(1));
    world.kill();
    world.spool_config.bytes_max = 1 << 30;
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.lines_of("a.log").len(), 600);
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn deleted_files_that_wait_for_a_full_spool_are_bounded_and_what_is_given_up_is_counted() {
    let mut world = blocked();
    let mut written = 0;
    for number in 0..60 {
        world.append("a.log", &numbered(number * 10..number * 10 + 10));
        written += numbered(number * 10..number * 10 + 10).len() as u64;
        world.settle();
        world.remove("a.log");
        world.run_for(Duration::from_millis(50));
        assert!(open_files(&world) <= 30, "{}", open_files(&world));
    }
    let given_up = world.closed();
    let why = |why| given_up.iter().filter(move |it| it.3 == why);
    let lost: u64 = why(Why::NoDescriptor).map(|it| it.2.unwrap()).sum();
    assert_eq!(why(Why::NoDescriptor).count(), 30);
    assert!(lost > 0 && lost < written);
}

#[test]
fn files_that_may_be_copies_are_among_those_that_may_be_open() {
    let mut world = World::with_rotated();
    world.config.files_open_max = 20;
    for file in 0..19 {
        world.append(&name(file), &numbered(0..1));
    }
    world.append("a.log", &numbered(0..10));
    world.run_for(Duration::from_secs(2));
    for number in 0..SUSPECTS_OPEN_MAX {
        world.append(&format!("a.log.{number}"), &numbered(0..100));
    }
    world.settle();
    assert!(open_files(&world) <= 20, "{}", open_files(&world));
    assert_eq!(world.totals().open_files, open_files(&world) as u64);
    // Files that are written to meanwhile are opened in the place of each other.
    for file in 0..19 {
        world.append(&name(file), &numbered(1..2));
        world.settle();
        assert!(open_files(&world) <= 20, "{}", open_files(&world));
    }
    world.run_for(COPY_GRACE * 3);
    for number in 0..SUSPECTS_OPEN_MAX {
        assert_eq!(world.lines_of(&format!("a.log.{number}")), expected(0..100));
    }
    for file in 0..19 {
        assert_eq!(world.lines_of(&name(file)), expected(0..2));
    }
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_deleted_file_is_not_given_up_for_one_that_may_be_a_copy() {
    let mut world = World::with_rotated();
    (world.config.files_open_max, world.config.files_detached_max) = (4, 4);
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.kill();
    world.spool_config.bytes_max = 1;
    world.settle();
    for number in 0..2 {
        world.append(&format!("a.log.{number}"), &numbered(0..100));
    }
    world.settle();
    for file in 0..4 {
        world.append(&name(file), &numbered(0..1));
        world.settle();
        world.remove(&name(file));
        world.settle();
        assert!(open_files(&world) <= 4, "{}", open_files(&world));
    }
    assert_eq!(world.closed(), []);
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_compressed_file_that_is_looked_through_is_among_those_that_may_be_open() {
    let mut world = World::with_rotated();
    world.config.files_open_max = 4;
    for file in 0..4 {
        world.append(&name(file), &numbered(0..1));
    }
    world.run_for(Duration::from_secs(2));
    let long = numbered(0..1_000_000);
    fs::write(
        world.path("b.log.gz"),
        compress(Codec::Gzip, long.as_bytes()),
    )
    .unwrap();
    let is_looked_through = |world: &World| {
        let links = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let mut open = links.filter_map(|link| fs::read_link(link.path()).ok());
        let path = world.path("b.log.gz");
        open.any(|open| open == path)
    };
    for _ in 0..1000 {
        world.turn();
        if is_looked_through(&world) {
            break;
        }
        world.pass(Duration::from_millis(50));
    }
    assert!(is_looked_through(&world));
    assert_eq!(world.totals().open_files, open_files(&world) as u64);
    world.append("c.log", "c\n");
    world.turn();
    assert!(is_looked_through(&world));
    assert_eq!(open_files(&world), 4);
}

#[test]
fn of_many_deleted_files_those_that_were_deleted_first_are_given_up_at_once() {
    let mut world = blocked();
    world.config.files_open_max = 100;
    world.config.files_detached_max = 100;
    world.append("b.log", "first\n");
    world.settle();
    for number in 0..60 {
        world.append("a.log", &"x".repeat(number + 1));
        world.settle();
        world.remove("a.log");
        world.run_for(Duration::from_millis(50));
    }
    assert_eq!(open_files(&world), 61);
    world.config.files_open_max = 30;
    world.config.files_detached_max = 30;
    world.reload();
    world.turn();
    // One more was opened since.
    assert!(open_files(&world) <= 31, "{}", open_files(&world));
    let given_up = world.closed().into_iter();
    let unread: Vec<_> = given_up.filter_map(|it| it.2).collect();
    assert_eq!(unread, (1..=30).collect::<Vec<u64>>());
}

#[test]
fn a_deleted_file_that_is_read_is_closed_before_one_that_is_not_is_given_up() {
    let mut world = World::with_rotated();
    world.spool_config.bytes_max = 100_000;
    world.config.files_detached_max = 2;
    world.append("read.log", &numbered(0..10));
    world.settle();
    // It is held while somebody is to write what may be its copy.
    let compressor = world.writer("read.log.1.gz");
    // More than the spool takes, so that it stays unread.
    world.append("big.log", &numbered(0..1_000_000));
    world.turn();
    world.remove("big.log");
    world.run_for(Duration::from_secs(2));
    world.remove("read.log");
    world.run_for(QUIET * 2);
    assert_eq!(open_files(&world), 3);
    world.append("new.log", &numbered(0..10));
    world.run_for(Duration::from_secs(1));
    assert_eq!(open_files(&world), 3);
    drop(compressor);
    assert!(world.losses().is_empty(), "{:?}", world.losses());
    assert!(world.closed().iter().all(|it| it.2 == Some(0)));
}

#[test]
fn compressed_files_beyond_those_that_may_wait_come_when_there_is_room() {
    let mut world = World::with_rotated();
    world.append("z.log", &numbered(0..100));
    world.run_for(Duration::from_secs(2));
    world.stop();
    world.append("z.log", &numbered(100..110));
    let content = fs::read(world.path("z.log")).unwrap();
    // The name that comes last.
    fs::write(world.path("z.log.1.gz"), compress(Codec::Gzip, &content)).unwrap();
    world.remove("z.log");
    world.append("z.log", &numbered(110..120));
    let files = VETTINGS_WAITING_MAX + 100;
    for file in 0..files {
        let text = format!("{file}\n");
        let name = format!("{file:05}.log.gz");
        fs::write(world.path(&name), compress(Codec::Gzip, text.as_bytes())).unwrap();
    }
    world.run_for(COPY_GRACE * 2);
    let lines = world.lines();
    assert_eq!(lines["z.log"], expected(0..120));
    assert_eq!(lines.len(), files + 1);
    for (name, lines) in lines.iter().filter(|(name, _)| *name != "z.log") {
        assert_eq!(lines.len(), 1, "{name}");
    }
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}
