//! What the paths name now, compared with what is known: new files, the same files, other files.
//!
//! Events only say where to look; [`reconcile`](super::reconcile) looks everywhere, now and then. Only a path
//! that says "no such file" is gone: a file that cannot be opened for another reason keeps all that is
//! known of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::position::{Codec, FileKey};

use super::audit::Why;
use super::content::Content;
use super::lineage::{Epoch, Life, Lineage, Standing, bytes_of};
use super::moved::Arrival;
use super::reader::Reader;
use super::watch::Spot;
use super::{EpochId, FileSource, Phase, StartAt, vetting};
use crate::ambient::Now;
use crate::limits::EPOCH_NUMBERS_APART;
use crate::pipeline::Outlet;
use crate::spool::positions::Placed;

/// A file that was opened to see which it is.
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) key: FileKey,
    pub(super) size: u64,
    /// Where reading begins if it was never met.
    pub(super) from: u64,
    pub(super) codec: Codec,
    /// Why what lies before is passed over.
    pub(super) passed_over: Why,
}

impl FileSource {
    /// Looks at the paths that something happened to.
    pub(super) fn look_around(&mut self, out: &mut Outlet<'_>) {
        self.follow_moves(out);
        while let Some((directory, name)) = self.looks.pop_first() {
            self.look(directory, &name, out);
        }
    }

    /// Looks at what a path names now.
    fn look(&mut self, directory: usize, name: &OsStr, out: &mut Outlet<'_>) {
        let path = self.directories[directory].path.join(name);
        if !self.is_meant(directory, name) {
            self.path_gone(directory, name, out.now());
            return self.look_for_late(&path, out.now());
        }
        match self.open_or_make_room(&path, out.now()) {
            Ok(Some(opened)) => {
                if self.unreadable.contains_key(&path) && !self.is_damaged(&opened) {
                    self.unreadable.remove(&path);
                }
                self.found(directory, name, opened, out);
            }
            // A directory, a pipe, a device: not for us.
            Ok(None) => self.path_gone(directory, name, out.now()),
            Err(error) if is_absent(&error) => {
                self.unreadable.remove(&path);
                self.path_gone(directory, name, out.now());
            }
            Err(error) => self.say_unreadable(&path, &error),
        }
    }

    /// Opens a regular file; `None` for anything else.
    pub(super) fn open(&self, path: &Path) -> io::Result<Option<Opened>> {
        let Some((file, metadata)) = self.calls.open(path)? else {
            return Ok(None);
        };
        let key = self.calls.key(&file, self.reader.hasher())?;
        Ok(Some(Opened {
            file,
            key,
            size: metadata.len(),
            from: 0,
            codec: Codec::None,
            passed_over: Why::BeforeStart,
        }))
    }

    fn found(&mut self, directory: usize, name: &OsStr, opened: Opened, out: &mut Outlet<'_>) {
        let index = self.directories[directory].names.get(name).copied();
        match self.known_as(&opened) {
            Some(id) if Some(id.lineage) == index => self.found_again(id, opened, out.now()),
            Some(id) => {
                let index = self.lineage(directory, name);
                self.become_alias(index, opened.key, out.now());
                let path = self.directories[directory].path.join(name);
                self.found_elsewhere(id, path, opened, out.now());
            }
            None if self.own_output == Some(opened.key) => {
                let path = self.directories[directory].path.join(name);
                let error = io::Error::other("it is the agent's own log");
                self.say_unreadable(&path, &error);
            }
            None => self.found_new(directory, name, opened, out),
        }
    }

    /// A path names a file that was never met. Where it is begun is settled now, also when it may be a
    /// copy and is not begun yet.
    fn found_new(&mut self, directory: usize, name: &OsStr, opened: Opened, out: &mut Outlet<'_>) {
        // What the path named before may have been renamed since the events were read: it comes first.
        self.take_hints(out.now());
        if !self.moves.is_empty() {
            self.looks.insert((directory, name.to_owned()));
            return self.follow_moves(out);
        }
        let is_before = self.phase == Phase::FirstEver && self.config.start_at == StartAt::End;
        if is_before
            && let Ok(codec @ (Codec::Gzip | Codec::Zstd | Codec::Bzip2 | Codec::Xz)) =
                vetting::codec(&opened.file)
        {
            return self.pass_over_compressed(directory, name, Opened { codec, ..opened }, out);
        }
        if self.is_to_be_vetted(directory, name, &opened, out.now()) {
            return;
        }
        self.found_plain(directory, name, opened, out);
    }

    /// The same, and it is not compressed.
    pub(super) fn found_plain(
        &mut self,
        directory: usize,
        name: &OsStr,
        mut opened: Opened,
        out: &mut Outlet<'_>,
    ) {
        let is_before = self.phase == Phase::FirstEver && self.config.start_at == StartAt::End;
        let is_old = !is_before && self.is_old(&opened.file, out.now());
        if is_old {
            opened.passed_over = Why::Older;
        }
        if is_before || is_old {
            match self.reader.last_line_end(&opened.file) {
                Ok(end) => opened.from = end,
                Err(error) => {
                    let path = self.directories[directory].path.join(name);
                    return self.say_unreadable(&path, &error);
                }
            }
        }
        // What is passed over is so now: after a restart nobody would know it.
        if is_before || !self.is_suspect(directory, name, &mut opened, out.now()) {
            self.begin(directory, name, opened, out);
        }
    }

    /// A compressed file that was there before the very first start is not to be read. That is noted now:
    /// after a restart nobody would know it.
    fn pass_over_compressed(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: Opened,
        out: &mut Outlet<'_>,
    ) {
        let key = opened.key;
        self.begin(directory, name, opened, out);
        let Some(id) = self.known.get(&key).copied() else {
            return;
        };
        if let Some(epoch) = self.epoch(id) {
            epoch.finish(out.now());
            epoch.content = None;
            self.note(id, out);
        }
    }

    /// Whether a file that was never met has not changed for longer than is wanted. Clocks may differ, and
    /// be set: a file from the future is not old.
    pub(super) fn is_old(&self, file: &File, now: Now) -> bool {
        let Some(oldest) = self.config.ignore_older else {
            return false;
        };
        let changed = file.metadata().and_then(|metadata| metadata.modified());
        let since = |changed: SystemTime| changed.duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = Duration::from_millis(u64::try_from(now.wall.0).unwrap_or(0));
        changed.is_ok_and(|changed| wall.saturating_sub(since(changed)) > oldest)
    }

    /// A path names a file that another lineage reads.
    pub(super) fn become_alias(&mut self, index: usize, key: FileKey, now: Now) {
        self.detach_named(index, now);
        if let Some(lineage) = &mut self.lineages[index] {
            lineage.alias_of = Some(key);
            lineage.met = true;
        }
    }

    /// The path names a file that it has named before.
    fn found_again(&mut self, id: EpochId, opened: Opened, now: Now) {
        let named = self.lineages[id.lineage].as_mut().and_then(Lineage::named);
        if named.is_some_and(|named| named.number != id.number) {
            self.detach_named(id.lineage, now);
        }
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        lineage.met = true;
        lineage.alias_of = None;
        if let Some(epoch) = lineage.epoch(id.number) {
            if epoch.codec != Codec::None && epoch.is_finished() {
                return;
            }
            let was_named = std::mem::replace(&mut epoch.life, Life::Named) == Life::Named;
            if !was_named {
                epoch.place = None;
            }
            if epoch.content.is_none() {
                epoch.content = Some(Content::new(opened.file, epoch.codec));
                self.opened(id, now);
            }
        }
        self.queue(id.lineage);
    }

    /// Another path names a file that is or was read here.
    pub(super) fn found_elsewhere(&mut self, id: EpochId, path: PathBuf, opened: Opened, now: Now) {
        if let Some(epoch) = self.epoch(id) {
            if epoch.life != Life::Named {
                epoch.place = Some(path);
            }
            if epoch.is_missing() {
                epoch.life = Life::Detached(now.monotonic);
                epoch.is_unseen = false;
            }
            // The size of a compressed copy says nothing.
            let is_itself = epoch.codec == Codec::None && epoch.key == opened.key;
            if epoch.is_finished() && is_itself && opened.size != epoch.offset {
                let was_open = epoch.content.replace(opened.file.into()).is_some();
                epoch.life = Life::Finished(now.monotonic);
                if !was_open {
                    self.opened(id, now);
                }
            }
            self.attention.insert(id.lineage);
        }
        self.queue(id.lineage);
    }

    /// Begins a new epoch with a file that was never met, and that a path names.
    pub(super) fn begin(
        &mut self,
        directory: usize,
        name: &OsStr,
        opened: Opened,
        out: &mut Outlet<'_>,
    ) {
        self.begin_as(Standing::Newest, (directory, name), opened, out);
    }

    /// The same with one that the path may have named before others.
    pub(super) fn begin_as(
        &mut self,
        standing: Standing,
        (directory, name): (usize, &OsStr),
        opened: Opened,
        out: &mut Outlet<'_>,
    ) {
        let now = out.now();
        let arrival = Arrival {
            name,
            opened: &opened,
            now,
        };
        if !self.aside.contains_key(&opened.key)
            && let Some(id) = self.moved_epoch(directory, &arrival)
        {
            let spot = Spot {
                directory,
                name: name.to_owned(),
            };
            self.go_on(id, &spot, opened, out);
            if standing != Standing::Newest {
                self.detach_named(id.lineage, now);
            }
            return;
        }
        let index = self.lineage(directory, name);
        if standing == Standing::Newest {
            self.takes_name(index, opened.key.inode, now);
        }
        let Some(lineage) = &self.lineages[index] else {
            return;
        };
        let path = lineage.path.clone();
        let (at, number) = lineage.place_of(standing, now);
        let content = Content::new(opened.file, opened.codec);
        let mut epoch = Epoch::new(number, opened.key, content, now.monotonic);
        if standing != Standing::Newest {
            epoch.life = Life::Detached(now.monotonic);
            self.attention.insert(index);
        }
        if opened.codec == Codec::None {
            epoch.saw_size(opened.size, now.monotonic);
        }
        let aside = match self.settle_start(&mut epoch, opened.from, out) {
            Ok(aside) => aside,
            Err(error) => return self.say_unreadable(&path, &error),
        };
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        lineage.last_epoch = lineage.last_epoch.max(Some(number));
        if opened.from > 0 && aside.is_none() {
            epoch.account.unread = opened.from;
            self.audit
                .unread(&path, opened.from, opened.passed_over, out);
            // After a crash nobody would know where it was begun.
            self.is_start_unsaved = true;
        }
        lineage.epochs.insert(at, epoch);
        let id = EpochId {
            lineage: index,
            number,
        };
        if let Some(aside) = &aside {
            self.stay_at(index, aside, out);
        }
        self.known.insert(opened.key, id);
        self.opened(id, now);
        // Before it may have to be closed for another file.
        self.look_at_waiting(index, out);
        self.follow_link(index, &path);
        self.telemetry.files.inc();
        self.queue(index);
        // From now on it is found again, whatever its name will be, also when nothing of it was read.
        self.note(id, out);
        if let Some(aside) = aside {
            out.forget(aside);
        }
    }

    /// A path names another file than before, the one of this inode.
    fn takes_name(&mut self, index: usize, inode: u64, now: Now) {
        self.detach_named(index, now);
        if let Some(lineage) = &mut self.lineages[index] {
            lineage.met = true;
            lineage.entry = inode;
            lineage.alias_of = None;
        }
    }

    /// A lineage without records yet goes on in the partition of a position: the order of its lines holds
    /// only there.
    fn stay_at(&mut self, index: usize, aside: &Placed, out: &mut Outlet<'_>) {
        let lineage = self.lineages[index].as_ref();
        let is_new = lineage.is_some_and(|lineage| lineage.stream.is_none());
        let partition = aside.partition.clone();
        let partition = partition.filter(|it| is_new && it.topic == self.config.topic);
        if let Some(partition) = partition {
            self.set_stream(index, partition, out);
        }
    }

    /// Moves a new epoch to where it is begun: at `from`, or where a position that was set aside left off.
    fn settle_start(
        &mut self,
        epoch: &mut Epoch,
        from: u64,
        out: &mut Outlet<'_>,
    ) -> io::Result<Option<Placed>> {
        if from > 0 {
            self.reader.skip(epoch, from)?;
        }
        let aside = self.take_from_aside(epoch, out)?;
        // What is read of it may not become durable before it is cut off: its beginning tells its copy.
        self.reader.look(epoch, out.now().monotonic)?;
        Ok(aside)
    }

    /// Where a path is a link, what it leads to is watched too: events come by the real name, and what
    /// is rotated is found beside it.
    pub(super) fn follow_link(&mut self, index: usize, path: &Path) {
        let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        let real = is_link.then(|| fs::canonicalize(path).ok()).flatten();
        let named = self.lineages[index].as_mut().and_then(Lineage::named);
        if let Some(epoch) = named.filter(|epoch| epoch.codec == Codec::None) {
            epoch.place.clone_from(&real);
        }
        if let Some(real) = real
            && let (Some(dir), Some(name)) = (real.parent(), real.file_name())
        {
            let directory = self.directory(dir);
            let names = &mut self.directories[directory].names;
            names.entry(name.to_owned()).or_insert(index);
            let name = name.to_owned();
            let leads_to = Some(Box::new(Spot { directory, name }));
            let lineage = self.lineages[index].as_mut();
            let before =
                lineage.and_then(|it| std::mem::replace(&mut it.leads_to, leads_to.clone()));
            if let Some(before) = before.filter(|before| Some(before) != leads_to.as_ref()) {
                self.unname(before.directory, &before.name, index);
            }
        }
    }

    /// The path does not name the file that it named.
    pub(super) fn detach_named(&mut self, index: usize, now: Now) {
        let Some(epoch) = self.lineages[index].as_mut().and_then(Lineage::named) else {
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
            lineage.met = false;
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
        let hasher = self.reader.hasher();
        let id = hasher.lineage(&self.config.name, &bytes_of(&path));
        let lineage = Lineage::new(id, path, directory, name.to_owned());
        let index = self.lineages.add(lineage);
        self.directories[directory]
            .names
            .insert(name.to_owned(), index);
        index
    }

    pub(super) fn remove_lineage(&mut self, index: usize) {
        let Some(lineage) = self.lineages.remove(index) else {
            return;
        };
        self.unname(lineage.directory, &lineage.name, index);
        if let Some(real) = lineage.leads_to {
            self.unname(real.directory, &real.name, index);
        }
        self.attention.remove(&index);
        self.pending.retain(|&(_, awaited)| awaited != index);
        self.remembering.remove(&index);
        if lineage.queued {
            self.ready.retain(|&queued| queued != index);
        }
    }

    /// A name does not stand for this lineage any more.
    fn unname(&mut self, directory: usize, name: &OsStr, index: usize) {
        let names = &mut self.directories[directory].names;
        if names.get(name) == Some(&index) {
            names.remove(name);
        }
    }

    /// Opens the file of the epoch that is to be read, if it was closed meanwhile.
    pub(super) fn open_current(&mut self, index: usize, out: &mut Outlet<'_>) {
        let current = self.lineages[index].as_mut().and_then(Lineage::current);
        if let Some(number) = current.map(|(_, epoch)| epoch.number) {
            let lineage = index;
            self.open_epoch(EpochId { lineage, number }, out);
        }
    }

    /// Opens an epoch's file, if it was closed meanwhile.
    pub(super) fn open_epoch(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[id.lineage] else {
            return;
        };
        let Some(epoch) = lineage.epoch(id.number) else {
            return;
        };
        if epoch.content.is_some() || matches!(epoch.life, Life::Truncated(_)) {
            return;
        }
        let is_named = epoch.life == Life::Named;
        let path = lineage.path.clone();
        let held = self.held(id);
        let Some(position) = held.map(|(lineage, epoch)| lineage.position(epoch)) else {
            return;
        };
        let found = match self.find(&path, &position) {
            Err(error) if self.makes_room_after(&error, out.now()) => self.find(&path, &position),
            found => found,
        };
        match found {
            Ok(Some((place, opened))) => {
                self.take_key(id, opened.key);
                if let Some(epoch) = self.epoch(id) {
                    epoch.place = (place != path).then_some(place);
                    epoch.content = Some(Content::new(opened.file, epoch.codec));
                    epoch.is_stirred = false;
                }
                self.opened(id, out.now());
            }
            Ok(None) if is_named => self.detach_named(id.lineage, out.now()),
            Ok(None) if !self.is_gone(&position) => self.miss(id, out.now()),
            Ok(None) => self.gone_unopened(id, out),
            Err(error) => {
                self.say_unreadable(&path, &error);
                self.miss_in_time(id, out.now());
            }
        }
    }

    pub(super) fn epoch(&mut self, id: EpochId) -> Option<&mut Epoch> {
        self.lineages[id.lineage].as_mut()?.epoch(id.number)
    }

    /// Saves the position of an epoch that no record carries.
    pub(super) fn note(&mut self, id: EpochId, out: &mut Outlet<'_>) {
        if let Some(placed) = self.placed_of(id) {
            out.note(placed);
        }
    }
}

impl Reader {
    /// Moves a new epoch to an offset of its file.
    fn skip(&self, epoch: &mut Epoch, offset: u64) -> io::Result<()> {
        let Some(content) = epoch.content.take() else {
            return Ok(());
        };
        let moved = self.restart_at(content.file(), epoch, offset);
        epoch.content = Some(content);
        moved
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
/// of the path is forgotten: so it grows at least as the seconds do. Between two there is room for lives
/// that are noticed late: after a restart their numbers are all that tells the order.
pub(super) fn next_number(last: Option<u32>, now: Now) -> u32 {
    let seconds = u32::try_from(now.wall.0 / 1000).unwrap_or(0);
    last.map_or(seconds, |last| {
        seconds.max(last.saturating_add(EPOCH_NUMBERS_APART))
    })
}
