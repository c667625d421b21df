//! Trusts an aggregator whose authority has the key that the token names, and no other.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use config::join::ENROL_ALPN;
use config::join::id::AuthorityPin;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme, version,
};

use crate::ambient::Clock;
use crate::identity::StoredIdentity;
use crate::identity::tls::{provider, server_verifier, wall_time};

/// Checks that the chain ends in the pinned authority, and everything else as usual: signatures,
/// time, name.
pub(super) struct PinVerifier {
    pin: AuthorityPin,
    provider: Arc<CryptoProvider>,
    /// Why the last handshake was given up: TLS only tells the other side.
    refused: Mutex<Option<String>>,
}

impl PinVerifier {
    pub(super) fn new(pin: AuthorityPin) -> Arc<PinVerifier> {
        Arc::new(PinVerifier {
            pin,
            provider: provider(),
            refused: Mutex::default(),
        })
    }

    /// Why this verifier gave a handshake up, if it did.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// For enrolment. An agent that joined before shows its old certificate, which keeps its name.
    pub(super) fn config(
        self: &Arc<PinVerifier>,
        old: Option<&StoredIdentity>,
        clock: &Clock,
    ) -> anyhow::Result<Arc<ClientConfig>> {
        let builder = ClientConfig::builder_with_details(provider(), wall_time(clock))
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(self) as Arc<dyn ServerCertVerifier>);
        let with_old = old.and_then(|old| {
            let shown = builder
                .clone()
                .with_client_auth_cert(old.chain(), old.private_key());
            shown.ok()
        });
        let mut config = with_old.unwrap_or_else(|| builder.with_no_client_auth());
        config.alpn_protocols = vec![ENROL_ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn refuse(&self, why: String) -> Error {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
    }
}

impl fmt::Debug for PinVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinVerifier({})", self.pin)
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pins: Vec<_> = intermediates.iter().filter_map(pin_of).collect();
        let Some(at) = intermediates
            .iter()
            .position(|der| pin_of(der) == Some(self.pin))
        else {
            let shown: Vec<String> = pins.iter().map(AuthorityPin::to_string).collect();
            let shown = if shown.is_empty() {
                "none".to_owned()
            } else {
                shown.join(", ")
            };
            return Err(self.refuse(format!(
                "this is not the aggregator that made the token: the token names the authority {}, \
                 the server shows {shown}; check the address, and make a new token if the \
                 aggregator was set up anew",
                self.pin
            )));
        };
        let verifier = server_verifier(&intermediates[at..=at])
            .map_err(|error| self.refuse(format!("the aggregator's authority: {error:#}")))?;
        verifier
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| self.refuse(explain(&error)))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn pin_of(certificate: &CertificateDer<'_>) -> Option<AuthorityPin> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(AuthorityPin::of_public_key(
        &parsed.subject_public_key_info(),
    ))
}

fn explain(error: &Error) -> String {
    let Error::InvalidCertificate(certificate) = error else {
        return format!("the aggregator's certificate: {error}");
    };
    match certificate {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            format!("{error}; set this host's clock, and the aggregator's")
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "somebody shows the aggregator's authority without having its key: the connection is \
             being intercepted"
                .to_owned()
        }
        _ => format!("the aggregator's certificate: {error}"),
    }
}
