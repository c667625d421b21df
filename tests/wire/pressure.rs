//! Full disks and slow peers: agents wait, nothing is dropped, nobody else is held up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use commitlog::storage::faulty::FaultyDisk;

use crate::any_port;
use crate::rig::{Agent, Aggregator, assert_lines, numbered_lines, partition, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_holds_agents_back_until_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Aggregator::start(dir.path(), any_port()).await;
    let disk = FaultyDisk::new();
    disk.limit(Some(4 << 20));
    let aggregator = Aggregator::start_on(
        Arc::new(disk.clone()),
        Path::new("/data"),
        any_port(),
        issuer.authority.clone(),
    )
    .await;
    let (agent, logs) = (Agent::new(), partition("logs-0"));
    let shipping = agent.ship(&[aggregator.address], issuer.enrol("a").await);
    let mut written = 0;
    // Lines that do not compress, until nothing is taken any more.
    let mut random = fastrand::Rng::with_seed(5);
    let mut expected = Vec::new();
    until("the disk is full", async || {
        for _ in 0..20 {
            let noise: String = (0..8000).map(|_| random.alphanumeric()).collect();
            let line = format!("{written} {noise}");
            written += 1;
            agent.write(&logs, std::slice::from_ref(&line));
            expected.push(line);
        }
        aggregator.topics.disk().is_zero() || agent.spool.fill().unacknowledged_bytes > 8 << 20
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        !agent.is_empty(),
        "the agent keeps what the disk cannot take"
    );

    disk.limit(None);
    until("all is acknowledged", async || agent.is_empty()).await;
    assert_lines(
        &aggregator.lines(&logs).await,
        &expected,
        "after room was made",
    );
    shipping.stop().await;
    aggregator.stop().await;
    issuer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_partitions_share_a_connection() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let agent = Agent::new();
    let shipping = agent.ship(&[aggregator.address], aggregator.enrol("a").await);
    let partitions: Vec<_> = (0..120)
        .map(|it| partition(&format!("topic{}-{}", it / 4, it % 4)))
        .collect();
    for round in 0..5 {
        for id in &partitions {
            agent.write_numbered(id, round * 20, 20);
        }
    }
    until("all is acknowledged", async || agent.is_empty()).await;
    for id in &partitions {
        assert_lines(&aggregator.lines(id).await, &numbered_lines(id, 100), "");
    }
    shipping.stop().await;
    aggregator.stop().await;
}
