//! Messages and frames: written, cut anywhere, read back; and broken ones refused.

use std::time::Duration;

use super::broker::BrokerSession;
use super::chunk::{ChunkDecoder, chunk_header};
use super::control::Liveness;
use super::frame::{FrameDecoder, FrameEvent, StreamHeader, frame_header};
use super::message::{
    Ack, Credit, Decoded, Hello, HelloAck, Hints, Loss, Opened, Progress, Refusal, RefusalCode,
    Renewed, Slot, Status, ToBroker, ToProducer,
};
use crate::id::{ProducerEpoch, ProducerId, Sequence};
use crate::limits::{BATCH_BYTES_MAX, CHUNK_BYTES_MAX, CONTROL_BYTES_MAX};

fn sequence(value: i32) -> Sequence {
    Sequence::new(value).unwrap()
}

pub(super) fn hello() -> Hello {
    Hello {
        versions: 1..=3,
        producer: ProducerId::new(i64::MAX).unwrap(),
        epoch: ProducerEpoch::new(7).unwrap(),
        replaces: ProducerId::new(5),
        host: "web-1".into(),
        machine_id: "0123456789abcdef".into(),
        boot_id: "fedcba".into(),
        agent_version: "0.1.0".into(),
        partitions: vec!["logs-0".parse().unwrap(), "web.access-12".parse().unwrap()],
    }
}

pub(super) fn messages_to_broker() -> Vec<ToBroker> {
    vec![
        ToBroker::Hello(hello()),
        ToBroker::OpenPartition {
            slot: Slot(2),
            partition: "logs-1".parse().unwrap(),
        },
        ToBroker::Renew(vec![1, 2, 3]),
        ToBroker::Goodbye("stopped".into()),
        ToBroker::Compare(Slot(1), vec![(sequence(4), 0xffff_ffff)]),
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
    ]
}

fn refusal() -> Refusal {
    Refusal {
        code: RefusalCode::Revoked,
        message: "revoked: join again".into(),
        retry_after: Duration::from_mins(1),
    }
}

pub(super) fn messages_to_producer() -> Vec<ToProducer> {
    let hints = Hints {
        linger: Duration::from_micros(1500),
        partitions: vec![("logs".parse().unwrap(), 4)],
        partitions_of_new: 7,
    };
    vec![
        ToProducer::HelloAck(HelloAck {
            version: 1,
            producer: ProducerId::new(3).unwrap(),
            partitions: vec![
                Opened::Accepted {
                    progress: Some(Progress {
                        next: sequence(i32::MAX),
                        durable: sequence(3),
                        last: Some((sequence(2), 0xdead_beef)),
                    }),
                    credit: 1 << 20,
                },
                Opened::Accepted {
                    progress: None,
                    credit: 0,
                },
                Opened::Refused(refusal()),
            ],
            hints: hints.clone(),
        }),
        ToProducer::Opened(Slot(3), Opened::Refused(refusal())),
        ToProducer::Ack(vec![Ack {
            slot: Slot(0),
            appended: sequence(9),
            durable: sequence(7),
        }]),
        ToProducer::Credit(vec![Credit {
            slot: Slot(1),
            limit: 1 << 50,
        }]),
        ToProducer::Conflict(Slot(1), sequence(4)),
        ToProducer::Refused(refusal()),
        ToProducer::Redirect {
            addresses: vec!["a:9347".into()],
            reason: "drained".into(),
        },
        ToProducer::Goodbye("restart".into()),
        ToProducer::Renewed(Renewed {
            certificates: vec![vec![9; 1000]],
            authorities: vec![vec![], vec![7]],
        }),
        ToProducer::Common(Slot(1), sequence(8)),
        ToProducer::Ping,
        ToProducer::Hints(hints),
    ]
}

#[test]
fn every_message_is_read_back_and_none_before_its_last_byte() {
    for message in messages_to_broker() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(ToBroker::decode(&bytes[..cut]).unwrap(), Decoded::Partial);
        }
        let size = bytes.len();
        bytes.push(0xff);
        assert_eq!(
            ToBroker::decode(&bytes).unwrap(),
            Decoded::Message(message, size)
        );
    }
    for message in messages_to_producer() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert_eq!(ToProducer::decode(&bytes[..cut]).unwrap(), Decoded::Partial);
        }
        let size = bytes.len();
        assert_eq!(
            ToProducer::decode(&bytes).unwrap(),
            Decoded::Message(message, size)
        );
    }
}

#[test]
fn a_later_version_may_add_fields_and_optional_kinds() {
    let longer = [3, 128, 1, 2];
    assert_eq!(
        ToBroker::decode(&longer).unwrap(),
        Decoded::Message(ToBroker::Ping, 4)
    );
    assert_eq!(ToBroker::decode(&[2, 200, 1]).unwrap(), Decoded::Ignored(3));
    let error = ToBroker::decode(&[2, 99, 1]).unwrap_err();
    assert!(error.message.contains("unknown kind 99"), "{error}");
}

#[test]
fn a_lying_length_is_refused_before_anything_is_allocated() {
    let over = |bytes: &[u8]| ToProducer::decode(bytes).unwrap_err().message;
    let mut length = Vec::new();
    super::varint::write(&mut length, CONTROL_BYTES_MAX as u64 + 1);
    assert!(over(&length).contains("262145"), "{}", over(&length));
    assert!(over(&[0]).contains("0 bytes"));
    // An acknowledgement that claims 2³⁰ entries in a message of six bytes.
    let lying = [6, 3, 0xbf, 0xff, 0xff, 0xff, 0];
    assert!(over(&lying).contains("over the limit"), "{}", over(&lying));
}

#[test]
fn a_stream_is_cut_into_its_batches_wherever_the_network_cuts_it() {
    let header = StreamHeader {
        slot: Slot(70),
        sequence: sequence(1_000_000),
    };
    let batches = [vec![1; 61], vec![2; 64], vec![3; 200_000]];
    let mut bytes = header.encode();
    let mut expected = vec![FrameEvent::Header(header)];
    for batch in &batches {
        bytes.extend(frame_header(batch.len()));
        bytes.extend(batch);
        expected.push(FrameEvent::Begins(batch.len()));
        expected.push(FrameEvent::Batch(batch.clone()));
    }
    for piece in [1, 2, 61, 1200, 70_000, bytes.len()] {
        let mut decoder = FrameDecoder::new();
        let mut found = Vec::new();
        for mut piece in bytes.chunks(piece) {
            while let Some(event) = decoder.next(&mut piece).unwrap() {
                if matches!(event, FrameEvent::Begins(_)) {
                    decoder.gather_in(vec![9; 100]);
                }
                // Too late for this batch.
                decoder.gather_in(vec![8; 10]);
                found.push(event);
            }
        }
        assert_eq!(found, expected, "in pieces of {piece}");
        assert!(decoder.is_between_frames());
    }
}

#[test]
fn a_frame_outside_the_limits_is_refused() {
    for bytes in [0, 60, BATCH_BYTES_MAX + 1, 1 << 40] {
        let mut stream = StreamHeader {
            slot: Slot(0),
            sequence: Sequence::ZERO,
        }
        .encode();
        stream.extend(frame_header(bytes));
        let mut input = &stream[..];
        let mut decoder = FrameDecoder::new();
        decoder.next(&mut input).unwrap();
        let error = decoder.next(&mut input).unwrap_err();
        assert!(error.message.contains(&bytes.to_string()), "{error}");
    }
}

#[test]
fn streams_share_a_connection_and_come_apart_again() {
    let mut bytes = Vec::new();
    let mut expected = vec![Vec::new(); 3];
    for (stream, len) in [(0u32, 5), (2, CHUNK_BYTES_MAX), (1, 1), (2, 300)] {
        bytes.extend(chunk_header(stream, len));
        let payload = vec![u8::try_from(len % 251).unwrap(); len];
        expected[stream as usize].extend_from_slice(&payload);
        bytes.extend(payload);
    }
    for piece in [1, 3, 1000, bytes.len()] {
        let mut decoder = ChunkDecoder::new();
        let mut found = vec![Vec::new(); 3];
        for mut piece in bytes.chunks(piece) {
            while let Some(chunk) = decoder.next(&mut piece).unwrap() {
                found[chunk.stream as usize].extend_from_slice(chunk.bytes);
            }
        }
        assert_eq!(found, expected);
    }
    let mut over = &[0, 0x80, 0x01, 0x00, 0x01][..];
    assert!(ChunkDecoder::new().next(&mut over).is_err());
    let mut zero = &[0, 0][..];
    assert!(ChunkDecoder::new().next(&mut zero).is_err());
}

/// A session whose two slots are open.
fn live() -> BrokerSession {
    let mut session = BrokerSession::new(Liveness::Transport, Duration::ZERO);
    let mut bytes = Vec::new();
    ToBroker::Hello(hello()).encode(&mut bytes);
    session.received(&bytes, Duration::ZERO).unwrap();
    let opened = || Opened::Accepted {
        progress: None,
        credit: 1 << 20,
    };
    let hints = Hints {
        linger: Duration::ZERO,
        partitions: Vec::new(),
        partitions_of_new: 4,
    };
    session.accept(vec![opened(), opened()], hints).unwrap();
    session.output(Duration::ZERO).unwrap();
    session
}

#[test]
fn what_was_appended_is_acknowledged_before_the_last_word() {
    type Ending = fn(&mut BrokerSession) -> crate::error::Result<()>;
    let endings: [Ending; 3] = [
        |it| it.refuse(refusal()),
        |it| it.goodbye("stopped"),
        |it| it.redirect(vec!["b:7319".into()], "moved".into()),
    ];
    for end in endings {
        let mut session = live();
        let slot = Slot(1);
        let header = StreamHeader {
            slot,
            sequence: sequence(0),
        };
        session.stream(header).unwrap();
        session.appended(slot, sequence(5));
        session.durable(slot, sequence(3));
        end(&mut session).unwrap();
        let bytes = session.output(Duration::ZERO).unwrap();
        let Decoded::Message(ToProducer::Ack(acks), size) = ToProducer::decode(&bytes).unwrap()
        else {
            panic!("no acknowledgement first: {bytes:?}");
        };
        assert_eq!(
            (acks[0].appended, acks[0].durable),
            (sequence(5), sequence(3))
        );
        assert!(bytes.len() > size, "the last word follows");
    }
}

#[test]
fn a_slot_asks_for_one_comparison_at_a_time() {
    let mut session = live();
    let mut bytes = Vec::new();
    ToBroker::Compare(Slot(1), vec![(sequence(4), 7)]).encode(&mut bytes);
    session.received(&bytes, Duration::ZERO).unwrap();
    session.common(Slot(1), sequence(4)).unwrap();
    session.received(&bytes, Duration::ZERO).unwrap();
    session.received(&bytes, Duration::ZERO).unwrap_err();
}
