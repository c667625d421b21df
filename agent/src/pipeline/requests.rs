//! Questions to the data thread, and changes of its sources. It owns them, so whoever wants something
//! sends a message, which its next turn answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::files::{SourceFiles, Totals};
use crate::limits::{REQUEST_MAX, REQUESTS_MAX};
use crate::sources::{FilesShare, Source};

/// Asks the data thread. Clones ask the same one.
#[derive(Clone)]
pub struct Requests {
    sender: mpsc::Sender<Request>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// Where the data thread finds what it is asked.
pub struct Inbox {
    receiver: mpsc::Receiver<Request>,
}

/// What is asked.
pub(super) enum Request {
    /// What every source knows of its files.
    Files(oneshot::Sender<Vec<SourceFiles>>),
    /// How much every source has before it.
    Totals(oneshot::Sender<Vec<(String, Totals)>>),
    /// Sources that take the place of those with their names, or are new.
    Replace(Replacement),
}

/// A change of sources under way.
pub(super) struct Replacement {
    pub(super) sources: Vec<Box<dyn Source>>,
    /// What each source may hold open from then on.
    pub(super) share: FilesShare,
    pub(super) done: oneshot::Sender<()>,
}

impl Requests {
    /// A pair; `wake` has the data thread make a turn.
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> (Requests, Inbox) {
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        (Requests { sender, wake }, Inbox { receiver })
    }

    /// What every source knows of its files; `None` when the data thread does not answer in time.
    pub async fn files(&self) -> Option<Vec<SourceFiles>> {
        self.ask(Request::Files, REQUEST_MAX).await
    }

    /// How much every source has before it, by the sources' names.
    pub async fn totals(&self) -> Option<Vec<(String, Totals)>> {
        self.ask(Request::Totals, REQUEST_MAX).await
    }

    /// Puts `sources` in the place of those with their names. Done when everything that the old ones had
    /// taken is in the spool, which takes as long as the spool is full. All sources have `share` then.
    pub async fn replace(&self, sources: Vec<Box<dyn Source>>, share: FilesShare) -> Option<()> {
        let request = |done| {
            Request::Replace(Replacement {
                sources,
                share,
                done,
            })
        };
        self.ask(request, Duration::MAX).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
        within: Duration,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.sender.send(request(sender)).await.ok()?;
            (self.wake)();
            answer.await.ok()
        };
        tokio::time::timeout(within, asked).await.ok()?
    }
}

impl Inbox {
    pub(super) fn next(&mut self) -> Option<Request> {
        self.receiver.try_recv().ok()
    }
}
