//! The faulty disk does what its documentation says: else the tests that lean on it prove nothing.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::storage::{read_whole, write_all_at, write_atomically};

fn disk_with(content: &[u8]) -> (FaultyDisk, Arc<dyn File>) {
    let disk = FaultyDisk::new();
    disk.create_dir(Path::new("d")).unwrap();
    let file = disk.open(Path::new("d/f"), OpenMode::Write).unwrap();
    write_all_at(file.as_ref(), content, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    (disk, file)
}

fn after_cuts(disk: &FaultyDisk) -> BTreeSet<Option<Vec<u8>>> {
    let cut = |seed| {
        let copy = disk.snapshot();
        copy.restart(seed);
        copy.content(Path::new("d/f"))
    };
    (0..400).map(cut).collect()
}

#[test]
fn what_was_synced_survives_every_cut() {
    let (disk, _file) = disk_with(b"synced");
    assert_eq!(after_cuts(&disk), [Some(b"synced".to_vec())].into());
}

#[test]
fn an_unsynced_write_is_lost_kept_or_damaged() {
    let (disk, file) = disk_with(&[1; 1024]);
    write_all_at(file.as_ref(), &[2; 1024], 0).unwrap();
    let states = after_cuts(&disk);
    let has =
        |first: u8, second: u8| states.contains(&Some([[first; 512], [second; 512]].concat()));
    assert!(
        has(1, 1) && has(2, 2) && has(1, 2) && has(2, 1) && has(0, 2),
        "{}",
        states.len()
    );
    assert!(states.len() > 50, "garbage and shorn sectors differ");
}

#[test]
fn a_length_follows_or_not() {
    let (disk, file) = disk_with(b"");
    write_all_at(file.as_ref(), &[7; 600], 0).unwrap();
    let lengths: BTreeSet<usize> = after_cuts(&disk).iter().flatten().map(Vec::len).collect();
    assert_eq!(lengths, [0, 600].into());
}

#[test]
fn a_name_needs_its_directory_synced() {
    let (disk, _file) = disk_with(b"old");
    let file = disk.open(Path::new("d/g"), OpenMode::CreateNew).unwrap();
    write_all_at(file.as_ref(), b"new", 0).unwrap();
    file.sync().unwrap();
    disk.rename(Path::new("d/g"), Path::new("d/f")).unwrap();
    let states = after_cuts(&disk);
    assert_eq!(
        states,
        [Some(b"old".to_vec()), Some(b"new".to_vec())].into()
    );
    disk.sync_dir(Path::new("d")).unwrap();
    assert_eq!(after_cuts(&disk), [Some(b"new".to_vec())].into());
    disk.remove(Path::new("d/f")).unwrap();
    assert_eq!(after_cuts(&disk), [Some(b"new".to_vec()), None].into());
}

#[test]
fn i11_an_atomic_write_is_old_or_new_at_every_cut() {
    let (clean, _file) = disk_with(b"old");
    for call in 0..20 {
        let disk = clean.snapshot();
        disk.plan(clean.calls() + call, Fault::PowerCut);
        let done = write_atomically(&disk, Path::new("d/f"), b"new").is_ok();
        for state in after_cuts(&disk) {
            let state = state.unwrap();
            assert!(
                state == b"new" || (state == b"old" && !done),
                "call {call}: {state:?}"
            );
        }
    }
}

#[test]
fn a_failed_sync_drops_the_pages_and_the_next_one_lies() {
    let (disk, file) = disk_with(b"old");
    write_all_at(file.as_ref(), b"new", 0).unwrap();
    disk.plan(disk.calls(), Fault::Io);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(disk.content(Path::new("d/f")).unwrap(), b"new");
    assert_eq!(after_cuts(&disk), [Some(b"old".to_vec())].into());
    // Written again, it is dirty again, and a sync is true.
    write_all_at(file.as_ref(), b"new", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(after_cuts(&disk), [Some(b"new".to_vec())].into());
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (disk, file) = disk_with(b"1234");
    disk.limit(Some(6));
    assert_eq!(file.write_at(b"5678", 4).unwrap(), 2);
    let full = file.write_at(b"78", 6).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(
        disk.free_bytes(Path::new("d")).unwrap(),
        DiskSpace { free: 0, total: 6 }
    );
    assert_eq!(file.write_at(b"x", 0).unwrap(), 1);
}

#[test]
fn faults_meet_their_call_and_a_dead_handle_stays_dead() {
    let (disk, file) = disk_with(b"");
    disk.plan(disk.calls(), Fault::Short);
    disk.plan(disk.calls() + 1, Fault::Io);
    disk.plan(disk.calls() + 2, Fault::PowerCut);
    assert_eq!(file.write_at(b"abc", 0).unwrap(), 2);
    assert_eq!(
        file.write_at(b"abc", 0).unwrap_err().raw_os_error(),
        Some(5)
    );
    assert!(file.write_at(b"abc", 0).is_err() && disk.is_off());
    disk.restart(1);
    assert!(file.write_at(b"abc", 0).is_err());
    disk.break_sector(Path::new("d/f"), 0);
    disk.overwrite(Path::new("d/f"), b"abc");
    assert_eq!(read_whole(&disk, Path::new("d/f"), 10).unwrap(), b"abc");
    disk.break_sector(Path::new("d/f"), 0);
    assert!(read_whole(&disk, Path::new("d/f"), 10).is_err());
}

#[test]
fn a_snapshot_goes_its_own_way_and_can_be_restored() {
    let (disk, file) = disk_with(b"one");
    let copy = disk.snapshot();
    write_all_at(file.as_ref(), b"two", 0).unwrap();
    assert_eq!(copy.content(Path::new("d/f")).unwrap(), b"one");
    disk.restore(&copy);
    assert_eq!(disk.content(Path::new("d/f")).unwrap(), b"one");
    assert!(file.sync().is_err(), "opened before the restore");
}

#[test]
fn a_lock_is_held_once() {
    let disk = FaultyDisk::new();
    let held = disk.lock(Path::new("lock")).unwrap();
    assert!(disk.lock(Path::new("lock")).is_err());
    drop(held);
    let _held = disk.lock(Path::new("lock")).unwrap();
    disk.kill();
    assert!(disk.lock(Path::new("lock")).is_ok());
}
