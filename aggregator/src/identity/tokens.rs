//! Join tokens: made, listed, taken back, used.
//!
//! What is kept of a token is the key that checks its proofs, never the secret
//! ([`config::join::proof`]). A use is counted in the same durable change that registers the agent,
//! before the certificate is handed out: fifty uses make fifty agents, however many ask at once and
//! whenever the power fails. An agent whose answer was lost asks again with the same key and is given
//! a certificate without another use.

use std::time::Duration;

use commitlog::error::{Error, Result};
use commitlog::id::Timestamp;
use config::join::id::{AuthorityPin, TokenId};
use config::join::message::Binary;
use config::join::proof::ProofKey;
use config::join::refusal::{Code, Refusal};
use config::join::token::{JoinToken, Secret};
use config::value::HostPort;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use crate::identity::acl::TopicAcl;
use crate::limits::{TOKEN_KEPT_MS, TOKEN_TTL_MAX, TOKEN_USES_MAX, TOKENS_MAX};
use crate::meta::{Change, Record};
use crate::parts::Random;

/// What a new token is to allow.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// How long it can be used.
    pub ttl: Duration,
    /// How many agents can join with it.
    pub uses: u32,
    /// What they may write.
    pub topics: TopicAcl,
}

/// A token just made.
#[derive(Debug, Clone)]
pub struct MadeToken {
    /// The whole token, shown once and kept nowhere.
    pub token: JoinToken,
    /// When it ends.
    pub expires: Timestamp,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it ends, likewise.
    pub expires_ms: i64,
    /// How many agents could join with it.
    pub uses: u32,
    /// How many still can.
    pub uses_left: u32,
    /// What they may write.
    pub topics: Vec<String>,
    /// Whether it can be used.
    pub state: TokenState,
}

/// Whether a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It can.
    Active,
    /// Its time is over.
    Expired,
    /// All uses are taken.
    UsedUp,
    /// An operator took it back.
    Revoked,
}

/// A token as it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct TokenRecord {
    key: Binary,
    created_ms: i64,
    expires_ms: i64,
    uses: u32,
    uses_left: u32,
    pub(super) topics: Vec<String>,
    revoked: bool,
}

impl Record for TokenRecord {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new("tokens");
}

impl TokenRecord {
    /// The key that checks proofs; `None` when the record is damaged.
    pub(super) fn proof_key(&self) -> Option<ProofKey> {
        let bytes = self.key.0.as_slice().try_into().ok()?;
        Some(ProofKey::from_bytes(bytes))
    }

    pub(super) fn state(&self, now: Timestamp) -> TokenState {
        if self.revoked {
            TokenState::Revoked
        } else if now.0 >= self.expires_ms {
            TokenState::Expired
        } else if self.uses_left == 0 {
            TokenState::UsedUp
        } else {
            TokenState::Active
        }
    }

    /// The token with one use less.
    pub(super) fn used(&self) -> TokenRecord {
        TokenRecord {
            uses_left: self.uses_left.saturating_sub(1),
            ..self.clone()
        }
    }

    fn info(&self, id: String, now: Timestamp) -> TokenInfo {
        TokenInfo {
            id,
            created_ms: self.created_ms,
            expires_ms: self.expires_ms,
            uses: self.uses,
            uses_left: self.uses_left,
            topics: self.topics.clone(),
            state: self.state(now),
        }
    }
}

impl TokenState {
    /// The refusal of a token in this state; `None` when it can be used.
    pub(super) fn refusal(self, id: &str) -> Option<Refusal> {
        let (code, what) = match self {
            TokenState::Active => return None,
            TokenState::Expired => (Code::TokenExpired, "has expired"),
            TokenState::UsedUp => (Code::TokenUsedUp, "has been used as often as it may"),
            TokenState::Revoked => (Code::TokenRevoked, "was revoked"),
        };
        let help = "make another on the aggregator with `weir token create`";
        Some(Refusal::new(code, format!("the token {id} {what}"), help))
    }
}

/// Makes a token and drops those that ended long ago.
pub(super) fn create(
    change: &Change,
    new: &NewToken,
    of: (AuthorityPin, &[HostPort]),
    now: Timestamp,
    random: &Random,
) -> Result<MadeToken> {
    if new.ttl.is_zero() || new.ttl > TOKEN_TTL_MAX {
        let days = TOKEN_TTL_MAX.as_secs() / 86_400;
        return Err(Error::input(format!("a token lives for up to {days} days")));
    }
    if new.uses == 0 || new.uses > TOKEN_USES_MAX {
        return Err(Error::input(format!(
            "a token has 1 to {TOKEN_USES_MAX} uses"
        )));
    }
    forget_old(change, now)?;
    let (mut id, mut secret) = ([0; 5], [0; 16]);
    random(&mut id);
    random(&mut secret);
    let (id, secret) = (TokenId(id), Secret(secret));
    let ttl_ms = i64::try_from(new.ttl.as_millis()).unwrap_or(i64::MAX);
    let expires = Timestamp(now.0.saturating_add(ttl_ms));
    let record = TokenRecord {
        key: Binary(ProofKey::of_secret(&secret).as_bytes().to_vec()),
        created_ms: now.0,
        expires_ms: expires.0,
        uses: new.uses,
        uses_left: new.uses,
        topics: new.topics.patterns().to_vec(),
        revoked: false,
    };
    change.put(&id.to_string(), &record)?;
    let (pin, addresses) = of;
    Ok(MadeToken {
        token: JoinToken {
            pin,
            id,
            secret,
            addresses: addresses.to_vec(),
        },
        expires,
    })
}

fn forget_old(change: &Change, now: Timestamp) -> Result<()> {
    let tokens = change.records::<TokenRecord>()?;
    let mut count = tokens.len();
    for (id, token) in tokens {
        if token.expires_ms.saturating_add(TOKEN_KEPT_MS) < now.0 {
            change.remove::<TokenRecord>(&id)?;
            count -= 1;
        }
    }
    if count >= TOKENS_MAX {
        return Err(Error::input(format!(
            "there are {count} tokens, as many as can be kept"
        )));
    }
    Ok(())
}

/// Takes a token back. Whoever joined with it stays.
pub(super) fn revoke(change: &Change, id: &str, now: Timestamp) -> Result<Option<TokenInfo>> {
    let Some(mut token) = change.record::<TokenRecord>(id)? else {
        return Ok(None);
    };
    token.revoked = true;
    change.put(id, &token)?;
    Ok(Some(token.info(id.to_owned(), now)))
}

/// Tokens as they are listed, the newest first.
pub(super) fn list(records: Vec<(String, TokenRecord)>, now: Timestamp) -> Vec<TokenInfo> {
    let mut tokens: Vec<TokenInfo> = records
        .into_iter()
        .map(|(id, token)| token.info(id, now))
        .collect();
    tokens.sort_by_key(|token| std::cmp::Reverse(token.created_ms));
    tokens
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use commitlog::storage::Storage;
    use commitlog::storage::faulty::FaultyDisk;

    use super::*;
    use crate::meta::Meta;

    #[test]
    fn tokens_that_ended_long_ago_make_room() {
        let disk = FaultyDisk::new();
        disk.create_dir(Path::new("/data")).unwrap();
        let meta = Meta::open(Arc::new(disk), Path::new("/data/meta.redb")).unwrap();
        let ended = TokenRecord {
            key: Binary(vec![0; 32]),
            created_ms: 0,
            expires_ms: 1,
            uses: 1,
            uses_left: 1,
            topics: vec!["*".to_owned()],
            revoked: false,
        };
        let forgotten = meta.change(|change| {
            for id in 0..TOKENS_MAX {
                change.put(&id.to_string(), &ended)?;
            }
            assert!(forget_old(change, Timestamp(TOKEN_KEPT_MS)).is_err());
            forget_old(change, Timestamp(TOKEN_KEPT_MS + 2))
        });
        forgotten.unwrap();
        assert_eq!(meta.records::<TokenRecord>().unwrap().len(), 0);
    }
}
