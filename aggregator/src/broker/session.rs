//! One session with one agent: drives [`BrokerSession`] over a connection.
//!
//! One task owns the control stream and all decisions; data streams are read beside it (`streams`), and
//! each slot's durable watermark is watched (`append`). When a session ends, for whatever reason, its
//! appends run to their end before the producer's place is given to a newer connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use commitlog::error::ErrorKind;
use commitlog::id::{ProducerEpoch, ProducerId, Sequence, TopicPartition};
use commitlog::limits::{SESSION_SILENCE_MAX, WIRE_LIST_MAX};
use commitlog::wire::broker::{BrokerEvent, BrokerSession};
use commitlog::wire::control::Liveness;
use commitlog::wire::frame::StreamHeader;
use commitlog::wire::message::{
    Hello, Hints, Opened, Progress, Refusal, RefusalCode, Renewed, Slot, Status,
};
use quinn::RecvStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::append::Intake;
use super::credit::{Counted, Frames};
use super::fence::{Tenure, fenced};
use super::peer::{ControlWriter, Peer, Streams};
use super::streams::{self, TcpStreams};
use super::{Broker, refusal};
use crate::agents::{Greeting, Host, Presence, Report};
use crate::identity::REVOKED_HELP;
use crate::identity::peer::AgentIdentity;
use crate::limits::{
    CONTROL_QUEUE_CHUNKS, HANDSHAKE_MAX, RENEWAL_INTERVAL_MIN, SESSION_TICK, SETTLE_GRACE,
};

/// What the tasks of a session share.
pub(super) struct Shared {
    pub(super) broker: Broker,
    /// The control stream has something to say.
    pub(super) news: Notify,
    /// The session ends: reading stops, appends run to their end.
    pub(super) stop: CancellationToken,
    pub(super) frames: Frames,
    session: Mutex<BrokerSession>,
    intakes: Mutex<BTreeMap<Slot, Arc<Intake>>>,
    guest: OnceLock<Guest>,
    started: Instant,
}

/// Who said Hello.
struct Guest {
    producer: ProducerId,
    epoch: ProducerEpoch,
    presence: Presence,
    _counted: Counted,
}

/// Why a session, or a part of it, ends.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The connection is gone.
    Lost(String),
    /// The agent broke a rule.
    Protocol(String),
    /// The agent should connect again and go on from what is in the log.
    StartOver(String),
    /// The agent is told why.
    Refused(Refusal),
    /// This slot only; the session goes on.
    SlotEnds,
}

impl Verdict {
    pub(super) fn failed(error: &tokio::task::JoinError) -> Verdict {
        tracing::error!(%error, "a session's task panicked");
        Verdict::StartOver("the aggregator failed".to_owned())
    }
}

impl Shared {
    pub(super) fn new(broker: Broker, liveness: Liveness) -> Shared {
        Shared {
            stop: broker.shutdown.child_token(),
            frames: broker.budget.frames(),
            broker,
            news: Notify::new(),
            session: Mutex::new(BrokerSession::new(liveness, Duration::ZERO)),
            intakes: Mutex::default(),
            guest: OnceLock::new(),
            started: Instant::now(),
        }
    }

    pub(super) fn session(&self) -> MutexGuard<'_, BrokerSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a slot's stream.
    pub(super) fn begin(&self, header: StreamHeader) -> Result<Arc<Intake>, Verdict> {
        let begun = self.session().stream(header);
        begun.map_err(|error| Verdict::Protocol(error.message))?;
        let intake = self.intakes().get(&header.slot).cloned();
        let intake = intake.expect("an accepted slot has one");
        intake.begins(header.sequence, self);
        self.news.notify_one();
        Ok(intake)
    }

    /// The peer lives.
    pub(super) fn heard(&self) {
        self.session().heard(self.now());
    }

    /// Two machines ship as one.
    pub(super) fn conflict(&self, partition: &TopicPartition) {
        if let Some(guest) = self.guest.get() {
            guest.presence.conflict(partition);
        }
    }

    /// A later epoch of the session's producer exists.
    pub(super) fn fenced(&self) -> Verdict {
        let producer = self.guest.get().map(|guest| guest.producer);
        producer.map_or_else(
            || Verdict::Lost("no producer".to_owned()),
            |producer| Verdict::Refused(fenced(producer)),
        )
    }

    fn intakes(&self) -> MutexGuard<'_, BTreeMap<Slot, Arc<Intake>>> {
        self.intakes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

struct Driver {
    shared: Arc<Shared>,
    identity: AgentIdentity,
    greeting: Greeting,
    control: ControlReader,
    writer: ControlWriter,
    watching: JoinSet<()>,
    reading: JoinHandle<Result<(), Verdict>>,
    tenure: Option<Tenure>,
    linger: Duration,
    /// As the agent was told.
    partitions_of_new: u32,
    /// When the last request for a certificate was looked at.
    renewal: Option<Instant>,
}

enum ControlReader {
    Quic(RecvStream),
    Tcp(mpsc::Receiver<Vec<u8>>),
}

/// Runs a session to its end.
pub(super) async fn run(broker: Broker, peer: Peer) {
    let shared = Arc::new(Shared::new(broker, peer.streams.liveness()));
    let greeting = Greeting {
        host: Host::default(),
        version: String::new(),
        address: peer.address,
        transport: peer.streams.transport(),
        producer: ProducerId::new(0).expect("zero is not negative"),
    };
    let (control, reading) = match peer.streams {
        Streams::Quic(connection, control) => (
            ControlReader::Quic(control),
            tokio::spawn(streams::accept(connection, Arc::clone(&shared))),
        ),
        Streams::Tcp(connection) => {
            let (chunks, control) = mpsc::channel(CONTROL_QUEUE_CHUNKS);
            let streams = TcpStreams::new(Arc::clone(&shared), chunks);
            (
                ControlReader::Tcp(control),
                tokio::spawn(streams.run(connection)),
            )
        }
    };
    let driver = Driver {
        shared,
        identity: peer.identity,
        greeting,
        control,
        writer: peer.writer,
        watching: JoinSet::new(),
        reading,
        tenure: None,
        linger: Duration::ZERO,
        partitions_of_new: 0,
        renewal: None,
    };
    driver.run().await;
}

impl Driver {
    async fn run(mut self) {
        let verdict = self.drive().await;
        self.shared.stop.cancel();
        if !self.reading.is_finished()
            && let Err(error) = (&mut self.reading).await
        {
            tracing::error!(%error, "a session's reader panicked");
        }
        drop(self.tenure.take());
        if !matches!(verdict, Verdict::Lost(_)) {
            self.settle().await;
        }
        self.watching.shutdown().await;
        let agent = self.identity.id.to_string();
        let address = self.greeting.address;
        let said = match verdict {
            Verdict::Lost(why) => {
                tracing::info!(agent, %address, "agent left: {why}");
                Ok(())
            }
            Verdict::Protocol(why) => {
                tracing::warn!(agent, %address, "agent cut off: {why}");
                let refusal = refusal(RefusalCode::Protocol, why);
                self.shared.session().refuse(refusal)
            }
            Verdict::Refused(refusal) => {
                tracing::warn!(agent, %address, "agent refused: {}", refusal.message);
                self.shared.session().refuse(refusal)
            }
            Verdict::StartOver(why) => {
                tracing::warn!(agent, %address, "agent starts over: {why}");
                self.shared.session().goodbye(&why)
            }
            Verdict::SlotEnds => Ok(()),
        };
        if said.is_ok() && self.flush().await.is_err() {
            tracing::debug!(agent, "the agent left before the last words");
        }
        self.writer.close().await;
    }

    /// Waits a moment for the fsync of what was appended: an agent that knows it sends nothing twice,
    /// wherever it goes from here.
    async fn settle(&mut self) {
        let intakes: Vec<_> = self.shared.intakes().values().cloned().collect();
        let deadline = Instant::now() + SETTLE_GRACE;
        while !intakes.iter().all(|it| it.is_settled()) {
            let news = self.shared.news.notified();
            if timeout_at(deadline, news).await.is_err() {
                return;
            }
        }
    }

    async fn drive(&mut self) -> Verdict {
        match self.try_drive().await {
            Ok(never) => match never {},
            Err(verdict) => verdict,
        }
    }

    async fn try_drive(&mut self) -> Result<std::convert::Infallible, Verdict> {
        let revoked = self.shared.broker.authority.revoked_agents();
        let mut tick = interval(SESSION_TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.flush().await?;
            if revoked.borrow().contains(&self.identity.id) {
                return Err(Verdict::Refused(refusal(
                    RefusalCode::Revoked,
                    format!("the agent {} was revoked; {REVOKED_HELP}", self.identity.id),
                )));
            }
            let tenure = self.tenure.as_ref().map(|it| it.stop.clone());
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                // Before the reader, which ends for the same reason: the agent is to be told what is
                // durable.
                () = shared.broker.shutdown.cancelled() => {
                    return Err(Verdict::StartOver("the aggregator stops".to_owned()));
                }
                ended = &mut self.reading => return Err(reading_ended(ended)),
                _ = tick.tick() => self.tick()?,
                () = stopped(tenure) => return Err(shared.fenced()),
                read = self.control.read() => {
                    let bytes = read?;
                    let now = shared.now();
                    let taken = shared.session().received(&bytes, now);
                    taken.map_err(|error| Verdict::Protocol(error.message))?;
                    self.take_events().await?;
                }
                () = shared.news.notified() => {}
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Verdict> {
        let now = self.shared.now();
        let output = self.shared.session().output(now);
        let bytes = output.map_err(|error| Verdict::Protocol(error.message))?;
        if bytes.is_empty() {
            return Ok(());
        }
        let written = timeout(SESSION_SILENCE_MAX, self.writer.write(bytes)).await;
        let written = written.unwrap_or_else(|_| Err("the agent does not read".to_owned()));
        written.map_err(Verdict::Lost)
    }

    fn tick(&mut self) -> Result<(), Verdict> {
        if let Some(intake) = self.shared.intakes().values().find(|it| !it.stands()) {
            let why = format!("partition {} was opened again", intake.id);
            return Err(Verdict::StartOver(why));
        }
        while self.watching.try_join_next().is_some() {}
        let authority = &self.shared.broker.authority;
        if let Err(refused) = authority.in_force(&self.identity) {
            return Err(Verdict::Refused(refusal(
                RefusalCode::BadCertificate,
                refused.to_string(),
            )));
        }
        if authority.is_granted_otherwise(&self.identity) {
            let why = "it has joined again, and may write other topics";
            return Err(Verdict::StartOver(why.to_owned()));
        }
        let now = self.shared.now();
        let mut session = self.shared.session();
        session
            .turn(now)
            .map_err(|error| Verdict::Lost(error.message))?;
        if self.tenure.is_none() {
            if now > HANDSHAKE_MAX {
                return Err(Verdict::Protocol("no Hello came".to_owned()));
            }
            return Ok(());
        }
        // The disk may have room again, and streams may have gone.
        drop(session);
        self.grant_all();
        let linger = self.shared.broker.budget.linger();
        if linger.abs_diff(self.linger) > self.linger / 10 {
            self.linger = linger;
            let hints = Hints {
                linger,
                partitions: Vec::new(),
                partitions_of_new: self.partitions_of_new,
            };
            let told = self.shared.session().hint(hints);
            told.map_err(|error| Verdict::Protocol(error.message))?;
        }
        Ok(())
    }

    fn grant_all(&self) {
        let intakes: Vec<_> = self.shared.intakes().values().cloned().collect();
        for intake in intakes {
            intake.grant(&self.shared);
        }
    }

    async fn take_events(&mut self) -> Result<(), Verdict> {
        loop {
            let event = self.shared.session().event();
            let Some(event) = event else {
                return Ok(());
            };
            match event {
                BrokerEvent::Hello(hello) => self.hello(hello).await?,
                BrokerEvent::Open(slot, partition) => {
                    let opened = self.open(slot, &partition).await;
                    self.say(|session| session.opened(slot, opened))?;
                }
                BrokerEvent::Status(status) => self.report(status),
                BrokerEvent::Renew(request) => self.renew(&request).await?,
                BrokerEvent::Compare(slot, claims) => self.compare(slot, claims),
                BrokerEvent::Goodbye(reason) => {
                    tracing::info!(
                        agent = self.identity.id.as_str(),
                        reason,
                        "agent says goodbye"
                    );
                }
            }
        }
    }

    fn say(
        &self,
        what: impl FnOnce(&mut BrokerSession) -> commitlog::error::Result<()>,
    ) -> Result<(), Verdict> {
        let said = what(&mut self.shared.session());
        said.map_err(|error| Verdict::Protocol(error.message))
    }

    async fn hello(&mut self, hello: Hello) -> Result<(), Verdict> {
        let texts = [
            &hello.host,
            &hello.machine_id,
            &hello.boot_id,
            &hello.agent_version,
        ];
        if texts.iter().any(|text| text.contains(char::is_control)) {
            return Err(Verdict::Protocol(
                "a text of the Hello has control characters".to_owned(),
            ));
        }
        let broker = self.shared.broker.clone();
        let tenure = broker
            .fence
            .take_over(hello.producer, hello.epoch, &self.identity.id)
            .await;
        self.tenure = Some(tenure.map_err(Verdict::Refused)?);
        self.greeting.producer = hello.producer;
        self.greeting.version.clone_from(&hello.agent_version);
        self.greeting.host = Host {
            name: hello.host.clone(),
            machine_id: hello.machine_id.clone(),
            boot_id: hello.boot_id.clone(),
        };
        let presence = broker
            .agents
            .connect(self.identity.id.as_str(), self.greeting.clone());
        tracing::info!(
            agent = self.identity.id.as_str(),
            host = hello.host,
            address = %self.greeting.address,
            transport = self.greeting.transport.as_str(),
            producer = %hello.producer,
            replaces = hello.replaces.map(|it| it.to_string()),
            "agent connected"
        );
        let guest = Guest {
            producer: hello.producer,
            epoch: hello.epoch,
            presence,
            _counted: broker.budget.agent(),
        };
        if self.shared.guest.set(guest).is_err() {
            return Err(Verdict::Protocol("a second Hello".to_owned()));
        }
        let mut partitions = Vec::new();
        for (slot, partition) in (0..).map(Slot).zip(&hello.partitions) {
            partitions.push(self.open(slot, partition).await);
        }
        let hints = self.hints();
        self.linger = hints.linger;
        self.partitions_of_new = hints.partitions_of_new;
        self.say(|session| session.accept(partitions, hints))
    }

    /// Looks up what a partition holds of the producer.
    async fn open(&mut self, slot: Slot, id: &TopicPartition) -> Opened {
        match self.try_open(slot, id).await {
            Ok(opened) => opened,
            Err(refusal) => Opened::Refused(refusal),
        }
    }

    async fn try_open(&mut self, slot: Slot, id: &TopicPartition) -> Result<Opened, Refusal> {
        if !self.identity.topics.allows(&id.topic) {
            return Err(refusal(
                RefusalCode::TopicForbidden,
                format!(
                    "this agent may not write topic {}: join again with a token made by `weir token \
                     create --topics {}`",
                    id.topic, id.topic
                ),
            ));
        }
        let look_up = |error: commitlog::error::Error| match error.kind {
            ErrorKind::Input => refusal(RefusalCode::NoPartition, error.message),
            _ => refusal(RefusalCode::Closed, error.message),
        };
        let broker = &self.shared.broker;
        let partition = broker.topics.partition(id).await.map_err(look_up)?;
        let producer = self.greeting.producer;
        let standing = partition.producer(producer).await.map_err(look_up)?;
        let state = standing.state.as_ref();
        let progress = state.map(|it| Progress {
            next: it.next_sequence,
            durable: it.durable_sequence,
            last: it.last.map(|last| (last.base_sequence, last.crc)),
        });
        let undurable = progress.filter(|it| it.next != it.durable);
        let before = undurable.map(|it| (partition.info().appended, it.next));
        let counted = broker.budget.stream();
        let intake = Intake::new(slot, partition, standing.generation, before, counted);
        let intake = Arc::new(intake);
        self.shared.intakes().insert(slot, Arc::clone(&intake));
        let shared = Arc::clone(&self.shared);
        self.watching
            .spawn(async move { intake.watch(&shared).await });
        let credit = if broker.topics.disk().is_zero() {
            0
        } else {
            broker.budget.window()
        };
        Ok(Opened::Accepted { progress, credit })
    }

    fn hints(&self) -> Hints {
        let broker = &self.shared.broker;
        let topics = broker.topics.list().into_iter();
        let allowed = topics.filter(|it| self.identity.topics.allows(&it.name));
        let mut counts = allowed.map(|it| {
            let count = u32::try_from(it.partitions.len()).unwrap_or(u32::MAX);
            (it.name, count)
        });
        let partitions = counts.by_ref().take(WIRE_LIST_MAX).collect();
        // A topic that found no place in the list is not new, and may have fewer.
        let partitions_of_new = match counts.next() {
            None => broker.topics.partitions_of_new(),
            Some(_) => 0,
        };
        Hints {
            linger: broker.budget.linger(),
            partitions,
            partitions_of_new,
        }
    }

    /// What the agent's spool shares with the log tells who of two clones sent what.
    fn compare(&mut self, slot: Slot, claims: Vec<(Sequence, u32)>) {
        let intake = self.shared.intakes().get(&slot).cloned();
        let guest = self.shared.guest.get().map(|it| (it.producer, it.epoch));
        let (Some(intake), Some(producer)) = (intake, guest) else {
            return;
        };
        self.shared.conflict(&intake.id);
        let shared = Arc::clone(&self.shared);
        self.watching
            .spawn(async move { intake.compare(producer, claims, &shared).await });
    }

    fn report(&self, status: Status) {
        let Some(guest) = self.shared.guest.get() else {
            return;
        };
        let losses = status.losses.into_iter();
        guest.presence.report(Report {
            lag_bytes: status.lag_bytes,
            lag_records: status.lag_records,
            unread_bytes: status.unread_bytes,
            losses: losses.map(|it| (it.reason, it.count)).collect(),
        });
    }

    async fn renew(&mut self, request: &[u8]) -> Result<(), Verdict> {
        let too_soon = |last: Instant| last.elapsed() < RENEWAL_INTERVAL_MIN;
        if self.renewal.is_some_and(too_soon) {
            tracing::debug!(agent = self.identity.id.as_str(), "asked to renew too soon");
            return Ok(());
        }
        self.renewal = Some(Instant::now());
        let authority = self.shared.broker.authority.clone();
        match authority.renew(&self.identity, request).await {
            Ok(renewed) => {
                let chain: Vec<_> = renewed
                    .certificates
                    .iter()
                    .map(|it| it[..].into())
                    .collect();
                // Whoever was given a newer certificate need not connect anew to use it.
                if let Ok(identity) = authority.peer(&chain) {
                    self.identity.expires = identity.expires;
                }
                self.say(|session| {
                    session.renewed(Renewed {
                        certificates: renewed.certificates,
                        authorities: renewed.authorities,
                    })
                })
            }
            Err(refused) => {
                // The present certificate still holds; the agent asks again.
                tracing::warn!(agent = self.identity.id.as_str(), "not renewed: {refused}");
                Ok(())
            }
        }
    }
}

impl ControlReader {
    /// The next bytes. Can be cancelled.
    async fn read(&mut self) -> Result<Vec<u8>, Verdict> {
        match self {
            ControlReader::Quic(stream) => {
                let chunk = stream.read_chunk(usize::MAX, true).await;
                let chunk = chunk.map_err(|error| Verdict::Lost(error.to_string()))?;
                let chunk = chunk.ok_or_else(|| Verdict::Lost("closed".to_owned()))?;
                Ok(chunk.bytes.to_vec())
            }
            ControlReader::Tcp(chunks) => match chunks.recv().await {
                Some(bytes) => Ok(bytes),
                // The reader has ended; its verdict says why.
                None => std::future::pending().await,
            },
        }
    }
}

fn reading_ended(ended: Result<Result<(), Verdict>, tokio::task::JoinError>) -> Verdict {
    match ended {
        Ok(Ok(())) => Verdict::Lost("closed".to_owned()),
        Ok(Err(verdict)) => verdict,
        Err(panicked) => Verdict::failed(&panicked),
    }
}

async fn stopped(tenure: Option<CancellationToken>) {
    match tenure {
        Some(stop) => stop.cancelled().await,
        None => std::future::pending().await,
    }
}
