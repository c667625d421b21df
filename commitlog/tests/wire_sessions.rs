//! The two sessions against each other with no network: bytes are handed over one message or batch at
//! a time, and the connection is cut before every one of them in turn. Whatever was on its way is lost,
//! both sides start over from what they have, and in the end the log has every batch once, in order,
//! and the spool is free.
#![expect(
    clippy::unwrap_used,
    reason = "all of this is test code, which clippy sees only in functions marked as tests"
)]

use std::time::Duration;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord};
use commitlog::batch::header::{BatchHeader, Producer, patch, verify};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicPartition};
use commitlog::limits::SESSION_PARTITIONS_MAX;
use commitlog::wire::broker::{BrokerEvent, BrokerSession};
use commitlog::wire::control::Liveness;
use commitlog::wire::message::{
    Ack, Hello, HelloAck, Hints, Opened, Progress, Refusal, RefusalCode, Slot, ToProducer,
};
use commitlog::wire::producer::{ProducerEvent, ProducerSession};
use commitlog::wire::resume::{Resume, Sendable, resume};

const PARTITIONS: usize = 2;
const BATCHES: usize = 12;
const RECORDS: u32 = 3;
/// Two and a half batches: credit has to be granted again and again.
const WINDOW: u64 = 400;
const NOW: Duration = Duration::ZERO;

fn producer_id() -> ProducerId {
    ProducerId::new(99).unwrap()
}

fn partition(number: usize) -> TopicPartition {
    format!("logs-{number}").parse().unwrap()
}

fn hello(partitions: usize) -> Hello {
    Hello {
        versions: 1..=1,
        producer: producer_id(),
        epoch: ProducerEpoch::ZERO,
        replaces: None,
        host: String::new(),
        machine_id: String::new(),
        boot_id: String::new(),
        agent_version: String::new(),
        partitions: (0..partitions).map(partition).collect(),
    }
}

/// What an agent keeps of a partition.
struct Spool {
    batches: Vec<Vec<u8>>,
    start: Offset,
}

/// What an aggregator keeps of a partition.
#[derive(Default)]
struct Log {
    batches: Vec<Vec<u8>>,
    durable: usize,
}

fn header(batch: &[u8]) -> BatchHeader {
    BatchHeader::parse(batch).unwrap()
}

fn spool(number: usize) -> Spool {
    let mut builder = BatchBuilder::new();
    let headers = HeaderBlock::new(&[]).unwrap();
    // The sequences wrap on the way.
    let mut offset = Offset::new((1 << 31) - 10).unwrap();
    let mut batches = Vec::new();
    let start = offset;
    for batch in 0..BATCHES {
        for record in 0..RECORDS {
            builder.push(&NewRecord {
                timestamp: Timestamp(5),
                key: None,
                value: format!("{number} {batch} {record}").as_bytes(),
                headers: &headers,
                extra: None,
            });
        }
        let producer = Producer {
            id: producer_id(),
            epoch: ProducerEpoch::ZERO,
            base_sequence: Sequence::of_spool_offset(offset),
        };
        builder.finish(producer, &mut batches).unwrap();
        patch(batches.last_mut().unwrap(), offset);
        offset = offset.plus(RECORDS);
    }
    Spool { batches, start }
}

impl Spool {
    fn range(&self) -> Sendable {
        Sendable {
            start: self.start,
            end: header(self.batches.last().unwrap()).next_offset(),
        }
    }

    fn batch_at(&self, offset: Offset) -> Option<&[u8]> {
        let mut batches = self.batches.iter();
        batches
            .find(|it| header(it).base_offset == offset)
            .map(Vec::as_slice)
    }
}

impl Log {
    fn progress(&self) -> Option<Progress> {
        let last = header(self.batches.last()?);
        let next = last.next_sequence().unwrap();
        let first = header(&self.batches[0]).producer.unwrap().base_sequence;
        let durable = self
            .durable
            .checked_sub(1)
            .map(|it| header(&self.batches[it]));
        Some(Progress {
            next,
            durable: durable.map_or(first, |it| it.next_sequence().unwrap()),
            last: Some((last.producer.unwrap().base_sequence, last.crc)),
        })
    }
}

/// Both ends, and how many hand-overs are left before the connection is cut.
struct Rig {
    spools: Vec<Spool>,
    logs: Vec<Log>,
    /// Slots whose stream has begun in this connection.
    begun: Vec<usize>,
    hand_overs: usize,
    cut_before: Option<usize>,
}

/// The connection was cut.
struct Cut;

impl Rig {
    fn new() -> Rig {
        Rig {
            spools: (0..PARTITIONS).map(spool).collect(),
            logs: (0..PARTITIONS).map(|_| Log::default()).collect(),
            begun: Vec::new(),
            hand_overs: 0,
            cut_before: None,
        }
    }

    fn is_done(&self) -> bool {
        self.spools.iter().all(|it| it.start == it.range().end)
    }

    fn hand_over(&mut self) -> Result<(), Cut> {
        let cut = self.cut_before == Some(self.hand_overs);
        self.hand_overs += 1;
        if cut { Err(Cut) } else { Ok(()) }
    }

    /// One connection, until everything is freed or it is cut.
    fn connect(&mut self) -> Result<(), Cut> {
        let hello = hello(PARTITIONS);
        let mut agent = ProducerSession::new(hello, Liveness::Transport, NOW).unwrap();
        let mut broker = BrokerSession::new(Liveness::Transport, NOW);
        self.begun.clear();
        for round in 0.. {
            assert!(round < 10_000, "no progress");
            if self.is_done() {
                return Ok(());
            }
            let said = agent.output(NOW);
            if !said.is_empty() {
                self.hand_over()?;
                broker.received(&said, NOW).unwrap();
            }
            self.answer(&mut broker);
            let said = broker.output(NOW).unwrap();
            if !said.is_empty() {
                self.hand_over()?;
                agent.received(&said, NOW).unwrap();
            }
            self.act(&mut agent, &mut broker);
            self.ship(&mut agent, &mut broker)?;
            self.sync(&mut broker, round);
        }
        Ok(())
    }

    fn answer(&mut self, broker: &mut BrokerSession) {
        while let Some(event) = broker.event() {
            let BrokerEvent::Hello(_) = event else {
                panic!("{event:?}");
            };
            let accepted = |log: &Log| Opened::Accepted {
                progress: log.progress(),
                credit: WINDOW,
            };
            let partitions = self.logs.iter().map(accepted).collect();
            broker.accept(partitions, Hints::default()).unwrap();
        }
    }

    fn act(&mut self, agent: &mut ProducerSession, broker: &mut BrokerSession) {
        while let Some(event) = agent.event() {
            match event {
                ProducerEvent::Opened(slot, progress) => {
                    let spool = &mut self.spools[slot.0 as usize];
                    let crc_at = |sequence: Sequence| {
                        let mut batches = spool.batches.iter().map(|it| header(it));
                        let same =
                            |it: &BatchHeader| it.producer.unwrap().base_sequence == sequence;
                        Ok(batches.find(same).map(|it| it.crc))
                    };
                    let resumed = resume(spool.range(), progress, crc_at).unwrap();
                    let Resume::At { next, durable } = resumed else {
                        panic!("{resumed:?}");
                    };
                    spool.start = spool.start.max(durable);
                    let header = agent.start(slot, next, durable).unwrap();
                    broker.stream(header).unwrap();
                    self.begun.push(slot.0 as usize);
                }
                ProducerEvent::Durable(slot, upto) => {
                    let spool = &mut self.spools[slot.0 as usize];
                    assert!(upto > spool.start);
                    spool.start = upto;
                }
                ProducerEvent::CreditGrew(_) | ProducerEvent::Hints(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Hands over at most one batch of each slot.
    fn ship(&mut self, agent: &mut ProducerSession, broker: &mut BrokerSession) -> Result<(), Cut> {
        for number in 0..PARTITIONS {
            let slot = Slot(u32::try_from(number).unwrap());
            let Some(allowance) = agent.allowance(slot) else {
                continue;
            };
            let Some(batch) = self.spools[number]
                .batch_at(allowance.from)
                .map(<[u8]>::to_vec)
            else {
                continue;
            };
            if batch.len() as u64 > allowance.bytes {
                continue;
            }
            agent.send(slot, &header(&batch)).unwrap();
            self.hand_over()?;
            let header = verify(&batch).unwrap();
            broker.batch(slot, &header).unwrap();
            self.logs[number].batches.push(batch);
            broker.appended(slot, header.next_sequence().unwrap());
            broker.grant(slot, WINDOW);
        }
        Ok(())
    }

    /// An fsync now and then.
    fn sync(&mut self, broker: &mut BrokerSession, round: usize) {
        let number = round % (PARTITIONS + 1);
        let Some(log) = self.logs.get_mut(number) else {
            return;
        };
        if log.durable < log.batches.len() && self.begun.contains(&number) {
            log.durable = log.batches.len();
            let next = log.progress().unwrap().durable;
            broker.durable(Slot(u32::try_from(number).unwrap()), next);
        }
    }

    fn check(&self, context: &str) {
        for (number, log) in self.logs.iter().enumerate() {
            assert!(self.is_done(), "{context}");
            assert_eq!(log.batches, spool(number).batches, "{context}");
        }
    }
}

/// How many hand-overs an undisturbed run takes.
fn undisturbed() -> usize {
    let mut rig = Rig::new();
    assert!(rig.connect().is_ok());
    rig.check("undisturbed");
    rig.hand_overs
}

#[test]
fn a_connection_cut_before_any_message_loses_and_repeats_nothing() {
    for cut in 0..undisturbed() {
        let mut rig = Rig::new();
        rig.cut_before = Some(cut);
        assert!(rig.connect().is_err(), "cut before {cut}");
        assert!(rig.connect().is_ok(), "after the cut before {cut}");
        rig.check(&format!("cut before {cut}"));
    }
}

#[test]
fn connections_cut_twice_lose_and_repeat_nothing() {
    let total = undisturbed();
    for first in 0..total {
        for second in 0..total {
            let mut rig = Rig::new();
            let context = format!("cut before {first}, then before {second}");
            rig.cut_before = Some(first);
            assert!(rig.connect().is_err(), "{context}");
            rig.hand_overs = 0;
            rig.cut_before = Some(second);
            // Near the end there is less left to hand over than that.
            if rig.connect().is_err() {
                assert!(rig.connect().is_ok(), "{context}");
            }
            rig.check(&context);
        }
    }
}

#[test]
fn connections_that_are_cut_again_and_again_come_to_an_end() {
    for seed in 0..300_u64 {
        let mut state = seed;
        let mut rig = Rig::new();
        for _ in 0..1000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            rig.hand_overs = 0;
            // Four hand-overs at least, or no batch would ever pass.
            rig.cut_before = Some(4 + usize::try_from(state >> 60).unwrap());
            if rig.connect().is_ok() {
                break;
            }
        }
        rig.check(&format!("seed {seed}"));
    }
}

/// A session whose slot 0 was started at the spool's beginning, with one batch sent.
fn started() -> (ProducerSession, Spool) {
    let spool = spool(0);
    let hello = hello(1);
    let mut session = ProducerSession::new(hello, Liveness::Session, NOW).unwrap();
    let ack = ToProducer::HelloAck(HelloAck {
        version: 1,
        producer: producer_id(),
        partitions: vec![Opened::Accepted {
            progress: None,
            credit: WINDOW,
        }],
        hints: Hints::default(),
    });
    hear(&mut session, &ack).unwrap();
    session.start(Slot(0), spool.start, spool.start).unwrap();
    session.send(Slot(0), &header(&spool.batches[0])).unwrap();
    while session.event().is_some() {}
    (session, spool)
}

fn hear(session: &mut ProducerSession, message: &ToProducer) -> commitlog::error::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    session.received(&bytes, NOW)
}

#[test]
fn i30_an_aggregator_cannot_acknowledge_what_was_not_sent() {
    let first = Sequence::of_spool_offset(spool(0).start);
    let check = |appended: u32, durable: u32, slot: u32, believed: bool| {
        let (mut session, spool) = started();
        let ack = Ack {
            slot: Slot(slot),
            appended: first.plus(appended),
            durable: first.plus(durable),
        };
        let heard = hear(&mut session, &ToProducer::Ack(vec![ack]));
        assert_eq!(heard.is_ok(), believed, "{ack:?}");
        let freed = session.event();
        let expected = (believed && durable > 0)
            .then(|| ProducerEvent::Durable(Slot(0), spool.start.plus(durable)));
        assert_eq!(freed, expected, "{ack:?}");
    };
    check(RECORDS, RECORDS, 0, true);
    check(RECORDS, 0, 0, true);
    check(0, 0, 0, true);
    check(RECORDS + 1, RECORDS, 0, false);
    check(RECORDS, RECORDS + 1, 0, false);
    check(0, RECORDS, 0, false);
    check(u32::MAX >> 1, 0, 0, false);
    check(RECORDS, RECORDS, 1, false);
}

/// Hands what one side has to say to the other.
fn exchange(agent: &mut ProducerSession, broker: &mut BrokerSession) {
    broker.received(&agent.output(NOW), NOW).unwrap();
    agent.received(&broker.output(NOW).unwrap(), NOW).unwrap();
}

#[test]
fn a_refused_partition_is_asked_for_again_and_again_under_its_slot() {
    let mut agent = ProducerSession::new(hello(2), Liveness::Session, NOW).unwrap();
    let mut broker = BrokerSession::new(Liveness::Session, NOW);
    let refused = || {
        Opened::Refused(Refusal {
            code: RefusalCode::NoPartition,
            message: "no such topic".to_owned(),
            retry_after: Duration::ZERO,
        })
    };
    let accepted = || Opened::Accepted {
        progress: None,
        credit: WINDOW,
    };
    let hints = Hints {
        linger: Duration::ZERO,
        partitions: Vec::new(),
        partitions_of_new: 3,
    };
    exchange(&mut agent, &mut broker);
    broker.accept(vec![accepted(), refused()], hints).unwrap();
    exchange(&mut agent, &mut broker);
    for _ in 0..2 * SESSION_PARTITIONS_MAX {
        while broker.event().is_some() || agent.event().is_some() {}
        assert!(!agent.ask_again(Slot(0)).unwrap(), "it is open");
        assert!(agent.ask_again(Slot(1)).unwrap());
        assert!(!agent.ask_again(Slot(1)).unwrap(), "the answer is due");
        exchange(&mut agent, &mut broker);
        assert_eq!(
            broker.event(),
            Some(BrokerEvent::Open(Slot(1), partition(1)))
        );
        broker.opened(Slot(1), refused()).unwrap();
        exchange(&mut agent, &mut broker);
        assert!(matches!(
            agent.event(),
            Some(ProducerEvent::SlotRefused(Slot(1), _))
        ));
    }
    assert!(agent.ask_again(Slot(1)).unwrap());
    exchange(&mut agent, &mut broker);
    broker.opened(Slot(1), accepted()).unwrap();
    exchange(&mut agent, &mut broker);
    assert_eq!(agent.event(), Some(ProducerEvent::Opened(Slot(1), None)));
}

#[test]
fn nothing_is_sent_past_the_credit_or_out_of_turn() {
    let (mut session, spool) = started();
    let third = header(&spool.batches[2]);
    assert!(session.send(Slot(0), &third).is_err(), "the second is next");
    let mut sent = 1;
    while session.send(Slot(0), &header(&spool.batches[sent])).is_ok() {
        sent += 1;
    }
    let bytes: usize = spool.batches[..=sent].iter().map(Vec::len).sum();
    assert!(bytes as u64 > WINDOW, "{sent} batches fit the credit");
}

#[test]
fn a_silent_peer_is_pinged_and_then_left_where_the_transport_does_not() {
    let seconds = Duration::from_secs;
    let (mut session, _) = started();
    session.output(NOW);
    session.turn(seconds(4)).unwrap();
    assert!(session.output(seconds(4)).is_empty());
    session.turn(seconds(5)).unwrap();
    assert!(!session.output(seconds(5)).is_empty(), "a ping");
    session.turn(seconds(15)).unwrap();
    session.heard(seconds(15));
    session.turn(seconds(30)).unwrap();
    let error = session.turn(seconds(31)).unwrap_err();
    assert!(error.message.contains("silent for 16 s"), "{error}");

    let mut broker = BrokerSession::new(Liveness::Transport, NOW);
    broker.turn(seconds(3600)).unwrap();
    assert!(broker.output(seconds(3600)).unwrap().is_empty());
}
