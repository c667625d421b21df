//! An aggregator and agents in this process, over loopback, with real files, QUIC, TLS and TCP. Agents
//! here are a spool and a producer; what is spooled the tests make themselves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent::ambient::{system_clock, system_random};
use agent::producer::transport::{SystemTransport, Transport};
use agent::producer::{Identity, Producer, ShipConfig};
use agent::spool::{Spool, SpoolConfig, SyncTurn, Taken};
use aggregator::agents::Agents;
use aggregator::broker::{Broker, BrokerParts};
use aggregator::health::Health;
use aggregator::identity::Authority;
use aggregator::identity::acl::TopicAcl;
use aggregator::identity::peer::AgentIdentity;
use aggregator::meta::Meta;
use aggregator::parts::Parts;
use aggregator::telemetry::Telemetry;
use aggregator::topics::{SyncThreads, TopicConfig, Topics, TopicsConfig};
use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::split_first;
use commitlog::batch::records::Decompressor;
use commitlog::id::{Offset, Timestamp, TopicPartition};
use commitlog::log::partition::LogConfig;
use commitlog::storage::Storage;
use commitlog::storage::disk::Disk;
use commitlog::wire::ALPN;
use commitlog::wire::message::Renewed;
use rustls::client::WantsClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long anything here may take. Far more than it does.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn partition(name: &str) -> TopicPartition {
    name.parse().unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An aggregator.
pub(crate) struct Aggregator {
    pub(crate) topics: Topics,
    pub(crate) authority: Authority,
    pub(crate) agents: Agents,
    pub(crate) broker: Broker,
    pub(crate) address: SocketAddr,
    upkeep: DropGuard,
    threads: Option<SyncThreads>,
}

impl Aggregator {
    /// One in `dir` that listens on `at`.
    pub(crate) async fn start(dir: &Path, at: SocketAddr) -> Aggregator {
        let meta = Meta::open(Arc::new(Disk), &dir.join("meta.redb")).unwrap();
        let authority = Authority::open(dir, Arc::new(meta), &Parts::real()).unwrap();
        Aggregator::start_with(dir, at, authority).await
    }

    /// One whose authority is another's.
    pub(crate) async fn start_with(dir: &Path, at: SocketAddr, authority: Authority) -> Aggregator {
        Aggregator::start_on(Arc::new(Disk), dir, at, authority).await
    }

    /// One on another disk.
    pub(crate) async fn start_on(
        storage: Arc<dyn Storage>,
        dir: &Path,
        at: SocketAddr,
        authority: Authority,
    ) -> Aggregator {
        Aggregator::start_whole(storage, dir, at, (authority, &[])).await
    }

    /// One with topics in its configuration.
    pub(crate) async fn start_configured(dir: &Path, topics: &[(&str, u32)]) -> Aggregator {
        let meta = Meta::open(Arc::new(Disk), &dir.join("meta.redb")).unwrap();
        let authority = Authority::open(dir, Arc::new(meta), &Parts::real()).unwrap();
        let at = crate::any_port();
        Aggregator::start_whole(Arc::new(Disk), dir, at, (authority, topics)).await
    }

    async fn start_whole(
        storage: Arc<dyn Storage>,
        dir: &Path,
        at: SocketAddr,
        (authority, topics): (Authority, &[(&str, u32)]),
    ) -> Aggregator {
        let parts = Parts::real();
        let telemetry = Telemetry::new();
        let topic = |partitions| TopicConfig {
            partitions,
            log: LogConfig::default(),
        };
        let topics = topics.iter();
        let topics = topics.map(|(name, count)| (name.parse().unwrap(), topic(*count)));
        let config = TopicsConfig {
            log_dir: dir.join("log"),
            topics: topics.collect(),
            defaults: topic(4),
            disk_high_water_percent: 90,
            partitions_max: 10_000,
        };
        let clock = Arc::clone(&parts.clock);
        let topics =
            Topics::open(config, storage, clock, parts.blocking, telemetry.clone()).unwrap();
        let threads = topics.start_sync_threads(&Health::default()).unwrap();
        let upkeep = CancellationToken::new();
        tokio::spawn({
            let (topics, upkeep) = (topics.clone(), upkeep.clone());
            async move { topics.run_maintenance(upkeep).await }
        });
        let agents = Agents::new(Vec::new(), Arc::clone(&parts.clock), telemetry);
        let broker = Broker::new(BrokerParts {
            topics: topics.clone(),
            authority: authority.clone(),
            agents: agents.clone(),
            advertised: Vec::new(),
            health: Health::default(),
            transport: Arc::new(aggregator::broker::transport::SystemTransport),
            reset_key: [7; 32],
        });
        // A socket that was closed a moment ago may still hold the port.
        let address = loop {
            match broker.listen(at).await {
                Ok(address) => break address,
                Err(error) => assert!(at.port() != 0, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        Aggregator {
            topics,
            authority,
            agents,
            broker,
            address,
            upkeep: upkeep.drop_guard(),
            threads: Some(threads),
        }
    }

    /// Stops as a process does that is told to.
    pub(crate) async fn stop(mut self) {
        self.broker.shut_down().await;
        self.upkeep.disarm().cancel();
        let threads = self.threads.take().unwrap();
        tokio::task::spawn_blocking(move || threads.join())
            .await
            .unwrap();
        self.topics.close();
    }

    /// The durable lines of a partition, in order.
    pub(crate) async fn lines(&self, id: &TopicPartition) -> Vec<String> {
        let partition = self.topics.partition(id).await.unwrap();
        let mut lines = Vec::new();
        let mut from = Offset::ZERO;
        loop {
            let slice = partition.read(from, 1 << 20).await.unwrap();
            assert!(slice.gaps.is_empty(), "{:?}", slice.gaps);
            if slice.batches.is_empty() {
                return lines;
            }
            lines.extend(lines_of(&slice.batches));
            from = slice.next;
        }
    }

    /// What a new agent of this name connects with.
    pub(crate) async fn enrol(&self, name: &str) -> Arc<TestIdentity> {
        self.enrol_for(name, &["*"]).await
    }

    /// What an agent connects with that may write these topics.
    pub(crate) async fn enrol_for(&self, name: &str, topics: &[&str]) -> Arc<TestIdentity> {
        self.certify(name, topics, None).await
    }

    /// A certificate of this authority for an agent that trusts others.
    pub(crate) async fn enrol_trusting(
        &self,
        name: &str,
        authorities: &[CertificateDer<'static>],
    ) -> Arc<TestIdentity> {
        self.certify(name, &["*"], Some(authorities)).await
    }

    async fn certify(
        &self,
        name: &str,
        topics: &[&str],
        trusted: Option<&[CertificateDer<'static>]>,
    ) -> Arc<TestIdentity> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let agent = AgentIdentity {
            id: name.parse().unwrap(),
            topics: TopicAcl::new(topics.iter().map(ToString::to_string).collect()).unwrap(),
            expires: Timestamp(i64::MAX),
        };
        let renewed = self.authority.renew(&agent, request.der()).await.unwrap();
        let ders = |all: Vec<Vec<u8>>| -> Vec<CertificateDer<'static>> {
            all.into_iter().map(Into::into).collect()
        };
        let authorities = match trusted {
            Some(authorities) => authorities.to_vec(),
            None => ders(renewed.authorities),
        };
        let mut tls = trusting(&authorities)
            .with_client_auth_cert(
                ders(renewed.certificates),
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        Arc::new(TestIdentity {
            tls: Arc::new(tls),
            authorities,
        })
    }
}

/// The TLS of somebody who trusts these authorities; what he shows is for the caller to say.
pub(crate) fn trusting(
    authorities: &[CertificateDer<'static>],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    for authority in authorities.iter().cloned() {
        roots.add(authority).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
}

fn lines_of(mut batches: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut decompressor = Decompressor::new();
    while !batches.is_empty() {
        let (_, batch, rest) = split_first(batches).unwrap();
        for record in decompressor.records(batch).unwrap() {
            let value = record.unwrap().value.unwrap();
            lines.push(String::from_utf8(value.to_vec()).unwrap());
        }
        batches = rest;
    }
    lines
}

/// A certificate that was given out by hand.
pub(crate) struct TestIdentity {
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) authorities: Vec<CertificateDer<'static>>,
}

impl Identity for TestIdentity {
    fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    fn server_name(&self, _host: &str) -> String {
        config::join::SERVER_NAME.to_owned()
    }

    fn renewal(&self) -> Option<Vec<u8>> {
        None
    }

    fn renewed(&self, _renewed: &Renewed) -> Result<(), String> {
        Ok(())
    }
}

/// An agent's spool with the thread that syncs it, and the producers that ship it.
pub(crate) struct Agent {
    pub(crate) spool: Spool,
    stop_sync: Arc<AtomicBool>,
    syncing: Option<std::thread::JoinHandle<()>>,
    dir: Option<TempDir>,
}

impl Agent {
    pub(crate) fn new() -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let mut agent = Agent::open(dir.path());
        agent.dir = Some(dir);
        agent
    }

    pub(crate) fn open(dir: &Path) -> Agent {
        let config = SpoolConfig {
            data_dir: dir.to_owned(),
            bytes_max: 1 << 30,
            segment_bytes: 1 << 20,
        };
        let spool = open_when_free(&config);
        let stop_sync = Arc::new(AtomicBool::new(false));
        let syncing = std::thread::spawn({
            let (spool, stop) = (spool.clone(), Arc::clone(&stop_sync));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let SyncTurn::Idle(wait) = spool.sync_turn() {
                        spool.wait_for_work(wait);
                    }
                }
            }
        });
        Agent {
            spool,
            stop_sync,
            syncing: Some(syncing),
            dir: None,
        }
    }

    /// Spools lines as one batch.
    pub(crate) fn write(&self, to: &TopicPartition, lines: &[String]) {
        let mut builder = BatchBuilder::new();
        let headers = HeaderBlock::new(&[("host.name", b"test")]).unwrap();
        for line in lines {
            builder.push(&NewRecord {
                timestamp: Timestamp(1_700_000_000_000),
                key: None,
                value: line.as_bytes(),
                headers: &headers,
                extra: None,
            });
        }
        let mut batches = Vec::new();
        let producer = self.spool.next_producer(to).unwrap();
        builder.finish(producer, &mut batches).unwrap();
        for mut batch in batches {
            let taken = self.spool.append(to, &mut batch, &mut Vec::new()).unwrap();
            assert_eq!(taken, Taken::Yes);
        }
    }

    /// Spools `count` numbered lines in batches of ten.
    pub(crate) fn write_numbered(&self, to: &TopicPartition, from: usize, count: usize) {
        let lines: Vec<String> = (from..from + count).map(|it| numbered(to, it)).collect();
        for batch in lines.chunks(10) {
            self.write(to, batch);
        }
    }

    /// Whether everything that was spooled is acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.spool.partitions().iter().all(|it| {
            let range = self.spool.range(it);
            range.start == range.end
        })
    }

    /// Ships to these addresses until the token is cancelled.
    pub(crate) fn ship(&self, to: &[SocketAddr], identity: Arc<TestIdentity>) -> Shipping {
        self.ship_over(to, identity, Arc::new(SystemTransport))
    }

    /// Ships over another network.
    pub(crate) fn ship_over(
        &self,
        to: &[SocketAddr],
        identity: Arc<TestIdentity>,
        transport: Arc<dyn Transport>,
    ) -> Shipping {
        let config = ShipConfig {
            aggregators: to.iter().map(ToString::to_string).collect(),
            reprobe_after: Duration::from_millis(500),
        };
        let mut producer = Producer::new(self.spool.clone(), config, identity, system_random());
        producer.transport = transport;
        let stats = Arc::clone(&producer.stats);
        let stop = CancellationToken::new();
        Shipping {
            task: tokio::spawn(producer.run(stop.clone())),
            stop,
            stats,
        }
    }
}

/// Opens a spool. Another agent's of this process that was killed may be in use for a moment more: what its
/// producer was reading then, on a thread of its own, is read to the end.
fn open_when_free(config: &SpoolConfig) -> Spool {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let storage = Arc::new(Disk);
        match Spool::open(storage, config.clone(), system_clock(), system_random()) {
            Err(error) if error.message.contains("in use") && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap().0,
        }
    }
}

pub(crate) fn numbered(to: &TopicPartition, number: usize) -> String {
    format!("{to} line {number:08} {}", "x".repeat(number % 97))
}

pub(crate) fn numbered_lines(to: &TopicPartition, count: usize) -> Vec<String> {
    (0..count).map(|it| numbered(to, it)).collect()
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop_sync.store(true, Ordering::Relaxed);
        self.spool.wake_sync();
        if let Some(thread) = self.syncing.take() {
            thread.join().unwrap();
        }
    }
}

/// A producer that runs.
pub(crate) struct Shipping {
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<()>,
    pub(crate) stats: Arc<agent::producer::stats::Stats>,
}

impl Shipping {
    /// Stops it as at shutdown.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Ends it at once, as a crash does.
    pub(crate) async fn abort(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Names what is lost, repeated or out of order, rather than print everything.
#[track_caller]
pub(crate) fn assert_lines(found: &[String], expected: &[String], context: &str) {
    if found == expected {
        return;
    }
    let mut counts = std::collections::BTreeMap::<&String, i64>::new();
    for line in found {
        *counts.entry(line).or_default() += 1;
    }
    for line in expected {
        *counts.entry(line).or_default() -= 1;
    }
    let short = |it: &String| it.chars().take(40).collect::<String>();
    let named = |wanted: fn(i64) -> bool| {
        let all = counts.iter().filter(|(_, count)| wanted(**count));
        let names: Vec<_> = all.map(|(it, _)| short(it)).collect();
        format!("{} ({:?} …)", names.len(), &names[..names.len().min(5)])
    };
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    panic!(
        "{context}: {} lines for {}; lost {}; repeated or invented {}; first difference at {differs:?}",
        found.len(),
        expected.len(),
        named(|count| count < 0),
        named(|count| count > 0),
    );
}
