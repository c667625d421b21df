//! Repairs a log offline.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::Timestamp;
use crate::limits::READ_WINDOW_BYTES;
use crate::log::partition::{LogConfig, PartitionLog};
use crate::storage::{OpenMode, Storage, read_full_at, sync_names, temporary_name, write_all_at};

use super::verify::verify;
use super::{Change, Finding, Harm, RepairMode};

/// What a copy of a damaged segment is called.
const DAMAGED_SUFFIX: &str = ".damaged";

/// See [`super::repair_dir`].
pub(super) fn repair(
    storage: &Arc<dyn Storage>,
    dir: &Path,
    mode: RepairMode,
    now: Timestamp,
) -> Result<Vec<Change>> {
    let report = verify(storage, dir)?;
    let mut changes = copies(storage.as_ref(), dir, &report.findings)?;
    if mode == RepairMode::Apply {
        for Change { file, .. } in &changes {
            copy(storage.as_ref(), file)
                .map_err(|error| Error::io(format!("cannot copy {}", file.display()), error))?;
        }
    }
    changes.extend(report.findings.iter().filter_map(mend));
    if mode == RepairMode::Apply && !changes.is_empty() {
        let config = LogConfig::default();
        let (log, _) = PartitionLog::open(storage.clone(), dir, config, now)?;
        let reader = log.reader();
        for segment in &report.segments {
            // Loading a segment rebuilds its index files when they are wrong.
            if segment.base >= reader.start() {
                reader.load(segment.base)?;
            }
        }
        log.close()?;
    }
    Ok(changes)
}

/// The damaged segments that have no copy yet.
fn copies(storage: &dyn Storage, dir: &Path, findings: &[Finding]) -> Result<Vec<Change>> {
    let entries = storage.list(dir);
    let entries = entries.map_err(|e| Error::io(format!("cannot list {}", dir.display()), e))?;
    let names: BTreeSet<PathBuf> = entries.iter().map(|entry| dir.join(&entry.name)).collect();
    let lost = findings.iter().filter(|finding| finding.harm == Harm::Lost);
    let damaged: BTreeSet<&PathBuf> = lost.map(|finding| &finding.file).collect();
    let uncopied = damaged
        .into_iter()
        .filter(|file| !names.contains(&copy_name(file)));
    Ok(uncopied
        .map(|file| Change {
            file: file.clone(),
            what: format!("keep a copy as {}", copy_name(file).display()),
        })
        .collect())
}

/// What opening the log does about a finding.
fn mend(finding: &Finding) -> Option<Change> {
    let what = match finding.harm {
        // What is lost stays lost; readers are told.
        Harm::Lost => return None,
        Harm::Torn => format!("cut off: {}", finding.what),
        Harm::Derived if finding.what == super::verify::LEFT_OVER => "remove".to_owned(),
        Harm::Derived => format!("make anew: it {}", finding.what),
    };
    Some(Change {
        file: finding.file.clone(),
        what,
    })
}

fn copy_name(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(DAMAGED_SUFFIX);
    PathBuf::from(name)
}

/// Copies a segment's file, durable before it bears its name.
fn copy(storage: &dyn Storage, file: &Path) -> io::Result<()> {
    let name = copy_name(file);
    let temporary = temporary_name(&name);
    let (from, to) = (
        storage.open(file, OpenMode::Read)?,
        storage.open(&temporary, OpenMode::Write)?,
    );
    to.truncate(0)?;
    let mut buffer = vec![0; READ_WINDOW_BYTES];
    let mut at = 0;
    loop {
        let read = read_full_at(from.as_ref(), &mut buffer, at)?;
        if read == 0 {
            break;
        }
        write_all_at(to.as_ref(), buffer.get(..read).unwrap_or_default(), at)?;
        at += read as u64;
    }
    to.sync()?;
    storage.rename(&temporary, &name)?;
    file.parent().map_or(Ok(()), |dir| sync_names(storage, dir))
}
