//! The proof that an agent holds a token, bound to one connection and one certificate request.
//!
//! `proof = HMAC-SHA-256(key, "weir-enrol/1" ‖ exporter ‖ SHA-256(certificate request))`, where
//! `key` is derived from the token's secret by HKDF-SHA-256. The aggregator keeps the key and never
//! the secret. Whoever reads the key from the aggregator's disk can prove with it until the token
//! expires, but cannot write the token down: the disk must be as private as the authority's own key
//! that lies beside it, which is worth far more.

use ring::digest::{SHA256, digest};
use ring::{hkdf, hmac};

use crate::join::token::Secret;

/// The TLS exporter's label (RFC 5705, RFC 8446 7.5). The context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-weir-enrol/1";

/// What the TLS exporter gives for [`EXPORTER_LABEL`]: both ends of one connection have it, nobody
/// else, and no other connection.
pub type Exporter = [u8; 32];

/// What the aggregator keeps of a token's secret.
#[derive(Clone)]
pub struct ProofKey([u8; 32]);

impl ProofKey {
    /// Derives the key.
    pub fn of_secret(secret: &Secret) -> ProofKey {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"weir-enrol/1 token");
        let mut key = [0; 32];
        salt.extract(&secret.0)
            .expand(&[b"proof key"], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .expect("32 bytes are one block of HKDF-SHA-256");
        ProofKey(key)
    }

    /// A key that was kept.
    pub fn from_bytes(bytes: [u8; 32]) -> ProofKey {
        ProofKey(bytes)
    }

    /// The key, to be kept.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Proves for this connection and this certificate request.
    pub fn prove(&self, exporter: &Exporter, certificate_request: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let tag = hmac::sign(&key, &covered(exporter, certificate_request));
        let mut proof = [0; 32];
        proof.copy_from_slice(tag.as_ref());
        proof
    }

    /// Whether `proof` was made with this key for this connection and request, in constant time.
    pub fn verify(&self, exporter: &Exporter, certificate_request: &[u8], proof: &[u8]) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        hmac::verify(&key, &covered(exporter, certificate_request), proof).is_ok()
    }
}

impl std::fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProofKey(…)")
    }
}

fn covered(exporter: &Exporter, certificate_request: &[u8]) -> Vec<u8> {
    let mut covered = b"weir-enrol/1".to_vec();
    covered.extend(exporter);
    covered.extend(digest(&SHA256, certificate_request).as_ref());
    covered
}
