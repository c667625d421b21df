//! Where reading goes on: after restarts, moves, restored backups, mounts that come late, calls that
//! fail, and entries with new names.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::mounts::{Mounted, NO_MOUNT, ext4};
use super::skip::skip;
use super::{expected, numbered};
use crate::limits::{FORGET_AFTER, LATE, REMEMBERED_OF_PATH_MAX};
use crate::sources::file::calls::Call;
use crate::testing::World;

/// Long enough for the world to look at everything again.
const A_LOOK: Duration = Duration::from_secs(15);

#[test]
fn a_file_moved_out_of_the_glob_while_stopped_is_read_to_its_end() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.append("a.log", &numbered(10..20));
    world.rename("a.log", "a.txt");
    world.append("a.log", &numbered(20..30));
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), expected(0..30));
    assert!(world.losses().is_empty());
}

#[test]
fn a_file_moved_to_another_directory_of_the_patterns_while_stopped_goes_on() {
    let mut world = World::new();
    fs::create_dir(world.path("old")).unwrap();
    world.config.files = vec![world.path("**/*.log").display().to_string()];
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.append("a.log", &numbered(10..20));
    world.rename("a.log", "old/b.log");
    world.run_for(A_LOOK);
    assert_eq!(world.lines_of("a.log"), expected(0..20));
    assert_eq!(world.lines().len(), 1);
    assert!(world.losses().is_empty());
}

/// What `logrotate` does without options.
fn rotate(world: &World) {
    for (from, to) in [
        ("a.log.2", "a.log.3"),
        ("a.log.1", "a.log.2"),
        ("a.log", "a.log.1"),
    ] {
        if world.path(from).exists() {
            world.rename(from, to);
        }
    }
}

#[test]
fn a_chain_of_rotations_in_the_glob_while_stopped_is_read_on_once() {
    let mut world = World::with_rotated();
    for round in 0..3 {
        rotate(&world);
        world.append("a.log", &numbered(round * 10..round * 10 + 10));
        world.run_for(A_LOOK);
    }
    world.stop();
    world.append("a.log", &numbered(30..35));
    rotate(&world);
    world.append("a.log", &numbered(35..40));
    world.run_for(A_LOOK);
    let lines: Vec<_> = world.lines().into_iter().collect();
    assert_eq!(lines, [("a.log".to_owned(), expected(0..40))]);
}

/// A world that follows `x/a.log`, where `x` is a link to a directory on the disk, and a directory on
/// another file system.
fn on_two_file_systems() -> Option<(World, tempfile::TempDir)> {
    use std::os::unix::fs::MetadataExt;
    let mut world = World::new();
    let other = tempfile::tempdir_in("/dev/shm").ok()?;
    let device = |path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    if device(other.path().to_owned())? == device(world.logs.clone())? {
        return None;
    }
    fs::create_dir(world.path("disk")).unwrap();
    std::os::unix::fs::symlink(world.path("disk"), world.path("x")).unwrap();
    world.config.files = vec![world.path("x/*.log*").display().to_string()];
    Some((world, other))
}

#[test]
fn a_file_moved_across_file_systems_while_stopped_goes_on() {
    let Some((mut world, other)) = on_two_file_systems() else {
        return skip(
            "a_file_moved_across_file_systems_while_stopped_goes_on",
            "needs a second file system at /dev/shm",
        );
    };
    world.append("x/a.log", &numbered(0..100));
    world.append("x/b.log", &numbered(0..100));
    world.settle();
    world.stop();
    world.append("x/a.log", &numbered(100..150));
    // The directory moves to another disk, and one file is rotated on the way.
    fs::copy(world.path("disk/a.log"), other.path().join("a.log")).unwrap();
    fs::copy(world.path("disk/b.log"), other.path().join("b.log.1")).unwrap();
    fs::remove_dir_all(world.path("disk")).unwrap();
    fs::remove_file(world.path("x")).unwrap();
    std::os::unix::fs::symlink(other.path(), world.path("x")).unwrap();
    world.append("x/a.log", &numbered(150..200));
    world.append("x/b.log.1", &numbered(100..120));
    world.append("x/b.log", &numbered(120..130));
    world.run_for(A_LOOK);
    world.kill();
    world.append("x/a.log", &numbered(200..210));
    world.run_for(A_LOOK);
    assert_eq!(world.lines_of("a.log"), expected(0..210));
    assert_eq!(world.lines_of("b.log"), expected(0..130));
    assert_eq!(world.lines().len(), 2);
    assert!(world.losses().is_empty(), "{:?}", world.losses());
}

#[test]
fn a_file_that_is_copied_and_deleted_beside_itself_is_not_read_twice() {
    for stopped in [false, true] {
        let mut world = World::with_rotated();
        world.append("a.log", &numbered(0..100));
        world.run_for(A_LOOK);
        if stopped {
            world.stop();
        }
        world.append("a.log", &numbered(100..120));
        fs::copy(world.path("a.log"), world.path("a.log.1")).unwrap();
        world.remove("a.log");
        world.append("a.log", &numbered(120..130));
        world.run_for(A_LOOK * 2);
        let lines: Vec<_> = world.lines().into_iter().collect();
        assert_eq!(lines, [("a.log".to_owned(), expected(0..130))], "{stopped}");
    }
}

/// What `tar`, `rsync -a` and `cp -p` do: another inode with the same content and the same time.
fn copy_with_time(world: &World, from: &str, to: &str) {
    let time = fs::metadata(world.path(from)).unwrap().modified().unwrap();
    fs::copy(world.path(from), world.path(to)).unwrap();
    let copy = fs::File::options().append(true).open(world.path(to));
    copy.unwrap().set_modified(time).unwrap();
}

fn restore(world: &World, name: &str) {
    copy_with_time(world, name, "backup");
    world.remove(name);
    fs::write(world.path("in the place of the inode"), "").unwrap();
    copy_with_time(world, "backup", name);
}

#[test]
fn a_file_restored_from_a_backup_goes_on() {
    for stopped in [false, true] {
        let mut world = World::new();
        world.append("a.log", &numbered(0..100));
        world.settle();
        if stopped {
            world.stop();
        }
        restore(&world, "a.log");
        world.run_for(Duration::from_secs(1));
        world.append("a.log", &numbered(100..120));
        world.run_for(A_LOOK);
        world.kill();
        world.append("a.log", &numbered(120..130));
        world.run_for(A_LOOK);
        assert_eq!(world.lines_of("a.log"), expected(0..130), "{stopped}");
        assert!(world.losses().is_empty(), "{stopped}");
    }
}

#[test]
fn a_file_restored_within_a_day_goes_on_and_later_it_is_new() {
    for (hours, restarted) in [(1, false), (23, false), (23, true), (26, false), (26, true)] {
        let mut world = World::new();
        world.append("a.log", &numbered(0..100));
        world.run_for(A_LOOK);
        copy_with_time(&world, "a.log", "backup");
        world.remove("a.log");
        world.run_for(LATE * 2);
        world.pass(Duration::from_secs(hours * 3600 / 2));
        if restarted {
            world.kill();
        }
        world.run_for(Duration::from_secs(1));
        world.pass(Duration::from_secs(hours * 3600 / 2));
        world.run_for(A_LOOK);
        copy_with_time(&world, "backup", "a.log");
        world.run_for(Duration::from_secs(1));
        world.append("a.log", &numbered(100..120));
        world.run_for(A_LOOK);
        let mut all = expected(0..100);
        all.extend(expected(if hours < 24 { 100..120 } else { 0..120 }));
        assert_eq!(world.lines_of("a.log"), all, "{hours} {restarted}");
        assert!(world.losses().is_empty(), "{hours} {restarted}");
    }
}

#[test]
fn a_program_that_writes_the_same_each_time_is_delivered_each_time() {
    let mut world = World::new();
    for _ in 0..3 {
        world.append("a.log", &numbered(0..100));
        world.run_for(A_LOOK);
        world.remove("a.log");
    }
    for _ in 0..3 {
        fs::write(world.path("new"), numbered(0..100)).unwrap();
        world.rename("new", "a.log");
        world.run_for(A_LOOK);
    }
    assert_eq!(world.lines_of("a.log").len(), 600);
}

#[test]
fn a_new_file_that_begins_with_the_same_few_lines_is_read_from_its_start() {
    for stopped in [false, true] {
        let mut world = World::new();
        world.append("a.log", "program starts\nversion 1\n");
        world.settle();
        if stopped {
            world.stop();
        }
        world.remove("a.log");
        fs::write(world.path("in the place of the inode"), "").unwrap();
        world.append("a.log", "program starts\nversion 1\nready\n");
        world.run_for(A_LOOK);
        let lines = world.lines_of("a.log");
        assert_eq!(lines.len(), 5, "{stopped} {lines:?}");
    }
}

#[test]
fn a_file_that_is_missing_after_a_restart_counts_once_and_goes_on_when_it_comes_back() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..100));
    world.settle();
    world.stop();
    copy_with_time(&world, "a.log", "backup");
    world.remove("a.log");
    for _ in 0..3 {
        world.run_for(A_LOOK);
        assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
        world.kill();
    }
    copy_with_time(&world, "backup", "a.log");
    world.run_for(A_LOOK);
    world.append("a.log", &numbered(100..110));
    world.run_for(A_LOOK);
    assert_eq!(world.lines_of("a.log"), expected(0..110));
    assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
}

/// A world that follows what is mounted at `mnt`, and an image to mount there.
fn on_a_disk() -> Option<(World, PathBuf)> {
    let mut world = World::new();
    world.config.files = vec![world.path("mnt/*.log").display().to_string()];
    fs::create_dir(world.path("mnt")).unwrap();
    let image = ext4(&world.logs)?;
    Some((world, image))
}

#[test]
fn a_disk_that_is_mounted_after_the_agent_starts_has_lost_nothing() {
    let disk = on_a_disk();
    let mounted = disk.map(|(world, image)| {
        let mounted = Mounted::image(&image, &world.path("mnt"));
        (world, image, mounted)
    });
    let Some((mut world, image, Some(mounted))) = mounted else {
        let name = "a_disk_that_is_mounted_after_the_agent_starts_has_lost_nothing";
        return skip(name, NO_MOUNT);
    };
    world.append("mnt/a.log", &numbered(0..10));
    world.append("mnt/gone.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.append("mnt/a.log", &numbered(10..20));
    world.remove("mnt/gone.log");
    drop(mounted);
    for _ in 0..2 {
        world.run_for(A_LOOK);
        world.pass(FORGET_AFTER / 4);
        world.run_for(A_LOOK);
        assert!(world.losses().is_empty());
        world.kill();
    }
    world.run_for(A_LOOK);
    let _mounted = Mounted::image(&image, &world.path("mnt")).unwrap();
    world.append("mnt/a.log", &numbered(20..30));
    world.run_for(A_LOOK);
    assert_eq!(world.lines_of("a.log"), expected(0..30));
    // That one is gone, and only now it can be seen.
    assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
}

#[test]
fn a_disk_that_is_mounted_anew_while_the_agent_runs_goes_on() {
    let disk = on_a_disk();
    let mounted = disk.map(|(world, image)| {
        let mounted = Mounted::image(&image, &world.path("mnt"));
        (world, image, mounted)
    });
    let Some((mut world, image, Some(mounted))) = mounted else {
        let name = "a_disk_that_is_mounted_anew_while_the_agent_runs_goes_on";
        return skip(name, NO_MOUNT);
    };
    world.config.files_open_max = 1;
    for name in ["mnt/a.log", "mnt/b.log", "mnt/c.log"] {
        world.append(name, &numbered(0..10));
    }
    world.run_for(A_LOOK);
    drop(mounted);
    world.run_for(A_LOOK * 8);
    let _mounted = Mounted::image(&image, &world.path("mnt"));
    for name in ["mnt/a.log", "mnt/b.log", "mnt/c.log"] {
        world.append(name, &numbered(10..20));
    }
    world.run_for(A_LOOK * 2);
    for name in ["a.log", "b.log", "c.log"] {
        assert_eq!(world.lines_of(name), expected(0..20), "{name}");
    }
    assert!(world.losses().is_empty());
}

#[test]
fn what_cannot_be_seen_for_a_day_is_counted_once() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.remove("a.log");
    // What is there now is another file system, to all appearance.
    world.calls.faults.mount_anew();
    world.run_for(A_LOOK);
    assert!(world.losses().is_empty());
    world.pass(FORGET_AFTER);
    world.run_for(A_LOOK);
    world.kill();
    world.run_for(A_LOOK);
    assert_eq!(world.losses(), ["missing_after_restart 1 0"]);
}

#[test]
fn a_file_that_cannot_be_opened_when_the_agent_starts_comes_before_its_successor() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.stop();
    let faults = world.calls.faults.clone();
    faults.fail(Call::Open, "a.log", libc::EACCES);
    world.append("a.log", &numbered(10..20));
    world.run_for(A_LOOK);
    faults.fail(Call::Open, "a.log-1", libc::EACCES);
    world.rename("a.log", "a.log-1");
    world.append("a.log", &numbered(20..30));
    world.run_for(A_LOOK);
    faults.heal();
    world.run_for(A_LOOK * 2);
    assert_eq!(world.lines_of("a.log"), expected(0..30));
    assert!(world.losses().is_empty());
}

#[test]
fn a_call_that_fails_is_no_absence() {
    for errno in [
        libc::EMFILE,
        libc::ENFILE,
        libc::EACCES,
        libc::EIO,
        libc::ESTALE,
        libc::ETIMEDOUT,
        libc::ENOMEM,
    ] {
        let mut world = World::new();
        world.append("a.log", &numbered(0..10));
        world.append("rotated.log", &numbered(0..10));
        world.run_for(A_LOOK);
        let faults = world.calls.faults.clone();
        // While it runs, over its start, and each alone.
        for (round, calls) in [
            vec![Call::Open],
            vec![Call::List],
            vec![Call::Read],
            vec![Call::Open, Call::List, Call::Read],
        ]
        .into_iter()
        .enumerate()
        {
            for call in calls {
                faults.fail(call, "", errno);
            }
            if round % 2 == 1 {
                world.kill();
            }
            let from = 10 + u32::try_from(round).unwrap() * 10;
            world.append("a.log", &numbered(from..from + 10));
            world.append("rotated.log", &numbered(from..from + 10));
            world.rename("rotated.log", &format!("rotated.log-{round}"));
            world.run_for(A_LOOK);
            faults.heal();
            world.append("rotated.log", "");
            world.run_for(A_LOOK * 2);
            let story = format!("errno {errno}, round {round}");
            assert_eq!(world.lines_of("a.log"), expected(0..from + 10), "{story}");
            assert_eq!(
                world.lines_of("rotated.log"),
                expected(0..from + 10),
                "{story}"
            );
            assert!(world.losses().is_empty(), "{story} {:?}", world.losses());
        }
    }
}

#[test]
fn a_copy_that_cannot_be_opened_for_a_while_is_waited_for() {
    for call in [Call::Open, Call::List] {
        let mut world = World::new();
        world.append("a.log", &numbered(0..10));
        world.settle();
        world.append("a.log", &numbered(10..20));
        let end = if call == Call::Open { ".log.1" } else { "" };
        world.calls.faults.fail(call, end, libc::EMFILE);
        world.copy_truncate("a.log", "a.log.1");
        world.append("a.log", &numbered(20..30));
        world.run_for(A_LOOK * 2);
        world.calls.faults.heal();
        world.run_for(A_LOOK);
        assert_eq!(world.lines_of("a.log"), expected(0..30), "{call:?}");
        assert!(world.losses().is_empty(), "{call:?}");
    }
}

/// Stands in for NFS: the calls fail as there, the files are local.
#[test]
fn a_descriptor_that_the_server_forgot_is_opened_again_and_judged_by_its_guards() {
    let mut world = World::new();
    world.append("same.log", &numbered(0..10));
    world.append("other.log", &numbered(0..10));
    world.run_for(A_LOOK);
    let faults = world.calls.faults.clone();
    faults.fail(Call::Read, ".log", libc::ESTALE);
    world.append("same.log", &numbered(10..20));
    world.append("other.log", &numbered(10..20));
    world.run_for(A_LOOK);
    faults.heal();
    // The server's file system was restored: files have other handles, one has other content.
    faults.mount_anew();
    fs::write(world.path("other.log"), numbered(50..80)).unwrap();
    world.append("same.log", &numbered(20..30));
    world.run_for(A_LOOK * 2);
    assert_eq!(world.lines_of("same.log"), expected(0..30));
    let mut other = expected(0..10);
    other.extend(expected(50..80));
    assert_eq!(world.lines_of("other.log"), other);
}

#[test]
fn an_entry_with_a_new_name_goes_on_where_the_old_one_left_off() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.config.name = "renamed".to_owned();
    world.append("a.log", &numbered(10..20));
    world.run_for(A_LOOK);
    world.kill();
    world.append("a.log", &numbered(20..30));
    world.run_for(A_LOOK);
    assert_eq!(world.lines_of("a.log"), expected(0..30));
    assert_eq!(world.spool().positions().len(), 1);
}

#[test]
fn what_an_entry_reads_another_one_does_not_take() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.config.beside = vec!["app".to_owned(), "second".to_owned()];
    world.config.name = "second".to_owned();
    world.run_for(A_LOOK);
    let twice = [expected(0..10), expected(0..10)].concat();
    assert_eq!(world.lines_of("a.log"), twice);
}

#[test]
fn a_position_that_was_set_aside_ends_a_day_after_its_file() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..10));
    world.append("b.log", &numbered(0..10));
    world.settle();
    world.stop();
    world.config.exclude = vec![world.path("b.log").display().to_string()];
    world.run_for(A_LOOK);
    for _ in 0..30 {
        world.pass(FORGET_AFTER / 24);
        world.run_for(A_LOOK);
    }
    assert_eq!(world.spool().positions().len(), 2, "the file is there");
    world.remove("b.log");
    for hour in 0..30 {
        world.pass(FORGET_AFTER / 24);
        world.run_for(A_LOOK);
        if hour % 10 == 0 {
            world.kill();
            world.run_for(A_LOOK);
        }
    }
    assert_eq!(world.spool().positions().len(), 1);
}

#[test]
fn a_path_remembers_a_few_of_its_files_for_a_day() {
    let mut world = World::new();
    for round in 0..60 {
        world.append("a.log", &numbered(round * 10..round * 10 + 10));
        world.run_for(Duration::from_secs(1));
        world.remove("a.log");
    }
    world.run_for(LATE * 3);
    assert_eq!(world.lines_of("a.log"), expected(0..600));
    assert_eq!(world.spool().positions().len(), REMEMBERED_OF_PATH_MAX);
    world.kill();
    world.run_for(A_LOOK);
    assert_eq!(world.spool().positions().len(), REMEMBERED_OF_PATH_MAX);
    world.pass(FORGET_AFTER);
    world.run_for(A_LOOK);
    assert!(world.spool().positions().is_empty());
    assert!(world.losses().is_empty());
}
