//! The agents that have joined: their certificates' ends, and whose right was taken back.

use commitlog::error::Result;
use commitlog::id::Timestamp;
use config::join::id::AgentId;
use config::join::message::Binary;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use crate::identity::acl::TopicAcl;
use crate::identity::ca::Issued;
use crate::limits::AGENT_KEPT_MS;
use crate::meta::{Change, Record};

/// An agent that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedAgent {
    /// Its name.
    pub id: AgentId,
    /// Its host's name, as it told it.
    pub host: String,
    /// When it joined last.
    pub joined: Timestamp,
    /// When its certificate ends.
    pub expires: Timestamp,
    /// What it may write.
    pub topics: Vec<String>,
    /// Whether its right was taken back.
    pub standing: Standing,
}

/// Whether an agent may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It may.
    Good,
    /// An operator took its right back, for good: the host can join again under another name.
    Revoked,
}

/// An agent as it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct AgentRecord {
    pub(super) host: String,
    /// The token it joined with last.
    pub(super) token: String,
    /// The key it joined with last, as [`KeyRecord`]s are found. Empty in older records,
    /// whose keys were not kept track of.
    #[serde(default)]
    pub(super) key: String,
    pub(super) joined_ms: i64,
    pub(super) expires_ms: i64,
    pub(super) serial: Binary,
    pub(super) topics: Vec<String>,
    pub(super) standing: Standing,
}

impl Record for AgentRecord {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new("joined_agents");
}

/// Which agent a public key belongs to, under the base32 of the key's hash.
#[derive(Serialize, Deserialize)]
pub(super) struct KeyRecord {
    pub(super) agent: String,
}

impl Record for KeyRecord {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new("agent_keys");
}

impl AgentRecord {
    /// Not so who came with a certificate of another aggregator that has the same authority, and was
    /// given a newer one or shut out: its certificate says what it may write.
    pub(super) fn has_joined_here(&self) -> bool {
        !self.token.is_empty()
    }

    pub(super) fn joined(self, id: AgentId) -> JoinedAgent {
        JoinedAgent {
            id,
            host: self.host,
            joined: Timestamp(self.joined_ms),
            expires: Timestamp(self.expires_ms),
            topics: self.topics,
            standing: self.standing,
        }
    }
}

/// Notes a renewed certificate. An agent that joined another aggregator with the same authority is
/// not in the list yet.
pub(super) fn renewed(
    change: &Change,
    id: &AgentId,
    topics: &TopicAcl,
    issued: &Issued,
    now: Timestamp,
) -> Result<()> {
    let known = change.record::<AgentRecord>(id.as_str())?;
    let record = AgentRecord {
        expires_ms: issued.expires.0,
        serial: Binary(issued.serial.to_vec()),
        ..known.unwrap_or_else(|| stranger(topics, now))
    };
    change.put(id.as_str(), &record)
}

/// Takes an agent's right back, whether or not it joined here.
pub(super) fn revoke(change: &Change, id: &AgentId, now: Timestamp) -> Result<()> {
    let known = change.record::<AgentRecord>(id.as_str())?;
    let record = AgentRecord {
        standing: Standing::Revoked,
        ..known.unwrap_or_else(|| stranger(&TopicAcl::all(), now))
    };
    change.put(id.as_str(), &record)
}

/// Forgets who has no certificate any more since long, and gives their names. Who was revoked stays: a
/// certificate of another aggregator with the same authority could still be good.
pub(super) fn forget_old(change: &Change, now: Timestamp) -> Result<Vec<AgentId>> {
    let mut forgotten = Vec::new();
    for (id, agent) in change.records::<AgentRecord>()? {
        let ended = agent.expires_ms.saturating_add(AGENT_KEPT_MS) < now.0;
        if ended && agent.standing == Standing::Good {
            change.remove::<KeyRecord>(&agent.key)?;
            change.remove::<AgentRecord>(&id)?;
            forgotten.extend(id.parse::<AgentId>().ok());
        }
    }
    Ok(forgotten)
}

fn stranger(topics: &TopicAcl, now: Timestamp) -> AgentRecord {
    AgentRecord {
        host: String::new(),
        token: String::new(),
        key: String::new(),
        joined_ms: now.0,
        expires_ms: 0,
        serial: Binary(Vec::new()),
        topics: topics.patterns().to_vec(),
        standing: Standing::Good,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_keys_were_kept_is_read() {
        let kept = r#"{
            "host": "web-1", "token": "k7qd2m", "joined_ms": 1, "expires_ms": 2, "serial": "AAEC",
            "topics": ["web-*"], "standing": "good"
        }"#;
        let record: AgentRecord = serde_json::from_str(kept).unwrap();
        assert_eq!((record.key.as_str(), record.token.as_str()), ("", "k7qd2m"));
        assert_eq!(record.topics, ["web-*"]);
    }
}
