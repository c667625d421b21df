//! One slot: its batches are checked and appended one at a time, and acknowledged when they are in the
//! log and when they are fsynced.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use commitlog::batch::header::verify;
use commitlog::error::ErrorKind;
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition};
use commitlog::log::partition::Outcome;
use commitlog::wire::message::Slot;

use super::credit::Counted;
use super::session::{Shared, Verdict};
use crate::topics::{Generation, Partition};

/// A slot that was accepted.
pub(super) struct Intake {
    pub(super) slot: Slot,
    pub(super) id: TopicPartition,
    pub(super) partition: Arc<Partition>,
    pub(super) generation: Generation,
    /// What was in the log before the session and is not yet known to be fsynced.
    pub(super) before: Option<(Offset, Sequence)>,
    /// Ends of batches that wait for their fsync, in order: offset in the log, next sequence.
    pending: Mutex<VecDeque<(Offset, Sequence)>>,
    _counted: Counted,
}

impl Intake {
    pub(super) fn new(
        slot: Slot,
        partition: Arc<Partition>,
        generation: Generation,
        before: Option<(Offset, Sequence)>,
        counted: Counted,
    ) -> Intake {
        Intake {
            slot,
            id: partition.id().clone(),
            partition,
            generation,
            before,
            pending: Mutex::default(),
            _counted: counted,
        }
    }

    /// The slot's stream has begun, at `first`.
    pub(super) fn begins(&self, first: Sequence, shared: &Shared) {
        if let Some((end, next)) = self.before.filter(|(_, next)| *next == first) {
            self.wait_for(end, next);
            self.settle(*self.partition.durable().borrow(), shared);
        }
    }

    /// Checks and appends one batch. An error ends the session.
    pub(super) async fn append(&self, mut batch: Vec<u8>, shared: &Shared) -> Result<(), Verdict> {
        let header = verify(&batch).map_err(|error| self.broken(&error.message))?;
        shared
            .session()
            .batch(self.slot, &header)
            .map_err(|error| Verdict::Protocol(error.message))?;
        let next = header.next_sequence().unwrap_or_default();
        let appended = self.partition.append(self.generation, &mut batch).await;
        shared.broker.budget.buffers().give_back(batch);
        let appended = appended.map_err(|error| match error.kind {
            ErrorKind::Input => self.broken(&error.message),
            // The agent has it in its spool and starts over from what is in the log.
            _ => Verdict::StartOver(error.message),
        })?;
        match appended.outcome {
            Outcome::Appended | Outcome::Duplicate => {
                // In this order: what is told as durable must have been told as appended.
                shared.session().appended(self.slot, next);
                self.wait_for(appended.next_offset, next);
                let is_durable = self.settle(*self.partition.durable().borrow(), shared);
                // What is only appended is told with the next credit or fsync: a packet fewer.
                if self.grant(shared) || is_durable {
                    shared.news.notify_one();
                }
                Ok(())
            }
            Outcome::Conflict { base_sequence, .. } => {
                shared.conflict(&self.id);
                self.cut_off(base_sequence, shared)
            }
            Outcome::OutOfOrder { expected } => {
                // The log knows the producer, and not what comes before this batch: it was restored, or
                // the batches went elsewhere. Under another id they can go on.
                tracing::warn!(partition = %self.id, %expected, "sequence out of order");
                self.cut_off(expected, shared)
            }
            Outcome::Fenced { .. } => Err(shared.fenced()),
        }
    }

    /// Tells the agent that this slot goes on under another producer id only.
    fn cut_off(&self, at: Sequence, shared: &Shared) -> Result<(), Verdict> {
        let said = shared.session().conflict(self.slot, at);
        shared.news.notify_one();
        said.map_err(|error| Verdict::Protocol(error.message))?;
        Err(Verdict::SlotEnds)
    }

    /// Tells what of the agent's spool is in the log, once that is fsynced.
    pub(super) async fn compare(
        &self,
        producer: (ProducerId, ProducerEpoch),
        claims: Vec<(Sequence, u32)>,
        shared: &Shared,
    ) {
        let Some(&(first, _)) = claims.first() else {
            return;
        };
        let common = match self.partition.common(producer, claims).await {
            Ok(common) => common,
            // Without an answer the agent sends all of it again.
            Err(error) => return tracing::warn!(partition = %self.id, %error, "not compared"),
        };
        if let Some(common) = common {
            let mut durable = *self.partition.durable().borrow();
            while durable < common.end {
                durable = self.partition.durable_past(durable).await;
            }
            // A recovery may have cut what was found, and others' batches passed its end since.
            if !self.stands() {
                return;
            }
        }
        let next = common.map_or(first, |it| it.next);
        if shared.session().common(self.slot, next).is_ok() {
            shared.news.notify_one();
        }
    }

    /// Whether the log still has all that this slot appended. It may not after it was opened again:
    /// then nothing more is acknowledged, and the session starts over.
    pub(super) fn stands(&self) -> bool {
        self.partition.is_current(self.generation)
    }

    /// Whether all that was appended is known to be fsynced.
    pub(super) fn is_settled(&self) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.is_empty()
    }

    /// Acknowledges what is fsynced as the partition's watermark passes it, for ever.
    pub(super) async fn watch(&self, shared: &Shared) {
        let mut seen = *self.partition.durable().borrow();
        loop {
            seen = self.partition.durable_past(seen).await;
            if self.settle(seen, shared) {
                shared.news.notify_one();
            }
        }
    }

    /// Lets the agent send more, unless memory or disk are short. Says whether it did.
    pub(super) fn grant(&self, shared: &Shared) -> bool {
        let window = shared.broker.budget.window();
        let mut session = shared.session();
        let left = session.credit_left(self.slot);
        let is_due = left < window / 2 && !shared.broker.topics.disk().is_zero();
        if is_due {
            session.grant(self.slot, window);
        }
        is_due
    }

    fn wait_for(&self, end: Offset, next: Sequence) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.push_back((end, next));
    }

    /// Tells what became durable. Says whether anything did.
    fn settle(&self, durable: Offset, shared: &Shared) -> bool {
        if !self.stands() {
            return false;
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut settled = None;
        while let Some(&(end, next)) = pending.front()
            && end <= durable
        {
            settled = Some(next);
            pending.pop_front();
        }
        let Some(next) = settled else {
            return false;
        };
        // Under the lock, so that two who settle at once tell it in order.
        shared.session().durable(self.slot, next);
        true
    }

    fn broken(&self, message: &str) -> Verdict {
        Verdict::Protocol(format!("{}: {message}", self.id))
    }
}

#[cfg(test)]
mod tests;
