//! Says each refusal once, where it is handled, and again only when it changes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use commitlog::wire::message::Refusal;

/// What was refused last, by what it was about.
#[derive(Clone, Default)]
pub(super) struct Refusals {
    said: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Refusals {
    /// Logs a refusal unless it was the last thing said about `what`.
    pub(super) fn report(&self, what: &str, refusal: &Refusal) {
        if self.is_news(what, &refusal.message) {
            tracing::error!(what, code = ?refusal.code, "refused: {}", refusal.message);
        }
    }

    /// Logs what does not work, unless it was the last thing said about `what`.
    pub(super) fn report_failure(&self, what: &str, error: &str) {
        if self.is_news(what, error) {
            tracing::warn!(what, "trying again: {error}");
        }
    }

    /// `what` works: whatever comes next about it is news.
    pub(super) fn forget(&self, what: &str) {
        self.said().remove(what);
    }

    fn is_news(&self, what: &str, message: &str) -> bool {
        let last = self.said().insert(what.to_owned(), message.to_owned());
        last.as_deref() != Some(message)
    }

    fn said(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
