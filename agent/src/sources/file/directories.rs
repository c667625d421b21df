//! The directories of a source, by number: watched from when they are first met until they are gone and
//! nothing is left of what was in them. A host where each pod, or each day, has a directory of its own
//! meets new ones for ever.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::discovery::is_absent;
use super::reconcile::Directory;
use super::renamed::Move;
use super::suspects::Suspect;
use super::{FileSource, watch_hint};
use crate::limits::COPY_DIRECTORIES_MAX;

/// When a name came to a directory or went from it for the last time, in seconds and nanoseconds.
fn changed_at(path: &Path) -> Option<(i64, i64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec()))
}

impl FileSource {
    /// The number of a directory, which is watched from now on.
    pub(super) fn directory(&mut self, path: &Path) -> usize {
        if let Some(&number) = self.directory_numbers.get(path) {
            return number;
        }
        let directory = Directory::new(path);
        let number = if let Some(free) = self.free_directories.pop() {
            self.directories[free] = directory;
            free
        } else {
            self.directories.push(directory);
            self.directories.len() - 1
        };
        self.directory_numbers.insert(path.to_owned(), number);
        if let Some(above) = path.parent() {
            let below = self.directories_below.entry(above.to_owned());
            below.or_default().insert(number);
        }
        self.watch_directory(number);
        number
    }

    /// The directory, and watched ones near it: the one above, those below, and those beside it, which are
    /// as many as there are applications and come last. Of many below, those where a name came or went last.
    pub(super) fn directories_near(&self, directory: usize) -> Vec<usize> {
        let own = self.directories[directory].path.as_path();
        let in_it = |path| self.directories_below.get(path).into_iter().flatten();
        let mut below: Vec<usize> = in_it(own).copied().collect();
        if below.len() > COPY_DIRECTORIES_MAX {
            below.sort_by_cached_key(|&it| Reverse(changed_at(&self.directories[it].path)));
        }
        let above = own.parent();
        let beside = above.into_iter().flat_map(in_it).copied();
        let above = above.and_then(|above| self.directory_numbers.get(above));
        let others = above.copied().into_iter().chain(below).chain(beside);
        let others = others.filter(|&other| other != directory);
        let near = std::iter::once(directory).chain(others);
        near.take(COPY_DIRECTORIES_MAX).collect()
    }

    /// Watches a directory, or has it polled.
    pub(super) fn watch_directory(&mut self, number: usize) {
        let path = &self.directories[number].path;
        let watched = match &mut self.watch {
            Some(watch) => watch.add(path, number),
            None => Ok(()),
        };
        match watched {
            Ok(()) if self.watch.is_some() && self.calls.is_event_reliable(path) => {
                self.passes.polled.remove(&number);
            }
            Ok(()) => {
                let is_unreliable = self.watch.is_some();
                if is_unreliable && !std::mem::replace(&mut self.passes.is_sharing_told, true) {
                    tracing::info!(source = self.config.name, path = %path.display(),
                        "others write to this file system too, files are polled");
                }
                self.passes.polled.insert(number);
            }
            // What is to come is heard of from where it will be.
            Err(error) if is_absent(&error) => {
                self.passes.polled.remove(&number);
                if let Some(parent) = path.parent().map(Path::to_owned) {
                    let parent = self.directory(&parent);
                    self.watch_directory(parent);
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.passes.is_polling_told, true) {
                    tracing::warn!(source = self.config.name, path = ?path, %error,
                        hint = watch_hint(&error), "directory is not watched, files are polled");
                }
                self.passes.polled.insert(number);
            }
        }
    }

    /// Forgets directories that are gone, of whose files nothing is kept.
    pub(super) fn forget_directories(&mut self) {
        let gone: Vec<usize> = (0..self.directories.len())
            .filter(|&number| self.is_directory_gone(number))
            .collect();
        if gone.is_empty() {
            return;
        }
        let in_use = self.directories_in_use();
        for number in gone {
            if in_use.contains(&number) {
                continue;
            }
            let path = std::mem::take(&mut self.directories[number].path);
            self.directory_numbers.remove(&path);
            self.forget_below(number, &path);
            self.passes.polled.remove(&number);
            if let Some(watch) = &mut self.watch {
                watch.forget(number);
            }
            self.free_directories.push(number);
        }
    }

    fn forget_below(&mut self, number: usize, path: &Path) {
        let Some(above) = path.parent() else {
            return;
        };
        if let Some(below) = self.directories_below.get_mut(above) {
            below.remove(&number);
            if below.is_empty() {
                self.directories_below.remove(above);
            }
        }
    }

    /// Whether no walk came by it, nobody is named in it, and it is not there. A number that is free has
    /// no path.
    fn is_directory_gone(&self, number: usize) -> bool {
        let directory = &self.directories[number];
        let is_left = !self.passes.came_by(directory) && directory.names.is_empty();
        is_left
            && !directory.path.as_os_str().is_empty()
            && matches!(directory.path.symlink_metadata(), Err(error) if is_absent(&error))
    }

    /// The directories that something refers to by their number.
    fn directories_in_use(&self) -> HashSet<usize> {
        let lineages = self.lineages.iter().flatten();
        let lineages = lineages.flat_map(|lineage| {
            let leads_to = lineage.leads_to.as_ref().map(|spot| spot.directory);
            leads_to.into_iter().chain([lineage.directory])
        });
        let looks = self.looks.iter().map(|(directory, _)| *directory);
        let moves = self.moves.iter().flat_map(Move::directories);
        let suspects = self.suspects.iter().flat_map(Suspect::directories);
        let all = lineages.chain(looks).chain(moves).chain(suspects);
        let mut all: HashSet<usize> = all.chain(self.vettings.directories()).collect();
        // A directory that is not there is heard of from the one above.
        let paths = self.directory_numbers.keys().filter_map(|it| it.parent());
        all.extend(paths.filter_map(|above| self.directory_numbers.get(above)));
        all
    }
}
