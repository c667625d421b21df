//! Consumer groups: how far each has read, kept here so that consumers need no disk.
//!
//! Invariants: **I22** a commit that is answered is fsynced; what is read was fsynced; a committed offset is
//! never beyond what was durable when it was committed. A group that never committed reads as one
//! without offsets.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use commitlog::error::{Error, Result};
use commitlog::id::{Offset, TopicPartition};

use crate::blocking::Blocking;
use crate::limits::{GROUP_NAME_BYTES_MAX, GROUPS_MAX};
use crate::meta::Meta;
use crate::topics::Topics;

#[cfg(test)]
mod tests;

/// A group's name: 1 to 200 of `a-z A-Z 0-9 . _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupName(Arc<str>);

impl FromStr for GroupName {
    type Err = Error;

    fn from_str(name: &str) -> Result<GroupName> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > GROUP_NAME_BYTES_MAX || !name.bytes().all(legal) {
            return Err(Error::input(format!(
                "{name:?} is no group name: 1 to {GROUP_NAME_BYTES_MAX} letters, digits, '.', '_' \
                 and '-'"
            )));
        }
        Ok(GroupName(name.into()))
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Offsets = BTreeMap<TopicPartition, Offset>;

/// All groups; a handle, cheap to clone.
#[derive(Clone)]
pub struct Groups {
    shared: Arc<Shared>,
}

struct Shared {
    meta: Arc<Meta>,
    topics: Topics,
    blocking: Blocking,
    /// What is on disk, never more.
    committed: Mutex<BTreeMap<GroupName, Offsets>>,
    /// Held over a commit's fsync, so that memory and disk see commits in one order.
    commit: Mutex<()>,
}

impl Groups {
    /// The groups that have committed before. Waits for the disk.
    pub fn open(meta: Arc<Meta>, topics: Topics, blocking: Blocking) -> Result<Groups> {
        let mut committed = BTreeMap::new();
        for (group, offsets) in meta.offsets()? {
            committed.insert(group.parse()?, offsets.into_iter().collect::<Offsets>());
        }
        Ok(Groups {
            shared: Arc::new(Shared {
                meta,
                topics,
                blocking,
                committed: Mutex::new(committed),
                commit: Mutex::new(()),
            }),
        })
    }

    /// All groups with their committed offsets.
    pub fn list(&self) -> Vec<(GroupName, Vec<(TopicPartition, Offset)>)> {
        let committed = lock(&self.shared.committed);
        let groups = committed.iter();
        groups
            .map(|(group, offsets)| (group.clone(), pairs(offsets)))
            .collect()
    }

    /// A group's committed offsets; none for a group that never committed.
    pub fn offsets(&self, group: &GroupName) -> Vec<(TopicPartition, Offset)> {
        lock(&self.shared.committed)
            .get(group)
            .map(pairs)
            .unwrap_or_default()
    }

    /// Commits offsets: the next offset to read of each partition. Fsynced when it returns; all of
    /// them, or none.
    pub async fn commit(
        &self,
        group: &GroupName,
        offsets: Vec<(TopicPartition, Offset)>,
    ) -> Result<()> {
        for (id, offset) in &offsets {
            self.check(id, *offset)?;
        }
        if offsets.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let group = group.clone();
        self.shared
            .blocking
            .run(move || shared.commit_now(group, offsets))
            .await
    }

    /// Why nothing can be committed any more, where that is so.
    pub fn failure(&self) -> Option<String> {
        self.shared.meta.failure()
    }

    fn check(&self, id: &TopicPartition, offset: Offset) -> Result<()> {
        let Some(partition) = self.shared.topics.existing(id) else {
            return Err(Error::input(format!(
                "there is no partition {id}; a topic exists from its first record on"
            )));
        };
        let end = *partition.durable().borrow();
        if offset > end {
            return Err(Error::input(format!(
                "offset {offset} of {id} is beyond its durable end {end}: commit the offset after \
                 the last record that was read"
            )));
        }
        Ok(())
    }
}

impl Shared {
    fn commit_now(&self, group: GroupName, offsets: Vec<(TopicPartition, Offset)>) -> Result<()> {
        let _in_order = lock(&self.commit);
        {
            let committed = lock(&self.committed);
            if committed.len() >= GROUPS_MAX && !committed.contains_key(&group) {
                return Err(Error::input(format!(
                    "there are {GROUPS_MAX} groups already; use one of them"
                )));
            }
        }
        self.meta.put_offsets(&group.0, &offsets)?;
        lock(&self.committed)
            .entry(group)
            .or_default()
            .extend(offsets);
        Ok(())
    }
}

fn pairs(offsets: &Offsets) -> Vec<(TopicPartition, Offset)> {
    offsets
        .iter()
        .map(|(id, offset)| (id.clone(), *offset))
        .collect()
}

/// A panic elsewhere leaves what is guarded whole: it changes in single inserts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
