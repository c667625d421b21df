//! Tokio as QUIC's runtime, but for its timers: they wake the thread for nothing less often.
//!
//! Each packet sets a timer for the case that it is lost, and its acknowledgement, a moment later, sets the
//! timer to the end of the connection's patience. Tokio leaves the earlier moment in its wheel, and the
//! thread wakes for nothing some 14 ms after each batch: of an agent that has little to send, every third
//! wake-up. And what is further away than a turn of the wheel's first level wakes the thread when its turn
//! begins, only to be sorted in.

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::time::{Sleep, sleep_until};

use super::socket::Ear;

/// The runtime that the calling thread is in.
#[derive(Debug)]
pub(super) struct QuietRuntime {
    /// That of the socket, which is heard before a timer fires.
    pub(super) ear: Ear,
}

impl Runtime for QuietRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer {
            sleep: Box::pin(sleep_until(lenient(at))),
            ear: self.ear.clone(),
        })
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        TokioRuntime.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}

#[derive(Debug)]
struct Timer {
    sleep: Pin<Box<Sleep>>,
    ear: Ear,
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        // A new one: dropping the old one takes it out of the wheel.
        self.sleep.set(sleep_until(lenient(at)));
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        ready!(Future::poll(self.sleep.as_mut(), context));
        if self.ear.listen() {
            // What is awaited may have come: who receives it has his turn first.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// A moment that is further away than a turn of the wheel's first level, by one such turn later: the thread
/// is not woken before the moment itself.
fn lenient(at: Instant) -> tokio::time::Instant {
    let is_far = at.saturating_duration_since(TokioRuntime.now()) >= WHEEL_TURN;
    let slack = if is_far { WHEEL_TURN } else { Duration::ZERO };
    (at + slack).into()
}

/// The first level of tokio's wheel has 64 places of a millisecond.
const WHEEL_TURN: Duration = Duration::from_millis(64);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn after(milliseconds: u64) -> Instant {
        TokioRuntime.now() + Duration::from_millis(milliseconds)
    }

    fn runtime() -> QuietRuntime {
        let ear = Ear::default();
        QuietRuntime { ear }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_fires_at_the_moment_that_it_was_set_to_last() {
        let mut timer = runtime().new_timer(after(14));
        for last in [300, 20, 50] {
            timer.as_mut().reset(after(last));
            let polled = poll_fn(|context| Poll::Ready(timer.as_mut().poll(context))).await;
            assert!(polled.is_pending());
        }
        let last = after(50);
        poll_fn(|context| timer.as_mut().poll(context)).await;
        assert_eq!(TokioRuntime.now(), last);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_far_away_fires_little_later() {
        let (at, mut timer) = (after(1000), runtime().new_timer(after(1000)));
        poll_fn(|context| timer.as_mut().poll(context)).await;
        assert_eq!(TokioRuntime.now(), at + WHEEL_TURN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_rests_is_heard_before_a_timer_fires() {
        let runtime = runtime();
        let mut timer = runtime.new_timer(after(20));
        runtime.ear.hear();
        let mut polls = 0;
        poll_fn(|context| {
            polls += 1;
            timer.as_mut().poll(context)
        })
        .await;
        assert_eq!(polls, 3);
        assert!(!runtime.ear.listen());
    }
}
