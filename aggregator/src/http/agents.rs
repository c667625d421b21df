//! `/api/v1/agents`: who ships here, how far behind, what was lost; and shutting one out.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use config::join::id::AgentId;
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use super::parameter::Segment;
use super::time::rfc3339;
use crate::agents::{AgentInfo, AgentRow, Host};
use crate::identity::agents::Standing;

#[derive(Serialize)]
pub(super) struct Answer {
    agents: Vec<Agent>,
}

/// An agent that has connected, or that has a certificate and never did: then only its id and its
/// certificate are known.
#[derive(Serialize)]
struct Agent {
    id: String,
    host: Option<String>,
    machine_id: Option<String>,
    version: Option<String>,
    address: Option<String>,
    transport: Option<&'static str>,
    connected: bool,
    last_seen: Option<String>,
    lag_bytes: u64,
    lag_records: u64,
    unread_bytes: u64,
    losses: BTreeMap<String, u64>,
    identity_conflicts: Vec<Conflict>,
    revoked: bool,
    certificate_expires: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Revocation {
    id: String,
    revoked: bool,
    /// Whether the agent has joined or connected here. One that has not is shut out all the same: it
    /// may have joined another aggregator of the same authority.
    known: bool,
}

/// Two machines that shipped as one.
#[derive(Serialize)]
struct Conflict {
    at: Option<String>,
    partition: String,
    host: Host,
    other_host: Option<Host>,
}

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Answer>, ApiError> {
    let authority = api.authority.clone();
    let joined = api.blocking.run(move || authority.agents()).await?;
    let seen = api.agents.list().into_iter().map(Agent::seen);
    let mut agents: BTreeMap<String, Agent> = seen.map(|agent| (agent.id.clone(), agent)).collect();
    for joined in joined {
        let id = joined.id.to_string();
        let agent = agents
            .entry(id.clone())
            .or_insert_with(|| Agent::unknown(id));
        agent.host.get_or_insert(joined.host);
        agent.revoked = joined.standing == Standing::Revoked;
        agent.certificate_expires = rfc3339(joined.expires.0);
    }
    for id in api.authority.revoked_agents().borrow().iter() {
        if let Some(agent) = agents.get_mut(&id.to_string()) {
            agent.revoked = true;
        }
    }
    Ok(Json(Answer {
        agents: agents.into_values().collect(),
    }))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Segment(id): Segment,
) -> Result<Json<Revocation>, ApiError> {
    let unknown = || {
        ApiError::not_found(
            format!("there is no agent {id:?}"),
            "/api/v1/agents lists them",
        )
    };
    let agent: AgentId = id.parse().map_err(|_| unknown())?;
    let authority = api.authority.clone();
    let seen = api.agents.list().iter().any(|info| info.id == id);
    let revoke = move || -> commitlog::error::Result<bool> {
        let known = seen || authority.agents()?.iter().any(|joined| joined.id == agent);
        authority.revoke_agent(&agent)?;
        Ok(known)
    };
    let known = api.blocking.run(revoke).await?;
    let revoked = true;
    Ok(Json(Revocation { id, revoked, known }))
}

impl Agent {
    fn unknown(id: String) -> Agent {
        Agent {
            id,
            host: None,
            machine_id: None,
            version: None,
            address: None,
            transport: None,
            connected: false,
            last_seen: None,
            lag_bytes: 0,
            lag_records: 0,
            unread_bytes: 0,
            losses: BTreeMap::new(),
            identity_conflicts: Vec::new(),
            revoked: false,
            certificate_expires: None,
        }
    }

    fn seen(info: AgentInfo) -> Agent {
        let AgentRow {
            host,
            version,
            address,
            transport,
            last_seen_ms,
            lag_bytes,
            lag_records,
            unread_bytes,
            losses,
            conflicts,
        } = info.row;
        let conflicts = conflicts.into_iter().map(|conflict| Conflict {
            at: rfc3339(conflict.at_ms),
            partition: conflict.partition,
            host: conflict.host,
            other_host: conflict.other,
        });
        Agent {
            host: Some(host.name),
            machine_id: Some(host.machine_id),
            version: Some(version),
            address: Some(address.to_string()),
            transport: Some(transport.as_str()),
            connected: info.connected,
            last_seen: rfc3339(last_seen_ms),
            lag_bytes,
            lag_records,
            unread_bytes,
            losses,
            identity_conflicts: conflicts.collect(),
            ..Agent::unknown(info.id)
        }
    }
}
