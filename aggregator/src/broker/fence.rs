//! One connection per producer. A newer connection of the same producer takes over: the older one is
//! stopped, and the newer is answered only when nothing of the older can reach a log any more. So what
//! a session is told at its start is what it builds on.
//!
//! Invariant **I29**: once a newer connection of a producer is answered, nothing of an older one reaches
//! a log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use commitlog::id::{ProducerEpoch, ProducerId};
use commitlog::wire::message::{Refusal, RefusalCode};
use config::join::id::AgentId;
use tokio_util::sync::CancellationToken;

/// The producers that are connected.
#[derive(Clone, Default)]
pub(super) struct Fence {
    live: Arc<Mutex<HashMap<ProducerId, Live>>>,
}

struct Live {
    agent: AgentId,
    epoch: ProducerEpoch,
    stop: CancellationToken,
    gone: CancellationToken,
}

/// A producer's place, for as long as its session can append.
pub(super) struct Tenure {
    fence: Fence,
    producer: ProducerId,
    /// Cancelled when a newer connection takes over.
    pub(super) stop: CancellationToken,
    gone: CancellationToken,
}

impl Fence {
    /// Takes the producer's place, after the one who had it has left.
    pub(super) async fn take_over(
        &self,
        producer: ProducerId,
        epoch: ProducerEpoch,
        agent: &AgentId,
    ) -> Result<Tenure, Refusal> {
        loop {
            let gone = {
                let mut live = self.live();
                let Some(older) = live.get(&producer) else {
                    return Ok(self.enter(&mut live, producer, epoch, agent));
                };
                if older.agent != *agent {
                    return Err(in_use(producer));
                }
                if older.epoch > epoch {
                    return Err(fenced(producer));
                }
                older.stop.cancel();
                older.gone.clone()
            };
            gone.cancelled().await;
        }
    }

    fn enter(
        &self,
        live: &mut HashMap<ProducerId, Live>,
        producer: ProducerId,
        epoch: ProducerEpoch,
        agent: &AgentId,
    ) -> Tenure {
        let stop = CancellationToken::new();
        let gone = CancellationToken::new();
        let entry = Live {
            agent: agent.clone(),
            epoch,
            stop: stop.clone(),
            gone: gone.clone(),
        };
        live.insert(producer, entry);
        Tenure {
            fence: self.clone(),
            producer,
            stop,
            gone,
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<ProducerId, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.fence.live().remove(&self.producer);
        self.gone.cancel();
    }
}

/// What a session is told that was taken over.
pub(super) fn fenced(producer: ProducerId) -> Refusal {
    Refusal {
        code: RefusalCode::Fenced,
        message: format!(
            "a newer connection of producer {producer} took over; if no agent was restarted, two \
             agents run on copies of one spool"
        ),
        retry_after: Duration::from_secs(1),
    }
}

fn in_use(producer: ProducerId) -> Refusal {
    Refusal {
        code: RefusalCode::ProducerInUse,
        message: format!("another agent uses producer {producer} at this moment"),
        retry_after: Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn i29_a_newer_connection_waits_until_the_older_has_left() {
        let fence = Fence::default();
        let (id, epoch) = (ProducerId::new(7).unwrap(), ProducerEpoch::ZERO);
        let (a, b): (AgentId, AgentId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let first = fence.take_over(id, epoch, &a).await.unwrap();
        let refused = fence.take_over(id, epoch, &b).await.err().unwrap();
        assert_eq!(refused.code, RefusalCode::ProducerInUse);
        let mut second = std::pin::pin!(fence.take_over(id, epoch, &a));
        tokio::select! {
            biased;
            _ = &mut second => panic!("the first is still there"),
            () = first.stop.cancelled() => {}
        }
        drop(first);
        let second = second.await.unwrap();
        assert!(!second.stop.is_cancelled());
    }
}
