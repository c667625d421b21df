//! Who is not let in, over each transport: told why in a sentence and what to do, and nothing of theirs
//! in a log.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use agent::producer::connect::{Choice, Dialer, Link};
use agent::producer::transport::SystemTransport;
use aggregator::identity::Authority;
use aggregator::meta::Meta;
use aggregator::parts::Parts;
use commitlog::id::Timestamp;
use commitlog::storage::disk::Disk;
use commitlog::wire::chunk::{ChunkDecoder, chunk_header};
use commitlog::wire::control::Liveness;
use commitlog::wire::message::{Refusal, RefusalCode};
use commitlog::wire::producer::{Ending, ProducerEvent, ProducerSession};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::any_port;
use crate::hostile::hello;
use crate::rig::{Aggregator, TestIdentity, trusting, until};

const DAY_MS: i64 = 86_400_000;

#[derive(Debug, Clone, Copy)]
enum By {
    Quic,
    Tcp,
}

/// Connects as this identity, says Hello, and gives the refusal that comes back.
async fn refusal(aggregator: &Aggregator, identity: &Arc<TestIdentity>, by: By) -> Refusal {
    let address = aggregator.address.to_string();
    let identity = Arc::<TestIdentity>::clone(identity);
    let hour = Duration::from_hours(1);
    let mut dialer = Dialer::new(Arc::new(SystemTransport), identity, hour);
    let choice = match by {
        By::Quic => Choice::QuicOnly,
        By::Tcp => {
            dialer.avoid_quic(&address);
            Choice::Race
        }
    };
    let link = dialer.connect(&address, choice).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), told_over(link));
    told.await.expect("an answer")
}

async fn told_over(link: Link) -> Refusal {
    let mut session = ProducerSession::new(hello(), Liveness::Transport, Duration::ZERO).unwrap();
    let hello = session.output(Duration::ZERO);
    match link {
        Link::Quic(connection, _) => {
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            send.write_all(&hello).await.unwrap();
            loop {
                let chunk = receive.read_chunk(usize::MAX, true).await.unwrap();
                let chunk = chunk.expect("a refusal before the end");
                session.received(&chunk.bytes, Duration::ZERO).unwrap();
                if let Some(refusal) = refused(&mut session) {
                    return refusal;
                }
            }
        }
        Link::Tcp(mut stream) => {
            let mut out = chunk_header(0, hello.len());
            out.extend(hello);
            stream.write_all(&out).await.unwrap();
            stream.flush().await.unwrap();
            let mut chunks = ChunkDecoder::new();
            let mut buffer = vec![0; 4096];
            loop {
                let count = stream.read(&mut buffer).await.unwrap();
                assert!(count > 0, "the connection ended before a refusal");
                let mut input = &buffer[..count];
                while let Some(chunk) = chunks.next(&mut input).unwrap() {
                    session.received(chunk.bytes, Duration::ZERO).unwrap();
                }
                if let Some(refusal) = refused(&mut session) {
                    return refusal;
                }
            }
        }
    }
}

fn refused(session: &mut ProducerSession) -> Option<Refusal> {
    match session.event()? {
        ProducerEvent::Ended(Ending::Refused(refusal)) => Some(refusal),
        other => panic!("{other:?} where a refusal was to come"),
    }
}

/// Both transports tell the same.
async fn check(
    aggregator: &Aggregator,
    identity: &Arc<TestIdentity>,
    code: RefusalCode,
    words: [&str; 2],
) {
    for by in [By::Quic, By::Tcp] {
        let refusal = refusal(aggregator, identity, by).await;
        assert_eq!(refusal.code, code, "{by:?}: {}", refusal.message);
        for words in words {
            let message = &refusal.message;
            assert!(message.contains(words), "{by:?}: {words:?}: {message}");
        }
    }
    assert!(aggregator.topics.list().is_empty());
    assert!(aggregator.agents.list().is_empty());
}

/// Somebody who trusts the aggregator and shows nothing.
fn nobody(whom: &TestIdentity) -> Arc<TestIdentity> {
    let authorities = whom.authorities.clone();
    let mut tls = trusting(&authorities).with_no_client_auth();
    tls.alpn_protocols = vec![commitlog::wire::ALPN.to_vec()];
    Arc::new(TestIdentity {
        tls: Arc::new(tls),
        authorities,
    })
}

/// An aggregator whose clock is `ahead` of the system's.
async fn with_clock(dir: &std::path::Path, ahead: &Arc<AtomicI64>) -> Aggregator {
    let (real, ahead) = (Parts::real(), Arc::clone(ahead));
    let system = Arc::clone(&real.clock);
    let parts = Parts {
        clock: Arc::new(move || Timestamp(system().0 + ahead.load(Ordering::SeqCst))),
        ..real
    };
    let meta = Meta::open(Arc::new(Disk), &dir.join("meta.redb")).unwrap();
    let authority = Authority::open(dir, Arc::new(meta), &parts).unwrap();
    Aggregator::start_with(dir, any_port(), authority).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_no_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let nobody = nobody(&*aggregator.enrol("a").await);
    let words = ["showed no certificate", "weir token create"];
    check(&aggregator, &nobody, RefusalCode::NoCertificate, words).await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authoritys_certificate_is_refused() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let aggregator = Aggregator::start(dirs[0].path(), any_port()).await;
    let other = Aggregator::start(dirs[1].path(), any_port()).await;
    let authorities = aggregator.enrol("a").await.authorities.clone();
    let stranger = other.enrol_trusting("a", &authorities).await;
    let words = ["made by another authority", "weir token create"];
    check(&aggregator, &stranger, RefusalCode::BadCertificate, words).await;
    aggregator.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ahead = Arc::new(AtomicI64::new(-31 * DAY_MS));
    let aggregator = with_clock(dir.path(), &ahead).await;
    let late = aggregator.enrol("late").await;
    ahead.store(0, Ordering::SeqCst);
    let words = ["has expired", "it keeps its name"];
    check(&aggregator, &late, RefusalCode::BadCertificate, words).await;
    aggregator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let aggregator = Aggregator::start(dir.path(), any_port()).await;
    let revoked = aggregator.enrol("gone").await;
    aggregator
        .authority
        .revoke_agent(&"gone".parse().unwrap())
        .unwrap();
    let words = ["the agent gone was revoked", "join again"];
    check(&aggregator, &revoked, RefusalCode::Revoked, words).await;
    aggregator.stop().await;
}

/// A session does not outlive the certificate that it began with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ahead = Arc::new(AtomicI64::new(0));
    let aggregator = with_clock(dir.path(), &ahead).await;
    let identity = aggregator.enrol("a").await;
    let mut peer = crate::hostile::Peer::connect(aggregator.address, identity.tls.clone()).await;
    peer.open().await;
    ahead.store(31 * DAY_MS, Ordering::SeqCst);
    let (code, message) = peer.refusal().await;
    assert_eq!(code, RefusalCode::BadCertificate);
    assert!(message.contains("has expired"), "{message}");
    until("it is gone", async || {
        aggregator.agents.list().iter().all(|it| !it.connected)
    })
    .await;
    aggregator.stop().await;
}
