//! A host's way in: token, certificate, shipping, renewal; with the agent's and the aggregator's own
//! code on either side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::ambient::{Clock, system_clock, system_random};
use agent::identity::ClientIdentity;
use agent::join::{Joined, Joining, join};
use agent::producer::transport::{SystemTransport, Transport};
use agent::producer::{Identity, Producer, ShipConfig};
use aggregator::identity::acl::TopicAcl;
use aggregator::identity::tokens::NewToken;
use commitlog::id::Timestamp;
use commitlog::wire::message::RefusalCode;
use commitlog::wire::producer::{Ending, ProducerEvent};
use config::join::token::JoinToken;
use tokio_util::sync::CancellationToken;

use crate::any_port;
use crate::hostile::Peer;
use crate::network::Firewall;
use crate::rig::{Agent, Aggregator, assert_lines, numbered_lines, partition, until};

const DAY_MS: i64 = 86_400_000;

fn token(aggregator: &Aggregator, topics: &str) -> JoinToken {
    let new = NewToken {
        ttl: Duration::from_mins(1),
        uses: 1,
        topics: TopicAcl::new(vec![topics.to_owned()]).unwrap(),
    };
    let addresses = [aggregator.address.to_string().parse().unwrap()];
    aggregator
        .authority
        .create_token(&new, &addresses)
        .unwrap()
        .token
}

async fn joined(token: &JoinToken, dir: &Path, transport: Arc<dyn Transport>) -> Joined {
    let joining = Joining {
        token,
        data_dir: dir,
        host: "host-1",
        transport,
        clock: system_clock(),
    };
    join(joining).await.unwrap()
}

/// Ships as this identity until the token is cancelled.
fn ship(agent: &Agent, aggregator: &Aggregator, identity: &ClientIdentity) -> CancellationToken {
    let config = ShipConfig::new(vec![aggregator.address.to_string()]);
    let identity = Arc::new(identity.clone());
    let producer = Producer::new(agent.spool.clone(), config, identity, system_random());
    let stop = CancellationToken::new();
    drop(tokio::spawn(producer.run(stop.clone())));
    stop
}

/// A clock that is so much ahead.
fn ahead(ms: i64) -> Clock {
    let system = system_clock();
    Arc::new(move || Timestamp(system().0 + ms))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_by_token_ships_and_renews() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let host = dir.path().join("agent");
    let told = joined(&token(&aggregator, "*"), &host, Arc::new(SystemTransport)).await;
    // Three weeks later the certificate is due.
    let identity = ClientIdentity::load(&host, None, ahead(21 * DAY_MS)).unwrap();
    assert_eq!(identity.agent().unwrap().as_str(), told.agent);
    let first = identity.expires().unwrap();
    let shown = identity.tls();
    assert!(identity.renewal().is_some());

    let (agent, logs) = (Agent::new(), partition("logs-0"));
    agent.write_numbered(&logs, 0, 100);
    let stop = ship(&agent, &aggregator, &identity);
    until("all is acknowledged", async || agent.is_empty()).await;
    until("it is renewed", async || identity.renewal().is_none()).await;
    assert!(identity.expires().unwrap() >= first);
    assert!(!Arc::ptr_eq(&shown, &identity.tls()));
    stop.cancel();

    // What was renewed lies on the disk and is good for the next connection.
    let again = ClientIdentity::load(&host, None, system_clock()).unwrap();
    assert_eq!(again.agent(), identity.agent());
    agent.write_numbered(&logs, 100, 100);
    let stop = ship(&agent, &aggregator, &again);
    until("the rest is acknowledged", async || agent.is_empty()).await;
    stop.cancel();
    assert_lines(
        &aggregator.lines(&logs).await,
        &numbered_lines(&logs, 200),
        "",
    );
    let listed = aggregator.agents.list();
    assert!(
        listed.iter().any(|row| row.id == told.agent),
        "identity comes from the certificate"
    );
    aggregator.stop().await;
}

/// Its session knew only what its certificate said when it began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_again_with_other_topics_ends_the_session_that_had_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let host = dir.path().join("agent");
    joined(&token(&aggregator, "*"), &host, Arc::new(SystemTransport)).await;
    let shown = ClientIdentity::load(&host, None, system_clock()).unwrap();
    let mut peer = Peer::connect(aggregator.address, shown.tls()).await;
    peer.open().await;
    let narrow = token(&aggregator, "web-*");
    joined(&narrow, &host, Arc::new(SystemTransport)).await;
    let why = loop {
        if let ProducerEvent::Ended(Ending::Goodbye(why)) = peer.event().await {
            break why;
        }
    };
    assert!(why.contains("may write other topics"), "{why}");

    // The old certificate is as good as the new one, and no better.
    let mut peer = Peer::connect(aggregator.address, shown.tls()).await;
    peer.say_hello().await;
    let refused = loop {
        if let ProducerEvent::SlotRefused(_, refused) = peer.event().await {
            break refused;
        }
    };
    assert_eq!(refused.code, RefusalCode::TopicForbidden);
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_joins_over_tcp_where_udp_is_blocked() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let firewall = Arc::new(Firewall::default());
    firewall.block_udp(true);
    let host = dir.path().join("agent");
    let told = joined(&token(&aggregator, "*"), &host, firewall).await;
    let identity = ClientIdentity::load(&host, None, system_clock()).unwrap();
    assert_eq!(identity.agent().unwrap().as_str(), told.agent);
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_writes_only_the_topics_of_its_token() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let host = dir.path().join("agent");
    joined(
        &token(&aggregator, "web-*"),
        &host,
        Arc::new(SystemTransport),
    )
    .await;
    let identity = ClientIdentity::load(&host, None, system_clock()).unwrap();
    let (agent, allowed, other) = (Agent::new(), partition("web-access-0"), partition("logs-0"));
    agent.write_numbered(&other, 0, 10);
    agent.write_numbered(&allowed, 0, 10);
    let stop = ship(&agent, &aggregator, &identity);
    until("the allowed topic arrives", async || {
        aggregator.lines(&allowed).await.len() == 10
    })
    .await;
    stop.cancel();
    assert!(
        aggregator
            .topics
            .list()
            .iter()
            .all(|topic| topic.name.as_str() != "logs")
    );
    assert!(!agent.is_empty(), "what is refused stays in the spool");
    aggregator.stop().await;
}
