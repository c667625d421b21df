//! The join token: one string with everything an agent needs.
//!
//! ```text
//! weir1.<pin>.<id>.<secret><checksum>@<host:port>[,<host:port>…]
//!       |     |    |       `- the first 32 bits of a SHA-256 of all before it
//!       |     |    `- 128 random bits, known to who holds the token
//!       |     `- 40 random bits, public
//!       `- 160 bits of the SHA-256 of the authority's public key
//! ```
//!
//! All in lower-case base32. The checksum catches a token that was cut or mistyped before anything
//! is asked of the network; the addresses may be edited, as they prove nothing.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};

use crate::join::id::{AuthorityPin, TokenId, base32, from_base32};
use crate::limits::{JOIN_ADDRESSES_MAX, TOKEN_BYTES_MAX};
use crate::value::HostPort;

/// A join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The authority to trust.
    pub pin: AuthorityPin,
    /// Which token it is.
    pub id: TokenId,
    /// What only its holder knows.
    pub secret: Secret,
    /// Where to connect, at least one.
    pub addresses: Vec<HostPort>,
}

/// 128 random bits that are never shown but in the token itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

/// A text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The form is another.
    #[error(
        "this is not a join token: it reads weir1.<letters>.<letters>.<letters>@<host>:<port>; \
         make one with `weir token create`"
    )]
    Form,
    /// A later version's token.
    #[error("this token is of a later version: update this agent")]
    Version,
    /// The checksum differs.
    #[error("the token is damaged: a character is missing or wrong; copy it again, whole")]
    Checksum,
    /// An address is wrong.
    #[error("the token's address is wrong: {0}")]
    Address(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for JoinToken {
    /// The whole token, with its secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = format!("{PREFIX}.{}.{}", self.pin, self.id);
        let mut secret = self.secret.0.to_vec();
        secret.extend(checksum(&open, &self.secret.0));
        write!(f, "{open}.{}@", base32(&secret))?;
        for (index, address) in self.addresses.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<JoinToken, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Form);
        }
        let (token, addresses) = text.split_once('@').ok_or(TokenError::Form)?;
        let (open, secret) = token.rsplit_once('.').ok_or(TokenError::Form)?;
        let mut parts = open.split('.');
        let (Some(prefix), Some(pin), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Form);
        };
        if prefix != PREFIX {
            let version = prefix
                .strip_prefix("weir")
                .and_then(|n| n.parse::<u32>().ok());
            return Err(if version.is_some() {
                TokenError::Version
            } else {
                TokenError::Form
            });
        }
        let bytes = from_base32(secret).ok_or(TokenError::Checksum)?;
        let (secret, check) = bytes
            .split_first_chunk::<16>()
            .ok_or(TokenError::Checksum)?;
        if check != checksum(open, secret) {
            return Err(TokenError::Checksum);
        }
        let pin = from_base32(pin).and_then(|pin| pin.try_into().ok());
        Ok(JoinToken {
            pin: AuthorityPin(pin.ok_or(TokenError::Form)?),
            id: id.parse().map_err(|_| TokenError::Form)?,
            secret: Secret(*secret),
            addresses: read_addresses(addresses)?,
        })
    }
}

fn read_addresses(text: &str) -> Result<Vec<HostPort>, TokenError> {
    let addresses: Vec<HostPort> = text
        .split(',')
        .map(|address| {
            let wrong = |error: crate::value::Mismatch| TokenError::Address(error.message);
            address.parse().map_err(wrong)
        })
        .collect::<Result<_, _>>()?;
    if addresses.len() > JOIN_ADDRESSES_MAX {
        let message = format!("more than {JOIN_ADDRESSES_MAX} addresses");
        return Err(TokenError::Address(message));
    }
    Ok(addresses)
}

fn checksum(open: &str, secret: &[u8; 16]) -> [u8; 4] {
    let mut covered = open.as_bytes().to_vec();
    covered.extend(secret);
    let hash = digest(&SHA256, &covered);
    let mut check = [0; 4];
    check.copy_from_slice(&hash.as_ref()[..4]);
    check
}

const PREFIX: &str = "weir1";
