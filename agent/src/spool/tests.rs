//! The spool by itself, and under an agent whose disk fails.

mod bounds;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use commitlog::batch::header::verify;
use commitlog::error::ErrorKind;
use commitlog::id::{Offset, ProducerId, Sequence, TopicPartition};
use commitlog::storage::disk::Disk;
use commitlog::storage::faulty::{Fault, FaultyDisk};

use super::{Hints, Spool, SpoolRange, SyncTurn, Taken, offset_near};
use crate::limits::APPENDER_SYNC_BYTES_MAX;
use crate::testing::{World, records};

fn logs(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: "logs".parse().unwrap(),
        partition,
    }
}

/// A batch of one record.
fn batch(spool: &Spool, to: &TopicPartition, value: &[u8]) -> Vec<u8> {
    use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord {
        timestamp: commitlog::id::Timestamp(1),
        key: None,
        value,
        headers: &HeaderBlock::default(),
        extra: None,
    });
    let mut batches = Vec::new();
    let producer = spool.next_producer(to).unwrap();
    builder.finish(producer, &mut batches).unwrap();
    batches.remove(0)
}

fn append(spool: &Spool, to: &TopicPartition, value: &[u8]) -> Taken {
    let mut batch = batch(spool, to, value);
    spool.append(to, &mut batch, &mut Vec::new()).unwrap()
}

fn sync(spool: &Spool) {
    while matches!(spool.sync_turn(), SyncTurn::Worked { .. }) {}
}

#[test]
fn i15_a_batch_is_given_out_only_when_it_is_fsynced() {
    let world = World::new();
    let spool = world.open_spool();
    let mut changed = spool.changed();
    let to = logs(0);
    assert_eq!(append(&spool, &to, b"one"), Taken::Yes);
    assert!(spool.read(&to, Offset::ZERO, 1 << 20).unwrap().is_empty());
    assert_eq!(spool.range(&to).end, Offset::new(1).unwrap());
    changed.mark_unchanged();
    sync(&spool);
    assert!(changed.has_changed().unwrap());
    assert_eq!(spool.read(&to, Offset::ZERO, 1 << 20).unwrap().len(), 1);
    assert_eq!(spool.range(&to).durable_end, Offset::new(1).unwrap());
}

#[test]
fn a_second_process_is_refused_and_told_by_whom() {
    let world = World::new();
    let _held = world.open_spool();
    let opened = Spool::open(
        Arc::new(Disk),
        world.spool_config.clone(),
        world.clock(),
        world.random(),
    );
    let Err(refused) = opened else {
        panic!("two spools on one directory");
    };
    assert_eq!(refused.kind, ErrorKind::Input);
    let pid = std::process::id().to_string();
    assert!(refused.message.contains(&pid), "{refused}");
}

#[test]
fn identity_counts_and_offsets_outlive_a_restart() {
    let world = World::new();
    let spool = world.open_spool();
    let (id, salt) = (spool.producer_id(), spool.salt());
    spool.apply_hints(Hints {
        linger: Duration::from_millis(9),
        partitions: vec![("logs".parse().unwrap(), 7)],
        partitions_of_new: 5,
    });
    assert_eq!(append(&spool, &logs(3), b"one"), Taken::Yes);
    sync(&spool);
    spool.close().unwrap();
    drop(spool);
    let spool = world.open_spool();
    assert_eq!((spool.producer_id(), spool.salt()), (id, salt));
    assert_eq!(spool.partition_count(&"logs".parse().unwrap()), Some(7));
    assert_eq!(spool.partition_count(&"new".parse().unwrap()), Some(5));
    assert_eq!(spool.range(&logs(3)).durable_end, Offset::new(1).unwrap());
}

#[test]
fn a_damaged_identity_is_read_from_the_snapshot() {
    let disk = FaultyDisk::new();
    let world = World::on(Arc::new(disk.clone()));
    let spool = world.open_spool();
    let (id, salt) = (spool.producer_id(), spool.salt());
    assert_eq!(append(&spool, &logs(0), b"one"), Taken::Yes);
    sync(&spool);
    spool.close().unwrap();
    let path = spool.dir().join("spool.meta");
    drop(spool);
    let whole = disk.content(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        disk.overwrite(&path, &damaged);
        let spool = world.open_spool();
        assert_eq!((spool.producer_id(), spool.salt()), (id, salt), "byte {at}");
    }
}

#[test]
fn a_renewed_spool_gives_its_batches_to_the_new_id() {
    let world = World::new();
    let spool = world.open_spool();
    let to = logs(0);
    assert_eq!(append(&spool, &to, b"one"), Taken::Yes);
    assert_eq!(append(&spool, &to, b"two"), Taken::Yes);
    sync(&spool);
    let old = spool.producer_id();
    let new = spool.renew_producer_id("test").unwrap();
    assert_ne!(old, new);
    assert_eq!(spool.replaced_producer_id(), Some(old));
    assert_eq!(append(&spool, &to, b"three"), Taken::Yes);
    sync(&spool);
    let batches = spool.read(&to, Offset::ZERO, 1 << 20).unwrap();
    for (n, batch) in (0i64..).zip(&batches) {
        let header = verify(batch).unwrap();
        let sequence = Sequence::of_spool_offset(Offset::new(n).unwrap());
        let producer = header.producer.unwrap();
        assert_eq!((producer.id, producer.base_sequence), (new, sequence));
        assert_eq!(spool.batch_crc_at(&to, sequence).unwrap(), Some(header.crc));
    }
    assert_eq!(batches.len(), 3);
    drop(spool);
    assert_eq!(world.open_spool().producer_id(), new);
}

#[test]
fn i17_an_acknowledged_batch_frees_its_bytes_and_then_its_segment() {
    let mut world = World::new();
    world.spool_config.segment_bytes = 4096;
    let spool = world.open_spool();
    let to = logs(0);
    for round in 0..100u32 {
        let noise: Vec<u8> = (0..300u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) ^ round.wrapping_mul(40_503)).to_be_bytes()[1])
            .collect();
        assert_eq!(append(&spool, &to, &noise), Taken::Yes);
    }
    sync(&spool);
    let full = spool.fill();
    assert!(full.unacknowledged_bytes > 8 * 4096);
    spool.acknowledge(&to, spool.range(&to).durable_end);
    assert_eq!(spool.fill().unacknowledged_bytes, 0);
    assert_eq!(spool.fill().unacknowledged_records, 0);
    for _ in 0..3 {
        world.pass(Duration::from_secs(2));
        sync(&spool);
    }
    assert!(spool.fill().disk_bytes <= 2 * 4096, "{:?}", spool.fill());
    let below = spool.read(&to, Offset::ZERO, 1).unwrap_err();
    assert_eq!(below.kind, ErrorKind::Input);
}

#[test]
fn i18_a_full_spool_stops_reading_and_goes_on_by_itself() {
    let mut world = World::new();
    world.spool_config.bytes_max = 40_000;
    world.spool_config.segment_bytes = 8192;
    let lines: Vec<String> = (0..20_000u64)
        .map(|n| format!("{n} {:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    world.append("a.log", &(lines.join("\n") + "\n"));
    let mut seen = Vec::new();
    for _ in 0..1000 {
        world.settle();
        let spool = world.spool();
        seen.extend(records(&spool).into_iter().map(|line| line.value));
        if seen.len() == lines.len() {
            break;
        }
        assert!(spool.is_full());
        assert!(spool.fill().disk_bytes < 1_000_000);
        for partition in spool.partitions() {
            spool.acknowledge(&partition, spool.range(&partition).durable_end);
        }
        world.pass(Duration::from_millis(300));
        sync(&spool);
    }
    let seen: Vec<String> = seen
        .into_iter()
        .map(|value| String::from_utf8(value).unwrap())
        .collect();
    assert_eq!(seen, lines);
    assert!(world.losses().is_empty());
}

#[test]
fn a_change_is_told_only_to_who_waits_for_one() {
    let mut world = World::new();
    world.spool_config.bytes_max = 4096;
    world.spool_config.segment_bytes = 1024;
    let spool = world.open_spool();
    let told = Arc::new(AtomicUsize::new(0));
    spool.on_change({
        let told = Arc::clone(&told);
        Arc::new(move || {
            told.fetch_add(1, Ordering::Relaxed);
        })
    });
    let told = || told.swap(0, Ordering::Relaxed);
    let to = logs(0);
    let noise = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2];
    let value: Vec<u8> = (1..700).map(noise).collect();
    while append(&spool, &to, &value) == Taken::Yes {
        sync(&spool);
        assert_eq!(told(), 0, "nobody waits");
    }
    assert!(!spool.has_room());
    sync(&spool);
    assert_eq!(told(), 0, "nothing has changed");
    spool.acknowledge(&to, spool.range(&to).durable_end);
    world.pass(Duration::from_secs(1));
    sync(&spool);
    assert_eq!(told(), 1);
    assert!(spool.has_room());
}

#[test]
fn a_full_disk_stops_reading_and_goes_on_by_itself() {
    let disk = FaultyDisk::new();
    let mut world = World::on(Arc::new(disk.clone()));
    world.append("a.log", "one\n");
    world.settle();
    disk.limit(Some(1));
    world.append("a.log", "two\n");
    world.run_for(Duration::from_secs(1));
    world.append("a.log", "three\n");
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one"]);
    disk.limit(None);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.lines_of("a.log"), ["one", "two", "three"]);
}

/// Who makes batches durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syncs {
    Thread,
    Appender,
}

const ALL_SYNCS: [Syncs; 2] = [Syncs::Thread, Syncs::Appender];

/// One run of a small agent, with whatever `break_it` does to the disk before it. Every line must be in
/// the spool in the end, once and in order, over restarts with these seeds.
fn survives(syncs: Syncs, break_it: impl FnOnce(&FaultyDisk), seeds: [u64; 2], what: &str) -> u64 {
    let disk = FaultyDisk::new();
    break_it(&disk);
    let mut world = World::on(Arc::new(disk.clone()));
    world.appender_syncs = syncs == Syncs::Appender;
    world.revive = Some((disk.clone(), seeds[0]));
    let mut expected = Vec::new();
    for round in 0..6 {
        for line in 0..3 {
            expected.push(format!("{round}.{line}"));
            world.append("a.log", &format!("{round}.{line}\n"));
            world.settle();
        }
        if round == 2 {
            // Until the disk has taken the file's position, nothing would find it by another name.
            world.run_for(Duration::from_secs(2));
            world.revive(seeds[1]);
            world.run_for(Duration::from_secs(2));
            world.rename("a.log", "a.old");
        }
        if round == 4 {
            world.stop();
        }
        world.revive(seeds[1]);
    }
    for _ in 0..3 {
        world.run_for(Duration::from_secs(1));
        world.revive(seeds[1]);
    }
    let lines = world.lines_of("a.log");
    assert_eq!(lines, expected, "{what}, {syncs:?}, seeds {seeds:?}");
    disk.calls()
}

#[test]
fn i16_a_power_cut_at_any_call_loses_and_doubles_nothing() {
    for syncs in ALL_SYNCS {
        let calls = survives(syncs, |_| {}, [0, 0], "no fault");
        for call in 0..calls {
            for seed in 0..2 {
                let seeds = [call * 31 + seed, call * 17 + seed];
                survives(
                    syncs,
                    |disk| disk.plan(call, Fault::PowerCut),
                    seeds,
                    &format!("power cut at {call}"),
                );
            }
        }
    }
}

#[test]
fn a_failed_or_short_write_or_fsync_at_any_call_loses_and_doubles_nothing() {
    for syncs in ALL_SYNCS {
        let calls = survives(syncs, |_| {}, [0, 0], "no fault");
        for call in 0..calls {
            for fault in [Fault::Io, Fault::Full, Fault::Short] {
                survives(
                    syncs,
                    |disk| disk.plan(call, fault),
                    [call, call],
                    &format!("{fault:?} at {call}"),
                );
            }
        }
    }
}

#[test]
fn a_power_cut_after_a_failed_fsync_loses_and_doubles_nothing() {
    for syncs in ALL_SYNCS {
        let calls = survives(syncs, |_| {}, [0, 0], "no fault");
        for call in 0..calls {
            let break_it = |disk: &FaultyDisk| {
                disk.plan(call, Fault::Io);
                disk.plan(call + 3 + call % 5, Fault::PowerCut);
            };
            survives(
                syncs,
                break_it,
                [call, call + 1],
                &format!("fault and power cut from {call}"),
            );
        }
    }
}

/// Whether the sync thread would come out of its sleep at once.
fn is_raised(spool: &Spool) -> bool {
    std::mem::take(&mut *super::lock(&spool.inner.signal.raised))
}

#[test]
fn what_the_appender_makes_durable_wakes_nobody() {
    let world = World::new();
    let spool = world.open_spool();
    let to = logs(0);
    spool.set_appender_syncs(true);
    spool.next_producer(&to).unwrap();
    is_raised(&spool);
    assert_eq!(append(&spool, &to, b"one"), Taken::Yes);
    assert_eq!(append(&spool, &to, b"two"), Taken::Yes);
    assert!(!is_raised(&spool));
    assert!(spool.sync_appended());
    assert_eq!(spool.read(&to, Offset::ZERO, 1 << 20).unwrap().len(), 2);
    assert!(!spool.sync_appended());
    assert!(!is_raised(&spool));
}

#[test]
fn much_that_is_appended_in_one_turn_is_left_to_the_sync_thread() {
    let world = World::new();
    let spool = world.open_spool();
    let to = logs(0);
    spool.set_appender_syncs(true);
    let value = bounds::noise(1, APPENDER_SYNC_BYTES_MAX / 2);
    for raised in [false, true, true] {
        assert_eq!(append(&spool, &to, &value), Taken::Yes);
        assert_eq!(is_raised(&spool), raised);
    }
    assert!(!spool.sync_appended());
    sync(&spool);
    assert_eq!(append(&spool, &to, b"little"), Taken::Yes);
    assert!(spool.sync_appended());
    assert_eq!(spool.range(&to).durable_end, Offset::new(4).unwrap());
}

#[test]
fn an_fsync_of_the_appender_that_fails_is_tried_again_by_the_sync_thread() {
    let disk = FaultyDisk::new();
    let world = World::on(Arc::new(disk.clone()));
    let spool = world.open_spool();
    let to = logs(0);
    spool.set_appender_syncs(true);
    assert_eq!(append(&spool, &to, b"one"), Taken::Yes);
    is_raised(&spool);
    disk.plan(disk.calls(), Fault::Io);
    assert!(spool.sync_appended());
    assert_eq!(spool.range(&to).durable_end, Offset::ZERO);
    assert!(is_raised(&spool));
    sync(&spool);
    assert_eq!(spool.range(&to).durable_end, Offset::new(1).unwrap());
}

/// Whether the newest snapshot is on disk.
fn is_snapshot_saved(spool: &Spool) -> bool {
    let snapshot = &spool.state().snapshot;
    snapshot.generation_saved == snapshot.generation
}

#[test]
fn a_snapshot_waits_for_an_fsync_that_another_thread_began() {
    for closes in [false, true] {
        let world = World::new();
        let spool = world.open_spool();
        sync(&spool);
        assert_eq!(append(&spool, &logs(0), b"one"), Taken::Yes);
        let partition = spool.partition(&logs(0)).unwrap();
        let job = partition.start_sync().unwrap();
        assert_eq!(append(&spool, &logs(0), b"two"), Taken::Yes);
        let saved = spool.state().snapshot.generation_saved;
        spool.save_notes();
        if closes {
            spool.close().unwrap();
        } else {
            spool.sync_turn();
        }
        assert_eq!(spool.state().snapshot.generation_saved, saved);
        assert!(!is_snapshot_saved(&spool));
        if !closes {
            partition.finish_sync(job.run()).unwrap();
            sync(&spool);
            assert!(is_snapshot_saved(&spool));
        }
    }
}

#[test]
fn a_snapshot_waits_for_the_fsync_of_a_partition_that_is_new_since_it_was_begun() {
    for closes in [false, true] {
        let disk = FaultyDisk::new();
        let world = World::on(Arc::new(disk.clone()));
        // The clock is asked once the partitions were listed, and before the table is read.
        let waiting: Arc<Mutex<Option<Spool>>> = Arc::default();
        let (clock, appends) = (world.clock(), Arc::clone(&waiting));
        let opened = Spool::open(
            Arc::new(disk.clone()),
            world.spool_config.clone(),
            Arc::new(move || {
                let spool = appends.lock().unwrap().take();
                if let Some(spool) = spool {
                    assert_eq!(append(&spool, &logs(7), b"one"), Taken::Yes);
                }
                clock()
            }),
            world.random(),
        );
        let (spool, _) = opened.unwrap();
        sync(&spool);
        spool.save_notes();
        *waiting.lock().unwrap() = Some(spool.clone());
        if closes {
            spool.close().unwrap();
        } else {
            spool.sync_turn();
        }
        assert!(waiting.lock().unwrap().is_none() && is_snapshot_saved(&spool));
        let range = spool.range(&logs(7));
        let one = Offset::new(1).unwrap();
        assert_eq!(range.durable_end, one, "closes: {closes}");
    }
}

#[test]
fn every_flipped_bit_of_a_snapshot_is_found() {
    let disk = FaultyDisk::new();
    let mut world = World::on(Arc::new(disk.clone()));
    world.append("a.log", "one\ntwo\n");
    world.settle();
    let dir = world.spool().dir().to_owned();
    world.stop();
    let newest = ["positions.0", "positions.1"]
        .map(|name| dir.join(name))
        .into_iter()
        .filter_map(|path| {
            Some((
                super::positions::decode(&disk.content(&path)?)?.generation,
                path,
            ))
        })
        .max()
        .unwrap()
        .1;
    let whole = disk.content(&newest).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(super::positions::decode(&damaged).is_none(), "bit {bit}");
    }
    for length in 0..whole.len() {
        assert!(
            super::positions::decode(&whole[..length]).is_none(),
            "length {length}"
        );
    }
    // The agent goes on with what else it has: nothing is lost, and nothing comes twice.
    disk.overwrite(&newest, b"damaged");
    world.append("a.log", "three\n");
    world.settle();
    assert_eq!(world.lines_of("a.log"), ["one", "two", "three"]);
}

#[test]
fn a_sequence_of_the_wire_finds_its_offset_also_after_the_wrap() {
    let offset = |n: i64| Offset::new(n).unwrap();
    let wrap = 1i64 << 31;
    let range = SpoolRange {
        start: offset(wrap - 10),
        durable_end: offset(wrap + 10),
        end: offset(wrap + 10),
    };
    for at in wrap - 10..=wrap + 10 {
        let sequence = Sequence::of_spool_offset(offset(at));
        assert_eq!(offset_near(range, sequence), Some(offset(at)));
    }
    let before = Sequence::of_spool_offset(offset(wrap - 11));
    assert_eq!(offset_near(range, before), None);
}

#[test]
fn producer_ids_are_never_negative_and_never_alike() {
    let world = World::new();
    let random = world.random();
    let mut drawn: Vec<ProducerId> = (0..100)
        .map(|_| super::meta::draw_producer_id(&random))
        .collect();
    assert!(drawn.iter().all(|id| id.get() >= 0));
    drawn.sort();
    drawn.dedup();
    assert_eq!(drawn.len(), 100);
}
