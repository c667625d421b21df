//! The programs of the simulation: an aggregator and agents, put together from the same parts as the
//! real ones, on one thread each, on faulty disks and a simulated network.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::ambient::{Clock, Now, Random};
use agent::pipeline::Pipeline;
use agent::producer::blocking::Blocking as AgentBlocking;
use agent::producer::{Host, Identity, Producer, ShipConfig};
use agent::sources::Next;
use agent::spool::{Spool, SpoolConfig, SyncTurn};
use aggregator::agents::Agents;
use aggregator::blocking::Blocking;
use aggregator::broker::{Broker, BrokerParts};
use aggregator::health::Health;
use aggregator::identity::Authority;
use aggregator::identity::acl::TopicAcl;
use aggregator::identity::peer::AgentIdentity;
use aggregator::meta::Meta;
use aggregator::parts::Parts;
use aggregator::telemetry::Telemetry;
use aggregator::topics::{TopicConfig, Topics, TopicsConfig};
use commitlog::id::{Timestamp, TopicName};
use commitlog::log::partition::LogConfig;
use commitlog::storage::faulty::FaultyDisk;
use commitlog::wire::ALPN;
use commitlog::wire::message::Renewed;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

use crate::network::SimTransport;
use crate::source::{LogFile, SimSource};

/// Where the aggregator listens.
pub(crate) const PORT: u16 = 9347;
/// The aggregator's name in the network.
pub(crate) const AGGREGATOR: &str = "aggregator";
const DATA_DIR: &str = "/data";
/// 2026-11-22, in ms.
const EPOCH_MS: i64 = 1_795_305_600_000;
/// How often the loops look that stand in for threads.
const STEP: Duration = Duration::from_millis(2);

type AnyError = Box<dyn std::error::Error>;

/// Simulated wall time.
pub(crate) fn clock() -> Clock {
    Arc::new(|| {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        Timestamp(EPOCH_MS + i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    })
}

/// Randomness that a seed gives: `splitmix64` over a counter.
pub(crate) fn random(seed: u64) -> Random {
    let counter = AtomicU64::new(seed);
    Arc::new(move |buffer| {
        for chunk in buffer.chunks_mut(8) {
            let state = counter.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..chunk.len()]);
        }
    })
}

/// What outlives an aggregator's process, and what the test sees of it.
#[derive(Clone)]
pub(crate) struct AggregatorMachine {
    pub(crate) disk: FaultyDisk,
    pub(crate) authority: Authority,
    pub(crate) transport: SimTransport,
    /// The running process's topics.
    pub(crate) topics: Arc<Mutex<Option<Topics>>>,
}

impl AggregatorMachine {
    pub(crate) fn new(seed: u64, udp_blocked: Arc<AtomicBool>) -> AggregatorMachine {
        let parts = parts(FaultyDisk::new(), seed);
        let storage = Arc::clone(&parts.storage);
        let meta = Meta::open(storage, Path::new("/meta.redb")).expect("a disk without faults");
        let authority = Authority::ephemeral(Arc::new(meta), &parts);
        AggregatorMachine {
            disk: FaultyDisk::new(),
            authority: authority.expect("a disk without faults"),
            transport: SimTransport::new(seed, udp_blocked),
            topics: Arc::default(),
        }
    }

    /// The program.
    pub(crate) async fn run(self) -> Result<(), AnyError> {
        let parts = parts(self.disk.clone(), 7);
        let telemetry = Telemetry::new();
        let config = TopicsConfig {
            log_dir: PathBuf::from(DATA_DIR).join("log"),
            topics: [("logs".parse()?, topic(2))].into(),
            defaults: topic(1),
            disk_high_water_percent: 100,
            partitions_max: 100,
        };
        // A disk that fails at the start is a process that is started again.
        let topics = loop {
            let opened = Topics::open(
                config.clone(),
                Arc::clone(&parts.storage),
                Arc::clone(&parts.clock),
                Blocking::Inline,
                telemetry.clone(),
            );
            match opened {
                Ok(topics) => break topics,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        *lock(&self.topics) = Some(topics.clone());
        let agents = Agents::new(Vec::new(), Arc::clone(&parts.clock), telemetry);
        let broker = Broker::new(BrokerParts {
            topics: topics.clone(),
            authority: self.authority,
            agents,
            advertised: Vec::new(),
            health: Health::default(),
            transport: Arc::new(self.transport),
            reset_key: [9; 32],
        });
        let at: SocketAddr = (Ipv4Addr::UNSPECIFIED, PORT).into();
        broker.listen(at).await?;
        let maintained = topics.clone();
        tokio::spawn(async move { maintained.run_maintenance(CancellationToken::new()).await });
        loop {
            topics.dirty().await;
            // An fsync takes its time; more appends gather meanwhile.
            tokio::time::sleep(STEP).await;
            topics.sync_dirty();
        }
    }
}

fn parts(disk: FaultyDisk, seed: u64) -> Parts {
    Parts {
        storage: Arc::new(disk),
        clock: clock(),
        random: random(seed),
        blocking: Blocking::Inline,
    }
}

fn topic(partitions: u32) -> TopicConfig {
    TopicConfig {
        partitions,
        log: LogConfig {
            // Small, so that segments are rolled.
            segment_bytes_max: 64 * 1024,
            ..LogConfig::default()
        },
    }
}

/// What outlives an agent's process.
#[derive(Clone)]
pub(crate) struct AgentMachine {
    pub(crate) name: &'static str,
    pub(crate) disk: FaultyDisk,
    pub(crate) file: LogFile,
    pub(crate) identity: Arc<SimIdentity>,
    pub(crate) transport: SimTransport,
    /// Seeds this process; another one for each.
    pub(crate) seed: Arc<AtomicU64>,
    /// The running process's spool.
    pub(crate) spool: Arc<Mutex<Option<Spool>>>,
}

impl AgentMachine {
    /// The program.
    pub(crate) async fn run(self) -> Result<(), AnyError> {
        let random = random(self.seed.fetch_add(1, Ordering::Relaxed));
        let config = SpoolConfig {
            data_dir: PathBuf::from(DATA_DIR),
            bytes_max: 1 << 20,
            segment_bytes: 32 * 1024,
        };
        let spool = loop {
            let storage = Arc::new(self.disk.clone());
            match Spool::open(storage, config.clone(), clock(), Arc::clone(&random)) {
                Ok((spool, _)) => break spool,
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        *lock(&self.spool) = Some(spool.clone());
        let ship = ShipConfig {
            aggregators: vec![format!("{AGGREGATOR}:{PORT}")],
            reprobe_after: Duration::from_secs(3),
        };
        let mut producer = Producer::new(spool.clone(), ship, self.identity, random);
        producer.transport = Arc::new(self.transport);
        producer.blocking = AgentBlocking::Inline;
        producer.host = Host {
            name: self.name.to_owned(),
            ..Host::default()
        };
        tokio::spawn(producer.run(CancellationToken::new()));
        tokio::spawn(sync(spool.clone()));
        let source = SimSource::new("logs".parse::<TopicName>()?, self.file);
        let telemetry = agent::telemetry::Telemetry::new();
        let mut pipeline = Pipeline::new(vec![Box::new(source)], spool, telemetry);
        let start = tokio::time::Instant::now();
        loop {
            let now = Now {
                monotonic: start.elapsed(),
                wall: clock()(),
            };
            match pipeline.turn(now) {
                Next::Now => tokio::task::yield_now().await,
                Next::At(at) => {
                    let wait = at.saturating_sub(now.monotonic);
                    tokio::time::sleep(wait.clamp(Duration::from_millis(1), STEP)).await;
                }
            }
        }
    }
}

/// Stands in for the spool's sync thread.
async fn sync(spool: Spool) {
    loop {
        if let SyncTurn::Idle(_) = spool.sync_turn() {
            tokio::time::sleep(STEP).await;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// An agent's certificate.
pub(crate) struct SimIdentity(Arc<ClientConfig>);

impl SimIdentity {
    /// One that `authority` gives out.
    pub(crate) fn of(authority: &Authority, name: &str) -> Arc<SimIdentity> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key);
        let agent = AgentIdentity {
            id: name.parse().expect("a name"),
            topics: TopicAcl::all(),
            expires: Timestamp(i64::MAX),
        };
        let request = request.expect("a request");
        let renewing = authority.renew(&agent, request.der());
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let renewed = runtime
            .expect("a runtime")
            .block_on(renewing)
            .expect("a certificate");
        let ders = |all: Vec<Vec<u8>>| -> Vec<CertificateDer<'static>> {
            all.into_iter().map(Into::into).collect()
        };
        let mut roots = RootCertStore::empty();
        for authority in ders(renewed.authorities) {
            roots.add(authority).expect("our own authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let time = agent::identity::tls::wall_time(&clock());
        let mut tls = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(
                ders(renewed.certificates),
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .expect("our own certificate");
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.resumption = rustls::client::Resumption::disabled();
        Arc::new(SimIdentity(Arc::new(tls)))
    }
}

impl Identity for SimIdentity {
    fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
