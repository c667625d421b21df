//! What the paths name now, compared with what is known: new files, the same files, other files.
//!
//! Events only say where to look; [`FileSource::reconcile`] looks everywhere, now and then. Only a path
//! that says "no such file" is gone: a file that cannot be opened for another reason keeps all that is
//! known of it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use model::position::FileKey;

use super::lineage::{Epoch, Life, Lineage, bytes_of};
use super::pattern::Visit;
use super::reader::read_at;
use super::{Directory, FileSource, Phase, StartAt, WATCH_HINT, kernel};
use crate::ambient::Now;
use crate::limits::{READ_BYTES, RECONCILE_EVERY, RECONCILE_SHARE, RECONCILE_UNWATCHED};
use crate::pipeline::Outlet;

/// A file that was opened to see which it is.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) key: FileKey,
    pub(super) size: u64,
}

impl FileSource {
    /// Looks at every path that matches, and at every path that did.
    pub(super) fn reconcile(&mut self, now: Now, out: &mut Outlet<'_>) {
        let started = Instant::now();
        for directory in &mut self.directories {
            directory.met = false;
        }
        for lineage in self.lineages.iter_mut().flatten() {
            lineage.met = false;
        }
        let patterns = self.patterns.clone();
        let mut failed = Vec::new();
        patterns.walk(&mut |visit| match visit {
            Visit::Directory(path) => {
                let number = self.directory(path);
                self.directories[number].met = true;
            }
            Visit::File { dir, name } => self.met(dir, name),
            Visit::Failed(path, error) => failed.push((path.to_owned(), error)),
        });
        for (path, error) in failed {
            self.say_unreadable(&path, &error);
        }
        let gone: Vec<(usize, OsString)> = self
            .lineages
            .iter()
            .flatten()
            .filter(|lineage| !lineage.met)
            .map(|lineage| (lineage.directory, lineage.name.clone()))
            .collect();
        self.looks.extend(gone);
        while let Some((directory, name)) = self.looks.pop_first() {
            self.look(directory, &name, now, out);
        }
        self.forget_gone(out);
        if self.phase == Phase::FirstEver {
            self.phase = Phase::Running;
        }
        out.spool().remember_source(&self.config.name);
        let pause = if self.unwatched {
            RECONCILE_UNWATCHED
        } else {
            RECONCILE_EVERY
        };
        let pause = pause.max(started.elapsed() * RECONCILE_SHARE);
        self.next_reconcile = Some(now.monotonic + pause);
        self.say_counts();
    }

    /// A path that matches is there. Whether it is the known file its inode tells; whether that has
    /// something new, its length.
    fn met(&mut self, dir: &Path, name: &OsStr) {
        let directory = self.directory(dir);
        let Some(&index) = self.directories[directory].names.get(name) else {
            self.looks.insert((directory, name.to_owned()));
            return;
        };
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        lineage.met = true;
        let metadata = fs::metadata(dir.join(name));
        let same = match (metadata, lineage.named()) {
            (Ok(metadata), Some(epoch)) if metadata.ino() == epoch.key.inode => {
                Some(metadata.len() == epoch.size_seen && metadata.nlink() > 0)
            }
            _ => None,
        };
        match same {
            Some(true) => {}
            Some(false) => self.queue(index),
            None => {
                self.looks.insert((directory, name.to_owned()));
            }
        }
    }

    /// The number of a directory, which is watched from now on.
    pub(super) fn directory(&mut self, path: &Path) -> usize {
        let number = match self.directory_numbers.get(path) {
            Some(&number) => number,
            None => {
                let number = self.directories.len();
                self.directory_numbers.insert(path.to_owned(), number);
                self.directories.push(Directory {
                    path: path.to_owned(),
                    names: std::collections::HashMap::new(),
                    watched: false,
                    met: true,
                });
                number
            }
        };
        if !self.directories[number].watched {
            self.watch_directory(number);
        }
        number
    }

    fn watch_directory(&mut self, number: usize) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        let directory = &mut self.directories[number];
        match watch.add(&directory.path, number) {
            Ok(()) => directory.watched = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                if !self.unwatched {
                    tracing::warn!(source = self.config.name, path = %directory.path.display(),
                        %error, hint = WATCH_HINT, "directory is not watched, files are polled");
                }
                self.unwatched = true;
            }
        }
    }

    /// Looks at what a path names now.
    pub(super) fn look(&mut self, directory: usize, name: &OsStr, now: Now, out: &mut Outlet<'_>) {
        let path = self.directories[directory].path.join(name);
        match self.open(&path) {
            Ok(Some(opened)) => {
                self.unreadable.remove(&path);
                self.found(directory, name, opened, now, out);
            }
            // A directory, a pipe, a device: not for us.
            Ok(None) => self.path_gone(directory, name, now),
            Err(error) if is_absent(&error) => {
                self.unreadable.remove(&path);
                self.path_gone(directory, name, now);
            }
            Err(error) => self.say_unreadable(&path, &error),
        }
    }

    /// Opens a regular file; `None` for anything else.
    pub(super) fn open(&self, path: &Path) -> io::Result<Option<Opened>> {
        if !fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let key = kernel::file_key(&file, self.reader.hasher())?;
        Ok(Some(Opened {
            file,
            key,
            size: metadata.len(),
        }))
    }

    fn found(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: Opened,
        now: Now,
        out: &mut Outlet<'_>,
    ) {
        let index = self.directories[directory].names.get(name).copied();
        match self.known.get(&opened.key).copied() {
            Some((owner, number)) if Some(owner) == index => {
                self.found_again(owner, number, opened, now);
            }
            Some((owner, number)) => {
                let index = self.lineage(directory, name);
                self.detach_named(index, now);
                if let Some(lineage) = &mut self.lineages[index] {
                    lineage.alias_of = Some(opened.key);
                    lineage.met = true;
                }
                let path = self.directories[directory].path.join(name);
                self.found_elsewhere(owner, number, path, opened, now);
            }
            None if self.is_suspect(directory, name, &opened, now) => {}
            None => self.begin(directory, name, opened, now, out),
        }
    }

    /// The path names the file that it named before.
    fn found_again(&mut self, index: usize, number: u32, opened: Opened, now: Now) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        lineage.met = true;
        lineage.alias_of = None;
        let is_last = lineage
            .epochs
            .back()
            .is_some_and(|last| last.number == number);
        if let Some(epoch) = lineage.epoch(number) {
            let has_more = opened.size != epoch.offset;
            let returns = matches!(epoch.life, Life::Detached(_) | Life::Finished(_));
            if returns && is_last && (has_more || !epoch.is_finished()) {
                epoch.life = Life::Named;
            }
            epoch.place = None;
            if has_more && epoch.file.is_none() {
                epoch.file = Some(opened.file);
            }
        }
        self.opened(index, number, now);
        self.queue(index);
    }

    /// The path names a file that is read under another path.
    fn found_elsewhere(
        &mut self,
        owner: usize,
        number: u32,
        path: PathBuf,
        opened: Opened,
        now: Now,
    ) {
        let Some(lineage) = &mut self.lineages[owner] else {
            return;
        };
        if let Some(epoch) = lineage.epoch(number) {
            if epoch.life != Life::Named {
                epoch.place = Some(path);
            }
            if epoch.is_finished() && opened.size > epoch.offset {
                epoch.file = Some(opened.file);
                epoch.life = Life::Finished(now.monotonic);
                self.attention.insert(owner);
            }
        }
        self.queue(owner);
    }

    /// Begins a new epoch with a file that was never met.
    pub(super) fn begin(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: Opened,
        now: Now,
        out: &mut Outlet<'_>,
    ) {
        let index = self.lineage(directory, name);
        self.detach_named(index, now);
        let at_end = self.phase == Phase::FirstEver && self.config.start_at == StartAt::End;
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        lineage.met = true;
        lineage.alias_of = None;
        let number = next_number(lineage.last_epoch, now);
        lineage.last_epoch = Some(number);
        let mut epoch = Epoch::new(number, opened.key, opened.file, now.monotonic);
        if at_end && let Err(error) = self.reader.skip_to_end(&mut epoch) {
            let path = lineage.path.clone();
            self.say_unreadable(&path, &error);
            return;
        }
        let noted = epoch.offset > 0;
        lineage.epochs.push_back(epoch);
        self.known.insert(opened.key, (index, number));
        self.opened(index, number, now);
        self.queue(index);
        if noted {
            self.note(index, number, out);
        }
    }

    /// The path does not name the file that it named.
    pub(super) fn detach_named(&mut self, index: usize, now: Now) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let Some(epoch) = lineage.named() else {
            return;
        };
        epoch.life = Life::Detached(now.monotonic);
        epoch.grown_at = now.monotonic;
        self.attention.insert(index);
        self.queue(index);
    }

    /// The path names nothing.
    fn path_gone(&mut self, directory: usize, name: &OsStr, now: Now) {
        let Some(&index) = self.directories[directory].names.get(name) else {
            return;
        };
        self.detach_named(index, now);
        if let Some(lineage) = &mut self.lineages[index] {
            lineage.alias_of = None;
            if lineage.epochs.is_empty() {
                self.remove_lineage(index);
            }
        }
    }

    /// The lineage of a path, made when there is none.
    pub(super) fn lineage(&mut self, directory: usize, name: &OsStr) -> usize {
        if let Some(&index) = self.directories[directory].names.get(name) {
            return index;
        }
        let path = self.directories[directory].path.join(name);
        let id = self
            .reader
            .hasher()
            .lineage(&self.config.name, &bytes_of(&path));
        let lineage = Lineage {
            id,
            path,
            directory,
            name: name.to_owned(),
            stream: None,
            epochs: std::collections::VecDeque::new(),
            last_epoch: None,
            alias_of: None,
            queued: false,
            met: true,
        };
        let index = match self.lineages.iter().position(Option::is_none) {
            Some(free) if self.lineages.len() > self.known.len() => {
                self.lineages[free] = Some(lineage);
                free
            }
            _ => {
                self.lineages.push(Some(lineage));
                self.lineages.len() - 1
            }
        };
        self.directories[directory]
            .names
            .insert(name.to_owned(), index);
        index
    }

    fn remove_lineage(&mut self, index: usize) {
        if let Some(lineage) = self.lineages[index].take() {
            self.directories[lineage.directory]
                .names
                .remove(&lineage.name);
            self.attention.remove(&index);
            self.ready.retain(|&queued| queued != index);
        }
    }

    /// Forgets finished files that no path names any more, and lineages that have no others.
    fn forget_gone(&mut self, out: &mut Outlet<'_>) {
        let aliased: std::collections::HashSet<FileKey> = self
            .lineages
            .iter()
            .flatten()
            .filter_map(|lineage| lineage.alias_of)
            .collect();
        for index in 0..self.lineages.len() {
            let Some(lineage) = &mut self.lineages[index] else {
                continue;
            };
            let id = lineage.id;
            let known = &mut self.known;
            lineage.epochs.retain(|epoch| {
                let keep =
                    !epoch.is_finished() || epoch.file.is_some() || aliased.contains(&epoch.key);
                if !keep {
                    if known.get(&epoch.key) == Some(&(index, epoch.number)) {
                        known.remove(&epoch.key);
                    }
                    out.spool().forget(id, epoch.number);
                }
                keep
            });
            if lineage.epochs.is_empty() && lineage.alias_of.is_none() && !lineage.met {
                self.remove_lineage(index);
            }
        }
    }

    /// Opens the file of the epoch that is to be read, if it was closed meanwhile.
    pub(super) fn open_current(&mut self, index: usize, now: Now) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let path = lineage.path.clone();
        let Some((_, epoch)) = lineage.current() else {
            return;
        };
        if epoch.file.is_some() || epoch.life != Life::Named {
            return;
        }
        let (number, key) = (epoch.number, epoch.key);
        match self.open(&path) {
            Ok(Some(opened)) if opened.key == key => {
                if let Some(epoch) = self.epoch(index, number) {
                    epoch.file = Some(opened.file);
                }
                self.opened(index, number, now);
            }
            // It was rotated while it was closed: the look finds out what happened.
            Ok(_) => self.look_soon(index),
            Err(error) if is_absent(&error) => self.look_soon(index),
            Err(error) => self.say_unreadable(&path, &error),
        }
    }

    fn look_soon(&mut self, index: usize) {
        if let Some(lineage) = &self.lineages[index] {
            self.looks.insert((lineage.directory, lineage.name.clone()));
        }
    }

    pub(super) fn epoch(&mut self, index: usize, number: u32) -> Option<&mut Epoch> {
        self.lineages[index].as_mut()?.epoch(number)
    }

    /// Saves the position of an epoch that no record carries.
    pub(super) fn note(&mut self, index: usize, number: u32, out: &mut Outlet<'_>) {
        self.make_stream(index, out);
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let Some(at) = lineage
            .epochs
            .iter()
            .position(|epoch| epoch.number == number)
        else {
            return;
        };
        if let Some(placed) = lineage.placed(&lineage.epochs[at]) {
            out.spool().note(placed);
        }
    }

    /// A file was opened. When too many are, those that were opened first and are idle are closed.
    pub(super) fn opened(&mut self, index: usize, number: u32, now: Now) {
        self.open_files.push_back((index, number));
        let mut tries = self.open_files.len();
        while self.open_files.len() > self.config.files_open_max && tries > 0 {
            tries -= 1;
            let Some((index, number)) = self.open_files.pop_front() else {
                return;
            };
            let Some(lineage) = &mut self.lineages[index] else {
                continue;
            };
            let queued = lineage.queued;
            let Some(epoch) = lineage.epoch(number).filter(|epoch| epoch.file.is_some()) else {
                continue;
            };
            let idle = now.monotonic.saturating_sub(epoch.grown_at) > IDLE;
            if epoch.life == Life::Named && (idle || !queued) {
                epoch.file = None;
            } else {
                self.open_files.push_back((index, number));
            }
        }
    }
}

impl super::reader::Reader {
    /// Moves a new epoch behind the file's last whole line.
    fn skip_to_end(&mut self, epoch: &mut Epoch) -> io::Result<()> {
        let Some(file) = epoch.file.take() else {
            return Ok(());
        };
        let moved = self
            .last_line_end(&file)
            .and_then(|offset| self.restart_at(&file, epoch, offset));
        epoch.file = Some(file);
        moved
    }

    /// Where the file's last newline ends, looking back one buffer; else the file's end.
    fn last_line_end(&self, file: &File) -> io::Result<u64> {
        let size = file.metadata()?.len();
        let from = size.saturating_sub(READ_BYTES as u64);
        let mut bytes = vec![0; READ_BYTES];
        let filled = read_at(file, &mut bytes, from)?;
        let newline = memchr::memrchr(b'\n', &bytes[..filled]);
        Ok(match newline {
            Some(at) => from + at as u64 + 1,
            None if from == 0 => 0,
            None => size,
        })
    }
}

/// Whether an error says that there is no such file.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The number of the next epoch. It never comes again for the same path, also when all that was known
/// of the path is forgotten: so it grows at least as the seconds do.
pub(super) fn next_number(last: Option<u32>, now: Now) -> u32 {
    let seconds = u32::try_from(now.wall.0 / 1000).unwrap_or(0);
    last.map_or(seconds, |last| seconds.max(last.saturating_add(1)))
}

/// Files that did not grow for this long are closed when others are to be opened.
const IDLE: Duration = Duration::from_secs(1);
