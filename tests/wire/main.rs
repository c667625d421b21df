//! Agent's producer and aggregator's broker against each other on loopback: every line arrives once, in
//! order, over whatever befalls the connection.

#![expect(
    clippy::unwrap_used,
    reason = "all of this is test code, which clippy sees only in functions marked as tests"
)]

mod handshakes;
mod hostile;
mod identity;
mod joining;
mod network;
mod odd;
mod pressure;
mod redirect;
mod rig;
mod sessions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::producer::stats::Connected;
use agent::router::Router;
use model::position::LineageId;
use network::Firewall;
use rig::{Agent, Aggregator, assert_lines, numbered_lines, partition, until};
use weir_tests::world::free_loopback;

/// One that is still free when an aggregator that was stopped comes back to it.
fn any_port() -> SocketAddr {
    free_loopback().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spooled_batches_arrive_once_and_are_freed() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let agent = Agent::new();
    let (first, second) = (partition("logs-0"), partition("logs-3"));
    agent.write_numbered(&first, 0, 1000);
    let shipping = agent.ship(&[aggregator.address], aggregator.enrol("a").await);
    until("the first partition arrives", async || {
        aggregator.lines(&first).await.len() == 1000
    })
    .await;
    // A partition that appears while the session lasts.
    agent.write_numbered(&second, 0, 500);
    agent.write_numbered(&first, 1000, 500);
    until("all is acknowledged", async || agent.is_empty()).await;
    assert_lines(
        &aggregator.lines(&first).await,
        &numbered_lines(&first, 1500),
        "",
    );
    assert_lines(
        &aggregator.lines(&second).await,
        &numbered_lines(&second, 500),
        "",
    );
    shipping.stop().await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_topic_that_is_not_yet_made_spread_over_its_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let agent = Agent::new();
    let shipping = agent.ship(&[aggregator.address], aggregator.enrol("a").await);
    let topic = "never-written".parse().unwrap();
    let mut router = Router::new(agent.spool.clone());
    until("an answer comes", async || {
        agent.spool.partition_count(&topic).is_some()
    })
    .await;
    let places: Vec<_> = (0..4)
        .filter_map(|file| router.place(&topic, LineageId(file), Duration::ZERO))
        .collect();
    let numbers: Vec<_> = places.iter().map(|place| place.partition).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
    for place in &places {
        agent.write_numbered(place, 0, 10);
    }
    until("all is acknowledged", async || agent.is_empty()).await;
    shipping.stop().await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_udp_is_left_for_tcp_within_three_seconds_and_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let (agent, logs) = (Agent::new(), partition("logs-0"));
    let firewall = Arc::new(Firewall::default());
    firewall.block_udp(true);
    agent.write_numbered(&logs, 0, 1000);
    let start = Instant::now();
    let identity = aggregator.enrol("a").await;
    let shipping = agent.ship_over(
        &[aggregator.address],
        identity,
        Arc::<Firewall>::clone(&firewall),
    );
    until("all is acknowledged", async || agent.is_empty()).await;
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(3), "by TCP after {waited:?}");
    assert_eq!(shipping.stats.connected(), Connected::Tcp);

    firewall.block_udp(false);
    let mut written = 1000;
    until("QUIC is back", async || {
        agent.write_numbered(&logs, written, 20);
        written += 20;
        shipping.stats.connected() == Connected::Quic
    })
    .await;
    agent.write_numbered(&logs, written, 100);
    written += 100;
    until("all is acknowledged", async || agent.is_empty()).await;
    assert_lines(
        &aggregator.lines(&logs).await,
        &numbered_lines(&logs, written),
        "",
    );
    shipping.stop().await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_at_any_moment_lose_and_repeat_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let (agent, logs) = (Agent::new(), partition("logs-1"));
    let identity = aggregator.enrol("a").await;
    let seed = 0x5eed_u64;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut written = 0;
    for _ in 0..60 {
        let shipping = agent.ship(&[aggregator.address], Arc::clone(&identity));
        agent.write_numbered(&logs, written, 200);
        written += 200;
        tokio::time::sleep(Duration::from_micros(random.u64(0..12_000))).await;
        shipping.abort().await;
    }
    let shipping = agent.ship(&[aggregator.address], identity);
    until("all is acknowledged", async || agent.is_empty()).await;
    let lines = aggregator.lines(&logs).await;
    let seed = format!("seed {seed:#x}");
    assert_lines(&lines, &numbered_lines(&logs, written), &seed);
    shipping.stop().await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aggregator_that_restarts_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start(dir.path(), any_port()).await;
    let address = aggregator.address;
    let (agent, logs) = (Agent::new(), partition("logs-1"));
    let shipping = agent.ship(&[address], aggregator.enrol("a").await);
    let mut written = 0;
    for _ in 0..4 {
        agent.write_numbered(&logs, written, 300);
        written += 300;
        let sessions = shipping.stats.sessions();
        let authority = aggregator.authority.clone();
        aggregator.stop().await;
        aggregator = Aggregator::start_with(dir.path(), address, authority).await;
        agent.write_numbered(&logs, written, 300);
        written += 300;
        until("it connects again", async || {
            shipping.stats.sessions() > sessions
        })
        .await;
    }
    until("all is acknowledged", async || agent.is_empty()).await;
    assert_lines(
        &aggregator.lines(&logs).await,
        &numbered_lines(&logs, written),
        "",
    );
    shipping.stop().await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_does_not_repeat_at_the_next_aggregator_what_the_first_has() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Aggregator::start(dirs[0].path(), any_port()).await;
    let authority = first.authority.clone();
    let second = Aggregator::start_with(dirs[1].path(), any_port(), authority).await;
    let (identity, logs) = (first.enrol("a").await, partition("logs-0"));
    let home = tempfile::tempdir().unwrap();
    let agent = Agent::open(home.path());
    agent.write_numbered(&logs, 0, 300);
    let shipping = agent.ship(&[first.address], Arc::clone(&identity));
    until("all is acknowledged", async || agent.is_empty()).await;
    // The one partition's offset stands before the checksum that ends the file.
    let saved = || {
        let bytes = std::fs::read(home.path().join("spool/acknowledged")).unwrap_or_default();
        let (_, tail) = bytes.split_last_chunk::<12>()?;
        tail.first_chunk().copied().map(i64::from_be_bytes)
    };
    until("that is saved", async || saved() == Some(300)).await;
    shipping.abort().await;
    drop(agent);

    let agent = Agent::open(home.path());
    agent.write_numbered(&logs, 300, 100);
    let shipping = agent.ship(&[second.address], identity);
    until("the next takes the rest", async || agent.is_empty()).await;
    assert_lines(
        &second.lines(&logs).await,
        &numbered_lines(&logs, 400)[300..],
        "what the first has",
    );
    shipping.stop().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_fail_over_and_come_home() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Aggregator::start(dirs[0].path(), any_port()).await;
    let authority = first.authority.clone();
    let second = Aggregator::start_with(dirs[1].path(), any_port(), authority).await;
    let identity = first.enrol("a").await;
    let (agent, logs) = (Agent::new(), partition("logs-0"));
    let shipping = agent.ship(&[first.address, second.address], identity);
    agent.write_numbered(&logs, 0, 300);
    until("all is acknowledged", async || agent.is_empty()).await;
    let at_first = first.lines(&logs).await.len();
    assert!(at_first == 0 || at_first == 300, "one home for all");
    let (home, other, home_dir) = match at_first {
        0 => (second, first, &dirs[1]),
        _ => (first, second, &dirs[0]),
    };

    let (address, authority) = (home.address, home.authority.clone());
    home.stop().await;
    agent.write_numbered(&logs, 300, 300);
    until("the other takes it", async || agent.is_empty()).await;
    assert_lines(
        &other.lines(&logs).await,
        &numbered_lines(&logs, 600)[300..],
        "what home acknowledged stays there",
    );

    let home = Aggregator::start_with(home_dir.path(), address, authority).await;
    let mut written = 600;
    until("it comes home", async || {
        agent.write_numbered(&logs, written, 10);
        written += 10;
        home.lines(&logs).await.len() > 300
    })
    .await;
    until("all is acknowledged", async || agent.is_empty()).await;
    let mut all = home.lines(&logs).await;
    all.extend(other.lines(&logs).await);
    all.sort();
    assert_lines(&all, &numbered_lines(&logs, written), "both together");
    shipping.stop().await;
    home.stop().await;
    other.stop().await;
}
