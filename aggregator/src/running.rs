//! One aggregator from start to stop: who starts whom, who waits for whom.
//!
//! Start: the data directory is locked before anything in it is touched; listeners are bound before
//! anything is announced. Stop: sessions end first, then what they appended is synced, then the logs
//! are closed, then the lock goes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use commitlog::storage::{Lock, Storage};
use config::listen::{Protocol, cannot_listen};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::{AgentRow, Agents};
use crate::blocking::Blocking;
use crate::broker::transport::SystemTransport;
use crate::broker::{self, Broker, BrokerParts};
use crate::config::{AggregatorConfig, Auth};
use crate::groups::Groups;
use crate::health::Health;
use crate::http::{self, Api, Gate, Origins};
use crate::identity::{Authority, reachable_at};
use crate::limits::{
    AGENTS_FORGET_INTERVAL, AGENTS_WRITE_INTERVAL, HTTP_LONG_POLLS_MAX, OWN_CERTIFICATE_INTERVAL,
    STOP_MAX,
};
use crate::meta::Meta;
use crate::parts::Parts;
use crate::telemetry::Telemetry;
use crate::topics::{SyncThreads, Topics, TopicsConfig};

#[cfg(test)]
mod tests;

/// A running aggregator. [`Running::stop`] it: dropping it leaves the logs to recovery.
pub struct Running {
    /// Where agents connect.
    pub quic_addr: SocketAddr,
    /// Where people and consumers connect.
    pub http_addr: SocketAddr,
    broker: Broker,
    opened: Opened,
    blocking: Blocking,
    sync_threads: SyncThreads,
    /// Ends what serves agents and consumers.
    serving: CancellationToken,
    /// What serves agents and consumers.
    servers: TaskTracker,
    upkeep: Upkeep,
    /// Ended by a part that must not end.
    failed: CancellationToken,
}

/// Starts an aggregator; it is ready when this returns. Port 0 takes any free port, which
/// [`Running`] tells.
pub async fn start(config: AggregatorConfig, parts: Parts) -> anyhow::Result<Running> {
    raise_open_files();
    let blocking = parts.blocking;
    let opened = {
        let (config, parts) = (config.clone(), parts.clone());
        blocking.run(move || Opened::open(&config, &parts)).await?
    };
    let health = Health::default();
    let http_listener = bind_http(config.listen.http).await?;
    let http_addr = http_listener.local_addr()?;
    let sync_threads = opened.topics.start_sync_threads(&health)?;
    let broker = Broker::new(BrokerParts {
        topics: opened.topics.clone(),
        authority: opened.authority.clone(),
        agents: opened.agents.clone(),
        advertised: config.advertise.clone(),
        health: health.clone(),
        transport: Arc::new(SystemTransport),
        reset_key: opened.reset_key,
    });
    let quic_addr = broker.listen(config.listen.quic).await?;

    // From here on nothing can fail, so nothing that is started stays behind.
    let upkeep = Upkeep::start(&opened, &health, blocking);
    let serving = CancellationToken::new();
    let failed = CancellationToken::new();
    let api = Api {
        topics: opened.topics.clone(),
        groups: opened.groups.clone(),
        agents: opened.agents.clone(),
        authority: opened.authority.clone(),
        agents_connect_to: reachable_at(&config.advertise, quic_addr).into(),
        telemetry: opened.telemetry.clone(),
        health,
        gate: opened.gate.clone(),
        blocking,
        long_polls: Arc::new(Semaphore::new(HTTP_LONG_POLLS_MAX)),
        shutdown: serving.clone(),
    };
    let servers = TaskTracker::new();
    servers.spawn(serve_http(http_listener, api, failed.clone()));
    Ok(Running {
        quic_addr,
        http_addr,
        broker,
        opened,
        blocking,
        sync_threads,
        serving,
        servers,
        upkeep,
        failed,
    })
}

/// The runtime that a server runs on. Half of the processors serve connections: the other half is for
/// the threads that read, write and fsync, and a task that moves between threads wakes each of them.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / 2).max(1))
        .enable_all()
        .build()
}

impl Running {
    /// Whether these certificates let an agent ship here.
    pub fn admits(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.opened.authority.peer(chain).is_ok()
    }

    /// Ends when a part that must run has ended: nothing is left but to stop.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Stops: accepts nothing more, ends the sessions, syncs what they appended, closes the logs.
    /// What takes longer than ten seconds is left to the next start's recovery.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.serving.cancel();
        self.servers.close();
        let sessions = async {
            tokio::join!(self.broker.shut_down(), self.servers.wait());
        };
        let ended = tokio::time::timeout(STOP_MAX / 2, sessions).await;
        if ended.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
        let (opened, sync_threads) = (self.opened, self.sync_threads);
        let close = self.blocking.run(move || {
            sync_threads.join();
            opened.topics.close();
            write_changed_agents(&opened.agents, &opened.meta);
            // The lock goes with `opened`, last.
        });
        let closed = tokio::time::timeout(STOP_MAX / 2, async {
            self.upkeep.stop().await;
            close.await;
        });
        closed
            .await
            .context("the logs were not closed in time; the next start recovers them")
    }
}

/// What lies in the data directory, opened.
struct Opened {
    _lock: Lock,
    telemetry: Telemetry,
    meta: Arc<Meta>,
    topics: Topics,
    groups: Groups,
    agents: Agents,
    authority: Authority,
    gate: Gate,
    /// With which the broker ends connections that it does not know.
    reset_key: [u8; 32],
}

impl Opened {
    /// Waits for the disk.
    fn open(config: &AggregatorConfig, parts: &Parts) -> anyhow::Result<Opened> {
        let Parts {
            storage,
            clock,
            random,
            blocking,
        } = parts.clone();
        let data_dir = &config.data_dir;
        config::private_file::create_dir(data_dir)
            .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
        let lock = lock(&*storage, data_dir)?;
        let telemetry = Telemetry::new();
        let meta = Meta::open(Arc::clone(&storage), &data_dir.join("meta.redb"))?;
        let meta = Arc::new(meta);
        let topics = Topics::open(
            TopicsConfig::from_config(config),
            storage,
            Arc::clone(&clock),
            blocking,
            telemetry.clone(),
        )?;
        let groups = Groups::open(Arc::clone(&meta), topics.clone(), blocking)?;
        let agents = Agents::new(meta.records::<AgentRow>()?, clock, telemetry.clone());
        let authority = match &config.tls {
            None => Authority::open(data_dir, Arc::clone(&meta), parts)?,
            Some(tls) => Authority::own(tls, Arc::clone(&meta), parts)?,
        };
        let gate = match config.auth {
            Auth::None => Gate::open(),
            Auth::Token => {
                let token = http::admin_token::load_or_make(data_dir, &random)?;
                let loopback = config.listen.http.ip().is_loopback();
                let origins = if loopback {
                    Origins::Loopback
                } else {
                    Origins::Any
                };
                Gate::token(&token, origins, &random)
            }
        };
        Ok(Opened {
            _lock: lock,
            reset_key: broker::reset_key(&meta, &random)?,
            telemetry,
            meta,
            topics,
            groups,
            agents,
            authority,
            gate,
        })
    }
}

fn lock(storage: &dyn Storage, data_dir: &Path) -> anyhow::Result<Lock> {
    storage.lock(&data_dir.join("lock")).with_context(|| {
        format!(
            "{} is in use: stop the other aggregator, or choose another data_dir",
            data_dir.display()
        )
    })
}

async fn bind_http(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        anyhow::Error::msg(cannot_listen("listen.http", address, Protocol::Tcp, &error))
    })
}

async fn serve_http(listener: TcpListener, api: Api, failed: CancellationToken) {
    let alive = api.health.expect("HTTP");
    alive.running();
    let stop = api.shutdown.clone();
    http::serve(listener, api).await;
    if !stop.is_cancelled() {
        failed.cancel();
    }
}

/// What runs beside the servers and outlives them.
struct Upkeep {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Upkeep {
    fn start(opened: &Opened, health: &Health, blocking: Blocking) -> Upkeep {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let alive = health.expect("maintenance");
        let topics = opened.topics.clone();
        let until = stop.clone();
        tasks.spawn(async move {
            alive.running();
            topics.run_maintenance(until).await;
        });
        let (agents, meta) = (opened.agents.clone(), Arc::clone(&opened.meta));
        tasks.spawn(write_agents(agents, meta, blocking, stop.clone()));
        tasks.spawn(read_certificates(
            opened.authority.clone(),
            blocking,
            stop.clone(),
        ));
        let (agents, authority) = (opened.agents.clone(), opened.authority.clone());
        tasks.spawn(forget_agents(agents, authority, blocking, stop.clone()));
        Upkeep { stop, tasks }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Writes what changed in the registry of agents, now and then.
async fn write_agents(
    agents: Agents,
    meta: Arc<Meta>,
    blocking: Blocking,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(AGENTS_WRITE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (agents, meta) = (agents.clone(), Arc::clone(&meta));
        blocking
            .run(move || write_changed_agents(&agents, &meta))
            .await;
    }
}

/// Takes up a user's own certificate when it was rotated.
async fn read_certificates(authority: Authority, blocking: Blocking, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(OWN_CERTIFICATE_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let authority = authority.clone();
        blocking
            .run(move || authority.read_certificate_again())
            .await;
    }
}

/// Forgets agents that are gone for good, now and then.
async fn forget_agents(
    agents: Agents,
    authority: Authority,
    blocking: Blocking,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(AGENTS_FORGET_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (agents, authority) = (agents.clone(), authority.clone());
        let forget = move || -> commitlog::error::Result<()> {
            authority.forget_agents()?;
            let joined = authority.agents()?.into_iter();
            agents.forget_old(&joined.map(|agent| agent.id.to_string()).collect());
            Ok(())
        };
        if let Err(error) = blocking.run(forget).await {
            tracing::warn!(%error, "agents that are gone are not forgotten now");
        }
    }
}

fn write_changed_agents(agents: &Agents, meta: &Meta) {
    let changes = agents.take_changes();
    if changes.is_empty() {
        return;
    }
    let written = meta.change(|change| {
        for (id, row) in &changes {
            match row {
                Some(row) => change.put(id, row)?,
                None => change.remove::<AgentRow>(id)?,
            }
        }
        Ok::<(), commitlog::error::Error>(())
    });
    if let Err(error) = written {
        tracing::warn!(%error, "cannot write the list of agents");
    }
}

/// A partition holds a few open files and an agent a connection: the soft limit of 1,024 that
/// systems start with is for programs that use `select`.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
