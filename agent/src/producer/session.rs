//! One session with one aggregator: drives [`ProducerSession`] over a [`Link`].
//!
//! One task owns the control stream; one more per slot reads the spool and writes the slot's stream.
//! They share the session behind a mutex that is never held across an await.
//!
//! A session whose producer id turned out to be shared, or whose spool has a hole, is not simply left:
//! it stops sending, waits until what it has sent is acknowledged as durable, and only then asks for a
//! new id, so that nothing is sent twice under two ids. When that does not come in time, the session
//! counts as lost and the next one goes on under the old id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use commitlog::batch::header::BatchHeader;
use commitlog::id::{Offset, Sequence, TopicPartition};
use commitlog::limits::{CLAIMS_MAX, SESSION_PARTITIONS_MAX, SESSION_SILENCE_MAX};
use commitlog::wire::control::Liveness;
use commitlog::wire::message::{Hello, Loss, Progress, Refusal, Slot, Status};
use commitlog::wire::producer::{Ending, ProducerEvent, ProducerSession};
use commitlog::wire::resume::{Conflict, Resume, Sendable, offset_within, resume};
use commitlog::wire::{VERSION_MAX, VERSION_MIN};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::Link;
use super::send::{Ended, Sender, SlotState};
use super::stream::Channel;
use super::{Producer, Reloaded, is_about_identity};
use crate::limits::{
    BROKEN_STREAM_GRACE, RENEWAL_CHECK_EVERY, SEND_READ_BYTES, SHUTDOWN_GRACE, SLOT_RETRY_MIN,
    STATUS_EVERY,
};
use crate::spool::{Hints, Spool};

/// How a session ended.
pub(super) enum End {
    /// The connection broke, or the peer broke a rule.
    Lost(String),
    /// The aggregator ended it.
    By(Ending),
    /// A new producer id is needed.
    NewProducer(String),
    /// Everything is sent, or the grace is over.
    Shutdown,
    /// A join left another identity, under which more may be allowed.
    NewIdentity,
    /// A better connection waits.
    Superseded(Link),
}

/// What a session has come to.
pub(super) struct Outcome {
    pub(super) end: End,
    /// Whether the aggregator accepted the Hello: the address and our identity are good.
    pub(super) was_live: bool,
    /// Whether anything was acknowledged: the transport carries data both ways.
    pub(super) made_progress: bool,
}

/// What the tasks of a session share.
pub(super) struct Shared {
    pub(super) producer: Producer,
    session: Mutex<ProducerSession>,
    started: Instant,
}

impl Shared {
    pub(super) fn session(&self) -> MutexGuard<'_, ProducerSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

struct Driver {
    shared: Arc<Shared>,
    channel: Channel,
    slots: BTreeMap<Slot, Arc<SlotState>>,
    named: usize,
    senders: JoinSet<Result<Ended, String>>,
    /// Slots whose spool and log disagree, until the aggregator tells what they share.
    comparing: BTreeMap<Slot, Comparing>,
    /// Whose spool has a damaged place, to be skipped once all before it is acknowledged.
    holes: Vec<TopicPartition>,
    /// Slots that were refused, and when to ask again.
    refused: Vec<(Instant, Slot)>,
    /// A stream that cannot be written, and until when the control stream may tell why.
    broken: Option<Broken>,
    /// Set once sending stops: why, and what follows.
    stopping: Option<Stopping>,
    was_live: bool,
    made_progress: bool,
    status: Interval,
    renewal: Interval,
}

/// A partition of which the first batches were claimed.
struct Comparing {
    partition: TopicPartition,
    range: Sendable,
}

struct Broken {
    error: String,
    deadline: Instant,
}

enum Stopping {
    /// Leaves for a better connection once all that was sent is acknowledged, however long that takes: it
    /// may lead to another aggregator, who would get the same records once more.
    Superseded { link: Link },
    /// Leaves once all of the spool is acknowledged.
    Shutdown { deadline: Instant },
    /// Leaves once all that was sent is acknowledged.
    NewProducer { reason: String, deadline: Instant },
}

/// Runs a session to its end. `better` gives a better connection when there is one.
pub(super) async fn run(
    producer: &Producer,
    link: Link,
    shutdown: &CancellationToken,
    better: impl Future<Output = Link>,
) -> Outcome {
    let liveness = match &link {
        Link::Quic(..) => Liveness::Transport,
        Link::Tcp(_) => Liveness::Session,
    };
    let opened = Channel::open(link).await;
    // Before Hello lists the partitions: one that appears after it is news.
    let changed = producer.spool.changed();
    let hello = hello(producer);
    let named = hello.partitions.len();
    let session = ProducerSession::new(hello, liveness, Duration::ZERO);
    let (channel, session) = match (opened, session) {
        (Ok(channel), Ok(session)) => (channel, session),
        (Err(error), _) => return Outcome::lost(error),
        (_, Err(error)) => return Outcome::lost(error.message),
    };
    let driver = Driver {
        shared: Arc::new(Shared {
            producer: producer.clone(),
            session: Mutex::new(session),
            started: Instant::now(),
        }),
        channel,
        slots: BTreeMap::new(),
        named,
        senders: JoinSet::new(),
        comparing: BTreeMap::new(),
        holes: Vec::new(),
        refused: Vec::new(),
        broken: None,
        stopping: None,
        was_live: false,
        made_progress: false,
        status: ticks(STATUS_EVERY),
        renewal: ticks(RENEWAL_CHECK_EVERY),
    };
    driver.run(changed, shutdown, better).await
}

impl Outcome {
    fn lost(error: String) -> Outcome {
        Outcome {
            end: End::Lost(error),
            was_live: false,
            made_progress: false,
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn hello(producer: &Producer) -> Hello {
    let mut partitions = producer.spool.partitions();
    partitions.truncate(SESSION_PARTITIONS_MAX);
    Hello {
        versions: VERSION_MIN..=VERSION_MAX,
        producer: producer.spool.producer_id(),
        epoch: producer.spool.epoch(),
        replaces: producer.spool.replaced_producer_id(),
        host: producer.host.name.clone(),
        machine_id: producer.host.machine_id.clone(),
        boot_id: producer.host.boot_id.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        partitions,
    }
}

impl Driver {
    async fn run(
        mut self,
        changed: watch::Receiver<u64>,
        shutdown: &CancellationToken,
        better: impl Future<Output = Link>,
    ) -> Outcome {
        let mut better = std::pin::pin!(better);
        let end = match self.drive(changed, shutdown, better.as_mut()).await {
            Ok(end) => end,
            Err(error) => End::Lost(error),
        };
        self.senders.shutdown().await;
        if !matches!(end, End::Lost(_)) {
            let goodbye = self.shared.session().goodbye("leaving");
            // Courtesy only: the aggregator notices a closed connection as well.
            if goodbye.is_ok() && self.flush().await.is_err() {
                tracing::debug!("the aggregator left first");
            }
        }
        self.channel.close().await;
        Outcome {
            end,
            was_live: self.was_live,
            made_progress: self.made_progress,
        }
    }

    async fn drive(
        &mut self,
        mut changed: watch::Receiver<u64>,
        shutdown: &CancellationToken,
        mut better: std::pin::Pin<&mut impl Future<Output = Link>>,
    ) -> Result<End, String> {
        let mut turn = ticks(Duration::from_secs(1));
        loop {
            self.flush().await?;
            if let Some(end) = self.is_done().await {
                return Ok(end);
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if self.may_shut_down() => {
                    self.channel.ear.listen();
                    let deadline = Instant::now() + SHUTDOWN_GRACE;
                    self.stopping = Some(Stopping::Shutdown { deadline });
                }
                link = better.as_mut(), if self.stopping.is_none() => {
                    self.stop_sending();
                    self.stopping = Some(Stopping::Superseded { link });
                }
                _ = turn.tick() => {
                    self.channel.ear.tick();
                    let now = self.shared.now();
                    self.shared.session().turn(now).map_err(|error| error.message)?;
                    self.ask_again()?;
                    self.give_up_broken()?;
                }
                _ = self.status.tick() => self.tell_status()?,
                _ = self.renewal.tick() => self.renew_certificate().await?,
                Some(ended) = self.senders.join_next() => self.sender_ended(ended)?,
                alive = changed.changed() => {
                    alive.map_err(|_| "the spool is closed")?;
                    self.spool_changed()?;
                }
                received = self.channel.reader.read() => {
                    let bytes = received?.ok_or("the aggregator closed the connection")?;
                    let now = self.shared.now();
                    let taken = self.shared.session().received(&bytes, now);
                    taken.map_err(|error| error.message)?;
                    if let Some(end) = self.take_events().await? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Writes what the session has to say.
    async fn flush(&mut self) -> Result<(), String> {
        let now = self.shared.now();
        let bytes = self.shared.session().output(now);
        if bytes.is_empty() {
            return Ok(());
        }
        self.channel.ear.listen();
        let written = timeout(SESSION_SILENCE_MAX, self.channel.writer.write(bytes.into())).await;
        written.map_err(|_| "the aggregator does not read")?
    }

    /// Whether what the session still waited for before it stops has come.
    async fn is_done(&mut self) -> Option<End> {
        let (deadline, waited_for) = match self.stopping.as_ref()? {
            Stopping::Shutdown { deadline } => (Some(*deadline), self.is_spool_empty()),
            Stopping::Superseded { .. } => (None, self.is_settled()),
            Stopping::NewProducer { deadline, .. } => (Some(*deadline), self.is_settled()),
        };
        if !waited_for && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            return None;
        }
        Some(match self.stopping.take()? {
            Stopping::Shutdown { .. } => End::Shutdown,
            Stopping::Superseded { link } => End::Superseded(link),
            // Under a new id, what was sent and not acknowledged would be appended twice.
            Stopping::NewProducer { reason, .. } if !waited_for => {
                End::Lost(format!("{reason}; what was sent is not acknowledged yet"))
            }
            Stopping::NewProducer { reason, .. } => {
                self.skip_holes().await;
                End::NewProducer(reason)
            }
        })
    }

    /// Goes on behind damaged batches. All before them is acknowledged by now.
    async fn skip_holes(&mut self) {
        for partition in std::mem::take(&mut self.holes) {
            let spool = self.shared.producer.spool.clone();
            let skip = {
                let partition = partition.clone();
                move || spool.skip_damaged(&partition)
            };
            if let Err(error) = self.shared.producer.blocking.run(skip).await {
                tracing::warn!(%partition, %error, "damaged batches are not skipped");
            }
        }
    }

    fn is_spool_empty(&self) -> bool {
        let spool = &self.shared.producer.spool;
        spool.partitions().iter().all(|partition| {
            let range = spool.range(partition);
            range.start >= range.end
        })
    }

    /// Whether nothing that was sent waits for its acknowledgement.
    fn is_settled(&self) -> bool {
        let mut slots = self.slots.values();
        slots.all(|it| it.is_settled(&self.shared)) && self.comparing.is_empty()
    }

    async fn take_events(&mut self) -> Result<Option<End>, String> {
        loop {
            let event = self.shared.session().event();
            let Some(event) = event else {
                return Ok(None);
            };
            match event {
                ProducerEvent::Hints(hints) => {
                    if !self.was_live {
                        // Sessions that never last until the next look must renew too.
                        self.renewal.reset_immediately();
                    }
                    let becomes_live = !std::mem::replace(&mut self.was_live, true);
                    let spool = self.shared.producer.spool.clone();
                    let hints = Hints {
                        linger: hints.linger,
                        partitions: hints.partitions,
                        partitions_of_new: hints.partitions_of_new,
                    };
                    let apply = move || spool.apply_hints(hints);
                    self.shared.producer.blocking.run(apply).await;
                    if becomes_live {
                        // What was lost while the agent was stopped is told at once.
                        self.status.reset_immediately();
                        // Partitions that appeared since Hello could not be opened until now.
                        self.spool_changed()?;
                    }
                }
                ProducerEvent::Opened(slot, progress) => self.opened(slot, progress).await?,
                ProducerEvent::SlotRefused(slot, refusal) => {
                    if self.slot_refused(slot, &refusal).await == Reloaded::Another {
                        return Ok(Some(End::NewIdentity));
                    }
                }
                ProducerEvent::Durable(slot, upto) => self.durable(slot, upto),
                ProducerEvent::CreditGrew(slot) => {
                    if let Some(state) = self.slots.get(&slot) {
                        state.wake.notify_one();
                    }
                }
                ProducerEvent::Renewed(renewed) => {
                    let identity = Arc::clone(&self.shared.producer.identity);
                    let install = move || identity.renewed(&renewed);
                    if let Err(error) = self.shared.producer.blocking.run(install).await {
                        tracing::error!(error, "the new certificate cannot be used");
                    }
                }
                ProducerEvent::Common(slot, next) => self.compared(slot, next),
                ProducerEvent::Conflict(slot) => {
                    let partition = self.shared.session().partition(slot).cloned();
                    let partition = partition.map(|it| it.to_string()).unwrap_or_default();
                    self.stop_for_new_producer(format!(
                        "{partition}: somebody else has used this producer id"
                    ));
                }
                ProducerEvent::Ended(ending) => return Ok(Some(End::By(ending))),
            }
        }
    }

    async fn opened(&mut self, slot: Slot, progress: Option<Progress>) -> Result<(), String> {
        let partition = self.shared.session().partition(slot).cloned();
        let partition = partition.ok_or("the aggregator opened a slot that was not named")?;
        let spool = self.shared.producer.spool.clone();
        let look_up = {
            let partition = partition.clone();
            move || {
                let range = spool.range(&partition);
                let sendable = Sendable {
                    start: range.start,
                    end: range.durable_end,
                };
                resume(sendable, progress, |sequence| {
                    spool.batch_crc_at(&partition, sequence)
                })
            }
        };
        let resumed = self.shared.producer.blocking.run(look_up).await;
        match resumed.map_err(|error| format!("{partition}: {error}"))? {
            Resume::At { next, durable } => self.start(slot, partition, next, durable).await,
            Resume::Conflict(conflict) => {
                self.stop_for_new_producer(format!("{partition}: {conflict}"));
                match conflict {
                    // It went to another aggregator; this one has nothing of what is left.
                    Conflict::BehindSpool => Ok(()),
                    _ => self.compare(slot, partition).await,
                }
            }
        }
    }

    /// Claims the first batches of the spool, to learn which of them need not be sent again.
    async fn compare(&mut self, slot: Slot, partition: TopicPartition) -> Result<(), String> {
        let spool = self.shared.producer.spool.clone();
        let read = {
            let partition = partition.clone();
            move || claims(&spool, &partition)
        };
        let claimed = self.shared.producer.blocking.run(read).await;
        let (range, claims) = claimed.map_err(|error| format!("{partition}: {error}"))?;
        if claims.is_empty() {
            return Ok(());
        }
        self.comparing.insert(slot, Comparing { partition, range });
        let asked = self.shared.session().compare(slot, claims);
        asked.map_err(|error| error.message)
    }

    fn compared(&mut self, slot: Slot, next: Sequence) {
        let Some(Comparing { partition, range }) = self.comparing.remove(&slot) else {
            return;
        };
        if let Some(upto) = offset_within(next, range) {
            self.made_progress = true;
            self.shared.producer.spool.acknowledge(&partition, upto);
        }
    }

    async fn start(
        &mut self,
        slot: Slot,
        partition: TopicPartition,
        next: Offset,
        durable: Offset,
    ) -> Result<(), String> {
        self.shared.producer.spool.acknowledge(&partition, durable);
        let header = self.shared.session().start(slot, next, durable);
        let header = header.map_err(|error| error.message)?;
        let state = Arc::new(SlotState::new(slot, partition));
        self.slots.insert(slot, Arc::clone(&state));
        let refusals = &self.shared.producer.refusals;
        refusals.forget(&state.partition.to_string());
        let mut writer = self.channel.open_slot(slot).await?;
        writer.write(header.encode().into()).await?;
        if self.is_draining() {
            state.stop();
        }
        let sender = Sender {
            ear: self.channel.ear.clone(),
            shared: Arc::clone(&self.shared),
            state,
            writer,
        };
        self.senders.spawn(sender.run());
        Ok(())
    }

    async fn slot_refused(&mut self, slot: Slot, refusal: &Refusal) -> Reloaded {
        let Some(partition) = self.shared.session().partition(slot).cloned() else {
            return Reloaded::Same;
        };
        let producer = &self.shared.producer;
        producer.refusals.report(&partition.to_string(), refusal);
        let again = Instant::now() + refusal.retry_after.max(SLOT_RETRY_MIN);
        self.refused.push((again, slot));
        if !is_about_identity(refusal.code) || self.stopping.is_some() {
            return Reloaded::Same;
        }
        producer.reload_identity().await
    }

    /// Asks again for partitions that were refused a while ago.
    fn ask_again(&mut self) -> Result<(), String> {
        let now = Instant::now();
        for (_, slot) in self.refused.extract_if(.., |(at, _)| *at <= now) {
            let asked = self.shared.session().ask_again(slot);
            asked.map_err(|error| error.message)?;
        }
        Ok(())
    }

    fn durable(&mut self, slot: Slot, upto: Offset) {
        self.made_progress = true;
        if let Some(state) = self.slots.get(&slot) {
            self.shared
                .producer
                .spool
                .acknowledge(&state.partition, upto);
        }
    }

    fn spool_changed(&mut self) -> Result<(), String> {
        if self.stopping.is_none() {
            self.channel.ear.hear();
        }
        let spool = &self.shared.producer.spool;
        for state in self.slots.values() {
            if state.grew_to(spool.range(&state.partition).durable_end) {
                state.wake.notify_one();
            }
        }
        let partitions = spool.partitions();
        if partitions.len() <= self.named || self.is_draining() {
            return Ok(());
        }
        let mut session = self.shared.session();
        if !session.is_live() {
            return Ok(());
        }
        for partition in &partitions {
            let is_named = (0..).map(Slot).map_while(|slot| session.partition(slot));
            if is_named.into_iter().any(|it| it == partition) {
                continue;
            }
            if self.named >= SESSION_PARTITIONS_MAX {
                let refusals = &self.shared.producer.refusals;
                refusals.report_failure(
                    "partitions",
                    &format!(
                        "more than {SESSION_PARTITIONS_MAX}: the rest waits; use fewer topics"
                    ),
                );
                break;
            }
            session.open(partition).map_err(|error| error.message)?;
            self.named += 1;
        }
        Ok(())
    }

    fn sender_ended(
        &mut self,
        ended: Result<Result<Ended, String>, tokio::task::JoinError>,
    ) -> Result<(), String> {
        match ended {
            Ok(Ok(Ended::Stopped)) => Ok(()),
            Ok(Ok(Ended::Hole(partition))) => {
                self.holes.push(partition);
                self.stop_for_new_producer("spooled batches cannot be read".to_owned());
                Ok(())
            }
            // A slot that ends by a conflict closes its stream, which may be heard of before the conflict.
            Ok(Err(error)) => {
                let deadline = Instant::now() + BROKEN_STREAM_GRACE;
                self.broken.get_or_insert(Broken { error, deadline });
                Ok(())
            }
            Err(panicked) => Err(format!("a sender failed: {panicked}")),
        }
    }

    /// Nothing on the control stream told why a stream broke: the connection is no good.
    fn give_up_broken(&mut self) -> Result<(), String> {
        let now = Instant::now();
        match self.broken.take_if(|broken| broken.deadline <= now) {
            // Another end is under way, which has its own deadline.
            Some(_) if self.stopping.is_some() => Ok(()),
            Some(broken) => Err(broken.error),
            None => Ok(()),
        }
    }

    fn is_draining(&self) -> bool {
        use Stopping::{NewProducer, Superseded};
        matches!(self.stopping, Some(NewProducer { .. } | Superseded { .. }))
    }

    /// Whether nothing else is under way that ends by itself.
    fn may_shut_down(&self) -> bool {
        matches!(self.stopping, None | Some(Stopping::Superseded { .. }))
    }

    /// From here on no batch is noted as sent: senders look at their mark under the session's lock.
    fn stop_sending(&self) {
        self.channel.ear.listen();
        let _session = self.shared.session();
        for state in self.slots.values() {
            state.stop();
        }
    }

    fn stop_for_new_producer(&mut self, reason: String) {
        if matches!(self.stopping, Some(Stopping::NewProducer { .. })) {
            return;
        }
        self.stop_sending();
        let deadline = Instant::now() + SHUTDOWN_GRACE;
        self.stopping = Some(Stopping::NewProducer { reason, deadline });
    }

    fn tell_status(&self) -> Result<(), String> {
        let spool = &self.shared.producer.spool;
        let fill = spool.fill();
        let mut losses: BTreeMap<String, u64> = BTreeMap::new();
        for ((_, reason), loss) in spool.losses() {
            *losses.entry(reason.clone()).or_default() += loss.count;
            *losses.entry(format!("{reason}_bytes")).or_default() += loss.bytes;
        }
        let counted = losses.into_iter().filter(|(_, count)| *count > 0);
        let status = Status {
            lag_bytes: fill.unacknowledged_bytes,
            lag_records: fill.unacknowledged_records,
            unread_bytes: self.shared.producer.stats.unread_bytes(),
            losses: counted
                .map(|(reason, count)| Loss { reason, count })
                .collect(),
        };
        let mut session = self.shared.session();
        if !session.is_live() {
            return Ok(());
        }
        session.status(status).map_err(|error| error.message)
    }

    async fn renew_certificate(&self) -> Result<(), String> {
        if !self.shared.session().is_live() {
            return Ok(());
        }
        let identity = Arc::clone(&self.shared.producer.identity);
        let request = self
            .shared
            .producer
            .blocking
            .run(move || identity.renewal());
        let Some(request) = request.await else {
            return Ok(());
        };
        let mut session = self.shared.session();
        session.renew(request).map_err(|error| error.message)
    }
}

/// The first batches of what is unacknowledged, by first sequence and CRC, and the offsets they span.
fn claims(
    spool: &Spool,
    partition: &TopicPartition,
) -> commitlog::error::Result<(Sendable, Vec<(Sequence, u32)>)> {
    let range = spool.range(partition);
    let mut claims = Vec::new();
    let mut end = range.start;
    while claims.len() < CLAIMS_MAX && end < range.durable_end {
        let batches = spool.read(partition, end, SEND_READ_BYTES)?;
        let before = end;
        for batch in batches.iter().take(CLAIMS_MAX - claims.len()) {
            let header = BatchHeader::parse(batch)?;
            claims.push((Sequence::of_spool_offset(header.base_offset), header.crc));
            end = header.next_offset();
        }
        if end == before {
            break;
        }
    }
    let start = range.start;
    Ok((Sendable { start, end }, claims))
}
