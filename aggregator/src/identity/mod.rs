//! Who may speak to this aggregator: its authority, join tokens, agents' certificates, the admin
//! token.
//!
//! [`Authority`] is the one handle. The listeners take [`Authority::server_tls`], give each `weir/1`
//! connection to [`Authority::peer`] and each `weir-enrol/1` connection to [`Authority::enrol`]; HTTP
//! makes, lists and revokes tokens and agents.
//!
//! Invariant **I23**: identity comes from certificates only, never from what a peer says of itself.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::Timestamp;
use commitlog::wire::message::Renewed;
use config::join::id::{AgentId, AuthorityPin};
use config::join::message::Binary;
use config::join::refusal::{Code, Refusal};
use config::value::HostPort;
use redb::TableDefinition;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::ResolvesServerCert;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::blocking::Blocking;
use crate::config::ServeTls;
use crate::meta::{Meta, Record};
use crate::parts::{Clock, Parts, Random};

pub mod acl;
pub mod agents;
mod attempts;
mod ca;
pub mod enrol;
pub mod peer;
pub mod server;
#[cfg(test)]
pub(crate) mod tests;
pub mod tokens;

use acl::TopicAcl;
use agents::{AgentRecord, JoinedAgent, Standing};
use ca::{CertificateAuthority, CheckedRequest};
use peer::{AgentIdentity, Names, PeerVerifier};
use tokens::{MadeToken, NewToken, TokenInfo, TokenRecord};

/// The aggregator's authority over agents.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

/// What an [`Authority`] consists of.
pub struct Inner {
    /// `None` with the user's own authority: then no certificates are made here.
    ca: Option<Arc<CertificateAuthority>>,
    authorities: Vec<CertificateDer<'static>>,
    server: Arc<dyn ResolvesServerCert>,
    /// The same, where it is the user's own.
    own: Option<Arc<server::OwnCertificate>>,
    verifier: PeerVerifier,
    attempts: attempts::Attempts,
    /// Revoked agents; whoever holds a connection watches it.
    denied: watch::Sender<Arc<HashSet<AgentId>>>,
    /// What each agent may write that joined here, as its last join said: an older certificate may say
    /// more.
    granted: Mutex<HashMap<AgentId, TopicAcl>>,
    /// Held from the change of the agents' records until `granted` says the same, so that two changes
    /// reach it in their order. Apart from it, because sessions look at it on threads that may not wait
    /// for a disk.
    granting: Mutex<()>,
    meta: Arc<Meta>,
    clock: Clock,
    random: Random,
    blocking: Blocking,
}

impl std::ops::Deref for Authority {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Which authority this data directory has had.
#[derive(Serialize, Deserialize)]
struct AuthorityRecord {
    pin: String,
}

impl Record for AuthorityRecord {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new("authority");
}

impl Authority {
    /// The built-in authority in `data_dir/ca`, made at the first start.
    pub fn open(data_dir: &Path, meta: Arc<Meta>, parts: &Parts) -> Result<Authority> {
        let dir = data_dir.join("ca");
        let known = meta.record::<AuthorityRecord>(AUTHORITY_KEY)?;
        if known.is_some() && !dir.exists() {
            return Err(Error::damaged(format!(
                "{} is missing, and agents trust what was in it: restore it from a backup; to start \
                 a new authority, which every agent must join again, create the empty folder",
                dir.display()
            )));
        }
        let now = (parts.clock)();
        let ca = CertificateAuthority::load_or_create(&dir, now, Arc::clone(&parts.random))?;
        let pin = ca.pin.to_string();
        if known.is_none_or(|known| known.pin != pin) {
            meta.change(|change| change.put(AUTHORITY_KEY, &AuthorityRecord { pin }))?;
        }
        Authority::built_in_with(ca, meta, parts)
    }

    /// A built-in authority that lives in memory, for simulations.
    pub fn ephemeral(meta: Arc<Meta>, parts: &Parts) -> Result<Authority> {
        let ca = CertificateAuthority::generate((parts.clock)(), Arc::clone(&parts.random))?;
        Authority::built_in_with(ca, meta, parts)
    }

    /// The user's own authority: certificates come from elsewhere.
    pub fn own(tls: &ServeTls, meta: Arc<Meta>, parts: &Parts) -> Result<Authority> {
        let authorities = server::read_chain(&tls.ca)?;
        let server = Arc::new(server::OwnCertificate::new(tls)?);
        let own = Some(Arc::clone(&server));
        let mut authority =
            Authority::parts((None, authorities, Names::UriOrHost), server, meta, parts)?;
        authority.own = own;
        Ok(Authority(Arc::new(authority)))
    }

    fn built_in_with(
        ca: CertificateAuthority,
        meta: Arc<Meta>,
        parts: &Parts,
    ) -> Result<Authority> {
        let ca = Arc::new(ca);
        let clock = Arc::clone(&parts.clock);
        let server = Arc::new(server::RenewedCertificate::new(Arc::clone(&ca), clock)?);
        let authorities = vec![ca.certificate.clone()];
        let authority = Authority::parts((Some(ca), authorities, Names::Uri), server, meta, parts)?;
        Ok(Authority(Arc::new(authority)))
    }

    fn parts(
        (ca, authorities, names): (
            Option<Arc<CertificateAuthority>>,
            Vec<CertificateDer<'static>>,
            Names,
        ),
        server: Arc<dyn ResolvesServerCert>,
        meta: Arc<Meta>,
        parts: &Parts,
    ) -> Result<Inner> {
        let (mut revoked, mut granted) = (HashSet::new(), HashMap::new());
        for (id, agent) in meta.records::<AgentRecord>()? {
            let Ok(id) = id.parse::<AgentId>() else {
                continue;
            };
            if agent.standing == Standing::Revoked {
                revoked.insert(id);
            } else if agent.has_joined_here()
                && ca.is_some()
                && let Ok(topics) = TopicAcl::new(agent.topics)
            {
                granted.insert(id, topics);
            }
        }
        Ok(Inner {
            verifier: PeerVerifier::new(&authorities, names)?,
            ca,
            authorities,
            server,
            own: None,
            attempts: attempts::Attempts::default(),
            denied: watch::Sender::new(Arc::new(revoked)),
            granted: Mutex::new(granted),
            granting: Mutex::default(),
            meta,
            clock: Arc::clone(&parts.clock),
            random: Arc::clone(&parts.random),
            blocking: parts.blocking,
        })
    }

    /// Reads a user's own certificate again: it may have been rotated. Waits for the disk.
    pub fn read_certificate_again(&self) {
        if let Some(own) = &self.own {
            own.read_again();
        }
    }

    /// TLS for both listeners and both protocols; see [`server`] for what it does not decide.
    pub fn server_tls(&self) -> Result<ServerConfig> {
        server::server_config(Arc::clone(&self.server), &self.clock)
    }

    /// Who showed these certificates, if it may speak `weir/1` here.
    pub fn peer(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> std::result::Result<AgentIdentity, Refusal> {
        let mut agent = self.verifier.check(chain, self.now())?;
        if self.denied.borrow().contains(&agent.id) {
            return Err(revoked(&agent.id));
        }
        if let Some(topics) = self.grants().get(&agent.id) {
            agent.topics = topics.clone();
        }
        Ok(agent)
    }

    /// Whether an agent that showed its certificate a while ago may still ship.
    pub fn in_force(&self, agent: &AgentIdentity) -> std::result::Result<(), Refusal> {
        if self.now() > agent.expires {
            return Err(peer::expired());
        }
        Ok(())
    }

    /// Whether an agent that connected a while ago has since been granted other topics: its session
    /// goes by those it began with.
    pub fn is_granted_otherwise(&self, agent: &AgentIdentity) -> bool {
        let grants = self.grants();
        let granted = grants.get(&agent.id);
        granted.is_some_and(|topics| *topics != agent.topics)
    }

    /// The revoked agents, now and at each change: their open connections must end.
    pub fn revoked_agents(&self) -> watch::Receiver<Arc<HashSet<AgentId>>> {
        self.denied.subscribe()
    }

    /// A new certificate for an agent that is connected, over its present or another key.
    pub async fn renew(
        &self,
        agent: &AgentIdentity,
        certificate_request: &[u8],
    ) -> std::result::Result<Renewed, Refusal> {
        let (authority, agent) = (self.clone(), agent.clone());
        let request = certificate_request.to_vec();
        self.blocking
            .run(move || authority.renew_now(&agent, &request))
            .await
    }

    fn renew_now(
        &self,
        agent: &AgentIdentity,
        request: &[u8],
    ) -> std::result::Result<Renewed, Refusal> {
        let ca = self.built_in()?;
        if self.denied.borrow().contains(&agent.id) {
            return Err(revoked(&agent.id));
        }
        self.in_force(agent)?;
        let checked = CheckedRequest::read(request).ok_or_else(|| {
            let what = "the certificate request is damaged, or its key is not Ed25519";
            Refusal::new(Code::BadRequest, what, "restart the agent")
        })?;
        let now = self.now();
        // It may have joined again since the session began.
        let granted = self.grants().get(&agent.id).cloned();
        let topics = granted.unwrap_or_else(|| agent.topics.clone());
        let issued = ca
            .issue_agent(&checked, &agent.id, &topics, now)
            .map_err(|error| internal(&error))?;
        self.meta
            .change(|change| agents::renewed(change, &agent.id, &topics, &issued, now))
            .map_err(|error: Error| internal(&error))?;
        Ok(Renewed {
            certificates: vec![issued.certificate.to_vec()],
            authorities: self.authorities.iter().map(|der| der.to_vec()).collect(),
        })
    }

    /// Makes a join token for these addresses. Waits for the disk.
    pub fn create_token(&self, new: &NewToken, addresses: &[HostPort]) -> Result<MadeToken> {
        let ca = self
            .built_in()
            .map_err(|refusal| Error::input(refusal.to_string()))?;
        if addresses.is_empty() {
            return Err(Error::input("a token needs an address: set `advertise`"));
        }
        let now = self.now();
        self.meta
            .change(|change| tokens::create(change, new, (ca.pin, addresses), now, &self.random))
    }

    /// The join tokens, the newest first. Waits for the disk.
    pub fn tokens(&self) -> Result<Vec<TokenInfo>> {
        Ok(tokens::list(
            self.meta.records::<TokenRecord>()?,
            self.now(),
        ))
    }

    /// Takes a join token back; `None` when there is no such token. Waits for the disk.
    pub fn revoke_token(&self, id: &str) -> Result<Option<TokenInfo>> {
        let now = self.now();
        self.meta.change(|change| tokens::revoke(change, id, now))
    }

    /// The agents that have joined, by name. Waits for the disk.
    pub fn agents(&self) -> Result<Vec<JoinedAgent>> {
        let records = self.meta.records::<AgentRecord>()?;
        let named = records.into_iter().filter_map(|(id, record)| {
            let id = id.parse().ok()?;
            Some(record.joined(id))
        });
        Ok(named.collect())
    }

    /// Forgets agents whose certificates ended long ago. Waits for the disk.
    pub fn forget_agents(&self) -> Result<()> {
        let now = self.now();
        let _in_order = self.granting();
        let forgotten = self.meta.change(|change| agents::forget_old(change, now))?;
        let mut grants = self.grants();
        for id in forgotten {
            tracing::info!(agent = %id, "forgotten: its certificate ended long ago");
            grants.remove(&id);
        }
        Ok(())
    }

    /// Takes an agent's right back, durably, and tells who watches. Waits for the disk.
    pub fn revoke_agent(&self, id: &AgentId) -> Result<()> {
        let now = self.now();
        self.meta.change(|change| agents::revoke(change, id, now))?;
        self.denied.send_modify(|denied| {
            let mut all = HashSet::clone(denied);
            all.insert(id.clone());
            *denied = Arc::new(all);
        });
        Ok(())
    }

    /// The hash that join tokens pin; `None` with the user's own authority.
    pub fn pin(&self) -> Option<AuthorityPin> {
        self.ca.as_ref().map(|ca| ca.pin)
    }
}

impl Inner {
    /// A panic elsewhere leaves the table whole: each change is a single insert or removal.
    fn grants(&self) -> std::sync::MutexGuard<'_, HashMap<AgentId, TopicAcl>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It guards nothing of its own that a panic could leave in pieces.
    fn granting(&self) -> std::sync::MutexGuard<'_, ()> {
        self.granting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    fn authorities(&self) -> Vec<Binary> {
        self.authorities
            .iter()
            .map(|der| Binary(der.to_vec()))
            .collect()
    }

    /// The built-in authority, or why there is none.
    fn built_in(&self) -> std::result::Result<&CertificateAuthority, Refusal> {
        self.ca.as_deref().ok_or_else(|| {
            Refusal::new(
                Code::OwnAuthority,
                "this aggregator uses certificates of an authority of your own and makes none",
                "give the agent a certificate of that authority, in `ship.tls` of its agent.yaml",
            )
        })
    }
}

/// What a peer is told of our own failure; the log has the whole.
fn internal(error: &Error) -> Refusal {
    tracing::error!(%error, "identity database failed");
    let help = match error.kind {
        ErrorKind::Retry => "try again in a minute",
        _ => "look at the aggregator's log",
    };
    let message = "the aggregator could not write its database";
    Refusal::new(Code::Internal, message, help)
}

/// Where agents reach this aggregator: as configured, or where it listens, by its host's name when it
/// listens everywhere.
pub fn reachable_at(advertise: &[HostPort], listening: SocketAddr) -> Vec<HostPort> {
    if !advertise.is_empty() {
        return advertise.to_vec();
    }
    let host = if listening.ip().is_unspecified() {
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        // A host name that is no host name is of no use in a token.
        let usable = format!("{name}:1").parse::<HostPort>().is_ok();
        if usable { name } else { "127.0.0.1".to_owned() }
    } else {
        listening.ip().to_string()
    };
    vec![HostPort {
        host,
        port: listening.port(),
    }]
}

fn revoked(id: &AgentId) -> Refusal {
    Refusal::new(
        Code::AgentRevoked,
        format!("the agent {id} was revoked"),
        REVOKED_HELP,
    )
}

/// How a host whose agent was revoked comes back: under a new name, which the join gives it.
pub(crate) const REVOKED_HELP: &str = "if its host is to ship again, make a token with `weir token \
     create` and join again there with `weir-agent join TOKEN`";

const AUTHORITY_KEY: &str = "built-in";
