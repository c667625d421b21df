//! Who is who: clones, rolled-back spools, zombies, revoked and uninvited agents.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::any_port;
use crate::rig::{Agent, Aggregator, assert_lines, numbered_lines, partition, until};

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn lines(of: &str, count: usize) -> Vec<String> {
    (0..count).map(|it| format!("{of} {it:05}")).collect()
}

fn of<'a>(who: &'a str, all: &'a [String]) -> Vec<&'a String> {
    all.iter().filter(|it| it.starts_with(who)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_spool_becomes_somebody_else_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let identity = aggregator.enrol("a").await;
    let logs = partition("logs-0");
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    {
        let agent = Agent::open(here.path());
        let shipping = agent.ship(&[aggregator.address], Arc::clone(&identity));
        agent.write(&logs, &lines("before", 100));
        until("all is acknowledged", async || agent.is_empty()).await;
        shipping.stop().await;
    }
    copy_dir(here.path(), there.path());
    let (original, clone) = (Agent::open(here.path()), Agent::open(there.path()));
    assert_eq!(original.spool.producer_id(), clone.spool.producer_id());
    let first = original.ship(&[aggregator.address], Arc::clone(&identity));
    let second = clone.ship(&[aggregator.address], identity);
    for chunk in 0..20 {
        let part = |of: &str| lines(of, 200)[chunk * 10..chunk * 10 + 10].to_vec();
        original.write(&logs, &part("original"));
        clone.write(&logs, &part("clone"));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("all is acknowledged", async || {
        original.is_empty() && clone.is_empty()
    })
    .await;
    assert_ne!(original.spool.producer_id(), clone.spool.producer_id());
    let all = aggregator.lines(&logs).await;
    assert!(of("before", &all).into_iter().eq(&lines("before", 100)));
    for who in ["original", "clone"] {
        assert!(of(who, &all).into_iter().eq(&lines(who, 200)), "{who}");
    }
    let told = aggregator.agents.list();
    assert!(!told[0].row.conflicts.is_empty(), "an operator sees it");
    first.stop().await;
    second.stop().await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_was_rolled_back_loses_nothing_new() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let identity = aggregator.enrol("a").await;
    let logs = partition("logs-0");
    let (now, snapshot) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (round, who) in ["first", "second", "third"].into_iter().enumerate() {
        if round == 1 {
            copy_dir(now.path(), &snapshot.path().join("s"));
        }
        if round == 2 {
            std::fs::remove_dir_all(now.path()).unwrap();
            copy_dir(&snapshot.path().join("s"), now.path());
        }
        let agent = Agent::open(now.path());
        let shipping = agent.ship(&[aggregator.address], Arc::clone(&identity));
        agent.write(&logs, &lines(who, 150 + round));
        until("all is acknowledged", async || agent.is_empty()).await;
        shipping.stop().await;
    }
    let all = aggregator.lines(&logs).await;
    for (round, who) in ["first", "second", "third"].into_iter().enumerate() {
        assert!(
            of(who, &all).into_iter().eq(&lines(who, 150 + round)),
            "{who}"
        );
    }
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_fences_the_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let identity = aggregator.enrol("a").await;
    let (agent, logs) = (Agent::new(), partition("logs-0"));
    // Two producers of one spool take the place from each other, again and again.
    let first = agent.ship(&[aggregator.address], Arc::clone(&identity));
    let second = agent.ship(&[aggregator.address], identity);
    let mut written = 0;
    until("they met a few times", async || {
        agent.write_numbered(&logs, written, 10);
        written += 10;
        first.stats.sessions() + second.stats.sessions() > 4
    })
    .await;
    first.stop().await;
    until("all is acknowledged", async || agent.is_empty()).await;
    assert_lines(
        &aggregator.lines(&logs).await,
        &numbered_lines(&logs, written),
        "",
    );
    second.stop().await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_agent_is_cut_off_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let (agent, logs) = (Agent::new(), partition("logs-0"));
    let shipping = agent.ship(&[aggregator.address], aggregator.enrol("a").await);
    agent.write_numbered(&logs, 0, 10);
    until("all is acknowledged", async || agent.is_empty()).await;
    let start = Instant::now();
    aggregator
        .authority
        .revoke_agent(&"a".parse().unwrap())
        .unwrap();
    until("it is gone", async || {
        aggregator.agents.list().iter().all(|it| !it.connected)
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(1));
    agent.write_numbered(&logs, 10, 10);
    shipping.stop().await;
    assert_eq!(aggregator.lines(&logs).await.len(), 10);
    assert!(!agent.is_empty(), "what is refused stays in the spool");
    aggregator.stop().await;
}
