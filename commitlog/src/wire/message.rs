//! The messages of the control stream, one type for each direction so that neither side can send what
//! only the other may. `wire`'s page has their bytes.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::id::{ProducerEpoch, ProducerId, Sequence, TopicName, TopicPartition};
use crate::limits::{
    CLAIMS_MAX, CONTROL_BYTES_MAX, SESSION_PARTITIONS_MAX, TOPIC_NAME_BYTES_MAX,
    WIRE_ADDRESSES_MAX, WIRE_CERTIFICATE_BYTES_MAX, WIRE_CERTIFICATES_MAX, WIRE_LIST_MAX,
    WIRE_NAME_BYTES_MAX, WIRE_TEXT_BYTES_MAX,
};

use super::field::{FieldReader, FieldWriter};
use super::varint;

/// A topic-partition's number within a session: the place in which the agent named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// What an agent says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The versions of the session that the agent speaks.
    pub versions: std::ops::RangeInclusive<u32>,
    /// The spool's producer id.
    pub producer: ProducerId,
    /// The spool's epoch.
    pub epoch: ProducerEpoch,
    /// The producer id that this spool had until it met somebody else using it.
    pub replaces: Option<ProducerId>,
    /// The host's name, for people.
    pub host: String,
    /// `/etc/machine-id`: clones of a machine often share it.
    pub machine_id: String,
    /// The kernel's boot id: clones never share it.
    pub boot_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// The partitions the spool holds; the place in this list is the slot.
    pub partitions: Vec<TopicPartition>,
}

/// The answer to a [`Hello`] that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloAck {
    /// The version that both sides speak from here on.
    pub version: u32,
    /// The agent's producer id, echoed.
    pub producer: ProducerId,
    /// One entry per partition of the Hello, in its order.
    pub partitions: Vec<Opened>,
    /// The first hints.
    pub hints: Hints,
}

/// Whether a partition may be written, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It may.
    Accepted {
        /// What the partition holds of this producer; `None` if it does not know it.
        progress: Option<Progress>,
        /// How many batch bytes may be sent.
        credit: u64,
    },
    /// It may not; other partitions of the session are not concerned.
    Refused(Refusal),
}

/// What a partition holds of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The sequence it expects next.
    pub next: Sequence,
    /// The next sequence as of its last fsync.
    pub durable: Sequence,
    /// The last batch: its first sequence and its CRC.
    pub last: Option<(Sequence, u32)>,
}

/// What the aggregator asks of every agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// How long a batch should gather before it is cut: short while few agents send.
    pub linger: Duration,
    /// How many partitions each topic has.
    pub partitions: Vec<(TopicName, u32)>,
    /// How many a topic gets that is not among them, when it is first written; 0 when that is not told.
    pub partitions_of_new: u32,
}

/// The next sequences a partition expects: written, and fsynced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The partition.
    pub slot: Slot,
    /// Everything before it is in the log and will be recognised if it comes again.
    pub appended: Sequence,
    /// Everything before it is fsynced: the spool may free it.
    pub durable: Sequence,
}

/// How many batch bytes may have been sent to a partition since the session began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// The partition.
    pub slot: Slot,
    /// An absolute count that only grows.
    pub limit: u64,
}

/// How an agent fares, for those who watch it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Bytes in the spool that no aggregator has acknowledged as durable.
    pub lag_bytes: u64,
    /// The records in them.
    pub lag_records: u64,
    /// Bytes of the files it follows that are not in the spool yet.
    pub unread_bytes: u64,
    /// Everything that was ever lost, by cause.
    pub losses: Vec<Loss>,
}

/// A cause of loss and how often it struck.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The cause, as the agent's metrics name it.
    pub reason: String,
    /// How many records, or bytes, as the reason says.
    pub count: u64,
}

/// A certificate that was made anew, in DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The agent's certificate, then those between it and the authority.
    pub certificates: Vec<Vec<u8>>,
    /// The authorities to trust from now on.
    pub authorities: Vec<Vec<u8>>,
}

/// Why something was refused and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what is wrong, and what to do.
    pub message: String,
    /// Not before this has passed is a retry of any use.
    pub retry_after: Duration,
}

/// The reasons for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCode {
    /// No common version of the session.
    Version,
    /// The peer showed no client certificate.
    NoCertificate,
    /// The certificate is not (or no longer) one that this aggregator trusts.
    BadCertificate,
    /// The agent was revoked.
    Revoked,
    /// The agent's certificate does not allow the topic.
    TopicForbidden,
    /// The topic has no such partition.
    NoPartition,
    /// Another agent uses this producer id at this moment.
    ProducerInUse,
    /// A newer connection, or a newer epoch, of the same producer took over.
    Fenced,
    /// The peer broke a rule of the session.
    Protocol,
    /// Too many connections or partitions at this moment.
    Overloaded,
    /// The partition takes no more until an operator acts.
    Closed,
    /// A reason that this version does not know.
    Other(u32),
}

/// The codes on the wire.
const REFUSAL_CODES: [(u32, RefusalCode); 11] = [
    (1, RefusalCode::Version),
    (2, RefusalCode::NoCertificate),
    (3, RefusalCode::BadCertificate),
    (4, RefusalCode::Revoked),
    (5, RefusalCode::TopicForbidden),
    (6, RefusalCode::NoPartition),
    (7, RefusalCode::ProducerInUse),
    (8, RefusalCode::Fenced),
    (9, RefusalCode::Protocol),
    (10, RefusalCode::Overloaded),
    (11, RefusalCode::Closed),
];

impl RefusalCode {
    fn number(self) -> u32 {
        if let RefusalCode::Other(number) = self {
            return number;
        }
        let found = REFUSAL_CODES.iter().find(|(_, code)| *code == self);
        found.expect("the list has every code but Other").0
    }

    fn of_number(number: u32) -> RefusalCode {
        let found = REFUSAL_CODES.iter().find(|(it, _)| *it == number);
        found.map_or(RefusalCode::Other(number), |(_, code)| *code)
    }
}

/// What an agent sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToBroker {
    /// The first message, and only the first.
    Hello(Hello),
    /// A partition that appeared after the Hello, or was refused.
    OpenPartition {
        /// The next free slot, or the one that the partition was refused under.
        slot: Slot,
        /// Its partition.
        partition: TopicPartition,
    },
    /// A certificate request, to be answered by [`ToProducer::Renewed`].
    Renew(Vec<u8>),
    /// The agent leaves.
    Goodbye(String),
    /// Asks how many of these batches of a slot, by first sequence and CRC, are in its log: the spool and
    /// the log disagree further on. To be answered by [`ToProducer::Common`].
    Compare(Slot, Vec<(Sequence, u32)>),
    /// Keeps the connection from looking dead.
    Ping,
    /// How the agent fares.
    Status(Status),
}

/// What an aggregator sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToProducer {
    /// The answer to Hello.
    HelloAck(HelloAck),
    /// The answer to [`ToBroker::OpenPartition`].
    Opened(Slot, Opened),
    /// Progress of some slots.
    Ack(Vec<Ack>),
    /// More credit for some slots.
    Credit(Vec<Credit>),
    /// The batch at this sequence was there already with other content.
    Conflict(Slot, Sequence),
    /// The session ends.
    Refused(Refusal),
    /// The session ends; another aggregator should be used.
    Redirect {
        /// `host:port` of the others.
        addresses: Vec<String>,
        /// Why, for people.
        reason: String,
    },
    /// The aggregator leaves.
    Goodbye(String),
    /// The answer to [`ToBroker::Renew`].
    Renewed(Renewed),
    /// What was claimed of the slot is in its log, and fsynced, up to this sequence.
    Common(Slot, Sequence),
    /// Keeps the connection from looking dead.
    Ping,
    /// New hints.
    Hints(Hints),
}

/// From this kind on an unknown message is ignored.
const KIND_OPTIONAL: u8 = 128;
const KIND_PING: u8 = 128;

impl ToBroker {
    /// Appends the message with its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode(out, |w| match self {
            ToBroker::Hello(hello) => {
                w.byte(1);
                hello.write(w);
            }
            ToBroker::OpenPartition { slot, partition } => {
                w.byte(2);
                w.varint(u64::from(slot.0));
                w.topic_partition(partition);
            }
            ToBroker::Renew(request) => {
                w.byte(3);
                w.bytes(request);
            }
            ToBroker::Goodbye(reason) => {
                w.byte(4);
                w.text(reason, WIRE_TEXT_BYTES_MAX);
            }
            ToBroker::Compare(slot, claims) => {
                w.byte(5);
                w.varint(u64::from(slot.0));
                w.list(claims, |w, (sequence, crc)| {
                    w.sequence(*sequence);
                    w.fixed32(*crc);
                });
            }
            ToBroker::Ping => w.byte(KIND_PING),
            ToBroker::Status(status) => {
                w.byte(129);
                status.write(w);
            }
        });
    }

    /// Takes one message off the front of `bytes`; see [`decode`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<ToBroker>> {
        decode(bytes, |kind, r| {
            Ok(Some(match kind {
                1 => ToBroker::Hello(Hello::read(r)?),
                2 => ToBroker::OpenPartition {
                    slot: read_slot(r)?,
                    partition: r.topic_partition()?,
                },
                3 => ToBroker::Renew(r.bytes("request", WIRE_CERTIFICATE_BYTES_MAX)?.to_vec()),
                4 => ToBroker::Goodbye(r.text("reason", WIRE_TEXT_BYTES_MAX)?),
                5 => ToBroker::Compare(
                    read_slot(r)?,
                    r.list("claims", CLAIMS_MAX, |r| {
                        Ok((r.sequence("claimed sequence")?, r.fixed32("crc")?))
                    })?,
                ),
                KIND_PING => ToBroker::Ping,
                129 => ToBroker::Status(Status::read(r)?),
                _ => return Ok(None),
            }))
        })
    }
}

impl ToProducer {
    /// Appends the message with its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode(out, |w| match self {
            ToProducer::HelloAck(ack) => {
                w.byte(1);
                ack.write(w);
            }
            ToProducer::Opened(slot, opened) => {
                w.byte(2);
                w.varint(u64::from(slot.0));
                opened.write(w);
            }
            ToProducer::Ack(acks) => {
                w.byte(3);
                w.list(acks, |w, ack| {
                    w.varint(u64::from(ack.slot.0));
                    w.sequence(ack.appended);
                    w.sequence(ack.durable);
                });
            }
            ToProducer::Credit(credits) => {
                w.byte(4);
                w.list(credits, |w, credit| {
                    w.varint(u64::from(credit.slot.0));
                    w.varint(credit.limit);
                });
            }
            ToProducer::Conflict(slot, sequence) => {
                w.byte(5);
                w.varint(u64::from(slot.0));
                w.sequence(*sequence);
            }
            ToProducer::Refused(refusal) => {
                w.byte(6);
                refusal.write(w);
            }
            ToProducer::Redirect { addresses, reason } => {
                w.byte(7);
                w.list(addresses, |w, it| w.text(it, WIRE_NAME_BYTES_MAX));
                w.text(reason, WIRE_TEXT_BYTES_MAX);
            }
            ToProducer::Goodbye(reason) => {
                w.byte(8);
                w.text(reason, WIRE_TEXT_BYTES_MAX);
            }
            ToProducer::Renewed(renewed) => {
                w.byte(9);
                w.list(&renewed.certificates, |w, it| w.bytes(it));
                w.list(&renewed.authorities, |w, it| w.bytes(it));
            }
            ToProducer::Common(slot, sequence) => {
                w.byte(10);
                w.varint(u64::from(slot.0));
                w.sequence(*sequence);
            }
            ToProducer::Ping => w.byte(KIND_PING),
            ToProducer::Hints(hints) => {
                w.byte(129);
                hints.write(w);
            }
        });
    }

    /// Takes one message off the front of `bytes`; see [`decode`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Decoded<ToProducer>> {
        decode(bytes, |kind, r| {
            Ok(Some(match kind {
                1 => ToProducer::HelloAck(HelloAck::read(r)?),
                2 => ToProducer::Opened(read_slot(r)?, Opened::read(r)?),
                3 => ToProducer::Ack(r.list("acks", SESSION_PARTITIONS_MAX, |r| {
                    Ok(Ack {
                        slot: read_slot(r)?,
                        appended: r.sequence("appended sequence")?,
                        durable: r.sequence("durable sequence")?,
                    })
                })?),
                4 => ToProducer::Credit(r.list("credits", SESSION_PARTITIONS_MAX, |r| {
                    Ok(Credit {
                        slot: read_slot(r)?,
                        limit: r.varint("limit")?,
                    })
                })?),
                5 => ToProducer::Conflict(read_slot(r)?, r.sequence("sequence")?),
                6 => ToProducer::Refused(Refusal::read(r)?),
                7 => ToProducer::Redirect {
                    addresses: r.list("addresses", WIRE_ADDRESSES_MAX, |r| {
                        r.text("address", WIRE_NAME_BYTES_MAX)
                    })?,
                    reason: r.text("reason", WIRE_TEXT_BYTES_MAX)?,
                },
                8 => ToProducer::Goodbye(r.text("reason", WIRE_TEXT_BYTES_MAX)?),
                9 => ToProducer::Renewed(Renewed {
                    certificates: r.list(
                        "certificates",
                        WIRE_CERTIFICATES_MAX,
                        read_certificate,
                    )?,
                    authorities: r.list("authorities", WIRE_CERTIFICATES_MAX, read_certificate)?,
                }),
                10 => ToProducer::Common(read_slot(r)?, r.sequence("common sequence")?),
                KIND_PING => ToProducer::Ping,
                129 => ToProducer::Hints(Hints::read(r)?),
                _ => return Ok(None),
            }))
        })
    }
}

/// What was at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded<T> {
    /// Not yet a whole message.
    Partial,
    /// A message and the bytes it took.
    Message(T, usize),
    /// A message that may be ignored, and the bytes it took.
    Ignored(usize),
}

fn encode(out: &mut Vec<u8>, write: impl FnOnce(&mut FieldWriter<'_>)) {
    let mut body = Vec::new();
    write(&mut FieldWriter { out: &mut body });
    debug_assert!(
        body.len() <= CONTROL_BYTES_MAX,
        "limits.rs proves that it fits"
    );
    varint::write(out, body.len() as u64);
    out.extend_from_slice(&body);
}

fn decode<T>(
    bytes: &[u8],
    read: impl FnOnce(u8, &mut FieldReader<'_>) -> Result<Option<T>>,
) -> Result<Decoded<T>> {
    let Some((len, prefix)) = varint::read(bytes) else {
        return Ok(Decoded::Partial);
    };
    let Ok(len @ 1..=CONTROL_BYTES_MAX) = usize::try_from(len) else {
        return Err(Error::input(format!(
            "control message of {len} bytes; allowed are 1 to {CONTROL_BYTES_MAX}"
        )));
    };
    let Some(body) = bytes.get(prefix..prefix + len) else {
        return Ok(Decoded::Partial);
    };
    let kind = body[0];
    match read(kind, &mut FieldReader::new(&body[1..]))? {
        Some(message) => Ok(Decoded::Message(message, prefix + len)),
        None if kind >= KIND_OPTIONAL => Ok(Decoded::Ignored(prefix + len)),
        None => Err(Error::input(format!(
            "control message of unknown kind {kind}: the peer is newer than this version allows for"
        ))),
    }
}

fn read_certificate(r: &mut FieldReader<'_>) -> Result<Vec<u8>> {
    Ok(r.bytes("certificate", WIRE_CERTIFICATE_BYTES_MAX)?.to_vec())
}

fn read_slot(r: &mut FieldReader<'_>) -> Result<Slot> {
    Ok(Slot(r.number32("slot")?))
}

impl Hello {
    fn write(&self, w: &mut FieldWriter<'_>) {
        w.varint(u64::from(*self.versions.start()));
        w.varint(u64::from(*self.versions.end()));
        w.producer(self.producer);
        w.epoch(self.epoch);
        match self.replaces {
            None => w.byte(0),
            Some(old) => {
                w.byte(1);
                w.producer(old);
            }
        }
        for name in [
            &self.host,
            &self.machine_id,
            &self.boot_id,
            &self.agent_version,
        ] {
            w.text(name, WIRE_NAME_BYTES_MAX);
        }
        w.list(&self.partitions, FieldWriter::topic_partition);
    }

    fn read(r: &mut FieldReader<'_>) -> Result<Hello> {
        Ok(Hello {
            versions: r.number32("version")?..=r.number32("version")?,
            producer: r.producer()?,
            epoch: r.epoch()?,
            replaces: if r.flag("replaces")? {
                Some(r.producer()?)
            } else {
                None
            },
            host: r.text("host name", WIRE_NAME_BYTES_MAX)?,
            machine_id: r.text("machine id", WIRE_NAME_BYTES_MAX)?,
            boot_id: r.text("boot id", WIRE_NAME_BYTES_MAX)?,
            agent_version: r.text("agent version", WIRE_NAME_BYTES_MAX)?,
            partitions: r.list("partitions", SESSION_PARTITIONS_MAX, |r| {
                r.topic_partition()
            })?,
        })
    }
}

impl HelloAck {
    fn write(&self, w: &mut FieldWriter<'_>) {
        w.varint(u64::from(self.version));
        w.producer(self.producer);
        w.list(&self.partitions, |w, opened| opened.write(w));
        self.hints.write(w);
    }

    fn read(r: &mut FieldReader<'_>) -> Result<HelloAck> {
        Ok(HelloAck {
            version: r.number32("version")?,
            producer: r.producer()?,
            partitions: r.list("partitions", SESSION_PARTITIONS_MAX, Opened::read)?,
            hints: Hints::read(r)?,
        })
    }
}

impl Opened {
    fn write(&self, w: &mut FieldWriter<'_>) {
        match self {
            Opened::Accepted { progress, credit } => {
                w.byte(0);
                match progress {
                    None => w.byte(0),
                    Some(progress) => {
                        w.byte(1);
                        progress.write(w);
                    }
                }
                w.varint(*credit);
            }
            Opened::Refused(refusal) => {
                w.byte(1);
                refusal.write(w);
            }
        }
    }

    fn read(r: &mut FieldReader<'_>) -> Result<Opened> {
        if r.flag("refused")? {
            return Ok(Opened::Refused(Refusal::read(r)?));
        }
        Ok(Opened::Accepted {
            progress: if r.flag("progress")? {
                Some(Progress::read(r)?)
            } else {
                None
            },
            credit: r.varint("credit")?,
        })
    }
}

impl Progress {
    fn write(&self, w: &mut FieldWriter<'_>) {
        w.sequence(self.next);
        w.sequence(self.durable);
        match self.last {
            None => w.byte(0),
            Some((sequence, crc)) => {
                w.byte(1);
                w.sequence(sequence);
                w.fixed32(crc);
            }
        }
    }

    fn read(r: &mut FieldReader<'_>) -> Result<Progress> {
        Ok(Progress {
            next: r.sequence("next sequence")?,
            durable: r.sequence("durable sequence")?,
            last: if r.flag("last batch")? {
                Some((r.sequence("last sequence")?, r.fixed32("crc")?))
            } else {
                None
            },
        })
    }
}

impl Hints {
    fn write(&self, w: &mut FieldWriter<'_>) {
        w.varint(u64::try_from(self.linger.as_micros()).unwrap_or(u64::MAX));
        let listed = &self.partitions[..self.partitions.len().min(WIRE_LIST_MAX)];
        w.list(listed, |w, (topic, partitions)| {
            w.text(topic.as_str(), TOPIC_NAME_BYTES_MAX);
            w.varint(u64::from(*partitions));
        });
        w.varint(u64::from(self.partitions_of_new));
    }

    fn read(r: &mut FieldReader<'_>) -> Result<Hints> {
        Ok(Hints {
            linger: Duration::from_micros(r.varint("linger")?),
            partitions: r.list("hints", WIRE_LIST_MAX, |r| {
                Ok((r.topic()?, r.number32("partition count")?))
            })?,
            partitions_of_new: r.number32("partitions of a new topic")?,
        })
    }
}

impl Status {
    fn write(&self, w: &mut FieldWriter<'_>) {
        w.varint(self.lag_bytes);
        w.varint(self.lag_records);
        w.varint(self.unread_bytes);
        let listed = &self.losses[..self.losses.len().min(WIRE_LIST_MAX)];
        w.list(listed, |w, loss| {
            w.text(&loss.reason, WIRE_NAME_BYTES_MAX);
            w.varint(loss.count);
        });
    }

    fn read(r: &mut FieldReader<'_>) -> Result<Status> {
        Ok(Status {
            lag_bytes: r.varint("lag")?,
            lag_records: r.varint("lag")?,
            unread_bytes: r.varint("unread")?,
            losses: r.list("losses", WIRE_LIST_MAX, |r| {
                Ok(Loss {
                    reason: r.text("reason", WIRE_NAME_BYTES_MAX)?,
                    count: r.varint("count")?,
                })
            })?,
        })
    }
}

impl Refusal {
    fn write(&self, w: &mut FieldWriter<'_>) {
        w.varint(u64::from(self.code.number()));
        w.text(&self.message, WIRE_TEXT_BYTES_MAX);
        w.varint(u64::try_from(self.retry_after.as_millis()).unwrap_or(u64::MAX));
    }

    fn read(r: &mut FieldReader<'_>) -> Result<Refusal> {
        Ok(Refusal {
            code: RefusalCode::of_number(r.number32("code")?),
            message: r.text("message", WIRE_TEXT_BYTES_MAX)?,
            retry_after: Duration::from_millis(r.varint("retry after")?),
        })
    }
}
