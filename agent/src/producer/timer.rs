//! Tokio as QUIC's runtime, but for timers that are taken back.
//!
//! Each packet sets a timer for the case that it is lost, and its acknowledgement, a moment later, sets the
//! timer to the end of the connection's patience. Tokio leaves the earlier moment in its wheel, and the
//! thread wakes for nothing some 14 ms after each batch: of an agent that has little to send, every third
//! wake-up.

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::time::{Sleep, sleep_until};

/// The runtime that the calling thread is in.
#[derive(Debug)]
pub(super) struct QuietRuntime;

impl Runtime for QuietRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer(Box::pin(sleep_until(at.into()))))
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
struct Timer(Pin<Box<Sleep>>);

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, at: Instant) {
        // A new one: dropping the old one takes it out of the wheel.
        self.0.set(sleep_until(at.into()));
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Future::poll(self.0.as_mut(), context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_fires_at_the_moment_that_it_was_set_to_last() {
        let start = QuietRuntime.now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut timer = QuietRuntime.new_timer(after(14));
        for last in [300, 20, 100] {
            timer.as_mut().reset(after(last));
            let polled = poll_fn(|context| Poll::Ready(timer.as_mut().poll(context))).await;
            assert!(polled.is_pending());
        }
        poll_fn(|context| timer.as_mut().poll(context)).await;
        assert_eq!(QuietRuntime.now(), after(100));
    }
}
