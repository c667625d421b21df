//! The names of agents, tokens and authorities, and the base32 they are written in.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};

use crate::limits::AGENT_ID_BYTES_MAX;

/// An agent's name: 1 to 64 of `a-z A-Z 0-9 . _ -`, beginning with a letter or a digit. The built-in
/// authority draws 26 characters at random; a user's own authority chooses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentId(String);

/// A token's public part: names it in lists and logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 5]);

/// The first 160 bits of the SHA-256 of an authority's public key (its DER
/// `SubjectPublicKeyInfo`). Finding another key with the same pin takes 2¹⁶⁰ attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuthorityPin(pub [u8; 20]);

/// A text is not such a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAName(String);

impl AgentId {
    /// The id that these random bits stand for.
    pub fn from_random(bits: [u8; 16]) -> AgentId {
        AgentId(base32(&bits))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AgentId {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<AgentId, NotAName> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let starts_well = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if !starts_well || text.len() > AGENT_ID_BYTES_MAX || !text.bytes().all(legal) {
            return Err(NotAName(format!(
                "an agent's id has 1 to {AGENT_ID_BYTES_MAX} letters, digits, '.', '_' and '-'"
            )));
        }
        Ok(AgentId(text.to_owned()))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl FromStr for TokenId {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<TokenId, NotAName> {
        let bytes = from_base32(text).and_then(|bytes| bytes.try_into().ok());
        let wrong =
            || NotAName("a token's id is 8 letters and digits, as `weir token list` shows".into());
        bytes.map(TokenId).ok_or_else(wrong)
    }
}

impl AuthorityPin {
    /// The pin of an authority with this public key, given as DER `SubjectPublicKeyInfo`.
    pub fn of_public_key(subject_public_key_info: &[u8]) -> AuthorityPin {
        let hash = digest(&SHA256, subject_public_key_info);
        let mut pin = [0; 20];
        pin.copy_from_slice(&hash.as_ref()[..20]);
        AuthorityPin(pin)
    }
}

impl fmt::Display for AuthorityPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

/// Lower-case base32 without padding: no character is mistaken for another when read aloud, and a
/// double click selects the whole.
pub(crate) fn base32(bytes: &[u8]) -> String {
    data_encoding::BASE32_NOPAD
        .encode(bytes)
        .to_ascii_lowercase()
}

/// Reads [`base32`] back; `None` for anything it would not have written.
pub(crate) fn from_base32(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let upper = text.to_ascii_uppercase();
    data_encoding::BASE32_NOPAD.decode(upper.as_bytes()).ok()
}
