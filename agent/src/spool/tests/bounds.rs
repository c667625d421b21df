//! What a spool keeps over a kill, and how much of the disk it takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use commitlog::batch::header::BatchHeader;
use commitlog::id::{Offset, TopicPartition};
use commitlog::limits::GAPS_PER_READ_MAX;
use commitlog::storage::Storage;
use commitlog::storage::faulty::{Call, Fault, FaultyDisk};

use super::{append, batch, logs, sync};
use crate::limits::{ACKNOWLEDGED_EVERY_MS, ACKNOWLEDGED_SYNC_EVERY_MS, DISK_PLENTY_BYTES};
use crate::spool::partition::ActiveSegment;
use crate::spool::{DiskLook, Spool, SyncTurn, Taken, positions::Loss};
use crate::testing::{World, records};

fn offset(value: i64) -> Offset {
    Offset::new(value).unwrap()
}

/// Bytes that do not compress.
pub(super) fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Appends batches to the partitions in turn until there is no room; how many that were.
fn fill(spool: &Spool, partitions: u32) -> u32 {
    for round in 0..10_000 {
        if append(spool, &logs(round % partitions), &noise(round, 500)) == Taken::Wait {
            return round;
        }
        sync(spool);
    }
    panic!("the spool has no limit");
}

#[test]
fn a_full_disk_gives_back_what_is_acknowledged() {
    // The limit of the spool is far beyond the disk, and a segment is larger than it.
    let (disk, world) = small(1 << 30, 1 << 40);
    disk.limit(Some(256 * 1024));
    let spool = world.open_spool();
    for _ in 0..3 {
        assert!(fill(&spool, 2) > 100, "most of the disk is used");
        assert!(spool.is_full() && !spool.has_room());
        for partition in 0..2 {
            let range = spool.range(&logs(partition));
            assert_eq!(range.durable_end, range.end);
            spool.acknowledge(&logs(partition), range.end);
        }
        let_pass(&world, &spool, Duration::from_secs(2));
        assert!(spool.has_room());
    }
}

/// Three records, fsynced.
fn append_three(spool: &Spool, to: &TopicPartition) {
    for value in [b"one", b"two", b"six"] {
        assert_eq!(append(spool, to, value), Taken::Yes);
    }
    sync(spool);
}

/// Lets the sync thread do all that time brings.
fn let_pass(world: &World, spool: &Spool, time: Duration) {
    let step = Duration::from_millis(100);
    for _ in 0..time.as_millis().div_ceil(step.as_millis()) {
        world.pass(step);
        sync(spool);
    }
}

fn small(segment_bytes: u64, bytes_max: u64) -> (FaultyDisk, World) {
    let disk = FaultyDisk::new();
    let mut world = World::on(Arc::new(disk.clone()));
    world.spool_config.segment_bytes = segment_bytes;
    world.spool_config.bytes_max = bytes_max;
    (disk, world)
}

#[test]
fn what_was_acknowledged_is_not_sent_again_after_a_kill() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    append_three(&spool, &to);
    spool.acknowledge(&to, offset(1));
    world.pass(Duration::from_millis(ACKNOWLEDGED_EVERY_MS));
    sync(&spool);
    // Too soon after the last to be saved: this one is sent again, that one is not.
    spool.acknowledge(&to, offset(2));
    sync(&spool);
    for seed in 0..20 {
        let copy = disk.snapshot();
        copy.restart(seed);
        let mut cut = World::on(Arc::new(copy));
        cut.spool_config = world.spool_config.clone();
        let spool = cut.open_spool();
        assert_eq!(spool.range(&to).start, offset(1), "seed {seed}");
        assert_eq!(spool.range(&to).durable_end, offset(3));
    }
    disk.kill();
    drop(spool);
    assert_eq!(world.open_spool().range(&to).start, offset(1));
}

#[test]
fn what_was_acknowledged_outlives_a_kill_each_second_and_a_power_cut_each_ten() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    append_three(&spool, &to);
    let start_after = |seed: Option<u64>| {
        let copy = disk.snapshot();
        match seed {
            Some(seed) => copy.restart(seed),
            None => copy.kill(),
        }
        let mut cut = World::on(Arc::new(copy));
        cut.spool_config = world.spool_config.clone();
        let start = cut.open_spool().range(&to).start;
        // Also when it is opened once more.
        assert_eq!(cut.open_spool().range(&to).start, start);
        start
    };
    let every = Duration::from_millis(ACKNOWLEDGED_EVERY_MS);
    spool.acknowledge(&to, offset(1));
    let_pass(&world, &spool, every);
    spool.acknowledge(&to, offset(2));
    let_pass(&world, &spool, every);
    assert_eq!(start_after(None), offset(2));
    for seed in 0..20 {
        let start = start_after(Some(seed));
        assert!(
            start == offset(1) || start == offset(2),
            "seed {seed}: {start}"
        );
    }
    spool.acknowledge(&to, offset(3));
    let_pass(
        &world,
        &spool,
        Duration::from_millis(ACKNOWLEDGED_SYNC_EVERY_MS),
    );
    for seed in 0..20 {
        assert_eq!(start_after(Some(seed)), offset(3), "seed {seed}");
    }
}

#[test]
fn a_spool_that_is_closed_remembers_all_that_was_acknowledged() {
    let (_disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    assert_eq!(append(&spool, &logs(0), b"one"), Taken::Yes);
    assert_eq!(append(&spool, &logs(0), b"two"), Taken::Yes);
    sync(&spool);
    spool.acknowledge(&logs(0), offset(1));
    spool.close().unwrap();
    drop(spool);
    let spool = world.open_spool();
    assert_eq!(spool.range(&logs(0)).start, offset(1));
    assert_eq!(spool.fill().unacknowledged_records, 1);
}

#[test]
fn a_damaged_account_of_what_is_acknowledged_only_sends_again() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    assert_eq!(append(&spool, &logs(0), b"one"), Taken::Yes);
    sync(&spool);
    spool.acknowledge(&logs(0), offset(1));
    world.pass(Duration::from_millis(ACKNOWLEDGED_EVERY_MS));
    sync(&spool);
    disk.kill();
    let path = spool.dir().join("acknowledged");
    drop(spool);
    let whole = disk.content(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        disk.overwrite(&path, &damaged);
        assert_eq!(
            world.open_spool().range(&logs(0)).start,
            Offset::ZERO,
            "byte {at}"
        );
    }
}

/// Removes every file of a partition, as somebody may who wants to be rid of it.
fn remove_partition(disk: &FaultyDisk, spool_dir: &std::path::Path, of: &TopicPartition) {
    let dir = spool_dir.join(of.to_string());
    for entry in disk.list(&dir).unwrap() {
        disk.remove(&dir.join(entry.name)).unwrap();
    }
}

#[test]
fn offsets_that_begin_anew_are_not_acknowledged() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    append_three(&spool, &to);
    spool.acknowledge(&to, offset(2));
    spool.close().unwrap();
    let dir = spool.dir().to_owned();
    drop(spool);
    remove_partition(&disk, &dir, &to);
    let spool = world.open_spool();
    // The third record was acknowledged by nobody.
    let lost = Loss { count: 1, bytes: 0 };
    assert_eq!(spool.losses().into_values().collect::<Vec<_>>(), [lost]);
    assert_eq!(append(&spool, &to, b"new"), Taken::Yes);
    assert_eq!(append(&spool, &to, b"newer"), Taken::Yes);
    while let Some(job) = spool.partition(&to).unwrap().start_sync() {
        spool
            .partition(&to)
            .unwrap()
            .finish_sync(job.run())
            .unwrap();
    }
    disk.kill();
    drop(spool);
    let range = world.open_spool().range(&to);
    assert_eq!((range.start, range.durable_end), (Offset::ZERO, offset(2)));
}

#[test]
fn what_was_saved_for_a_kill_does_not_outlive_its_partition() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    append_three(&spool, &to);
    for upto in 1..=2 {
        spool.acknowledge(&to, offset(upto));
        let_pass(&world, &spool, Duration::from_millis(ACKNOWLEDGED_EVERY_MS));
    }
    let dir = spool.dir().to_owned();
    disk.kill();
    drop(spool);
    remove_partition(&disk, &dir, &to);
    let spool = world.open_spool();
    append_three(&spool, &to);
    for seed in 0..20 {
        let copy = disk.snapshot();
        copy.restart(seed);
        let mut cut = World::on(Arc::new(copy));
        cut.spool_config = world.spool_config.clone();
        let range = cut.open_spool().range(&to);
        assert_eq!((range.start, range.durable_end), (Offset::ZERO, offset(3)));
    }
}

/// What goes with the last batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AlsoLost {
    Nothing,
    /// What the log knew of its producers: it is then learnt from the batches that can be read.
    Producers,
}

#[test]
fn a_damaged_last_batch_does_not_stop_its_partition() {
    for also in [AlsoLost::Nothing, AlsoLost::Producers] {
        check_damaged_last_batch(also);
    }
}

fn check_damaged_last_batch(also: AlsoLost) {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    for value in [b"one", b"two"] {
        assert_eq!(append(&spool, &to, value), Taken::Yes);
    }
    sync(&spool);
    spool.close().unwrap();
    let dir = spool.dir().join(to.to_string());
    drop(spool);
    for entry in disk.list(&dir).unwrap() {
        let path = dir.join(&entry.name);
        let name = entry.name.to_string_lossy();
        if name.ends_with(".log") {
            let mut content = disk.content(&path).unwrap();
            let last = content.len() - 3;
            content[last] ^= 1;
            disk.overwrite(&path, &content);
        } else if name.ends_with(".snapshot") && also == AlsoLost::Producers {
            disk.remove(&path).unwrap();
        }
    }
    for value in [b"six", b"ten"] {
        let spool = world.open_spool();
        assert_eq!(append(&spool, &to, value), Taken::Yes, "{also:?}");
        sync(&spool);
        drop(spool);
        disk.kill();
    }
    let spool = world.open_spool();
    let range = spool.range(&to);
    assert_eq!((range.start, range.durable_end), (Offset::ZERO, offset(4)));
    assert_eq!(spool.read(&to, Offset::ZERO, 1).unwrap().len(), 1);
    // What is behind the hole begins where it was, so the hole is told by its offsets.
    let behind = spool.read(&to, offset(1), 1 << 20).unwrap();
    let first = commitlog::batch::header::verify(&behind[0]).unwrap();
    assert_eq!((first.base_offset, behind.len()), (offset(2), 2));
}

#[test]
fn the_segments_of_a_spool_never_take_more_disk_than_its_limit() {
    let (_disk, world) = small(8192, 40_000);
    let spool = world.open_spool();
    let partitions = 6;
    for _ in 0..4 {
        assert!(fill(&spool, partitions) > 0);
        let longest = batch(&spool, &logs(0), &noise(0, 500)).len() as u64;
        assert!(spool.fill().disk_bytes < 40_000 + longest);
        // All is acknowledged, and each partition's last segment is less than half full.
        for partition in spool.partitions() {
            spool.acknowledge(&partition, spool.range(&partition).durable_end);
        }
        let_pass(&world, &spool, Duration::from_secs(1));
        assert!(!spool.is_full());
        assert_eq!(spool.fill().disk_bytes, 0);
    }
}

#[test]
fn a_full_spool_goes_on_after_a_restart_as_soon_as_there_is_room() {
    let (_disk, world) = small(4096, 40_000);
    let spool = world.open_spool();
    let to = logs(0);
    let batches = fill(&spool, 1);
    spool.close().unwrap();
    drop(spool);
    let spool = world.open_spool();
    assert_eq!(append(&spool, &to, b"more"), Taken::Wait);
    let full = spool.fill();
    assert_eq!(full.unacknowledged_records, u64::from(batches));
    spool.acknowledge(&to, offset(i64::from(batches / 2)));
    let_pass(&world, &spool, Duration::from_secs(1));
    let half = spool.fill();
    assert!(
        half.disk_bytes < full.disk_bytes * 2 / 3,
        "{half:?} of {full:?}"
    );
    assert!(half.unacknowledged_bytes <= half.disk_bytes, "{half:?}");
    assert_eq!(append(&spool, &to, b"more"), Taken::Yes);
}

#[test]
fn a_failed_save_of_what_is_acknowledged_is_tried_again() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    assert_eq!(append(&spool, &to, b"one"), Taken::Yes);
    sync(&spool);
    spool.acknowledge(&to, offset(1));
    disk.limit(Some(1));
    let_pass(&world, &spool, Duration::from_secs(1));
    assert!(matches!(spool.sync_turn(), SyncTurn::Idle(Some(_))));
    disk.limit(None);
    let_pass(&world, &spool, Duration::from_secs(1));
    disk.kill();
    drop(spool);
    let spool = world.open_spool();
    assert_eq!(spool.range(&to).start, offset(1));
    assert!(records(&spool).is_empty());
}

#[test]
fn a_durable_save_of_what_is_acknowledged_that_fails_takes_nothing_back() {
    let every = Duration::from_millis(ACKNOWLEDGED_EVERY_MS);
    let to = logs(0);
    for (call, fault) in (0..4).flat_map(|call| [(call, Fault::Io), (call, Fault::Full)]) {
        let (disk, world) = small(1 << 20, 1 << 30);
        let spool = world.open_spool();
        append_three(&spool, &to);
        spool.acknowledge(&to, offset(1));
        let_pass(&world, &spool, every);
        spool.acknowledge(&to, offset(2));
        let_pass(&world, &spool, every);
        spool.acknowledge(&to, offset(3));
        world.pass(Duration::from_millis(ACKNOWLEDGED_SYNC_EVERY_MS));
        disk.plan(disk.calls() + call, fault);
        spool.sync_turn();
        disk.kill();
        drop(spool);
        let start = world.open_spool().range(&to).start;
        assert_eq!(start, offset(3), "{fault:?} at {call}");
    }
}

#[test]
fn a_kill_while_what_is_acknowledged_is_saved_takes_nothing_back() {
    let every = Duration::from_millis(ACKNOWLEDGED_EVERY_MS);
    let to = logs(0);
    let mut calls = 0;
    while calls < 100 {
        let (disk, world) = small(1 << 20, 1 << 30);
        let spool = world.open_spool();
        append_three(&spool, &to);
        spool.acknowledge(&to, offset(1));
        let_pass(&world, &spool, every);
        spool.acknowledge(&to, offset(2));
        let_pass(&world, &spool, every);
        world.pass(Duration::from_millis(ACKNOWLEDGED_SYNC_EVERY_MS));
        // Nothing works any more from there on, which is as good as being killed.
        for call in calls..calls + 20 {
            disk.plan(disk.calls() + call, Fault::Io);
        }
        let before = disk.calls();
        spool.sync_turn();
        let is_past = disk.calls() <= before + calls;
        disk.forgive();
        disk.kill();
        drop(spool);
        let start = world.open_spool().range(&to).start;
        assert_eq!(start, offset(2), "killed at call {calls}");
        if is_past {
            return;
        }
        calls += 1;
    }
    panic!("saving has no end");
}

#[test]
fn a_failed_trim_leaves_nothing_that_is_taken_for_durable() {
    for call in 0..6 {
        let (disk, world) = small(4096, 1 << 30);
        let spool = world.open_spool();
        let to = logs(0);
        for seed in 0..20 {
            assert_eq!(append(&spool, &to, &noise(seed, 500)), Taken::Yes);
            sync(&spool);
        }
        let partition = spool.partition(&to).unwrap();
        assert!(partition.acknowledge(offset(20)));
        partition.folded(offset(20));
        assert_eq!(append(&spool, &to, b"last"), Taken::Yes);
        disk.plan(disk.calls() + call, Fault::Io);
        let trimmed = partition.trim(ActiveSegment::Keep, (world.clock())());
        assert!(call > 0 || trimmed.is_err());
        disk.forgive();
        spool.save_notes();
        spool.sync_turn();
        disk.power_cut();
        drop((partition, spool));
        disk.restart(call);
        let spool = world.open_spool();
        assert_eq!(spool.range(&to).end, offset(21), "fault at {call}");
        assert!(spool.losses().is_empty(), "fault at {call}");
    }
}

/// The log of a partition that has one segment.
fn log_of(disk: &FaultyDisk, spool_dir: &std::path::Path, of: &TopicPartition) -> PathBuf {
    let dir = spool_dir.join(of.to_string());
    let mut names = disk.list(&dir).unwrap().into_iter().map(|entry| entry.name);
    let log = names.find(|name| name.to_string_lossy().ends_with(".log"));
    dir.join(log.unwrap())
}

/// A copy of a log in which every batch is damaged but the last.
fn damaged_but_last(whole: &[u8]) -> Vec<u8> {
    let mut damaged = whole.to_vec();
    let mut at = 0;
    loop {
        let next = at + BatchHeader::parse(&whole[at..]).unwrap().total_bytes();
        if next == whole.len() {
            return damaged;
        }
        damaged[next - 3] ^= 1;
        at = next;
    }
}

#[test]
fn more_damaged_batches_than_one_read_passes_are_passed() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    let batches = i64::try_from(2 * GAPS_PER_READ_MAX).unwrap() + 10;
    for _ in 0..batches {
        assert_eq!(append(&spool, &to, b"line"), Taken::Yes);
    }
    spool.close().unwrap();
    let log = log_of(&disk, spool.dir(), &to);
    drop(spool);
    let whole = disk.content(&log).unwrap();
    disk.overwrite(&log, &damaged_but_last(&whole));
    let spool = world.open_spool();
    let read = spool.read(&to, Offset::ZERO, 1).unwrap();
    let first = BatchHeader::parse(&read[0]).unwrap();
    assert_eq!(first.base_offset, offset(batches - 1));
}

#[test]
fn what_is_durable_though_the_append_behind_it_failed_is_given_out() {
    let to = logs(0);
    let mut seen = 0;
    for room in (0..4000).step_by(10) {
        let (disk, world) = small(1000, 1 << 30);
        let spool = world.open_spool();
        assert_eq!(append(&spool, &to, &noise(0, 700)), Taken::Yes);
        disk.limit(Some(room));
        if append(&spool, &to, &noise(1, 700)) == Taken::Yes {
            continue;
        }
        disk.limit(None);
        let turn = spool.sync_turn();
        assert!(matches!(turn, SyncTurn::Worked { .. }), "room of {room}");
        assert_eq!(spool.range(&to).durable_end, offset(1), "room of {room}");
        seen += 1;
    }
    assert!(seen > 2);
}

#[test]
fn batches_that_a_replay_cannot_read_are_told() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    for _ in 0..3 {
        assert_eq!(append(&spool, &to, b"line"), Taken::Yes);
    }
    spool.close().unwrap();
    let dir = spool.dir().to_owned();
    drop(spool);
    let log = log_of(&disk, &dir, &to);
    disk.overwrite(&log, &damaged_but_last(&disk.content(&log).unwrap()));
    for name in crate::spool::open::SNAPSHOTS {
        disk.remove(&dir.join(name)).ok();
    }
    let (_, report) = Spool::open(
        Arc::new(disk),
        world.spool_config.clone(),
        world.clock(),
        world.random(),
    )
    .unwrap();
    let told =
        |repair: &String| repair.contains("logs-0: 2 records cannot be read, the first at 0");
    assert!(report.repairs.iter().any(told), "{:?}", report.repairs);
    assert_eq!(report.batches_replayed, 1);
}

#[test]
fn what_the_disk_gives_the_second_time_is_not_skipped() {
    let (disk, world) = small(1 << 20, 1 << 30);
    let spool = world.open_spool();
    let to = logs(0);
    for _ in 0..3 {
        assert_eq!(append(&spool, &to, b"line"), Taken::Yes);
    }
    spool.close().unwrap();
    let log = log_of(&disk, spool.dir(), &to);
    drop(spool);
    let whole = disk.content(&log).unwrap();
    let damaged = damaged_but_last(&whole);
    let spool = world.open_spool();
    spool.skip_damaged(&to).unwrap();
    assert_eq!(spool.range(&to).start, Offset::ZERO);
    // Everything: nothing tells yet where it goes on.
    disk.break_sector(&log, 0);
    spool.skip_damaged(&to).unwrap();
    assert_eq!(spool.range(&to).start, Offset::ZERO);
    assert!(spool.losses().is_empty());
    disk.overwrite(&log, &damaged);
    spool.skip_damaged(&to).unwrap();
    assert_eq!(spool.range(&to).start, offset(2));
    let lost: Vec<u64> = spool.losses().values().map(|loss| loss.count).collect();
    assert_eq!(lost, [2]);
}

#[test]
fn a_skip_is_never_saved_without_its_loss() {
    for call in 0..20 {
        let (disk, world) = small(1 << 20, 1 << 30);
        let spool = world.open_spool();
        let to = logs(0);
        for _ in 0..3 {
            assert_eq!(append(&spool, &to, b"line"), Taken::Yes);
        }
        sync(&spool);
        world.pass(Duration::from_secs(2));
        sync(&spool);
        world.pass(Duration::from_millis(ACKNOWLEDGED_EVERY_MS));
        let lost = Loss { count: 2, bytes: 0 };
        spool.count_loss("spool", "damaged", lost);
        spool.acknowledge(&to, offset(2));
        disk.plan(disk.calls() + call, Fault::Io);
        spool.sync_turn();
        disk.kill();
        disk.forgive();
        drop(spool);
        let spool = world.open_spool();
        let is_skipped = spool.range(&to).start == offset(2);
        assert!(!is_skipped || !spool.losses().is_empty(), "fault at {call}");
        assert!(is_skipped || call < 19, "all of it is saved in one turn");
    }
}

#[test]
fn a_full_spool_writes_positions_only_when_that_gives_room() {
    let (disk, world) = small(8192, 40_000);
    let spool = world.open_spool();
    let to = logs(0);
    fill(&spool, 1);
    let_pass(&world, &spool, Duration::from_secs(3));
    disk.record();
    let written = || {
        let history = disk.history();
        let positions = history.iter().filter(|(call, path)| {
            *call == Call::Rename && path.to_string_lossy().contains("positions")
        });
        positions.count()
    };
    // Far from a segment's end.
    for upto in 1..=4 {
        spool.acknowledge(&to, offset(upto));
        let_pass(&world, &spool, Duration::from_secs(1));
    }
    assert_eq!(written(), 0);
    assert!(spool.is_full());
    spool.acknowledge(&to, offset(20));
    let_pass(&world, &spool, Duration::from_secs(1));
    assert!(written() > 0);
    assert!(!spool.is_full());
}

#[test]
fn a_disk_with_plenty_of_room_is_looked_at_once_a_second() {
    let mut look = DiskLook {
        at_ms: 5_000,
        room: DISK_PLENTY_BYTES + 100,
    };
    assert!(look.has_plenty(60, 5_500));
    assert!(
        !look.has_plenty(60, 5_500),
        "less than plenty would be left"
    );
    assert!(look.has_plenty(40, 5_999));
    look.room = u64::MAX;
    assert!(!look.has_plenty(1, 6_000));
    // The clock was set back by more than that.
    assert!(!look.has_plenty(1, 3_000));
}
