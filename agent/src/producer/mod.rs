//! Ships the spool to an aggregator, for ever.
//!
//! ```text
//! run (here)      which aggregator, when, and what to do when a session ends
//!   home          the order of aggregators        backoff   how long to wait
//!   connect       QUIC, or TCP where UDP is blocked
//!   session       one session: control stream, acknowledgements, conflicts
//!     send        one slot: spool → stream        stream, mux   QUIC or TCP streams
//!   socket        UDP, heard when there is time   timer     QUIC's timers
//! ```
//!
//! Invariants:
//! - Only fsynced batches are sent, in spool order, and the spool is freed only by an aggregator's
//!   durable acknowledgement.
//! - Network trouble and refusals never end it; each is said once, with what to do.
//! - Nothing is queued here: what is not yet sent is in the spool, what is in flight is bounded by the
//!   aggregator's credit and QUIC's window.

mod backoff;
pub mod blocking;
pub mod connect;
mod home;
mod mux;
mod refusals;
mod send;
mod session;
pub mod socket;
pub mod stats;
mod stream;
mod timer;
pub mod transport;

use std::sync::Arc;
use std::time::Duration;

use commitlog::wire::message::{Refusal, RefusalCode, Renewed as RenewedCertificate};
use commitlog::wire::producer::Ending;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::ambient::Random;
use crate::limits::{PRODUCER_IN_USE_MAX, REDIRECTS_MAX, REPROBE_AFTER};
use crate::spool::Spool;
use backoff::Backoff;
use blocking::Blocking;
use connect::{Choice, Dialer, Link};
use refusals::Refusals;
use session::{End, Outcome};
use stats::{Connected, Stats};
use transport::Transport;

/// Who this agent is to aggregators, and which of them it trusts.
pub trait Identity: Send + Sync {
    /// TLS 1.3 with our certificate, their authority, and the session's ALPN. May change between calls.
    fn tls(&self) -> Arc<rustls::ClientConfig>;
    /// The name that the certificate of the aggregator at `host` must have.
    fn server_name(&self, host: &str) -> String;
    /// A certificate request, when the certificate has grown old.
    fn renewal(&self) -> Option<Vec<u8>>;
    /// Takes the answer to it. The error says what is wrong with it.
    fn renewed(&self, renewed: &RenewedCertificate) -> Result<(), String>;
    /// Looks whether another identity lies where this one came from, and takes it. May wait for the disk.
    /// One that never changes needs none.
    fn reload(&self) -> Result<Reloaded, String> {
        Ok(Reloaded::Same)
    }
}

/// Whether there was another identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// It is in use from the next connection on.
    Another,
    /// The present one stays.
    Same,
}

/// What is told about this host, for people and to tell clones apart.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The host's name.
    pub name: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// How to ship.
#[derive(Debug, Clone)]
pub struct ShipConfig {
    /// `host:port` of the aggregators; at least one.
    pub aggregators: Vec<String>,
    /// How long TCP is used where QUIC did not work, and how often a better connection is looked for.
    pub reprobe_after: Duration,
}

impl ShipConfig {
    /// With the usual times.
    pub fn new(aggregators: Vec<String>) -> ShipConfig {
        ShipConfig {
            aggregators,
            reprobe_after: REPROBE_AFTER,
        }
    }
}

/// All that shipping needs; clones share everything.
#[derive(Clone)]
pub struct Producer {
    /// What is shipped.
    pub spool: Spool,
    /// Where to.
    pub config: ShipConfig,
    /// Who we are.
    pub identity: Arc<dyn Identity>,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Chance, for waits.
    pub random: Random,
    /// Where reads of the spool run that may wait for the disk.
    pub blocking: Blocking,
    /// What is told about this host.
    pub host: Host,
    /// What is counted.
    pub stats: Arc<Stats>,
    refusals: Refusals,
}

impl Producer {
    /// A producer of `spool`, over the system's network.
    pub fn new(
        spool: Spool,
        config: ShipConfig,
        identity: Arc<dyn Identity>,
        random: Random,
    ) -> Producer {
        Producer {
            spool,
            config,
            identity,
            transport: Arc::new(transport::SystemTransport),
            random,
            blocking: Blocking::Threads,
            host: Host::default(),
            stats: Arc::default(),
            refusals: Refusals::default(),
        }
    }

    /// Takes another identity if a join has left one. Refusals ask for it, so a join beside a running
    /// agent needs no restart.
    async fn reload_identity(&self) -> Reloaded {
        let identity = Arc::clone(&self.identity);
        match self.blocking.run(move || identity.reload()).await {
            Ok(Reloaded::Another) => {
                tracing::info!("another identity was found, going on with it");
                Reloaded::Another
            }
            Ok(Reloaded::Same) => Reloaded::Same,
            Err(error) => {
                self.refusals.report_failure("identity", &error);
                Reloaded::Same
            }
        }
    }

    /// Ships until `shutdown`, then sends what is spooled within a grace and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        Course::new(self).run(&shutdown).await;
    }
}

/// Which aggregator is next.
struct Course {
    producer: Producer,
    dialer: Dialer,
    backoff: Backoff,
    /// The place in the order of aggregators.
    turn: usize,
    /// Addresses that a redirect named, tried first.
    redirected: Vec<String>,
    redirects: u32,
    /// A better connection than the one that was left for it.
    waiting_link: Option<(String, Link)>,
    /// Since when another agent uses this one's producer id.
    in_use_since: Option<Instant>,
    /// This identity was refused: a join may leave another before the next attempt.
    identity_refused: bool,
}

impl Course {
    fn new(producer: Producer) -> Course {
        let mut dialer = Dialer::new(
            Arc::clone(&producer.transport),
            Arc::clone(&producer.identity),
            producer.config.reprobe_after,
        );
        dialer.blocking = producer.blocking;
        Course {
            backoff: Backoff::new(Arc::clone(&producer.random)),
            dialer,
            turn: 0,
            redirected: Vec::new(),
            redirects: 0,
            waiting_link: None,
            in_use_since: None,
            identity_refused: false,
            producer,
        }
    }

    async fn run(mut self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let (address, link) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                next = self.connect() => next,
            };
            let Some(link) = link else {
                let wait = self.next_turn();
                tokio::select! {
                    biased;
                    () = sleep(wait) => continue,
                    () = shutdown.cancelled() => return,
                }
            };
            tracing::info!(address, transport = link.name(), "connected");
            let over = match link {
                Link::Quic(..) => Connected::Quic,
                Link::Tcp(_) => Connected::Tcp,
            };
            let outcome = {
                let better = better_link(&self.producer, self.dialer.clone(), &address, over);
                self.producer.stats.set_connected(over);
                session::run(&self.producer, link, shutdown, better).await
            };
            self.producer.stats.set_connected(Connected::No);
            let wait = self.ended(&address, over, outcome).await;
            tokio::select! {
                biased;
                () = sleep(wait) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// The next address and, unless it cannot be reached, a connection to it.
    async fn connect(&mut self) -> (String, Option<Link>) {
        if let Some((address, link)) = self.waiting_link.take() {
            return (address, Some(link));
        }
        let address = self.address();
        if std::mem::take(&mut self.identity_refused)
            && self.producer.reload_identity().await == Reloaded::Another
        {
            self.producer.refusals.forget(&address);
        }
        let link = match self.dialer.connect(&address, Choice::Race).await {
            Ok(link) => Some(link),
            Err(error) => {
                let refusals = &self.producer.refusals;
                refusals.report_failure(&address, &error.to_string());
                None
            }
        };
        (address, link)
    }

    fn address(&self) -> String {
        if let Some(address) = self.redirected.last() {
            return address.clone();
        }
        let order = order(&self.producer);
        order[self.turn % order.len()].clone()
    }

    /// After a failure: the next address at once, unless all had their turn.
    fn next_turn(&mut self) -> Duration {
        if self.redirected.pop().is_some() {
            return Duration::ZERO;
        }
        self.turn += 1;
        if self.turn < order(&self.producer).len() {
            return Duration::ZERO;
        }
        self.turn = 0;
        self.backoff.next()
    }

    /// Decides what follows a session, and how long to wait before it.
    async fn ended(&mut self, address: &str, over: Connected, outcome: Outcome) -> Duration {
        if outcome.was_live {
            self.producer.refusals.forget(address);
            self.redirects = 0;
            self.in_use_since = None;
        }
        if outcome.made_progress {
            self.backoff.reset();
        }
        match outcome.end {
            End::Shutdown | End::NewIdentity => Duration::ZERO,
            End::Superseded(link) => {
                let home = order(&self.producer).swap_remove(0);
                self.waiting_link = Some((home, link));
                self.turn = 0;
                Duration::ZERO
            }
            End::NewProducer(reason) => match self.renew_producer_id(reason).await {
                Renewed::Yes => Duration::ZERO,
                Renewed::No => self.backoff.next(),
            },
            End::Lost(error) => {
                tracing::warn!(address, "connection lost: {error}");
                if over == Connected::Quic && !outcome.made_progress && outcome.was_live {
                    // The handshake passed and data did not: a path that drops large or many datagrams.
                    self.dialer.avoid_quic(address);
                }
                if outcome.made_progress {
                    // A blip: elsewhere, what is under way would be appended a second time.
                    return Duration::ZERO;
                }
                self.next_turn()
            }
            End::By(ending) => self.ended_by(address, ending).await,
        }
    }

    async fn renew_producer_id(&self, reason: String) -> Renewed {
        let spool = self.producer.spool.clone();
        let renew = move || spool.renew_producer_id(&reason);
        match self.producer.blocking.run(renew).await {
            Ok(_) => Renewed::Yes,
            Err(error) => {
                tracing::error!(%error, "no new producer id; trying again");
                Renewed::No
            }
        }
    }

    async fn ended_by(&mut self, address: &str, ending: Ending) -> Duration {
        match ending {
            Ending::Goodbye(reason) => {
                tracing::info!(address, reason, "the aggregator left");
                self.next_turn()
            }
            Ending::Redirect { addresses, reason } => {
                tracing::info!(address, reason, ?addresses, "redirected");
                self.redirects += 1;
                if self.redirects > REDIRECTS_MAX {
                    self.redirects = 0;
                    return self.next_turn().max(self.backoff.next());
                }
                self.redirected = addresses;
                self.redirected.reverse();
                Duration::ZERO
            }
            Ending::Refused(refusal) => self.refused(address, &refusal, Instant::now()).await,
        }
    }

    async fn refused(&mut self, address: &str, refusal: &Refusal, now: Instant) -> Duration {
        self.producer.refusals.report(address, refusal);
        if is_about_identity(refusal.code) {
            if self.producer.reload_identity().await == Reloaded::Another {
                // Whatever is said of the next one is news.
                self.producer.refusals.forget(address);
                return self.backoff.next();
            }
            self.identity_refused = true;
        }
        if refusal.code == RefusalCode::ProducerInUse {
            let since = *self.in_use_since.get_or_insert(now);
            if now.duration_since(since) >= PRODUCER_IN_USE_MAX {
                self.in_use_since = None;
                self.renew_producer_id(refusal.message.clone()).await;
            }
        }
        let wait = self.next_turn();
        if wait.is_zero() {
            return wait;
        }
        // At least what was asked for, and not all agents at once.
        let after = refusal.retry_after.min(self.producer.config.reprobe_after);
        wait + after + self.backoff.part_of(after / 4)
    }
}

/// Whether another identity could be welcome where this one was refused.
fn is_about_identity(code: RefusalCode) -> bool {
    use RefusalCode::{BadCertificate, NoCertificate, Revoked, TopicForbidden};
    matches!(
        code,
        NoCertificate | BadCertificate | Revoked | TopicForbidden
    )
}

/// Whether there is a new producer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewed {
    Yes,
    No,
}

fn order(producer: &Producer) -> Vec<String> {
    home::order(&producer.spool.salt(), &producer.config.aggregators)
}

/// Looks for a better connection now and then, while the present one is by TCP or not to our home.
async fn better_link(
    producer: &Producer,
    mut dialer: Dialer,
    address: &str,
    over: Connected,
) -> Link {
    let home = order(producer).swap_remove(0);
    if over == Connected::Quic && home == address {
        return std::future::pending().await;
    }
    loop {
        sleep(producer.config.reprobe_after).await;
        if let Ok(link) = dialer.connect(&home, Choice::QuicOnly).await {
            return link;
        }
    }
}

#[cfg(test)]
mod tests;
