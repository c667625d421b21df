//! Commits on a disk whose power fails.

use std::path::Path;

use commitlog::id::{ProducerId, Timestamp};
use commitlog::storage::faulty::{Fault, FaultyDisk};

use super::*;
use crate::telemetry::Telemetry;
use crate::topics::tests::{batch, config};

async fn open(disk: &FaultyDisk) -> Result<Groups> {
    let storage = Arc::new(disk.clone());
    let topics = Topics::open(
        config(Path::new("/data/log"), &[("logs", 1)]),
        Arc::clone(&storage) as _,
        Arc::new(|| Timestamp(1)),
        Blocking::Inline,
        Telemetry::new(),
    )?;
    let id = "logs-0".parse()?;
    let partition = topics.partition(&id).await?;
    if *partition.durable().borrow() == Offset::ZERO {
        let producer = ProducerId::new(1).unwrap();
        let generation = partition.producer(producer).await?.generation;
        partition.append(generation, &mut batch(1, 0, 1000)).await?;
        topics.sync_dirty();
    }
    let meta = Meta::open(storage, Path::new("/data/meta.redb"))?;
    Groups::open(Arc::new(meta), topics, Blocking::Inline)
}

fn offsets(offset: i64) -> Vec<(TopicPartition, Offset)> {
    vec![("logs-0".parse().unwrap(), Offset::new(offset).unwrap())]
}

#[tokio::test]
async fn i22_a_commit_that_was_answered_survives_a_power_cut() {
    for seed in 0..40 {
        let disk = FaultyDisk::new();
        let group: GroupName = "billing".parse().unwrap();
        let groups = open(&disk).await.unwrap();
        let mut answered = 0;
        disk.plan(disk.calls() + seed, Fault::PowerCut);
        for offset in 1..100 {
            match groups.commit(&group, offsets(offset)).await {
                Ok(()) => answered = offset,
                Err(_) => break,
            }
        }
        drop(groups);
        disk.forgive();
        disk.power_cut();
        disk.restart(seed);
        let groups = open(&disk)
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = groups
            .offsets(&group)
            .first()
            .map_or(0, |(_, offset)| offset.get());
        // The commit that the cut interrupted may have happened; nothing else.
        assert!(
            found == answered || found == answered + 1,
            "seed {seed}: {answered} → {found}"
        );
    }
}

#[test]
fn a_group_name_is_plain() {
    for (name, legal) in [
        ("billing-2", true),
        ("", false),
        ("a/b", false),
        ("..", true),
        ("ä", false),
    ] {
        assert_eq!(name.parse::<GroupName>().is_ok(), legal, "{name}");
    }
}
