//! Who this agent is to aggregators, and which of them it trusts.
//!
//! After `join` both stand in one file, `data_dir/identity/identity.json` (mode 0600): key,
//! certificate and trusted authorities are replaced together or not at all. It is read again when an
//! aggregator refuses it, so a join beside a running agent needs no restart. With `ship.tls` they are
//! the user's own files, read again at each connection, so that a rotated certificate needs no
//! restart; the last good ones stay in use when new ones cannot be read.
//!
//! Aggregators with the built-in authority are known by its key and always have the name
//! [`SERVER_NAME`] in their certificate. Verification is never skipped.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arc_swap::ArcSwap;
use commitlog::id::Timestamp;
use commitlog::wire::message::Renewed;
use config::join::SERVER_NAME;
use config::join::id::AgentId;
use config::join::message::Binary;
use config::private_file;
use config::value::HostPort;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ambient::Clock;
use crate::config::ShipTls;
use crate::limits::IDENTITY_FILE_BYTES_MAX;
use crate::producer::{Identity, Reloaded};

pub mod tls;

/// This agent's identity; clones share it.
#[derive(Clone)]
pub struct ClientIdentity(Arc<Shared>);

struct Shared {
    source: Origin,
    clock: Clock,
    tls: ArcSwap<ClientConfig>,
}

/// Where an identity comes from.
enum Origin {
    Joined {
        path: PathBuf,
        state: ArcSwap<StoredIdentity>,
    },
    Own(ShipTls),
}

/// What `join` leaves behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredIdentity {
    /// The agent's name.
    pub agent: String,
    /// The private key, PKCS #8 in DER.
    pub key: PrivateKey,
    /// The certificate, then those between it and the authority, in DER.
    pub certificates: Vec<Binary>,
    /// The trusted authorities, in DER.
    pub authorities: Vec<Binary>,
    /// When to ask for a new certificate.
    pub renew_at_ms: i64,
    /// When the certificate ends.
    pub expires_ms: i64,
    /// Where to connect, when the configuration does not say.
    pub aggregators: Vec<String>,
    /// The topics this agent may write, as patterns.
    pub allowed: Vec<String>,
}

/// A private key, never shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(pub Binary);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl ClientIdentity {
    /// The joined identity, or the user's own with `ship.tls`.
    pub fn load(data_dir: &Path, tls: Option<&ShipTls>, clock: Clock) -> Result<ClientIdentity> {
        if let Some(own) = tls {
            let config = own_tls(own, &clock)?;
            if let Some(warning) = private_file::exposed(&own.key) {
                tracing::warn!("{warning}");
            }
            return Ok(ClientIdentity(Arc::new(Shared {
                source: Origin::Own(own.clone()),
                clock,
                tls: ArcSwap::from(config),
            })));
        }
        let path = path(data_dir);
        let Some(stored) = StoredIdentity::read(&path)? else {
            bail!(
                "this agent has not joined an aggregator: {} is missing; make a token there with \
                 `weir token create`, then run `weir-agent join TOKEN --data-dir {}`",
                path.display(),
                data_dir.display()
            );
        };
        let config = stored
            .tls(&clock)
            .with_context(|| format!("{}: remove it and join again", path.display()))?;
        Ok(ClientIdentity(Arc::new(Shared {
            source: Origin::Joined {
                path,
                state: ArcSwap::from_pointee(stored),
            },
            clock,
            tls: ArcSwap::from(config),
        })))
    }

    /// Where to connect when the configuration does not say: what the join told.
    pub fn aggregators(&self) -> Vec<HostPort> {
        match &self.0.source {
            Origin::Own(_) => Vec::new(),
            Origin::Joined { state, .. } => {
                let known = state.load();
                known
                    .aggregators
                    .iter()
                    .filter_map(|text| text.parse().ok())
                    .collect()
            }
        }
    }

    /// This agent's name; `None` with the user's own certificates, whose reader is the aggregator.
    pub fn agent(&self) -> Option<AgentId> {
        match &self.0.source {
            Origin::Own(_) => None,
            Origin::Joined { state, .. } => state.load().agent.parse().ok(),
        }
    }

    /// When the certificate ends; `None` with the user's own certificates.
    pub fn expires(&self) -> Option<Timestamp> {
        match &self.0.source {
            Origin::Own(_) => None,
            Origin::Joined { state, .. } => Some(Timestamp(state.load().expires_ms)),
        }
    }

    /// A certificate request over the present key, from two thirds of the certificate's life on.
    fn renewal_request(&self) -> Result<Option<Vec<u8>>> {
        let Origin::Joined { state, .. } = &self.0.source else {
            return Ok(None);
        };
        let stored = state.load();
        if (self.0.clock)().0 < stored.renew_at_ms {
            return Ok(None);
        }
        certificate_request(&stored.key).map(Some)
    }

    /// Takes a new certificate: checked, durable, then in use from the next connection on.
    fn install(&self, renewed: &Renewed) -> Result<()> {
        let Origin::Joined { path, state } = &self.0.source else {
            bail!("certificates of your own are not renewed by the aggregator");
        };
        let binaries = |all: &[Vec<u8>]| all.iter().cloned().map(Binary).collect::<Vec<_>>();
        let certificates = binaries(&renewed.certificates);
        let (now, expires) = ((self.0.clock)(), expires(&certificates)?);
        ensure!(expires > now, "it has expired already");
        let stored = StoredIdentity {
            certificates,
            authorities: binaries(&renewed.authorities),
            renew_at_ms: renew_at(now, expires),
            expires_ms: expires.0,
            ..StoredIdentity::clone(&state.load())
        };
        let tls = stored.tls(&self.0.clock)?;
        stored.write(path)?;
        state.store(Arc::new(stored));
        self.0.tls.store(tls);
        Ok(())
    }
}

impl ClientIdentity {
    /// Takes what a join has left since, if it did.
    fn take_joined(&self) -> Result<Reloaded> {
        let Origin::Joined { path, state } = &self.0.source else {
            return Ok(Reloaded::Same);
        };
        let Some(stored) = StoredIdentity::read(path)? else {
            return Ok(Reloaded::Same);
        };
        if stored.certificates == state.load().certificates {
            return Ok(Reloaded::Same);
        }
        let tls = stored.tls(&self.0.clock)?;
        state.store(Arc::new(stored));
        self.0.tls.store(tls);
        Ok(Reloaded::Another)
    }
}

impl Identity for ClientIdentity {
    fn tls(&self) -> Arc<ClientConfig> {
        if let Origin::Own(own) = &self.0.source {
            match own_tls(own, &self.0.clock) {
                Ok(config) => self.0.tls.store(config),
                Err(error) => tracing::warn!("certificates not read again: {error:#}"),
            }
        }
        self.0.tls.load_full()
    }

    fn server_name(&self, host: &str) -> String {
        match &self.0.source {
            Origin::Joined { .. } => SERVER_NAME.to_owned(),
            Origin::Own(own) => own.server_name.clone().unwrap_or_else(|| host.to_owned()),
        }
    }

    fn renewal(&self) -> Option<Vec<u8>> {
        self.renewal_request().unwrap_or_else(|error| {
            tracing::error!("no certificate request: {error:#}");
            None
        })
    }

    fn renewed(&self, renewed: &Renewed) -> Result<(), String> {
        // The answer is for a key that a join has replaced: installed, it would undo the join.
        match self.take_joined() {
            Ok(Reloaded::Another) => Ok(()),
            Ok(Reloaded::Same) | Err(_) => {
                self.install(renewed).map_err(|error| format!("{error:#}"))
            }
        }
    }

    fn reload(&self) -> Result<Reloaded, String> {
        self.take_joined().map_err(|error| format!("{error:#}"))
    }
}

impl StoredIdentity {
    /// Reads the file; `None` when there is none.
    pub fn read(path: &Path) -> Result<Option<StoredIdentity>> {
        let bytes = match private_file::read(path, IDENTITY_FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| path.display().to_string())?,
        };
        let stored = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is damaged: remove it and join again with a new token",
                path.display()
            )
        })?;
        Ok(Some(stored))
    }

    /// Replaces the file, durably.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self)?;
        private_file::write(path, &bytes).with_context(|| path.display().to_string())
    }

    /// The configuration in which this identity ships. Fails when key, certificate and authorities
    /// do not fit.
    pub fn tls(&self, clock: &Clock) -> Result<Arc<ClientConfig>> {
        tls::ship_config(self.chain(), self.private_key(), &self.authorities(), clock)
    }

    /// The certificates, as rustls has them.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.certificates
            .iter()
            .map(|der| der.0.clone().into())
            .collect()
    }

    /// The key, as rustls has it.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.0.0.clone().into())
    }

    fn authorities(&self) -> Vec<CertificateDer<'static>> {
        self.authorities
            .iter()
            .map(|der| der.0.clone().into())
            .collect()
    }
}

/// Where the identity lies.
pub fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("identity").join("identity.json")
}

/// A new key pair.
pub fn new_key() -> Result<PrivateKey> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    Ok(PrivateKey(Binary(key.serialize_der())))
}

/// A certificate request in DER, which proves that its sender has the key. It asks for nothing: the
/// aggregator decides what stands in the certificate.
pub fn certificate_request(key: &PrivateKey) -> Result<Vec<u8>> {
    let key = KeyPair::try_from(key.0.0.as_slice()).context("the private key is damaged")?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(&key)?.der().to_vec())
}

/// Two thirds of the way from now to the end.
pub fn renew_at(now: Timestamp, expires: Timestamp) -> i64 {
    now.0
        .saturating_add(expires.0.saturating_sub(now.0) / 3 * 2)
}

/// When the first of these certificates ends.
pub fn expires(certificates: &[Binary]) -> Result<Timestamp> {
    let first = certificates.first().context("there is no certificate")?;
    let (_, parsed) = X509Certificate::from_der(&first.0).context("the certificate is damaged")?;
    Ok(Timestamp(
        parsed.validity().not_after.timestamp().saturating_mul(1000),
    ))
}

fn own_tls(own: &ShipTls, clock: &Clock) -> Result<Arc<ClientConfig>> {
    let key =
        PrivateKeyDer::from_pem_file(&own.key).with_context(|| own.key.display().to_string())?;
    tls::ship_config(read_chain(&own.cert)?, key, &read_chain(&own.ca)?, clock)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let chain: Vec<_> = read.with_context(|| path.display().to_string())?;
    ensure!(!chain.is_empty(), "{} holds no certificate", path.display());
    Ok(chain)
}
