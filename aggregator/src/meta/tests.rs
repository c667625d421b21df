use super::*;
use commitlog::storage::disk::Disk;
use commitlog::storage::faulty::{Fault, FaultyDisk};
use serde::Deserialize;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    text: String,
}

impl Record for Note {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new("notes");
}

fn open(dir: &tempfile::TempDir) -> Result<Meta> {
    Meta::open(Arc::new(Disk), &dir.path().join("meta.redb"))
}

fn at(partition: &str, offset: i64) -> (TopicPartition, Offset) {
    (partition.parse().unwrap(), Offset::new(offset).unwrap())
}

#[test]
fn offsets_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(&dir).unwrap();
    assert_eq!(meta.offsets().unwrap(), []);
    meta.put_offsets("b", &[at("logs-0", 7), at("logs-1", 9)])
        .unwrap();
    meta.put_offsets("a", &[at("logs-0", 1)]).unwrap();
    meta.put_offsets("b", &[at("logs-0", 8)]).unwrap();
    drop(meta);
    let meta = open(&dir).unwrap();
    assert_eq!(
        meta.offsets().unwrap(),
        [
            ("a".to_owned(), vec![at("logs-0", 1)]),
            ("b".to_owned(), vec![at("logs-0", 8), at("logs-1", 9)]),
        ]
    );
}

#[test]
fn a_change_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(&dir).unwrap();
    let note = Note { text: "x".into() };
    let failed: Result<()> = meta.change(|change| {
        change.put("k", &note)?;
        Err(Error::input("no"))
    });
    assert!(failed.is_err());
    assert_eq!(meta.record::<Note>("k").unwrap(), None);
    meta.change(|change| change.put("k", &note)).unwrap();
    assert_eq!(meta.record::<Note>("k").unwrap(), Some(note));
}

#[test]
fn a_failed_database_is_opened_anew_only_when_no_call_uses_it() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(&dir).unwrap();
    let (reader, writer) = (meta.database().unwrap(), meta.database().unwrap());
    meta.failed(&writer, redb::Error::PreviousIo);
    drop(writer);
    let error = meta.put_offsets("g", &[at("logs-0", 1)]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Retry);
    // The reader learns of the failure late; by then it is known.
    meta.failed(&reader, redb::Error::PreviousIo);
    drop(reader);
    meta.put_offsets("g", &[at("logs-0", 1)]).unwrap();
    let database = meta.database().unwrap();
    assert_eq!(Arc::strong_count(&database), 2);
}

#[test]
fn only_the_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let _meta = open(&dir).unwrap();
    let mode = std::fs::metadata(dir.path().join("meta.redb"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn damage_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let meta = open(&dir).unwrap();
    for n in 0..50 {
        meta.put_offsets(&format!("group-{n}"), &[at("logs-0", n)])
            .unwrap();
    }
    drop(meta);
    let path = dir.path().join("meta.redb");
    let whole = std::fs::read(&path).unwrap();
    let mut told = 0;
    // A flip in a page that is not in use is harmless; any other is told. Nothing panics.
    for byte in (0..whole.len()).step_by(whole.len() / 100) {
        let mut bytes = whole.clone();
        bytes[byte] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        match open(&dir) {
            Ok(meta) => assert_eq!(meta.offsets().unwrap().len(), 50, "byte {byte}"),
            Err(error) => {
                told += 1;
                assert!(error.to_string().contains("meta.redb"), "{error}");
            }
        }
    }
    assert!(told > 0);
}

#[test]
fn a_database_that_vanished_is_not_replaced_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir).unwrap());
    std::fs::write(dir.path().join("admin.token"), "x").unwrap();
    drop(open(&dir).unwrap());
    let path = dir.path().join("meta.redb");
    std::fs::remove_file(&path).unwrap();
    let error = open(&dir).map(drop).unwrap_err();
    assert!(error.to_string().contains("truncate -s 0"), "{error}");
    // What the message tells to do works.
    std::fs::write(&path, "").unwrap();
    open(&dir)
        .unwrap()
        .put_offsets("g", &[at("logs-0", 1)])
        .unwrap();
    let offsets = open(&dir).unwrap().offsets().unwrap();
    assert_eq!(offsets, [("g".to_owned(), vec![at("logs-0", 1)])]);
}

/// Commits three times, with the power cut at every call of it and once more in the recovery.
#[test]
fn a_power_cut_at_any_call_loses_nothing_that_was_answered() {
    let path = Path::new("/data/meta.redb");
    let open = |disk: &FaultyDisk| Meta::open(Arc::new(disk.clone()), path);
    let mut whole_life = false;
    let mut cut = 0;
    while !whole_life {
        let disk = FaultyDisk::new();
        disk.create_dir(Path::new("/data")).unwrap();
        disk.plan(disk.calls() + cut, Fault::PowerCut);
        let mut answered = 0;
        if let Ok(meta) = open(&disk) {
            for offset in 1..=3 {
                match meta.put_offsets("g", &[at("logs-0", offset)]) {
                    Ok(()) => answered = offset,
                    Err(_) => break,
                }
            }
        }
        whole_life = !disk.is_off();
        disk.forgive();
        disk.power_cut();
        disk.restart(cut);
        disk.plan(disk.calls() + cut % 5, Fault::PowerCut);
        drop(open(&disk));
        disk.forgive();
        disk.power_cut();
        disk.restart(cut + 1);
        let meta = open(&disk).unwrap_or_else(|error| panic!("cut at call {cut}: {error}"));
        let found = meta
            .offsets()
            .unwrap()
            .first()
            .map_or(0, |(_, offsets)| offsets[0].1.get());
        assert!(
            found == answered || found == answered + 1,
            "cut at call {cut}: {answered} → {found}"
        );
        cut += 1;
    }
}
