//! What is told of the files when somebody asks: each life of each path, what it waits for, and what is
//! not read. And what is told by itself: files that cannot be read, and how many there are.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use model::position::FileKey;

use super::FileSource;
use super::content::Content;
use super::kernel::is_unlinked;
use super::lineage::{Epoch, Life, Lineage};
use super::suspects::Suspect;
use crate::files::{FileState, SourceFiles, State, Totals};
use crate::spool::Spool;
use crate::spool::positions::Placed;
use crate::telemetry::SourceTelemetry;

impl FileSource {
    /// Everything that there is to tell. It is a list of all files, so it is made for who asked only.
    pub(super) fn report(&self, spool: &Spool) -> SourceFiles {
        let is_full = spool.is_full();
        let mut files = Vec::new();
        for lineage in self.lineages.iter().flatten() {
            self.report_lineage(lineage, is_full, &mut files);
        }
        let suspects = self.suspects.iter().map(|suspect| suspect.report(self));
        files.extend(suspects);
        let of_path = |path: &PathBuf, state, detail| FileState {
            path: path.clone(),
            key: None,
            epoch: None,
            size: 0,
            offset: 0,
            state,
            detail,
        };
        let is_listed = |path: &PathBuf| {
            let number = path
                .parent()
                .and_then(|dir| self.directory_numbers.get(dir));
            let names = number.map(|&number| &self.directories[number].names);
            let lineage = names
                .zip(path.file_name())
                .and_then(|(names, name)| names.get(name));
            let lineage = lineage.and_then(|&index| self.lineages[index].as_ref());
            lineage.is_some_and(|lineage| !lineage.epochs.is_empty())
        };
        let unreadable = self.unreadable.iter().filter(|(path, _)| !is_listed(path));
        files.extend(
            unreadable.map(|(path, error)| of_path(path, State::Unreadable, Some(error.clone()))),
        );
        files.extend(self.aside.values().map(|Placed { position, .. }| {
            let path = PathBuf::from(OsString::from_vec(position.path.clone()));
            let own = self.reader.hasher();
            let own = own.lineage(&self.config.name, &position.path);
            let is_own = own == position.lineage;
            let detail = (!is_own).then(|| "a source that is gone read it".to_owned());
            FileState {
                key: Some(position.key),
                epoch: Some((position.lineage, position.epoch)),
                size: position.offset,
                offset: position.offset,
                ..of_path(&path, State::NotMeant, detail)
            }
        }));
        SourceFiles {
            source: self.config.name.clone(),
            files,
            closed: self.audit.recent(),
        }
    }

    /// The sums of what is not read. By positions, so that they are never off.
    pub(super) fn sum_up(&self) -> Totals {
        let held = self.suspects.iter().filter(|suspect| suspect.is_held());
        let others = held.count() + self.vettings.files_open();
        let waiting = Totals {
            unread_bytes: self.suspects.iter().map(Suspect::unread).sum(),
            open_files: others as u64,
            files: self.lineages.len() as u64,
        };
        let epochs = self.lineages.iter().flatten().flat_map(|it| &it.epochs);
        epochs.fold(waiting, |sum, epoch| Totals {
            unread_bytes: sum.unread_bytes + epoch.size_seen.saturating_sub(epoch.offset),
            open_files: sum.open_files + u64::from(epoch.content.is_some()),
            ..sum
        })
    }

    /// Says once that a path cannot be read, and why.
    pub(super) fn say_unreadable(&mut self, path: &Path, error: &io::Error) {
        let message = error.to_string();
        if self.unreadable.get(path) != Some(&message) {
            tracing::warn!(source = self.config.name, path = %path.display(), error = message,
                "file cannot be read, trying again");
            self.unreadable.insert(path.to_owned(), message);
        }
        self.say_counts();
    }

    pub(super) fn say_counts(&self) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let SourceTelemetry {
            files,
            files_unreadable,
            directories,
            ..
        } = &self.telemetry;
        files.set(number(self.lineages.iter().flatten().count()));
        files_unreadable.set(number(self.unreadable.len()));
        directories.set(number(self.directory_numbers.len()));
    }

    fn report_lineage(&self, lineage: &Lineage, is_full: bool, files: &mut Vec<FileState>) {
        let mut epochs = lineage.epochs.iter();
        let current = epochs.find(|epoch| !epoch.is_finished() && !epoch.is_missing());
        let current = current.map(|epoch| epoch.number);
        let error = self.unreadable.get(&lineage.path);
        for epoch in &lineage.epochs {
            let is_current = current == Some(epoch.number);
            let state = match error {
                Some(_) if is_current => State::Unreadable,
                _ => state_of(lineage, epoch, is_current, is_full),
            };
            // What it is named since it was closed nobody told.
            let place = epoch.place.as_ref().filter(|it| is_at(epoch.key, it));
            let place = place.map(|place| format!("it is at {}", place.display()));
            files.push(FileState {
                path: lineage.path.clone(),
                key: Some(epoch.key),
                epoch: Some((lineage.id, epoch.number)),
                size: epoch.size_seen,
                offset: epoch.offset,
                state,
                detail: error.filter(|_| is_current).cloned().or(place),
            });
        }
        if let Some(key) = lineage.alias_of {
            let owner = self.known.get(&key);
            let owner = owner.and_then(|id| self.lineages[id.lineage].as_ref());
            files.push(FileState {
                path: lineage.path.clone(),
                key: Some(key),
                epoch: None,
                size: 0,
                offset: 0,
                state: State::OtherPath,
                detail: owner.map(|owner| owner.path.display().to_string()),
            });
        }
    }
}

/// Whether a path leads to this inode now.
fn is_at(key: FileKey, path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|it| it.ino() == key.inode)
}

fn state_of(lineage: &Lineage, epoch: &Epoch, is_current: bool, is_full: bool) -> State {
    let has_unread = epoch.size_seen > epoch.offset;
    let file = epoch.content.as_ref().map(Content::file);
    match epoch.life {
        Life::Finished(_) => State::Finished,
        Life::Truncated(_) => State::LookingForCopy,
        Life::Missing(_) => State::Unreadable,
        _ if !is_current => State::Behind,
        _ if has_unread && is_full => State::WaitingForRoom,
        Life::Detached(_) if file.is_some_and(is_unlinked) => State::Deleted,
        Life::Detached(_) => State::Rotated,
        Life::Named if !has_unread => State::AtEnd,
        Life::Named if lineage.queued => State::Reading,
        Life::Named => State::UnfinishedLine,
    }
}
