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

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> JoinToken {
        JoinToken {
            pin: AuthorityPin([0x5a; 20]),
            id: TokenId([9, 8, 7, 6, 5]),
            secret: Secret(*b"sixteen letters!"),
            addresses: vec!["logs.example.com:9347".parse().unwrap()],
        }
    }

    #[test]
    fn a_token_reads_as_it_is_written() {
        let text = sample().to_string();
        assert_eq!(
            text,
            "weir1.ljnfuws2ljnfuws2ljnfuws2ljnfuws2.beeaobqf.onuxq5dfmvxca3dfor2gk4ttehltee4c\
             @logs.example.com:9347"
        );
        assert_eq!(format!("  {text}\n").parse(), Ok(sample()));
        // The addresses may be edited: a host has many names.
        let edited = text.replace("logs.example.com:9347", "10.0.0.1:9347,[::1]:1");
        let read: JoinToken = edited.parse().unwrap();
        assert_eq!(read.addresses.len(), 2);
        assert_eq!(read.secret, sample().secret);
    }

    #[test]
    fn a_slip_in_any_letter_is_noticed() {
        let text = sample().to_string();
        let end = text.find('@').unwrap();
        for at in 0..end {
            for letter in ['b', '7', '.'] {
                let mut slip = text.clone();
                slip.replace_range(at..=at, &letter.to_string());
                assert!(slip == text || slip.parse::<JoinToken>().is_err(), "{slip}");
            }
            let mut cut = text.clone();
            cut.remove(at);
            cut.parse::<JoinToken>().unwrap_err();
        }
    }

    #[test]
    fn what_is_no_token_is_told_so() {
        let text = sample().to_string();
        let later = text.replacen("weir1", "weir2", 1);
        for (text, error) in [
            ("", TokenError::Form),
            ("weir1.a.b.c@h:1", TokenError::Checksum),
            (&later, TokenError::Version),
            (&text.to_uppercase(), TokenError::Form),
            (text.split('@').next().unwrap(), TokenError::Form),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error), "{text}");
        }
        let portless = text.replace(":9347", "");
        assert!(matches!(
            portless.parse::<JoinToken>(),
            Err(TokenError::Address(_))
        ));
        "x".repeat(100_000).parse::<JoinToken>().unwrap_err();
    }

    #[test]
    fn the_secret_is_not_shown_by_accident() {
        let shown = format!("{:?}", sample());
        assert!(
            !shown.contains("onuxq5") && !shown.contains("sixteen"),
            "{shown}"
        );
    }
}
