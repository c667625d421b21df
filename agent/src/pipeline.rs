//! From sources to the spool, on one thread: each turn lets every source take what there is room for,
//! cuts the batches that are full or have waited long enough, and appends them.
//!
//! Invariants: nothing waits anywhere but in one open batch for each destination; a batch that the
//! spool has no room for stops its destination's sources, and is offered again; a batch is appended
//! whole, with the positions that its records carry.

mod destination;
mod linger;
pub mod requests;
pub mod thread;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use commitlog::batch::builder::HeaderBlock;
use commitlog::id::{Timestamp, TopicName, TopicPartition};
use model::position::LineageId;

use crate::ambient::Now;
use crate::files::{SourceFiles, Totals};
use crate::limits::{DEAF_MAX, READ_BYTES, SPOOL_RETRY};
use crate::router::Router;
use crate::sources::{Next, Source};
use crate::spool::Spool;
use crate::spool::positions::{FORGOTTEN_S, Loss, Placed};
use crate::telemetry::Telemetry;
use destination::Destination;
use linger::Linger;
use requests::{Inbox, Replacement, Request};

/// The sources, and what is on its way from them to the spool.
pub struct Pipeline {
    sources: Vec<Box<dyn Source>>,
    /// Where questions come from, if anybody can ask.
    inbox: Option<Inbox>,
    /// Sources that wait to take the place of others.
    replacement: Option<Replacement>,
    flow: Flow,
}

/// Everything but the sources.
struct Flow {
    spool: Spool,
    router: Router,
    destinations: Vec<Destination>,
    by_partition: HashMap<TopicPartition, DestinationId>,
    linger: Linger,
    /// Until when nobody listens for events, as of the last turn.
    deaf_until: Option<Duration>,
    telemetry: Telemetry,
}

/// A destination of this pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DestinationId(usize);

/// What a source puts its records into, for one turn.
pub struct Outlet<'a> {
    flow: &'a mut Flow,
    now: Now,
}

/// One destination's open batch.
pub struct Batch<'a> {
    destination: &'a mut Destination,
    linger: &'a mut Linger,
    spool: &'a Spool,
    telemetry: &'a Telemetry,
    now: Now,
}

/// Why a record cannot be taken now, or ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The spool has no room. Nothing was taken; come again.
    NoRoom,
    /// It does not compress into one batch. Nothing was taken; cut it.
    TooLarge,
}

impl Pipeline {
    /// A pipeline that is ready for its first turn.
    pub fn new(sources: Vec<Box<dyn Source>>, spool: Spool, telemetry: Telemetry) -> Pipeline {
        Pipeline {
            sources,
            inbox: None,
            replacement: None,
            flow: Flow {
                router: Router::new(spool.clone()),
                spool,
                destinations: Vec::new(),
                by_partition: HashMap::new(),
                linger: Linger::default(),
                deaf_until: None,
                telemetry,
            },
        }
    }

    /// The same pipeline, which answers what it is asked.
    #[must_use]
    pub fn answering(mut self, inbox: Inbox) -> Pipeline {
        self.inbox = Some(inbox);
        self
    }

    /// One step; when the next one is due.
    pub fn turn(&mut self, now: Now) -> Next {
        self.answer();
        self.replace(now);
        for destination in &mut self.flow.destinations {
            destination.offer(&self.flow.spool, &self.flow.telemetry);
        }
        let mut next = Next::At(now.monotonic + IDLE_MAX);
        if self.replacement.is_some() {
            next = Next::At(now.monotonic + SPOOL_RETRY);
        }
        for source in &mut self.sources {
            let mut out = Outlet {
                flow: &mut self.flow,
                now,
            };
            next = next.min(source.turn(&mut out));
        }
        self.sources.retain(|source| !source.is_over());
        self.flow.cut_due(now);
        self.flow.listen_or_not(now);
        next.min(Next::At(self.flow.due(now)))
    }

    /// Answers everything that was asked since the last turn.
    fn answer(&mut self) {
        while let Some(request) = self.inbox.as_mut().and_then(Inbox::next) {
            // Who asked may have gone: then nobody misses the answer.
            match request {
                Request::Files(answer) if answer.is_closed() => {}
                Request::Files(answer) => {
                    answer.send(self.files()).ok();
                }
                Request::Totals(answer) => {
                    answer.send(self.totals()).ok();
                }
                // The one before it is not done: its asker has gone.
                Request::Replace(replacement) => self.replacement = Some(replacement),
            }
        }
    }

    /// Has these sources take the place of those with their names as soon as that can be.
    #[cfg(test)]
    pub(crate) fn put(&mut self, sources: Vec<Box<dyn Source>>, share: crate::sources::FilesShare) {
        let (done, _) = tokio::sync::oneshot::channel();
        self.replacement = Some(Replacement {
            sources,
            share,
            done,
        });
    }

    /// Puts new sources in the place of those with their names, once all that those have taken is in the
    /// spool: the new ones go on from its positions.
    fn replace(&mut self, now: Now) {
        if self.replacement.is_none() || !self.flush(now) {
            return;
        }
        let Some(replacement) = self.replacement.take() else {
            return;
        };
        let Replacement {
            sources,
            share,
            done,
        } = replacement;
        for mut source in sources {
            let mut held = self.sources.iter_mut();
            match held.find(|held| held.name() == source.name()) {
                Some(held) => {
                    source.inherit(held.hand_over());
                    *held = source;
                }
                None => self.sources.push(source),
            }
        }
        for source in &mut self.sources {
            source.share_files(share);
        }
        // Who asked may have gone.
        done.send(()).ok();
    }

    /// What every source knows of its files.
    pub(crate) fn files(&self) -> Vec<SourceFiles> {
        let sources = self.sources.iter();
        sources
            .map(|source| source.files(&self.flow.spool))
            .collect()
    }

    /// How much every source has before it, by name.
    pub(crate) fn totals(&self) -> Vec<(String, Totals)> {
        let sources = self.sources.iter();
        sources
            .map(|source| (source.name().to_owned(), source.totals()))
            .collect()
    }

    /// Whether batches follow each other at a pace, and there is nothing to do between them.
    pub fn is_paced(&self) -> bool {
        self.flow.deaf_until.is_some()
    }

    /// How long events can wait after a turn, while records gather or soon will: what comes before they
    /// are cut is taken by that turn, one wake-up for all. `None`: nothing gathers.
    pub fn deaf_for(&self) -> Option<Duration> {
        let mut destinations = self.flow.destinations.iter();
        let is_gathering = destinations.any(|destination| destination.opened_at().is_some());
        let is_deaf = is_gathering || self.flow.deaf_until.is_some();
        let bounds = self.sources.iter().map(|source| source.events_wait_max());
        is_deaf.then(|| bounds.fold(DEAF_MAX, Duration::min))
    }

    /// Cuts and appends what is gathered; whether all of it is in the spool.
    pub fn flush(&mut self, now: Now) -> bool {
        let mut empty = true;
        for destination in &mut self.flow.destinations {
            destination.offer(&self.flow.spool, &self.flow.telemetry);
            destination.cut(&self.flow.spool, &self.flow.telemetry, now);
            empty &= destination.is_empty();
        }
        empty
    }

    /// What to wait on between turns.
    pub fn events(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sources.iter().filter_map(|source| source.event())
    }

    /// The spool that this pipeline fills.
    pub fn spool(&self) -> &Spool {
        &self.flow.spool
    }
}

impl Flow {
    /// When open batches are to be cut, all at once: each cut wakes the disk and the network.
    fn gathered_at(&self) -> Option<Duration> {
        let opened = self.destinations.iter().filter_map(Destination::opened_at);
        let opened = opened.min()?;
        Some(self.linger.due(opened, *self.spool.linger().borrow()))
    }

    fn cut_due(&mut self, now: Now) {
        if self.gathered_at().is_none_or(|at| at > now.monotonic) {
            return;
        }
        self.linger.cut(now.monotonic);
        for destination in &mut self.destinations {
            destination.cut(&self.spool, &self.telemetry, now);
        }
    }

    fn listen_or_not(&mut self, now: Now) {
        let told = *self.spool.linger().borrow();
        self.deaf_until = self.linger.deaf_until(now.monotonic, told);
    }

    /// When something is to be cut, offered again or listened for.
    fn due(&self, now: Now) -> Duration {
        let mut due = now.monotonic + IDLE_MAX;
        if self.destinations.iter().any(Destination::is_blocked) {
            due = due.min(now.monotonic + SPOOL_RETRY);
        }
        let soon = self.gathered_at().into_iter().chain(self.deaf_until);
        soon.fold(due, Duration::min)
    }
}

impl Outlet<'_> {
    /// The moment of this turn.
    pub fn now(&self) -> Now {
        self.now
    }

    /// The spool: positions, notes, losses.
    pub fn spool(&self) -> &Spool {
        &self.flow.spool
    }

    /// The agent's metrics.
    pub fn telemetry(&self) -> &Telemetry {
        &self.flow.telemetry
    }

    /// The partition of a new lineage; `None` while it is worth waiting to be told.
    pub fn place(&mut self, topic: &TopicName, lineage: LineageId) -> Option<TopicPartition> {
        self.flow.router.place(topic, lineage, self.now.monotonic)
    }

    /// The destination of a partition.
    pub fn destination(&mut self, partition: &TopicPartition) -> DestinationId {
        if let Some(&id) = self.flow.by_partition.get(partition) {
            return id;
        }
        let id = DestinationId(self.flow.destinations.len());
        self.flow.by_partition.insert(partition.clone(), id);
        self.flow
            .destinations
            .push(Destination::new(partition.clone()));
        id
    }

    /// Whether all that was taken for a partition is in the spool, with how far it was taken. What is
    /// gathered is cut for it.
    pub fn is_in_spool(&mut self, partition: &TopicPartition) -> bool {
        let destination = self.destination(partition);
        let destination = &mut self.flow.destinations[destination.0];
        destination.cut(&self.flow.spool, &self.flow.telemetry, self.now);
        destination.is_empty()
    }

    /// Whether the spool has room for anything.
    pub fn has_room(&self) -> bool {
        self.flow.spool.has_room()
    }

    /// How many bytes may be read for a destination now: none while the spool is full.
    pub fn room(&self, destination: DestinationId) -> usize {
        let destination = &self.flow.destinations[destination.0];
        if !destination.takes(self.now) || !self.flow.spool.has_room() {
            0
        } else {
            READ_BYTES
        }
    }

    /// The open batch of a destination.
    pub fn batch(&mut self, destination: DestinationId) -> Batch<'_> {
        Batch {
            destination: &mut self.flow.destinations[destination.0],
            linger: &mut self.flow.linger,
            spool: &self.flow.spool,
            telemetry: &self.flow.telemetry,
            now: self.now,
        }
    }

    /// Saves a position that no record carries. What was taken of the file may still be in the open
    /// batch: then the position waits for it, so that it is never ahead of the data. Nothing was taken
    /// before the file's first byte: how it begins is saved also if the spool has no room for the batch
    /// before the agent is stopped.
    pub fn note(&mut self, placed: Placed) {
        let partition = placed.partition.as_ref();
        let Some(partition) = partition.filter(|_| placed.position.offset > 0) else {
            return self.flow.spool.note(placed);
        };
        let destination = self.destination(partition);
        let destination = &mut self.flow.destinations[destination.0];
        if destination.is_empty() {
            self.flow.spool.note(placed);
        } else {
            destination.note(placed);
        }
    }

    /// Forgets an epoch whose file is gone, whose last position this is. What was taken of it may still
    /// be in the open batch, which would bring it back: then it is forgotten behind the batch.
    pub fn forget(&mut self, mut placed: Placed) {
        let destination = placed.partition.as_ref().map(|it| self.destination(it));
        let destination = destination.map(|id| &mut self.flow.destinations[id.0]);
        if let Some(destination) = destination.filter(|it| !it.is_empty()) {
            placed.position.finished_s = Some(FORGOTTEN_S);
            destination.note(placed);
        } else {
            let position = &placed.position;
            self.flow.spool.forget(position.lineage, position.epoch);
        }
    }

    /// Counts what is gone for good.
    pub fn count_loss(&mut self, source: &str, reason: &'static str, loss: Loss) {
        self.flow.spool.count_loss(source, reason, loss);
    }
}

impl Batch<'_> {
    /// Whether one more record of this many bytes, value and headers, fits the open batch.
    pub fn fits(&self, record_bytes: usize) -> bool {
        self.destination.fits(record_bytes)
    }

    /// Whether so many more bytes can be pushed before a record that carries a position.
    pub fn can_go_without_position(&self, bytes: usize) -> bool {
        self.destination.can_go_without_position(bytes)
    }

    /// Adds a record. The caller has asked [`fits`](Self::fits), or the batch is empty.
    pub fn push(&mut self, value: &[u8], headers: &HeaderBlock) {
        self.destination.push(value, headers, Vec::new(), self.now);
    }

    /// Adds a record with the position it ends at, or with those of the files that it ends and begins: at least the last that this turn or this batch has of
    /// a file.
    pub fn push_last(&mut self, value: &[u8], headers: &HeaderBlock, placed: Vec<Placed>) {
        if let Some(placed) = placed.first() {
            let lineage = placed.position.lineage;
            self.linger.took(lineage, self.now.monotonic);
        }
        self.destination.push(value, headers, placed, self.now);
    }

    /// Cuts the batch because the next record does not fit. `Err`: the spool has no room, nothing more
    /// can be pushed now; what was pushed is kept.
    pub fn cut(&mut self) -> Result<(), Refused> {
        self.destination.cut(self.spool, self.telemetry, self.now);
        if self.destination.is_empty() {
            Ok(())
        } else {
            Err(Refused::NoRoom)
        }
    }

    /// Adds a record that is longer than a batch is meant to be, in a batch of its own.
    pub fn push_alone(
        &mut self,
        value: &[u8],
        headers: &HeaderBlock,
        placed: Vec<Placed>,
    ) -> Result<(), Refused> {
        self.cut()?;
        self.destination.push(value, headers, placed, self.now);
        self.destination
            .cut_alone(self.spool, self.telemetry, self.now)
    }

    /// The moment that records bear.
    pub fn timestamp(&self) -> Timestamp {
        self.now.wall
    }
}

/// The longest time without a turn: a forgotten wake-up costs a second.
const IDLE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
