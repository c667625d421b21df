//! `spool.meta`: who the spool is to aggregators and what it was told about topics. Small, written
//! whole, replaced in one step.
//!
//! ```text
//! "WEIRSPL1" | producer id i64 | epoch i16 | replaced id i64, -1 for none | salt 16 bytes
//! partitions of a new topic u32, 0 for not told | topics u32, each: name length u8, name, partitions u32
//! CRC32C of all before, u32
//! ```
//! Big-endian. The same bytes are in every position snapshot: a damaged file is read from there.

use std::collections::BTreeMap;

use commitlog::id::{ProducerEpoch, ProducerId, TopicName};
use commitlog::limits::PARTITIONS_MAX;

use super::codec::{Input, sealed, unseal};
use crate::ambient::Random;

const MAGIC: &[u8; 8] = b"WEIRSPL1";

/// What the spool knows besides its batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Names this spool's run of sequences; drawn at random.
    pub(crate) producer_id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    /// The id before this one, after an identity conflict.
    pub(crate) replaced: Option<ProducerId>,
    /// Keys the hashes of file contents and paths.
    pub(crate) salt: [u8; 16],
    /// Partitions of each topic, as the aggregator told.
    pub(crate) partitions: BTreeMap<TopicName, u32>,
    /// What it told of all other topics; 0 when nothing.
    pub(crate) partitions_of_new: u32,
}

impl Meta {
    /// A new spool's.
    pub(crate) fn draw(random: &Random) -> Meta {
        let mut salt = [0; 16];
        random(&mut salt);
        Meta {
            producer_id: draw_producer_id(random),
            epoch: ProducerEpoch::ZERO,
            replaced: None,
            salt,
            partitions: BTreeMap::new(),
            partitions_of_new: 0,
        }
    }

    /// The file's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.producer_id.get().to_be_bytes());
        bytes.extend(self.epoch.get().to_be_bytes());
        let replaced = self.replaced.map_or(-1, ProducerId::get);
        bytes.extend(replaced.to_be_bytes());
        bytes.extend(self.salt);
        bytes.extend(self.partitions_of_new.to_be_bytes());
        let topics = u32::try_from(self.partitions.len()).unwrap_or(u32::MAX);
        bytes.extend(topics.to_be_bytes());
        for (topic, partitions) in &self.partitions {
            let name = topic.as_str().as_bytes();
            bytes.push(u8::try_from(name.len()).expect("a topic's name has at most 200 bytes"));
            bytes.extend(name);
            bytes.extend(partitions.to_be_bytes());
        }
        sealed(bytes)
    }

    /// Reads the file's bytes; `None` when they are damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Meta> {
        let mut input = Input::new(unseal(bytes)?);
        if input.array::<8>()? != *MAGIC {
            return None;
        }
        let producer_id = ProducerId::new(input.i64()?)?;
        let epoch = ProducerEpoch::new(i16::from_be_bytes(input.array()?))?;
        let replaced = ProducerId::new(input.i64()?);
        let salt = input.array()?;
        let partitions_of_new = input.u32()?;
        if partitions_of_new > PARTITIONS_MAX {
            return None;
        }
        let mut partitions = BTreeMap::new();
        for _ in 0..input.u32()? {
            let length = usize::from(input.array::<1>()?[0]);
            let name = std::str::from_utf8(input.take(length)?).ok()?;
            let count = input.u32()?;
            if count == 0 || count > PARTITIONS_MAX {
                return None;
            }
            partitions.insert(name.parse().ok()?, count);
        }
        input.is_empty().then_some(Meta {
            producer_id,
            epoch,
            replaced,
            salt,
            partitions,
            partitions_of_new,
        })
    }
}

/// 63 random bits: no two spools share an id by chance.
pub(crate) fn draw_producer_id(random: &Random) -> ProducerId {
    let mut bytes = [0; 8];
    random(&mut bytes);
    ProducerId::new(i64::from_be_bytes(bytes) & i64::MAX).expect("the sign bit is masked off")
}
