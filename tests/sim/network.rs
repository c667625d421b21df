//! Real QUIC and TLS over turmoil's simulated network, on its clock.
//!
//! What makes it replay: timers and `now` are tokio's paused clock, connection ids come from a seed,
//! Ed25519 certificates have one length, MTU discovery and fragmentation are off, and a task per socket
//! takes datagrams in the order in which they come (polling readiness directly loses wake-ups).
//! Every datagram's time, size and destination goes into the trace that two runs of a seed must share.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use agent::producer::socket::Ear;
use agent::producer::transport as agent_side;
use aggregator::broker::transport as aggregator_side;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, UdpPoller};
use tokio::sync::mpsc;
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

/// Datagrams that wait for one endpoint; past it they are lost, as in a kernel.
const RECEIVE_QUEUE: usize = 4096;

thread_local! {
    static TRACE: Cell<u64> = const { Cell::new(0) };
}

/// Starts a new trace.
pub(crate) fn reset_trace() {
    TRACE.set(0);
}

/// What has happened so far, as one number.
pub(crate) fn trace() -> u64 {
    TRACE.get()
}

/// Adds to the trace.
pub(crate) fn note(values: &[u64]) {
    let mixed = values.iter().fold(TRACE.get(), |hash, value| {
        (hash ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23)
    });
    TRACE.set(mixed);
}

/// The network of one host.
#[derive(Clone)]
pub(crate) struct SimTransport {
    /// Seeds connection ids.
    seed: u64,
    endpoints: Arc<AtomicU64>,
    /// A firewall on the way drops all UDP.
    udp_blocked: Arc<AtomicBool>,
}

impl SimTransport {
    pub(crate) fn new(seed: u64, udp_blocked: Arc<AtomicBool>) -> SimTransport {
        SimTransport {
            seed,
            endpoints: Arc::default(),
            udp_blocked,
        }
    }

    fn socket(&self, port: u16) -> io::Result<Arc<SimSocket>> {
        let address = (Ipv4Addr::UNSPECIFIED, port);
        let socket = at_once(UdpSocket::bind(address))?;
        Ok(SimSocket::new(socket, Arc::clone(&self.udp_blocked)))
    }

    fn rng_seed(&self) -> [u8; 32] {
        let number = self.endpoints.fetch_add(1, Ordering::Relaxed);
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&number.to_le_bytes());
        seed
    }
}

/// turmoil's binds are async in name only.
fn at_once<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

fn tune(parameters: &mut quinn::TransportConfig) {
    parameters.mtu_discovery_config(None);
    parameters.enable_segmentation_offload(false);
}

impl agent_side::Transport for SimTransport {
    fn resolve<'a>(
        &'a self,
        host_port: &'a str,
    ) -> agent_side::BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let (host, port) = host_port.rsplit_once(':').expect("a test's address");
        let address: IpAddr = turmoil::lookup(host);
        let port = port.parse().expect("a test's port");
        Box::pin(std::future::ready(Ok(vec![(address, port).into()])))
    }

    fn quic(&self, _to: SocketAddr) -> io::Result<(Endpoint, Ear)> {
        let mut config = EndpointConfig::default();
        config.rng_seed(Some(self.rng_seed()));
        let runtime = Arc::new(SimRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, None, self.socket(0)?, runtime)?;
        Ok((endpoint, Ear::default()))
    }

    fn tune(&self, parameters: &mut quinn::TransportConfig) {
        tune(parameters);
    }

    fn tcp(
        &self,
        to: SocketAddr,
    ) -> agent_side::BoxFuture<'_, io::Result<Box<dyn agent_side::ByteStream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            Ok(Box::new(stream) as Box<dyn agent_side::ByteStream>)
        })
    }
}

impl aggregator_side::Transport for SimTransport {
    fn quic(
        &self,
        at: SocketAddr,
        mut endpoint: EndpointConfig,
        server: quinn::ServerConfig,
    ) -> io::Result<Endpoint> {
        endpoint.rng_seed(Some(self.rng_seed()));
        let socket = self.socket(at.port())?;
        Endpoint::new_with_abstract_socket(endpoint, Some(server), socket, Arc::new(SimRuntime))
    }

    fn tune(&self, parameters: &mut quinn::TransportConfig) {
        tune(parameters);
    }

    fn tcp(
        &self,
        at: SocketAddr,
    ) -> aggregator_side::BoxFuture<'_, io::Result<Box<dyn aggregator_side::Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await?;
            Ok(Box::new(SimListener(listener)) as Box<dyn aggregator_side::Listener>)
        })
    }
}

struct SimListener(TcpListener);

impl aggregator_side::Listener for SimListener {
    fn accept(
        &mut self,
    ) -> aggregator_side::BoxFuture<
        '_,
        io::Result<(Box<dyn aggregator_side::ByteStream>, SocketAddr)>,
    > {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            Ok((
                Box::new(stream) as Box<dyn aggregator_side::ByteStream>,
                from,
            ))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

type Datagram = (Vec<u8>, SocketAddr);

struct SimSocket {
    socket: Arc<UdpSocket>,
    received: Mutex<mpsc::Receiver<Datagram>>,
    udp_blocked: Arc<AtomicBool>,
    receiving: tokio::task::AbortHandle,
}

impl SimSocket {
    fn new(socket: UdpSocket, udp_blocked: Arc<AtomicBool>) -> Arc<SimSocket> {
        let socket = Arc::new(socket);
        let (queue, received) = mpsc::channel(RECEIVE_QUEUE);
        let receiving = tokio::spawn({
            let socket = Arc::clone(&socket);
            async move {
                let mut buffer = vec![0; 65_536];
                while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                    // A full queue loses the datagram.
                    drop(queue.try_send((buffer[..len].to_vec(), from)));
                }
            }
        });
        Arc::new(SimSocket {
            socket,
            received: Mutex::new(received),
            udp_blocked,
            receiving: receiving.abort_handle(),
        })
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.receiving.abort();
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimSocket")
    }
}

impl AsyncUdpSocket for SimSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let port = u64::from(transmit.destination.port());
        note(&[micros, transmit.contents.len() as u64, port]);
        if self.udp_blocked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let sent = self
            .socket
            .try_send_to(transmit.contents, transmit.destination);
        // A network that cannot take it loses it.
        sent.map(|_| ()).or(Ok(()))
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = self.received.lock().expect("no panic holds it");
        let Poll::Ready(datagram) = received.poll_recv(context) else {
            return Poll::Pending;
        };
        let Some((bytes, from)) = datagram else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        buffers[0][..bytes.len()].copy_from_slice(&bytes);
        meta[0] = RecvMeta {
            len: bytes.len(),
            stride: bytes.len(),
            addr: from,
            ecn: None,
            dst_ip: None,
        };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug)]
struct SimRuntime;

impl Runtime for SimRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(SimTimer(Box::pin(tokio::time::sleep_until(at.into()))))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        tokio::spawn(future);
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[derive(Debug)]
struct SimTimer(Pin<Box<tokio::time::Sleep>>);

impl AsyncTimer for SimTimer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        self.0.as_mut().reset(at.into());
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.0.as_mut(), context)
    }
}
