//! Which file is which: keys of every level on real files, and what becomes of positions when a key
//! changes that belongs to the same file, or one stays that does not.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use model::position::{FileKey, KeyLevel};

use super::mounts::{Mounted, NO_MOUNT, ext4, own_ext4};
use super::skip::skip;
use super::{expected, numbered};
use crate::sources::file::guard::Hasher;
use crate::sources::file::kernel;
use crate::testing::World;

const LEVELS: [KeyLevel; 5] = [
    KeyLevel::Handle,
    KeyLevel::HandleId,
    KeyLevel::Generation,
    KeyLevel::BirthTime,
    KeyLevel::Inode,
];

fn key(path: &Path, best: KeyLevel) -> FileKey {
    let hasher = Hasher::new(&[7; 16]);
    kernel::file_key(&File::open(path).unwrap(), &hasher, best).unwrap()
}

#[test]
fn a_key_of_any_level_stays_over_append_truncation_and_rename() {
    let world = World::new();
    for level in LEVELS {
        world.append("a.log", "one\n");
        let before = key(&world.path("a.log"), level);
        assert!(before.level >= level);
        world.append("a.log", "two\n");
        assert_eq!(key(&world.path("a.log"), level), before, "{level:?}");
        world.truncate("a.log");
        assert_eq!(key(&world.path("a.log"), level), before, "{level:?}");
        world.rename("a.log", "b.log");
        assert_eq!(key(&world.path("b.log"), level), before, "{level:?}");
    }
}

#[test]
fn on_ext4_every_level_above_the_birth_time_tells_two_lives_of_an_inode_apart() {
    let world = World::new();
    let dir = world.path("mnt");
    let Some(_mounted) = ext4(&world.logs).and_then(|image| Mounted::image(&image, &dir)) else {
        return skip(
            "on_ext4_every_level_above_the_birth_time_tells_two_lives_of_an_inode_apart",
            NO_MOUNT,
        );
    };
    for level in LEVELS {
        let path = dir.join("a.log");
        fs::write(&path, "one\n").unwrap();
        let first = key(&path, level);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "one\n").unwrap();
        let second = key(&path, level);
        assert_eq!(first.level, level, "ext4 has all levels");
        assert_eq!(first.inode, second.inode, "ext4 gives the number out again");
        if !kernel::is_weak(level) {
            assert_ne!(first, second, "{level:?}");
        }
        if level == KeyLevel::Inode {
            assert_eq!(first, second);
        }
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_file_goes_on_when_only_worse_or_better_keys_can_be_had_after_a_restart() {
    for level in LEVELS {
        let mut world = World::new();
        world.append("a.log", &numbered(0..3));
        world.append("rotated.log", &numbered(0..3));
        world.settle();
        world.stop();
        // Another kernel, or a sandbox that forbids the call. And back.
        world.calls.faults.best_level(level);
        world.append("a.log", &numbered(3..6));
        world.append("rotated.log", &numbered(3..6));
        world.rename("rotated.log", "old");
        world.run_for(Duration::from_secs(2));
        assert_eq!(world.lines_of("a.log"), expected(0..6), "{level:?}");
        assert_eq!(world.lines_of("rotated.log"), expected(0..6), "{level:?}");
        world.stop();
        world.calls.faults.best_level(KeyLevel::Handle);
        world.append("a.log", &numbered(6..9));
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.lines_of("a.log"), expected(0..9), "{level:?}");
        assert!(world.losses().is_empty(), "{level:?}");
    }
}

#[test]
fn a_key_of_another_level_proves_nothing_when_the_content_differs() {
    for level in LEVELS.into_iter().skip(1) {
        let mut world = World::new();
        world.append("a.log", &numbered(0..3));
        world.settle();
        world.stop();
        world.calls.faults.best_level(level);
        fs::write(world.path("a.log"), numbered(10..20)).unwrap();
        world.run_for(Duration::from_secs(1));
        let mut all = expected(0..3);
        all.extend(expected(10..20));
        assert_eq!(world.lines_of("a.log"), all, "{level:?}");
    }
}

#[test]
fn a_file_system_that_is_mounted_anew_under_another_number_has_the_same_files() {
    let mut world = World::new();
    world.append("a.log", &numbered(0..3));
    world.append("idle.log", &numbered(0..3));
    world.settle();
    world.stop();
    // NFS and others without an identity of their own are told by a number that each mount draws.
    world.calls.faults.mount_anew();
    world.append("a.log", &numbered(3..6));
    world.run_for(Duration::from_secs(1));
    world.calls.faults.mount_anew();
    world.append("a.log", &numbered(6..9));
    // Met under the new number while it runs: everything is looked at again.
    world.run_for(Duration::from_secs(15));
    world.append("a.log", &numbered(9..12));
    world.run_for(Duration::from_secs(15));
    assert_eq!(world.lines_of("a.log"), expected(0..12));
    assert_eq!(world.lines_of("idle.log"), expected(0..3));
    assert!(world.losses().is_empty());
}

#[test]
fn an_unrelated_file_with_the_inode_of_an_old_position_is_read_from_its_start() {
    for level in LEVELS {
        let mut world = World::new();
        let mounted = own_ext4(&world.logs);
        world.calls.faults.best_level(level);
        world.append("a.log", &numbered(0..100));
        world.settle();
        world.stop();
        let inode = fs::metadata(world.path("a.log")).unwrap().ino();
        world.remove("a.log");
        let has_inode = |world: &World| {
            world.append("b.log", &numbered(500..700));
            fs::metadata(world.path("b.log")).unwrap().ino() == inode
        };
        let mut is_same = has_inode(&world);
        // A program that another test is just starting has the deleted file open for a moment.
        for _ in 0..10_000 {
            if is_same || mounted.is_none() {
                break;
            }
            world.remove("b.log");
            is_same = has_inode(&world);
        }
        assert!(
            is_same || mounted.is_none(),
            "ext4 gives a free inode out again"
        );
        if !is_same {
            return skip(
                "an_unrelated_file_with_the_inode_of_an_old_position_is_read_from_its_start",
                NO_MOUNT,
            );
        }
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.lines_of("a.log"), expected(0..100), "{level:?}");
        assert_eq!(world.lines_of("b.log"), expected(500..700), "{level:?}");
        assert_eq!(world.losses(), ["missing_after_restart 1 0"], "{level:?}");
    }
}

#[test]
fn a_file_deleted_and_made_again_in_the_same_inode_is_read_from_its_start() {
    for (level, files_open_max) in LEVELS.into_iter().flat_map(|it| [(it, 500), (it, 1)]) {
        let mut world = World::new();
        let mounted = own_ext4(&world.logs);
        world.calls.faults.best_level(level);
        world.config.files_open_max = files_open_max;
        let mut inodes = Vec::new();
        for round in 0..3 {
            for name in ["a.log", "b.log"] {
                world.append(name, &numbered(round * 10..round * 10 + 10));
                inodes.push(fs::metadata(world.path(name)).unwrap().ino());
            }
            world.run_for(Duration::from_secs(15));
            world.remove("a.log");
            world.remove("b.log");
            // The inode is free once the agent has closed it.
            world.run_for(Duration::from_mins(2));
        }
        assert_eq!(world.lines_of("a.log"), expected(0..30), "{level:?}");
        assert_eq!(world.lines_of("b.log"), expected(0..30), "{level:?}");
        assert!(world.losses().is_empty(), "{level:?} {:?}", world.losses());
        inodes.sort_unstable();
        if inodes.windows(2).all(|two| two[0] != two[1]) {
            assert!(mounted.is_none(), "ext4 gives a free inode out again");
            return skip(
                "a_file_deleted_and_made_again_in_the_same_inode_is_read_from_its_start",
                NO_MOUNT,
            );
        }
    }
}

#[test]
fn local_file_systems_tell_of_every_write() {
    let world = World::new();
    assert!(kernel::is_event_reliable(&world.logs));
    assert!(kernel::is_event_reliable(Path::new("/nowhere at all")));
}
