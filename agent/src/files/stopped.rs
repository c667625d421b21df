//! The report where no agent runs: what the spool's positions say, and what lies at their paths now.
//! Nothing is changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use commitlog::error::Result;
use commitlog::storage::Storage;
use commitlog::storage::disk::Disk;
use model::position::Codec;

use super::{FileRow, FileState, FilesReport, State};
use crate::sources::file::guard::Hasher;
use crate::spool::{Stored, stored};

/// What is known of the files of an agent that does not run. `sources` are the names that it would have:
/// the spool has them only hashed.
pub fn stopped(data_dir: &Path, sources: &[String]) -> Result<FilesReport> {
    let storage: Arc<dyn Storage> = Arc::new(Disk);
    let Stored { positions, salt } = stored(&storage, data_dir)?;
    let hasher = salt.map(|salt| Hasher::new(&salt));
    // The newest life of a path is the one that it names.
    let mut newest: BTreeMap<_, u32> = BTreeMap::new();
    for placed in &positions {
        let number = newest.entry(placed.position.lineage).or_default();
        *number = placed.position.epoch.max(*number);
    }
    let mut report = FilesReport {
        note: Some(format!(
            "no agent runs on {}: this is what its spool has, and what is at the paths now",
            data_dir.display()
        )),
        ..FilesReport::default()
    };
    for placed in positions {
        let position = placed.position;
        let is_newest = newest.get(&position.lineage) == Some(&position.epoch);
        if position.finished_s.is_some() && !is_newest {
            continue;
        }
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        let lineage = path(&position.path);
        let place = position.place.as_deref().map(path);
        let found = [place.as_ref(), Some(&lineage)]
            .into_iter()
            .flatten()
            .find_map(|path| {
                let metadata = std::fs::metadata(path).ok()?;
                (metadata.ino() == position.key.inode).then_some(metadata.len())
            });
        let file = FileState {
            path: lineage,
            key: Some(position.key),
            epoch: Some((position.lineage, position.epoch)),
            // What a compressed file holds is not known from its length, and offsets count that.
            size: found
                .filter(|_| position.codec == Codec::None)
                .unwrap_or(position.offset),
            offset: position.offset,
            state: match found {
                _ if position.finished_s.is_some() => State::Finished,
                Some(_) => State::Stopped,
                None => State::Missing,
            },
            detail: place.map(|place| format!("was last seen at {}", place.display())),
        };
        let is_of = |source: &&String| {
            let hasher = hasher.as_ref();
            let lineage = hasher.map(|it| it.lineage(source, &position.path));
            lineage == Some(position.lineage)
        };
        let source = sources.iter().find(is_of).map_or("-", String::as_str);
        let row = FileRow::new(source, &file, position.offset);
        report.files.push(row);
    }
    report.sort();
    Ok(report)
}
