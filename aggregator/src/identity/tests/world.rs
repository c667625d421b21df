//! An authority with a clock that tests set, and a client that can be told to misbehave.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use commitlog::id::Timestamp;
use commitlog::storage::disk::Disk;
use config::join::ENROL_ALPN;
use config::join::message::{
    Accepted, Binary, FRAME_HEADER_BYTES, Reply, Request, content_bytes, decode, encode,
};
use config::join::proof::{EXPORTER_LABEL, Exporter, ProofKey};
use config::join::refusal::Refusal;
use config::join::token::JoinToken;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::broker::transport::ByteStream;
use crate::identity::Authority;
use crate::identity::acl::TopicAcl;
use crate::identity::agents::KeyRecord;
use crate::identity::enrol::{Handshake, Offer};
use crate::identity::server::provider;
use crate::identity::tokens::NewToken;
use crate::meta::Meta;
use crate::parts::Parts;

pub(crate) const NOW: i64 = 1_790_000_000_000;
pub(crate) const DAY: i64 = 86_400_000;

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) parts: Parts,
    now: Arc<AtomicI64>,
}

/// A key, and the certificate chain that its holder shows; empty for none.
#[derive(Clone)]
pub(crate) struct Holder {
    pub(crate) key: Vec<u8>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// Both ends of one connection.
pub(crate) struct Connection {
    pub(crate) client: tokio_rustls::client::TlsStream<DuplexStream>,
    pub(crate) server: tokio_rustls::server::TlsStream<Box<dyn ByteStream>>,
}

impl Authority {
    /// How many keys are kept of those that agents joined with.
    pub(crate) fn keys_known(&self) -> usize {
        self.meta.records::<KeyRecord>().expect("a table").len()
    }
}

impl World {
    pub(crate) fn new() -> World {
        let dir = Arc::new(tempfile::tempdir().expect("a folder"));
        World::in_dir(dir, Arc::new(AtomicI64::new(NOW))).expect("a first start")
    }

    pub(crate) fn restarted(self) -> commitlog::error::Result<World> {
        let World {
            authority,
            dir,
            now,
            ..
        } = self;
        drop(authority);
        World::in_dir(dir, now)
    }

    pub(crate) fn in_dir(
        dir: Arc<tempfile::TempDir>,
        now: Arc<AtomicI64>,
    ) -> commitlog::error::Result<World> {
        let parts = Parts {
            clock: clock(&now),
            ..Parts::real()
        };
        let meta = Arc::new(Meta::open(Arc::new(Disk), &dir.path().join("meta.redb"))?);
        let authority = Authority::open(dir.path(), meta, &parts)?;
        Ok(World {
            authority,
            dir,
            parts,
            now,
        })
    }

    pub(crate) fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn token(&self, uses: u32) -> JoinToken {
        self.token_for(uses, "*")
    }

    pub(crate) fn token_for(&self, uses: u32, topics: &str) -> JoinToken {
        let new = NewToken {
            ttl: Duration::from_hours(1),
            uses,
            topics: TopicAcl::new(vec![topics.to_owned()]).expect("a pattern"),
        };
        let addresses = ["127.0.0.1:9347".parse().expect("an address")];
        self.authority
            .create_token(&new, &addresses)
            .expect("a token")
            .token
    }

    /// Connects as `holder`, without looking at who answers.
    pub(crate) async fn connect(&self, alpn: &[u8], holder: &Holder) -> Connection {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let far: Box<dyn ByteStream> = Box::new(far);
        let config = self.authority.server_tls().expect("a configuration");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let connector = TlsConnector::from(Arc::new(holder.tls(alpn)));
        let name = ServerName::try_from("aggregator.weir").expect("a name");
        let (client, server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        Connection {
            client: client.expect("the client's handshake"),
            server: server.expect("the server's handshake"),
        }
    }

    /// Joins as an honest agent does.
    pub(crate) async fn join(
        &self,
        token: &JoinToken,
        holder: &Holder,
    ) -> Result<Accepted, Refusal> {
        let connection = self.connect(ENROL_ALPN, holder).await;
        let request = request(token, holder, &connection.client_exporter());
        self.send(connection, &request).await
    }

    /// Sends a request, whatever it says.
    pub(crate) async fn send(
        &self,
        connection: Connection,
        request: &Request,
    ) -> Result<Accepted, Refusal> {
        let frame = encode(request).expect("a small frame");
        match self.send_bytes(connection, &frame).await {
            Reply::Accepted(accepted) => Ok(accepted),
            Reply::Refused(refusal) => Err(refusal),
        }
    }

    pub(crate) async fn send_bytes(&self, connection: Connection, bytes: &[u8]) -> Reply {
        let handshake = connection.handshake();
        let Connection { mut client, server } = connection;
        let serve = self.authority.enrol(server, handshake, Offer::default());
        let ask = async {
            client.write_all(bytes).await.expect("a write");
            client.flush().await.expect("a flush");
            let mut header = [0; FRAME_HEADER_BYTES];
            client.read_exact(&mut header).await.expect("a header");
            let mut content = vec![0; content_bytes(header).expect("a length")];
            client.read_exact(&mut content).await.expect("a reply");
            decode(&content).expect("a message")
        };
        let (served, reply) = tokio::join!(serve, ask);
        served.expect("an exchange");
        reply
    }
}

impl Connection {
    pub(crate) fn client_exporter(&self) -> Exporter {
        let mut exporter = [0; 32];
        let (_, tls) = self.client.get_ref();
        tls.export_keying_material(&mut exporter, EXPORTER_LABEL, Some(&[]))
            .expect("an exporter");
        exporter
    }

    fn handshake(&self) -> Handshake {
        let mut exporter = [0; 32];
        let (_, tls) = self.server.get_ref();
        tls.export_keying_material(&mut exporter, EXPORTER_LABEL, Some(&[]))
            .expect("an exporter");
        Handshake {
            exporter,
            chain: self.server_sees(),
            address: IpAddr::from([127, 0, 0, 1]),
        }
    }

    pub(crate) fn server_sees(&self) -> Vec<CertificateDer<'static>> {
        let (_, tls) = self.server.get_ref();
        let chain = tls.peer_certificates().unwrap_or_default();
        chain.iter().map(|der| der.clone().into_owned()).collect()
    }
}

impl Holder {
    pub(crate) fn new() -> Holder {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Holder {
            key: key.serialize_der(),
            chain: Vec::new(),
        }
    }

    pub(crate) fn with(&self, accepted: &Accepted) -> Holder {
        self.showing(
            accepted
                .certificates
                .iter()
                .map(|der| der.0.clone().into())
                .collect(),
        )
    }

    pub(crate) fn showing(&self, chain: Vec<CertificateDer<'static>>) -> Holder {
        Holder {
            key: self.key.clone(),
            chain,
        }
    }

    pub(crate) fn key(&self) -> KeyPair {
        KeyPair::try_from(self.key.as_slice()).expect("a key")
    }

    pub(crate) fn certificate_request(&self, params: &CertificateParams) -> Vec<u8> {
        params
            .serialize_request(&self.key())
            .expect("a request")
            .der()
            .to_vec()
    }

    fn tls(&self, alpn: &[u8]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
        let mut config = if self.chain.is_empty() {
            builder.with_no_client_auth()
        } else {
            let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
            builder
                .with_client_auth_cert(self.chain.clone(), key)
                .expect("certificate and key")
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }
}

/// What an honest agent asks.
pub(crate) fn request(token: &JoinToken, holder: &Holder, exporter: &Exporter) -> Request {
    let params = CertificateParams::default();
    request_with(token, holder.certificate_request(&params), exporter)
}

pub(crate) fn request_with(
    token: &JoinToken,
    certificate_request: Vec<u8>,
    exporter: &Exporter,
) -> Request {
    let proof = ProofKey::of_secret(&token.secret).prove(exporter, &certificate_request);
    Request {
        token: token.id.to_string(),
        certificate_request: Binary(certificate_request),
        proof: Binary(proof.to_vec()),
        host: "host-1\u{1b}[31m".to_owned(),
    }
}

fn clock(now: &Arc<AtomicI64>) -> crate::parts::Clock {
    let now = Arc::clone(now);
    Arc::new(move || Timestamp(now.load(Ordering::SeqCst)))
}

/// A client that does not care; the attacks come from such.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
