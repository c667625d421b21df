//! The agent's side of TLS: 1.3 only, one provider of cryptography, our clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, version};

use crate::ambient::Clock;

/// The protocol of batches.
pub const SHIP_ALPN: &[u8] = b"weir/1";

/// The one provider of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For shipping: shows this certificate and trusts these authorities.
pub fn ship_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: &[CertificateDer<'static>],
    clock: &Clock,
) -> Result<Arc<ClientConfig>> {
    let verifier = server_verifier(authorities)?;
    let mut config = ClientConfig::builder_with_details(provider(), wall_time(clock))
        .with_protocol_versions(&[&version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .context("certificate and key do not fit")?;
    config.alpn_protocols = vec![SHIP_ALPN.to_vec()];
    // Each connection proves anew that it holds the key.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// rustls' own verifier for these authorities.
pub fn server_verifier(authorities: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority.clone().into_owned())
            .context("an authority's certificate")?;
    }
    Ok(WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build()?)
}

/// The clock as rustls asks it.
pub fn wall_time(clock: &Clock) -> Arc<dyn TimeProvider> {
    Arc::new(WallTime(Arc::clone(clock)))
}

struct WallTime(Clock);

impl fmt::Debug for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WallTime")
    }
}

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        let ms = u64::try_from((self.0)().0).unwrap_or(0);
        Some(UnixTime::since_unix_epoch(Duration::from_millis(ms)))
    }
}
