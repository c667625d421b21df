//! The wish to stop: SIGINT (Ctrl-C) or SIGTERM.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens from its making on, so that no signal is lost in between.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Must be called inside a runtime.
    pub(crate) fn listen() -> io::Result<StopSignals> {
        Ok(StopSignals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for one after the first has been heard. One that follows at once means the same: some
    /// programs that start others send it to the process and to its group.
    pub(crate) async fn again(&mut self) {
        let heard = Instant::now();
        loop {
            self.next().await;
            if heard.elapsed() >= SAME_WISH {
                return;
            }
        }
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Signals closer than this are one wish.
const SAME_WISH: Duration = Duration::from_millis(500);
