//! The numbers and names that everything else is told by. An offset is not a sequence is not a
//! length.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::limits::{PARTITIONS_MAX, TOPIC_NAME_BYTES_MAX};

/// A record's place in its partition, counted from 0 without holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(i64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Offset = Offset(0);

    /// An offset, unless the number is negative.
    pub const fn new(value: i64) -> Option<Offset> {
        if value < 0 { None } else { Some(Offset(value)) }
    }

    /// The number, never negative.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The offset `records` further on; stays at the largest offset rather than wrap.
    #[must_use]
    pub const fn plus(self, records: u32) -> Offset {
        Offset(self.0.saturating_add(records as i64))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a producer's run of sequences: one per spool, drawn at random when the spool is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(i64);

impl ProducerId {
    /// A producer id, unless the number is negative (Kafka's "none" is -1).
    pub const fn new(value: i64) -> Option<ProducerId> {
        if value < 0 {
            None
        } else {
            Some(ProducerId(value))
        }
    }

    /// The number, never negative.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A producer's generation: a higher one fences the lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProducerEpoch(i16);

impl ProducerEpoch {
    /// The first generation.
    pub const ZERO: ProducerEpoch = ProducerEpoch(0);

    /// A producer epoch, unless the number is negative.
    pub const fn new(value: i16) -> Option<ProducerEpoch> {
        if value < 0 {
            None
        } else {
            Some(ProducerEpoch(value))
        }
    }

    /// The number, never negative.
    pub const fn get(self) -> i16 {
        self.0
    }
}

/// A record's number within its producer, epoch and partition: 31 bits, and 2³¹-1 is followed by 0
/// (Kafka, `DefaultRecordBatch.incrementSequence`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sequence(i32);

impl Sequence {
    /// The first sequence of every epoch.
    pub const ZERO: Sequence = Sequence(0);

    /// A sequence, unless the number is negative.
    pub const fn new(value: i32) -> Option<Sequence> {
        if value < 0 {
            None
        } else {
            Some(Sequence(value))
        }
    }

    /// The number, never negative.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The sequence `records` further on, wrapping from 2³¹-1 to 0.
    #[must_use]
    pub const fn plus(self, records: u32) -> Sequence {
        Sequence(((self.0 as i64 + records as i64) & 0x7fff_ffff) as i32)
    }

    /// The sequence that the record at `offset` of a spool bears: the offset's low 31 bits.
    pub const fn of_spool_offset(offset: Offset) -> Sequence {
        Sequence((offset.0 & 0x7fff_ffff) as i32)
    }

    /// How many records lie from `earlier` up to `self`, counted forward with wrap-around.
    #[expect(clippy::cast_sign_loss, reason = "masked to 31 bits")]
    pub const fn since(self, earlier: Sequence) -> u32 {
        ((self.0 as i64 - earlier.0 as i64) & 0x7fff_ffff) as u32
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Milliseconds since 1970-01-01 UTC. May be negative: log lines carry any date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub i64);

/// A topic's name: 1 to 200 of `a-z A-Z 0-9 . _ -`, not `.` or `..` (Kafka's rule, shortened so that
/// it can name a directory).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = Error;

    fn from_str(name: &str) -> Result<TopicName> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
            let len = name.len();
            return Err(Error::input(format!(
                "a topic's name has 1 to {TOPIC_NAME_BYTES_MAX} bytes, this one {len}"
            )));
        }
        if let Some(at) = name.bytes().position(|byte| !legal(byte)) {
            return Err(Error::input(format!(
                "topic name {name:?} has an illegal character at byte {at}; \
                 use letters, digits, '.', '_' and '-'"
            )));
        }
        if name == "." || name == ".." {
            return Err(Error::input(format!("topic name {name:?} would be a path")));
        }
        Ok(TopicName(name.into()))
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One partition of a topic. Its `Display`, `topic-partition`, is the name of its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicName,
    /// The partition, below [`PARTITIONS_MAX`].
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl FromStr for TopicPartition {
    type Err = Error;

    /// Reads a directory's name back: the partition follows the last `-`.
    fn from_str(name: &str) -> Result<TopicPartition> {
        let parts = name.rsplit_once('-').and_then(|(topic, partition)| {
            let partition: u32 = partition.parse().ok().filter(|&p| p < PARTITIONS_MAX)?;
            Some(TopicPartition {
                topic: topic.parse().ok()?,
                partition,
            })
        });
        parts.ok_or_else(|| Error::input(format!("{name:?} is not a topic and a partition")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_name_is_never_a_path() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "a\0b",
            "ä",
            "a b",
            &"x".repeat(201),
        ] {
            assert!(name.parse::<TopicName>().is_err(), "{name:?}");
        }
        for name in [
            "logs",
            "web.access",
            "__dead_letter",
            "a-1",
            &"x".repeat(200),
        ] {
            assert!(name.parse::<TopicName>().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_partition_is_read_back_from_its_directory_name() {
        for (topic, partition) in [("logs", 0), ("a-1", 12), ("-", 3)] {
            let it = TopicPartition {
                topic: topic.parse().unwrap(),
                partition,
            };
            assert_eq!(it.to_string().parse::<TopicPartition>().unwrap(), it);
        }
        assert!("logs".parse::<TopicPartition>().is_err());
        assert!("logs-9999999".parse::<TopicPartition>().is_err());
    }

    #[test]
    fn a_sequence_wraps_to_zero_after_31_bits() {
        let last = Sequence::new(i32::MAX).unwrap();
        assert_eq!(last.plus(1), Sequence::ZERO);
        assert_eq!(Sequence::ZERO.since(last), 1);
        assert_eq!(
            Sequence::of_spool_offset(Offset::new(1 << 31).unwrap()),
            Sequence::ZERO
        );
    }
}
