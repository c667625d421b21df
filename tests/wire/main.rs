//! Agent's producer and aggregator's broker against each other on loopback: every line arrives once, in
//! order, over whatever befalls the connection.

mod rig;

use std::net::SocketAddr;

use rig::{Agent, Aggregator, numbered_lines, partition, until};

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
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
    assert_eq!(aggregator.lines(&first).await, numbered_lines(&first, 1500));
    assert_eq!(
        aggregator.lines(&second).await,
        numbered_lines(&second, 500)
    );
    shipping.stop().await;
    aggregator.stop().await;
}
