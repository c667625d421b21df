//! A connection that has shown who it is, with its control stream; over QUIC or TCP.

use std::net::SocketAddr;

use bytes::Bytes;
use commitlog::wire::chunk::chunk_header;
use commitlog::wire::control::Liveness;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio_rustls::server::TlsStream;

use super::transport::ByteStream;
use crate::agents::Transport;
use crate::identity::peer::AgentIdentity;
use crate::limits::CLOSE_GRACE;

/// TLS over TCP.
pub(super) type TcpConnection = TlsStream<Box<dyn ByteStream>>;

/// Somebody who connected with the session's protocol.
pub(super) struct Peer {
    pub(super) identity: AgentIdentity,
    pub(super) address: SocketAddr,
    pub(super) streams: Streams,
    pub(super) writer: ControlWriter,
}

/// Where a peer's bytes come from.
pub(super) enum Streams {
    /// The control stream; others are accepted from the connection.
    Quic(Connection, RecvStream),
    /// All streams in one.
    Tcp(ReadHalf<TcpConnection>),
}

/// The control stream, towards the peer.
pub(super) enum ControlWriter {
    Quic(Connection, SendStream),
    Tcp(WriteHalf<TcpConnection>),
}

impl Streams {
    pub(super) fn transport(&self) -> Transport {
        match self {
            Streams::Quic(..) => Transport::Quic,
            Streams::Tcp(_) => Transport::Tcp,
        }
    }

    pub(super) fn liveness(&self) -> Liveness {
        match self {
            Streams::Quic(..) => Liveness::Transport,
            Streams::Tcp(_) => Liveness::Session,
        }
    }
}

impl ControlWriter {
    pub(super) async fn write(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        match self {
            ControlWriter::Quic(_, stream) => {
                let written = stream.write_chunk(Bytes::from(bytes)).await;
                written.map_err(|e| e.to_string())
            }
            ControlWriter::Tcp(stream) => {
                let mut out = Vec::with_capacity(bytes.len() + 16);
                for chunk in bytes.chunks(commitlog::limits::CHUNK_BYTES_MAX) {
                    out.extend(chunk_header(0, chunk.len()));
                    out.extend_from_slice(chunk);
                }
                stream.write_all(&out).await.map_err(|e| e.to_string())?;
                stream.flush().await.map_err(|e| e.to_string())
            }
        }
    }

    /// Closes after the peer has had a moment to take the last words.
    pub(super) async fn close(self) {
        match self {
            ControlWriter::Quic(connection, mut stream) => {
                if stream.finish().is_ok() {
                    drop(tokio::time::timeout(CLOSE_GRACE, stream.stopped()).await);
                }
                connection.close(VarInt::from_u32(0), b"over");
            }
            ControlWriter::Tcp(mut stream) => {
                drop(tokio::time::timeout(CLOSE_GRACE, stream.shutdown()).await);
            }
        }
    }
}
