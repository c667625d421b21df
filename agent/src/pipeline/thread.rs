//! The data thread: turns of the pipeline, and between them a sleep that an inotify event, a waker or
//! the next deadline ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use crate::ambient::{Clock, Now};
use crate::limits::{APPENDER_SYNC_PAUSE, APPENDER_SYNC_TIME_MAX};
use crate::sources::Next;

/// Ends the data thread's sleep. Clones wake the same thread.
#[derive(Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

struct Shared {
    write_end: OwnedFd,
    read_end: OwnedFd,
    stop: AtomicBool,
    pending: AtomicBool,
}

impl Waker {
    /// A waker for a thread that is not started yet.
    pub fn new() -> io::Result<Waker> {
        let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Waker {
            shared: Arc::new(Shared {
                write_end,
                read_end,
                stop: AtomicBool::new(false),
                pending: AtomicBool::new(false),
            }),
        })
    }

    /// Has the thread make a turn now.
    pub fn wake(&self) {
        if self.shared.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        // A full pipe is as good as a byte: the thread wakes.
        if let Err(error) = write(&self.shared.write_end, &[1]) {
            tracing::trace!(%error, "waker's pipe is full");
        }
    }

    /// Has the thread put what it holds into the spool, and end.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    fn drain(&self) {
        if !self.shared.pending.load(Ordering::Acquire) {
            return;
        }
        let mut bytes = [0; 16];
        while matches!(read(&self.shared.read_end, &mut bytes), Ok(16)) {}
        self.shared.pending.store(false, Ordering::Release);
    }
}

/// Starts the thread. It gives the pipeline back when it ends; `failed` is cancelled when it panics.
pub fn spawn(
    pipeline: Pipeline,
    waker: Waker,
    clock: Clock,
    failed: CancellationToken,
) -> io::Result<JoinHandle<Pipeline>> {
    let wake = waker.clone();
    pipeline.spool().on_change(Arc::new(move || wake.wake()));
    std::thread::Builder::new()
        .name("data".to_owned())
        .spawn(move || {
            let guard = failed.drop_guard();
            let pipeline = run(pipeline, &waker, &clock);
            guard.disarm();
            pipeline
        })
}

fn run(mut pipeline: Pipeline, waker: &Waker, clock: &Clock) -> Pipeline {
    let started = Instant::now();
    let now = || Now {
        monotonic: started.elapsed(),
        wall: clock(),
    };
    let mut own_sync = OwnSync::default();
    while !waker.is_stopped() {
        own_sync.begin(&pipeline, started.elapsed());
        let next = pipeline.turn(now());
        own_sync.end(&pipeline, started);
        match next {
            Next::Now => {}
            Next::At(at) => {
                let pause = at.saturating_sub(started.elapsed());
                if !pause.is_zero() {
                    sleep(&pipeline, waker, pause);
                }
            }
        }
    }
    pipeline.spool().set_appender_syncs(false);
    // What does not fit now is read again from its files at the next start.
    if !pipeline.flush(now()) {
        tracing::warn!(
            "the spool has no room for the last lines; they are read again at the next start"
        );
    }
    pipeline
}

/// The data thread's own fsyncs. While batches are small and follow each other at a pace, it has nothing else
/// to do meanwhile, and waking the sync thread costs a fifth of what such a batch costs the two. A disk that
/// lets it wait once is left to the sync thread for a while.
#[derive(Default)]
struct OwnSync {
    not_before: Duration,
}

impl OwnSync {
    /// A turn begins.
    fn begin(&self, pipeline: &Pipeline, now: Duration) {
        let syncs = pipeline.is_paced() && now >= self.not_before;
        pipeline.spool().set_appender_syncs(syncs);
    }

    /// It is over: what it appended is made durable.
    fn end(&mut self, pipeline: &Pipeline, started: Instant) {
        let began = started.elapsed();
        if pipeline.spool().sync_appended() {
            let over = started.elapsed();
            if over > began + APPENDER_SYNC_TIME_MAX {
                self.not_before = over + APPENDER_SYNC_PAUSE;
            }
        }
    }
}

fn sleep(pipeline: &Pipeline, waker: &Waker, pause: Duration) {
    let deaf_for = pipeline.deaf_for();
    let pause = deaf_for.map_or(pause, |longest| pause.min(longest));
    let mut fds: Vec<PollFd<'_>> = pipeline
        .events()
        .filter(|_| deaf_for.is_none())
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    fds.push(PollFd::from_borrowed_fd(
        waker.shared.read_end.as_fd(),
        PollFlags::IN,
    ));
    let timeout = Timespec {
        tv_sec: i64::try_from(pause.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: pause.subsec_nanos().into(),
    };
    // An interruption is a wake-up like another.
    if let Err(error) = poll(&mut fds, Some(&timeout)) {
        tracing::trace!(%error, "poll was interrupted");
    }
    waker.drain();
}
