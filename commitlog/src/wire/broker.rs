//! The aggregator's side of a session.
//!
//! The driver feeds it control bytes, answers its events, and asks it about every stream header and
//! every batch before it appends; it tells what was appended and what became durable, and takes the
//! bytes to write. Acknowledgements and credits are put into words only when bytes are taken, so that
//! a slow peer gets one message with the latest state instead of a queue.
//!
//! Invariants: no batch passes [`BrokerSession::batch`] that belongs to another producer or epoch, does
//! not begin where the one before ended, or passes the slot's credit; `durable ≤ appended`; credit
//! never shrinks.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::batch::header::BatchHeader;
use crate::error::{Error, Result};
use crate::id::{ProducerEpoch, ProducerId, Sequence, TopicPartition};
use crate::limits::SESSION_PARTITIONS_MAX;

use super::control::{Control, Liveness};
use super::frame::StreamHeader;
use super::message::{
    Ack, Credit, Hello, HelloAck, Hints, Opened, Refusal, RefusalCode, Renewed, Slot, Status,
    ToBroker, ToProducer,
};
use super::{VERSION_MAX, VERSION_MIN};

/// What the driver has to act on.
#[derive(Debug, PartialEq, Eq)]
pub enum BrokerEvent {
    /// To be answered by [`BrokerSession::accept`] or [`BrokerSession::refuse`].
    Hello(Hello),
    /// To be answered by [`BrokerSession::opened`].
    Open(Slot, TopicPartition),
    /// How the agent fares.
    Status(Status),
    /// To be answered by [`BrokerSession::renewed`] or [`BrokerSession::refuse`].
    Renew(Vec<u8>),
    /// To be answered by [`BrokerSession::common`].
    Compare(Slot, Vec<(Sequence, u32)>),
    /// The agent leaves; what it sent is still appended and acknowledged.
    Goodbye(String),
}

/// The aggregator's side of a session.
#[derive(Debug)]
pub struct BrokerSession {
    control: Control,
    state: State,
    slots: Vec<InSlot>,
    events: VecDeque<BrokerEvent>,
    acks_due: BTreeSet<Slot>,
    /// Whose claims are being compared.
    comparing: BTreeSet<Slot>,
    credits_due: BTreeSet<Slot>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    AwaitsHello,
    AwaitsAnswer(Producer),
    Live(Producer),
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Producer {
    id: ProducerId,
    epoch: ProducerEpoch,
}

#[derive(Debug)]
struct InSlot {
    partition: TopicPartition,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Awaited,
    /// The agent may ask again, for the same slot.
    Refused,
    Accepted(Accepted),
}

#[derive(Debug)]
struct Accepted {
    credit: u64,
    received_bytes: u64,
    /// Where the next batch must begin; `None` until the stream's header came.
    expected: Option<Sequence>,
    appended: Sequence,
    /// `None` for a producer that the partition does not know, until its stream begins.
    durable: Option<Sequence>,
}

impl BrokerSession {
    /// A session that waits for a Hello.
    pub fn new(liveness: Liveness, now: Duration) -> BrokerSession {
        BrokerSession {
            control: Control::new(liveness, now),
            state: State::AwaitsHello,
            slots: Vec::new(),
            events: VecDeque::new(),
            acks_due: BTreeSet::new(),
            comparing: BTreeSet::new(),
            credits_due: BTreeSet::new(),
        }
    }

    /// Notes bytes of any stream, which show that the peer lives.
    pub fn heard(&mut self, now: Duration) {
        self.control.heard(now);
    }

    /// Takes bytes of the control stream. After an error the session is over.
    pub fn received(&mut self, bytes: &[u8], now: Duration) -> Result<()> {
        self.control.push(bytes, now);
        while let Some(message) = self.control.message(ToBroker::decode)? {
            if self.state != State::Ended {
                self.take(message)?;
            }
        }
        Ok(())
    }

    /// What happened, in order.
    pub fn event(&mut self) -> Option<BrokerEvent> {
        self.events.pop_front()
    }

    /// Control bytes to write, empty if there are none.
    pub fn output(&mut self, now: Duration) -> Result<Vec<u8>> {
        self.say_acks()?;
        let credits: Vec<Credit> = std::mem::take(&mut self.credits_due)
            .into_iter()
            .filter_map(|slot| {
                let limit = self.accepted(slot)?.credit;
                Some(Credit { slot, limit })
            })
            .collect();
        if !credits.is_empty() {
            self.say(&ToProducer::Credit(credits))?;
        }
        Ok(self.control.output(now))
    }

    /// Lets time pass: pings, or fails if the peer is gone. To be called about once a second.
    pub fn turn(&mut self, now: Duration) -> Result<()> {
        if self.control.is_ping_due(now)? {
            self.say(&ToProducer::Ping)?;
        }
        Ok(())
    }

    /// Answers the Hello: one entry per partition, in its order.
    pub fn accept(&mut self, partitions: Vec<Opened>, hints: Hints) -> Result<()> {
        let State::AwaitsAnswer(producer) = self.state else {
            return Err(Error::input("there is no Hello to accept"));
        };
        assert_eq!(
            partitions.len(),
            self.slots.len(),
            "one answer per partition"
        );
        for (slot, opened) in self.slots.iter_mut().zip(&partitions) {
            slot.answer = Answer::of(opened);
        }
        self.say(&ToProducer::HelloAck(HelloAck {
            version: VERSION_MAX,
            producer: producer.id,
            partitions,
            hints,
        }))?;
        self.state = State::Live(producer);
        Ok(())
    }

    /// Answers [`BrokerEvent::Open`].
    pub fn opened(&mut self, slot: Slot, opened: Opened) -> Result<()> {
        let it = self.slots.get_mut(slot.0 as usize);
        it.expect("the event named it").answer = Answer::of(&opened);
        self.say(&ToProducer::Opened(slot, opened))
    }

    /// Ends the session: nothing the peer sends is heeded any more. Nor does the peer heed what would
    /// come after this, so what is to be acknowledged is acknowledged first, as at every end.
    pub fn refuse(&mut self, refusal: Refusal) -> Result<()> {
        self.say_acks()?;
        self.say(&ToProducer::Refused(refusal))?;
        self.state = State::Ended;
        Ok(())
    }

    /// Ends the session and names others.
    pub fn redirect(&mut self, addresses: Vec<String>, reason: String) -> Result<()> {
        self.say_acks()?;
        self.say(&ToProducer::Redirect { addresses, reason })?;
        self.state = State::Ended;
        Ok(())
    }

    /// Says that this aggregator leaves.
    pub fn goodbye(&mut self, reason: &str) -> Result<()> {
        self.say_acks()?;
        self.say(&ToProducer::Goodbye(reason.to_owned()))?;
        self.state = State::Ended;
        Ok(())
    }

    /// Answers [`BrokerEvent::Renew`].
    pub fn renewed(&mut self, renewed: Renewed) -> Result<()> {
        self.say(&ToProducer::Renewed(renewed))
    }

    /// Answers [`BrokerEvent::Compare`].
    pub fn common(&mut self, slot: Slot, next: Sequence) -> Result<()> {
        self.comparing.remove(&slot);
        self.say(&ToProducer::Common(slot, next))
    }

    /// Tells new hints.
    pub fn hint(&mut self, hints: Hints) -> Result<()> {
        self.say(&ToProducer::Hints(hints))
    }

    /// Checks a data stream's header and gives its partition.
    pub fn stream(&mut self, header: StreamHeader) -> Result<TopicPartition> {
        if !matches!(self.state, State::Live(_)) {
            return Err(Error::input(
                "a data stream came before the Hello was accepted",
            ));
        }
        let slot = header.slot;
        let count = self.slots.len();
        let Some(it) = self.slots.get_mut(slot.0 as usize) else {
            return Err(Error::input(format!(
                "stream of slot {}; the session has {count}",
                slot.0
            )));
        };
        let partition = it.partition.clone();
        let Answer::Accepted(accepted) = &mut it.answer else {
            return Err(Error::input(format!(
                "stream of {partition}, which was not accepted"
            )));
        };
        if accepted.expected.is_some() {
            return Err(Error::input(format!("second stream of {partition}")));
        }
        accepted.expected = Some(header.sequence);
        accepted.appended = header.sequence;
        // What an agent sends again is acknowledged again: durable never runs ahead of appended.
        let known = accepted.durable;
        accepted.durable = known
            .filter(|it| header.sequence.since(*it) < 1 << 30)
            .or(Some(header.sequence));
        Ok(partition)
    }

    /// Checks that a verified batch is the slot's next. Call it before the append.
    pub fn batch(&mut self, slot: Slot, batch: &BatchHeader) -> Result<()> {
        let State::Live(producer) = self.state else {
            return Err(Error::input("a batch came in a session that is over"));
        };
        let it = self.slots.get_mut(slot.0 as usize);
        let it = it.ok_or_else(|| Error::input(format!("batch of unknown slot {}", slot.0)))?;
        let partition = &it.partition;
        let accepted = it.answer.accepted_mut();
        let Some((expected, accepted)) = accepted.and_then(|it| Some((it.expected?, it))) else {
            return Err(Error::input(format!(
                "batch of {partition} before its stream's header"
            )));
        };
        let stamped = batch.producer.as_ref();
        let stamped = stamped.filter(|it| it.id == producer.id && it.epoch == producer.epoch);
        let (Some(stamped), Some(next)) = (stamped, batch.next_sequence()) else {
            return Err(Error::input(format!(
                "{partition}: a batch of another producer than the session's {}",
                producer.id
            )));
        };
        if stamped.base_sequence != expected {
            return Err(Error::input(format!(
                "{partition}: batch at sequence {} where {expected} was to come",
                stamped.base_sequence
            )));
        }
        let received = accepted.received_bytes + batch.total_bytes() as u64;
        if received > accepted.credit {
            return Err(Error::input(format!(
                "{partition}: {received} bytes came for a credit of {}",
                accepted.credit
            )));
        }
        accepted.received_bytes = received;
        accepted.expected = Some(next);
        Ok(())
    }

    /// Tells that everything of a slot before `next` is in the log.
    pub fn appended(&mut self, slot: Slot, next: Sequence) {
        if let Some(it) = self.accepted_mut(slot) {
            it.appended = next;
            self.acks_due.insert(slot);
        }
    }

    /// Tells that everything of a slot before `next` is fsynced. Call it after
    /// [`BrokerSession::appended`] told at least as much.
    pub fn durable(&mut self, slot: Slot, next: Sequence) {
        if let Some(it) = self.accepted_mut(slot) {
            it.durable = Some(next);
            self.acks_due.insert(slot);
        }
    }

    /// Tells that the batch at `sequence` was there with other content. What was appended before it is
    /// told first: the agent will send the rest under another id.
    pub fn conflict(&mut self, slot: Slot, sequence: Sequence) -> Result<()> {
        self.say_acks()?;
        self.say(&ToProducer::Conflict(slot, sequence))
    }

    /// Raises a slot's credit to `window` bytes past what came. It never shrinks.
    pub fn grant(&mut self, slot: Slot, window: u64) {
        if let Some(it) = self.accepted_mut(slot) {
            let limit = it.received_bytes.saturating_add(window);
            if limit > it.credit {
                it.credit = limit;
                self.credits_due.insert(slot);
            }
        }
    }

    /// How many bytes a slot may still send.
    pub fn credit_left(&self, slot: Slot) -> u64 {
        self.accepted(slot)
            .map_or(0, |it| it.credit - it.received_bytes)
    }

    fn say_acks(&mut self) -> Result<()> {
        let acks: Vec<Ack> = std::mem::take(&mut self.acks_due)
            .into_iter()
            .filter_map(|slot| {
                let it = self.accepted(slot)?;
                Some(Ack {
                    slot,
                    appended: it.appended,
                    durable: it.durable?,
                })
            })
            .collect();
        if acks.is_empty() {
            return Ok(());
        }
        self.say(&ToProducer::Ack(acks))
    }

    fn accepted(&self, slot: Slot) -> Option<&Accepted> {
        match &self.slots.get(slot.0 as usize)?.answer {
            Answer::Accepted(accepted) => Some(accepted),
            _ => None,
        }
    }

    fn accepted_mut(&mut self, slot: Slot) -> Option<&mut Accepted> {
        self.slots.get_mut(slot.0 as usize)?.answer.accepted_mut()
    }

    /// Whether a partition that was refused is asked for once more; then the answer is due again.
    fn is_asked_again(&mut self, slot: Slot, partition: &TopicPartition) -> bool {
        let Some(it) = self.slots.get_mut(slot.0 as usize) else {
            return false;
        };
        let is_again = matches!(it.answer, Answer::Refused) && it.partition == *partition;
        if is_again {
            it.answer = Answer::Awaited;
        }
        is_again
    }

    fn say(&mut self, message: &ToProducer) -> Result<()> {
        self.control.say(|out| message.encode(out))
    }

    fn take(&mut self, message: ToBroker) -> Result<()> {
        match message {
            ToBroker::Ping => {}
            ToBroker::Hello(hello) => self.hello(hello)?,
            _ if !matches!(self.state, State::Live(_)) => {
                return Err(Error::input(
                    "the agent speaks before its Hello was answered",
                ));
            }
            ToBroker::OpenPartition { slot, partition } => {
                if self.is_asked_again(slot, &partition) {
                    self.events.push_back(BrokerEvent::Open(slot, partition));
                    return Ok(());
                }
                let expected = self.slots.len();
                if slot.0 as usize != expected || expected >= SESSION_PARTITIONS_MAX {
                    return Err(Error::input(format!(
                        "slot {} was opened where {expected} is next, of at most {SESSION_PARTITIONS_MAX}",
                        slot.0
                    )));
                }
                self.add_slot(partition.clone())?;
                self.events.push_back(BrokerEvent::Open(slot, partition));
            }
            ToBroker::Status(status) => self.events.push_back(BrokerEvent::Status(status)),
            ToBroker::Renew(request) => self.events.push_back(BrokerEvent::Renew(request)),
            ToBroker::Compare(slot, claims) => {
                if self.accepted(slot).is_none() {
                    return Err(Error::input(format!("slot {} has no log", slot.0)));
                }
                if !self.comparing.insert(slot) {
                    return Err(Error::input(format!(
                        "slot {} asked twice what is in the log, without waiting for the answer",
                        slot.0
                    )));
                }
                self.events.push_back(BrokerEvent::Compare(slot, claims));
            }
            ToBroker::Goodbye(reason) => self.events.push_back(BrokerEvent::Goodbye(reason)),
        }
        Ok(())
    }

    fn hello(&mut self, hello: Hello) -> Result<()> {
        if self.state != State::AwaitsHello {
            return Err(Error::input("the agent said Hello twice"));
        }
        let ours = VERSION_MIN..=VERSION_MAX;
        if hello.versions.end() < ours.start() || hello.versions.start() > ours.end() {
            return self.refuse(Refusal {
                code: RefusalCode::Version,
                message: format!(
                    "this aggregator speaks versions {VERSION_MIN} to {VERSION_MAX} of the session, \
                     the agent {} to {}: upgrade the older of the two",
                    hello.versions.start(),
                    hello.versions.end()
                ),
                retry_after: Duration::from_mins(1),
            });
        }
        for partition in &hello.partitions {
            self.add_slot(partition.clone())?;
        }
        self.state = State::AwaitsAnswer(Producer {
            id: hello.producer,
            epoch: hello.epoch,
        });
        self.events.push_back(BrokerEvent::Hello(hello));
        Ok(())
    }

    fn add_slot(&mut self, partition: TopicPartition) -> Result<()> {
        let again =
            |it: &InSlot| it.partition == partition && !matches!(it.answer, Answer::Refused);
        if self.slots.iter().any(again) {
            return Err(Error::input(format!("{partition} was named twice")));
        }
        self.slots.push(InSlot {
            partition,
            answer: Answer::Awaited,
        });
        Ok(())
    }
}

impl Answer {
    fn of(opened: &Opened) -> Answer {
        let Opened::Accepted { progress, credit } = opened else {
            return Answer::Refused;
        };
        let progress = progress.as_ref();
        Answer::Accepted(Accepted {
            credit: *credit,
            received_bytes: 0,
            expected: None,
            appended: progress.map_or(Sequence::ZERO, |it| it.next),
            durable: progress.map(|it| it.durable),
        })
    }

    fn accepted_mut(&mut self) -> Option<&mut Accepted> {
        match self {
            Answer::Accepted(accepted) => Some(accepted),
            _ => None,
        }
    }
}
