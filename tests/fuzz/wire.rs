//! The wire: what an aggregator hears from agents, what an agent hears from an aggregator, data streams
//! and chunks. A session takes the bytes in pieces of every size, as a network cuts them.

use std::time::Duration;

use commitlog::batch::header::HEADER_BYTES;
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence};
use commitlog::limits::{BATCH_BYTES_MAX, CHUNK_BYTES_MAX, SESSION_PARTITIONS_MAX};
use commitlog::wire::broker::{BrokerEvent, BrokerSession};
use commitlog::wire::chunk::{ChunkDecoder, chunk_header};
use commitlog::wire::control::Liveness;
use commitlog::wire::frame::{FrameDecoder, FrameEvent, StreamHeader, frame_header};
use commitlog::wire::message::{
    Ack, Credit, Hello, HelloAck, Hints, Loss, Opened, Progress, Refusal, RefusalCode, Renewed,
    Slot, Status, ToBroker, ToProducer,
};
use commitlog::wire::producer::{ProducerEvent, ProducerSession};
use weir_tests::fuzz::fuzz;

/// Every input is fed whole, and byte by byte.
const PIECES: [usize; 2] = [usize::MAX, 1];

#[test]
fn an_aggregator_understands_an_agent_or_refuses_it() {
    fuzz("wire-broker", &to_broker(), |bytes| {
        // What follows a Hello in one piece comes before its answer, so the two may differ.
        PIECES.map(|piece| hear_agent(bytes, piece)).join(" / ")
    });
}

#[test]
fn an_agent_understands_an_aggregator_or_leaves_it() {
    fuzz("wire-producer", &to_producer(), |bytes| {
        PIECES
            .map(|piece| hear_aggregator(bytes, piece))
            .join(" / ")
    });
}

#[test]
fn a_stream_is_batches_or_refused() {
    fuzz("wire-frames", &streams(), |bytes| {
        let [whole, bytewise] = PIECES.map(|piece| read_frames(bytes, piece));
        assert_eq!(whole, bytewise);
        whole
    });
}

#[test]
fn a_connection_is_chunks_or_refused() {
    fuzz("wire-chunks", &connections(), |bytes| {
        let [whole, bytewise] = PIECES.map(|piece| read_chunks(bytes, piece));
        assert_eq!(whole, bytewise);
        whole
    });
}

fn hear_agent(bytes: &[u8], piece: usize) -> String {
    let mut session = BrokerSession::new(Liveness::Session, Duration::ZERO);
    let mut told = Vec::new();
    for piece in bytes.chunks(piece) {
        let heard = session.received(piece, Duration::ZERO);
        while let Some(event) = session.event() {
            told.push(kind(&event));
            match event {
                BrokerEvent::Hello(hello) => {
                    assert!(hello.partitions.len() <= SESSION_PARTITIONS_MAX);
                    let accepted = |_| Opened::Accepted {
                        progress: None,
                        credit: 0,
                    };
                    let partitions = hello.partitions.iter().map(accepted).collect();
                    session.accept(partitions, Hints::default()).unwrap();
                }
                BrokerEvent::Open(slot, _) => {
                    let refused = Opened::Refused(refusal());
                    session.opened(slot, refused).unwrap();
                }
                _ => {}
            }
        }
        if let Err(error) = heard {
            told.push(error.message);
            break;
        }
    }
    told.join("; ")
}

fn hear_aggregator(bytes: &[u8], piece: usize) -> String {
    let mut session = ProducerSession::new(hello(), Liveness::Session, Duration::ZERO).unwrap();
    let mut told = Vec::new();
    for piece in bytes.chunks(piece) {
        let heard = session.received(piece, Duration::ZERO);
        while let Some(event) = session.event() {
            told.push(kind(&event));
            match event {
                ProducerEvent::Opened(slot, _) => {
                    session.start(slot, Offset::ZERO, Offset::ZERO).unwrap();
                }
                ProducerEvent::Durable(..) => panic!("nothing was sent"),
                _ => {}
            }
        }
        if let Err(error) = heard {
            told.push(error.message);
            break;
        }
    }
    told.join("; ")
}

/// An event's name: the fuzzer counts what it has reached by these.
fn kind(event: &impl std::fmt::Debug) -> String {
    let told = format!("{event:?}");
    let end = told.find(|c: char| !c.is_alphanumeric());
    told[..end.unwrap_or(told.len())].to_owned()
}

fn read_frames(bytes: &[u8], piece: usize) -> String {
    let mut decoder = FrameDecoder::new();
    let mut told = Vec::new();
    let mut announced = None;
    for mut piece in bytes.chunks(piece) {
        loop {
            match decoder.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(FrameEvent::Header(_))) => told.push("header".to_owned()),
                Ok(Some(FrameEvent::Begins(bytes))) => {
                    assert!((HEADER_BYTES..=BATCH_BYTES_MAX).contains(&bytes));
                    announced = Some(bytes);
                }
                Ok(Some(FrameEvent::Batch(batch))) => {
                    assert_eq!(announced.take(), Some(batch.len()));
                    told.push("batch".to_owned());
                }
                Err(error) => {
                    told.push(error.message);
                    return told.join("; ");
                }
            }
        }
    }
    told.join("; ")
}

fn read_chunks(bytes: &[u8], piece: usize) -> String {
    let mut decoder = ChunkDecoder::new();
    let mut told = 0;
    for mut piece in bytes.chunks(piece) {
        loop {
            match decoder.next(&mut piece) {
                Ok(None) => break,
                Ok(Some(chunk)) => {
                    assert!((1..=CHUNK_BYTES_MAX).contains(&chunk.bytes.len()));
                    told += chunk.bytes.len();
                }
                Err(error) => return format!("{told} bytes; {}", error.message),
            }
        }
    }
    format!("{told} bytes")
}

fn hello() -> Hello {
    Hello {
        versions: 1..=1,
        producer: ProducerId::new(77).unwrap(),
        epoch: ProducerEpoch::ZERO,
        replaces: ProducerId::new(5),
        host: "web-1".into(),
        machine_id: "0123456789abcdef".into(),
        boot_id: "fedcba".into(),
        agent_version: "0.1.0".into(),
        partitions: vec!["logs-0".parse().unwrap(), "web.access-12".parse().unwrap()],
    }
}

fn refusal() -> Refusal {
    Refusal {
        code: RefusalCode::Revoked,
        message: "join again".into(),
        retry_after: Duration::from_secs(1),
    }
}

fn sequence(value: i32) -> Sequence {
    Sequence::new(value).unwrap()
}

fn to_broker() -> Vec<Vec<u8>> {
    let rest = [
        ToBroker::OpenPartition {
            slot: Slot(2),
            partition: "logs-1".parse().unwrap(),
        },
        ToBroker::Renew(vec![1, 2, 3]),
        ToBroker::Compare(Slot(0), vec![(sequence(4), 0xffff_ffff)]),
        ToBroker::Ping,
        ToBroker::Status(Status {
            lag_bytes: 1 << 40,
            lag_records: 9,
            unread_bytes: 1 << 41,
            losses: vec![Loss {
                reason: "deleted_unread".into(),
                count: 4,
            }],
        }),
        ToBroker::Goodbye("stopped".into()),
    ];
    let mut all = Vec::new();
    ToBroker::Hello(hello()).encode(&mut all);
    let mut samples = vec![all.clone()];
    for message in rest {
        message.encode(&mut all);
        samples.push(all.clone());
    }
    samples
}

fn to_producer() -> Vec<Vec<u8>> {
    let hints = Hints {
        linger: Duration::from_micros(1500),
        partitions: vec![("logs".parse().unwrap(), 4)],
        partitions_of_new: 7,
    };
    let opened = Opened::Accepted {
        progress: Some(Progress {
            next: sequence(i32::MAX),
            durable: sequence(3),
            last: Some((sequence(2), 0xdead_beef)),
        }),
        credit: 1 << 20,
    };
    let ack = Ack {
        slot: Slot(0),
        appended: Sequence::ZERO,
        durable: Sequence::ZERO,
    };
    let rest = [
        ToProducer::Opened(Slot(1), Opened::Refused(refusal())),
        ToProducer::Credit(vec![Credit {
            slot: Slot(0),
            limit: 1 << 50,
        }]),
        ToProducer::Ack(vec![ack]),
        ToProducer::Conflict(Slot(1), sequence(4)),
        ToProducer::Common(Slot(1), sequence(4)),
        ToProducer::Renewed(Renewed {
            certificates: vec![vec![9; 40]],
            authorities: vec![vec![], vec![7]],
        }),
        ToProducer::Hints(hints.clone()),
        ToProducer::Ping,
        ToProducer::Redirect {
            addresses: vec!["a:9347".into()],
            reason: "drained".into(),
        },
        ToProducer::Goodbye("restart".into()),
        ToProducer::Refused(refusal()),
    ];
    let mut all = Vec::new();
    ToProducer::HelloAck(HelloAck {
        version: 1,
        producer: hello().producer,
        partitions: vec![opened, Opened::Refused(refusal())],
        hints,
    })
    .encode(&mut all);
    let mut samples = vec![all.clone()];
    for message in rest {
        let mut after_hello = all.clone();
        message.encode(&mut after_hello);
        samples.push(after_hello);
        message.encode(&mut all);
    }
    samples.push(all);
    samples
}

fn streams() -> Vec<Vec<u8>> {
    let header = StreamHeader {
        slot: Slot(70),
        sequence: sequence(1_000_000),
    };
    let mut stream = header.encode();
    let mut samples = vec![stream.clone()];
    for bytes in [61, 64, 700] {
        stream.extend(frame_header(bytes));
        stream.extend(vec![7; bytes]);
        samples.push(stream.clone());
    }
    samples
}

fn connections() -> Vec<Vec<u8>> {
    let mut connection = Vec::new();
    let mut samples = Vec::new();
    for (stream, bytes) in [(0, 5), (2, 300), (1, 1), (1024, 64)] {
        connection.extend(chunk_header(stream, bytes));
        connection.extend(vec![3; bytes]);
        samples.push(connection.clone());
    }
    samples
}
