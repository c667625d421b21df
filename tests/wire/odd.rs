//! An aggregator that does what ours does rarely, at the worst moment.

use std::sync::Arc;
use std::time::Duration;

use commitlog::wire::broker::{BrokerEvent, BrokerSession};
use commitlog::wire::control::Liveness;
use commitlog::wire::message::{Hello, Hints, Opened, Slot};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};

use crate::any_port;
use crate::rig::{Agent, Aggregator, partition};

const NOW: Duration = Duration::ZERO;

/// A session's control stream, played by hand.
struct Played {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    session: BrokerSession,
}

impl Played {
    async fn begin(endpoint: &Endpoint) -> (Played, Hello) {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (send, receive) = connection.accept_bi().await.unwrap();
        let mut played = Played {
            connection,
            send,
            receive,
            session: BrokerSession::new(Liveness::Transport, NOW),
        };
        let hello = loop {
            if let Some(BrokerEvent::Hello(hello)) = played.session.event() {
                break hello;
            }
            played.hear().await;
        };
        (played, hello)
    }

    async fn hear(&mut self) {
        let chunk = self.receive.read_chunk(usize::MAX, true).await.unwrap();
        self.session.received(&chunk.unwrap().bytes, NOW).unwrap();
    }

    async fn say(&mut self) {
        let bytes = self.session.output(NOW).unwrap();
        self.send.write_all(&bytes).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_is_heard_although_its_stream_was_closed_first() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let tls = QuicServerConfig::try_from(aggregator.authority.server_tls().unwrap()).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let endpoint = Endpoint::server(config, any_port()).unwrap();
    let (agent, logs) = (Agent::new(), partition("logs-2"));
    agent.write_numbered(&logs, 0, 20_000);
    let address = endpoint.local_addr().unwrap();
    let shipping = agent.ship(&[address], aggregator.enrol("a").await);

    let (mut played, first) = Played::begin(&endpoint).await;
    let opened = Opened::Accepted {
        progress: None,
        credit: u64::MAX,
    };
    let hints = Hints {
        linger: Duration::from_millis(1),
        partitions: Vec::new(),
        partitions_of_new: 0,
    };
    played.session.accept(vec![opened], hints).unwrap();
    played.say().await;
    let mut stream = played.connection.accept_uni().await.unwrap();
    stream.read_chunk(usize::MAX, true).await.unwrap();
    stream.stop(0_u32.into()).unwrap();
    // The control stream is slow: by now the agent's sender knows that nobody reads it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let sequence = commitlog::id::Sequence::ZERO;
    played.session.conflict(Slot(0), sequence).unwrap();
    played.say().await;

    let (_played, second) = Played::begin(&endpoint).await;
    assert_eq!(second.replaces, Some(first.producer), "a new id was drawn");
    shipping.abort().await;
    aggregator.stop().await;
}
