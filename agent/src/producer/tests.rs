//! What follows the end of a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use commitlog::wire::message::{Refusal, RefusalCode, Renewed as RenewedCertificate};
use tokio::time::Instant;

use super::{Blocking, Course, Identity, Producer, Reloaded, ShipConfig};
use crate::limits::PRODUCER_IN_USE_MAX;
use crate::testing::World;

/// An agent that never connects, and was joined again when it is looked at for this time, from 1 on.
#[derive(Default)]
struct Nobody {
    looked: AtomicU32,
    joined_at: u32,
}

impl Identity for Nobody {
    fn tls(&self) -> Arc<rustls::ClientConfig> {
        panic!("nobody connects")
    }

    fn server_name(&self, host: &str) -> String {
        host.to_owned()
    }

    fn renewal(&self) -> Option<Vec<u8>> {
        None
    }

    fn renewed(&self, _: &RenewedCertificate) -> Result<(), String> {
        Ok(())
    }

    fn reload(&self) -> Result<Reloaded, String> {
        let look = self.looked.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(if look == self.joined_at {
            Reloaded::Another
        } else {
            Reloaded::Same
        })
    }
}

fn course(world: &World) -> Course {
    let to = ShipConfig::new(vec!["here:1".to_owned()]);
    let mut producer = Producer::new(
        world.open_spool(),
        to,
        Arc::new(Nobody::default()),
        world.random(),
    );
    producer.blocking = Blocking::Inline;
    Course::new(producer)
}

fn in_use() -> Refusal {
    Refusal {
        code: RefusalCode::ProducerInUse,
        message: "another agent uses it".to_owned(),
        retry_after: Duration::from_secs(1),
    }
}

#[tokio::test]
async fn an_id_that_another_agent_uses_is_given_up_only_after_a_while() {
    let world = World::new();
    let mut course = course(&world);
    let spool = course.producer.spool.clone();
    let id = spool.producer_id();
    let start = Instant::now();
    let (half, all) = (start + PRODUCER_IN_USE_MAX / 2, start + PRODUCER_IN_USE_MAX);
    course.refused("here:1", &in_use(), start).await;
    course.refused("here:1", &in_use(), half).await;
    assert_eq!(
        spool.producer_id(),
        id,
        "the other may be our own old connection"
    );
    course.refused("here:1", &in_use(), all).await;
    assert_ne!(spool.producer_id(), id);
    assert_eq!(spool.replaced_producer_id(), Some(id));
    // The new id begins a time of its own.
    let id = spool.producer_id();
    course.refused("here:1", &in_use(), all).await;
    assert_eq!(spool.producer_id(), id);
}

#[tokio::test]
async fn a_refused_identity_is_looked_at_again() {
    let world = World::new();
    let mut course = course(&world);
    let identity = Arc::new(Nobody {
        joined_at: 2,
        ..Nobody::default()
    });
    course.producer.identity = Arc::clone(&identity) as Arc<dyn Identity>;
    let now = Instant::now();
    course.refused("here:1", &in_use(), now).await;
    assert_eq!(
        identity.looked.load(Ordering::SeqCst),
        0,
        "it is not to blame"
    );
    let revoked = Refusal {
        code: RefusalCode::Revoked,
        message: "revoked".to_owned(),
        retry_after: Duration::from_secs(30),
    };
    let wait = course.refused("here:1", &revoked, now).await;
    assert!(course.identity_refused && wait >= revoked.retry_after);
    let wait = course.refused("here:1", &revoked, now).await;
    assert!(
        wait < revoked.retry_after,
        "the next identity is tried soon"
    );
}
