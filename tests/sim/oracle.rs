//! Who knows what must have arrived: every line of every file that still exists, once and in order;
//! lines that were written on a machine that was rolled back, at most once; nothing else. And what a
//! consumer has seen at an offset stays there.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::topics::Topics;
use commitlog::batch::header::split_first;
use commitlog::batch::records::Decompressor;
use commitlog::id::{Offset, TopicPartition};
use commitlog::log::reader::Until;

/// What a consumer of all partitions has read, from the beginning.
#[derive(Default)]
pub(crate) struct Consumer {
    seen: BTreeMap<TopicPartition, Vec<String>>,
}

impl Consumer {
    /// Reads what became durable since the last time.
    pub(crate) fn poll(&mut self, topics: &Topics) -> Result<(), String> {
        for id in partitions() {
            let seen = self.seen.entry(id.clone()).or_default();
            read(topics, &id, seen)?;
        }
        Ok(())
    }

    /// Reads everything again and compares.
    pub(crate) fn check_unchanged(&self, topics: &Topics) -> Result<(), String> {
        for (id, seen) in &self.seen {
            let mut again = Vec::new();
            read(topics, id, &mut again)?;
            if again.get(..seen.len()) != Some(&seen[..]) {
                let at = seen.iter().zip(&again).position(|(a, b)| a != b);
                return Err(format!("{id}: what was seen at offset {at:?} has changed"));
            }
        }
        Ok(())
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.seen.values().flatten()
    }
}

fn partitions() -> impl Iterator<Item = TopicPartition> {
    (0..2).map(|partition| TopicPartition {
        topic: "logs".parse().expect("a name"),
        partition,
    })
}

/// Reads on from where `lines` ends.
fn read(topics: &Topics, id: &TopicPartition, lines: &mut Vec<String>) -> Result<(), String> {
    let Some(partition) = topics.existing(id) else {
        return Ok(());
    };
    let Ok(reader) = partition.reader() else {
        return Ok(());
    };
    loop {
        let from = Offset::new(i64::try_from(lines.len()).expect("a test's size"));
        let from = from.expect("a length is not negative");
        if from >= reader.durable_end() {
            return Ok(());
        }
        let slice = reader.read(from, 1 << 20, Until::Durable);
        // A disk that fails at this moment is read again later.
        let Ok(slice) = slice else {
            return Ok(());
        };
        if !slice.gaps.is_empty() {
            return Err(format!("{id}: {:?}", slice.gaps));
        }
        let mut decompressor = Decompressor::new();
        let mut batches = &slice.batches[..];
        while !batches.is_empty() {
            let (_, batch, rest) = split_first(batches).map_err(|e| e.message)?;
            for record in decompressor.records(batch).map_err(|e| e.message)? {
                let record = record.map_err(|e| e.message)?;
                // The first batch may begin before the offset that was asked for.
                if record.offset >= from {
                    let value = record.value.unwrap_or_default();
                    lines.push(String::from_utf8_lossy(value).into_owned());
                }
            }
            batches = rest;
        }
    }
}

/// What the test knows of all lines.
pub(crate) struct Known<'a> {
    /// Those that were ever written.
    pub(crate) written: &'a BTreeSet<String>,
    /// Those that were copied with a file before they were spooled: each copy's agent reads them.
    pub(crate) may_come_twice: &'a BTreeSet<String>,
}

/// Checks what arrived against the files as they are now and against all that was ever written.
pub(crate) fn judge(
    consumer: &Consumer,
    files: &[(&str, Vec<String>)],
    known: &Known<'_>,
) -> Result<(), String> {
    let mut times: BTreeMap<&String, usize> = BTreeMap::new();
    for line in consumer.all() {
        *times.entry(line).or_default() += 1;
        if !known.written.contains(line) {
            return Err(format!("nobody wrote {line:?}"));
        }
    }
    let allowed = |line: &String| {
        if known.may_come_twice.contains(line) {
            2
        } else {
            1
        }
    };
    let doubled = times.iter().filter(|(line, times)| **times > allowed(line));
    let doubled: Vec<_> = doubled.collect();
    if !doubled.is_empty() {
        let first = &doubled[..doubled.len().min(3)];
        return Err(format!("{} lines arrived twice: {first:?}", doubled.len()));
    }
    for (host, lines) in files {
        let lost: Vec<_> = lines.iter().filter(|it| !times.contains_key(it)).collect();
        if !lost.is_empty() {
            let first = &lost[..lost.len().min(3)];
            return Err(format!("{host}: {} lines are lost: {first:?}", lost.len()));
        }
        let places: BTreeMap<&String, usize> = lines.iter().zip(0..).collect();
        for (id, seen) in &consumer.seen {
            let once = seen.iter().filter(|it| times[it] == 1);
            let order: Vec<_> = once.filter_map(|it| places.get(it)).collect();
            if let Some(at) = order.windows(2).position(|pair| pair[0] > pair[1]) {
                let line = &lines[*order[at]];
                return Err(format!("{host}: {id} has {line:?} before an earlier line"));
            }
        }
    }
    Ok(())
}
