//! Damage: every bit of every file flipped in turn, every file cut at every length, removed, zeroed. What
//! is damaged is told as a gap with its exact offsets; everything else is read, byte for byte, under its own
//! offset; start-up works; no offset is given out again; nothing forged gets in.
#![expect(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use commitlog::batch::header::{BatchHeader, HEADER_BYTES};
use commitlog::id::{Offset, Timestamp};
use commitlog::log::partition::{LogConfig, Outcome, PartitionLog};
use commitlog::log::reader::{Gap, LogReader, Until};
use commitlog::storage::faulty::FaultyDisk;
use commitlog::storage::{OpenMode, Storage};
use support::craft::{forged, uncompressed};
use support::{NOW, Random, batch, batches, offset, producer};

const DIR: &str = "d";
const CONFIG: LogConfig = LogConfig {
    segment_bytes_max: 700,
    segment_age_max_ms: 3_600_000,
    retention_bytes: None,
    retention_ms: None,
};

/// How the process that wrote the log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    /// Killed when all was synced: what the index claims is all that is known.
    Killed,
}

fn open(disk: &FaultyDisk) -> PartitionLog {
    PartitionLog::open(Arc::new(disk.clone()), Path::new(DIR), CONFIG, NOW)
        .unwrap()
        .0
}

/// A log on a fresh disk, and its batches by base offset.
fn written(sent: &[Vec<u8>], end: End) -> (FaultyDisk, BTreeMap<Offset, Vec<u8>>) {
    let disk = FaultyDisk::new();
    let mut log = open(&disk);
    let mut taken = BTreeMap::new();
    for batch in sent {
        let mut batch = batch.clone();
        let appended = log.append(&mut batch, NOW).unwrap();
        taken.insert(appended.base_offset, batch);
        let job = log.start_sync().unwrap();
        log.finish_sync(job.run()).unwrap();
    }
    match end {
        End::Closed => log.close().unwrap(),
        End::Killed => disk.kill(),
    }
    (disk, taken)
}

fn files(disk: &FaultyDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).unwrap();
    names
        .into_iter()
        .map(|entry| Path::new(DIR).join(entry.name))
        .collect()
}

fn is_log(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "log")
}

fn read_all(reader: &LogReader) -> (BTreeMap<Offset, Vec<u8>>, Vec<Gap>) {
    let (mut batches, mut gaps) = (BTreeMap::new(), Vec::new());
    let mut next = reader.start();
    while next < reader.end() {
        let slice = reader.read(next, 500, Until::Durable).unwrap();
        assert!(slice.next > next, "a read gets on");
        let mut rest = slice.batches.as_slice();
        while !rest.is_empty() {
            let header = BatchHeader::parse(rest).unwrap();
            let (batch, after) = rest.split_at(header.total_bytes());
            batches.insert(header.base_offset, batch.to_vec());
            rest = after;
        }
        gaps.extend(slice.gaps);
        next = slice.next;
    }
    (batches, gaps)
}

/// Opens the damaged log and holds it to what is promised. Answers the offsets it lost.
fn survive(
    disk: &FaultyDisk,
    taken: &BTreeMap<Offset, Vec<u8>>,
    what: &str,
) -> Vec<(Offset, Offset)> {
    let mut log = open(disk);
    let (last_base, last) = taken.last_key_value().unwrap();
    let end = last_base.plus(BatchHeader::parse(last).unwrap().record_count);
    assert_eq!(log.end(), end, "{what}: no offset is given out again");
    let (found, gaps) = read_all(&log.reader());
    for (base, batch) in &found {
        assert!(
            taken.get(base) == Some(batch),
            "{what}: other bytes at offset {base}"
        );
    }
    // Told or kept: every batch is one of them, whole.
    for (base, batch) in taken {
        let next = base.plus(BatchHeader::parse(batch).unwrap().record_count);
        let lost = gaps.iter().any(|gap| gap.from <= *base && next <= gap.to);
        let below = next <= log.start();
        assert!(
            found.contains_key(base) != (lost || below),
            "{what}: offset {base}, {gaps:?}"
        );
    }
    let mut next = batch(producer(777, 0), NOW, &[b"goes on"]);
    let appended = log.append(&mut next, NOW).unwrap();
    assert_eq!(
        (appended.outcome, appended.base_offset),
        (Outcome::Appended, end),
        "{what}"
    );
    let mut lost: Vec<_> = gaps.iter().map(|gap| (gap.from, gap.to)).collect();
    if log.start() > Offset::ZERO {
        lost.insert(0, (Offset::ZERO, log.start()));
    }
    lost
}

/// What is lost when a file other than a `.log` is damaged: nothing. Of a `.log`: one batch at most.
fn check_loss(
    lost: &[(Offset, Offset)],
    file: &Path,
    taken: &BTreeMap<Offset, Vec<u8>>,
    what: &str,
) {
    if !is_log(file) {
        assert_eq!(lost, [], "{what}");
    }
    let batches: usize = lost
        .iter()
        .map(|(from, to)| taken.range(*from..*to).count())
        .sum();
    assert!(batches <= 1, "{what}: {lost:?}");
}

fn flip_every_bit(end: End) {
    let (disk, taken) = written(&batches(31, 14, 2, 60), end);
    let mut flips = 0;
    for file in files(&disk) {
        let content = disk.content(&file).unwrap();
        for bit in 0..content.len() * 8 {
            let copy = disk.snapshot();
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            copy.overwrite(&file, &damaged);
            let what = format!("{end:?}, bit {bit} of {}", file.display());
            let lost = survive(&copy, &taken, &what);
            check_loss(&lost, &file, &taken, &what);
            flips += 1;
        }
    }
    assert!(flips > 20_000, "only {flips}");
}

#[test]
fn i6_every_flipped_bit_of_a_closed_log_costs_at_most_its_batch() {
    flip_every_bit(End::Closed);
}

#[test]
fn i6_every_flipped_bit_of_a_killed_log_costs_at_most_its_batch() {
    flip_every_bit(End::Killed);
}

#[test]
fn i6_every_truncation_costs_what_was_cut_off() {
    for end in [End::Closed, End::Killed] {
        let (disk, taken) = written(&batches(32, 14, 2, 60), end);
        for file in files(&disk) {
            let content = disk.content(&file).unwrap();
            for length in 0..content.len() {
                let copy = disk.snapshot();
                copy.overwrite(&file, &content[..length]);
                let what = format!("{end:?}, {} cut to {length}", file.display());
                let lost = survive(&copy, &taken, &what);
                assert!(is_log(&file) || lost.is_empty(), "{what}: {lost:?}");
                let in_one_piece = lost
                    .iter()
                    .zip(lost.iter().skip(1))
                    .all(|(a, b)| a.1 == b.0);
                assert!(in_one_piece, "{what}: {lost:?}");
            }
        }
    }
}

#[test]
fn i6_a_file_removed_or_zeroed_costs_its_own_batches() {
    for end in [End::Closed, End::Killed] {
        let (disk, taken) = written(&batches(33, 14, 2, 60), end);
        for file in files(&disk) {
            let zeroed = disk.snapshot();
            zeroed.overwrite(&file, &vec![0; disk.content(&file).unwrap().len()]);
            let removed = disk.snapshot();
            removed.remove(&file).unwrap();
            for (copy, how) in [(zeroed, "zeroed"), (removed, "removed")] {
                let what = format!("{end:?}, {} {how}", file.display());
                let lost = survive(&copy, &taken, &what);
                assert!(is_log(&file) || lost.is_empty(), "{what}: {lost:?}");
            }
        }
    }
}

#[test]
fn damage_while_the_log_is_open_is_a_gap_and_an_unreadable_sector_too() {
    let (disk, taken) = written(&batches(34, 14, 2, 60), End::Closed);
    let log = open(&disk);
    let reader = log.reader();
    for file in files(&disk).into_iter().filter(|file| is_log(file)) {
        let content = disk.content(&file).unwrap();
        let Some(middle) = content.len().checked_sub(HEADER_BYTES + 10) else {
            continue;
        };
        let mut damaged = content.clone();
        damaged[middle] ^= 1;
        disk.overwrite(&file, &damaged);
        let (found, gaps) = read_all(&reader);
        assert_eq!(
            (gaps.len(), found.len()),
            (1, taken.len() - 1),
            "{}",
            file.display()
        );
        disk.overwrite(&file, &content);
        disk.break_sector(&file, 0);
        let (found, gaps) = read_all(&reader);
        assert!(!gaps.is_empty(), "{}", file.display());
        let lost: usize = gaps
            .iter()
            .map(|gap| taken.range(gap.from..gap.to).count())
            .sum();
        assert_eq!(found.len() + lost, taken.len());
        assert!(content.len() <= 512 || found.len() + 14 > taken.len());
        disk.overwrite(&file, &content);
    }
    assert_eq!(read_all(&reader).0, taken);
}

#[test]
fn i7_a_batch_forged_inside_a_payload_is_never_accepted() {
    // Each second batch holds perfect imitations of itself and of what follows.
    let mut sent = Vec::new();
    let mut next = 0;
    for number in 0..6i64 {
        let producer = producer(100, i32::try_from(next).unwrap());
        let payload: Vec<u8> = (0..3)
            .flat_map(|ahead| forged(offset(next + 2 * ahead), 2))
            .collect();
        let payload = if number % 2 == 0 {
            payload
        } else {
            b"plain".to_vec()
        };
        sent.push(uncompressed(producer, 2, &payload));
        next += 2;
    }
    for end in [End::Closed, End::Killed] {
        let (disk, taken) = written(&sent, end);
        for file in files(&disk).into_iter().filter(|file| is_log(file)) {
            let content = disk.content(&file).unwrap();
            for bit in 0..content.len() * 8 {
                let mut damaged = content.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let copy = disk.snapshot();
                copy.overwrite(&file, &damaged);
                let what = format!("{end:?}, bit {bit} of {}", file.display());
                survive(&copy, &taken, &what);
                // And when the index that told the way is gone as well.
                let copy = disk.snapshot();
                copy.overwrite(&file, &damaged);
                copy.overwrite(&file.with_extension("index"), &[]);
                refuse_forged(&copy, &taken, &what);
            }
        }
    }
}

fn refuse_forged(disk: &FaultyDisk, taken: &BTreeMap<Offset, Vec<u8>>, what: &str) {
    let log = open(disk);
    for (base, batch) in read_all(&log.reader()).0 {
        assert!(
            taken.get(&base) == Some(&batch),
            "{what}, no index: forged at {base}"
        );
    }
}

#[test]
fn i8_times_are_found_whatever_becomes_of_the_time_index() {
    let (disk, taken) = written(&batches(35, 14, 2, 60), End::Closed);
    let expected: Vec<(Timestamp, Offset)> = taken
        .iter()
        .map(|(base, batch)| (BatchHeader::parse(batch).unwrap().base_timestamp, *base))
        .collect();
    for file in files(&disk).into_iter().filter(|file| !is_log(file)) {
        let content = disk.content(&file).unwrap();
        for bit in (0..content.len() * 8).step_by(3) {
            let copy = disk.snapshot();
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            copy.overwrite(&file, &damaged);
            let reader = open(&copy).reader();
            for (time, base) in expected.iter().step_by(5) {
                let found = reader.offset_at(*time).unwrap();
                assert_eq!(found, Some(*base), "bit {bit} of {}", file.display());
            }
        }
    }
}

#[test]
fn i8_a_file_from_another_time_costs_nothing() {
    let sent = batches(36, 14, 2, 60);
    for end in [End::Closed, End::Killed] {
        let (disk, taken) = written(&sent, end);
        for earlier in 1..sent.len() {
            let (old, _) = written(&sent[..earlier], End::Closed);
            for file in files(&old).into_iter().filter(|file| !is_log(file)) {
                let copy = disk.snapshot();
                let content = old.content(&file).unwrap();
                copy.open(&file, OpenMode::Write).unwrap();
                copy.overwrite(&file, &content);
                let what = format!("{end:?}, {} from after batch {earlier}", file.display());
                assert_eq!(survive(&copy, &taken, &what), [], "{what}");
            }
        }
    }
}

#[test]
fn i3_any_bytes_in_any_files_open_and_answer_nothing_wrong() {
    const ROUNDS: u64 = 4000;
    let (disk, taken) = written(&batches(37, 14, 2, 60), End::Killed);
    let all = files(&disk);
    for seed in 0..ROUNDS {
        let mut random = Random::new(seed);
        let copy = disk.snapshot();
        for _ in 0..=random.below(6) {
            let file = &all[usize::try_from(random.below(all.len() as u64)).unwrap()];
            damage_somehow(&copy, file, &mut random);
        }
        let mut taken = taken.clone();
        for round in 0..2 {
            let mut log = open(&copy);
            for (base, batch) in read_all(&log.reader()).0 {
                assert!(
                    taken.get(&base) == Some(&batch),
                    "seed {seed}: other bytes at {base}"
                );
            }
            let end = log.end();
            let mut next = batch(producer(777 + round, 0), NOW, &[b"goes on"]);
            let appended = log.append(&mut next, NOW).unwrap();
            assert!(appended.base_offset == end, "seed {seed}: {appended:?}");
            taken.insert(end, next);
        }
    }
}

fn damage_somehow(disk: &FaultyDisk, file: &Path, random: &mut Random) {
    let Some(mut content) = disk.content(file) else {
        return;
    };
    let at = usize::try_from(random.below(content.len() as u64 + 1)).unwrap();
    let count = usize::try_from(random.below(100)).unwrap();
    let noise = random.bytes(count);
    match random.below(6) {
        0 => return disk.remove(file).unwrap(),
        1 => content.truncate(at),
        2 => content.extend_from_slice(&noise),
        3 => content = noise,
        4 => content[at..].fill(0),
        _ => {
            let end = (at + count).min(content.len());
            content[at..end].copy_from_slice(&noise[..end - at]);
        }
    }
    disk.overwrite(file, &content);
}

#[test]
fn lost_segments_leave_a_told_gap_however_long() {
    let disk = FaultyDisk::new();
    let mut log = open(&disk);
    for mut batch in batches(38, 6, 1, 60) {
        log.append(&mut batch, NOW).unwrap();
    }
    let end = log.end();
    log.close().unwrap();
    // A segment that begins five thousand million offsets later.
    let far = offset(5_000_000_000);
    let name = Path::new(DIR).join(format!("{:020}.log", far.get()));
    disk.open(&name, OpenMode::CreateNew).unwrap();
    let log = open(&disk);
    assert_eq!(log.end(), far);
    let (found, gaps) = read_all(&log.reader());
    assert_eq!(found.len(), 6);
    assert_eq!(
        gaps.iter()
            .map(|gap| (gap.from, gap.to))
            .collect::<Vec<_>>(),
        [(end, far)]
    );
}
