//! Follows files: the lines of every file that matches, once and in order, over rotation, truncation,
//! deletion and restart.
//!
//! | file | what it does |
//! |---|---|
//! | `pattern.rs` | which paths are meant, and the walk that finds them |
//! | `watch.rs` | inotify on directories: hints where to look |
//! | `calls.rs` | the system calls that look for files |
//! | `kernel.rs`, `guard.rs` | which inode a file is; salted hashes of its content |
//! | `content.rs`, `compressed.rs` | what there is to read of a file |
//! | `lineage.rs` | a path, and the lives of the inodes that it named |
//! | `lineages.rs`, `related.rs` | all lineages, and their epochs by name |
//! | `descriptors.rs` | which files stay open |
//! | `directories.rs` | the directories that files are in |
//! | `discovery.rs` | what the paths name now, and what that means |
//! | `reconcile.rs` | looks at everything now and then, in case events were missed |
//! | `rotation.rs` | files that were rotated, deleted, truncated |
//! | `copies.rs` | the copies that `copytruncate` makes |
//! | `suspects.rs` | files that may be copies in the making |
//! | `siblings.rs` | the names that a copy may have |
//! | `likeness.rs` | files that begin as another one does |
//! | `vetting.rs`, `waiting.rs` | compressed files are looked through, one after the other |
//! | `verdict.rs` | what becomes of them then: whether they are whole, and whose copies |
//! | `decoding.rs` | compressed copies are read, one at a time |
//! | `find.rs` | a file again of which a position is known |
//! | `resume.rs` | where the last run left off |
//! | `moved.rs` | files that go on under another inode |
//! | `renamed.rs` | files that had another name before anybody looked |
//! | `remembered.rs` | what is kept of files that are finished, and how long |
//! | `aside.rs` | where reading left off in files that are not followed |
//! | `reader.rs`, `cutter.rs` | bytes to lines, lines to records |
//! | `encoding.rs`, `multiline.rs` | how bytes become text, which lines are one record |
//! | `holes.rs` | what nobody wrote |
//! | `audit.rs` | what became of every byte |
//! | `report.rs` | what is told of the files when somebody asks |
//!
//! Invariants (**I19**), for each file: what is taken is in the spool's open batch or further; every byte is
//! taken once or counted as lost; within a lineage records leave in file order; a restart at any moment
//! changes none of this.

mod aside;
pub mod audit;
pub(crate) mod calls;
mod compressed;
mod content;
mod copies;
mod cutter;
mod decoding;
mod descriptors;
mod directories;
mod discovery;
pub mod encoding;
mod find;
pub(crate) mod guard;
mod holes;
pub(crate) mod kernel;
mod likeness;
mod lineage;
mod lineages;
mod moved;
pub mod multiline;
pub(crate) mod pattern;
mod reader;
mod reconcile;
mod related;
mod remembered;
mod renamed;
mod report;
mod resume;
mod rotation;
mod siblings;
mod suspects;
mod verdict;
mod vetting;
mod waiting;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use commitlog::batch::builder::HeaderBlock;
use commitlog::id::{TopicName, TopicPartition};
use model::header;
use model::position::{FileKey, KeyLevel, LineageId};

use super::{FilesShare, Inheritance, Next, OpenFile, Source};
use crate::ambient::Now;
use crate::files::{SourceFiles, Totals};
use crate::limits::{
    ATTENTION_EVERY, DEAF_MAX, LOOK_EVERY, LOOKS_PER_TURN, READ_COST_BYTES, RECONCILE_SETTLE,
    SPOOL_RETRY, TURN_BYTES_MAX,
};
use crate::pipeline::Outlet;
use crate::spool::positions::{Loss, Placed};
use crate::spool::{Notes, Spool};
use crate::telemetry::SourceTelemetry;
use aside::Heir;
use audit::{Audit, Why};
use calls::Calls;
use decoding::Decoding;
use descriptors::Descriptors;
use encoding::Encoding;
use guard::Hasher;
use lineage::{Lineage, Stream};
use lineages::Lineages;
use multiline::Multiline;
use pattern::Patterns;
use reader::{LastLine, Read, Reader, Taken};
use reconcile::{Directory, Passes};
use renamed::Move;
pub use resume::LeftLife;
pub use suspects::LeftSuspect;
use suspects::Suspect;
use vetting::Vettings;
use watch::{Hint, Watch};

/// What a file source follows, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileConfig {
    /// The user's name for it.
    pub name: String,
    /// Patterns of absolute paths.
    pub files: Vec<String>,
    /// Patterns of paths that are left out.
    pub exclude: Vec<String>,
    /// Where its records go.
    pub topic: TopicName,
    /// Headers of every record.
    pub labels: Vec<(String, String)>,
    /// Where reading begins in files that are there at the very first start.
    pub start_at: StartAt,
    /// How their bytes become text.
    pub encoding: Encoding,
    /// Which lines are one record; each is one of its own without.
    pub multiline: Option<Multiline>,
    /// A file that has not changed for longer when it is met is begun at its end.
    pub ignore_older: Option<Duration>,
    /// Longer lines are too long.
    pub line_bytes_max: usize,
    /// What becomes of them.
    pub long_lines: LongLines,
    /// Files held open at once.
    pub files_open_max: usize,
    /// The same where they are rotated or deleted ones with unread bytes: what the process can have.
    pub files_detached_max: usize,
    /// The names of all sources of the agent: what one of another name has read is free to take.
    pub beside: Vec<String>,
    /// Those that are new or changed where this one is gone: what they mean and did not have is theirs.
    pub heirs: Vec<FileConfig>,
}

/// Where reading begins in files that are there at the very first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first byte.
    Beginning,
    /// After the last line.
    End,
}

/// What becomes of lines that are too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongLines {
    /// They become several records.
    Split,
    /// Their start becomes a record, the rest is counted as lost.
    Truncate,
    /// They are counted as lost.
    Drop,
}

/// The source.
pub struct FileSource {
    config: FileConfig,
    patterns: Arc<Patterns>,
    heirs: Vec<Heir>,
    telemetry: SourceTelemetry,
    audit: Audit,
    reader: Reader,
    watch: Option<Watch>,
    directories: Vec<Directory>,
    directory_numbers: HashMap<PathBuf, usize>,
    /// Those in a directory, which is none of the source's perhaps.
    directories_below: HashMap<PathBuf, BTreeSet<usize>>,
    free_directories: Vec<usize>,
    lineages: Lineages,
    /// Which lineage has the inode, and under which epoch.
    known: HashMap<FileKey, EpochId>,
    /// What was read of files that the patterns no longer mean, or that no source reads any more.
    aside: HashMap<FileKey, Placed>,
    /// When those are looked after again.
    next_aside: Option<Duration>,
    /// What the source left whose place this one takes, until it has resumed.
    inherited: HashMap<FileKey, OpenFile>,
    inherited_lives: HashMap<(LineageId, u32), LeftLife>,
    inherited_suspects: Vec<LeftSuspect>,
    /// Files of which was said before that they are not meant.
    told_aside: HashSet<FileKey>,
    /// Lineages with files that are finished or cannot be seen.
    remembering: BTreeSet<usize>,
    calls: Calls,
    suspects: Vec<Suspect>,
    vettings: Vettings,
    decoding: Decoding,
    /// Lineages that may have something to read.
    ready: VecDeque<usize>,
    /// Paths to look at: directory and name.
    looks: BTreeSet<(usize, OsString)>,
    /// Renames that events told of.
    moves: VecDeque<Move>,
    attention: BTreeSet<usize>,
    /// The first of those whose copies were not sought the last time.
    next_sought: Option<usize>,
    /// Lineages whose last record may be whole at a time, each once.
    pending: BTreeSet<(Duration, usize)>,
    /// Files that cannot be opened, so that each is said once.
    unreadable: HashMap<PathBuf, String>,
    /// Where reading began must be saved before anything is read: after a crash nobody knew it.
    awaited: Option<Notes>,
    /// A file was begun elsewhere than at its first byte.
    is_start_unsaved: bool,
    next_reconcile: Option<Duration>,
    next_attention: Duration,
    /// When files that wait for room are looked at next.
    next_look: Duration,
    /// Lineages that something happened to since they were read or looked at, each once.
    touched: VecDeque<usize>,
    phase: Phase,
    /// What this program writes its own events to: following it would never end.
    own_output: Option<FileKey>,
    passes: Passes,
    descriptors: Descriptors,
}

/// An epoch of a lineage of this source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct EpochId {
    lineage: usize,
    number: u32,
}

/// How far start-up has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was looked at yet.
    New,
    /// The first look at everything, in the very first run.
    FirstEver,
    /// What appears now is new.
    Running,
}

impl FileSource {
    /// A source that begins to look at its first turn. `salt` is the spool's.
    pub fn new(
        config: FileConfig,
        salt: &[u8; 16],
        telemetry: SourceTelemetry,
    ) -> Result<FileSource, globset::Error> {
        let hasher = Hasher::new(salt);
        let watch = match Watch::new() {
            Ok(watch) => Some(watch),
            Err(error) => {
                let hint = watch_hint(&error);
                tracing::warn!(source = config.name, %error, hint, "files are polled");
                None
            }
        };
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        let own_output =
            stderr.and_then(|fd| kernel::file_key(&File::from(fd), &hasher, KeyLevel::Handle));
        let own_output = own_output.ok();
        let heirs: Result<Vec<Heir>, _> = config.heirs.iter().map(Heir::new).collect();
        Ok(FileSource {
            patterns: Arc::new(Patterns::new(&config.files, &config.exclude)?),
            heirs: heirs?,
            reader: Reader::new(hasher, &config),
            audit: Audit::new(&config.name),
            config,
            telemetry,
            own_output,
            passes: Passes::default(),
            watch,
            directories: Vec::new(),
            directory_numbers: HashMap::new(),
            directories_below: HashMap::new(),
            free_directories: Vec::new(),
            lineages: Lineages::default(),
            known: HashMap::new(),
            aside: HashMap::new(),
            inherited: HashMap::new(),
            inherited_lives: HashMap::new(),
            inherited_suspects: Vec::new(),
            told_aside: HashSet::new(),
            next_aside: None,
            remembering: BTreeSet::new(),
            calls: Calls::default(),
            suspects: Vec::new(),
            vettings: Vettings::default(),
            decoding: Decoding::default(),
            ready: VecDeque::new(),
            looks: BTreeSet::new(),
            moves: VecDeque::new(),
            attention: BTreeSet::new(),
            next_sought: None,
            pending: BTreeSet::new(),
            unreadable: HashMap::new(),
            awaited: None,
            is_start_unsaved: false,
            next_reconcile: None,
            next_attention: Duration::ZERO,
            next_look: Duration::ZERO,
            touched: VecDeque::new(),
            phase: Phase::New,
            descriptors: Descriptors::default(),
        })
    }
}

#[cfg(test)]
impl FileSource {
    /// Has system calls go wrong.
    pub(crate) fn with_calls(mut self, calls: Calls) -> FileSource {
        self.calls = calls;
        self
    }
}

impl Source for FileSource {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn turn(&mut self, out: &mut Outlet<'_>) -> Next {
        let now = out.now();
        self.take_hints(now);
        if self.phase == Phase::New {
            self.resume(out);
            self.inherited.clear();
            self.inherited_lives.clear();
            self.take_over_suspects();
        }
        self.leave_what_was_taken(out);
        if self.next_reconcile.is_none_or(|at| at <= now.monotonic) {
            self.reconcile(out);
        }
        self.poll(now);
        self.look_around(out);
        self.close_idle(now);
        self.give_up_deleted(out);
        if self.next_attention <= now.monotonic {
            self.attend(out);
            self.next_attention = now.monotonic + ATTENTION_EVERY;
        }
        self.take_pending(now.monotonic);
        self.vet(out);
        if std::mem::take(&mut self.is_start_unsaved) {
            self.awaited = Some(out.spool().save_notes());
        }
        self.awaited = self.awaited.filter(|notes| !out.spool().is_saved(*notes));
        let blocked = match self.awaited {
            Some(_) => Blocked::Yes,
            None => self.read_ready(out),
        };
        self.tell_closed(out);
        self.next(blocked, now)
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(Watch::event)
    }

    fn events_wait_max(&self) -> Duration {
        self.watch.as_ref().map_or(DEAF_MAX, Watch::wait_max)
    }

    fn files(&self, spool: &Spool) -> SourceFiles {
        self.report(spool)
    }

    fn totals(&self) -> Totals {
        self.sum_up()
    }

    fn share_files(&mut self, share: FilesShare) {
        self.config.files_open_max = share.open_max;
        self.config.files_detached_max = share.detached_max;
    }

    fn is_over(&self) -> bool {
        let mut lineages = self.lineages.iter().flatten();
        let means_nothing = self.config.files.is_empty() && self.phase == Phase::Running;
        let has_nothing = self.suspects.is_empty();
        means_nothing && has_nothing && lineages.all(|it| it.is_over() && !it.needs_attention())
    }

    fn hand_over(&mut self) -> Inheritance {
        self.leave()
    }

    fn inherit(&mut self, left: Inheritance) {
        self.take_over(left);
    }
}

impl FileSource {
    /// Turns events into paths to look at and files to read.
    fn take_hints(&mut self, now: Now) {
        let Some(mut watch) = self.watch.take() else {
            return;
        };
        watch.drain(now.monotonic, &mut |hint| match hint {
            Hint::Written { directory, name } => self.written(directory, name),
            Hint::Named { directory, name } => {
                if self.is_meant(directory, name) {
                    self.looks.insert((directory, name.to_owned()));
                }
                self.look_again_at_suspects();
            }
            Hint::Moved { from, to } => self.moved(from, to),
            Hint::Deleted { directory, name } => self.deleted(directory, name),
            Hint::Tree => self.reconcile_by(now.monotonic + RECONCILE_SETTLE),
            Hint::Overflow => self.doubt_all(now),
        });
        self.watch = Some(watch);
    }

    fn written(&mut self, directory: usize, name: &OsStr) {
        self.stir_moved(directory, name);
        let Some(&lineage) = self.directories[directory].names.get(name) else {
            if self.is_meant(directory, name) || self.awaits_late() {
                self.looks.insert((directory, name.to_owned()));
            }
            return;
        };
        let owner = self.lineages[lineage]
            .as_ref()
            .and_then(|held| held.alias_of);
        if owner.is_some_and(|key| self.known.contains_key(&key)) {
            // The file is another lineage's. It may be finished: look whether it has grown.
            self.looks.insert((directory, name.to_owned()));
            return;
        }
        let named = self.lineages[lineage].as_mut().and_then(Lineage::named);
        if let Some(epoch) = named.filter(|epoch| epoch.content.is_none()) {
            epoch.is_stirred = true;
        }
        self.queue(lineage);
    }

    /// Whether a name is followed: a path that matches, or what a link leads to whose own path does. A
    /// path that a change of the configuration left behind is not, though its last files are drained.
    fn is_meant(&self, directory: usize, name: &OsStr) -> bool {
        let directory = &self.directories[directory];
        let lineage = directory.names.get(name);
        match lineage.and_then(|&index| self.lineages[index].as_ref()) {
            Some(lineage) => self.patterns.matches(&lineage.path),
            None => self.patterns.matches(&directory.path.join(name)),
        }
    }

    fn reconcile_by(&mut self, at: Duration) {
        self.next_reconcile = Some(self.next_reconcile.unwrap_or(at).min(at));
    }

    /// Has a lineage read in this or a later turn.
    fn queue(&mut self, lineage: usize) {
        let Some(held) = &mut self.lineages[lineage] else {
            return;
        };
        if !std::mem::replace(&mut held.touched, true) {
            self.touched.push_back(lineage);
        }
        if !std::mem::replace(&mut held.queued, true) {
            self.ready.push_back(lineage);
        }
    }

    /// Reads in turn what may have something, until the turn's bytes are used up. Whether something
    /// waits for room.
    fn read_ready(&mut self, out: &mut Outlet<'_>) -> Blocked {
        if !self.ready.is_empty() && !out.has_room() {
            self.look_at_touched(out);
            self.look_at_ready(out);
            return Blocked::Yes;
        }
        // What follows from one is looked at in the next turn.
        for _ in 0..self.touched.len() {
            let Some(index) = self.touched.pop_front() else {
                break;
            };
            if let Some(held) = &mut self.lineages[index] {
                held.touched = false;
                self.open_waiting(index, out);
            }
        }
        let mut budget = TURN_BYTES_MAX;
        let mut waiting = Vec::new();
        while budget > 0 {
            let Some(lineage) = self.ready.pop_front() else {
                break;
            };
            if let Some(held) = &mut self.lineages[lineage] {
                held.queued = false;
            }
            match self.read_lineage(lineage, out) {
                Progress::Some(bytes) => {
                    budget = budget.saturating_sub(bytes);
                    self.queue(lineage);
                }
                Progress::None => {}
                Progress::NoRoom => waiting.push(lineage),
            }
            budget = budget.saturating_sub(READ_COST_BYTES);
        }
        let blocked = if waiting.is_empty() {
            Blocked::No
        } else {
            Blocked::Yes
        };
        for lineage in waiting {
            self.queue(lineage);
        }
        blocked
    }

    /// While the spool is full: looks at files that something happened to, some in each turn. A copy of what
    /// comes and goes meanwhile is known only by how it began.
    fn look_at_touched(&mut self, out: &mut Outlet<'_>) {
        for _ in 0..self.touched.len().min(LOOKS_PER_TURN) {
            let Some(index) = self.touched.pop_front() else {
                return;
            };
            if let Some(held) = &mut self.lineages[index] {
                held.touched = false;
                self.open_waiting(index, out);
                self.read_lineage(index, out);
            }
        }
    }

    /// While the spool is full: looks once a second at what becomes of the open files that wait.
    fn look_at_ready(&mut self, out: &mut Outlet<'_>) {
        let now = out.now().monotonic;
        if self.next_look > now {
            return;
        }
        self.next_look = now + LOOK_EVERY;
        for index in self.ready.clone() {
            let lineage = self.lineages[index].as_mut();
            let current = lineage.and_then(Lineage::current);
            if current.is_some_and(|(_, epoch)| epoch.content.is_some()) {
                self.read_lineage(index, out);
            }
        }
    }

    /// Reads once from the lineage's current epoch.
    fn read_lineage(&mut self, index: usize, out: &mut Outlet<'_>) -> Progress {
        if !self.make_stream(index, out) {
            return Progress::NoRoom;
        }
        self.open_current(index, out);
        self.look_at_waiting(index, out);
        let Some(lineage) = &mut self.lineages[index] else {
            return Progress::None;
        };
        let number = match lineage.current() {
            Some((_, epoch)) if epoch.content.is_some() => epoch.number,
            _ => return Progress::None,
        };
        let id = EpochId {
            lineage: index,
            number,
        };
        if let Some(progress) = self.approach(id, out) {
            return progress;
        }
        let read = self.read_epoch(id, LastLine::Wait, out);
        let is_end = matches!(read, Ok(Read::End(_)));
        let progress = self.after_read(id, read, out);
        if is_end {
            return self.at_end(id, out);
        }
        progress
    }

    /// Has the lineages read whose last record may be whole now.
    fn take_pending(&mut self, now: Duration) {
        while let Some(&(at, index)) = self.pending.first()
            && at <= now
        {
            self.pending.pop_first();
            if let Some(lineage) = &mut self.lineages[index] {
                lineage.awaited = false;
            }
            self.queue(index);
        }
    }

    /// A lineage's last record waits for more lines, or for time to pass.
    fn await_more(&mut self, index: usize, now: Duration) {
        let (Some(multiline), Some(lineage)) = (&self.config.multiline, &mut self.lineages[index])
        else {
            return;
        };
        if !std::mem::replace(&mut lineage.awaited, true) {
            self.pending.insert((now + multiline.timeout, index));
        }
    }

    fn count(&mut self, id: EpochId, taken: Taken, out: &mut Outlet<'_>) {
        self.telemetry.read_bytes.inc_by(taken.bytes);
        self.telemetry.records.inc_by(taken.records);
        self.telemetry.lines_split.inc_by(taken.lines_split);
        if let Some(lineage) = self.lineages[id.lineage]
            .as_mut()
            .filter(|_| taken.holes > 0)
        {
            self.audit
                .unread(&lineage.path, taken.holes, Why::Hole, out);
            if let Some(epoch) = lineage.epoch(id.number) {
                epoch.account.unread += taken.holes;
            }
        }
        if taken.lost != Loss::default() {
            self.audit.too_long(taken.lost, out);
            if let Some(epoch) = self.epoch(id) {
                epoch.account.unread += taken.lost.bytes;
            }
        }
        if taken.without_record {
            self.note(id, out);
        }
        if taken.pending {
            self.await_more(id.lineage, out.now().monotonic);
        }
    }

    /// Decides where a lineage's records go, once that is known; whether it is.
    fn make_stream(&mut self, index: usize, out: &mut Outlet<'_>) -> bool {
        let Some(lineage) = &self.lineages[index] else {
            return true;
        };
        if lineage.stream.is_some() {
            return true;
        }
        if let Some(partition) = lineage.partition.clone() {
            self.set_stream(index, partition, out);
            return true;
        }
        let Some(partition) = out.place(&self.config.topic, lineage.id) else {
            return false;
        };
        self.set_stream(index, partition, out);
        let numbers: Vec<u32> = self.lineages[index]
            .iter()
            .flat_map(|lineage| lineage.epochs.iter().map(|epoch| epoch.number))
            .collect();
        for number in numbers {
            let lineage = index;
            self.note(EpochId { lineage, number }, out);
        }
        true
    }

    fn set_stream(&mut self, index: usize, partition: TopicPartition, out: &mut Outlet<'_>) {
        let Some(lineage) = &mut self.lineages[index] else {
            return;
        };
        let headers = headers(&self.config.labels, &lineage.path);
        lineage.partition = Some(partition.clone());
        lineage.stream = Some(Box::new(Stream {
            destination: out.destination(&partition),
            partition,
            split: headers_of_part(&headers, header::PARTIAL_SPLIT),
            truncated: headers_of_part(&headers, header::PARTIAL_TRUNCATED),
            unterminated: headers_of_part(&headers, header::PARTIAL_UNTERMINATED),
            headers,
        }));
    }

    fn next(&self, blocked: Blocked, now: Now) -> Next {
        if blocked == Blocked::No && !self.ready.is_empty() {
            return Next::Now;
        }
        let mut at = self.next_reconcile.unwrap_or(now.monotonic);
        if !self.attention.is_empty() || !self.suspects.is_empty() {
            at = at.min(self.next_attention);
        }
        if let Some(&(pending, _)) = self.pending.first() {
            at = at.min(pending);
        }
        if let Some(vets_at) = self.vets_at() {
            at = at.min(vets_at.max(now.monotonic));
        }
        let timers = [self.descriptors.next_close(), self.passes.next_poll()];
        at = timers.into_iter().flatten().fold(at, Duration::min);
        if blocked == Blocked::Yes {
            at = at.min(now.monotonic + SPOOL_RETRY);
        }
        Next::At(at)
    }
}

/// What reading a lineage once came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// So many bytes; it may have more.
    Some(usize),
    /// There is nothing to read before something happens.
    None,
    /// There is, but no room for it.
    NoRoom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocked {
    Yes,
    No,
}

/// What helps when something cannot be watched.
fn watch_hint(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => raise("fs.inotify.max_user_watches"),
        Some(libc::EMFILE) => {
            raise("fs.inotify.max_user_instances") + ", or the limit of open files"
        }
        Some(libc::EACCES) => {
            "let the agent's user list the directory (`setfacl -m u:USER:rx DIRECTORY`)".to_owned()
        }
        _ => "nothing needs to be done: what is polled is not lost".to_owned(),
    }
}

/// What to do about a limit of the kernel: four times of what it is leaves room for others.
fn raise(name: &str) -> String {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let present = std::fs::read_to_string(path).ok();
    match present.and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(present) => format!(
            "{name} is {present}: raise it (`sysctl -w {name}={}`)",
            present.max(1).saturating_mul(4)
        ),
        None => format!("raise {name}"),
    }
}

/// The headers of every record of a path. What does not fit is left out: labels are limited when the
/// configuration is checked.
fn headers(labels: &[(String, String)], path: &Path) -> HeaderBlock {
    let mut block = HeaderBlock::default();
    let own = std::iter::once((header::LOG_FILE_PATH, path.as_os_str().as_bytes()));
    let labels = labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in own.chain(labels) {
        if let Err(error) = block.push(name, value) {
            tracing::warn!(%error, "label is left out");
        }
    }
    block
}

fn headers_of_part(headers: &HeaderBlock, part: &[u8]) -> HeaderBlock {
    let mut block = headers.clone();
    if let Err(error) = block.push(header::LOG_RECORD_PARTIAL, part) {
        tracing::warn!(%error, "partial records are not marked");
    }
    block
}

#[cfg(any(test, feature = "testing"))]
pub mod scripts;
#[cfg(test)]
mod tests;
