//! The report as people and programs see it.

use commitlog::id::Timestamp;

use super::*;

fn report() -> FilesReport {
    let key = FileKey {
        level: KeyLevel::Handle,
        file_system: 1,
        inode: 12,
        object: 7,
    };
    let file = |path: &str, epoch, size, offset, state| FileState {
        path: PathBuf::from(path),
        key: Some(key),
        epoch: Some((LineageId(epoch), 3)),
        size,
        offset,
        state,
        detail: None,
    };
    let closed = ClosedEpoch {
        path: PathBuf::from("/srv/old.log"),
        epoch: 2,
        bytes_read: 10,
        bytes_unread: None,
        why: Why::MissingAfterRestart,
        at: Timestamp(5),
    };
    let files = vec![
        file("/srv/a.log", 1, 100, 100, State::AtEnd),
        file(
            "/srv/b\u{1b}[2J\n\u{202e}.log",
            2,
            200_000,
            150,
            State::Reading,
        ),
    ];
    let source = SourceFiles {
        source: "app".to_owned(),
        files,
        closed: vec![closed],
    };
    let committed = Committed::from([((LineageId(1), 3), 100), ((LineageId(2), 3), 120)]);
    FilesReport::new(vec![source], &committed)
}

#[test]
fn the_furthest_behind_comes_first_by_what_is_durable() {
    let report = report();
    let lags: Vec<u64> = report.files.iter().map(|file| file.lag_bytes).collect();
    assert_eq!(lags, [200_000 - 120, 0]);
    assert_eq!(report.totals.lag_bytes, 200_000 - 120);
}

#[test]
fn nothing_in_a_name_acts_on_a_terminal() {
    let report = report();
    for text in [report.to_string(), report.json().unwrap()] {
        let acts = |c: char| c != '\n' && c.escape_debug().len() > 1 && !"'\"\\".contains(c);
        assert!(!text.contains(acts), "{text:?}");
    }
    assert!(
        report
            .to_string()
            .contains(r"/srv/b\u{1b}[2J\n\u{202e}.log")
    );
}

#[test]
fn the_document_is_read_back_as_it_was_told() {
    let report = report();
    let back: FilesReport = serde_json::from_str(&report.json().unwrap()).unwrap();
    assert_eq!(back.files[0].path, "/srv/b\u{1b}[2J\n\u{202e}.log");
    assert_eq!(back.to_string(), report.to_string());
}

#[test]
fn a_path_that_is_not_text_is_told_in_bytes_too() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(OsStr::from_bytes(b"/a\xff"));
    assert_eq!(path_hex(path).as_deref(), Some("2f61ff"));
    assert_eq!(path_hex(Path::new("/a")), None);
}

#[test]
fn a_stopped_agents_files_are_told_from_its_spool() {
    let mut world = crate::testing::World::new();
    world.append("a.log", "one\ntwo\n");
    world.append("gone.log", "one\n");
    world.settle();
    // No snapshot was written: the batches have the positions.
    world.kill();
    world.append("a.log", "three\n");
    world.remove("gone.log");
    let data_dir = &world.spool_config.data_dir;
    let report = stopped(data_dir, &["other".to_owned(), "app".to_owned()]).unwrap();
    assert!(!report.running);
    assert!(report.files.iter().all(|file| file.source == "app"));
    let report = stopped(data_dir, &[]).unwrap();
    assert!(report.files.iter().all(|file| file.source == "-"));
    let file = |at: usize| {
        let file = &report.files[at];
        (
            file.committed_offset,
            file.size_bytes,
            file.lag_bytes,
            file.state,
        )
    };
    assert_eq!(report.files.len(), 2);
    assert_eq!(file(0), (8, 14, 6, State::Stopped));
    assert_eq!(file(1), (4, 4, 0, State::Missing));
    let before = world.open_spool().positions().len();
    assert_eq!(before, 2);
}

#[test]
fn a_directory_without_a_spool_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let error = stopped(dir.path(), &[]).unwrap_err().to_string();
    assert!(error.contains("there is no spool"), "{error}");
}

#[test]
fn what_nobody_knows_is_no_part_of_a_sum() {
    let report = report();
    assert_eq!(report.totals.closed_unread_bytes, 0);
    assert_eq!(report.totals.closed_unknown, 1);
    let told = "1 ended, 0 B unread, and of 1 nobody knows how much\n";
    assert!(report.to_string().ends_with(told), "{report}");
}
