//! Who ships here: the agents that are or were connected, what they say of themselves, and the
//! machines that turned out to share one identity.
//!
//! Sessions feed it ([`Agents::connect`], then [`Presence`]); HTTP reads it. It is kept in memory
//! and written to the metadata now and then and at a disconnect, so that agents that do not come
//! back after a restart are still listed. Losing its last seconds in a crash costs nothing: agents
//! tell everything again when they connect.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use commitlog::id::{ProducerId, Timestamp, TopicPartition};
use redb::TableDefinition;
use serde::{Deserialize, Serialize};

use crate::limits::{AGENT_KEPT_MS, AGENTS_MAX, CONFLICTS_KEPT, LOSS_REASONS_MAX};
use crate::meta::Record;
use crate::parts::Clock;
use crate::telemetry::Telemetry;

/// The registry; a handle, cheap to clone.
#[derive(Clone)]
pub struct Agents {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Clock,
    telemetry: Telemetry,
    registry: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    agents: BTreeMap<String, Agent>,
    /// Who greeted last with each spool: tells the other host of a conflict.
    producers: HashMap<ProducerId, Host>,
    /// Agents that changed, or were forgotten, since [`Agents::take_changes`].
    changed: BTreeSet<String>,
}

struct Agent {
    row: AgentRow,
    /// Connections at the moment; two while one replaces the other.
    connections: u32,
}

/// How an agent is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tcp,
}

impl Transport {
    /// As metrics and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Quic => "quic",
            Transport::Tcp => "tcp",
        }
    }
}

/// A machine, as an agent on it names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Host {
    /// Its host name.
    pub name: String,
    /// What tells machines of one name apart.
    pub machine_id: String,
    /// What tells one boot from the next.
    pub boot_id: String,
}

/// What an agent's greeting says.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The machine.
    pub host: Host,
    /// The agent's version.
    pub version: String,
    /// Where it connects from.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
    /// Its spool.
    pub producer: ProducerId,
}

/// What an agent reports as it runs.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Spooled bytes that are not durable here.
    pub lag_bytes: u64,
    /// Spooled records that are not durable here.
    pub lag_records: u64,
    /// Bytes of its files that are not even spooled.
    pub unread_bytes: u64,
    /// Lines lost since its spool was made, by reason.
    pub losses: BTreeMap<String, u64>,
}

/// What is known of an agent. Written as it is to the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRow {
    /// Its machine.
    pub host: Host,
    /// Its version.
    pub version: String,
    /// Where it connects, or connected last, from.
    pub address: SocketAddr,
    /// How.
    pub transport: Transport,
    /// When something came from it last.
    pub last_seen_ms: i64,
    /// Spooled bytes that are not durable here.
    pub lag_bytes: u64,
    /// Spooled records that are not durable here.
    pub lag_records: u64,
    /// Bytes of its files that are not even spooled.
    #[serde(default)]
    pub unread_bytes: u64,
    /// Lines lost, by reason.
    pub losses: BTreeMap<String, u64>,
    /// The last identity conflicts, oldest first.
    pub conflicts: Vec<Conflict>,
}

/// Two machines that shipped as one: a clone, a rolled-back snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// When it was found.
    pub at_ms: i64,
    /// In which partition.
    pub partition: String,
    /// The machine that was told to take another identity.
    pub host: Host,
    /// The machine that shipped under it before; the same one after a snapshot was rolled back.
    pub other: Option<Host>,
}

/// An agent, as it is told.
#[derive(Debug, Clone)]
pub struct AgentInfo {
    /// Its id, from its certificate.
    pub id: String,
    /// Whether it is connected.
    pub connected: bool,
    /// What is known of it.
    pub row: AgentRow,
}

impl Record for AgentRow {
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new("agents_seen");
}

impl Agents {
    /// A registry that begins with what was written before.
    pub fn new(rows: Vec<(String, AgentRow)>, clock: Clock, telemetry: Telemetry) -> Agents {
        let kept = rows.into_iter().take(AGENTS_MAX);
        let agents = kept
            .map(|(id, row)| {
                (
                    id,
                    Agent {
                        row,
                        connections: 0,
                    },
                )
            })
            .collect();
        let registry = Registry {
            agents,
            ..Registry::default()
        };
        Agents {
            shared: Arc::new(Shared {
                clock,
                telemetry,
                registry: Mutex::new(registry),
            }),
        }
    }

    /// An agent has greeted; it is connected until the [`Presence`] is dropped.
    pub fn connect(&self, id: &str, greeting: Greeting) -> Presence {
        let now = (self.shared.clock)();
        let (producer, transport, host) =
            (greeting.producer, greeting.transport, greeting.host.clone());
        let mut registry = self.lock();
        let other = registry.greeted(producer, host.clone());
        if !registry.agents.contains_key(id) {
            registry.make_room();
        }
        let known = registry.agents.remove(id);
        let (connections, losses, conflicts) = known
            .map_or((0, BTreeMap::new(), Vec::new()), |known| {
                (known.connections, known.row.losses, known.row.conflicts)
            });
        let agent = Agent {
            connections: connections + 1,
            row: AgentRow {
                host: greeting.host,
                version: greeting.version,
                address: greeting.address,
                transport: greeting.transport,
                last_seen_ms: now.0,
                lag_bytes: 0,
                lag_records: 0,
                unread_bytes: 0,
                losses,
                conflicts,
            },
        };
        registry.agents.insert(id.to_owned(), agent);
        registry.changed.insert(id.to_owned());
        drop(registry);
        self.gauge(transport).inc();
        Presence {
            agents: self.clone(),
            id: id.to_owned(),
            host,
            transport,
            other,
            producer,
        }
    }

    /// All agents, by id.
    pub fn list(&self) -> Vec<AgentInfo> {
        let registry = self.lock();
        let agents = registry.agents.iter();
        let told = agents.map(|(id, agent)| AgentInfo {
            id: id.clone(),
            connected: agent.connections > 0,
            row: agent.row.clone(),
        });
        told.collect()
    }

    /// What changed since the last time this was asked, to be written: an agent's row, or `None` for
    /// one that was forgotten.
    pub fn take_changes(&self) -> Vec<(String, Option<AgentRow>)> {
        let mut registry = self.lock();
        let changed = std::mem::take(&mut registry.changed).into_iter();
        let rows = changed.map(|id| {
            let row = registry.agents.get(&id).map(|agent| agent.row.clone());
            (id, row)
        });
        rows.collect()
    }

    /// Forgets who was not seen for long and is not among `joined`, who are kept for their certificates.
    pub fn forget_old(&self, joined: &HashSet<String>) {
        let Timestamp(now_ms) = (self.shared.clock)();
        let mut registry = self.lock();
        let old = registry.agents.iter().filter(|(id, agent)| {
            let unseen = agent.row.last_seen_ms.saturating_add(AGENT_KEPT_MS) < now_ms;
            unseen && agent.connections == 0 && !joined.contains(*id)
        });
        let old: Vec<String> = old.map(|(id, _)| id.clone()).collect();
        for id in old {
            registry.agents.remove(&id);
            registry.changed.insert(id);
        }
    }

    fn gauge(&self, transport: Transport) -> prometheus::IntGauge {
        let connections = &self.shared.telemetry.agent_connections;
        connections.with_label_values(&[transport.as_str()])
    }

    /// A panic elsewhere leaves the registry whole: each change is a single insert.
    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.shared
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry {
    /// Forgets the agents that have been away longest.
    fn make_room(&mut self) {
        while self.agents.len() >= AGENTS_MAX {
            let away = self
                .agents
                .iter()
                .filter(|(_, agent)| agent.connections == 0);
            let oldest = away.min_by_key(|(_, agent)| agent.row.last_seen_ms);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                return;
            };
            self.agents.remove(&oldest);
            self.changed.insert(oldest);
        }
    }

    /// Notes who greeted with a spool; gives who did before.
    fn greeted(&mut self, producer: ProducerId, host: Host) -> Option<Host> {
        if self.producers.len() >= 2 * AGENTS_MAX && !self.producers.contains_key(&producer) {
            // Only the other host's name in a conflict is lost.
            self.producers.clear();
        }
        self.producers.insert(producer, host)
    }
}

/// An agent's connection, for as long as it lasts.
pub struct Presence {
    agents: Agents,
    id: String,
    host: Host,
    producer: ProducerId,
    transport: Transport,
    /// Who greeted with this spool before.
    other: Option<Host>,
}

impl Presence {
    /// The agent has told how it is.
    pub fn report(&self, mut report: Report) {
        while report.losses.len() > LOSS_REASONS_MAX {
            report.losses.pop_last();
        }
        self.change(|row| {
            row.lag_bytes = report.lag_bytes;
            row.lag_records = report.lag_records;
            row.unread_bytes = report.unread_bytes;
            row.losses = report.losses;
        });
    }

    /// The spool turned out to be another's: the agent takes a new identity. Names both hosts.
    pub fn conflict(&self, partition: &TopicPartition) {
        let other = self.other.clone();
        tracing::error!(
            agent = %self.id, producer = %self.producer, %partition,
            host = self.host.name, machine = self.host.machine_id,
            other_host = other.as_ref().map_or("unknown", |host| &host.name),
            other_machine = other.as_ref().map_or("unknown", |host| &host.machine_id),
            "two machines ship as one: a clone, or a restored snapshot; the newer takes a new identity"
        );
        let host = self.host.clone();
        let partition = partition.to_string();
        let Timestamp(at_ms) = (self.agents.shared.clock)();
        self.change(|row| {
            if row.conflicts.len() >= CONFLICTS_KEPT {
                row.conflicts.remove(0);
            }
            row.conflicts.push(Conflict {
                at_ms,
                partition,
                host,
                other,
            });
        });
    }

    fn change(&self, change: impl FnOnce(&mut AgentRow)) {
        let Timestamp(now_ms) = (self.agents.shared.clock)();
        let mut registry = self.agents.lock();
        if let Some(agent) = registry.agents.get_mut(&self.id) {
            agent.row.last_seen_ms = now_ms;
            change(&mut agent.row);
        }
        registry.changed.insert(self.id.clone());
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.agents.gauge(self.transport).dec();
        let mut registry = self.agents.lock();
        if let Some(agent) = registry.agents.get_mut(&self.id) {
            agent.connections = agent.connections.saturating_sub(1);
        }
        registry.changed.insert(self.id.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    fn agents() -> Agents {
        Agents::new(Vec::new(), Arc::new(|| Timestamp(5)), Telemetry::new())
    }

    fn greeting(host: &str) -> Greeting {
        Greeting {
            host: Host {
                name: host.into(),
                machine_id: format!("machine-{host}"),
                boot_id: "b".into(),
            },
            version: "0.1.0".into(),
            address: "10.0.0.1:5".parse().unwrap(),
            transport: Transport::Quic,
            producer: ProducerId::new(7).unwrap(),
        }
    }

    #[test]
    fn an_agent_is_listed_after_it_has_gone() {
        let agents = agents();
        let presence = agents.connect("a", greeting("web-1"));
        presence.report(Report {
            lag_bytes: 9,
            ..Report::default()
        });
        assert!(agents.list()[0].connected);
        drop(presence);
        let told = agents.list();
        assert!(!told[0].connected);
        assert_eq!(told[0].row.lag_bytes, 9);

        let (id, row) = agents.take_changes().remove(0);
        assert_eq!(agents.take_changes(), []);
        let json = serde_json::to_string(&row.unwrap()).unwrap();
        let read = vec![(id, serde_json::from_str(&json).unwrap())];
        let again = Agents::new(read, Arc::new(|| Timestamp(6)), Telemetry::new());
        assert_eq!(again.list()[0].row, told[0].row);
    }

    #[test]
    fn a_reconnect_that_overlaps_keeps_the_agent_connected() {
        let agents = agents();
        let first = agents.connect("a", greeting("web-1"));
        let second = agents.connect("a", greeting("web-1"));
        drop(first);
        assert!(agents.list()[0].connected);
        drop(second);
        assert!(!agents.list()[0].connected);
    }

    #[test]
    fn who_was_not_seen_for_a_month_is_forgotten_unless_it_has_joined() {
        let now = Arc::new(AtomicI64::new(5));
        let clock = Arc::clone(&now);
        let clock: Clock = Arc::new(move || Timestamp(clock.load(Ordering::Relaxed)));
        let agents = Agents::new(Vec::new(), clock, Telemetry::new());
        for id in ["gone", "joined"] {
            drop(agents.connect(id, greeting("web-1")));
        }
        let _here = agents.connect("connected", greeting("web-2"));
        now.fetch_add(AGENT_KEPT_MS, Ordering::Relaxed);
        let joined = HashSet::from(["joined".to_owned()]);
        agents.forget_old(&joined);
        assert_eq!(agents.list().len(), 3);
        agents.take_changes();
        now.fetch_add(1, Ordering::Relaxed);
        agents.forget_old(&joined);
        let left: Vec<_> = agents.list().into_iter().map(|agent| agent.id).collect();
        assert_eq!(left, ["connected", "joined"]);
        assert_eq!(agents.take_changes(), [("gone".to_owned(), None)]);
    }

    #[test]
    fn one_agent_with_ever_new_spools_fills_no_memory() {
        let mut registry = Registry::default();
        for id in 0..=3 * AGENTS_MAX {
            let producer = ProducerId::new(i64::try_from(id).unwrap()).unwrap();
            registry.greeted(producer, Host::default());
            assert!(registry.producers.len() <= 2 * AGENTS_MAX);
        }
    }

    #[test]
    fn a_conflict_names_both_hosts() {
        let agents = agents();
        let _first = agents.connect("a", greeting("web-1"));
        let second = agents.connect("a", greeting("web-2"));
        second.conflict(&"logs-0".parse().unwrap());
        let conflict = agents.list()[0].row.conflicts[0].clone();
        assert_eq!(conflict.host.name, "web-2");
        assert_eq!(conflict.other.unwrap().name, "web-1");
    }
}
