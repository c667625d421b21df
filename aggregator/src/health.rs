//! Whether the aggregator works, as `/readyz` tells it: what must run runs, every partition takes
//! records, the disk has room.

use std::sync::{Arc, Mutex, PoisonError};

use crate::topics::Topics;

/// The parts that must run; a handle, cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<Vec<Part>>>,
}

struct Part {
    name: &'static str,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Running,
    Ended,
}

/// Marks a part as running until it is dropped: however its task ends, readiness shows it.
pub struct Alive {
    health: Health,
    index: usize,
}

impl Health {
    /// A part that must run before the aggregator is ready.
    pub fn expect(&self, name: &'static str) -> Alive {
        let mut parts = self.lock();
        parts.push(Part {
            name,
            state: State::Starting,
        });
        Alive {
            health: self.clone(),
            index: parts.len() - 1,
        }
    }

    /// What is not as it should be, a sentence each; empty when all is well.
    pub fn problems(&self, topics: &Topics) -> Vec<String> {
        let mut problems = Vec::new();
        for part in self.lock().iter() {
            match part.state {
                State::Starting => problems.push(format!("{} is starting", part.name)),
                State::Running => {}
                State::Ended => problems.push(format!("{} has ended", part.name)),
            }
        }
        problems.extend(topics.problems());
        problems
    }

    /// A panic elsewhere leaves the list whole: each change is a single store.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, index: usize, state: State) {
        if let Some(part) = self.lock().get_mut(index) {
            part.state = state;
        }
    }
}

impl Alive {
    /// It runs now.
    pub fn running(&self) {
        self.health.set(self.index, State::Running);
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.health.set(self.index, State::Ended);
    }
}
