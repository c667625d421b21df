use commitlog::wire::ALPN;
use commitlog::wire::chunk::chunk_header;
use commitlog::wire::control::Liveness;
use tokio::io::{AsyncWriteExt, split};
use tokio::time::timeout;

use super::*;
use crate::broker::tests::broker;
use crate::broker::transport::SystemTransport;
use crate::identity::tests::world::{Holder, World};

/// The session waits for its reader at its end, and takes no control messages any more.
#[tokio::test(start_paused = true)]
async fn a_reader_whose_control_is_not_taken_ends_when_the_session_does() {
    let world = World::new();
    let connection = world.connect(ALPN, &Holder::new()).await;
    let shared = Arc::new(Shared::new(
        broker(&world, Arc::new(SystemTransport)),
        Liveness::Session,
    ));
    let (chunks, control) = mpsc::channel(1);
    let (read, _write) = split(connection.server);
    let reading = tokio::spawn(TcpStreams::new(Arc::clone(&shared), chunks).run(read));
    let mut peer = connection.client;
    let mut sent = chunk_header(0, 1000);
    sent.extend([0; 1000]);
    // The clock stands still until nothing moves any more: the reader waits, and so does its peer.
    let sending = async {
        loop {
            peer.write_all(&sent).await.unwrap();
            peer.flush().await.unwrap();
        }
    };
    let still = timeout(Duration::from_secs(1), sending).await;
    assert!(still.is_err() && control.len() == 1);
    shared.stop.cancel();
    let ended = timeout(Duration::from_mins(10), reading).await;
    ended.expect("the reader waits for ever").unwrap().unwrap();
}
