//! The TCP listener, for agents whose network drops UDP: the same session over TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use commitlog::error::Result;
use config::join::ENROL_ALPN;
use config::join::proof::EXPORTER_LABEL;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncWriteExt;
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::peer::{ControlWriter, Peer, Streams, TcpConnection};
use super::transport::{ByteStream, Listener};
use super::{Broker, Handshaking, enrol, refuse, session};
use crate::agents::Transport;
use crate::identity::enrol::Handshake;
use crate::limits::{CLOSE_GRACE, HANDSHAKE_MAX};

/// Accepts until shutdown.
pub(super) fn serve(
    broker: Broker,
    mut listener: Box<dyn Listener>,
) -> Result<impl Future<Output = ()> + Send> {
    let acceptor = TlsAcceptor::from(Arc::new(broker.authority.server_tls()?));
    Ok(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = broker.shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Without room the connection is dropped, which the agent sees at once.
                    if let Some(handshaking) = broker.admit(Transport::Tcp) {
                        let acceptor = acceptor.clone();
                        let broker = broker.clone();
                        let tasks = broker.tasks.clone();
                        tasks.spawn(connect(broker, acceptor, stream, address, handshaking));
                    }
                }
                Err(error) => {
                    // Out of files, or a client that left: neither is helped by asking at once again.
                    tracing::warn!(%error, "no TCP connection accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}

async fn connect(
    broker: Broker,
    acceptor: TlsAcceptor,
    stream: Box<dyn ByteStream>,
    address: SocketAddr,
    handshaking: Handshaking,
) {
    let mut connection = match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "handshake failed");
            return;
        }
        Err(_) => return,
    };
    drop(handshaking);
    let (_, tls) = connection.get_ref();
    let chain: Vec<CertificateDer<'static>> = tls.peer_certificates().unwrap_or_default().to_vec();
    if tls.alpn_protocol() == Some(ENROL_ALPN) {
        let Some(exporter) = exporter(&connection) else {
            return;
        };
        let handshake = Handshake {
            exporter,
            chain,
            address: address.ip(),
        };
        enrol(&broker, &mut connection, handshake).await;
        drop(timeout(CLOSE_GRACE, connection.shutdown()).await);
        return;
    }
    let identity = broker.authority.peer(&chain);
    let (read, write) = tokio::io::split(connection);
    let writer = ControlWriter::Tcp(write);
    match identity {
        Ok(identity) => {
            let peer = Peer {
                identity,
                address,
                streams: Streams::Tcp(read),
                writer,
            };
            session::run(broker, peer).await;
        }
        Err(refused) => refuse(writer, address, &refused).await,
    }
}

fn exporter(connection: &TcpConnection) -> Option<[u8; 32]> {
    let (_, tls) = connection.get_ref();
    tls.export_keying_material([0; 32], EXPORTER_LABEL, Some(b""))
        .ok()
}
