//! A UDP socket that is not always listened to.
//!
//! What an aggregator answers to a batch is seldom urgent: it frees what the spool holds, and grows a credit
//! that is far from used up. Heard at once it costs a wake-up and a packet to acknowledge it, for every
//! batch. So while little is sent the socket *rests*: it is taken out of the poller, and heard just before
//! the next batch is sent, whose packet carries the acknowledgement along.
//!
//! To QUIC a rest is a longer round trip, so it waits longer before it takes a packet for lost; before it
//! does, the socket is heard ([`Ear::listen`] in `timer`), so that nothing is sent twice for a rest. That
//! ends the rest too, unless the next batch comes first. Who sends much does not rest, and QUIC learns the
//! true round trip from what is acknowledged first.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{self, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::limits::SOCKET_REST_BYTES_MAX;

/// Says when a connection's socket is listened to. Clones are for the same socket.
#[derive(Clone, Default)]
pub struct Ear {
    hearing: Arc<Mutex<Hearing>>,
}

#[derive(Default)]
struct Hearing {
    /// It is not listened to.
    is_resting: bool,
    /// It was heard since the last tick.
    was_heard: bool,
    /// The socket in the poller, by a descriptor of its own.
    arrivals: Option<UdpSocket>,
    /// There may be something to receive.
    is_due: bool,
    /// Who receives it.
    receiver: Option<Waker>,
    /// What was sent since it was heard last.
    sent_bytes: usize,
}

impl Ear {
    /// Hears what has come, and rests unless much was sent.
    pub(super) fn hear(&self) {
        let mut hearing = self.hearing();
        hearing.was_heard = true;
        if std::mem::take(&mut hearing.sent_bytes) > SOCKET_REST_BYTES_MAX {
            return;
        }
        hearing.is_resting = true;
        hearing.arrivals = None;
        hearing.look();
    }

    /// Listens from now on. Whether it rested.
    pub(super) fn listen(&self) -> bool {
        let mut hearing = self.hearing();
        let was_resting = std::mem::take(&mut hearing.is_resting);
        if was_resting {
            hearing.look();
        }
        was_resting
    }

    /// So much goes out. Who sends much listens.
    pub(super) fn sends(&self, bytes: usize) {
        let mut hearing = self.hearing();
        hearing.sent_bytes = hearing.sent_bytes.saturating_add(bytes);
        if hearing.sent_bytes > SOCKET_REST_BYTES_MAX {
            drop(hearing);
            self.listen();
        }
    }

    /// Some time has passed. Who has not heard since the last tick listens.
    pub(super) fn tick(&self) {
        if !std::mem::take(&mut self.hearing().was_heard) {
            self.listen();
        }
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hearing {
    fn look(&mut self) {
        self.is_due = true;
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
    }

    /// Ready when there may be something to receive.
    fn poll_due(
        &mut self,
        socket: &net::UdpSocket,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_due {
            return Poll::Ready(Ok(()));
        }
        self.receiver = Some(context.waker().clone());
        if self.is_resting {
            return Poll::Pending;
        }
        let arrivals = match &mut self.arrivals {
            Some(arrivals) => arrivals,
            none => none.insert(UdpSocket::from_std(socket.try_clone()?)?),
        };
        arrivals.poll_recv_ready(context)
    }

    /// Receives; `WouldBlock` when there is nothing, which is remembered.
    fn receive<T>(&mut self, receive: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let received = match &self.arrivals {
            Some(arrivals) => arrivals.try_io(Interest::READABLE, receive),
            None => receive(),
        };
        if is_would_block(&received) {
            self.is_due = false;
        }
        received
    }
}

fn is_would_block<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear").finish_non_exhaustive()
    }
}

/// The socket, for QUIC.
pub(super) struct RestingSocket {
    socket: net::UdpSocket,
    state: UdpSocketState,
    ear: Ear,
    /// The kernel took no more.
    is_full: AtomicBool,
}

impl RestingSocket {
    pub(super) fn new(socket: net::UdpSocket, ear: Ear) -> io::Result<RestingSocket> {
        socket.set_nonblocking(true)?;
        Ok(RestingSocket {
            state: UdpSocketState::new((&socket).into())?,
            socket,
            ear,
            is_full: AtomicBool::new(false),
        })
    }
}

impl AsyncUdpSocket for RestingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room {
            socket: self,
            awaited: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send((&self.socket).into(), transmit);
        if is_would_block(&sent) {
            self.is_full.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut hearing = self.ear.hearing();
        loop {
            ready!(hearing.poll_due(&self.socket, context))?;
            let receive = || self.state.recv((&self.socket).into(), buffers, meta);
            let received = hearing.receive(receive);
            if !is_would_block(&received) {
                return Poll::Ready(received);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }
}

impl fmt::Debug for RestingSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestingSocket").finish_non_exhaustive()
    }
}

/// Waits for room in the kernel's buffer, once it was full: nobody wakes for room that nobody needs.
struct Room {
    socket: Arc<RestingSocket>,
    /// By a descriptor of its own: the poller takes each only once.
    awaited: Option<UdpSocket>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.socket.is_full.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let socket = Arc::clone(&self.socket);
        let awaited = match &mut self.awaited {
            Some(awaited) => awaited,
            none => none.insert(UdpSocket::from_std(socket.socket.try_clone()?)?),
        };
        ready!(awaited.poll_send_ready(context))?;
        self.awaited = None;
        self.socket.is_full.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use quinn::udp::BATCH_SIZE;
    use tokio::time::timeout;

    use super::*;

    struct Pair {
        ear: Ear,
        socket: Arc<RestingSocket>,
        peer: net::UdpSocket,
    }

    impl Pair {
        fn new() -> Pair {
            let here = net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let peer = net::UdpSocket::bind("127.0.0.1:0").unwrap();
            peer.connect(here.local_addr().unwrap()).unwrap();
            let ear = Ear::default();
            let socket = Arc::new(RestingSocket::new(here, ear.clone()).unwrap());
            Pair { ear, socket, peer }
        }

        /// What is received within a moment.
        async fn receives(&self) -> Option<Vec<u8>> {
            let mut bytes = vec![0; BATCH_SIZE * 2000];
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let received = poll_fn(|context| {
                let mut buffers = bytes.chunks_mut(2000).map(IoSliceMut::new);
                let mut buffers: [_; BATCH_SIZE] = std::array::from_fn(|_| buffers.next().unwrap());
                self.socket.poll_recv(context, &mut buffers, &mut meta)
            });
            let received = timeout(Duration::from_millis(20), received).await.ok()?;
            assert_eq!(received.unwrap(), 1);
            Some(bytes[..meta[0].len].to_vec())
        }
    }

    #[tokio::test]
    async fn what_comes_during_a_rest_is_heard_with_the_next_batch() {
        let pair = Pair::new();
        pair.peer.send(b"before").unwrap();
        assert_eq!(pair.receives().await.unwrap(), b"before");
        pair.ear.hear();
        assert_eq!(pair.receives().await, None);
        pair.peer.send(b"during").unwrap();
        assert_eq!(pair.receives().await, None);
        pair.ear.hear();
        assert_eq!(pair.receives().await.unwrap(), b"during");
        pair.peer.send(b"again").unwrap();
        // Until it is known that there is nothing more, it is looked for more.
        assert_eq!(pair.receives().await.unwrap(), b"again");
        assert_eq!(pair.receives().await, None);
        pair.peer.send(b"later").unwrap();
        assert_eq!(pair.receives().await, None);
        assert!(pair.ear.listen());
        assert_eq!(pair.receives().await.unwrap(), b"later");
    }

    #[tokio::test]
    async fn a_receiver_is_woken_by_the_end_of_a_rest_and_by_what_comes_after_it() {
        let pair = Pair::new();
        pair.ear.hear();
        assert_eq!(pair.receives().await, None);
        let (received, ()) = tokio::join!(pair.receives(), async {
            pair.peer.send(b"one").unwrap();
            pair.ear.listen();
        });
        assert_eq!(received.unwrap(), b"one");
        let (received, ()) = tokio::join!(pair.receives(), async {
            tokio::task::yield_now().await;
            pair.peer.send(b"two").unwrap();
        });
        assert_eq!(received.unwrap(), b"two");
    }

    #[tokio::test]
    async fn who_sends_much_listens() {
        let pair = Pair::new();
        pair.ear.hear();
        assert_eq!(pair.receives().await, None);
        pair.ear.sends(SOCKET_REST_BYTES_MAX);
        pair.peer.send(b"answer").unwrap();
        assert_eq!(pair.receives().await, None);
        pair.ear.sends(1);
        assert_eq!(pair.receives().await.unwrap(), b"answer");
        // And goes on listening for what answers the last of it.
        pair.ear.hear();
        pair.peer.send(b"answer").unwrap();
        assert_eq!(pair.receives().await.unwrap(), b"answer");
        pair.ear.hear();
        assert_eq!(pair.receives().await, None);
        pair.peer.send(b"answer").unwrap();
        assert_eq!(pair.receives().await, None);
    }

    #[tokio::test]
    async fn a_rest_during_which_nothing_is_sent_ends() {
        let pair = Pair::new();
        pair.ear.hear();
        assert_eq!(pair.receives().await, None);
        pair.peer.send(b"goodbye").unwrap();
        pair.ear.tick();
        assert_eq!(pair.receives().await, None);
        pair.ear.tick();
        assert_eq!(pair.receives().await.unwrap(), b"goodbye");
    }

    #[tokio::test]
    async fn room_in_the_kernel_is_waited_for_once_there_was_none() {
        let pair = Pair::new();
        let mut room = Arc::clone(&pair.socket).create_io_poller();
        pair.socket.is_full.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            let ready = poll_fn(|context| room.as_mut().poll_writable(context));
            timeout(Duration::from_secs(5), ready)
                .await
                .unwrap()
                .unwrap();
            assert!(!pair.socket.is_full.load(Ordering::Relaxed));
        }
    }
}
