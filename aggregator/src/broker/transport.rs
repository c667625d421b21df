//! The sockets that the broker listens on. Production takes the system's; the simulation puts real QUIC
//! and TLS over a simulated network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use crate::limits::{TCP_BACKLOG, UDP_BUFFER_BYTES};

/// A future that is kept behind a pointer, so that [`Transport`] can be one.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for T {}

/// Listens for TCP connections.
pub trait Listener: Send {
    /// The next connection.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>>;
    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Opens listening sockets.
pub trait Transport: Send + Sync {
    /// A QUIC endpoint on this address.
    fn quic(
        &self,
        at: SocketAddr,
        endpoint: EndpointConfig,
        server: ServerConfig,
    ) -> io::Result<Endpoint>;
    /// Changes QUIC's parameters where this network needs others.
    fn tune(&self, _parameters: &mut quinn::TransportConfig) {}
    /// A TCP listener on this address.
    fn tcp(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// The system's network.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemTransport;

impl Transport for SystemTransport {
    fn quic(
        &self,
        at: SocketAddr,
        endpoint: EndpointConfig,
        server: ServerConfig,
    ) -> io::Result<Endpoint> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
        socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
        // Linux tells twice what it was asked for.
        let given = socket.recv_buffer_size()?;
        if given < UDP_BUFFER_BYTES {
            tracing::warn!(
                wanted = UDP_BUFFER_BYTES,
                given,
                "the kernel keeps the UDP buffer small; bursts of many agents may be lost and sent \
                 again: sysctl -w net.core.rmem_max={UDP_BUFFER_BYTES}"
            );
        }
        if at.is_ipv6() {
            // `[::]` then hears IPv4 too; where the system forbids that, it hears IPv6.
            if let Err(error) = socket.set_only_v6(false) {
                tracing::debug!(%error, "IPv6 only");
            }
        }
        socket.bind(&at.into())?;
        let runtime = Arc::new(TokioRuntime);
        Endpoint::new(endpoint, Some(server), socket.into(), runtime)
    }

    fn tcp(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
            if at.is_ipv6()
                && let Err(error) = socket.set_only_v6(false)
            {
                tracing::debug!(%error, "IPv6 only");
            }
            // A restart finds connections of its predecessor in TIME_WAIT.
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&at.into())?;
            socket.listen(TCP_BACKLOG)?;
            let listener = TcpListener::from_std(socket.into())?;
            Ok(Box::new(SystemListener(listener)) as Box<dyn Listener>)
        })
    }
}

struct SystemListener(TcpListener);

impl Listener for SystemListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn ByteStream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn ByteStream>, from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
