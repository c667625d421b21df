//! One slot's batches: from the spool to the slot's stream, as far as credit goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use commitlog::batch::header::BatchHeader;
use commitlog::id::{Offset, TopicPartition};
use commitlog::wire::frame::frame_header;
use commitlog::wire::message::Slot;
use commitlog::wire::producer::Allowance;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::session::Shared;
use super::socket::Ear;
use super::stream::{PRIORITY_BACKLOG, PRIORITY_LIVE, SlotWriter};
use crate::limits::{BACKLOG_RECORDS, SEND_READ_BYTES, SPOOL_READ_RETRY};

/// What the driver and the slot's sender share.
pub(super) struct SlotState {
    pub(super) slot: Slot,
    pub(super) partition: TopicPartition,
    /// There may be more to send: the spool grew, or the credit.
    pub(super) wake: Notify,
    stopped: AtomicBool,
    /// The spool's end that the sender was last woken for.
    end_told: AtomicI64,
}

impl SlotState {
    pub(super) fn new(slot: Slot, partition: TopicPartition) -> SlotState {
        SlotState {
            slot,
            partition,
            wake: Notify::new(),
            stopped: AtomicBool::new(false),
            end_told: AtomicI64::new(0),
        }
    }

    /// Nothing more is to be sent.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Notes the spool's end; says whether it is news.
    pub(super) fn grew_to(&self, end: Offset) -> bool {
        self.end_told.swap(end.get(), Ordering::Relaxed) != end.get()
    }

    /// Whether all that was sent and taken is acknowledged as durable.
    pub(super) fn is_settled(&self, shared: &Shared) -> bool {
        let standing = shared.session().standing(self.slot);
        standing
            .is_none_or(|it| it.durable >= it.appended && (it.is_cut_off || it.appended >= it.next))
    }
}

/// Sends one slot's batches.
pub(super) struct Sender {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<SlotState>,
    pub(super) writer: SlotWriter,
    pub(super) ear: Ear,
}

impl Sender {
    /// Sends until it is stopped or can send no more. An error ends the session.
    pub(super) async fn run(mut self) -> Result<Ended, String> {
        let mut priority = PRIORITY_LIVE;
        loop {
            if self.state.stopped.load(Ordering::Relaxed) {
                return Ok(Ended::Stopped);
            }
            let spool = &self.shared.producer.spool;
            let end = spool.range(&self.state.partition).durable_end;
            let Some(allowance) = self.shared.session().allowance(self.state.slot) else {
                return Err("the session is over".to_owned());
            };
            let behind = end.get() - allowance.from.get();
            let wanted = if behind > BACKLOG_RECORDS {
                PRIORITY_BACKLOG
            } else {
                PRIORITY_LIVE
            };
            if wanted != priority {
                priority = wanted;
                self.writer.prioritise(priority);
            }
            if behind <= 0 || allowance.bytes == 0 {
                if behind > 0 {
                    self.ear.listen();
                }
                self.state.wake.notified().await;
                continue;
            }
            let batches = self.read(allowance).await?;
            let is_there = !batches.is_empty();
            match self.send_all(batches).await? {
                Sent::Some => {}
                Sent::None if self.state.stopped.load(Ordering::Relaxed) => {}
                Sent::None if is_there => {
                    self.ear.listen();
                    self.state.wake.notified().await;
                }
                Sent::None => {
                    // Nobody tells when the disk gives it after all.
                    timeout(SPOOL_READ_RETRY, self.state.wake.notified())
                        .await
                        .ok();
                }
                Sent::Hole => return Ok(Ended::Hole(self.state.partition.clone())),
            }
        }
    }

    /// Reads what may be sent: from memory at once, from the disk elsewhere, for that may take its time.
    async fn read(&self, allowance: Allowance) -> Result<Vec<Bytes>, String> {
        let bytes = usize::try_from(allowance.bytes).unwrap_or(usize::MAX);
        let bytes = bytes.min(SEND_READ_BYTES);
        let spool = self.shared.producer.spool.clone();
        let state = Arc::clone(&self.state);
        let recent = spool.read_recent(&state.partition, allowance.from, bytes);
        let batches = if let Some(recent) = recent {
            recent
        } else {
            let read = move || spool.read(&state.partition, allowance.from, bytes);
            self.shared.producer.blocking.run(read).await
        };
        batches.map_err(|error| format!("{}: {error}", self.state.partition))
    }

    async fn send_all(&mut self, batches: Vec<Bytes>) -> Result<Sent, String> {
        let mut sent = Sent::None;
        for batch in batches {
            let header = BatchHeader::parse(&batch).map_err(|error| error.message)?;
            {
                let mut session = self.shared.session();
                if self.state.stopped.load(Ordering::Relaxed) {
                    return Ok(sent);
                }
                let Some(allowance) = session.allowance(self.state.slot) else {
                    return Err("the session is over".to_owned());
                };
                if header.base_offset > allowance.from {
                    return Ok(Sent::Hole);
                }
                if batch.len() as u64 > allowance.bytes {
                    return Ok(sent);
                }
                let noted = session.send(self.state.slot, &header);
                noted.map_err(|error| error.message)?;
            }
            self.ear.sends(batch.len());
            self.shared.producer.stats.sent(&header);
            self.writer.write(frame_header(batch.len()).into()).await?;
            self.writer.write(batch).await?;
            sent = Sent::Some;
        }
        Ok(sent)
    }
}

/// Why a sender has ended.
pub(super) enum Ended {
    /// It was told to.
    Stopped,
    /// What comes next in this partition's spool is damaged; what lies behind it needs a new producer id.
    Hole(TopicPartition),
}

enum Sent {
    /// At least one batch.
    Some,
    /// None: the credit is too small, or what the spool had is gone.
    None,
    /// What comes next in the spool is damaged.
    Hole,
}
