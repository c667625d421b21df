//! One agent from start to stop: who starts whom, who waits for whom.
//!
//! Two threads and a task: the data thread turns files into spooled batches, the sync thread makes them
//! durable, the producer ships what is durable. Start: the spool is locked and read before anything is
//! followed. Stop: reading ends first, then the last batches are synced, then the producer has a grace
//! to send them, then the spool is closed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};

use anyhow::{Context, ensure};
use commitlog::storage::Storage;
use commitlog::storage::disk::Disk;
use tokio::task::{JoinHandle as TaskHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::ambient::{Clock, Random, system_clock, system_random};
use crate::config::{AgentConfig, MultilineConfig, StartAt as ConfigStartAt};
use crate::control::{self, Control};
use crate::identity::ClientIdentity;
use crate::limits::{
    FILES_DETACHED_MAX, FILES_RESERVE, SPOOL_SEGMENT_BYTES, SPOOL_SEGMENTS_MIN, STATUS_EVERY,
    SYNC_BUSY_BYTES, SYNC_REST, UNREAD_EVERY_MAX, UNREAD_PER_FILE,
};
use crate::pipeline::Pipeline;
use crate::pipeline::requests::Requests;
use crate::pipeline::thread::{Waker, spawn};
use crate::producer::stats::Stats;
use crate::producer::transport::{SystemTransport, Transport};
use crate::producer::{Host, Producer, ShipConfig};
use crate::reload::{Difference, compare, restart_needed, taken_over};
use crate::sources::file::{FileConfig, FileSource, StartAt};
use crate::sources::{FilesShare, Source};
use crate::spool::{Spool, SpoolConfig, SyncTurn};
use crate::status::{self, Status};
use crate::telemetry::Telemetry;

/// What an agent takes from its surroundings.
#[derive(Clone)]
pub struct Parts {
    /// The disk under the spool.
    pub storage: Arc<dyn Storage>,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// The wall clock.
    pub clock: Clock,
    /// Chance.
    pub random: Random,
}

/// A running agent. [`Running::stop`] it: dropping it leaves the spool to recovery.
pub struct Running {
    /// Where it serves its own metrics.
    pub http_addr: Option<std::net::SocketAddr>,
    spool: Spool,
    data: JoinHandle<Pipeline>,
    waker: Waker,
    sync: JoinHandle<()>,
    sync_stop: Arc<AtomicBool>,
    producer: TaskHandle<()>,
    telling: Telling,
    requests: Requests,
    telemetry: Telemetry,
    /// What holds, with what was reloaded since the start.
    config: AgentConfig,
    host: Host,
    shipping: CancellationToken,
    failed: CancellationToken,
}

/// What tells others how the agent fares.
struct Telling {
    http_addr: Option<std::net::SocketAddr>,
    tasks: Vec<TaskHandle<()>>,
    control: Option<control::Served>,
}

impl Telling {
    async fn start(
        config: &AgentConfig,
        status: Status,
        producer: &Producer,
        requests: Requests,
    ) -> anyhow::Result<Telling> {
        let stats = Arc::clone(&producer.stats);
        let (mut http_addr, mut tasks) = (None, Vec::new());
        if let Some(listen) = config.agent.http {
            let (addr, task) = status::serve(listen, status).await?;
            http_addr = Some(addr);
            tasks.push(task);
        }
        tasks.push(tokio::spawn(watch_unread(requests.clone(), stats)));
        let spool = producer.spool.clone();
        let control = control::serve(&config.agent.data_dir, Control { requests, spool });
        Ok(Telling {
            http_addr,
            tasks,
            control,
        })
    }

    fn abort(&self) {
        self.tasks.iter().for_each(TaskHandle::abort);
    }

    async fn stop(self) {
        self.abort();
        for task in self.tasks {
            // It has ended: aborted, or before.
            task.await.ok();
        }
        if let Some(control) = self.control {
            control.stop().await;
        }
    }
}

impl Parts {
    /// The real ones.
    pub fn real() -> Parts {
        Parts {
            storage: Arc::new(Disk),
            transport: Arc::new(SystemTransport),
            clock: system_clock(),
            random: system_random(),
        }
    }
}

/// Starts an agent; it follows its files when this returns.
pub async fn start(config: AgentConfig, parts: Parts) -> anyhow::Result<Running> {
    let data_dir = config.agent.data_dir.clone();
    let identity = ClientIdentity::load(&data_dir, config.ship.tls.as_ref(), parts.clock.clone())?;
    let aggregators = aggregators(&config, &identity)?;
    let spool = open_spool(&config, &parts).await?;
    let telemetry = Telemetry::new();
    let host = host(&config);
    let sources = sources(file_sources(&config, &host), &spool, &telemetry)?;

    let waker = Waker::new().context("cannot make a pipe")?;
    let failed = CancellationToken::new();
    let mut producer = Producer::new(
        spool.clone(),
        ShipConfig::new(aggregators),
        Arc::new(identity),
        Arc::clone(&parts.random),
    );
    producer.transport = parts.transport;
    producer.host = host.clone();
    let wake = waker.clone();
    let (requests, inbox) = Requests::new(Arc::new(move || wake.wake()));
    let status = Status::new(
        spool.clone(),
        telemetry.clone(),
        Arc::clone(&producer.stats),
        requests.clone(),
        failed.clone(),
    );
    let telling = Telling::start(&config, status, &producer, requests.clone()).await?;

    let sync_stop = Arc::new(AtomicBool::new(false));
    let pipeline = Pipeline::new(sources, spool.clone(), telemetry.clone()).answering(inbox);
    let threads = || -> anyhow::Result<_> {
        let data = spawn(pipeline, waker.clone(), parts.clock, failed.clone())
            .context("cannot start the data thread")?;
        let sync = start_sync(spool.clone(), Arc::clone(&sync_stop), failed.clone())
            .inspect_err(|_| waker.stop())?;
        Ok((data, sync))
    };
    let threads = threads().inspect_err(|_| telling.abort());
    let (data, sync) = threads?;
    let shipping = CancellationToken::new();
    let producer = tokio::spawn(ship(producer, shipping.clone(), failed.clone()));
    Ok(Running {
        http_addr: telling.http_addr,
        spool,
        data,
        waker,
        sync,
        sync_stop,
        producer,
        telling,
        requests,
        telemetry,
        config,
        host,
        shipping,
        failed,
    })
}

impl Running {
    /// The spool, to be asked how much is in it.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Takes over what of another configuration can be taken over, all of it or nothing, and says what
    /// that changed. Done when the new sources have begun.
    pub async fn reload(&mut self, wanted: AgentConfig) -> anyhow::Result<Difference> {
        let restart = restart_needed(&self.config, &wanted);
        let taken = taken_over(&self.config, wanted);
        let running = file_sources(&self.config, &self.host);
        let mut difference = compare(&running, &file_sources(&taken, &self.host));
        difference.restart = restart;
        let changed = std::mem::take(&mut difference.sources);
        let new = sources(changed.clone(), &self.spool, &self.telemetry)?;
        if !new.is_empty() {
            let replaced = self.requests.replace(new, files_share(&taken)).await;
            replaced.context("the data thread has ended")?;
        }
        self.config = taken;
        difference.sources = changed;
        Ok(difference)
    }

    /// Waits until a part that must not end has ended, whatever is done with the agent meanwhile.
    pub fn failed(&self) -> impl Future<Output = ()> + use<> {
        self.failed.clone().cancelled_owned()
    }

    /// Stops everything in order. An error says that a part had failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.waker.stop();
        let data = self.data;
        let data = spawn_blocking(move || data.join()).await?;
        // The sync thread goes on: what was flushed last is durable before the producer's grace ends.
        self.spool.wake_sync();
        self.shipping.cancel();
        let producer = self.producer.await;
        self.sync_stop.store(true, Ordering::Release);
        self.spool.wake_sync();
        let sync = self.sync;
        let sync = spawn_blocking(move || sync.join()).await?;
        self.telling.stop().await;
        let spool = self.spool;
        spawn_blocking(move || spool.close())
            .await?
            .context("spool is not closed; the next start recovers it")?;
        ensure!(data.is_ok(), "the data thread has panicked");
        ensure!(sync.is_ok(), "the sync thread has panicked");
        producer.context("the producer has panicked")
    }
}

/// Keeps the sum of what the sources have before them, as often as it is told to the aggregator, and less
/// often where many files are to be summed up.
async fn watch_unread(requests: Requests, stats: Arc<Stats>) {
    loop {
        let mut pause = STATUS_EVERY;
        if let Some(totals) = requests.totals().await {
            let unread = totals.iter().map(|(_, totals)| totals.unread_bytes);
            stats.set_unread_bytes(unread.sum());
            let files: u64 = totals.iter().map(|(_, totals)| totals.files).sum();
            let files = u32::try_from(files).unwrap_or(u32::MAX);
            pause = pause.max(UNREAD_PER_FILE.saturating_mul(files).min(UNREAD_EVERY_MAX));
        }
        tokio::time::sleep(pause).await;
    }
}

async fn ship(producer: Producer, shutdown: CancellationToken, failed: CancellationToken) {
    let guard = failed.drop_guard();
    producer.run(shutdown.clone()).await;
    if shutdown.is_cancelled() {
        guard.disarm();
    }
}

fn start_sync(
    spool: Spool,
    stop: Arc<AtomicBool>,
    failed: CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let run = move || {
        let guard = failed.drop_guard();
        while !stop.load(Ordering::Acquire) {
            match spool.sync_turn() {
                SyncTurn::Idle(due) => spool.wait_for_work(due),
                SyncTurn::Worked { bytes } if bytes >= SYNC_BUSY_BYTES => sleep(SYNC_REST),
                SyncTurn::Worked { .. } => {}
            }
        }
        guard.disarm();
    };
    std::thread::Builder::new()
        .name("sync".to_owned())
        .spawn(run)
        .context("cannot start the sync thread")
}

async fn open_spool(config: &AgentConfig, parts: &Parts) -> anyhow::Result<Spool> {
    let bytes_max = config.ship.spool.size.0;
    let spool_config = SpoolConfig {
        data_dir: config.agent.data_dir.clone(),
        bytes_max,
        segment_bytes: SPOOL_SEGMENT_BYTES.min(bytes_max / SPOOL_SEGMENTS_MIN),
    };
    let parts = parts.clone();
    let opening = move || Spool::open(parts.storage, spool_config, parts.clock, parts.random);
    let (spool, report) = spawn_blocking(opening).await??;
    for repair in &report.repairs {
        tracing::warn!(repair, "spool was damaged");
    }
    let fill = spool.fill();
    tracing::info!(
        data_dir = %config.agent.data_dir.display(),
        producer_id = %spool.producer_id(),
        unacknowledged_bytes = fill.unacknowledged_bytes,
        files = spool.positions().len(),
        "spool opened"
    );
    Ok(spool)
}

fn aggregators(config: &AgentConfig, identity: &ClientIdentity) -> anyhow::Result<Vec<String>> {
    let configured = &config.ship.to;
    let aggregators: Vec<String> = if configured.is_empty() {
        identity
            .aggregators()
            .iter()
            .map(ToString::to_string)
            .collect()
    } else {
        configured.iter().map(ToString::to_string).collect()
    };
    ensure!(
        !aggregators.is_empty(),
        "no aggregator is known; add `ship: {{to: [\"HOST:9347\"]}}`"
    );
    Ok(aggregators)
}

/// One source for each entry under `logs`.
fn sources(
    configs: Vec<FileConfig>,
    spool: &Spool,
    telemetry: &Telemetry,
) -> anyhow::Result<Vec<Box<dyn Source>>> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    for file in configs {
        let name = file.name.clone();
        let source = FileSource::new(file, &spool.salt(), telemetry.source(&name))
            .with_context(|| format!("logs.{name}"))?;
        sources.push(Box::new(source));
    }
    Ok(sources)
}

/// What the entries under `logs` say.
fn file_sources(config: &AgentConfig, host: &Host) -> Vec<FileConfig> {
    let own = config.agent.data_dir.join("**").display().to_string();
    let FilesShare {
        open_max: files_open_max,
        detached_max: files_detached_max,
    } = files_share(config);
    let patterns = |globs: &[crate::config::Glob]| -> Vec<String> {
        globs.iter().map(|glob| glob.pattern.clone()).collect()
    };
    let sources = config.logs.iter().map(|(name, logs)| {
        let mut labels = config.agent.labels.clone();
        labels.extend(logs.labels.clone());
        labels
            .entry(model::header::HOST_NAME.to_owned())
            .or_insert_with(|| host.name.clone());
        let mut exclude = patterns(&logs.exclude);
        exclude.push(own.clone());
        FileConfig {
            name: name.clone(),
            files: patterns(&logs.files),
            exclude,
            topic: logs.topic.clone(),
            labels: labels.into_iter().collect(),
            start_at: match logs.start_at {
                ConfigStartAt::Beginning => StartAt::Beginning,
                ConfigStartAt::End => StartAt::End,
            },
            encoding: logs.encoding,
            multiline: logs.multiline.as_ref().and_then(MultilineConfig::multiline),
            long_lines: logs.long_lines,
            ignore_older: logs.ignore_older,
            line_bytes_max: usize::try_from(config.limits.line.0).unwrap_or(usize::MAX),
            files_open_max,
            files_detached_max,
            beside: config.logs.keys().cloned().collect(),
            heirs: Vec::new(),
        }
    });
    sources.collect()
}

/// What each of the sources may hold open.
fn files_share(config: &AgentConfig) -> FilesShare {
    let share = |files: usize| (files / config.logs.len().max(1)).max(1);
    let open_max = share(files_open(config));
    FilesShare {
        open_max,
        detached_max: open_max.max(share(files_allowed().min(FILES_DETACHED_MAX))),
    }
}

/// Files that all sources together may hold open: what is configured, as far as the process may.
fn files_open(config: &AgentConfig) -> usize {
    let wanted = usize::try_from(config.limits.files_open).unwrap_or(usize::MAX);
    let most = files_allowed();
    if most < wanted {
        tracing::warn!(
            wanted,
            most,
            "fewer files are held open than `limits.files_open` says: raise the process's limit of open files"
        );
    }
    wanted.min(most)
}

/// Files that the process may hold open, beside what else it needs.
fn files_allowed() -> usize {
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = allowed.map_or(u64::MAX, |allowed| {
        (allowed / 2).saturating_sub(FILES_RESERVE).max(1)
    });
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// What is told about this host.
fn host(config: &AgentConfig) -> Host {
    let read = |path: &str| {
        let text = std::fs::read_to_string(PathBuf::from(path)).unwrap_or_default();
        text.trim().to_owned()
    };
    Host {
        name: host_name(config),
        machine_id: read("/etc/machine-id"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
    }
}

/// The configured name of this host, else the kernel's.
pub fn host_name(config: &AgentConfig) -> String {
    let kernels = || {
        let name = rustix::system::uname();
        name.nodename().to_string_lossy().into_owned()
    };
    config.agent.host_name.clone().unwrap_or_else(kernels)
}
