//! A batch's 61 header bytes: read, verified, patched. The records are never decompressed here: this
//! is all that a broker does with a batch, 1 to 2 ns a line.
//!
//! [`BatchHeader::parse`] checks what 61 bytes can tell; [`verify`] needs the whole batch and says
//! whether it is what its producer sealed and whether a log may take it. A batch with a wrong CRC is
//! damaged; all else that is refused is wrong input, made so by its producer.
//!
//! Invariant **I12**: a batch that [`verify`] accepts is what its producer sealed, and [`patch`] changes
//! twelve bytes of it that no consumer of its records can see.

use crate::error::{Error, Result};
use crate::id::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use crate::limits::{BATCH_BYTES_MAX, BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX};

/// What the header says. Where it was [`parse`](BatchHeader::parse)d, its fields fit each other:
/// `record_count` is `last_offset_delta + 1`, and no offset passes the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first record's offset.
    pub base_offset: Offset,
    /// Bytes after the length field, so all but 12.
    pub batch_length: u32,
    /// 0 in our logs, -1 from a producer.
    pub leader_epoch: i32,
    /// CRC-32C of all bytes from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: u16,
    /// The last record's offset less the first's.
    pub last_offset_delta: u32,
    /// What the records' timestamps are told from.
    pub base_timestamp: Timestamp,
    /// The latest of the records' timestamps.
    pub max_timestamp: Timestamp,
    /// Who made it, when the producer is idempotent; ours always is.
    pub producer: Option<Producer>,
    /// From 1 to [`BATCH_RECORDS_MAX`].
    pub record_count: u32,
}

/// Who made a batch and which of the producer's records is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// The producer.
    pub id: ProducerId,
    /// Its generation.
    pub epoch: ProducerEpoch,
    /// The first record's sequence.
    pub base_sequence: Sequence,
}

/// How the records are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Zstd,
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`; what follows it is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader> {
        let Some((bytes, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            let len = bytes.len();
            return Err(Error::input(format!(
                "a batch's header has {HEADER_BYTES} bytes, only {len} are here"
            )));
        };
        if bytes[MAGIC_AT] != MAGIC {
            let magic = bytes[MAGIC_AT];
            return Err(Error::input(format!(
                "batch has format {magic}, only format {MAGIC} is read"
            )));
        }
        let header = BatchHeader {
            base_offset: base_offset(bytes)?,
            batch_length: u32::from_be_bytes(field(bytes, 8)),
            leader_epoch: i32::from_be_bytes(field(bytes, LEADER_EPOCH_AT)),
            crc: u32::from_be_bytes(field(bytes, CRC_AT)),
            attributes: u16::from_be_bytes(field(bytes, SEALED_FROM)),
            last_offset_delta: u32::from_be_bytes(field(bytes, 23)),
            base_timestamp: Timestamp(i64::from_be_bytes(field(bytes, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(field(bytes, 35))),
            producer: producer(bytes)?,
            record_count: u32::from_be_bytes(field(bytes, 57)),
        };
        header.check()?;
        Ok(header)
    }

    /// The batch's size, this header included.
    pub const fn total_bytes(&self) -> usize {
        self.batch_length as usize + LENGTH_EXCLUDES
    }

    /// The last record's offset.
    pub const fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.last_offset_delta)
    }

    /// The offset that follows the last record.
    pub const fn next_offset(&self) -> Offset {
        self.base_offset.plus(self.record_count)
    }

    /// The sequence that the producer's next batch begins with.
    pub fn next_sequence(&self) -> Option<Sequence> {
        let next = |producer: Producer| producer.base_sequence.plus(self.record_count);
        self.producer.map(next)
    }

    fn check(&self) -> Result<()> {
        let bytes = self.total_bytes();
        if !(HEADER_BYTES..=BATCH_BYTES_MAX).contains(&bytes) {
            return Err(Error::input(format!(
                "batch says it has {bytes} bytes, legal are {HEADER_BYTES} to {BATCH_BYTES_MAX}"
            )));
        }
        let (count, last) = (self.record_count, self.last_offset_delta);
        if !(1..=BATCH_RECORDS_MAX).contains(&count) {
            return Err(Error::input(format!(
                "batch says it has {count} records, legal are 1 to {BATCH_RECORDS_MAX}"
            )));
        }
        if last != count - 1 {
            return Err(Error::input(format!(
                "batch of {count} records says that its last offset delta is {last}"
            )));
        }
        let base = self.base_offset;
        if base.get().checked_add(i64::from(count)).is_none() {
            return Err(Error::input(format!(
                "batch of {count} records at offset {base} passes the largest offset"
            )));
        }
        Ok(())
    }

    /// The codec, or why a log does not take the batch.
    pub(super) fn codec(&self) -> Result<Codec> {
        let flags = self.attributes & !CODEC_BITS;
        let refused = match flags {
            0 => None,
            _ if flags & CONTROL != 0 => Some("is a control batch"),
            _ if flags & TRANSACTIONAL != 0 => Some("belongs to a transaction"),
            _ if flags & LOG_APPEND_TIME != 0 => Some("bears append time"),
            _ => Some("has attributes of an unknown meaning"),
        };
        if let Some(what) = refused {
            let attributes = self.attributes;
            return Err(Error::input(format!(
                "batch {what} (attributes {attributes:#06x}); only plain batches are taken"
            )));
        }
        match self.attributes & CODEC_BITS {
            0 => Ok(Codec::None),
            ATTRIBUTES_ZSTD => Ok(Codec::Zstd),
            other => {
                let name = CODEC_NAMES[usize::from(other)];
                Err(Error::input(format!(
                    "batch is compressed with {name}; set the producer to zstd or none"
                )))
            }
        }
    }
}

/// Checks that `batch` is exactly one whole batch with a true CRC, and one that a log may take. The
/// records stay compressed; [`records`](super::records) checks them when they are read.
pub fn verify(batch: &[u8]) -> Result<BatchHeader> {
    let header = BatchHeader::parse(batch)?;
    let (stated, have) = (header.total_bytes(), batch.len());
    if stated != have {
        return Err(Error::input(format!(
            "batch says it has {stated} bytes, {have} are here"
        )));
    }
    let crc = crc32c::crc32c(&batch[SEALED_FROM..]);
    if crc != header.crc {
        let stated = header.crc;
        return Err(Error::damaged(format!(
            "batch's checksum is {crc:08x}, its header says {stated:08x}"
        )));
    }
    if header.codec()? == Codec::Zstd {
        raw_bytes_stated(&batch[HEADER_BYTES..])?;
    }
    Ok(header)
}

/// The batch at the front of `bytes`, verified, and the bytes behind it.
pub fn split_first(bytes: &[u8]) -> Result<(BatchHeader, &[u8], &[u8])> {
    let stated = BatchHeader::parse(bytes)?.total_bytes();
    let Some((batch, rest)) = bytes.split_at_checked(stated) else {
        let have = bytes.len();
        return Err(Error::input(format!(
            "batch says it has {stated} bytes, only {have} are here"
        )));
    };
    Ok((verify(batch)?, batch, rest))
}

/// What the records of `batch`, which [`verify`] accepted, take when they are decompressed; the most
/// that is legal where their frame does not say.
pub fn raw_bytes(batch: &[u8]) -> usize {
    let records = batch.get(HEADER_BYTES..).unwrap_or_default();
    match BatchHeader::parse(batch).and_then(|header| header.codec()) {
        Ok(Codec::Zstd) => match raw_bytes_stated(records) {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(_) => BATCH_RAW_BYTES_MAX,
        },
        Ok(Codec::None) | Err(_) => records.len(),
    }
}

/// Places a batch in a log: base offset, and leader epoch 0. The CRC does not cover them.
///
/// `batch` is one that [`verify`] accepted.
pub fn patch(batch: &mut [u8], base: Offset) {
    assert!(batch.len() >= HEADER_BYTES, "a batch has a whole header");
    batch[..8].copy_from_slice(&base.get().to_be_bytes());
    batch[LEADER_EPOCH_AT..MAGIC_AT].fill(0);
}

/// Gives a batch to another producer: 14 bytes and the CRC. The same batch and producer always give
/// the same bytes.
///
/// `batch` is one that [`verify`] accepted.
pub fn restamp(batch: &mut [u8], producer: Producer) {
    assert!(batch.len() >= HEADER_BYTES, "a batch has a whole header");
    let stamp = &mut batch[PRODUCER_AT..];
    stamp[..8].copy_from_slice(&producer.id.get().to_be_bytes());
    stamp[8..10].copy_from_slice(&producer.epoch.get().to_be_bytes());
    stamp[10..14].copy_from_slice(&producer.base_sequence.get().to_be_bytes());
    seal(batch);
}

/// Writes the CRC over all that it covers.
pub(super) fn seal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[SEALED_FROM..]);
    batch[CRC_AT..SEALED_FROM].copy_from_slice(&crc.to_be_bytes());
}

/// The size that a zstd frame states for its content, `None` when it states none. A frame that states
/// more than a batch may hold is refused before a byte of it is decompressed.
pub(super) fn raw_bytes_stated(frame: &[u8]) -> Result<Option<usize>> {
    let stated = zstd::zstd_safe::get_frame_content_size(frame)
        .map_err(|_| Error::input("batch says that its records are zstd, they are not"))?;
    let Some(bytes) = stated else {
        return Ok(None);
    };
    match usize::try_from(bytes) {
        Ok(bytes) if bytes <= BATCH_RAW_BYTES_MAX => Ok(Some(bytes)),
        _ => Err(Error::input(format!(
            "batch's records would decompress to {bytes} bytes, at most {BATCH_RAW_BYTES_MAX} \
             are read; cut smaller batches"
        ))),
    }
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    *header[at..]
        .first_chunk()
        .expect("every field ends inside the header")
}

fn base_offset(header: &[u8; HEADER_BYTES]) -> Result<Offset> {
    let value = i64::from_be_bytes(field(header, 0));
    Offset::new(value).ok_or_else(|| Error::input(format!("batch has the base offset {value}")))
}

/// The producer's three fields: all valid, or all -1.
fn producer(header: &[u8; HEADER_BYTES]) -> Result<Option<Producer>> {
    let id = i64::from_be_bytes(field(header, PRODUCER_AT));
    let epoch = i16::from_be_bytes(field(header, PRODUCER_AT + 8));
    let sequence = i32::from_be_bytes(field(header, PRODUCER_AT + 10));
    if (id, epoch, sequence) == (-1, -1, -1) {
        return Ok(None);
    }
    let producer = || {
        Some(Producer {
            id: ProducerId::new(id)?,
            epoch: ProducerEpoch::new(epoch)?,
            base_sequence: Sequence::new(sequence)?,
        })
    };
    producer().map(Some).ok_or_else(|| {
        Error::input(format!(
            "batch has producer id {id}, epoch {epoch}, sequence {sequence}; \
             either all are valid or all are -1"
        ))
    })
}

/// Everything before the records.
pub const HEADER_BYTES: usize = 61;

/// What the length field does not count: the base offset and itself.
pub(super) const LENGTH_EXCLUDES: usize = 12;

pub(super) const MAGIC: u8 = 2;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const CRC_AT: usize = 17;
/// The CRC covers everything from here on.
pub(super) const SEALED_FROM: usize = 21;
pub(super) const PRODUCER_AT: usize = 43;

const CODEC_BITS: u16 = 0b111;
const CODEC_NAMES: [&str; 8] = [
    "none", "gzip", "snappy", "lz4", "zstd", "codec 5", "codec 6", "codec 7",
];
const LOG_APPEND_TIME: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;

/// The attributes of a batch whose records are one zstd frame.
pub(super) const ATTRIBUTES_ZSTD: u16 = 4;
