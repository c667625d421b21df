//! Which topics exist: the directories say it. Opens them at start and makes new ones.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use commitlog::error::{Error, Result};
use commitlog::id::{TopicName, TopicPartition};
use commitlog::limits::PARTITIONS_MAX;
use commitlog::storage::EntryKind;

use super::fan_out::fan_out;
use super::{Partition, Shared, Topic, Topics, lock, read_lock};

type Table = BTreeMap<TopicName, Topic>;

/// Opens what is on disk and what is configured, whichever has more partitions.
///
/// All at once at start rather than at first use: damage is found while somebody is looking, the
/// end offsets are known, and no first batch waits for a recovery. 1,000 partitions that were closed
/// cleanly open in a quarter of a second on two busy cores.
pub(super) fn open_all(shared: &Arc<Shared>) -> Result<Table> {
    let mut counts = found(shared)?;
    let mut total: usize = counts.values().map(|&count| count as usize).sum();
    for (name, config) in &shared.config.topics {
        let (wanted, has) = (config.partitions, counts.get(name).copied().unwrap_or(0));
        if wanted < has {
            return Err(Error::input(format!(
                "topic {name} has {has} partitions and is configured with {wanted}: partitions can \
                 be added but not taken away, their records would be lost; write partitions: {has}"
            )));
        }
        let more = (wanted - has) as usize;
        if total + more > shared.config.partitions_max {
            // Agents can bring a log to its limit; it must start all the same.
            tracing::error!(
                topic = %name, wanted, has, "{}", no_room(name, total, shared.config.partitions_max)
            );
            continue;
        }
        total += more;
        counts.insert(name.clone(), wanted);
    }
    Ok(open_topics(shared, &counts))
}

fn no_room(topic: &TopicName, total: usize, most: usize) -> String {
    format!(
        "topic {topic} gets no more partitions: all topics have {total} already, at most {most} are \
         possible; stop the aggregator and move directories of topics that are not needed out of \
         its log directory"
    )
}

/// How many partitions each topic has on disk: one more than the highest number.
fn found(shared: &Shared) -> Result<BTreeMap<TopicName, u32>> {
    let dir = &shared.config.log_dir;
    let context = || format!("cannot use the log directory {}", dir.display());
    shared
        .storage
        .create_dir(dir)
        .map_err(|error| Error::io(context(), error))?;
    let entries = shared
        .storage
        .list(dir)
        .map_err(|error| Error::io(context(), error))?;
    let mut found = BTreeMap::new();
    for entry in entries {
        let id = entry
            .name
            .to_str()
            .and_then(|name| name.parse::<TopicPartition>().ok());
        match id {
            Some(id) if entry.kind == EntryKind::Directory => {
                let count = found.entry(id.topic).or_insert(0);
                *count = (id.partition + 1).max(*count);
            }
            _ => tracing::warn!(
                path = %dir.join(&entry.name).display(),
                "not a partition's directory; it is left alone"
            ),
        }
    }
    Ok(found)
}

fn open_topics(shared: &Arc<Shared>, counts: &BTreeMap<TopicName, u32>) -> Table {
    let mut ids = Vec::new();
    for (topic, &count) in counts {
        ids.extend(partitions_of(topic, count));
    }
    let mut opened = open_partitions(shared, &ids).into_iter();
    let mut table = Table::new();
    for (name, &count) in counts {
        let topic = Topic {
            config: shared.config.topic(name).clone(),
            partitions: in_order(opened.by_ref().take(count as usize)),
        };
        table.insert(name.clone(), topic);
    }
    table
}

/// From the highest down: a crash half way through making a topic leaves its highest partition, and
/// with it the count.
fn partitions_of(topic: &TopicName, count: u32) -> impl Iterator<Item = TopicPartition> {
    (0..count).rev().map(|partition| TopicPartition {
        topic: topic.clone(),
        partition,
    })
}

fn in_order(opened: impl Iterator<Item = Arc<Partition>>) -> Vec<Arc<Partition>> {
    let mut partitions: Vec<_> = opened.collect();
    partitions.reverse();
    partitions
}

/// Opens all of them, in the order given.
fn open_partitions(shared: &Arc<Shared>, ids: &[TopicPartition]) -> Vec<Arc<Partition>> {
    fan_out(shared.blocking, ids, |id| {
        let config = shared.config.topic(&id.topic).log;
        Partition::open(shared, id.clone(), config)
    })
}

/// Makes the partition of `id`, with its topic and what lies below it.
///
/// A topic that is configured gets its count and never more. Any other gets the default count, or as
/// many as an agent needs: it placed its files when the default was higher, or on another aggregator's
/// word, and its lines have no other place to go.
pub(super) fn create(topics: &Topics, id: &TopicPartition) -> Result<Arc<Partition>> {
    let mut refused = lock(&topics.creation);
    if let Some(partition) = topics.existing(id) {
        return Ok(partition);
    }
    let (has, total) = {
        let table = read_lock(&topics.table);
        let total: usize = table.values().map(|topic| topic.partitions.len()).sum();
        (table.get(&id.topic).map(count), total)
    };
    let shared = &topics.shared;
    let usual = shared.config.topic(&id.topic).partitions;
    let needed = id.partition.saturating_add(1);
    let is_configured = shared.config.topics.contains_key(&id.topic);
    let wanted = if is_configured {
        has.unwrap_or(usual)
    } else {
        has.unwrap_or(usual).max(needed)
    };
    if id.partition >= wanted.min(PARTITIONS_MAX) {
        let why = too_few(id, wanted);
        // Agents ask again and again; an operator reads it once.
        if is_configured && refused.get(&id.topic).is_none_or(|&most| most < needed) {
            refused.insert(id.topic.clone(), needed);
            tracing::warn!("{why}");
        }
        return Err(Error::input(why));
    }
    let has = has.unwrap_or(0);
    if total + (wanted - has) as usize > shared.config.partitions_max {
        let most = shared.config.partitions_max;
        return Err(Error::input(no_room(&id.topic, total, most)));
    }
    grow(topics, &id.topic, has, wanted);
    topics
        .existing(id)
        .ok_or_else(|| Error::input(format!("there is no partition {id}")))
}

fn too_few(id: &TopicPartition, has: u32) -> String {
    let TopicPartition { topic, partition } = id;
    let needed = partition.saturating_add(1);
    if needed > PARTITIONS_MAX {
        return format!(
            "there is no partition {id}: a topic has at most {PARTITIONS_MAX}, numbered from 0"
        );
    }
    format!(
        "topic {topic} is configured with {has} partitions, numbered from 0, and an agent has placed \
         lines on partition {partition}: write partitions: {needed} for topic {topic} and restart the \
         aggregator"
    )
}

/// Makes the partitions that the topic lacks, and the topic itself if it has none.
fn grow(topics: &Topics, topic: &TopicName, has: u32, wanted: u32) {
    let shared = &topics.shared;
    let missing: Vec<_> = partitions_of(topic, wanted)
        .take((wanted - has) as usize)
        .collect();
    let made = in_order(open_partitions(shared, &missing).into_iter());
    tracing::info!(%topic, partitions = wanted, before = has, "topic made or grown");
    let mut table = topics.table.write().unwrap_or_else(PoisonError::into_inner);
    let grown = table.entry(topic.clone()).or_insert_with(|| Topic {
        config: shared.config.topic(topic).clone(),
        partitions: Vec::new(),
    });
    grown.partitions.extend(made);
}

/// How many partitions the topic has.
pub(super) fn count(topic: &Topic) -> u32 {
    u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX)
}
