//! How far every file has been read: the table that the batches' positions fold into, and its
//! snapshots.
//!
//! A snapshot holds the table as of one offset for each partition; start-up reads the newest that is
//! whole and replays the positions of the batches after those offsets. It is written when everything
//! it covers is fsynced, and before anything it covers is trimmed. Two files take turns, so a torn
//! write leaves the one before.
//!
//! ```text
//! "WEIRPOS1" | generation u64 | spool.meta (field) | partitions u32, each: name (field), offset i64
//! sources u32, each: name (field)
//! positions u32, each: partition's index u32, 2³²-1 for none yet, position (field)
//! losses u32, each: source (field), reason (field), records u64, bytes u64 | CRC32C u32
//! ```
//! A field is a u32 length and bytes; integers are big-endian.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use commitlog::id::{Offset, TopicPartition};
use model::position::{LineageId, Position};

use super::codec::{Input, put_field, sealed, unseal};
use super::meta::Meta;

const MAGIC: &[u8; 8] = b"WEIRPOS1";

/// What a position takes with a path of 60 bytes. Room for all of them at once: a buffer that grows by
/// doubling takes three times as much in the end.
const POSITION_BYTES_USUAL: usize = 192;

/// The index of no partition.
const UNPLACED: u32 = u32::MAX;

/// A position, and the partition that its file's records go to, once that is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// How far the file was read.
    pub position: Position,
    /// Where its records are, and go on going, so that their order holds.
    pub partition: Option<TopicPartition>,
}

/// A position that is finished since this second is none: its epoch is forgotten once the batch that it
/// comes with is in the spool.
pub(crate) const FORGOTTEN_S: u64 = 0;

/// What is gone, by what it was lost to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Records, where they could be counted; else one each time that bytes of a file were lost.
    pub count: u64,
    /// Bytes that are known to be gone.
    pub bytes: u64,
}

/// Everything that start-up must know of the sources.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// Each by itself: a search passes the keys of 20,000 files, not their positions.
    pub(crate) positions: BTreeMap<(LineageId, u32), Box<Placed>>,
    /// Sources that have started before: `start_at` no longer applies to them.
    pub(crate) sources: BTreeSet<String>,
    /// By source and reason.
    pub(crate) losses: BTreeMap<(String, String), Loss>,
}

impl Table {
    /// A batch holds this position: it is the newest of its epoch. The same inode never goes back:
    /// after a change of topic, two partitions are replayed in any order.
    pub(crate) fn put(&mut self, placed: Placed) {
        let id = (placed.position.lineage, placed.position.epoch);
        if placed.position.finished_s == Some(FORGOTTEN_S) {
            self.positions.remove(&id);
            return;
        }
        match self.positions.entry(id) {
            Entry::Vacant(place) => {
                place.insert(Box::new(placed));
            }
            Entry::Occupied(mut known) => {
                let position = &known.get().position;
                if position.key != placed.position.key || position.offset <= placed.position.offset
                {
                    **known.get_mut() = placed;
                }
            }
        }
    }
}

/// The table as of some offsets.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) generation: u64,
    pub(crate) meta: Meta,
    /// Batches before these offsets are in the table.
    pub(crate) folded: BTreeMap<TopicPartition, Offset>,
    pub(crate) table: Table,
}

/// The bytes of a snapshot.
pub(crate) fn encode(
    generation: u64,
    meta: &Meta,
    folded: &BTreeMap<TopicPartition, Offset>,
    table: &Table,
) -> Vec<u8> {
    let mut partitions: BTreeMap<&TopicPartition, (u32, Offset)> = folded
        .iter()
        .map(|(name, offset)| (name, (0, *offset)))
        .collect();
    for partition in table
        .positions
        .values()
        .flat_map(|placed| &placed.partition)
    {
        partitions.entry(partition).or_insert((0, Offset::ZERO));
    }
    let mut bytes = Vec::with_capacity(table.positions.len() * POSITION_BYTES_USUAL);
    bytes.extend(MAGIC);
    bytes.extend(generation.to_be_bytes());
    put_field(&mut bytes, &meta.encode());
    put_count(&mut bytes, partitions.len());
    for (index, (name, (place, offset))) in (0u32..).zip(&mut partitions) {
        *place = index;
        put_field(&mut bytes, name.to_string().as_bytes());
        bytes.extend(offset.get().to_be_bytes());
    }
    put_count(&mut bytes, table.sources.len());
    for source in &table.sources {
        put_field(&mut bytes, source.as_bytes());
    }
    put_count(&mut bytes, table.positions.len());
    let mut encoded = Vec::new();
    for placed in table.positions.values() {
        let index = placed
            .partition
            .as_ref()
            .map_or(UNPLACED, |it| partitions[it].0);
        bytes.extend(index.to_be_bytes());
        encoded.clear();
        placed.position.encode(&mut encoded);
        put_field(&mut bytes, &encoded);
    }
    put_count(&mut bytes, table.losses.len());
    for ((source, reason), loss) in &table.losses {
        put_field(&mut bytes, source.as_bytes());
        put_field(&mut bytes, reason.as_bytes());
        bytes.extend(loss.count.to_be_bytes());
        bytes.extend(loss.bytes.to_be_bytes());
    }
    sealed(bytes)
}

/// Reads a snapshot; `None` when it is damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Snapshot> {
    let mut input = Input::new(unseal(bytes)?);
    if input.array::<8>()? != *MAGIC {
        return None;
    }
    let generation = input.u64()?;
    let meta = Meta::decode(input.field()?)?;
    let mut names = Vec::new();
    let mut folded = BTreeMap::new();
    for _ in 0..input.u32()? {
        let name: TopicPartition = text(&mut input)?.parse().ok()?;
        folded.insert(name.clone(), Offset::new(input.i64()?)?);
        names.push(name);
    }
    let mut table = Table::default();
    for _ in 0..input.u32()? {
        table.sources.insert(text(&mut input)?.to_owned());
    }
    for _ in 0..input.u32()? {
        let partition = match input.u32()? {
            UNPLACED => None,
            index => Some(names.get(usize::try_from(index).ok()?)?.clone()),
        };
        let position = Position::decode(input.field()?).ok()?;
        table.put(Placed {
            position,
            partition,
        });
    }
    for _ in 0..input.u32()? {
        let source = text(&mut input)?.to_owned();
        let reason = text(&mut input)?.to_owned();
        let (count, bytes) = (input.u64()?, input.u64()?);
        table.losses.insert((source, reason), Loss { count, bytes });
    }
    input.is_empty().then_some(Snapshot {
        generation,
        meta,
        folded,
        table,
    })
}

fn text<'a>(input: &mut Input<'a>) -> Option<&'a str> {
    std::str::from_utf8(input.field()?).ok()
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a snapshot has fewer than 2³² entries");
    bytes.extend(count.to_be_bytes());
}
