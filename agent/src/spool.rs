//! The queue on disk between the sources and the aggregators: one partition log for each destination,
//! and the positions of all files.
//!
//! [`Spool`] is a handle for three users. The data thread [`append`](Spool::append)s batches; the sync
//! thread calls [`sync_turn`](Spool::sync_turn) in a loop, which is a continuous group commit: while
//! one fsync runs the next batches gather; small batches that come now and then are fsynced by the data
//! thread ([`sync_appended`](Spool::sync_appended)), for whom nobody need be woken; the producer [`read`](Spool::read)s and
//! [`acknowledge`](Spool::acknowledge)s. No call blocks for longer than a file operation.
//!
//! Invariants:
//! - **I15** A batch is given to the producer only once it is fsynced: an aggregator never holds what this
//!   spool could forget.
//! - **I16** A batch and the file positions that it ends at are one write. There is nothing else to be ahead
//!   of the data or behind it.
//! - **I17** A batch is freed only when it is acknowledged, and its segment is trimmed only when a durable
//!   snapshot holds its positions.
//! - **I18** Full means wait: nothing is dropped to make room. Batches that are not yet fsynced stay in memory,
//!   so that a disk that fails an fsync costs none.
//!
//! On disk, in `data_dir`: `lock`, and in `spool/` the partition directories, `spool.meta`,
//! `acknowledged`, `acknowledged.recent`, `positions.0` and `positions.1`.

mod acknowledged;
mod codec;
mod meta;
mod open;
mod partition;
pub mod positions;
mod recent;
mod stored;
mod sync;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use commitlog::batch::header::{BatchHeader, Producer};
use commitlog::error::{Error, Result};
use commitlog::id::{Offset, ProducerEpoch, ProducerId, Sequence, TopicName, TopicPartition};
use commitlog::limits::PARTITIONS_MAX;
use commitlog::storage::{Lock, Storage, write_atomically};
use model::position::LineageId;
use tokio::sync::watch;

use crate::ambient::{Clock, Random};
use crate::limits::{
    APPENDER_SYNC_BYTES_MAX, DISK_LOOK_EVERY_MS, DISK_PLENTY_BYTES, LINGER_DEFAULT, LINGER_MAX,
    SPOOL_RESERVE_BYTES, SPOOL_RESERVE_SHARE,
};
use meta::Meta;
use partition::{Owner, Partition};
use positions::{Loss, Placed, Table};

pub use stored::{Stored, stored};
pub use sync::SyncTurn;

/// How a spool is opened.
#[derive(Clone)]
pub struct SpoolConfig {
    /// Directory of the agent: the spool is in `spool/` below it.
    pub data_dir: PathBuf,
    /// Bytes of all segments at which reading stops.
    pub bytes_max: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

/// The spool; clones are handles to the same one.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<Inner>,
}

/// What of a partition is spooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolRange {
    /// The first unacknowledged record.
    pub start: Offset,
    /// The end of what is fsynced: what may be sent.
    pub durable_end: Offset,
    /// The end of what is written.
    pub end: Offset,
}

/// What an aggregator tells about how to batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hints {
    /// How long a record may wait for others.
    pub linger: Duration,
    /// Partitions of the topics that the agent asked for or may write to.
    pub partitions: Vec<(TopicName, u32)>,
    /// Partitions that any other topic gets when it is first written; 0 when that is not told.
    pub partitions_of_new: u32,
}

/// All that was noted up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notes(u64);

/// Whether the spool took something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It is written; an fsync follows.
    Yes,
    /// There is no room now, or the disk fails. Nothing changed; come again.
    Wait,
}

/// Whose loss it is when the spool itself has lost something.
pub(crate) const LOST_SOURCE: &str = "spool";

/// Spooled batches that the disk did not keep.
pub(crate) const LOST_DAMAGED: &str = "damaged";

/// How full the spool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Unacknowledged bytes.
    pub unacknowledged_bytes: u64,
    /// Unacknowledged records.
    pub unacknowledged_records: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

struct Inner {
    storage: Arc<dyn Storage>,
    config: SpoolConfig,
    dir: PathBuf,
    clock: Clock,
    random: Random,
    /// Held by whoever replaces `spool.meta`, before `state`, which is not held meanwhile.
    meta_writes: Mutex<()>,
    /// Taken before a partition's lock, never the other way round. Never held while the disk is waited for.
    state: Mutex<State>,
    /// Taken last of all.
    table: Mutex<Table>,
    signal: Signal,
    changed: watch::Sender<u64>,
    hints: watch::Sender<Duration>,
    unsynced_bytes: Arc<AtomicUsize>,
    /// Called when what somebody waits for may have come.
    on_change: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    /// Whether somebody waits.
    is_awaited: AtomicBool,
    /// The disk had no more room than the reserve when it was looked at last.
    is_disk_short: AtomicBool,
    /// Something was acknowledged that is not saved.
    is_acknowledged_news: AtomicBool,
    /// Who appends makes it durable.
    appender_syncs: AtomicBool,
    /// What was appended meanwhile and nobody was woken for.
    appended_bytes: AtomicUsize,
    _lock: Lock,
}

struct State {
    meta: Meta,
    partitions: BTreeMap<TopicPartition, Arc<Partition>>,
    snapshot: sync::SnapshotState,
    saved: acknowledged::Saved,
    disk: DiskLook,
}

/// What the last look at the disk found.
#[derive(Debug, Default)]
struct DiskLook {
    at_ms: i64,
    /// Bytes above the reserve, less what was appended since.
    room: u64,
}

/// Wakes the sync thread.
#[derive(Default)]
struct Signal {
    raised: Mutex<bool>,
    condvar: Condvar,
}

impl Spool {
    /// Who this spool is to aggregators.
    pub fn producer_id(&self) -> ProducerId {
        self.state().meta.producer_id
    }

    /// Its generation.
    pub fn epoch(&self) -> ProducerEpoch {
        self.state().meta.epoch
    }

    /// The id that the present one replaced, after an identity conflict.
    pub fn replaced_producer_id(&self) -> Option<ProducerId> {
        self.state().meta.replaced
    }

    /// Keys the hashes of file contents and paths.
    pub fn salt(&self) -> [u8; 16] {
        self.state().meta.salt
    }

    /// The partitions that hold or held something.
    pub fn partitions(&self) -> Vec<TopicPartition> {
        self.state().partitions.keys().cloned().collect()
    }

    /// How many partitions a topic has, or gets when it is first written, as far as an aggregator has
    /// told.
    pub fn partition_count(&self, topic: &TopicName) -> Option<u32> {
        let told = || {
            let meta = &self.state().meta;
            let known = meta.partitions.get(topic).copied();
            known.or_else(|| (meta.partitions_of_new > 0).then_some(meta.partitions_of_new))
        };
        told().or_else(|| {
            self.expect_change();
            told()
        })
    }

    /// What of a partition is spooled; nothing where the partition is not known.
    pub fn range(&self, of: &TopicPartition) -> SpoolRange {
        match self.partition(of) {
            Some(partition) => partition.range(),
            None => SpoolRange {
                start: Offset::ZERO,
                durable_end: Offset::ZERO,
                end: Offset::ZERO,
            },
        }
    }

    /// Changes when a durable end has grown, a partition has appeared or the producer id is new.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// The linger that holds at present.
    pub fn linger(&self) -> watch::Receiver<Duration> {
        self.inner.hints.subscribe()
    }

    /// Whole batches from `from` on, as they are to be sent: at least one if any is fsynced, then up
    /// to `bytes_max`. The first one's base offset is past `from` when what lay there is damaged; an
    /// offset below the spool's start is an error that names the start.
    pub fn read(&self, of: &TopicPartition, from: Offset, bytes_max: usize) -> Result<Vec<Bytes>> {
        let Some(partition) = self.partition(of) else {
            return Ok(Vec::new());
        };
        partition.read(from, bytes_max, self.owner())
    }

    /// The same as [`read`](Self::read) without waiting for a disk; `None` where memory does not have it.
    pub fn read_recent(
        &self,
        of: &TopicPartition,
        from: Offset,
        bytes_max: usize,
    ) -> Option<Result<Vec<Bytes>>> {
        let partition = self.partition(of)?;
        partition.read_recent(from, bytes_max, self.owner())
    }

    /// The CRC that the batch beginning at `sequence` is sent with, if such a batch is spooled.
    pub fn batch_crc_at(&self, of: &TopicPartition, sequence: Sequence) -> Result<Option<u32>> {
        let range = self.range(of);
        let from = offset_near(range, sequence);
        let Some(from) = from.filter(|&from| from < range.durable_end) else {
            return Ok(None);
        };
        let batches = match self.read(of, from, 1) {
            Ok(batches) => batches,
            // Trimmed: no longer here.
            Err(error) if error.kind == commitlog::error::ErrorKind::Input => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(batch) = batches.first() else {
            return Ok(None);
        };
        let header = BatchHeader::parse(batch)?;
        Ok((header.base_offset == from).then_some(header.crc))
    }

    /// Everything before `upto` is durable at an aggregator: it is freed.
    pub fn acknowledge(&self, of: &TopicPartition, upto: Offset) {
        let Some(partition) = self.partition(of) else {
            return;
        };
        if !partition.acknowledge(upto) {
            return;
        }
        // Saving and trimming have time, unless reading waits for room: the first acknowledgement since
        // the last saving wakes the sync thread, which then looks by itself.
        let was_news = self.inner.is_acknowledged_news.swap(true, SeqCst);
        if !was_news || self.is_full() {
            self.inner.signal.raise();
        }
    }

    /// Goes on behind damaged batches that what is unacknowledged begins with, and counts them as lost.
    /// They are read again first: what the disk did not give for a moment is not lost.
    pub fn skip_damaged(&self, of: &TopicPartition) -> Result<()> {
        let from = self.range(of).start;
        let batches = self.read(of, from, 1)?;
        let Some(first) = batches.first() else {
            return Ok(());
        };
        let to = BatchHeader::parse(first)?.base_offset;
        let count = u64::try_from(to.get() - from.get()).unwrap_or(0);
        if count == 0 {
            return Ok(());
        }
        tracing::error!(partition = %of, %from, %to, "spooled batches are damaged and lost");
        self.count_loss(LOST_SOURCE, LOST_DAMAGED, Loss { count, bytes: 0 });
        self.acknowledge(of, to);
        Ok(())
    }

    /// Becomes somebody else: another spool claims this one's id. Waits until that is durable. Batches
    /// that are already spooled are given to the new id as they are read.
    pub fn renew_producer_id(&self, reason: &str) -> Result<ProducerId> {
        let id = meta::draw_producer_id(&self.inner.random);
        let writing = lock(&self.inner.meta_writes);
        let mut meta = self.state().meta.clone();
        let old = meta.producer_id;
        meta.replaced = Some(old);
        meta.producer_id = id;
        meta.epoch = ProducerEpoch::ZERO;
        self.write_meta(&meta)?;
        tracing::warn!(%old, new = %id, reason, "producer id renewed");
        self.state().meta = meta;
        drop(writing);
        self.inner.changed.send_modify(|version| *version += 1);
        Ok(id)
    }

    /// Takes over what the aggregator told. Partition counts never shrink: files stay where they are.
    /// Waits for the disk when they have grown.
    pub fn apply_hints(&self, hints: Hints) {
        let linger = hints.linger.min(LINGER_MAX);
        self.inner.hints.send_if_modified(|held| {
            let differs = *held != linger;
            *held = linger;
            differs
        });
        let writing = lock(&self.inner.meta_writes);
        let old = self.state().meta.clone();
        let mut meta = old.clone();
        for (topic, count) in hints.partitions {
            let held = meta.partitions.entry(topic).or_insert(0);
            *held = (*held).max(count.clamp(1, PARTITIONS_MAX));
        }
        meta.partitions_of_new = hints.partitions_of_new.min(PARTITIONS_MAX);
        if meta == old {
            return;
        }
        // Learnt anew at the next connection when it cannot be written now.
        if let Err(error) = self.write_meta(&meta) {
            tracing::warn!(%error, "partition counts are not saved");
        }
        self.state().meta = meta;
        drop(writing);
        self.tell_change();
    }

    /// Where the next batch of a partition begins; the partition is created on first use.
    pub fn next_producer(&self, to: &TopicPartition) -> Result<Producer> {
        let partition = self.partition_or_create(to)?;
        Ok(self.owner().producer(partition.range().end))
    }

    /// Writes a batch that was built with [`next_producer`](Self::next_producer), together with the
    /// positions that its records carry. The batch is taken out of `batch` when the answer is
    /// [`Taken::Yes`].
    pub fn append(
        &self,
        to: &TopicPartition,
        batch: &mut Vec<u8>,
        positions: &mut Vec<Placed>,
    ) -> Result<Taken> {
        let partition = self.partition_or_create(to)?;
        let batch_bytes = batch.len() as u64;
        let now = (self.inner.clock)();
        // No record carries that its file is finished.
        let is_noted = positions.iter().any(|it| it.position.finished_s.is_some());
        let mut append = || {
            if self.is_full() || self.is_disk_short(batch_bytes) {
                return Ok(Taken::Wait);
            }
            partition.append(batch, self.owner(), now, || {
                let mut table = self.table();
                for placed in positions.drain(..) {
                    table.put(placed);
                }
            })
        };
        let mut taken = append()?;
        if taken == Taken::Wait {
            self.expect_change();
            taken = append()?;
        }
        if taken == Taken::Yes {
            let mut state = self.state();
            state.snapshot.bytes_written += batch_bytes;
            state.snapshot.noted |= is_noted;
            drop(state);
            self.told_of(batch_bytes);
        }
        Ok(taken)
    }

    /// Whether more may be read. Where not, a change is awaited.
    pub fn has_room(&self) -> bool {
        !self.is_full() || {
            self.expect_change();
            !self.is_full()
        }
    }

    /// Whether the spool is at its limit, or the disk at its own. Discovery goes on, reading does not.
    /// What is acknowledged goes by whole segments; of a full spool also the segments that are being
    /// written.
    pub fn is_full(&self) -> bool {
        self.inner.is_disk_short.load(SeqCst)
            || self.fill().disk_bytes >= self.inner.config.bytes_max
    }

    /// Looks whether the disk has room for so many bytes and the reserve; once it had not, for a little
    /// more, so that it does not change with every batch.
    fn is_disk_short(&self, bytes: u64) -> bool {
        let now = (self.inner.clock)().0;
        let was_short = self.inner.is_disk_short.load(SeqCst);
        if !was_short && self.state().disk.has_plenty(bytes, now) {
            return false;
        }
        let Ok(space) = self.inner.storage.free_bytes(&self.inner.dir) else {
            // The write itself will tell.
            return false;
        };
        let reserve = SPOOL_RESERVE_BYTES.min(space.total / SPOOL_RESERVE_SHARE);
        let more = if was_short { reserve / 4 } else { 0 };
        let is_short = space.free < bytes.saturating_add(reserve + more);
        self.inner.is_disk_short.store(is_short, SeqCst);
        self.state().disk = DiskLook {
            at_ms: now,
            room: space.free.saturating_sub(reserve),
        };
        let dir = self.inner.dir.display();
        match (was_short, is_short) {
            (false, true) => tracing::warn!(
                %dir, free_bytes = space.free, reserve_bytes = reserve,
                "the disk is full: reading waits for room, nothing is lost unless files rotate away"
            ),
            (true, false) => {
                tracing::info!(%dir, free_bytes = space.free, "the disk has room: reading goes on");
            }
            _ => {}
        }
        is_short
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        let state = self.state();
        let mut fill = Fill::default();
        for partition in state.partitions.values() {
            let part = partition.fill();
            fill.unacknowledged_bytes += part.unacknowledged_bytes;
            fill.unacknowledged_records += part.unacknowledged_records;
            fill.disk_bytes += part.disk_bytes;
        }
        fill
    }

    /// The positions of all files that are known.
    pub fn positions(&self) -> Vec<Placed> {
        let table = self.table();
        table.positions.values().map(|it| (**it).clone()).collect()
    }

    /// The positions of one path's files, in the order of their epochs.
    pub fn positions_of(&self, lineage: LineageId) -> Vec<Placed> {
        let table = self.table();
        let of_path = table.positions.range((lineage, 0)..=(lineage, u32::MAX));
        of_path.map(|(_, placed)| (**placed).clone()).collect()
    }

    /// Takes positions that no record carries: a file that begins at its end, a copy that was found.
    /// They are durable with the next snapshot, about a second later, or see [`Spool::save_notes`].
    pub fn note(&self, placed: Placed) {
        let id = (placed.position.lineage, placed.position.epoch);
        self.table().positions.insert(id, Box::new(placed));
        self.note_changed();
    }

    /// Forgets an epoch: its file is gone.
    pub fn forget(&self, lineage: LineageId, epoch: u32) {
        if self.table().positions.remove(&(lineage, epoch)).is_some() {
            self.note_changed();
        }
    }

    /// Whether a source of this name has started before.
    pub fn knows_source(&self, source: &str) -> bool {
        self.table().sources.contains(source)
    }

    /// Remembers that a source has started.
    pub fn remember_source(&self, source: &str) {
        if self.table().sources.insert(source.to_owned()) {
            self.note_changed();
        }
    }

    /// Has everything that was noted saved without delay; [`Spool::is_saved`] tells when it is.
    pub fn save_notes(&self) -> Notes {
        let mut state = self.state();
        state.snapshot.noted = true;
        state.snapshot.is_urgent = true;
        let notes = state.snapshot.generation;
        drop(state);
        self.inner.signal.raise();
        Notes(notes)
    }

    /// Whether these notes are durable. Where not, a change is awaited.
    pub fn is_saved(&self, notes: Notes) -> bool {
        let is_saved = || self.state().snapshot.generation_saved > notes.0;
        is_saved() || {
            self.expect_change();
            is_saved()
        }
    }

    /// Counts what is gone and cannot be delivered. Saved without delay, and before what is acknowledged
    /// after it: nothing that was skipped goes uncounted.
    pub fn count_loss(&self, source: &str, reason: &str, loss: Loss) {
        let mut table = self.table();
        let sum = table
            .losses
            .entry((source.to_owned(), reason.to_owned()))
            .or_default();
        sum.count += loss.count;
        sum.bytes += loss.bytes;
        drop(table);
        let mut state = self.state();
        state.snapshot.noted = true;
        state.snapshot.is_urgent = true;
        drop(state);
        self.inner.signal.raise();
    }

    /// All losses so far, by source and reason, over all restarts.
    pub fn losses(&self) -> BTreeMap<(String, String), Loss> {
        self.table().losses.clone()
    }

    /// Has `wake` called once what was asked for and not there may have come: room, notes on disk, a
    /// number of partitions.
    pub fn on_change(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        *lock(&self.inner.on_change) = Some(wake);
    }

    /// The directory of the spool.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    fn owner(&self) -> Owner {
        let state = self.state();
        Owner {
            id: state.meta.producer_id,
            epoch: state.meta.epoch,
        }
    }

    fn partition(&self, of: &TopicPartition) -> Option<Arc<Partition>> {
        self.state().partitions.get(of).cloned()
    }

    fn partition_or_create(&self, of: &TopicPartition) -> Result<Arc<Partition>> {
        if let Some(partition) = self.partition(of) {
            return Ok(partition);
        }
        let partition = Arc::new(self.open_partition(of)?);
        let mut state = self.state();
        state.partitions.insert(of.clone(), Arc::clone(&partition));
        drop(state);
        self.inner.changed.send_modify(|version| *version += 1);
        Ok(partition)
    }

    /// So much was appended: the sync thread is woken, unless it is little and made durable by who appends.
    fn told_of(&self, bytes: u64) {
        if self.inner.appender_syncs.load(SeqCst) {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            let before = self.inner.appended_bytes.fetch_add(bytes, SeqCst);
            if before.saturating_add(bytes) <= APPENDER_SYNC_BYTES_MAX {
                return;
            }
        }
        self.inner.signal.raise();
    }

    fn note_changed(&self) {
        self.state().snapshot.noted = true;
        self.inner.signal.raise();
    }

    /// The next change is told. To be called before what is waited for is looked at a last time, so that
    /// no change can come between.
    fn expect_change(&self) {
        self.inner.is_awaited.store(true, SeqCst);
    }

    /// What somebody waits for may have come.
    fn tell_change(&self) {
        if !self.inner.is_awaited.swap(false, SeqCst) {
            return;
        }
        let wake = lock(&self.inner.on_change).clone();
        if let Some(wake) = wake {
            wake();
        }
    }

    fn write_meta(&self, meta: &Meta) -> Result<()> {
        let path = self.inner.dir.join(open::META);
        write_atomically(&*self.inner.storage, &path, &meta.encode())
            .map_err(|error| Error::io(format!("write {}", path.display()), error))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.inner.table)
    }
}

impl DiskLook {
    /// Whether so many bytes and more than others write meanwhile had room a moment ago. Takes them off.
    fn has_plenty(&mut self, bytes: u64, now: i64) -> bool {
        let is_recent = (now - self.at_ms).unsigned_abs() < DISK_LOOK_EVERY_MS;
        let has = is_recent && self.room >= bytes.saturating_add(DISK_PLENTY_BYTES);
        if has {
            self.room -= bytes;
        }
        has
    }
}

impl Signal {
    /// Wakes the sync thread, with no lock held that it would have to wait for at once.
    fn raise(&self) {
        let was_raised = std::mem::replace(&mut *lock(&self.raised), true);
        if !was_raised {
            self.condvar.notify_one();
        }
    }
}

/// The offset whose low 31 bits are `sequence`, near the spooled range. The wire's sequences wrap, the
/// spool's offsets do not; a spool never holds 2³⁰ records of a partition at once.
fn offset_near(range: SpoolRange, sequence: Sequence) -> Option<Offset> {
    let end = Sequence::of_spool_offset(range.end);
    let back = i64::from(end.since(sequence));
    Offset::new(range.end.get() - back).filter(|&offset| offset >= range.start)
}

/// Takes a lock. What a panicking thread left behind is still consistent: every change is made whole
/// before its lock is released.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const _: () = assert!(LINGER_DEFAULT.as_millis() < LINGER_MAX.as_millis());

#[cfg(test)]
mod tests;
