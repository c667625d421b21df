use config::join::refusal::{Code, Refusal};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;

use super::world::{DAY, Holder, World};
use crate::config::ServeTls;
use crate::identity::Authority;
use crate::identity::server::SHIP_ALPN;

async fn joined(world: &World) -> Holder {
    let holder = Holder::new();
    let accepted = world.join(&world.token(1), &holder).await.expect("a join");
    holder.with(&accepted)
}

fn refused(world: &World, chain: &[CertificateDer<'_>]) -> Refusal {
    let refusal = world.authority.peer(chain).expect_err("a refusal");
    assert!(!refusal.message.is_empty() && !refusal.help.is_empty());
    refusal
}

#[tokio::test]
async fn without_a_certificate_nobody_ships() {
    let world = World::new();
    let connection = world.connect(SHIP_ALPN, &Holder::new()).await;
    let refusal = refused(&world, &connection.server_sees());
    assert_eq!(refusal.code, Code::CertificateMissing);
}

#[tokio::test]
async fn a_certificate_ends() {
    let world = World::new();
    let holder = joined(&world).await;
    world.authority.peer(&holder.chain).unwrap();
    world.pass(31 * DAY);
    assert_eq!(
        refused(&world, &holder.chain).code,
        Code::CertificateExpired
    );
    world.pass(-(31 + 2) * DAY);
    assert_eq!(
        refused(&world, &holder.chain).code,
        Code::CertificateNotYetValid
    );
}

#[tokio::test]
async fn a_revoked_agent_is_refused_at_once_and_after_a_restart() {
    let world = World::new();
    let holder = joined(&world).await;
    let id = world.authority.peer(&holder.chain).unwrap().id;
    let mut watching = world.authority.revoked_agents();
    world.authority.revoke_agent(&id).unwrap();
    assert!(watching.has_changed().unwrap());
    assert!(watching.borrow_and_update().contains(&id));
    assert_eq!(refused(&world, &holder.chain).code, Code::AgentRevoked);
    let world = world.restarted().unwrap();
    assert_eq!(refused(&world, &holder.chain).code, Code::AgentRevoked);
}

#[tokio::test]
async fn another_authoritys_certificate_is_refused() {
    let (world, other) = (World::new(), World::new());
    // Both authorities bear the same name; only the key tells them apart.
    let holder = joined(&other).await;
    assert_eq!(
        refused(&world, &holder.chain).code,
        Code::CertificateUnknownAuthority
    );
    // Nor does it help to send the authority's certificate along.
    let mut chain = holder.chain.clone();
    chain.push(other.authority.authorities[0].clone());
    assert_eq!(
        refused(&world, &chain).code,
        Code::CertificateUnknownAuthority
    );
    chain[1] = world.authority.authorities[0].clone();
    assert_eq!(
        refused(&world, &chain).code,
        Code::CertificateUnknownAuthority
    );
}

#[tokio::test]
async fn an_authority_with_the_same_name_and_key_id_is_another() {
    let world = World::new();
    let real = world.authority.authorities[0].clone();
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let impostor = Issuer::from_ca_cert_der(&real, key).unwrap();
    let holder = Holder::new();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let uri = "weir://agent/x".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
    let forged = params.signed_by(&holder.key(), &impostor).unwrap();
    let code = refused(&world, &[forged.der().clone()]).code;
    assert_eq!(code, Code::CertificateUnknownAuthority);
}

#[tokio::test]
async fn only_agents_certificates_are_agents() {
    let world = World::new();
    // The server's own certificate comes from the right authority and is for servers.
    let connection = world.connect(SHIP_ALPN, &Holder::new()).await;
    let (_, tls) = connection.client.get_ref();
    let servers: Vec<_> = tls.peer_certificates().unwrap().to_vec();
    assert_eq!(refused(&world, &servers).code, Code::CertificateInvalid);
    assert_eq!(
        refused(&world, &[world.authority.authorities[0].clone()]).code,
        Code::CertificateInvalid
    );
    assert_eq!(
        refused(&world, &[vec![0x30, 0].into()]).code,
        Code::CertificateInvalid
    );
    // A certificate of an agent that issues another is no authority.
    let holder = joined(&world).await;
    let issuer = Issuer::from_ca_cert_der(&holder.chain[0], holder.key()).unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let forged = params.signed_by(&Holder::new().key(), &issuer).unwrap();
    let chain = [forged.der().clone(), holder.chain[0].clone()];
    world.authority.peer(&chain).unwrap_err();
}

#[tokio::test]
async fn a_renewed_certificate_outlives_the_old_one() {
    let world = World::new();
    let holder = joined(&world).await;
    world.pass(20 * DAY);
    let agent = world.authority.peer(&holder.chain).unwrap();
    let csr = holder.certificate_request(&CertificateParams::default());
    let renewed = world.authority.renew(&agent, &csr).await.unwrap();
    world.pass(15 * DAY);
    assert_eq!(
        refused(&world, &holder.chain).code,
        Code::CertificateExpired
    );
    let chain: Vec<CertificateDer<'_>> = renewed
        .certificates
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    assert_eq!(world.authority.peer(&chain).unwrap().id, agent.id);
    let listed = world.authority.agents().unwrap();
    assert_eq!(
        listed[0].expires,
        world.authority.peer(&chain).unwrap().expires
    );
    // Nor does a connection outlive the certificate that it began with, or renew it then.
    world.authority.in_force(&agent).unwrap_err();
    let refusal = world.authority.renew(&agent, &csr).await.unwrap_err();
    assert_eq!(refusal.code, Code::CertificateExpired);
    let agent = world.authority.peer(&chain).unwrap();
    world.authority.in_force(&agent).unwrap();
    // A request that its key did not sign, or a revoked agent, gets none.
    let mut unsigned = csr.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let refusal = world.authority.renew(&agent, &unsigned).await.unwrap_err();
    assert_eq!(refusal.code, Code::BadRequest);
    world.authority.revoke_agent(&agent.id).unwrap();
    let refusal = world.authority.renew(&agent, &csr).await.unwrap_err();
    assert_eq!(refusal.code, Code::AgentRevoked);
}

/// An authority of the user's, with its files.
struct OwnAuthority {
    issuer: Issuer<'static, KeyPair>,
    tls: ServeTls,
}

impl OwnAuthority {
    fn new(dir: &std::path::Path) -> OwnAuthority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("an authority");
        let own = OwnAuthority {
            issuer: Issuer::new(params, key),
            tls: ServeTls {
                ca: dir.join("own-ca.pem"),
                cert: dir.join("own-cert.pem"),
                key: dir.join("own-key.pem"),
            },
        };
        std::fs::write(&own.tls.ca, ca.pem()).expect("a file");
        own.make_server();
        own
    }

    fn make_server(&self) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["logs.example.com".to_owned()]);
        let made = params
            .expect("a name")
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        std::fs::write(&self.tls.cert, made.pem()).expect("a file");
        std::fs::write(&self.tls.key, key.serialize_pem()).expect("a file");
    }

    fn agent(&self, dns: Option<&str>) -> CertificateDer<'static> {
        let names: Vec<String> = dns.into_iter().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params
            .distinguished_name
            .push(DnType::CommonName, "by-name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        params
            .signed_by(&key, &self.issuer)
            .expect("a certificate")
            .der()
            .clone()
    }
}

#[tokio::test]
async fn a_users_own_authority_names_agents_and_makes_no_tokens() {
    let world = World::new();
    let files = OwnAuthority::new(world.dir.path());
    let meta = std::sync::Arc::clone(&world.authority.meta);
    let own = Authority::own(&files.tls, meta, &world.parts).unwrap();
    for (dns, name) in [
        (Some("web-1.example.com"), "web-1.example.com"),
        (None, "by-name"),
    ] {
        assert_eq!(own.peer(&[files.agent(dns)]).unwrap().id.as_str(), name);
    }
    let new = crate::identity::tokens::NewToken {
        ttl: std::time::Duration::from_mins(1),
        uses: 1,
        topics: crate::identity::acl::TopicAcl::all(),
    };
    let error = own
        .create_token(&new, &["a:1".parse().unwrap()])
        .unwrap_err();
    assert!(error.to_string().contains("ship.tls"), "{error}");
    let built_in = joined(&world).await.chain;
    assert_eq!(
        own.peer(&built_in).unwrap_err().code,
        Code::CertificateUnknownAuthority
    );
}

#[tokio::test]
async fn a_users_own_certificate_is_read_again_when_it_was_rotated() {
    let mut world = World::new();
    let files = OwnAuthority::new(world.dir.path());
    let meta = std::sync::Arc::clone(&world.authority.meta);
    world.authority = Authority::own(&files.tls, meta, &world.parts).unwrap();
    let shown = async || {
        let connection = world.connect(SHIP_ALPN, &Holder::new()).await;
        let (_, tls) = connection.client.get_ref();
        tls.peer_certificates().unwrap()[0].clone()
    };
    let first = shown().await;
    files.make_server();
    // A handshake reads no file.
    assert_eq!(shown().await, first);
    world.authority.read_certificate_again();
    let second = shown().await;
    assert_ne!(first, second);
    // Half a file is not used.
    std::fs::write(&files.tls.cert, "-----BEGIN CERT").unwrap();
    world.authority.read_certificate_again();
    assert_eq!(shown().await, second);
}
