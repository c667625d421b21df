//! Which files are found, by which names, and where they are begun.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sources::file::StartAt;
use crate::testing::World;

const DAY: Duration = Duration::from_hours(24);

/// Sets when a file was last written, so long before the world's present.
fn set_age(world: &World, name: &str, age: Duration) {
    let now = u64::try_from(world.clock()().0).unwrap();
    let written = UNIX_EPOCH + Duration::from_millis(now) - age;
    let file = File::options().append(true).open(world.path(name)).unwrap();
    file.set_modified(written).unwrap();
}

#[test]
fn a_hard_linked_file_is_read_once_whichever_name_is_written() {
    let mut world = World::new();
    world.append("a.log", "1\n");
    fs::hard_link(world.path("a.log"), world.path("b.log")).unwrap();
    world.settle();
    world.append("b.log", "2\n");
    world.settle();
    world.remove("a.log");
    world.append("b.log", "3\n");
    world.run_for(Duration::from_secs(30));
    world.kill();
    world.run_for(Duration::from_secs(30));
    let mut lines: Vec<String> = world.lines().into_values().flatten().collect();
    lines.sort();
    assert_eq!(lines, ["1", "2", "3"]);
}

#[test]
fn a_link_to_a_followed_file_is_read_once() {
    let mut world = World::new();
    world.append("b.log", "1\n");
    symlink(world.path("b.log"), world.path("a.log")).unwrap();
    world.settle();
    world.append("b.log", "2\n");
    world.run_for(Duration::from_secs(30));
    let lines: Vec<String> = world.lines().into_values().flatten().collect();
    assert_eq!(lines, ["1", "2"]);
}

#[test]
fn a_link_that_leads_elsewhere_is_drained_and_then_read_anew() {
    let mut world = World::new();
    fs::create_dir(world.path("real")).unwrap();
    world.append("real/1", "1\n");
    symlink(world.path("real/1"), world.path("a.log")).unwrap();
    world.settle();
    world.append("real/1", "2\n");
    world.append("real/2", "3\n");
    symlink(world.path("real/2"), world.path("new")).unwrap();
    world.rename("new", "a.log");
    world.run_for(Duration::from_secs(10));
    world.append("real/2", "4\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["1", "2", "3", "4"]);
}

#[test]
fn a_name_may_have_any_bytes_and_the_record_bears_them() {
    let mut world = World::new();
    let longest = [&b"x".repeat(251)[..], b".log"].concat();
    let names: [(&[u8], &str); 4] = [
        (b"caf\xe9 \xff.log", r"caf\xe9 \xff.log"),
        (b"two\nlines.log", "two\nlines.log"),
        (b"\x1b[2J.log", "\x1b[2J.log"),
        (&longest, std::str::from_utf8(&longest).unwrap()),
    ];
    for (name, _) in names {
        fs::write(world.logs.join(OsStr::from_bytes(name)), b"one\n").unwrap();
    }
    world.settle();
    world.kill();
    for (name, _) in names {
        let mut options = File::options();
        let file = options
            .append(true)
            .open(world.logs.join(OsStr::from_bytes(name)));
        std::io::Write::write_all(&mut file.unwrap(), b"two\n").unwrap();
    }
    world.settle();
    for (name, shown) in names {
        let shown = world.path(shown).display().to_string();
        let of_it = |line: &&crate::testing::Line| line.path == shown;
        let lines = world.records();
        let values: Vec<&[u8]> = lines.iter().filter(of_it).map(|it| &it.value[..]).collect();
        assert_eq!(values, [b"one", b"two"], "{}", name.escape_ascii());
    }
}

#[test]
fn a_file_that_is_too_old_is_followed_from_its_end_and_what_it_held_is_counted() {
    let mut world = World::new();
    world.config.ignore_older = Some(DAY);
    world.append("old.log", "passed over\nand");
    world.append("new.log", "1\n");
    set_age(&world, "old.log", DAY + Duration::from_secs(1));
    set_age(&world, "new.log", Duration::from_hours(23));
    world.run_for(Duration::from_secs(2));
    world.append("old.log", " this too\n");
    world.settle();
    // Also one that comes later, and no longer old after a restart.
    world.kill();
    world.append("old.log", "more\n");
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.lines_of("old.log"), ["and this too", "more"]);
    assert_eq!(world.lines_of("new.log"), ["1"]);
    assert!(world.losses().is_empty());
}

#[test]
fn a_clock_that_is_set_by_a_day_changes_nothing_but_what_is_old() {
    for step in [DAY, 2 * DAY].map(|step| i64::try_from(step.as_millis()).unwrap()) {
        for step in [step, -step] {
            let mut world = World::new();
            world.config.ignore_older = Some(DAY / 2);
            world.append("a.log", "1\n");
            set_age(&world, "a.log", Duration::from_hours(1));
            world.settle();
            world.step_wall_clock(step);
            world.append("a.log", "2\n");
            world.append("b.log", "3\n");
            set_age(&world, "b.log", Duration::ZERO);
            world.settle();
            world.rename("a.log", "a.old");
            world.append("a.log", "4\n");
            set_age(&world, "a.log", Duration::ZERO);
            world.run_for(Duration::from_secs(30));
            assert_eq!(world.lines_of("a.log"), ["1", "2", "4"], "{step} ms");
            assert_eq!(world.lines_of("b.log"), ["3"], "{step} ms");
            world.step_wall_clock(-step);
            world.kill();
            world.append("b.log", "5\n");
            world.run_for(Duration::from_secs(30));
            assert_eq!(world.lines_of("a.log"), ["1", "2", "4"], "{step} ms");
            assert_eq!(world.lines_of("b.log"), ["3", "5"], "{step} ms");
            assert!(world.losses().is_empty());
        }
    }
}

#[test]
fn a_file_from_the_future_is_not_old() {
    let mut world = World::new();
    world.config.ignore_older = Some(DAY);
    world.append("a.log", "1\n");
    let future = SystemTime::now() + 20_000 * DAY;
    let file = File::options().append(true).open(world.path("a.log"));
    file.unwrap().set_modified(future).unwrap();
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["1"]);
}

#[test]
fn files_that_appear_after_the_start_are_read_whole_also_where_the_first_began_at_their_end() {
    let mut world = World::new();
    world.config.start_at = StartAt::End;
    world.append("a.log", "before\n");
    world.settle();
    while matches!(
        world.spool().sync_turn(),
        crate::spool::SyncTurn::Worked { .. }
    ) {}
    world.append("a.log", "1\n");
    world.append("b.log", "2\n");
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.lines_of("a.log"), ["1"]);
    assert_eq!(world.lines_of("b.log"), ["2"]);
}

#[test]
fn a_directory_whose_parents_come_later_is_followed_and_comes_back() {
    let mut world = World::new();
    world.config.files = vec![world.path("x/y/z/*.log").display().to_string()];
    world.run_for(Duration::from_secs(1));
    for round in 0..3 {
        fs::create_dir_all(world.path("x/y/z")).unwrap();
        world.append("x/y/z/a.log", &format!("{round}\n"));
        world.run_for(Duration::from_millis(500));
        fs::remove_dir_all(world.path("x")).unwrap();
        world.run_for(Duration::from_millis(500));
    }
    assert_eq!(world.lines_of("a.log"), ["0", "1", "2"]);
}

#[test]
fn directories_that_come_and_go_are_forgotten_with_their_files() {
    let mut world = World::new();
    world.config.files = vec![world.path("*/*/0.log").display().to_string()];
    world.run_for(Duration::from_secs(1));
    let before = world.counted().directories.get();
    let mut most = 0;
    for pod in 0..20 {
        fs::create_dir_all(world.path(&format!("{pod}/app"))).unwrap();
        world.append(&format!("{pod}/app/0.log"), &format!("{pod}\n"));
        world.run_for(Duration::from_secs(30));
        fs::remove_dir_all(world.path(&pod.to_string())).unwrap();
        world.run_for(Duration::from_secs(30));
        // Its files are remembered for a day.
        world.pass(DAY);
        world.run_for(Duration::from_mins(1));
        most = most.max(world.counted().directories.get());
    }
    assert_eq!(most, before);
    let lines: usize = world.lines().into_values().map(|lines| lines.len()).sum();
    assert_eq!(lines, 20);
    // A number that was free stands for another directory.
    fs::create_dir_all(world.path("x/app")).unwrap();
    world.append("x/app/0.log", "1\n");
    world.run_for(Duration::from_secs(5));
    world.append("x/app/0.log", "2\n");
    world.settle();
    let records = world.records();
    let of_x = records
        .iter()
        .filter(|line| line.path.ends_with("x/app/0.log"));
    let of_x: Vec<&[u8]> = of_x.map(|line| line.value.as_slice()).collect();
    assert_eq!(of_x, [b"1", b"2"]);
    assert!(world.losses().is_empty());
}
