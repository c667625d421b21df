use std::time::Duration;

use commitlog::storage::faulty::{Fault, FaultyDisk};
use commitlog::wire::control::Liveness;
use commitlog::wire::message::{Hello, Hints, Opened, ToBroker};

use super::*;
use crate::broker::tests::broker_on;
use crate::broker::transport::SystemTransport;
use crate::identity::tests::world::World;
use crate::limits::REOPEN_BACKOFF_MAX_MS;
use crate::topics::tests::batch;

/// A session of producer 1 whose only slot is this partition's.
async fn live(shared: &Shared, id: &TopicPartition) -> Intake {
    let hello = Hello {
        versions: 1..=1,
        producer: ProducerId::new(1).unwrap(),
        epoch: ProducerEpoch::ZERO,
        replaces: None,
        host: "h".to_owned(),
        machine_id: "m".to_owned(),
        boot_id: "b".to_owned(),
        agent_version: "0".to_owned(),
        partitions: vec![id.clone()],
    };
    let mut bytes = Vec::new();
    ToBroker::Hello(hello).encode(&mut bytes);
    let opened = Opened::Accepted {
        progress: None,
        credit: 1 << 20,
    };
    let said = shared.session().received(&bytes, Duration::ZERO);
    said.unwrap();
    let accepted = shared.session().accept(vec![opened], Hints::default());
    accepted.unwrap();
    let partition = shared.broker.topics.partition(id).await.unwrap();
    let standing = partition.producer(ProducerId::new(1).unwrap()).await;
    let generation = standing.unwrap().generation;
    let counted = shared.broker.budget.stream();
    Intake::new(Slot(0), partition, generation, None, counted)
}

/// Another producer's records take the offsets that were lost: the durable end that passes them says
/// nothing of what the first one sent.
#[tokio::test]
async fn what_a_log_lost_before_it_was_opened_again_is_never_told_durable() {
    let (world, disk) = (World::new(), FaultyDisk::new());
    let broker = broker_on(disk.clone(), &world, Arc::new(SystemTransport));
    let shared = Shared::new(broker, Liveness::Transport);
    let topics = shared.broker.topics.clone();
    let id: TopicPartition = "logs-0".parse().unwrap();
    let intake = live(&shared, &id).await;
    let header = commitlog::wire::frame::StreamHeader {
        slot: Slot(0),
        sequence: Sequence::ZERO,
    };
    shared.session().stream(header).unwrap();
    intake.append(batch(1, 0, 3), &shared).await.unwrap();
    assert!(intake.stands() && !intake.is_settled());

    disk.plan(disk.calls(), Fault::Io);
    topics.sync_dirty();
    world.pass(REOPEN_BACKOFF_MAX_MS + 1);
    topics.maintain();
    assert!(!intake.stands(), "the log was not opened again");
    let other = ProducerId::new(2).unwrap();
    let generation = intake.partition.producer(other).await.unwrap().generation;
    let appended = intake
        .partition
        .append(generation, &mut batch(2, 0, 9))
        .await;
    topics.sync_dirty();
    let durable = *intake.partition.durable().borrow();
    assert!(durable.get() >= 9, "{:?} {durable}", appended.unwrap());
    assert!(!intake.settle(durable, &shared));
    assert!(!intake.is_settled());
    // Nor can it go on: what it sends next would follow what is not there.
    let next = intake.append(batch(1, 3, 1), &shared).await;
    assert!(matches!(next, Err(Verdict::StartOver(_))), "{next:?}");
}
