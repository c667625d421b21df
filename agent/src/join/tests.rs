//! What the agent does about servers that are not the aggregator it was sent to. What the aggregator
//! does about agents is tested there.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use config::join::id::{AuthorityPin, TokenId};
use config::join::message::Topic;
use config::join::refusal::{Code, Refusal};
use config::join::token::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::ambient::system_clock;
use crate::identity::ClientIdentity;
use crate::producer::Reloaded;
use crate::producer::socket::Ear;
use crate::producer::transport::{BoxFuture, ByteStream};

/// An authority as the aggregator's, in memory.
struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A server on loopback that answers every request with one reply.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(Request, Exporter)>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// How the server answers.
#[derive(Clone)]
enum Answer {
    Accept(Arc<TestAuthority>),
    Refuse(Refusal),
    /// Cuts the connection after the request.
    Hang,
}

impl TestAuthority {
    fn new() -> TestAuthority {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "weir certificate authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params
            .self_signed(&key)
            .expect("an authority")
            .der()
            .clone();
        TestAuthority {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn pin(&self) -> AuthorityPin {
        let parsed = ParsedCertificate::try_from(&self.certificate).expect("a certificate");
        AuthorityPin::of_public_key(&parsed.subject_public_key_info())
    }

    /// A server certificate of this authority, followed by `shown` in the chain.
    fn server(&self, name: &str, shown: &CertificateDer<'static>) -> Arc<ServerConfig> {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(identity::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone(), shown.clone()], key)
            .expect("certificate and key");
        config.alpn_protocols = vec![config::join::ENROL_ALPN.to_vec()];
        Arc::new(config)
    }

    fn accept(&self, request: &Request) -> Accepted {
        let der = request.certificate_request.0.as_slice().into();
        let asked = CertificateSigningRequestParams::from_der(&der).expect("a request");
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let made = params
            .signed_by(&asked.public_key, &self.issuer)
            .expect("a certificate");
        Accepted {
            agent: "agent-1".to_owned(),
            certificates: vec![Binary(made.der().to_vec())],
            authorities: vec![Binary(self.certificate.to_vec())],
            aggregators: Vec::new(),
            topics: vec![Topic {
                name: "logs".to_owned(),
                partitions: 4,
            }],
            allowed: vec!["*".to_owned()],
        }
    }
}

impl Server {
    async fn start(tls: Arc<ServerConfig>, answer: Answer) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // An agent that does not trust us leaves in the middle of a handshake.
                if let Some(met) = serve(stream, &tls, &answer).await {
                    requests.lock().expect("a lock").push(met);
                }
            }
        });
        Server {
            address,
            seen,
            serving,
        }
    }
}

async fn serve(
    stream: TcpStream,
    tls: &Arc<ServerConfig>,
    answer: &Answer,
) -> Option<(Request, Exporter)> {
    let mut stream = TlsAcceptor::from(Arc::clone(tls))
        .accept(stream)
        .await
        .ok()?;
    let mut exporter = [0; 32];
    let (_, connection) = stream.get_ref();
    connection
        .export_keying_material(&mut exporter, EXPORTER_LABEL, Some(&[]))
        .ok()?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let mut content = vec![0; content_bytes(header).ok()?];
    stream.read_exact(&mut content).await.ok()?;
    let request: Request = decode(&content).ok()?;
    let reply = match answer {
        Answer::Accept(authority) => Reply::Accepted(authority.accept(&request)),
        Answer::Refuse(refusal) => Reply::Refused(refusal.clone()),
        Answer::Hang => return Some((request, exporter)),
    };
    stream.write_all(&encode(&reply).ok()?).await.ok()?;
    stream.shutdown().await.ok()?;
    Some((request, exporter))
}

/// A network without UDP.
struct TcpOnly;

impl Transport for TcpOnly {
    fn resolve<'a>(&'a self, host_port: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(vec![host_port.parse().map_err(io::Error::other)?]) })
    }

    fn quic(&self, _to: SocketAddr) -> io::Result<(quinn::Endpoint, Ear)> {
        Err(io::Error::other("no UDP here"))
    }

    fn tcp(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}

fn token(pin: AuthorityPin, servers: &[&Server]) -> JoinToken {
    JoinToken {
        pin,
        id: TokenId([1, 2, 3, 4, 5]),
        secret: Secret([7; 16]),
        addresses: servers
            .iter()
            .map(|server| server.address.to_string().parse().expect("an address"))
            .collect(),
    }
}

async fn join_in(dir: &Path, token: &JoinToken) -> Result<Joined> {
    join(Joining {
        token,
        data_dir: dir,
        host: "host-1",
        transport: Arc::new(TcpOnly),
        clock: system_clock(),
    })
    .await
}

/// Joins in a new folder, and gives the error's whole chain.
async fn refused(token: &JoinToken) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let error = join_in(dir.path(), token).await.expect_err("no identity");
    assert!(
        !identity::path(dir.path()).exists(),
        "nothing may be left behind"
    );
    format!("{error:#}")
}

#[tokio::test]
async fn a_joined_agent_has_an_identity_to_ship_with() {
    let authority = Arc::new(TestAuthority::new());
    let tls = authority.server(SERVER_NAME, &authority.certificate);
    let server = Server::start(tls, Answer::Accept(Arc::clone(&authority))).await;
    let token = token(authority.pin(), &[&server]);
    let dir = tempfile::tempdir().unwrap();
    let joined = join_in(dir.path(), &token).await.unwrap();
    assert_eq!((joined.agent.as_str(), joined.name), ("agent-1", Name::New));
    let told = joined.to_string();
    assert!(
        told.contains("next: weir-agent run") && told.contains("logs, 4 partitions"),
        "{told}"
    );
    let loaded = ClientIdentity::load(dir.path(), None, system_clock()).unwrap();
    assert_eq!(loaded.agent().unwrap().as_str(), "agent-1");
    assert_eq!(loaded.aggregators(), token.addresses);
    assert_eq!(loaded.server_name("logs.example.com"), SERVER_NAME);
    // Only its owner may read it, and the secret of the token is not in it.
    for entry in std::fs::read_dir(dir.path().join("identity")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    assert!(!dir.path().join("identity/pending.json").exists());
    // The proof was made for this connection and this request.
    let seen = server.seen.lock().unwrap();
    let (request, exporter) = &seen[0];
    let key = ProofKey::of_secret(&token.secret);
    assert!(key.verify(exporter, &request.certificate_request.0, &request.proof.0));
    assert!(!key.verify(&[0; 32], &request.certificate_request.0, &request.proof.0));
}

#[tokio::test]
async fn i25_a_server_with_another_authority_is_not_told_anything() {
    let (right, wrong) = (TestAuthority::new(), Arc::new(TestAuthority::new()));
    let tls = wrong.server(SERVER_NAME, &wrong.certificate);
    let server = Server::start(tls, Answer::Accept(Arc::clone(&wrong))).await;
    let told = refused(&token(right.pin(), &[&server])).await;
    assert!(told.contains(&right.pin().to_string()), "{told}");
    assert!(
        told.contains(&wrong.pin().to_string()),
        "both hashes are shown: {told}"
    );
    assert!(server.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn showing_the_right_authority_without_its_key_does_not_help() {
    let (right, wrong) = (TestAuthority::new(), Arc::new(TestAuthority::new()));
    // Certificates are public: whoever is between can show the right one after its own.
    let tls = wrong.server(SERVER_NAME, &right.certificate);
    let server = Server::start(tls, Answer::Accept(Arc::clone(&wrong))).await;
    let told = refused(&token(right.pin(), &[&server])).await;
    assert!(told.contains("intercepted"), "{told}");
    assert!(server.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_right_authority_under_another_name_is_refused() {
    let right = Arc::new(TestAuthority::new());
    let tls = right.server("web-1.example.com", &right.certificate);
    let server = Server::start(tls, Answer::Accept(Arc::clone(&right))).await;
    let told = refused(&token(right.pin(), &[&server])).await;
    assert!(told.contains("certificate"), "{told}");
    assert!(server.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refusal_is_told_with_what_to_do() {
    let authority = TestAuthority::new();
    let tls = authority.server(SERVER_NAME, &authority.certificate);
    let refusal = Refusal::new(
        Code::TokenExpired,
        "the token x has expired",
        "make another",
    );
    let server = Server::start(tls, Answer::Refuse(refusal)).await;
    let told = refused(&token(authority.pin(), &[&server])).await;
    assert!(
        told.contains("refused (token_expired): the token x has expired; make another"),
        "{told}"
    );
}

#[tokio::test]
async fn a_join_that_was_cut_off_goes_on_with_the_same_key() {
    let authority = Arc::new(TestAuthority::new());
    let tls = authority.server(SERVER_NAME, &authority.certificate);
    let hangs = Server::start(Arc::clone(&tls), Answer::Hang).await;
    let answers = Server::start(tls, Answer::Accept(Arc::clone(&authority))).await;
    let dir = tempfile::tempdir().unwrap();
    join_in(dir.path(), &token(authority.pin(), &[&hangs]))
        .await
        .unwrap_err();
    join_in(dir.path(), &token(authority.pin(), &[&hangs, &answers]))
        .await
        .unwrap();
    let key_of = |request: &Request| {
        let der = request.certificate_request.0.as_slice().into();
        let asked = CertificateSigningRequestParams::from_der(&der).unwrap();
        rcgen::PublicKeyData::der_bytes(&asked.public_key).to_vec()
    };
    let (first, second) = (hangs.seen.lock().unwrap(), answers.seen.lock().unwrap());
    assert_eq!(key_of(&first[0].0), key_of(&second[0].0));
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_taken() {
    let authority = Arc::new(TestAuthority::new());
    let dir = tempfile::tempdir().unwrap();
    let tls = authority.server(SERVER_NAME, &authority.certificate);
    let server = Server::start(tls, Answer::Accept(Arc::clone(&authority))).await;
    join_in(dir.path(), &token(authority.pin(), &[&server]))
        .await
        .unwrap();
    let loaded = ClientIdentity::load(dir.path(), None, system_clock()).unwrap();
    let before = std::fs::read(identity::path(dir.path())).unwrap();
    let other_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let other = params.signed_by(&other_key, &authority.issuer).unwrap();
    let offered = |der: Vec<u8>| Renewed {
        certificates: vec![der],
        authorities: vec![authority.certificate.to_vec()],
    };
    loaded.renewed(&offered(other.der().to_vec())).unwrap_err();
    loaded.renewed(&offered(Vec::new())).unwrap_err();
    loaded
        .renewed(&Renewed {
            certificates: vec![],
            authorities: vec![],
        })
        .unwrap_err();
    assert_eq!(std::fs::read(identity::path(dir.path())).unwrap(), before);
}

#[tokio::test]
async fn a_certificate_is_renewed_at_two_thirds_of_its_life() {
    let authority = Arc::new(TestAuthority::new());
    let dir = tempfile::tempdir().unwrap();
    let tls = authority.server(SERVER_NAME, &authority.certificate);
    let server = Server::start(tls, Answer::Accept(Arc::clone(&authority))).await;
    join_in(dir.path(), &token(authority.pin(), &[&server]))
        .await
        .unwrap();
    let now = Arc::new(AtomicI64::new(system_clock()().0));
    let clock: Clock = {
        let now = Arc::clone(&now);
        Arc::new(move || commitlog::id::Timestamp(now.load(Ordering::SeqCst)))
    };
    let loaded = ClientIdentity::load(dir.path(), None, clock).unwrap();
    let life = loaded.expires().unwrap().0 - now.load(Ordering::SeqCst);
    assert!(loaded.renewal().is_none());
    now.fetch_add(life / 3 * 2 + 1, Ordering::SeqCst);
    let request = loaded.renewal().unwrap();
    let before = loaded.tls();
    let asked = CertificateSigningRequestParams::from_der(&request.as_slice().into()).unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let made = params
        .signed_by(&asked.public_key, &authority.issuer)
        .unwrap();
    loaded
        .renewed(&Renewed {
            certificates: vec![made.der().to_vec()],
            authorities: vec![authority.certificate.to_vec()],
        })
        .unwrap();
    assert!(
        !Arc::ptr_eq(&before, &loaded.tls()),
        "the next connection shows the new one"
    );
    assert!(loaded.renewal().is_none());
    let again = ClientIdentity::load(dir.path(), None, system_clock()).unwrap();
    assert_eq!(again.expires(), loaded.expires());
}

#[test]
fn without_an_identity_the_operator_is_told_to_join() {
    let dir = tempfile::tempdir().unwrap();
    let error = ClientIdentity::load(dir.path(), None, system_clock())
        .map(|_| ())
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("weir-agent join TOKEN --data-dir"),
        "{error}"
    );
    let path = identity::path(dir.path());
    private_file::create_dir(path.parent().unwrap()).unwrap();
    private_file::write(&path, b"{").unwrap();
    let error = ClientIdentity::load(dir.path(), None, system_clock())
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains("remove it and join again"),
        "{error}"
    );
}

#[tokio::test]
async fn a_join_beside_a_running_agent_is_taken_over_and_not_undone() {
    let authority = Arc::new(TestAuthority::new());
    let dir = tempfile::tempdir().unwrap();
    let tls = authority.server(SERVER_NAME, &authority.certificate);
    let server = Server::start(tls, Answer::Accept(Arc::clone(&authority))).await;
    let join = async || {
        let token = token(authority.pin(), &[&server]);
        join_in(dir.path(), &token).await.unwrap();
    };
    join().await;
    let running = ClientIdentity::load(dir.path(), None, system_clock()).unwrap();
    assert_eq!(running.reload(), Ok(Reloaded::Same));
    let before = running.tls();
    join().await;
    assert_eq!(running.reload(), Ok(Reloaded::Another));
    assert!(!Arc::ptr_eq(&before, &running.tls()));
    assert_eq!(running.reload(), Ok(Reloaded::Same));
    join().await;
    let path = identity::path(dir.path());
    let joined = std::fs::read(&path).unwrap();
    let late = Renewed {
        certificates: vec![authority.certificate.to_vec()],
        authorities: vec![authority.certificate.to_vec()],
    };
    running.renewed(&late).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), joined);
}
