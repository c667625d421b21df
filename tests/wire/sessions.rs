//! The bounds of one session: what an agent may ask, how often, and what becomes of a session whose log
//! was opened again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use commitlog::id::Sequence;
use commitlog::limits::{CLAIMS_MAX, WIRE_CERTIFICATE_BYTES_MAX};
use commitlog::storage::faulty::{Fault, FaultyDisk};
use commitlog::wire::control::Liveness;
use commitlog::wire::message::{Hello, RefusalCode, Slot, ToBroker};
use commitlog::wire::producer::{ProducerEvent, ProducerSession};

use crate::any_port;
use crate::hostile::{Peer, hello};
use crate::rig::{Agent, Aggregator, assert_lines, numbered_lines, partition, until};

fn encoded(message: &ToBroker) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

/// `OpenPartition` of slot 1 for partition 0 of a topic whose name no honest agent can have.
fn opening(topic: &str) -> Vec<u8> {
    let length = u8::try_from(topic.len()).unwrap();
    let mut body = vec![2, 1, length];
    body.extend(topic.as_bytes());
    body.push(0);
    let mut bytes = vec![u8::try_from(body.len()).unwrap()];
    bytes.extend(body);
    bytes
}

/// Says these bytes once the slot is open, and expects to be cut off with words that hold `words`.
async fn check(aggregator: &Aggregator, said: &[u8], words: &str) {
    let identity = aggregator.enrol("mallory").await;
    let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
    peer.open().await;
    peer.send(said).await;
    let (code, message) = peer.refusal().await;
    assert_eq!(code, RefusalCode::Protocol, "{message}");
    assert!(message.contains(words), "{message:?} for {words:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_past_its_bounds_ends_the_session_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let claims = |count| vec![(Sequence::ZERO, 7); count];
    let compare = |slot, count| encoded(&ToBroker::Compare(Slot(slot), claims(count)));
    check(&aggregator, &compare(0, CLAIMS_MAX + 1), "claims").await;
    check(&aggregator, &compare(1, 1), "slot 1 has no log").await;
    let large = ToBroker::Renew(vec![0; WIRE_CERTIFICATE_BYTES_MAX + 1]);
    check(&aggregator, &encoded(&large), "request").await;
    check(&aggregator, &encoded(&ToBroker::Hello(hello())), "Hello").await;
    for name in ["..", "../ca", "a/b", "/etc/passwd", "a\0b", "a\n"] {
        check(&aggregator, &opening(name), "topic name").await;
    }
    assert!(aggregator.lines(&partition("logs-0")).await.is_empty());
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_certificate_is_not_made_within_the_hour() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let identity = aggregator.enrol("a").await;
    let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
    peer.open().await;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key);
    let renew = encoded(&ToBroker::Renew(request.unwrap().der().to_vec()));
    // Answers come in order: what follows the second request is answered after it.
    peer.send(&[renew.clone(), renew].concat()).await;
    peer.session.open(&partition("logs-1")).unwrap();
    let open = peer.session.output(Duration::ZERO);
    peer.send(&open).await;
    let mut renewed = 0;
    loop {
        match peer.event().await {
            ProducerEvent::Renewed(_) => renewed += 1,
            ProducerEvent::Opened(Slot(1), _) => break,
            _ => {}
        }
    }
    assert_eq!(renewed, 1);
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_characters_in_a_name_end_the_session() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let identity = aggregator.enrol("mallory").await;
    let evil = || "web-1\u{1b}[2J".to_owned();
    let hellos = [
        Hello {
            host: evil(),
            ..hello()
        },
        Hello {
            machine_id: evil(),
            ..hello()
        },
        Hello {
            boot_id: evil(),
            ..hello()
        },
        Hello {
            agent_version: evil(),
            ..hello()
        },
    ];
    for hello in hellos {
        let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
        peer.session = ProducerSession::new(hello, Liveness::Transport, Duration::ZERO).unwrap();
        peer.say_hello().await;
        let (code, message) = peer.refusal().await;
        assert_eq!(code, RefusalCode::Protocol);
        assert!(message.contains("control characters"), "{message}");
    }
    assert!(aggregator.agents.list().is_empty());
    aggregator.stop().await;
}

/// What a log took and could not sync is gone when it is opened again: the sessions that it came over end,
/// and the agent sends it once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_opened_again_ends_its_sessions_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Aggregator::start(dir.path(), any_port()).await;
    let disk = FaultyDisk::new();
    let authority = issuer.authority.clone();
    let storage = Arc::new(disk.clone());
    let aggregator = Aggregator::start_on(storage, Path::new("/data"), any_port(), authority).await;
    let (agent, logs) = (Agent::new(), partition("logs-0"));
    let shipping = agent.ship(&[aggregator.address], issuer.enrol("a").await);
    let mut written = 0;
    for round in 0..6 {
        // One of the next calls: an append, or the fsync behind it.
        disk.plan(disk.calls() + round % 4, Fault::Io);
        agent.write_numbered(&logs, written, 30);
        written += 30;
        until("all is acknowledged", async || agent.is_empty()).await;
    }
    assert!(shipping.stats.sessions() > 2, "no fault ended a session");
    let lines = aggregator.lines(&logs).await;
    assert_lines(&lines, &numbered_lines(&logs, written), "");
    shipping.stop().await;
    aggregator.stop().await;
    issuer.stop().await;
}
