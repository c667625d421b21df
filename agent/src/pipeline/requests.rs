//! Questions to the data thread. It owns the sources, so whoever wants to know something sends a message,
//! which its next turn answers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::files::{SourceFiles, Totals};
use crate::limits::{REQUEST_MAX, REQUESTS_MAX};

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
}

impl Requests {
    /// A pair; `wake` has the data thread make a turn.
    pub fn new(wake: Arc<dyn Fn() + Send + Sync>) -> (Requests, Inbox) {
        let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
        (Requests { sender, wake }, Inbox { receiver })
    }

    /// What every source knows of its files; `None` when the data thread does not answer in time.
    pub async fn files(&self) -> Option<Vec<SourceFiles>> {
        self.ask(Request::Files).await
    }

    /// How much every source has before it, by the sources' names.
    pub async fn totals(&self) -> Option<Vec<(String, Totals)>> {
        self.ask(Request::Totals).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let asked = async {
            self.sender.send(request(sender)).await.ok()?;
            (self.wake)();
            answer.await.ok()
        };
        tokio::time::timeout(REQUEST_MAX, asked).await.ok()?
    }
}

impl Inbox {
    pub(super) fn next(&mut self) -> Option<Request> {
        self.receiver.try_recv().ok()
    }
}
