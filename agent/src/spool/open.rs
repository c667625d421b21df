//! Opening a spool: lock, identity, snapshot, logs, replay. It always comes up, whatever lies on disk:
//! what is damaged is read from where the same thing is kept a second time.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};

use commitlog::batch::header::BatchHeader;
use commitlog::batch::records::Decompressor;
use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::{Offset, ProducerId, TopicPartition};
use commitlog::log::partition::LogConfig;
use commitlog::storage::{EntryKind, Storage, read_whole};
use model::header;
use model::position::Position;
use tokio::sync::watch;

use super::acknowledged::{self, Acknowledged, Saved};
use super::meta::Meta;
use super::partition::{Partition, Place};
use super::positions::{self, Placed, Snapshot, Table};
use super::sync::SnapshotState;
use super::{DiskLook, Inner, LOST_DAMAGED, LOST_SOURCE, Signal, Spool, SpoolConfig, State};
use crate::ambient::{Clock, Random};
use crate::limits::{
    ACKNOWLEDGED_BYTES_MAX, LINGER_DEFAULT, READ_BYTES, SNAPSHOT_BYTES_MAX, SPOOL_META_BYTES_MAX,
};

pub(crate) const META: &str = "spool.meta";
pub(crate) const ACKNOWLEDGED: &str = "acknowledged";
pub(crate) const ACKNOWLEDGED_RECENT: &str = "acknowledged.recent";
pub(crate) const SNAPSHOTS: [&str; 2] = ["positions.0", "positions.1"];
const LOCK: &str = "lock";
pub(crate) const DIR: &str = "spool";

/// What opening found.
#[derive(Debug, Clone, Default)]
pub struct SpoolReport {
    /// What was damaged, and what was done about it.
    pub repairs: Vec<String>,
    /// Batches whose positions were replayed.
    pub batches_replayed: u64,
}

impl Spool {
    /// Opens the spool of `config.data_dir`, making it where there is none. Fails where another process
    /// has it open, naming that process, and where the disk cannot be read or written.
    pub fn open(
        storage: Arc<dyn Storage>,
        config: SpoolConfig,
        clock: Clock,
        random: Random,
    ) -> Result<(Spool, SpoolReport)> {
        let dir = config.data_dir.join(DIR);
        storage
            .create_dir(&dir)
            .map_err(|error| Error::io(format!("create {}", dir.display()), error))?;
        let lock_path = config.data_dir.join(LOCK);
        let lock = storage
            .lock(&lock_path)
            .map_err(|error| Error::input(format!("the data directory is in use: {error}")))?;
        let mut report = SpoolReport::default();
        let snapshot = newest_snapshot(&*storage, &dir, &mut report);
        let unsynced_bytes = Arc::new(AtomicUsize::new(0));
        let logs = Logs {
            storage: &storage,
            config: &config,
            dir: &dir,
            clock: &clock,
            unsynced_bytes: &unsynced_bytes,
        };
        let acknowledged = load_acknowledged(&*storage, &dir, &mut report);
        let partitions = logs.open_all(&acknowledged)?;
        let found = load_meta(&*storage, &dir, snapshot.as_ref(), &partitions, &mut report);
        let fresh = found.is_none();
        let meta = found.unwrap_or_else(|| {
            let mut meta = Meta::draw(&random);
            meta.producer_id = newest_producer(&partitions).unwrap_or(meta.producer_id);
            meta
        });
        let (generation, folded, mut table) = match snapshot {
            Some(snapshot) => (snapshot.generation, snapshot.folded, snapshot.table),
            None => (0, BTreeMap::new(), Table::default()),
        };
        replay(&partitions, &folded, &mut table, &mut report)?;
        count_missing(&partitions, &folded, &acknowledged, &mut table);
        let spool = Spool {
            inner: Arc::new(Inner {
                storage,
                config,
                dir,
                clock,
                random,
                meta_writes: Mutex::default(),
                state: Mutex::new(State {
                    meta,
                    partitions,
                    snapshot: SnapshotState::holding(generation),
                    saved: Saved::default(),
                    disk: DiskLook::default(),
                }),
                table: Mutex::new(table),
                signal: Signal::default(),
                changed: watch::Sender::new(0),
                hints: watch::Sender::new(LINGER_DEFAULT),
                unsynced_bytes,
                on_change: Mutex::new(None),
                is_awaited: AtomicBool::new(false),
                is_disk_short: AtomicBool::new(false),
                is_acknowledged_news: AtomicBool::new(false),
                appender_syncs: AtomicBool::new(false),
                appended_bytes: AtomicUsize::new(0),
                _lock: lock,
            }),
        };
        if fresh || !report.repairs.is_empty() {
            let meta = spool.state().meta.clone();
            spool.write_meta(&meta)?;
            spool.state().snapshot.noted = true;
        }
        spool.disown(&acknowledged)?;
        Ok((spool, report))
    }

    /// Offsets that were acknowledged and that the logs do not have any more will be given to other
    /// records: those must not count as acknowledged, so the file is told before there are any.
    fn disown(&self, acknowledged: &Acknowledged) -> Result<()> {
        let is_past = |(name, offset): (&TopicPartition, &Offset)| {
            let partition = self.partition(name);
            partition.is_none_or(|partition| partition.acknowledged() < *offset)
        };
        if !acknowledged.iter().any(is_past) {
            return Ok(());
        }
        let offsets = acknowledged::of_all(&self.all_partitions());
        let written = self.write_acknowledged(&acknowledged::encode(&offsets));
        written.map_err(|error| {
            let path = self.inner.dir.join(ACKNOWLEDGED);
            Error::new(
                ErrorKind::Retry,
                format!("write {}: {error}", path.display()),
            )
        })
    }

    /// Opens the log of a partition that is not open yet.
    pub(super) fn open_partition(&self, name: &TopicPartition) -> Result<Partition> {
        let inner = &self.inner;
        let logs = Logs {
            storage: &inner.storage,
            config: &inner.config,
            dir: &inner.dir,
            clock: &inner.clock,
            unsynced_bytes: &inner.unsynced_bytes,
        };
        logs.open(name, Offset::ZERO)
    }
}

/// What all logs of a spool share.
struct Logs<'a> {
    storage: &'a Arc<dyn Storage>,
    config: &'a SpoolConfig,
    dir: &'a Path,
    clock: &'a Clock,
    unsynced_bytes: &'a Arc<AtomicUsize>,
}

impl Logs<'_> {
    /// Opens those that there are.
    fn open_all(
        &self,
        acknowledged: &Acknowledged,
    ) -> Result<BTreeMap<TopicPartition, Arc<Partition>>> {
        let entries = self
            .storage
            .list(self.dir)
            .map_err(|error| Error::io(format!("list {}", self.dir.display()), error))?;
        let mut partitions = BTreeMap::new();
        for entry in entries {
            let name = entry.name.to_str().and_then(|name| name.parse().ok());
            let (EntryKind::Directory, Some(name)) = (entry.kind, name) else {
                continue;
            };
            let acknowledged = acknowledged.get(&name).copied().unwrap_or_default();
            let partition = self.open(&name, acknowledged)?;
            partitions.insert(name, Arc::new(partition));
        }
        Ok(partitions)
    }

    /// Opens one, making it where there is none.
    fn open(&self, name: &TopicPartition, acknowledged: Offset) -> Result<Partition> {
        let place = Place {
            storage: Arc::clone(self.storage),
            dir: self.dir.join(name.to_string()),
            config: LogConfig {
                segment_bytes_max: self.config.segment_bytes,
                retention_bytes: None,
                retention_ms: None,
                ..LogConfig::default()
            },
            unsynced_bytes: Arc::clone(self.unsynced_bytes),
        };
        Partition::open(place, acknowledged, (self.clock)())
    }
}

/// What aggregators acknowledged, as far as it is known. Where it is not, it is sent again.
fn load_acknowledged(storage: &dyn Storage, dir: &Path, report: &mut SpoolReport) -> Acknowledged {
    let mut read = |name| {
        let bytes = read_if_there(storage, &dir.join(name), ACKNOWLEDGED_BYTES_MAX, report);
        bytes.map(|bytes| acknowledged::decode(&bytes))
    };
    // A power cut may have torn it.
    let recent = read(ACKNOWLEDGED_RECENT).flatten().unwrap_or_default();
    let saved = match read(ACKNOWLEDGED) {
        Some(Some(saved)) => saved,
        None => Acknowledged::new(),
        Some(None) => {
            report.repairs.push(format!(
                "{} is damaged; what an aggregator may already have is offered again",
                dir.join(ACKNOWLEDGED).display()
            ));
            Acknowledged::new()
        }
    };
    acknowledged::furthest(saved, recent)
}

/// The newest snapshot that is whole.
pub(super) fn newest_snapshot(
    storage: &dyn Storage,
    dir: &Path,
    report: &mut SpoolReport,
) -> Option<Snapshot> {
    let mut newest: Option<Snapshot> = None;
    for name in SNAPSHOTS {
        let path = dir.join(name);
        let Some(bytes) = read_if_there(storage, &path, SNAPSHOT_BYTES_MAX, report) else {
            continue;
        };
        match positions::decode(&bytes) {
            Some(snapshot) => {
                if newest
                    .as_ref()
                    .is_none_or(|held| held.generation < snapshot.generation)
                {
                    newest = Some(snapshot);
                }
            }
            None => report.repairs.push(format!(
                "{} is damaged; the one before it and the batches after it are used",
                path.display()
            )),
        }
    }
    newest
}

/// The spool's identity: from its file, else from a snapshot, with the producer id of the newest batch.
pub(super) fn load_meta(
    storage: &dyn Storage,
    dir: &Path,
    snapshot: Option<&Snapshot>,
    partitions: &BTreeMap<TopicPartition, Arc<Partition>>,
    report: &mut SpoolReport,
) -> Option<Meta> {
    let path = dir.join(META);
    let bytes = read_if_there(storage, &path, SPOOL_META_BYTES_MAX, report);
    if let Some(meta) = bytes.as_deref().and_then(Meta::decode) {
        return Some(meta);
    }
    if bytes.is_some() || snapshot.is_some() || !partitions.is_empty() {
        report.repairs.push(format!(
            "{} is missing or damaged; it is made again from the newest snapshot and batch",
            path.display()
        ));
    }
    let mut meta = snapshot?.meta.clone();
    meta.producer_id = newest_producer(partitions).unwrap_or(meta.producer_id);
    Some(meta)
}

/// Whose sequences the last batch of the spool bears.
fn newest_producer(partitions: &BTreeMap<TopicPartition, Arc<Partition>>) -> Option<ProducerId> {
    partitions.values().find_map(|partition| {
        let last = Offset::new(partition.end().get() - 1)?;
        let mut newest = None;
        let replayed = partition.replay(last, READ_BYTES, |batch| {
            let producer = BatchHeader::parse(batch)
                .ok()
                .and_then(|header| header.producer);
            newest = producer.map(|producer| producer.id).or(newest);
        });
        replayed.ok().and(newest)
    })
}

/// Folds the positions of the batches after the snapshot.
fn replay(
    partitions: &BTreeMap<TopicPartition, Arc<Partition>>,
    folded: &BTreeMap<TopicPartition, Offset>,
    table: &mut Table,
    report: &mut SpoolReport,
) -> Result<()> {
    let mut decompressor = Decompressor::new();
    for (name, partition) in partitions {
        let from = folded.get(name).copied().unwrap_or_default();
        partition.folded(from.min(partition.end()));
        if from > partition.end() {
            report.repairs.push(format!(
                "{name} ends at {}, but positions up to {from} are known: batches are missing",
                partition.end()
            ));
        }
        let mut damaged = 0u64;
        let unread = partition.replay(from, READ_BYTES, |batch| {
            report.batches_replayed += 1;
            if fold(batch, name, &mut decompressor, table).is_err() {
                damaged += 1;
            }
        })?;
        if let Some(gap) = unread.first {
            report.repairs.push(format!(
                "{name}: {} records cannot be read, the first at {} ({}); their lines are read again \
                 where their files still have them",
                unread.records, gap.from, gap.reason
            ));
        }
        if damaged > 0 {
            report.repairs.push(format!(
                "{name}: {damaged} batches cannot be read; the lines they hold are read again \
                 where their files still have them"
            ));
        }
    }
    Ok(())
}

/// Counts the records that the positions speak of, that no log holds and that nobody acknowledged.
fn count_missing(
    partitions: &BTreeMap<TopicPartition, Arc<Partition>>,
    folded: &BTreeMap<TopicPartition, Offset>,
    acknowledged: &Acknowledged,
    table: &mut Table,
) {
    for (name, folded) in folded {
        let end = partitions
            .get(name)
            .map_or(Offset::ZERO, |partition| partition.end());
        let kept = acknowledged.get(name).copied().unwrap_or_default().max(end);
        let missing = u64::try_from(folded.get() - kept.get()).unwrap_or(0);
        if missing > 0 {
            let what = (LOST_SOURCE.to_owned(), LOST_DAMAGED.to_owned());
            table.losses.entry(what).or_default().count += missing;
        }
    }
}

/// Takes the positions out of one batch.
fn fold(
    batch: &[u8],
    name: &TopicPartition,
    decompressor: &mut Decompressor,
    table: &mut Table,
) -> Result<()> {
    for record in decompressor.records(batch)? {
        for entry in record?.headers {
            let (key, value) = entry?;
            if key != header::POSITION {
                continue;
            }
            let positions = value.and_then(|value| Position::decode_all(value).ok());
            for position in positions.into_iter().flatten() {
                table.put(Placed {
                    position,
                    partition: Some(name.clone()),
                });
            }
        }
    }
    Ok(())
}

/// A file's bytes. A file that cannot be read, or is longer than any that was written, is damaged:
/// that is reported, and the caller takes what is kept a second time.
fn read_if_there(
    storage: &dyn Storage,
    path: &Path,
    limit: usize,
    report: &mut SpoolReport,
) -> Option<Vec<u8>> {
    match read_whole(storage, path, limit) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            report
                .repairs
                .push(format!("{} cannot be read: {error}", path.display()));
            Some(Vec::new())
        }
    }
}
