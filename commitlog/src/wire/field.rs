//! The fields of control messages, written and read in order. A reader never trusts a length or a count
//! that it has not compared with a limit.

use crate::error::{Error, Result};
use crate::id::{ProducerEpoch, ProducerId, Sequence, TopicName, TopicPartition};
use crate::limits::{PARTITIONS_MAX, TOPIC_NAME_BYTES_MAX};

use super::varint;

/// Takes fields from the front of a message.
pub(super) struct FieldReader<'a> {
    bytes: &'a [u8],
}

impl<'a> FieldReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> FieldReader<'a> {
        FieldReader { bytes }
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8]> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            let left = self.bytes.len();
            return Err(Error::input(format!(
                "message ends in its {what}: {count} bytes wanted, {left} left"
            )));
        };
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self, what: &str) -> Result<u8> {
        Ok(self.take(1, what)?[0])
    }

    pub(super) fn varint(&mut self, what: &str) -> Result<u64> {
        let (value, size) = varint::read(self.bytes)
            .ok_or_else(|| Error::input(format!("message ends in its {what}")))?;
        self.bytes = &self.bytes[size..];
        Ok(value)
    }

    pub(super) fn number32(&mut self, what: &str) -> Result<u32> {
        let value = self.varint(what)?;
        u32::try_from(value).map_err(|_| Error::input(format!("{what} {value} is too large")))
    }

    pub(super) fn fixed32(&mut self, what: &str) -> Result<u32> {
        let bytes = self.take(4, what)?;
        Ok(u32::from_be_bytes(
            bytes.try_into().expect("four were taken"),
        ))
    }

    pub(super) fn bytes(&mut self, what: &str, bytes_max: usize) -> Result<&'a [u8]> {
        let len = self.varint(what)?;
        match usize::try_from(len) {
            Ok(len) if len <= bytes_max => self.take(len, what),
            _ => Err(Error::input(format!(
                "{what} of {len} bytes is over the limit of {bytes_max}"
            ))),
        }
    }

    pub(super) fn text(&mut self, what: &str, bytes_max: usize) -> Result<String> {
        let bytes = self.bytes(what, bytes_max)?;
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Error::input(format!("{what} is not UTF-8: {e}")))?;
        Ok(text.to_owned())
    }

    pub(super) fn flag(&mut self, what: &str) -> Result<bool> {
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::input(format!("{what} is {other}, not 0 or 1"))),
        }
    }

    /// Reads a list. Its count is checked; its memory grows with the items that are really there.
    pub(super) fn list<T>(
        &mut self,
        what: &str,
        count_max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.varint(what)?;
        if count > count_max as u64 {
            return Err(Error::input(format!(
                "{count} items of {what} are over the limit of {count_max}"
            )));
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub(super) fn producer(&mut self) -> Result<ProducerId> {
        let bytes = self.take(8, "producer id")?;
        let value = i64::from_be_bytes(bytes.try_into().expect("eight were taken"));
        ProducerId::new(value)
            .ok_or_else(|| Error::input(format!("producer id {value} is negative")))
    }

    pub(super) fn epoch(&mut self) -> Result<ProducerEpoch> {
        let value = self.varint("producer epoch")?;
        i16::try_from(value)
            .ok()
            .and_then(ProducerEpoch::new)
            .ok_or_else(|| Error::input(format!("producer epoch {value} is over 32767")))
    }

    pub(super) fn sequence(&mut self, what: &str) -> Result<Sequence> {
        let value = self.varint(what)?;
        i32::try_from(value)
            .ok()
            .and_then(Sequence::new)
            .ok_or_else(|| Error::input(format!("{what} {value} is over 2147483647")))
    }

    pub(super) fn topic(&mut self) -> Result<TopicName> {
        self.text("topic", TOPIC_NAME_BYTES_MAX)?.parse()
    }

    pub(super) fn topic_partition(&mut self) -> Result<TopicPartition> {
        let topic = self.topic()?;
        let partition = self.number32("partition")?;
        if partition >= PARTITIONS_MAX {
            return Err(Error::input(format!(
                "partition {partition} of topic {topic} is over the limit of {PARTITIONS_MAX}"
            )));
        }
        Ok(TopicPartition { topic, partition })
    }
}

/// Appends fields to a message. What it writes a [`FieldReader`] reads; texts that are too long are cut.
pub(super) struct FieldWriter<'a> {
    pub(super) out: &'a mut Vec<u8>,
}

impl FieldWriter<'_> {
    pub(super) fn byte(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(super) fn varint(&mut self, value: u64) {
        // A count past 62 bits is not reachable by counting; saturate rather than panic.
        varint::write(self.out, value.min(varint::VARINT_MAX));
    }

    pub(super) fn fixed32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value);
    }

    pub(super) fn text(&mut self, value: &str, bytes_max: usize) {
        let end = value.floor_char_boundary(bytes_max.min(value.len()));
        self.bytes(&value.as_bytes()[..end]);
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.varint(items.len() as u64);
        for it in items {
            item(self, it);
        }
    }

    pub(super) fn producer(&mut self, id: ProducerId) {
        self.out.extend_from_slice(&id.get().to_be_bytes());
    }

    pub(super) fn epoch(&mut self, epoch: ProducerEpoch) {
        self.varint(u64::from(epoch.get().unsigned_abs()));
    }

    pub(super) fn sequence(&mut self, sequence: Sequence) {
        self.varint(u64::from(sequence.get().unsigned_abs()));
    }

    pub(super) fn topic_partition(&mut self, partition: &TopicPartition) {
        self.bytes(partition.topic.as_str().as_bytes());
        self.varint(u64::from(partition.partition));
    }
}
