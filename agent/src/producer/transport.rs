//! The sockets that the producer uses. Production takes the system's; the simulation puts real QUIC and
//! TLS over a simulated network.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::socket::{Ear, RestingSocket};
use super::timer::QuietRuntime;
use crate::limits::UDP_BUFFER_BYTES;

/// A future that is kept behind a pointer, so that [`Transport`] can be one.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A connection of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> ByteStream for T {}

/// Makes sockets.
pub trait Transport: Send + Sync {
    /// The addresses of `host:port`.
    fn resolve<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
    /// A QUIC endpoint that can reach `to`, on a socket of its own: a socket that went bad (the
    /// interface is gone) is replaced with the next connection.
    /// The ear is its socket's, where that can rest.
    fn quic(&self, to: SocketAddr) -> io::Result<(Endpoint, Ear)>;
    /// Changes QUIC's parameters where this network needs others.
    fn tune(&self, _parameters: &mut quinn::TransportConfig) {}
    /// A TCP connection.
    fn tcp(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>>;
}

/// The system's network.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemTransport;

impl Transport for SystemTransport {
    fn resolve<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(host_port).await?.collect()) })
    }

    fn quic(&self, to: SocketAddr) -> io::Result<(Endpoint, Ear)> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP))?;
        // The kernel clamps to net.core.[rw]mem_max. What it gives is enough to ship; an aggregator,
        // which hears many agents on one socket, warns about it.
        socket.set_recv_buffer_size(UDP_BUFFER_BYTES)?;
        socket.set_send_buffer_size(UDP_BUFFER_BYTES)?;
        socket.bind(&any.into())?;
        let config = EndpointConfig::default();
        let ear = Ear::default();
        let socket = Arc::new(RestingSocket::new(socket.into(), ear.clone())?);
        let endpoint = Endpoint::new_with_abstract_socket(
            config,
            None,
            socket,
            Arc::new(QuietRuntime { ear: ear.clone() }),
        )?;
        Ok((endpoint, ear))
    }

    fn tcp(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}
