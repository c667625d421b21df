//! Who is at the other end: an agent's identity, read from its certificate and from nothing else.

use std::sync::Arc;

use commitlog::error::{Error, Result};
use commitlog::id::Timestamp;
use config::join::id::AgentId;
use config::join::refusal::{Code, Refusal};
use config::join::{AGENT_URI, TOPICS_URI};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::identity::acl::TopicAcl;
use crate::identity::server::{provider, unix_time};

/// An agent that has shown its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentIdentity {
    /// Its name.
    pub id: AgentId,
    /// What it may write.
    pub topics: TopicAcl,
    /// When its certificate ends.
    pub expires: Timestamp,
}

/// Checks agents' certificates against the authorities.
pub(super) struct PeerVerifier {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Names,
}

/// Where an agent's name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// In the URI `weir://agent/<id>`, as the built-in authority writes it.
    Uri,
    /// There, or else the first DNS name, or else the common name: a user's own authority. Without
    /// `weir://topics/…` such an agent may write every topic.
    UriOrHost,
}

impl PeerVerifier {
    pub(super) fn new(
        authorities: &[CertificateDer<'static>],
        names: Names,
    ) -> Result<PeerVerifier> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            let wrong = |error| Error::input(format!("an authority's certificate: {error}"));
            roots.add(authority.clone()).map_err(wrong)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
            .build()
            .map_err(|error| Error::input(format!("the authorities: {error}")))?;
        Ok(PeerVerifier { verifier, names })
    }

    /// Checks the chain as of `now`: made by an authority of ours, in force, for a client.
    pub(super) fn check(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> std::result::Result<AgentIdentity, Refusal> {
        let Some((certificate, intermediates)) = chain.split_first() else {
            return Err(Refusal::new(
                Code::CertificateMissing,
                "this agent showed no certificate",
                format!("make a token with `weir token create` and run {JOIN}"),
            ));
        };
        self.verifier
            .verify_client_cert(certificate, intermediates, unix_time(now))
            .map_err(|error| refusal(&error))?;
        self.identity(certificate)
    }

    /// Whose certificate this is, whether or not its time is over: enough to keep a name, when the
    /// connection has shown that its key is there.
    pub(super) fn check_however_old(
        &self,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Option<AgentIdentity> {
        let last_valid = self.identity(chain.first()?).ok()?.expires;
        self.check(chain, now.min(last_valid)).ok()
    }

    fn identity(
        &self,
        certificate: &CertificateDer<'_>,
    ) -> std::result::Result<AgentIdentity, Refusal> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| invalid())?;
        let names = parsed.subject_alternative_name().map_err(|_| invalid())?;
        let names = names.map_or(&[][..], |extension| &extension.value.general_names);
        let uris = || {
            names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
        };
        let host = || {
            let dns = names.iter().find_map(|name| match name {
                GeneralName::DNSName(dns) => Some(*dns),
                _ => None,
            });
            dns.or_else(|| parsed.subject().iter_common_name().next()?.as_str().ok())
        };
        let id = uris().find_map(|uri| uri.strip_prefix(AGENT_URI));
        let id = match self.names {
            Names::Uri => id,
            Names::UriOrHost => id.or_else(host),
        };
        let patterns: Vec<String> = uris()
            .filter_map(|uri| uri.strip_prefix(TOPICS_URI))
            .map(str::to_owned)
            .collect();
        let topics = match self.names {
            Names::UriOrHost if patterns.is_empty() => TopicAcl::all(),
            _ => TopicAcl::new(patterns).map_err(|_| invalid())?,
        };
        Ok(AgentIdentity {
            id: id.and_then(|id| id.parse().ok()).ok_or_else(invalid)?,
            topics,
            expires: Timestamp(parsed.validity().not_after.timestamp().saturating_mul(1000)),
        })
    }
}

/// The certificate's error in words that help.
fn refusal(error: &rustls::Error) -> Refusal {
    let rustls::Error::InvalidCertificate(error) = error else {
        return invalid();
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => expired(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Refusal::new(
                Code::CertificateNotYetValid,
                "this agent's certificate is not valid yet",
                "set the clocks of the agent and of the aggregator",
            )
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Refusal::new(
            Code::CertificateUnknownAuthority,
            "this agent's certificate was made by another authority",
            format!("make a token on this aggregator with `weir token create` and run {JOIN}"),
        ),
        _ => invalid(),
    }
}

pub(super) fn expired() -> Refusal {
    Refusal::new(
        Code::CertificateExpired,
        "this agent's certificate has expired",
        format!("make a token with `weir token create` and run {JOIN}; it keeps its name"),
    )
}

fn invalid() -> Refusal {
    Refusal::new(
        Code::CertificateInvalid,
        "this is not a certificate of an agent",
        format!("make a token with `weir token create` and run {JOIN}"),
    )
}

const JOIN: &str = "`weir-agent join TOKEN` on its host";
