//! Peers that break the rules, and what they are told: a sentence each, and nothing of theirs in a log.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::Producer;
use commitlog::id::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use commitlog::storage::faulty::FaultyDisk;
use commitlog::storage::write_atomically;
use commitlog::wire::control::Liveness;
use commitlog::wire::frame::{StreamHeader, frame_header};
use commitlog::wire::message::{Hello, RefusalCode, Slot, ToBroker};
use commitlog::wire::producer::{Ending, ProducerEvent, ProducerSession};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::ClientConfig;

use crate::any_port;
use crate::rig::{Aggregator, partition, until};

/// A peer that can send anything.
pub(crate) struct Peer {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    pub(crate) session: ProducerSession,
    _endpoint: Endpoint,
}

pub(crate) fn hello() -> Hello {
    Hello {
        versions: 1..=1,
        producer: ProducerId::new(4711).unwrap(),
        epoch: ProducerEpoch::ZERO,
        replaces: None,
        host: "mallory".into(),
        machine_id: "m".into(),
        boot_id: "b".into(),
        agent_version: "0".into(),
        partitions: vec![partition("logs-0")],
    }
}

impl Peer {
    pub(crate) async fn connect(to: SocketAddr, tls: Arc<ClientConfig>) -> Peer {
        let endpoint = Endpoint::client(any_port()).unwrap();
        let config = QuicClientConfig::try_from(tls).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        let name = config::join::SERVER_NAME;
        let connecting = endpoint.connect_with(config, to, name).unwrap();
        let connection = connecting.await.unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        Peer {
            connection,
            send,
            receive,
            session: ProducerSession::new(hello(), Liveness::Transport, Duration::ZERO).unwrap(),
            _endpoint: endpoint,
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn say_hello(&mut self) {
        let hello = self.session.output(Duration::ZERO);
        self.send(&hello).await;
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> ProducerEvent {
        loop {
            if let Some(event) = self.session.event() {
                return event;
            }
            let read = self.receive.read_chunk(usize::MAX, true);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            let chunk = read.expect("an answer").unwrap().expect("an open stream");
            self.session.received(&chunk.bytes, Duration::ZERO).unwrap();
        }
    }

    /// Says Hello and waits until the slot is open.
    pub(crate) async fn open(&mut self) {
        self.say_hello().await;
        while !matches!(self.event().await, ProducerEvent::Opened(..)) {}
    }

    /// Opens the slot's stream and sends these bytes after its header.
    async fn stream(&mut self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        let header = StreamHeader {
            slot: Slot(0),
            sequence: Sequence::ZERO,
        };
        stream.write_all(&header.encode()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// Waits for the refusal.
    pub(crate) async fn refusal(&mut self) -> (RefusalCode, String) {
        loop {
            if let ProducerEvent::Ended(Ending::Refused(refusal)) = self.event().await {
                return (refusal.code, refusal.message);
            }
        }
    }
}

fn batch(producer: i64, sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    builder.push(&NewRecord {
        timestamp: Timestamp(1),
        key: None,
        value: b"evil",
        headers: &HeaderBlock::new(&[]).unwrap(),
        extra: None,
    });
    let mut batches = Vec::new();
    let producer = Producer {
        id: ProducerId::new(producer).unwrap(),
        epoch: ProducerEpoch::ZERO,
        base_sequence: Sequence::new(sequence).unwrap(),
    };
    builder.finish(producer, &mut batches).unwrap();
    batches.remove(0)
}

fn framed(batch: &[u8]) -> Vec<u8> {
    let mut frame = frame_header(batch.len());
    frame.extend_from_slice(batch);
    frame
}

/// Opens a slot, sends `bytes` on its stream, and expects to be cut off with words that hold `words`.
async fn check_stream(bytes: &[u8], words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let identity = aggregator.enrol("mallory").await;
    let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
    peer.open().await;
    let stream = peer.stream(bytes).await;
    let (code, message) = peer.refusal().await;
    assert_eq!(code, RefusalCode::Protocol);
    assert!(message.contains(words), "{message:?} for {words:?}");
    assert!(aggregator.lines(&partition("logs-0")).await.is_empty());
    until("the connection is closed", async || {
        peer.connection.close_reason().is_some()
    })
    .await;
    drop(stream);
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_a_rule_ends_the_session_with_a_sentence() {
    let mut flipped = batch(4711, 0);
    *flipped.last_mut().unwrap() ^= 1;
    let mut lying = batch(4711, 0);
    lying[60] = 9;
    check_stream(&frame_header(600_000), "frame of 600000 bytes").await;
    check_stream(&framed(&batch(4712, 0)), "another producer").await;
    check_stream(&framed(&batch(4711, 5)), "sequence 5 where 0 was to come").await;
    check_stream(&framed(&flipped), "logs-0: ").await;
    check_stream(&framed(&lying), "logs-0: ").await;
    check_stream(&framed(&[0; 61]), "logs-0: ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_credit_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Aggregator::start(dir.path(), any_port()).await;
    // Past the high-water mark: there is no credit at all.
    let disk = FaultyDisk::new();
    disk.limit(Some(1 << 20));
    write_atomically(&disk, Path::new("/ballast"), &vec![0; 950 << 10]).unwrap();
    let aggregator = Aggregator::start_on(
        Arc::new(disk),
        Path::new("/data"),
        any_port(),
        issuer.authority.clone(),
    )
    .await;
    let identity = issuer.enrol("mallory").await;
    let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
    peer.open().await;
    let _stream = peer.stream(&framed(&batch(4711, 0))).await;
    let (code, message) = peer.refusal().await;
    assert_eq!(code, RefusalCode::Protocol, "{message}");
    assert!(message.contains("credit"), "{message}");
    assert!(aggregator.lines(&partition("logs-0")).await.is_empty());
    aggregator.stop().await;
    issuer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hellos_that_cannot_be_served_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start_configured(dir.path(), &[("configured", 1)]).await;
    let identity = aggregator.enrol("a").await;
    let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
    let mut bytes = Vec::new();
    let newer = Hello {
        versions: 7..=9,
        ..hello()
    };
    ToBroker::Hello(newer).encode(&mut bytes);
    peer.send(&bytes).await;
    let (code, message) = peer.refusal().await;
    assert_eq!(code, RefusalCode::Version);
    assert!(message.contains("upgrade"), "{message}");

    // A partition that a configured topic does not have is refused alone.
    let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
    let both = Hello {
        partitions: vec![partition("logs-0"), partition("configured-99")],
        ..hello()
    };
    peer.session = ProducerSession::new(both, Liveness::Transport, Duration::ZERO).unwrap();
    peer.say_hello().await;
    let mut told = Vec::new();
    while told.len() < 2 {
        match peer.event().await {
            ProducerEvent::Opened(slot, progress) => {
                assert_eq!((slot, progress), (Slot(0), None));
                told.push(String::new());
            }
            ProducerEvent::SlotRefused(slot, refusal) => {
                assert_eq!((slot, refusal.code), (Slot(1), RefusalCode::NoPartition));
                told.push(refusal.message);
            }
            _ => {}
        }
    }
    assert!(told[1].contains("write partitions: 100"), "{told:?}");
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_a_certificate_does_not_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let identity = aggregator.enrol_for("a", &["web-*"]).await;
    let mut peer = Peer::connect(aggregator.address, Arc::clone(&identity.tls)).await;
    peer.say_hello().await;
    let refusal = loop {
        if let ProducerEvent::SlotRefused(_, refusal) = peer.event().await {
            break refusal;
        }
    };
    assert_eq!(refusal.code, RefusalCode::TopicForbidden);
    assert!(
        refusal.message.contains("topic logs"),
        "{}",
        refusal.message
    );
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_with_what_to_do() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let aggregator = Aggregator::start(dirs[0].path(), any_port()).await;
    let error = aggregator
        .broker
        .listen(aggregator.address)
        .await
        .unwrap_err();
    let port = aggregator.address.to_string();
    assert!(error.message.contains(&port), "{error}");
    assert!(error.message.contains("another process"), "{error}");
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_comes_too_slowly_is_cut_off() {
    let mut begun = frame_header(61);
    begun.extend([0; 10]);
    check_stream(&begun, "too slowly").await;
}
