//! Where a read of the spool that may wait for the disk runs.

/// How calls that may wait for the disk are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// On tokio's blocking threads: the async threads never wait for a disk.
    Threads,
    /// Right here. For the simulation, whose disk is memory.
    Inline,
}

impl Blocking {
    /// Runs `work` to its end and hands back what it returned.
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Blocking::Inline => work(),
            Blocking::Threads => match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Cancelled: the runtime is going away and nobody will poll this future again.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
