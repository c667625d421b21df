//! The aggregator's side of TLS.
//!
//! One configuration serves both protocols on one port. A client certificate is asked for and never
//! demanded in the handshake: TLS could only answer with an alert, and an operator deserves a
//! sentence. The handshake proves that the client holds the key of the certificate that it shows;
//! **whether that certificate is good is decided by [`crate::identity::Authority::peer`], which every
//! `weir/1` connection must pass before anything else is said on it.**
//!
//! The built-in authority's server certificate lives in memory only: made at the start, made anew by
//! itself when two thirds of its life are over.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use commitlog::error::{Error, Result};
use commitlog::id::Timestamp;
use config::join::ENROL_ALPN;
use config::private_file;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme, version};

use crate::config::ServeTls;
use crate::identity::ca::CertificateAuthority;
use crate::parts::Clock;

/// The protocol of batches.
pub const SHIP_ALPN: &[u8] = b"weir/1";

/// The one provider of cryptography.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The configuration of both listeners.
pub(super) fn server_config(
    certificates: Arc<dyn ResolvesServerCert>,
    clock: &Clock,
) -> Result<ServerConfig> {
    let time = Arc::new(WallTime(Arc::clone(clock)));
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| Error::input(error.to_string()))?
        .with_client_cert_verifier(Arc::new(KeyHolders(provider())))
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![SHIP_ALPN.to_vec(), ENROL_ALPN.to_vec()];
    // Early data can be replayed; a resumed session would keep a certificate past its end.
    config.max_early_data_size = 0;
    config.send_tls13_tickets = 0;
    Ok(config)
}

pub(super) fn unix_time(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(at.0).unwrap_or(0)))
}

pub(super) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey> {
    CertifiedKey::from_der(chain, key, &provider())
        .map_err(|error| Error::input(format!("certificate and key: {error}")))
}

/// rustls asks our clock, so that a simulation's time holds here too.
struct WallTime(Clock);

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallTime")
    }
}

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time((self.0)()))
    }
}

/// The built-in authority's server certificate, renewed by whoever connects when it is due.
pub(super) struct RenewedCertificate {
    authority: Arc<CertificateAuthority>,
    clock: Clock,
    current: Mutex<(Arc<CertifiedKey>, Timestamp)>,
}

impl RenewedCertificate {
    pub(super) fn new(authority: Arc<CertificateAuthority>, clock: Clock) -> Result<Self> {
        let current = Mutex::new(make(&authority, clock())?);
        Ok(RenewedCertificate {
            authority,
            clock,
            current,
        })
    }
}

/// A new certificate, and when to renew it. The authority follows in the chain: an agent that joins
/// knows only the hash of its key.
fn make(
    authority: &CertificateAuthority,
    now: Timestamp,
) -> Result<(Arc<CertifiedKey>, Timestamp)> {
    let made = authority.issue_server(now)?;
    let chain = vec![made.certificate, authority.certificate.clone()];
    let key = certified_key(chain, made.key)?;
    let renew_at = Timestamp(now.0.saturating_add((made.expires.0 - now.0) / 3 * 2));
    Ok((Arc::new(key), renew_at))
}

impl fmt::Debug for RenewedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RenewedCertificate")
    }
}

impl ResolvesServerCert for RenewedCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = (self.clock)();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= current.1 {
            match make(&self.authority, now) {
                Ok(renewed) => *current = renewed,
                Err(error) => tracing::error!(%error, "server certificate not renewed"),
            }
        }
        Some(Arc::clone(&current.0))
    }
}

/// The user's own certificate, read again now and then, so that a rotated one needs no restart. The
/// last good one stays when a new one cannot be read. Handshakes take what was read: no disk is waited
/// for in them.
pub(super) struct OwnCertificate {
    tls: ServeTls,
    current: Mutex<Arc<CertifiedKey>>,
}

impl OwnCertificate {
    /// Waits for the disk.
    pub(super) fn new(tls: &ServeTls) -> Result<OwnCertificate> {
        if let Some(warning) = private_file::exposed(&tls.key) {
            tracing::warn!("{warning}");
        }
        Ok(OwnCertificate {
            tls: tls.clone(),
            current: Mutex::new(Arc::new(read_own(tls)?)),
        })
    }

    /// Waits for the disk.
    pub(super) fn read_again(&self) {
        match read_own(&self.tls) {
            Ok(read) => *self.current() = Arc::new(read),
            Err(error) => tracing::error!(%error, "the new certificate is not used"),
        }
    }

    /// A panic elsewhere leaves a whole certificate: it is only ever replaced.
    fn current(&self) -> std::sync::MutexGuard<'_, Arc<CertifiedKey>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnCertificate")
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current()))
    }
}

fn read_own(tls: &ServeTls) -> Result<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| unreadable(&tls.key, &e))?;
    certified_key(read_chain(&tls.cert)?, key)
}

/// The certificates of a PEM file, at least one.
pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let chain: Vec<_> = read.map_err(|error| unreadable(path, &error))?;
    if chain.is_empty() {
        return Err(Error::input(format!(
            "{}: holds no certificate",
            path.display()
        )));
    }
    Ok(chain)
}

fn unreadable(path: &Path, error: &rustls::pki_types::pem::Error) -> Error {
    Error::input(format!("{}: {error}", path.display()))
}

/// Lets in whoever holds the key of the certificate that it shows, or shows none.
#[derive(Debug)]
struct KeyHolders(Arc<CryptoProvider>);

impl ClientCertVerifier for KeyHolders {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        // Decided by `Authority::peer`, with words.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
