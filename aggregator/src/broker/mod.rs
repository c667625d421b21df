//! Takes batches from agents into topics.
//!
//! ```text
//! Broker (here)    what all connections share          transport   the sockets
//!   quic, tcp      listeners: handshake, ALPN, who is it
//!   session        one session: Hello, acknowledgements, credits
//!     streams      bytes → batches
//!     append       one slot: check, append, two watermarks
//!   fence          one connection per producer         credit      memory, windows, linger
//! ```
//!
//! Invariants:
//! - Nobody is heard before the certificate was checked; what an agent says of itself is never taken
//!   for its identity.
//! - A batch is appended only after its CRC, producer, epoch, sequence and credit were checked.
//! - `durable` is told only after the fsync that covers it.
//! - Once a newer connection of a producer is answered, nothing of an older one reaches a log.
//! - A hostile peer costs bounded memory and time: every length, count and wait has a limit.

mod append;
mod credit;
mod fence;
mod peer;
mod quic;
mod session;
mod streams;
mod tcp;
#[cfg(test)]
mod tests;
pub mod transport;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use commitlog::error::{Error, Result};
use commitlog::limits::WIRE_LIST_MAX;
use commitlog::wire::message::{Refusal, RefusalCode, ToProducer};
use config::join::refusal as identity;
use config::listen::Protocol;
use config::value::HostPort;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::{self, Agents};
use crate::health::Health;
use crate::identity::enrol::{Enrolment, Handshake, Offer};
use crate::identity::{Authority, reachable_at};
use crate::limits::{CLOSE_GRACE, CONNECTIONS_MAX, HANDSHAKES_MAX, SHUTDOWN_GRACE};
use crate::meta::{Meta, Record};
use crate::parts::Random;
use crate::topics::Topics;
use credit::Budget;
use fence::Fence;
use peer::ControlWriter;
use transport::Transport;

/// The broker; clones are the same.
#[derive(Clone)]
pub struct Broker(Arc<Shared>);

/// What all connections share.
pub struct Shared {
    topics: Topics,
    authority: Authority,
    agents: Agents,
    /// Where agents may connect, for those that join; empty for where it listens.
    advertised: Vec<HostPort>,
    listening: OnceLock<SocketAddr>,
    health: Health,
    transport: Arc<dyn Transport>,
    reset_key: [u8; 32],
    budget: Budget,
    fence: Fence,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    handshakes: Handshakes,
}

impl std::ops::Deref for Broker {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What a broker is made of.
pub struct BrokerParts {
    /// Where batches go.
    pub topics: Topics,
    /// Who may connect.
    pub authority: Authority,
    /// Where connected agents are listed.
    pub agents: Agents,
    /// Where agents may connect, for those that join; empty for where it listens.
    pub advertised: Vec<HostPort>,
    /// Where a listener that has died shows.
    pub health: Health,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// From [`reset_key`].
    pub reset_key: [u8; 32],
}

/// The key with which a restarted aggregator tells agents of its predecessor's connections that these are
/// gone (QUIC's stateless reset). Without it they wait for their idle timeout. Waits for the disk.
pub fn reset_key(meta: &Meta, random: &Random) -> Result<[u8; 32]> {
    if let Some(ResetKey(key)) = meta.record(RESET_KEY)? {
        return Ok(key);
    }
    let mut key = [0; 32];
    random(&mut key);
    meta.change(|change| change.put(RESET_KEY, &ResetKey(key)))?;
    Ok(key)
}

#[derive(Serialize, Deserialize)]
struct ResetKey([u8; 32]);

impl Record for ResetKey {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new("broker");
}

const RESET_KEY: &str = "quic_reset_key";

/// How many handshakes are under way; apart, for a TCP connection that says nothing costs its opener
/// nothing, and must not keep QUIC's agents out.
#[derive(Default)]
struct Handshakes {
    quic: AtomicUsize,
    tcp: AtomicUsize,
}

impl Handshakes {
    fn of(&self, transport: agents::Transport) -> &AtomicUsize {
        match transport {
            agents::Transport::Quic => &self.quic,
            agents::Transport::Tcp => &self.tcp,
        }
    }
}

impl Broker {
    /// A broker that does not listen yet.
    pub fn new(parts: BrokerParts) -> Broker {
        Broker(Arc::new(Shared {
            topics: parts.topics,
            authority: parts.authority,
            agents: parts.agents,
            advertised: parts.advertised,
            listening: OnceLock::new(),
            health: parts.health,
            transport: parts.transport,
            reset_key: parts.reset_key,
            budget: Budget::new(),
            fence: Fence::default(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            handshakes: Handshakes::default(),
        }))
    }

    /// Listens by QUIC and TCP on one port, and says which. Port 0 takes a free one.
    pub async fn listen(&self, at: SocketAddr) -> Result<SocketAddr> {
        let endpoint = quic::bind(self, at)?;
        let bound = endpoint
            .local_addr()
            .map_err(|error| Error::io(format!("{at}"), error))?;
        let tcp = self.transport.tcp(bound).await;
        let tcp = tcp.map_err(|error| cannot_listen(bound, Protocol::Tcp, &error))?;
        let (quic, tcp) = (
            quic::serve(self.clone(), endpoint),
            tcp::serve(self.clone(), tcp)?,
        );
        self.spawn_listener("the QUIC listener", quic);
        self.spawn_listener("the TCP listener", tcp);
        self.listening.get_or_init(|| bound);
        Ok(bound)
    }

    /// However it ends, readiness shows it.
    fn spawn_listener(&self, name: &'static str, serve: impl Future<Output = ()> + Send + 'static) {
        let alive = self.health.expect(name);
        alive.running();
        self.tasks.spawn(async move {
            serve.await;
            drop(alive);
        });
    }

    fn reachable_at(&self) -> Vec<HostPort> {
        match self.listening.get() {
            Some(listening) => reachable_at(&self.advertised, *listening),
            None => self.advertised.clone(),
        }
    }

    /// Says goodbye to all agents; returns when their appends have ended and nothing more comes.
    pub async fn shut_down(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("connections are still open at the end of the grace");
        }
    }

    /// Admits one more handshake, unless too many are under way or connected.
    fn admit(&self, by: agents::Transport) -> Option<Handshaking> {
        let admitted = Handshaking(self.clone(), by);
        let under_way = self.handshakes.of(by).fetch_add(1, Ordering::Relaxed);
        let room = under_way < HANDSHAKES_MAX && self.tasks.len() < CONNECTIONS_MAX;
        room.then_some(admitted)
    }
}

/// A handshake under way.
struct Handshaking(Broker, agents::Transport);

impl Drop for Handshaking {
    fn drop(&mut self) {
        let Handshaking(broker, by) = self;
        broker.handshakes.of(*by).fetch_sub(1, Ordering::Relaxed);
    }
}

fn cannot_listen(at: SocketAddr, protocol: Protocol, error: &std::io::Error) -> Error {
    Error::input(config::listen::cannot_listen(
        "listen.quic",
        at,
        protocol,
        error,
    ))
}

fn refusal(code: RefusalCode, message: String) -> Refusal {
    let retry_after = match code {
        RefusalCode::Closed | RefusalCode::Overloaded => Duration::from_secs(1),
        RefusalCode::Protocol => Duration::from_secs(5),
        _ => Duration::from_secs(30),
    };
    Refusal {
        code,
        message,
        retry_after,
    }
}

/// Serves one enrolment.
async fn enrol(
    broker: &Broker,
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    handshake: Handshake,
) {
    let address = handshake.address;
    let topics = broker.topics.list().into_iter().map(|topic| {
        let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        (topic.name, count)
    });
    let offer = Offer {
        aggregators: broker.reachable_at(),
        topics: topics.take(WIRE_LIST_MAX).collect(),
    };
    match broker.authority.enrol(stream, handshake, offer).await {
        Ok(Enrolment::Joined(agent)) => tracing::info!(%agent, %address, "agent joined"),
        Ok(Enrolment::Refused(refused)) => tracing::warn!(%address, "not joined: {refused}"),
        Err(error) => tracing::debug!(%address, %error, "enrolment broken off"),
    }
}

/// Tells somebody whose certificate is not good what to do, and closes.
async fn refuse(mut writer: ControlWriter, address: SocketAddr, refused: &identity::Refusal) {
    tracing::warn!(%address, "agent refused: {refused}");
    let code = match refused.code {
        identity::Code::CertificateMissing => RefusalCode::NoCertificate,
        identity::Code::AgentRevoked => RefusalCode::Revoked,
        _ => RefusalCode::BadCertificate,
    };
    let mut bytes = Vec::new();
    ToProducer::Refused(refusal(code, refused.to_string())).encode(&mut bytes);
    // Who does not read must not hold a place.
    let told = async {
        if writer.write(bytes).await.is_ok() {
            writer.close().await;
        }
    };
    if tokio::time::timeout(CLOSE_GRACE, told).await.is_err() {
        tracing::debug!(%address, "the refused agent does not read why");
    }
}
