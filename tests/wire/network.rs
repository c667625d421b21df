//! A network that can lose every datagram, as a firewall does.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use agent::producer::socket::Ear;
use agent::producer::transport::{BoxFuture, ByteStream, SystemTransport, Transport};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime, UdpPoller};

/// The system's network behind a firewall that may block UDP.
#[derive(Default)]
pub(crate) struct Firewall {
    blocked: Arc<AtomicBool>,
}

impl Firewall {
    pub(crate) fn block_udp(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }
}

impl Transport for Firewall {
    fn resolve<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        SystemTransport.resolve(host_port)
    }

    fn quic(&self, _to: SocketAddr) -> io::Result<(Endpoint, Ear)> {
        let runtime = Arc::new(TokioRuntime);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let socket = Blockable {
            socket: runtime.wrap_udp_socket(socket)?,
            blocked: Arc::clone(&self.blocked),
        };
        let config = EndpointConfig::default();
        let endpoint = Endpoint::new_with_abstract_socket(config, None, Arc::new(socket), runtime)?;
        Ok((endpoint, Ear::default()))
    }

    fn tcp(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        SystemTransport.tcp(to)
    }
}

struct Blockable {
    socket: Arc<dyn AsyncUdpSocket>,
    blocked: Arc<AtomicBool>,
}

impl fmt::Debug for Blockable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blockable")
    }
}

impl AsyncUdpSocket for Blockable {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.blocked.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
