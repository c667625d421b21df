//! The QUIC listener: handshakes side by side, each with a deadline; Retry when many are under way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use commitlog::error::{Error, Result};
use commitlog::limits::SESSION_PARTITIONS_MAX;
use commitlog::wire::ALPN;
use config::join::ENROL_ALPN;
use config::join::proof::EXPORTER_LABEL;
use config::listen::Protocol;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, Incoming, VarInt};
use ring::hmac;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::peer::{ControlWriter, Peer, Streams};
use super::{Broker, Handshaking, cannot_listen, enrol, refuse, session};
use crate::agents::Transport;
use crate::identity::enrol::Handshake;
use crate::limits::{
    CLOSE_GRACE, HANDSHAKE_MAX, HANDSHAKES_UNVALIDATED_MAX, QUIC_CONNECTION_WINDOW_BYTES,
    QUIC_DATAGRAM_BYTES_MAX, QUIC_IDLE_MAX, QUIC_SEND_WINDOW_BYTES, QUIC_STREAM_WINDOW_BYTES,
    SHUTDOWN_GRACE,
};

/// Opens the endpoint.
pub(super) fn bind(broker: &Broker, at: SocketAddr) -> Result<Endpoint> {
    let tls = QuicServerConfig::try_from(broker.authority.server_tls()?)
        .map_err(|error| Error::input(format!("this TLS configuration cannot do QUIC: {error}")))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let mut parameters = parameters();
    broker.transport.tune(&mut parameters);
    config.transport_config(Arc::new(parameters));
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &broker.reset_key);
    let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
    endpoint
        .max_udp_payload_size(QUIC_DATAGRAM_BYTES_MAX)
        .expect("QUIC allows 1,200 bytes and more");
    let endpoint = broker.transport.quic(at, endpoint, config);
    endpoint.map_err(|error| cannot_listen(at, Protocol::Udp, &error))
}

/// CUBIC, path MTU discovery, segmentation offload and migration are quinn's defaults and stay.
fn parameters() -> quinn::TransportConfig {
    let mut parameters = quinn::TransportConfig::default();
    // Agents acknowledge what they are told in the wake-up that brought it: waiting for more costs a
    // timer's wake-up, and there is one packet or two for each batch.
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(0_u32.into());
    let idle = quinn::IdleTimeout::try_from(QUIC_IDLE_MAX).expect("15 s fit a varint of ms");
    let streams = u32::try_from(SESSION_PARTITIONS_MAX).expect("a thousand");
    parameters
        .max_idle_timeout(Some(idle))
        .receive_window(QUIC_CONNECTION_WINDOW_BYTES.into())
        .stream_receive_window(QUIC_STREAM_WINDOW_BYTES.into())
        .send_window(QUIC_SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(1_u32.into())
        .max_concurrent_uni_streams(streams.into())
        .datagram_receive_buffer_size(None)
        .ack_frequency_config(Some(acknowledgements));
    parameters
}

/// Accepts until shutdown.
pub(super) async fn serve(broker: Broker, endpoint: Endpoint) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = broker.shutdown.cancelled() => break,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else {
            tracing::error!("the QUIC endpoint is closed");
            break;
        };
        let crowded = broker.handshakes.quic.load(Ordering::Relaxed) >= HANDSHAKES_UNVALIDATED_MAX;
        if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            if let Err(error) = incoming.retry() {
                tracing::debug!(%error, "no retry");
            }
            continue;
        }
        let Some(handshaking) = broker.admit(Transport::Quic) else {
            incoming.refuse();
            continue;
        };
        let connected = connect(broker.clone(), incoming, handshaking);
        broker.tasks.spawn(connected);
    }
    // Sessions say goodbye within the broker's grace; nobody new gets in meanwhile.
    endpoint.set_server_config(None);
    if timeout(SHUTDOWN_GRACE, endpoint.wait_idle()).await.is_err() {
        endpoint.close(VarInt::from_u32(0), b"stopped");
    }
}

async fn connect(broker: Broker, incoming: Incoming, handshaking: Handshaking) {
    let address = incoming.remote_address();
    let connection = timeout(HANDSHAKE_MAX, async { incoming.await }).await;
    let connection = match connection {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "handshake failed");
            return;
        }
        Err(_) => return,
    };
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<HandshakeData>().ok());
    let protocol = data.and_then(|data| data.protocol).unwrap_or_default();
    let chain = connection.peer_identity();
    let chain = chain.and_then(|it| it.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = chain.map(|it| *it).unwrap_or_default();
    let Ok(Ok((writer, reader))) = timeout(HANDSHAKE_MAX, connection.accept_bi()).await else {
        connection.close(VarInt::from_u32(0), b"no control stream");
        return;
    };
    drop(handshaking);
    if protocol == ENROL_ALPN {
        let Some(exporter) = exporter(&connection) else {
            return;
        };
        let handshake = Handshake {
            exporter,
            chain,
            address: address.ip(),
        };
        let mut stream = tokio::io::join(reader, writer);
        enrol(&broker, &mut stream, handshake).await;
        let mut writer = stream.into_inner().1;
        // The exchange has finished it already; closing before the answer has arrived would cut it.
        drop(writer.finish());
        drop(timeout(CLOSE_GRACE, writer.stopped()).await);
        connection.close(VarInt::from_u32(0), b"over");
        return;
    }
    debug_assert_eq!(protocol, ALPN, "TLS lets no other pass");
    let writer = ControlWriter::Quic(connection.clone(), writer);
    let identity = match broker.authority.peer(&chain) {
        Ok(identity) => identity,
        Err(refused) => return refuse(writer, address, &refused).await,
    };
    let peer = Peer {
        identity,
        address,
        streams: Streams::Quic(connection, reader),
        writer,
    };
    session::run(broker, peer).await;
}

fn exporter(connection: &Connection) -> Option<[u8; 32]> {
    let mut exporter = [0; 32];
    let exported = connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"");
    exported.ok().map(|()| exporter)
}
