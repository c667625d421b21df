//! Connects to an aggregator: QUIC first, TLS over TCP beside it when UDP seems blocked.
//!
//! The QUIC handshake gets two seconds; then TCP is tried too and the first that stands is taken. An
//! address where TCP won is reached by TCP at once for some minutes, and QUIC is probed again after
//! that (see `session`), so a network that lets UDP through again is noticed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Identity;
use super::blocking::Blocking;
use super::socket::Ear;
use super::transport::{ByteStream, Transport};
use crate::limits::{
    CONNECT_ADDRESSES_MAX, CONNECT_MAX, CONNECT_STAGGER, QUIC_AFTER_TCP_FAILED,
    QUIC_DATAGRAM_BYTES_MAX, QUIC_DATAGRAMS_PER_ACK, QUIC_IDLE_MAX, QUIC_KEEP_ALIVE,
    QUIC_RECEIVE_WINDOW_BYTES, QUIC_SEND_WINDOW_BYTES, TCP_AFTER,
};

/// A connection to an aggregator, authenticated on its side.
pub enum Link {
    /// QUIC.
    Quic(quinn::Connection, Ear),
    /// TLS over TCP.
    Tcp(Box<TlsStream<Box<dyn ByteStream>>>),
}

impl Link {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Link::Quic(..) => "quic",
            Link::Tcp(_) => "tcp",
        }
    }
}

/// Why there is no connection, with what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(String);

/// Connects, and remembers where QUIC did not work.
#[derive(Clone)]
pub struct Dialer {
    /// The sockets.
    pub transport: Arc<dyn Transport>,
    /// Who we are, and whom we trust.
    pub identity: Arc<dyn Identity>,
    /// How long TCP is used at once where QUIC did not work.
    pub tcp_for: Duration,
    /// Where certificates are read.
    pub blocking: Blocking,
    without_quic_until: BTreeMap<String, Instant>,
}

/// Which transports to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// QUIC, and TCP when that takes long.
    Race,
    /// QUIC or nothing.
    QuicOnly,
}

impl Dialer {
    /// A dialer that knows nothing yet.
    pub fn new(
        transport: Arc<dyn Transport>,
        identity: Arc<dyn Identity>,
        tcp_for: Duration,
    ) -> Dialer {
        Dialer {
            transport,
            identity,
            tcp_for,
            blocking: Blocking::Threads,
            without_quic_until: BTreeMap::new(),
        }
    }

    /// Connects to `host:port`.
    pub async fn connect(&mut self, address: &str, choice: Choice) -> Result<Link, ConnectError> {
        let attempt = timeout(CONNECT_MAX, self.attempt(address, choice));
        let link = attempt.await.unwrap_or_else(|_| {
            Err(ConnectError(format!(
                "{address} does not answer within {} s by UDP or TCP: check the address, and that \
                 the aggregator runs and no firewall is between",
                CONNECT_MAX.as_secs()
            )))
        })?;
        match link {
            Link::Quic(..) => self.without_quic_until.remove(address),
            Link::Tcp(_) => self.avoid_quic(address),
        };
        Ok(link)
    }

    /// Remembers that QUIC does not work at `address`.
    pub fn avoid_quic(&mut self, address: &str) -> Option<Instant> {
        let until = Instant::now() + self.tcp_for;
        self.without_quic_until.insert(address.to_owned(), until)
    }

    async fn attempt(&self, address: &str, choice: Choice) -> Result<Link, ConnectError> {
        let (host, _) = address
            .rsplit_once(':')
            .ok_or_else(|| ConnectError(format!("{address:?} is not host:port")))?;
        let name = self.identity.server_name(host.trim_matches(['[', ']']));
        let resolved = self.transport.resolve(address).await;
        let mut targets =
            resolved.map_err(|e| ConnectError(format!("{address} cannot be resolved: {e}")))?;
        targets.truncate(CONNECT_ADDRESSES_MAX);
        if targets.is_empty() {
            return Err(ConnectError(format!("{address} has no addresses")));
        }
        let avoided = self.without_quic_until.get(address);
        let avoid_quic = avoided.is_some_and(|until| Instant::now() < *until);
        match choice {
            Choice::QuicOnly => self.quic(&targets, &name).await,
            Choice::Race if avoid_quic => {
                // Both ways again if TCP has stopped working meanwhile.
                match self.tcp(&targets, &name).await {
                    Ok(link) => Ok(link),
                    Err(_) => self.race(&targets, &name).await,
                }
            }
            Choice::Race => self.race(&targets, &name).await,
        }
    }

    async fn race(&self, targets: &[SocketAddr], name: &str) -> Result<Link, ConnectError> {
        let mut quic = std::pin::pin!(self.quic(targets, name));
        let quic_error = match timeout(TCP_AFTER, &mut quic).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let mut tcp = std::pin::pin!(self.tcp(targets, name));
        if let Some(quic_error) = quic_error {
            return tcp.await.map_err(|tcp_error| both(&quic_error, &tcp_error));
        }
        tokio::select! {
            biased;
            result = &mut quic => match result {
                Ok(link) => Ok(link),
                Err(quic_error) => tcp.await.map_err(|tcp_error| both(&quic_error, &tcp_error)),
            },
            result = &mut tcp => match result {
                Ok(link) => Ok(link),
                // A host that refuses TCP does not listen at all; UDP has no way to say so.
                Err(tcp_error) => match timeout(QUIC_AFTER_TCP_FAILED, quic).await {
                    Ok(result) => result.map_err(|quic_error| both(&quic_error, &tcp_error)),
                    Err(_) => Err(tcp_error),
                },
            },
        }
    }

    /// The identity as it is now: an operator's own certificates are read from their files.
    async fn tls(&self) -> Arc<rustls::ClientConfig> {
        let identity = Arc::clone(&self.identity);
        self.blocking.run(move || identity.tls()).await
    }

    async fn quic(&self, targets: &[SocketAddr], name: &str) -> Result<Link, ConnectError> {
        let tls = QuicClientConfig::try_from(self.tls().await)
            .map_err(|e| ConnectError(format!("this TLS configuration cannot do QUIC: {e}")))?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        let mut parameters = transport_parameters();
        self.transport.tune(&mut parameters);
        config.transport_config(Arc::new(parameters));
        first_of(targets, |target| {
            let (transport, config) = (Arc::clone(&self.transport), config.clone());
            let name = name.to_owned();
            async move {
                let (endpoint, ear) = transport
                    .quic(target)
                    .map_err(|e| ConnectError(format!("no UDP socket: {e}")))?;
                let connecting = endpoint
                    .connect_with(config, target, &name)
                    .map_err(|e| ConnectError(format!("{target}: {e}")))?;
                let connection = connecting
                    .await
                    .map_err(|e| ConnectError(format!("{target} by QUIC: {}", explain(&e))))?;
                Ok(Link::Quic(connection, ear))
            }
        })
        .await
    }

    async fn tcp(&self, targets: &[SocketAddr], name: &str) -> Result<Link, ConnectError> {
        let server = ServerName::try_from(name.to_owned())
            .map_err(|e| ConnectError(format!("server name {name:?}: {e}")))?;
        let connector = TlsConnector::from(self.tls().await);
        first_of(targets, |target| {
            let transport = Arc::clone(&self.transport);
            let connector = connector.clone();
            let server = server.clone();
            async move {
                let stream = transport.tcp(target).await;
                let stream = stream.map_err(|e| ConnectError(format!("{target} by TCP: {e}")))?;
                let tls = connector.connect(server, stream).await;
                let tls = tls.map_err(|e| ConnectError(format!("{target} by TLS: {e}")))?;
                Ok(Link::Tcp(Box::new(tls)))
            }
        })
        .await
    }
}

/// Tries the targets, each a little after the one before, and takes the first that works.
async fn first_of<F>(
    targets: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> F,
) -> Result<Link, ConnectError>
where
    F: Future<Output = Result<Link, ConnectError>> + Send + 'static,
{
    let start = Instant::now();
    let mut attempts = JoinSet::new();
    for (turn, target) in (0..).zip(targets) {
        let attempt = connect(*target);
        attempts.spawn(async move {
            sleep_until(start + CONNECT_STAGGER * turn).await;
            attempt.await
        });
    }
    let mut last = ConnectError("no address".to_owned());
    while let Some(result) = attempts.join_next().await {
        match result {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(error)) => last = error,
            Err(panicked) => last = ConnectError(format!("connecting failed: {panicked}")),
        }
    }
    Err(last)
}

fn both(quic: &ConnectError, tcp: &ConnectError) -> ConnectError {
    ConnectError(format!("{quic}; {tcp}"))
}

fn explain(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::TimedOut => "no answer".to_owned(),
        other => other.to_string(),
    }
}

/// CUBIC and segmentation offload are quinn's defaults and stay; 0-RTT stays off.
fn transport_parameters() -> quinn::TransportConfig {
    let mut parameters = quinn::TransportConfig::default();
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(QUIC_DATAGRAMS_PER_ACK.into());
    let idle = quinn::IdleTimeout::try_from(QUIC_IDLE_MAX).expect("15 s fit a varint of ms");
    let mut path_mtu = quinn::MtuDiscoveryConfig::default();
    path_mtu.upper_bound(QUIC_DATAGRAM_BYTES_MAX);
    parameters
        .mtu_discovery_config(Some(path_mtu))
        .keep_alive_interval(Some(QUIC_KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .send_window(QUIC_SEND_WINDOW_BYTES)
        .receive_window(QUIC_RECEIVE_WINDOW_BYTES.into())
        .stream_receive_window(QUIC_RECEIVE_WINDOW_BYTES.into())
        // The aggregator opens no streams.
        .max_concurrent_uni_streams(0_u32.into())
        .max_concurrent_bidi_streams(0_u32.into())
        .datagram_receive_buffer_size(None)
        .ack_frequency_config(Some(acknowledgements));
    parameters
}
