//! The agent's side of a session.
//!
//! The driver feeds it control bytes and takes events and bytes to write; for each open slot it asks
//! [`ProducerSession::allowance`], reads that much of the spool, notes it with [`ProducerSession::send`]
//! and writes it to the slot's stream.
//!
//! Invariants: what is sent of a slot has no holes and never passes its credit; offsets of the spool go in
//! and come out, sequences stay inside. **I30**: an acknowledgement is believed only within what was sent,
//! so an aggregator cannot make an agent free anything else.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::header::BatchHeader;
use crate::error::{Error, Result};
use crate::id::{Offset, Sequence, TopicPartition};
use crate::limits::SESSION_PARTITIONS_MAX;

use super::control::{Control, Liveness};
use super::frame::StreamHeader;
use super::message::{
    Ack, Credit, Hello, HelloAck, Hints, Opened, Progress, Refusal, Renewed, Slot, Status,
    ToBroker, ToProducer,
};
use super::resume::{Sendable, offset_within};

/// What the driver has to act on.
#[derive(Debug, PartialEq, Eq)]
pub enum ProducerEvent {
    /// A slot may be written once [`ProducerSession::start`] says where.
    Opened(Slot, Option<Progress>),
    /// A slot may not be written; the others go on. [`ProducerSession::ask_again`] later.
    SlotRefused(Slot, Refusal),
    /// Everything of the slot before this offset is fsynced at the aggregator.
    Durable(Slot, Offset),
    /// A slot may send more than before.
    CreditGrew(Slot),
    /// New hints.
    Hints(Hints),
    /// A new certificate chain.
    Renewed(Renewed),
    /// The claimed batches of a slot are in the log, and fsynced, up to this sequence.
    Common(Slot, Sequence),
    /// Somebody else uses this producer id: leave, draw a new one, come back.
    Conflict(Slot),
    /// The aggregator ended the session.
    Ended(Ending),
}

/// How an aggregator ends a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It wants no session.
    Refused(Refusal),
    /// Others should be used.
    Redirect {
        /// Their `host:port`.
        addresses: Vec<String>,
        /// Why, for people.
        reason: String,
    },
    /// It leaves.
    Goodbye(String),
}

/// What may be sent of a slot at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// From here on.
    pub from: Offset,
    /// At most this many bytes of batches.
    pub bytes: u64,
}

/// How far a slot has come: `durable ≤ appended ≤ next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What will be sent next.
    pub next: Offset,
    /// Everything before it is in the aggregator's log.
    pub appended: Offset,
    /// Everything before it is fsynced there.
    pub durable: Offset,
    /// Whether a conflict ended the slot: what follows `appended` is not taken.
    pub is_cut_off: bool,
}

/// The agent's side of a session.
#[derive(Debug)]
pub struct ProducerSession {
    control: Control,
    state: State,
    slots: Vec<OutSlot>,
    events: VecDeque<ProducerEvent>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    AwaitsAck(Hello),
    Live,
    Ended,
}

#[derive(Debug)]
struct OutSlot {
    partition: TopicPartition,
    answer: Answer,
    credit: u64,
    sent_bytes: u64,
    run: Option<Standing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Refused,
    Accepted,
}

impl ProducerSession {
    /// A session that says `hello`.
    pub fn new(hello: Hello, liveness: Liveness, now: Duration) -> Result<ProducerSession> {
        let mut session = ProducerSession {
            control: Control::new(liveness, now),
            slots: Vec::new(),
            state: State::Ended,
            events: VecDeque::new(),
        };
        for partition in &hello.partitions {
            session.add_slot(partition)?;
        }
        session.say(&ToBroker::Hello(hello.clone()))?;
        session.state = State::AwaitsAck(hello);
        Ok(session)
    }

    /// Names a partition that the Hello did not name. Its slot opens when the aggregator says so.
    pub fn open(&mut self, partition: &TopicPartition) -> Result<Slot> {
        if self.state != State::Live {
            return Err(Error::input(
                "a partition is opened after the Hello was answered",
            ));
        }
        let slot = self.add_slot(partition)?;
        self.say(&ToBroker::OpenPartition {
            slot,
            partition: partition.clone(),
        })?;
        Ok(slot)
    }

    /// Asks again for a partition that was refused, under its slot. Whether that was to be done.
    pub fn ask_again(&mut self, slot: Slot) -> Result<bool> {
        let is_live = self.state == State::Live;
        let it = self.slot_mut(slot)?;
        if it.answer != Answer::Refused || !is_live {
            return Ok(false);
        }
        it.answer = Answer::Awaited;
        let partition = it.partition.clone();
        self.say(&ToBroker::OpenPartition { slot, partition })?;
        Ok(true)
    }

    fn add_slot(&mut self, partition: &TopicPartition) -> Result<Slot> {
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        if self.slots.len() >= SESSION_PARTITIONS_MAX {
            return Err(Error::input(format!(
                "a session carries at most {SESSION_PARTITIONS_MAX} partitions; {partition} is one too many"
            )));
        }
        self.slots.push(OutSlot {
            partition: partition.clone(),
            answer: Answer::Awaited,
            credit: 0,
            sent_bytes: 0,
            run: None,
        });
        Ok(Slot(slot))
    }

    /// Notes bytes of any stream, which show that the peer lives.
    pub fn heard(&mut self, now: Duration) {
        self.control.heard(now);
    }

    /// Takes bytes of the control stream. After an error the session is over.
    pub fn received(&mut self, bytes: &[u8], now: Duration) -> Result<()> {
        self.control.push(bytes, now);
        while let Some(message) = self.control.message(ToProducer::decode)? {
            if self.state != State::Ended {
                self.take(message)?;
            }
        }
        Ok(())
    }

    /// What happened, in order.
    pub fn event(&mut self) -> Option<ProducerEvent> {
        self.events.pop_front()
    }

    /// Control bytes to write, empty if there are none.
    pub fn output(&mut self, now: Duration) -> Vec<u8> {
        self.control.output(now)
    }

    /// Lets time pass: pings, or fails if the peer is gone. To be called about once a second.
    pub fn turn(&mut self, now: Duration) -> Result<()> {
        if self.control.is_ping_due(now)? {
            self.say(&ToBroker::Ping)?;
        }
        Ok(())
    }

    /// Begins a slot that was opened. Its stream starts with the header that this returns.
    ///
    /// `next` and `durable` are what [`super::resume::resume`] found: where to go on, and up to where the
    /// aggregator has fsynced.
    pub fn start(&mut self, slot: Slot, next: Offset, durable: Offset) -> Result<StreamHeader> {
        let it = self.slot_mut(slot)?;
        if it.run.is_some() || durable > next {
            return Err(Error::input(format!(
                "slot {} cannot start at {next}",
                slot.0
            )));
        }
        it.run = Some(Standing {
            next,
            appended: next,
            durable,
            is_cut_off: false,
        });
        Ok(StreamHeader {
            slot,
            sequence: Sequence::of_spool_offset(next),
        })
    }

    /// What may be sent of a slot; `None` while it is not started.
    pub fn allowance(&self, slot: Slot) -> Option<Allowance> {
        let it = self.slots.get(slot.0 as usize)?;
        let run = it.run.as_ref().filter(|_| self.state == State::Live)?;
        Some(Allowance {
            from: run.next,
            bytes: it.credit.saturating_sub(it.sent_bytes),
        })
    }

    /// How far a slot has come; `None` while it is not started.
    pub fn standing(&self, slot: Slot) -> Option<Standing> {
        self.slots.get(slot.0 as usize)?.run
    }

    /// Notes that a batch is about to be written to its slot's stream.
    pub fn send(&mut self, slot: Slot, batch: &BatchHeader) -> Result<()> {
        let allowance = self
            .allowance(slot)
            .ok_or_else(|| Error::input(format!("slot {} is not open", slot.0)))?;
        let bytes = batch.total_bytes() as u64;
        if batch.base_offset != allowance.from || bytes > allowance.bytes {
            return Err(Error::input(format!(
                "batch of {bytes} bytes at {} where {allowance:?} may be sent",
                batch.base_offset
            )));
        }
        let it = self.slot_mut(slot)?;
        it.sent_bytes += bytes;
        if let Some(run) = &mut it.run {
            run.next = batch.next_offset();
        }
        Ok(())
    }

    /// A slot's partition.
    pub fn partition(&self, slot: Slot) -> Option<&TopicPartition> {
        self.slots.get(slot.0 as usize).map(|it| &it.partition)
    }

    /// Whether the Hello was answered and the session goes on.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Tells the aggregator how this agent fares.
    pub fn status(&mut self, status: Status) -> Result<()> {
        self.say(&ToBroker::Status(status))
    }

    /// Asks what of a slot's batches, by first sequence and CRC, is in the log nevertheless.
    pub fn compare(&mut self, slot: Slot, claims: Vec<(Sequence, u32)>) -> Result<()> {
        self.slot_mut(slot)?;
        self.say(&ToBroker::Compare(slot, claims))
    }

    /// Asks for a new certificate.
    pub fn renew(&mut self, request: Vec<u8>) -> Result<()> {
        self.say(&ToBroker::Renew(request))
    }

    /// Says that this agent leaves. Acknowledgements still come.
    pub fn goodbye(&mut self, reason: &str) -> Result<()> {
        self.say(&ToBroker::Goodbye(reason.to_owned()))
    }

    fn say(&mut self, message: &ToBroker) -> Result<()> {
        self.control.say(|out| message.encode(out))
    }

    fn slot_mut(&mut self, slot: Slot) -> Result<&mut OutSlot> {
        let count = self.slots.len();
        self.slots.get_mut(slot.0 as usize).ok_or_else(|| {
            Error::input(format!(
                "slot {} is not one of the session's {count}",
                slot.0
            ))
        })
    }

    fn take(&mut self, message: ToProducer) -> Result<()> {
        match message {
            ToProducer::Ping => {}
            ToProducer::Refused(refusal) => self.end(Ending::Refused(refusal)),
            ToProducer::Redirect { addresses, reason } => {
                self.end(Ending::Redirect { addresses, reason });
            }
            ToProducer::Goodbye(reason) => self.end(Ending::Goodbye(reason)),
            ToProducer::HelloAck(ack) => self.accepted(ack)?,
            _ if self.state != State::Live => {
                return Err(Error::input(
                    "the aggregator speaks before it answered the Hello",
                ));
            }
            ToProducer::Opened(slot, opened) => self.opened(slot, opened)?,
            ToProducer::Ack(acks) => acks.into_iter().try_for_each(|it| self.acked(it))?,
            ToProducer::Credit(credits) => {
                credits.into_iter().try_for_each(|it| self.granted(it))?;
            }
            ToProducer::Conflict(slot, _) => {
                if let Some(run) = &mut self.slot_mut(slot)?.run {
                    run.is_cut_off = true;
                }
                self.events.push_back(ProducerEvent::Conflict(slot));
            }
            ToProducer::Common(slot, sequence) => {
                self.slot_mut(slot)?;
                self.events.push_back(ProducerEvent::Common(slot, sequence));
            }
            ToProducer::Hints(hints) => self.events.push_back(ProducerEvent::Hints(hints)),
            ToProducer::Renewed(renewed) => self.events.push_back(ProducerEvent::Renewed(renewed)),
        }
        Ok(())
    }

    fn end(&mut self, ending: Ending) {
        self.state = State::Ended;
        self.events.push_back(ProducerEvent::Ended(ending));
    }

    fn accepted(&mut self, ack: HelloAck) -> Result<()> {
        let State::AwaitsAck(hello) = &self.state else {
            return Err(Error::input("the aggregator answered the Hello twice"));
        };
        if !hello.versions.contains(&ack.version) {
            return Err(Error::input(format!(
                "the aggregator chose version {} of the session; offered were {:?}",
                ack.version, hello.versions
            )));
        }
        if ack.producer != hello.producer || ack.partitions.len() != self.slots.len() {
            return Err(Error::input(format!(
                "the answer is for producer {} and {} partitions, not for {} and {}",
                ack.producer,
                ack.partitions.len(),
                hello.producer,
                self.slots.len()
            )));
        }
        self.state = State::Live;
        self.events.push_back(ProducerEvent::Hints(ack.hints));
        for (slot, opened) in (0..).map(Slot).zip(ack.partitions) {
            self.opened(slot, opened)?;
        }
        Ok(())
    }

    fn opened(&mut self, slot: Slot, opened: Opened) -> Result<()> {
        let it = self.slot_mut(slot)?;
        if it.answer != Answer::Awaited {
            return Err(Error::input(format!("slot {} was opened twice", slot.0)));
        }
        let event = match opened {
            Opened::Accepted { progress, credit } => {
                it.credit = credit;
                it.answer = Answer::Accepted;
                ProducerEvent::Opened(slot, progress)
            }
            Opened::Refused(refusal) => {
                it.answer = Answer::Refused;
                ProducerEvent::SlotRefused(slot, refusal)
            }
        };
        self.events.push_back(event);
        Ok(())
    }

    fn granted(&mut self, credit: Credit) -> Result<()> {
        let it = self.slot_mut(credit.slot)?;
        if credit.limit > it.credit {
            it.credit = credit.limit;
            self.events
                .push_back(ProducerEvent::CreditGrew(credit.slot));
        }
        Ok(())
    }

    fn acked(&mut self, ack: Ack) -> Result<()> {
        let it = self.slot_mut(ack.slot)?;
        let partition = it.partition.clone();
        let never_sent = |what: &str, sequence: Sequence| {
            Error::input(format!(
                "{partition}: the aggregator acknowledges {what} sequence {sequence}, which was never sent"
            ))
        };
        let Some(run) = &mut it.run else {
            return Err(never_sent("as appended", ack.appended));
        };
        let unappended = Sendable {
            start: run.appended,
            end: run.next,
        };
        run.appended = offset_within(ack.appended, unappended)
            .ok_or_else(|| never_sent("as appended", ack.appended))?;
        // What is fsynced there may lie before what another aggregator acknowledged.
        let behind = Sequence::of_spool_offset(run.durable).since(ack.durable);
        if behind < 1 << 30 {
            return Ok(());
        }
        let undurable = Sendable {
            start: run.durable,
            end: run.appended,
        };
        let durable = offset_within(ack.durable, undurable)
            .ok_or_else(|| never_sent("as durable", ack.durable))?;
        if durable > run.durable {
            run.durable = durable;
            self.events
                .push_back(ProducerEvent::Durable(ack.slot, durable));
        }
        Ok(())
    }
}
