//! A small agent for tests: real files in a temporary directory, a spool on any disk, a clock that
//! stands still until it is told to move, and no threads.

#![expect(
    clippy::unwrap_used,
    reason = "a test's tool: what goes wrong fails the test"
)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use commitlog::batch::records::Decompressor;
use commitlog::id::{Offset, Timestamp, TopicPartition};
use commitlog::storage::Storage;
use commitlog::storage::disk::Disk;
use commitlog::storage::faulty::FaultyDisk;
use model::header;

use crate::ambient::{Clock, Now, Random};
use crate::files::{SourceFiles, State, Totals};
use crate::limits::LINGER_SHARED_MAX;
use crate::pipeline::Pipeline;
use crate::sources::file::audit::Why;
#[cfg(test)]
use crate::sources::file::calls::Calls;
use crate::sources::file::encoding::Encoding;
use crate::sources::file::{FileConfig, FileSource, LongLines, StartAt};
use crate::sources::{Next, Source};
use crate::spool::{Hints, Spool, SpoolConfig, SyncTurn};
use crate::telemetry::{SourceTelemetry, Telemetry};

/// The start of all test runs.
const START_MS: i64 = 1_800_000_000_000;

/// What a test has.
pub(crate) struct World {
    /// Where the test's files are.
    pub(crate) logs: PathBuf,
    pub(crate) config: FileConfig,
    /// More sources beside the first.
    pub(crate) more: Vec<FileConfig>,
    /// The agent is not root, though the test is.
    pub(crate) as_nobody: bool,
    pub(crate) spool_config: SpoolConfig,
    pub(crate) storage: Arc<dyn Storage>,
    /// Whether an aggregator has told how many partitions there are.
    pub(crate) tell_partitions: bool,
    /// The data thread makes durable what it appends.
    pub(crate) appender_syncs: bool,
    /// A faulty disk under the spool, that is started again with this seed when it is off.
    pub(crate) revive: Option<(FaultyDisk, u64)>,
    /// The system calls of the source, which tests have fail.
    #[cfg(test)]
    pub(crate) calls: Calls,
    clock_ms: Arc<AtomicI64>,
    /// How far the wall clock is from where it would be.
    wall_step_ms: Arc<AtomicI64>,
    agent: Option<Agent>,
    seed: Arc<AtomicU64>,
    _dir: tempfile::TempDir,
}

struct Agent {
    pipeline: Pipeline,
    spool: Spool,
    telemetry: Telemetry,
}

/// One record as it comes out of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) path: String,
    pub(crate) value: Vec<u8>,
    pub(crate) partial: Option<Vec<u8>>,
}

impl World {
    /// A world on the real disk, whose agent follows `*.log*`.
    pub(crate) fn new() -> World {
        World::on(Arc::new(Disk))
    }

    /// The same, whose agent follows rotated files by their names too.
    #[cfg(test)]
    pub(crate) fn with_rotated() -> World {
        let mut world = World::new();
        world.config.files = vec![world.path("*.log*").display().to_string()];
        world
    }

    /// The same with its spool on another disk.
    pub(crate) fn on(storage: Arc<dyn Storage>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir(&logs).unwrap();
        // An agent that is not root must get there.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let config = FileConfig {
            name: "app".to_owned(),
            files: vec![logs.join("*.log").display().to_string()],
            exclude: Vec::new(),
            topic: "logs".parse().unwrap(),
            labels: vec![("host.name".to_owned(), "test".to_owned())],
            start_at: StartAt::Beginning,
            encoding: Encoding::Auto,
            multiline: None,
            ignore_older: None,
            line_bytes_max: 1024 * 1024,
            long_lines: LongLines::Split,
            files_open_max: 500,
            files_detached_max: 500,
            beside: Vec::new(),
            heirs: Vec::new(),
        };
        World {
            spool_config: SpoolConfig {
                data_dir: dir.path().join("data"),
                bytes_max: 1 << 30,
                segment_bytes: 1 << 20,
            },
            logs,
            config,
            more: Vec::new(),
            as_nobody: false,
            storage,
            tell_partitions: true,
            appender_syncs: false,
            revive: None,
            #[cfg(test)]
            calls: Calls::default(),
            clock_ms: Arc::new(AtomicI64::new(START_MS)),
            wall_step_ms: Arc::new(AtomicI64::new(0)),
            agent: None,
            seed: Arc::new(AtomicU64::new(1)),
            _dir: dir,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.logs.join(name)
    }

    /// Opens a file for appending, as a logger does.
    pub(crate) fn writer(&self, name: &str) -> File {
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        options.open(self.path(name)).unwrap()
    }

    /// Appends to a file and closes it.
    pub(crate) fn append(&self, name: &str, text: &str) {
        self.writer(name).write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// What `logrotate copytruncate` does.
    pub(crate) fn copy_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        self.truncate(from);
    }

    pub(crate) fn truncate(&self, name: &str) {
        let file = OpenOptions::new().write(true).open(self.path(name));
        file.unwrap().set_len(0).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    pub(crate) fn clock(&self) -> Clock {
        let clocks = [&self.clock_ms, &self.wall_step_ms].map(Arc::clone);
        Arc::new(move || {
            let all = clocks.iter().map(|clock| clock.load(Ordering::Relaxed));
            Timestamp(all.sum())
        })
    }

    pub(crate) fn random(&self) -> Random {
        let state = Arc::clone(&self.seed);
        Arc::new(move |bytes| {
            for byte in bytes {
                let mut x = state
                    .load(Ordering::Relaxed)
                    .wrapping_mul(0x5851_f42d_4c95_7f2d);
                x = x.wrapping_add(0x1405_7b7e_f767_814f);
                state.store(x, Ordering::Relaxed);
                *byte = x.to_be_bytes()[0];
            }
        })
    }

    /// Opens the spool alone.
    pub(crate) fn open_spool(&self) -> Spool {
        self.try_open_spool().unwrap()
    }

    fn try_open_spool(&self) -> commitlog::error::Result<Spool> {
        let opened = Spool::open(
            Arc::clone(&self.storage),
            self.spool_config.clone(),
            self.clock(),
            self.random(),
        );
        opened.map(|(spool, _)| spool)
    }

    /// After a power cut: the agent is dead, the machine starts again.
    pub(crate) fn revive(&mut self, seed: u64) {
        let off = self.revive.as_ref().filter(|(disk, _)| disk.is_off());
        if let Some((disk, _)) = off.cloned() {
            self.kill();
            disk.restart(seed);
        }
    }

    /// Starts the agent, if it does not run.
    pub(crate) fn start(&mut self) {
        if self.agent.is_some() {
            return;
        }
        let spool = loop {
            match self.try_open_spool() {
                Ok(spool) => break spool,
                // A program that another test is starting has the lock until it runs.
                Err(error) if error.to_string().contains("in use") => std::thread::yield_now(),
                Err(error) => {
                    let Some((disk, seed)) = &self.revive else {
                        panic!("{error}");
                    };
                    if disk.is_off() {
                        disk.restart(*seed);
                    }
                }
            }
        };
        if self.tell_partitions {
            let configs = std::iter::once(&self.config).chain(&self.more);
            spool.apply_hints(Hints {
                linger: Duration::from_millis(2),
                partitions: configs.map(|config| (config.topic.clone(), 4)).collect(),
                partitions_of_new: 0,
            });
        }
        let telemetry = Telemetry::new();
        let configs = || std::iter::once(&self.config).chain(&self.more);
        let names: Vec<String> = configs().map(|config| config.name.clone()).collect();
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        for config in configs() {
            let counters = telemetry.source(&config.name);
            let mut config = config.clone();
            config.beside.extend_from_slice(&names);
            let source = FileSource::new(config, &spool.salt(), counters).unwrap();
            #[cfg(test)]
            let source = source.with_calls(self.calls.clone());
            sources.push(Box::new(source));
        }
        self.agent = Some(Agent {
            pipeline: Pipeline::new(sources, spool.clone(), telemetry.clone()),
            spool,
            telemetry,
        });
    }

    /// Has the running agent go on with what `config` says now, as SIGHUP does.
    #[cfg(test)]
    pub(crate) fn reload(&mut self) {
        self.reload_to(std::slice::from_ref(&self.config.clone()));
    }

    /// Has sources take the place of those of their names.
    #[cfg(test)]
    pub(crate) fn reload_to(&mut self, configs: &[FileConfig]) {
        let spool = self.spool();
        let agent = self.agent.as_mut().unwrap();
        let sources = configs.iter().map(|config| {
            let telemetry = agent.telemetry.source(&config.name);
            let source = FileSource::new(config.clone(), &spool.salt(), telemetry);
            Box::new(source.unwrap()) as Box<dyn Source>
        });
        let sources = sources.collect();
        let share = crate::sources::FilesShare {
            open_max: self.config.files_open_max,
            detached_max: self.config.files_detached_max,
        };
        agent.pipeline.put(sources, share);
    }

    /// As `kill -9`: what is written stays written, all else is gone.
    pub(crate) fn kill(&mut self) {
        self.agent = None;
    }

    /// Stops the agent as SIGTERM does.
    pub(crate) fn stop(&mut self) {
        let now = self.now();
        if let Some(mut agent) = self.agent.take() {
            agent.pipeline.flush(now);
            let closed = agent.spool.close();
            let is_faulty = self.revive.is_some();
            assert!(closed.is_ok() || is_faulty, "{closed:?}");
        }
    }

    pub(crate) fn spool(&self) -> Spool {
        self.agent.as_ref().unwrap().spool.clone()
    }

    /// The time since some moment before the test.
    pub(crate) fn time(&self) -> Duration {
        self.now().monotonic
    }

    fn now(&self) -> Now {
        let passed = self.clock_ms.load(Ordering::Relaxed) - START_MS;
        Now {
            monotonic: Duration::from_millis((passed + 1000).unsigned_abs()),
            wall: self.clock()(),
        }
    }

    /// One turn of the data thread, and the time that it waits for nothing.
    pub(crate) fn turn(&mut self) -> Next {
        let _nobody = self.as_nobody.then(Nobody::put_on);
        self.start();
        let now = self.now();
        let agent = self.agent.as_mut().unwrap();
        agent.spool.set_appender_syncs(self.appender_syncs);
        let next = agent.pipeline.turn(now);
        agent.spool.sync_appended();
        next
    }

    pub(crate) fn pass(&self, time: Duration) {
        let ms = i64::try_from(time.as_millis()).unwrap();
        self.clock_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets the wall clock forward or back, as an administrator or a time server does.
    pub(crate) fn step_wall_clock(&self, ms: i64) {
        self.wall_step_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Turns until there is nothing to do at this moment, and everything is synced.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            let due = self.turn();
            let now = self.now().monotonic;
            let agent = self.agent.as_ref().unwrap();
            let patience = match agent.pipeline.deaf_for() {
                Some(_) => LINGER_SHARED_MAX + Duration::from_millis(3),
                None => Duration::from_millis(5),
            };
            let soon = match due {
                Next::Now => continue,
                Next::At(at) => at <= now + patience,
            };
            if soon {
                self.pass(Duration::from_millis(1));
                continue;
            }
            while matches!(self.spool().sync_turn(), SyncTurn::Worked { .. }) {}
            return;
        }
        panic!("the agent does not come to rest");
    }

    /// Lets time pass in steps, working all the while.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_in_steps(time, Duration::from_millis(50));
    }

    /// The same in steps of any length.
    pub(crate) fn run_in_steps(&mut self, time: Duration, step: Duration) {
        let mut passed = Duration::ZERO;
        while passed < time {
            self.settle();
            self.pass(step);
            passed += step;
        }
        self.settle();
    }

    /// All durable records, in order for each path.
    pub(crate) fn records(&self) -> Vec<Line> {
        records(&self.spool())
    }

    /// How many batches are spooled.
    pub(crate) fn batches(&self) -> usize {
        let spool = self.spool();
        let mut count = 0;
        for partition in spool.partitions() {
            let range = spool.range(&partition);
            let mut from = range.start;
            while from < range.durable_end {
                let batches = spool.read(&partition, from, 1).unwrap();
                let head = commitlog::batch::header::verify(&batches[0]).unwrap();
                from = head.next_offset();
                count += 1;
            }
        }
        count
    }

    /// The lines that came of each path, by the path's name.
    pub(crate) fn lines(&self) -> BTreeMap<String, Vec<String>> {
        let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in self.records() {
            let name = Path::new(&line.path).file_name().unwrap();
            let name = name.to_string_lossy().into_owned();
            let value = String::from_utf8_lossy(&line.value).into_owned();
            lines.entry(name).or_default().push(value);
        }
        lines
    }

    /// The lines of one path.
    pub(crate) fn lines_of(&self, name: &str) -> Vec<String> {
        self.lines().remove(name).unwrap_or_default()
    }

    /// How long the running agent would hear no event now; `None`: it hears them.
    pub(crate) fn deaf_for(&self) -> Option<Duration> {
        self.agent.as_ref().unwrap().pipeline.deaf_for()
    }

    /// What the running agent counts of its source.
    pub(crate) fn counted(&self) -> SourceTelemetry {
        let agent = self.agent.as_ref().unwrap();
        agent.telemetry.source(&self.config.name)
    }

    /// How many sources the running agent has.
    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        self.agent.as_ref().unwrap().pipeline.files().len()
    }

    /// What the agent tells of its files.
    pub(crate) fn files(&self) -> SourceFiles {
        self.agent.as_ref().unwrap().pipeline.files().remove(0)
    }

    /// How much is unread.
    pub(crate) fn totals(&self) -> Totals {
        let totals = self.agent.as_ref().unwrap().pipeline.totals();
        totals[0].1
    }

    /// The files that are not done with: path, size, offset, state.
    pub(crate) fn states(&self) -> Vec<(String, u64, u64, State)> {
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let files = self.files().files.into_iter();
        let mut states: Vec<_> = files
            .map(|file| (name(&file.path), file.size, file.offset, file.state))
            .collect();
        states.sort();
        states
    }

    /// The epochs that ended: path, bytes read, bytes unread, why.
    pub(crate) fn closed(&self) -> Vec<(String, u64, Option<u64>, Why)> {
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let closed = self.files().closed.into_iter();
        closed
            .map(|it| (name(&it.path), it.bytes_read, it.bytes_unread, it.why))
            .collect()
    }

    /// All losses, as "reason records bytes".
    pub(crate) fn losses(&self) -> Vec<String> {
        let losses = self.spool().losses();
        losses
            .iter()
            .map(|((_, reason), loss)| format!("{reason} {} {}", loss.count, loss.bytes))
            .collect()
    }
}

/// A path as text; one that is none with its odd bytes escaped.
fn text_of(path: Vec<u8>) -> String {
    String::from_utf8(path).unwrap_or_else(|path| path.as_bytes().escape_ascii().to_string())
}

/// All durable records of a spool.
pub(crate) fn records(spool: &Spool) -> Vec<Line> {
    let records = Durable::default().take(spool);
    records.into_iter().map(|(_, line)| line).collect()
}

/// Reads a spool's durable records once each, whatever is acknowledged behind it.
#[derive(Default)]
pub(crate) struct Durable {
    next: BTreeMap<TopicPartition, Offset>,
    decompressor: Decompressor,
}

impl Durable {
    /// What has become durable since the last time.
    pub(crate) fn take(&mut self, spool: &Spool) -> Vec<(TopicPartition, Line)> {
        let mut lines = Vec::new();
        for partition in spool.partitions() {
            let start = spool.range(&partition).start;
            let mut from = self.next.get(&partition).copied().unwrap_or(start);
            assert!(start <= from, "{partition}: freed before it was read");
            while from < spool.range(&partition).durable_end {
                let batches = spool.read(&partition, from, 1 << 20).unwrap();
                if batches.is_empty() {
                    break;
                }
                for batch in batches {
                    from = self.take_batch(&partition, from, &batch, &mut lines);
                }
            }
            self.next.insert(partition, from);
        }
        lines
    }

    fn take_batch(
        &mut self,
        partition: &TopicPartition,
        from: Offset,
        batch: &[u8],
        lines: &mut Vec<(TopicPartition, Line)>,
    ) -> Offset {
        let head = commitlog::batch::header::verify(batch).unwrap();
        assert_eq!(head.base_offset, from, "{partition}: offsets have no holes");
        for record in self.decompressor.records(batch).unwrap() {
            let record = record.unwrap();
            let mut line = Line {
                path: String::new(),
                value: record.value.unwrap().to_vec(),
                partial: None,
            };
            for entry in record.headers {
                let (name, value) = entry.unwrap();
                let value = value.unwrap().to_vec();
                match name {
                    header::LOG_FILE_PATH => line.path = text_of(value),
                    header::LOG_RECORD_PARTIAL => line.partial = Some(value),
                    _ => {}
                }
            }
            lines.push((partition.clone(), line));
        }
        Offset::new(from.get() + i64::from(head.record_count)).unwrap()
    }
}

/// How many descriptors of this process lead to files of a directory.
pub(crate) fn open_below(dir: &Path) -> usize {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.starts_with(dir) && target != dir)
        .count()
}

/// While it lives, this thread has no rights but those of user `nobody`, and can take its own back.
struct Nobody;

/// The user without rights, everywhere.
const NOBODY: u32 = 65_534;

impl Nobody {
    fn put_on() -> Nobody {
        set_effective_user(rustix::process::Uid::from_raw(NOBODY));
        Nobody
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        set_effective_user(rustix::process::Uid::ROOT);
    }
}

fn set_effective_user(user: rustix::process::Uid) {
    let unchanged: Option<rustix::process::Uid> = None;
    rustix::thread::set_thread_res_uid(unchanged, user, unchanged).unwrap();
}
