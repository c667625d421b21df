//! Looks at everything now and then, at a cost in proportion to what changed.
//!
//! Events come first, and say where to look. What they may have missed is found here: a directory is
//! listed again only when it changed since it was listed, names are compared by the inode numbers that
//! the listing shows, and the files themselves are asked for their length a few at a time. Where no event
//! comes from, or none that can be relied on, directories and files are polled each second. When the
//! kernel has lost events, everything is looked at.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::discovery::is_absent;
use super::lineage::Lineage;
use super::pattern::Purpose;
use super::{FileSource, Phase, StartAt};
use crate::ambient::Now;
use crate::limits::{
    OVERFLOW_SHARE, POLL_EVERY, RECONCILE_EVERY, RECONCILE_SHARE, STAT_CYCLE, STAT_FILES_MIN,
};
use crate::pipeline::Outlet;

/// A directory that holds or can hold matching files.
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) names: std::collections::HashMap<OsString, usize>,
    /// The last pass that came by it.
    pass: u64,
    /// The last pass that listed it, or found that it need not.
    pass_listed: u64,
    listing: Listing,
}

/// What the last listing of a directory came to.
#[derive(Default)]
struct Listing {
    /// As of when it holds; `None` where it may have changed in the moment it was listed.
    stamp: Option<Stamp>,
    /// The directories in it.
    below: Vec<OsString>,
}

/// Tells one state of a directory from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    device: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The state of looking at everything.
#[derive(Debug, Default)]
pub(super) struct Passes {
    number: u64,
    /// The lineage whose file is asked for its length next.
    cursor: usize,
    /// Events were lost: nothing that was seen before is relied on.
    pub(super) is_all_doubtful: bool,
    /// Names that are not followed, where events were lost.
    strangers: Vec<(usize, OsString)>,
    /// When everything may be looked at again because events were lost.
    next_overflow: Duration,
    /// Directories that no event tells of.
    pub(super) polled: std::collections::BTreeSet<usize>,
    next_poll: Duration,
    /// That directories are polled because they cannot be watched was said.
    pub(super) is_polling_told: bool,
    /// The same because no event tells what others do in them.
    pub(super) is_sharing_told: bool,
}

impl Directory {
    pub(super) fn new(path: &Path) -> Directory {
        Directory {
            path: path.to_owned(),
            names: std::collections::HashMap::new(),
            pass: 0,
            pass_listed: 0,
            listing: Listing::default(),
        }
    }

    /// The next look at everything lists it, changed or not.
    pub(super) fn list_again(&mut self) {
        self.listing = Listing::default();
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let metadata = fs::metadata(path)?;
        Ok(Stamp {
            inode: metadata.ino(),
            device: metadata.dev(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The stamp of a listing that is made from now on, if a later change must show in it. File systems
    /// count time in ticks: whole seconds, two on FAT, or those of the kernel's clock.
    fn settled(self) -> Option<Stamp> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let (seconds, nanoseconds) = self.modified.max(self.changed);
        let nanoseconds = u32::try_from(nanoseconds).ok()?;
        let last = Duration::new(u64::try_from(seconds).ok()?, nanoseconds);
        let tick = if nanoseconds == 0 {
            TICK_MAX
        } else {
            TICK_OF_KERNEL_MAX
        };
        (last + tick < now).then_some(self)
    }
}

impl Passes {
    /// Whether events tell of everything in a directory.
    pub(super) fn is_watched(&self, directory: usize) -> bool {
        !self.is_all_doubtful && !self.polled.contains(&directory)
    }

    /// Whether the last pass came by a directory.
    pub(super) fn came_by(&self, directory: &Directory) -> bool {
        directory.pass == self.number
    }

    /// When polled directories are due; `None` while there are none.
    pub(super) fn next_poll(&self) -> Option<Duration> {
        (!self.polled.is_empty()).then_some(self.next_poll)
    }
}

impl FileSource {
    /// Looks at every path that matches, and at every path that did, where it may have changed.
    pub(super) fn reconcile(&mut self, out: &mut Outlet<'_>) {
        let started = Instant::now();
        let now = out.now();
        self.passes.number += 1;
        self.next_reconcile = None;
        let patterns = Arc::clone(&self.patterns);
        patterns.walk(&mut |path, purpose| self.come_by(path, purpose));
        self.look_where_nobody_came();
        self.ask_lengths();
        self.look_at_unreadable();
        let was_doubtful = std::mem::take(&mut self.passes.is_all_doubtful);
        let strangers = std::mem::take(&mut self.passes.strangers);
        self.meet_strangers(&strangers, out);
        self.look_around(out);
        self.seek_missing(out);
        self.look_at_late(now);
        self.forget_gone(out);
        self.forget_directories();
        out.spool().remember_source(&self.config.name);
        if self.phase == Phase::FirstEver && self.config.start_at == StartAt::End {
            self.awaited = Some(out.spool().save_notes());
        }
        self.phase = Phase::Running;
        let took = started.elapsed();
        if was_doubtful {
            self.passes.next_overflow = now.monotonic + took * OVERFLOW_SHARE;
        }
        let pause = RECONCILE_EVERY.max(took * RECONCILE_SHARE);
        self.reconcile_by(now.monotonic + pause);
        self.say_counts();
    }

    /// Events were lost: everything is looked at, soon. They may have told that a closed file was written
    /// to. Where it is gone when it is looked for, nobody knows.
    pub(super) fn doubt_all(&mut self, now: Now) {
        tracing::warn!(
            source = self.config.name,
            "events were lost, looking everywhere"
        );
        self.passes.is_all_doubtful = true;
        for index in 0..self.lineages.len() {
            let named = self.lineages[index].as_mut().and_then(Lineage::named);
            if let Some(epoch) = named.filter(|epoch| epoch.content.is_none()) {
                epoch.is_stirred = true;
            }
        }
        self.reconcile_by(now.monotonic.max(self.passes.next_overflow));
    }

    /// Looks at the directories that no event tells of, and at the files in them.
    pub(super) fn poll(&mut self, now: Now) {
        if self.passes.next_poll > now.monotonic || self.passes.polled.is_empty() {
            return;
        }
        let started = Instant::now();
        for number in self.passes.polled.clone() {
            let stamp = Stamp::of(&self.directories[number].path).ok();
            let listing = &mut self.directories[number].listing;
            if stamp.is_none() || stamp != listing.stamp {
                let below = std::mem::take(&mut listing.below);
                if self.list(number) != below {
                    self.reconcile_by(now.monotonic);
                }
            }
            let names = &self.directories[number].names;
            for index in names.values().copied().collect::<Vec<_>>() {
                self.ask_length(index);
            }
        }
        let pause = POLL_EVERY.max(started.elapsed() * RECONCILE_SHARE);
        self.passes.next_poll = now.monotonic + pause;
    }

    /// The walk comes by a directory; the directories in it, where it is to go on.
    fn come_by(&mut self, path: &Path, purpose: Purpose) -> Vec<OsString> {
        let number = self.directory(path);
        let pass = self.passes.number;
        if std::mem::replace(&mut self.directories[number].pass, pass) != pass {
            self.watch_directory(number);
        }
        if purpose == Purpose::Pass {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.directories[number].pass_listed, pass);
        let is_reliable = !self.passes.is_all_doubtful && !self.passes.polled.contains(&number);
        let listing = &self.directories[number].listing;
        let is_as_it_was =
            || is_reliable && listing.stamp.is_some() && listing.stamp == Stamp::of(path).ok();
        if before == pass || is_as_it_was() {
            return listing.below.clone();
        }
        self.list(number)
    }

    /// Lists a directory: looks at names that are new, gone, or stand for another inode. The directories
    /// in it.
    fn list(&mut self, number: usize) -> Vec<OsString> {
        let path = self.directories[number].path.clone();
        self.directories[number].listing = Listing::default();
        self.telemetry.looks.inc();
        let listed = Stamp::of(&path).and_then(|stamp| Ok((stamp.settled(), fs::read_dir(&path)?)));
        let (stamp, entries) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                if !is_absent(&error) {
                    self.say_unreadable(&path, &error);
                }
                self.look_at_all_in(number);
                return Vec::new();
            }
        };
        self.unreadable.remove(&path);
        let own = self.own(number);
        for &index in &own {
            if let Some(lineage) = &mut self.lineages[index] {
                lineage.met = false;
            }
        }
        let mut below = Vec::new();
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => below.push(entry.file_name()),
                Ok(_) => self.met(number, &entry.file_name(), entry.ino()),
                Err(_) => {}
            }
        }
        for index in own {
            self.look_unless_met(index);
        }
        below.sort();
        let listing = &mut self.directories[number].listing;
        listing.stamp = stamp;
        listing.below.clone_from(&below);
        below
    }

    /// A listing has this name, for this inode.
    fn met(&mut self, number: usize, name: &OsStr, inode: u64) {
        let directory = &self.directories[number];
        let Some(&index) = directory.names.get(name) else {
            if self.patterns.matches(&directory.path.join(name)) {
                self.looks.insert((number, name.to_owned()));
            } else if self.passes.is_all_doubtful {
                self.passes.strangers.push((number, name.to_owned()));
            }
            return;
        };
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        lineage.met = true;
        if std::mem::replace(&mut lineage.entry, inode) != inode {
            self.ask_length(index);
        }
    }

    /// Whether a path names the known file its inode tells; whether that has something new, its length.
    fn ask_length(&mut self, index: usize) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        self.telemetry.looks.inc();
        let metadata = fs::metadata(&lineage.path);
        let inode = metadata.as_ref().map(MetadataExt::ino).ok();
        let mut done = lineage.epochs.iter().filter(|it| it.is_finished());
        if done.any(|it| it.is_own_compressed() && Some(it.key.inode) == inode) {
            return;
        }
        let is_queued = lineage.queued;
        let named = lineage.named();
        if let (Ok(metadata), Some(epoch)) = (metadata, named)
            && metadata.ino() == epoch.key.inode
        {
            // Whether it has grown or is another life, only a read can tell. What is written in place, and
            // is as long as before, has another time.
            let changed = Some((metadata.ctime(), metadata.ctime_nsec()));
            let before = std::mem::replace(&mut epoch.changed, changed);
            let is_touched = before.is_some_and(|before| Some(before) != changed);
            if is_touched || metadata.len() != epoch.offset {
                self.queue(index);
            } else if !is_queued {
                // Nothing was written to it, whatever was feared.
                epoch.is_stirred = false;
            }
            return;
        }
        let spot = (lineage.directory, lineage.name.clone());
        self.looks.insert(spot);
    }

    /// Asks some files for their length, so that each has its turn within [`STAT_CYCLE`]; all of them
    /// when events were lost. What is written through a memory map tells no event.
    fn ask_lengths(&mut self) {
        let files = self.lineages.len();
        let is_all = self.passes.is_all_doubtful;
        let share = files.div_ceil(STAT_CYCLE).max(STAT_FILES_MIN).min(files);
        let count = if is_all { files } else { share };
        let started = Instant::now();
        for asked in 0..count {
            let is_over = asked % 64 == 63 && started.elapsed() * RECONCILE_SHARE > RECONCILE_EVERY;
            if is_over && !is_all {
                return;
            }
            self.passes.cursor = (self.passes.cursor + 1) % files;
            self.ask_length(self.passes.cursor);
        }
    }

    /// Directories that the walk did not come by are gone, or not to be entered; their files may be left.
    fn look_where_nobody_came(&mut self) {
        for number in 0..self.directories.len() {
            if !self.passes.came_by(&self.directories[number]) {
                self.directories[number].listing = Listing::default();
                self.look_at_all_in(number);
                // What only links lead to is never come by.
                if self.directories[number].names.is_empty() {
                    self.passes.polled.remove(&number);
                }
            }
        }
    }

    fn look_at_all_in(&mut self, number: usize) {
        for index in self.own(number) {
            if let Some(lineage) = &mut self.lineages[index] {
                lineage.met = false;
            }
            self.look_unless_met(index);
        }
    }

    fn look_unless_met(&mut self, index: usize) {
        let lineage = self.lineages[index].as_ref();
        if let Some(lineage) = lineage.filter(|it| !it.met && !it.is_over()) {
            self.looks.insert((lineage.directory, lineage.name.clone()));
        }
    }

    /// What could not be opened may be by now, or is gone.
    fn look_at_unreadable(&mut self) {
        let is_gone =
            |path: &Path| matches!(path.symlink_metadata(), Err(error) if is_absent(&error));
        self.unreadable.retain(|path, _| !is_gone(path));
        let again: Vec<PathBuf> = self.unreadable.keys().cloned().collect();
        for path in again {
            self.look_at_path(&path);
        }
    }

    pub(super) fn look_at_path(&mut self, path: &Path) {
        if let (Some(dir), Some(name)) = (path.parent(), path.file_name())
            && self.patterns.matches(path)
            && let Some(&number) = self.directory_numbers.get(dir)
        {
            self.looks.insert((number, name.to_owned()));
        }
    }

    /// The lineages whose paths lie in a directory.
    fn own(&self, number: usize) -> Vec<usize> {
        let indices = self.directories[number].names.values().copied();
        let is_own = |&index: &usize| {
            let lineage = self.lineages[index].as_ref();
            lineage.is_some_and(|lineage| lineage.directory == number)
        };
        indices.filter(is_own).collect()
    }
}

/// The coarsest time that a file system keeps, and more than a second besides: until then a change in the
/// same second may come.
const TICK_MAX: Duration = Duration::from_secs(3);

/// The coarsest of one that keeps parts of seconds: exFAT's and a kernel's that counts a hundred ticks a
/// second have 10 ms.
const TICK_OF_KERNEL_MAX: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a listing can be relied on that is made so long after the directory changed, where its file
    /// system keeps parts of seconds or does not.
    fn is_settled(age: Duration, has_parts: bool) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let changed = now.checked_sub(age).unwrap();
        let nanoseconds = i64::from(changed.subsec_nanos().max(1));
        let stamp = Stamp {
            inode: 1,
            device: 1,
            modified: (0, 0),
            changed: (
                changed.as_secs().try_into().unwrap(),
                if has_parts { nanoseconds } else { 0 },
            ),
        };
        stamp.settled().is_some()
    }

    #[test]
    fn a_listing_counts_from_a_tick_of_the_file_system_after_the_last_change() {
        assert!(!is_settled(Duration::from_millis(20), true));
        assert!(is_settled(Duration::from_secs(1), true));
        assert!(!is_settled(Duration::from_secs(1), false));
        assert!(!is_settled(Duration::from_secs(2), false));
        assert!(is_settled(Duration::from_secs(5), false));
    }
}
