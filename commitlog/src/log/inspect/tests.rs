//! What is wrong is found, shown and repaired, on one small log.

use super::*;
use crate::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use crate::batch::header::Producer;
use crate::id::{ProducerEpoch, ProducerId, Sequence};
use crate::log::names::FileKind;
use crate::log::partition::{LogConfig, PartitionLog};
use crate::storage::OpenMode;
use crate::storage::faulty::FaultyDisk;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const CONFIG: LogConfig = LogConfig {
    segment_bytes_max: 300,
    segment_age_max_ms: 3_600_000,
    retention_bytes: None,
    retention_ms: None,
};

fn batch(sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord {
        timestamp: NOW,
        key: Some(b"k"),
        value: format!("line {sequence}").as_bytes(),
        headers: &HeaderBlock::new(&[("host.name", b"h")]).unwrap(),
        extra: None,
    });
    let producer = Producer {
        id: ProducerId::new(1).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::new(sequence).unwrap(),
    };
    let mut out = Vec::new();
    builder.finish(producer, &mut out).unwrap();
    out.remove(0)
}

/// Nine batches of a record each, three segments.
fn written() -> (FaultyDisk, Arc<dyn Storage>, PathBuf) {
    let disk = FaultyDisk::new();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let dir = PathBuf::from("data/logs-0");
    let (mut log, _) = PartitionLog::open(storage.clone(), &dir, CONFIG, NOW).unwrap();
    for sequence in 0..9 {
        log.append(&mut batch(sequence), NOW).unwrap();
    }
    log.close().unwrap();
    (disk, storage, dir)
}

fn dump_all(storage: &Arc<dyn Storage>, dir: &Path, from: i64) -> Vec<Dumped> {
    let mut all = Vec::new();
    let from = Offset::new(from).unwrap();
    dump_dir(storage, dir, from, DumpRecords::Yes, &mut |dumped| {
        all.push(dumped);
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn a_whole_log_is_found_whole_and_needs_no_repair() {
    let (disk, storage, dir) = written();
    assert_eq!(
        partitions(storage.as_ref(), Path::new("data")).unwrap(),
        std::slice::from_ref(&dir)
    );
    let calls = disk.calls();
    let report = verify_dir(&storage, &dir).unwrap();
    assert_eq!(report.findings, []);
    assert!(report.is_whole() && report.segments.len() > 2);
    assert_eq!(
        (report.batches(), report.records(), report.end.get()),
        (9, 9, 9)
    );
    assert_eq!(
        repair_dir(&storage, &dir, RepairMode::Apply, NOW).unwrap(),
        []
    );
    let dumped = dump_all(&storage, &dir, 4);
    assert_eq!(dumped.len(), 5);
    let Some(Dumped::Batch(first)) = dumped.first() else {
        panic!("{dumped:?}");
    };
    let record = &first.records.as_ref().unwrap()[0];
    assert_eq!(record.value.as_deref(), Some(&b"line 4"[..]));
    assert_eq!(
        record.headers,
        [("host.name".to_owned(), Some(b"h".to_vec()))]
    );
    assert_eq!(disk.calls(), calls, "looking changes nothing");
}

#[test]
fn damage_is_named_by_file_position_and_offsets_and_a_copy_is_kept() {
    let (disk, storage, dir) = written();
    let log = names::path(&dir, Offset::ZERO, FileKind::Log);
    let mut content = disk.content(&log).unwrap();
    let second = content.len() / 2 + 20;
    content[second] ^= 1;
    disk.overwrite(&log, &content);
    let report = verify_dir(&storage, &dir).unwrap();
    assert!(!report.is_whole());
    let [finding] = report.findings.as_slice() else {
        panic!("{:?}", report.findings);
    };
    assert_eq!((&finding.file, finding.harm), (&log, Harm::Lost));
    assert!(finding.position.is_some_and(|at| at > 0) && finding.what.contains("checksum"));
    let planned = repair_dir(&storage, &dir, RepairMode::DryRun, NOW).unwrap();
    let copy = PathBuf::from(format!("{}.damaged", log.display()));
    assert_eq!(disk.content(&copy), None);
    assert_eq!(
        repair_dir(&storage, &dir, RepairMode::Apply, NOW).unwrap(),
        planned
    );
    assert_eq!(disk.content(&copy).unwrap(), content);
    assert_eq!(
        repair_dir(&storage, &dir, RepairMode::Apply, NOW).unwrap(),
        [],
        "once is enough"
    );
    let damage = |dumped: &Dumped| matches!(dumped, Dumped::Damage(_));
    assert_eq!(
        dump_all(&storage, &dir, 0)
            .iter()
            .filter(|dumped| damage(dumped))
            .count(),
        1
    );
}

#[test]
fn what_can_be_made_again_is_made_again() {
    let (disk, storage, dir) = written();
    let segments = verify_dir(&storage, &dir).unwrap().segments;
    let path = |number: usize, kind| names::path(&dir, segments[number].base, kind);
    disk.overwrite(&path(0, FileKind::Index), b"not an index");
    disk.overwrite(&path(1, FileKind::Snapshot), b"not a snapshot");
    disk.remove(&dir.join(names::CHECKPOINT)).unwrap();
    disk.open(&dir.join("x.log.tmp"), OpenMode::Write).unwrap();
    let active = path(segments.len() - 1, FileKind::Log);
    let mut torn = disk.content(&active).unwrap();
    torn.extend_from_slice(b"torn");
    disk.overwrite(&active, &torn);
    let found = verify_dir(&storage, &dir).unwrap();
    assert!(found.is_whole(), "{:?}", found.findings);
    assert_eq!(found.findings.len(), 5, "{:?}", found.findings);
    let changes = repair_dir(&storage, &dir, RepairMode::Apply, NOW).unwrap();
    assert_eq!(changes.len(), 5, "{changes:?}");
    let again = verify_dir(&storage, &dir).unwrap();
    let left: Vec<_> = again.findings.iter().map(|finding| &finding.file).collect();
    // A damaged snapshot goes when a later one has taken its place.
    let snapshot = path(1, FileKind::Snapshot);
    assert!(left.iter().all(|file| **file == snapshot), "{left:?}");
    assert_eq!(again.batches(), 9);
}
