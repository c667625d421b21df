//! Why an aggregator turns an agent away, and what the agent's operator does about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal: a code for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}; {help}")]
pub struct Refusal {
    /// Which.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No token with that id was made here.
    TokenUnknown,
    /// Its time is over.
    TokenExpired,
    /// It has been used as often as it may.
    TokenUsedUp,
    /// An operator took it back.
    TokenRevoked,
    /// The proof does not fit this connection, this request or this token.
    BadProof,
    /// Too many wrong attempts from one place.
    RateLimited,
    /// The message cannot be read.
    BadRequest,
    /// The aggregator uses certificates of the user's own authority and makes none.
    OwnAuthority,
    /// The agent showed no certificate.
    CertificateMissing,
    /// The certificate's time is over.
    CertificateExpired,
    /// The certificate's time has not begun, or a clock is wrong.
    CertificateNotYetValid,
    /// Another authority made the certificate.
    CertificateUnknownAuthority,
    /// The certificate is not one of an agent, or is damaged.
    CertificateInvalid,
    /// An operator took the agent's right back.
    AgentRevoked,
    /// The aggregator failed; trying again may help.
    Internal,
    /// One of a later version.
    #[serde(other)]
    Unknown,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
            help: help.into(),
        }
    }
}

impl Code {
    /// Whether the same attempt can succeed later without a person doing anything.
    pub fn passes(self) -> bool {
        matches!(self, Code::RateLimited | Code::Internal)
    }
}

impl fmt::Display for Code {
    /// The code as it stands in messages: `token_used_up`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_value(self).unwrap_or_default();
        f.write_str(text.as_str().unwrap_or("unknown"))
    }
}
