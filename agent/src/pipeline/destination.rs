//! One topic-partition on the way to the spool: the open batch, and a cut one that waits for room.

use std::collections::VecDeque;
use std::time::Duration;

use commitlog::batch::builder::{BatchBuilder, HeaderBlock, NewRecord, RECORD_OVERHEAD_MAX};
use commitlog::batch::header::BatchHeader;
use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::TopicPartition;
use model::header;

use super::Refused;
use crate::ambient::Now;
use crate::limits::{BATCH_RAW_BYTES_TARGET, POSITION_EVERY_BYTES, SPOOL_RETRY};
use crate::spool::positions::Placed;
use crate::spool::{Spool, Taken};
use crate::telemetry::Telemetry;

/// A destination's state.
pub(super) struct Destination {
    partition: TopicPartition,
    builder: BatchBuilder,
    /// Raw bytes at which the open batch is cut: less after one that did not compress.
    target: usize,
    /// The raw bytes up to and with the last record that carries a position.
    positioned: usize,
    /// Positions that the open batch carries, each with the number of records up to its own.
    positions: Vec<(u32, Placed)>,
    /// When the open batch got its first record.
    opened_at: Duration,
    /// Not to be cut before this: it failed.
    retry_at: Duration,
    /// Cut, but not in the spool yet, with the positions of each.
    waiting: VecDeque<(Vec<u8>, Vec<Placed>)>,
    encoded: Vec<u8>,
}

impl Destination {
    pub(super) fn new(partition: TopicPartition) -> Destination {
        Destination {
            partition,
            builder: BatchBuilder::new(),
            target: BATCH_RAW_BYTES_TARGET,
            positioned: 0,
            positions: Vec::new(),
            opened_at: Duration::ZERO,
            retry_at: Duration::ZERO,
            waiting: VecDeque::new(),
            encoded: Vec::new(),
        }
    }

    /// Whether a cut batch waits for room: then nothing is read for this destination.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether more can be pushed: nothing waits for room, and the last cut did not just fail.
    pub(super) fn takes(&self, now: Now) -> bool {
        !self.is_blocked() && self.retry_at <= now.monotonic
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.builder.is_empty()
    }

    #[inline]
    pub(super) fn fits(&self, record_bytes: usize) -> bool {
        self.builder.raw_bytes() + record_bytes + RECORD_OVERHEAD_MAX <= self.target
            && self.builder.fits(record_bytes)
    }

    /// Whether records of so many more bytes can do without a position before they end.
    #[inline]
    pub(super) fn can_go_without_position(&self, bytes: usize) -> bool {
        let since = self.builder.raw_bytes() - self.positioned;
        since + bytes + RECORD_OVERHEAD_MAX <= POSITION_EVERY_BYTES
    }

    #[inline]
    pub(super) fn push(
        &mut self,
        value: &[u8],
        headers: &HeaderBlock,
        placed: Vec<Placed>,
        now: Now,
    ) {
        if self.builder.is_empty() {
            self.opened_at = now.monotonic;
        }
        let mut record = NewRecord {
            timestamp: now.wall,
            key: None,
            value,
            headers,
            extra: None,
        };
        if placed.is_empty() {
            self.builder.push(&record);
            return;
        }
        self.encoded.clear();
        for placed in &placed {
            placed.position.encode(&mut self.encoded);
        }
        record.extra = Some((header::POSITION, &self.encoded));
        self.builder.push(&record);
        self.positioned = self.builder.raw_bytes();
        let count = self.builder.record_count();
        let placed = placed.into_iter().map(|placed| (count, placed));
        self.positions.extend(placed);
    }

    /// Takes a position along with the last records that are here.
    pub(super) fn note(&mut self, placed: Placed) {
        match self.waiting.back_mut() {
            Some((_, positions)) if self.builder.is_empty() => positions.push(placed),
            _ => self.positions.push((self.builder.record_count(), placed)),
        }
    }

    /// When the open batch got its first record; `None` while it cannot be cut.
    pub(super) fn opened_at(&self) -> Option<Duration> {
        let can_be_cut = !self.builder.is_empty() && !self.is_blocked();
        can_be_cut.then(|| self.opened_at.max(self.retry_at))
    }

    /// Cuts the open batch and offers it to the spool.
    pub(super) fn cut(&mut self, spool: &Spool, telemetry: &Telemetry, now: Now) {
        if self.builder.is_empty() || !self.takes(now) {
            return;
        }
        match self.finish(spool) {
            Ok(()) => self.offer(spool, telemetry),
            Err(error) => self.try_later(&error, now),
        }
    }

    /// Cuts a batch of one record. When that cannot be, the record is gone from here: left in the builder
    /// it would be cut without a caller who can take it apart.
    pub(super) fn cut_alone(
        &mut self,
        spool: &Spool,
        telemetry: &Telemetry,
        now: Now,
    ) -> std::result::Result<(), Refused> {
        if let Err(error) = self.finish(spool) {
            self.builder.clear();
            self.positions.clear();
            self.positioned = 0;
            if error.kind == ErrorKind::Input {
                return Err(Refused::TooLarge);
            }
            self.try_later(&error, now);
            return Err(Refused::NoRoom);
        }
        self.offer(spool, telemetry);
        Ok(())
    }

    /// The spool could not make room for the partition.
    fn try_later(&mut self, error: &Error, now: Now) {
        tracing::warn!(partition = %self.partition, %error, "batch is not cut, trying again");
        self.retry_at = now.monotonic + SPOOL_RETRY;
    }

    /// Seals the open batch: one, or several where it does not compress, each with the positions that
    /// its own records carry.
    fn finish(&mut self, spool: &Spool) -> Result<()> {
        let producer = spool.next_producer(&self.partition)?;
        let mut batches = Vec::with_capacity(1);
        let raw_bytes = self.builder.raw_bytes();
        self.builder.finish(producer, &mut batches)?;
        self.positioned = 0;
        let bytes: usize = batches.iter().map(Vec::len).sum();
        self.target = if bytes > raw_bytes / DENSE {
            POSITION_EVERY_BYTES
        } else {
            BATCH_RAW_BYTES_TARGET
        };
        let mut positions = self.positions.drain(..).peekable();
        let mut records = 0;
        for batch in batches {
            records += BatchHeader::parse(&batch)?.record_count;
            let mut own = Vec::with_capacity(positions.len());
            while let Some((_, placed)) = positions.next_if(|(at, _)| *at <= records) {
                own.push(placed);
            }
            self.waiting.push_back((batch, own));
        }
        Ok(())
    }

    /// Offers the waiting batches to the spool.
    pub(super) fn offer(&mut self, spool: &Spool, telemetry: &Telemetry) {
        while let Some((batch, positions)) = self.waiting.front_mut() {
            let bytes = batch.len();
            match spool.append(&self.partition, batch, positions) {
                Ok(Taken::Yes) => {
                    telemetry.count_batch(bytes);
                    self.waiting.pop_front();
                }
                Ok(Taken::Wait) => return,
                Err(error) => {
                    tracing::error!(partition = %self.partition, %error, "spool takes no batch");
                    return;
                }
            }
        }
    }
}

/// Batches that keep more than this part of their raw bytes are cut small: large ones might not fit.
const DENSE: usize = 3;
