//! The built-in certificate authority: an Ed25519 key in `data_dir/ca`, made at the first start.
//!
//! - `key.pem` is written before `cert.pem`; a start that finds only the key makes the certificate
//!   for it, so a crash between the two is completed.
//! - What is there is never overwritten. A certificate without its key, a file that cannot be read,
//!   or a folder that has vanished is an error: a new authority made in silence would lock every
//!   agent out.
//! - Certificates are built from nothing but the public key of a request. Names, usages and lifetimes
//!   that a request asks for are not looked at.

use std::path::Path;
use std::time::Duration;

use commitlog::error::{Error, Result};
use commitlog::id::Timestamp;
use config::join::id::{AgentId, AuthorityPin};
use config::join::{AGENT_URI, SERVER_NAME, TOPICS_URI};
use config::private_file;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::acl::TopicAcl;
use crate::limits::{
    AUTHORITY_DAYS, CERTIFICATE_BACKDATED_HOURS, CERTIFICATE_DAYS, IDENTITY_FILE_BYTES_MAX,
};
use crate::parts::Random;

/// The authority's key and certificate.
pub(super) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) pin: AuthorityPin,
    random: Random,
}

/// A certificate just made.
pub(super) struct Issued {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) serial: [u8; 16],
    pub(super) expires: Timestamp,
}

/// The server's own certificate and its key.
pub(super) struct ServerIdentity {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) expires: Timestamp,
}

/// A certificate request whose signature has been checked: whoever sent it has the private key.
pub(super) struct CheckedRequest {
    request: CertificateSigningRequestParams,
}

impl CheckedRequest {
    /// Reads a PKCS #10 request and checks its signature. Ed25519 only: one algorithm, no choices.
    pub(super) fn read(der: &[u8]) -> Option<CheckedRequest> {
        let request = CertificateSigningRequestParams::from_der(&der.into()).ok()?;
        (request.public_key.algorithm() == &PKCS_ED25519).then_some(CheckedRequest { request })
    }

    /// The public key.
    pub(super) fn public_key(&self) -> &[u8] {
        self.request.public_key.der_bytes()
    }
}

impl CertificateAuthority {
    /// A new authority that lives in memory.
    pub(super) fn generate(now: Timestamp, random: Random) -> Result<CertificateAuthority> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
        let certificate = self_signed(&key, now, &random)?;
        CertificateAuthority::new(key, certificate.der().clone(), random)
    }

    /// The authority in `dir`, made there when the folder is empty or absent.
    pub(super) fn load_or_create(
        dir: &Path,
        now: Timestamp,
        random: Random,
    ) -> Result<CertificateAuthority> {
        let (key_path, certificate_path) = (dir.join("key.pem"), dir.join("cert.pem"));
        let told = |path: &Path, error: std::io::Error| {
            Error::io(format!("certificate authority: {}", path.display()), error)
        };
        private_file::create_dir(dir).map_err(|error| told(dir, error))?;
        let has_certificate = certificate_path.exists();
        if has_certificate && !key_path.exists() {
            return Err(Error::damaged(format!(
                "{} is missing while its certificate is there: restore it from a backup; to start \
                 a new authority, which every agent must join again, remove both files",
                key_path.display()
            )));
        }
        let key = if key_path.exists() {
            read_key(&key_path)?
        } else {
            let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
            private_file::write(&key_path, key.serialize_pem().as_bytes())
                .map_err(|error| told(&key_path, error))?;
            key
        };
        let certificate = if has_certificate {
            read_certificate(&certificate_path)?
        } else {
            let certificate = self_signed(&key, now, &random)?;
            private_file::write(&certificate_path, certificate.pem().as_bytes())
                .map_err(|error| told(&certificate_path, error))?;
            certificate.der().clone()
        };
        let made_for_key =
            public_key_info(&certificate).is_some_and(|info| info.ends_with(key.der_bytes()));
        if !made_for_key {
            return Err(Error::damaged(format!(
                "{} and {} do not belong together: restore both from one backup",
                key_path.display(),
                certificate_path.display()
            )));
        }
        CertificateAuthority::new(key, certificate, random)
    }

    fn new(
        key: KeyPair,
        certificate: CertificateDer<'static>,
        random: Random,
    ) -> Result<CertificateAuthority> {
        let info = public_key_info(&certificate)
            .ok_or_else(|| Error::damaged("the authority's certificate cannot be read"))?;
        Ok(CertificateAuthority {
            pin: AuthorityPin::of_public_key(&info),
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(failed)?,
            certificate,
            random,
        })
    }

    /// A client certificate for an agent.
    pub(super) fn issue_agent(
        &self,
        request: &CheckedRequest,
        id: &AgentId,
        topics: &TopicAcl,
        now: Timestamp,
    ) -> Result<Issued> {
        let (mut params, serial, expires) = self.params(id.as_str(), now);
        let mut uris = vec![format!("{AGENT_URI}{id}")];
        uris.extend(
            topics
                .patterns()
                .iter()
                .map(|pattern| format!("{TOPICS_URI}{pattern}")),
        );
        for uri in uris {
            let uri = uri.try_into().map_err(failed)?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params
            .signed_by(&request.request.public_key, &self.issuer)
            .map_err(failed)?;
        Ok(Issued {
            certificate: certificate.der().clone(),
            serial,
            expires,
        })
    }

    /// A server certificate with a new key, for this process's memory only.
    pub(super) fn issue_server(&self, now: Timestamp) -> Result<ServerIdentity> {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(failed)?;
        let (mut params, _, expires) = self.params(SERVER_NAME, now);
        let name = SERVER_NAME.try_into().map_err(failed)?;
        params.subject_alt_names.push(SanType::DnsName(name));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(ServerIdentity {
            certificate: certificate.der().clone(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            expires,
        })
    }

    /// What all certificates but the authority's own have in common.
    fn params(&self, name: &str, now: Timestamp) -> (CertificateParams, [u8; 16], Timestamp) {
        let serial = serial(&self.random);
        let expires = Timestamp(now.0.saturating_add(days_ms(CERTIFICATE_DAYS)));
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(backdated(now));
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(expires);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        (params, serial, expires)
    }
}

/// The DER `SubjectPublicKeyInfo` of a certificate.
pub(super) fn public_key_info(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = rustls::server::ParsedCertificate::try_from(certificate).ok()?;
    Some(parsed.subject_public_key_info().to_vec())
}

fn self_signed(key: &KeyPair, now: Timestamp, random: &Random) -> Result<rcgen::Certificate> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("weir certificate authority");
    params.serial_number = Some(SerialNumber::from_slice(&serial(random)));
    let expires = Timestamp(now.0.saturating_add(days_ms(AUTHORITY_DAYS)));
    params.not_before = date_time_ymd(1970, 1, 1) + since_1970(backdated(now));
    params.not_after = date_time_ymd(1970, 1, 1) + since_1970(expires);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.self_signed(key).map_err(failed)
}

fn read_key(path: &Path) -> Result<KeyPair> {
    let bytes = private_file::read(path, IDENTITY_FILE_BYTES_MAX)
        .map_err(|error| Error::io(path.display().to_string(), error))?;
    let key = std::str::from_utf8(&bytes)
        .ok()
        .and_then(|pem| KeyPair::from_pem(pem).ok());
    key.ok_or_else(|| damaged(path))
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>> {
    let bytes = private_file::read(path, IDENTITY_FILE_BYTES_MAX)
        .map_err(|error| Error::io(path.display().to_string(), error))?;
    CertificateDer::from_pem_slice(&bytes).map_err(|_| damaged(path))
}

fn damaged(path: &Path) -> Error {
    Error::damaged(format!(
        "{} is damaged: restore it from a backup; to start a new authority, which every agent must \
         join again, remove the files beside it",
        path.display()
    ))
}

fn common_name(name: &str) -> rcgen::DistinguishedName {
    let mut distinguished_name = rcgen::DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

/// 126 random bits that always take 16 bytes: certificates then have one length.
fn serial(random: &Random) -> [u8; 16] {
    let mut serial = [0; 16];
    random(&mut serial);
    serial[0] = (serial[0] & 0x3f) | 0x40;
    serial
}

/// Agents' clocks may be behind.
fn backdated(now: Timestamp) -> Timestamp {
    let backdated_ms = i64::from(CERTIFICATE_BACKDATED_HOURS) * 3_600_000;
    Timestamp(now.0.saturating_sub(backdated_ms))
}

fn days_ms(days: u32) -> i64 {
    i64::from(days) * 24 * 3_600_000
}

/// From 1970 on; certificates know no earlier time that matters here.
fn since_1970(at: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(at.0).unwrap_or(0))
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::input(format!("making a certificate: {error}"))
}
