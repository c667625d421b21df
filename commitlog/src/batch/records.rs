//! Reads a batch's records, borrowed: no allocation a record, every length checked before it is used.
//!
//! A [`Decompressor`] is kept and reused; it holds at most one batch's raw bytes. A batch is verified
//! first. What its producer sealed may still be a lie: a frame that does not decompress, that holds
//! more than it states, lengths that pass the end, deltas with holes, fewer or more records than the
//! header counts. Each is an [`ErrorKind::Input`](crate::error::ErrorKind::Input) error of the record
//! where it shows; the records before it were as their producer made them.
//!
//! Invariant **I13**: no bytes make a decoder panic, or allocate more than its limit.

use zstd::bulk;
use zstd::zstd_safe::find_frame_compressed_size;

use super::header::{self, Codec, HEADER_BYTES};
use super::varint;
use crate::error::{Error, Result};
use crate::id::{Offset, Timestamp};
use crate::limits::{BATCH_RAW_BYTES_MAX, RECORD_HEADERS_MAX};

/// Decompresses batches, one at a time, into memory that it keeps.
#[derive(Default)]
pub struct Decompressor {
    zstd: bulk::Decompressor<'static>,
    raw: Vec<u8>,
}

impl Decompressor {
    /// A decompressor that has no memory yet.
    pub fn new() -> Decompressor {
        Decompressor::default()
    }

    /// Verifies `batch`, one whole batch, and gives its records.
    pub fn records<'a>(&'a mut self, batch: &'a [u8]) -> Result<Records<'a>> {
        let header = header::verify(batch)?;
        let payload = &batch[HEADER_BYTES..];
        let raw = match header.codec()? {
            Codec::None => payload,
            Codec::Zstd => self.decompress(payload)?,
        };
        Ok(Records {
            rest: raw,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            next: 0,
            count: header.record_count,
        })
    }

    fn decompress(&mut self, frame: &[u8]) -> Result<&[u8]> {
        let stated = header::raw_bytes_stated(frame)?;
        if find_frame_compressed_size(frame).ok() != Some(frame.len()) {
            return Err(Error::input("batch's records are not one whole zstd frame"));
        }
        // A frame of another producer may state no size; then only the limit bounds it.
        let bound = stated.unwrap_or(BATCH_RAW_BYTES_MAX);
        self.raw.clear();
        self.raw.reserve_exact(bound);
        let bytes = self
            .zstd
            .decompress_to_buffer(frame, &mut self.raw)
            .map_err(|error| Error::input(format!("batch's records do not decompress: {error}")))?;
        if bytes > bound {
            return Err(Error::input(format!(
                "batch's records decompress to {bytes} bytes, {bound} are legal"
            )));
        }
        Ok(&self.raw)
    }
}

/// A batch's records in their order. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
    base_offset: Offset,
    base_timestamp: Timestamp,
    next: u32,
    count: u32,
}

/// One record.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key, `None` for null.
    pub key: Option<&'a [u8]>,
    /// Its value, `None` for null.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// A record's headers in their order; names may repeat. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Result<Record<'a>>> {
        if self.next == self.count {
            return self.surplus().map(Err);
        }
        let record = self.read();
        match record {
            Ok(_) => self.next += 1,
            Err(_) => self.end(),
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // One more for the error that surplus bytes are.
        let left = (self.count - self.next) as usize;
        (0, Some(left + 1))
    }
}

impl<'a> Records<'a> {
    fn read(&mut self) -> Result<Record<'a>> {
        let raw = RawRecord::take(&mut self.rest)
            .ok_or_else(|| self.wrong("passes the end of the batch, or its length is no length"))?;
        if raw.offset_delta != i64::from(self.next) {
            let delta = raw.offset_delta;
            return Err(self.wrong(&format!("has the offset delta {delta}")));
        }
        let timestamp = self
            .base_timestamp
            .0
            .checked_add(raw.timestamp_delta)
            .ok_or_else(|| self.wrong("has a timestamp beyond 64 bits"))?;
        let (key, value, headers) =
            parts(raw.rest).ok_or_else(|| self.wrong("has a field that passes its end"))?;
        Ok(Record {
            offset: self.base_offset.plus(self.next),
            timestamp: Timestamp(timestamp),
            key,
            value,
            headers,
        })
    }

    /// The error that bytes after the last record are, told once.
    fn surplus(&mut self) -> Option<Error> {
        let surplus = self.rest.len();
        if surplus == 0 {
            return None;
        }
        self.end();
        Some(Error::input(format!(
            "batch at offset {} has {surplus} bytes after its {} records",
            self.base_offset, self.count
        )))
    }

    fn end(&mut self) {
        self.rest = &[];
        self.next = self.count;
    }

    fn wrong(&self, what: &str) -> Error {
        Error::input(format!(
            "record {} of {} in the batch at offset {} {what}",
            self.next, self.count, self.base_offset
        ))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a str, Option<&'a [u8]>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 && self.rest.is_empty() {
            return None;
        }
        let header = self.read();
        match header {
            Some(_) => self.left -= 1,
            None => *self = Headers { rest: &[], left: 0 },
        }
        Some(header.ok_or_else(|| Error::input("record's headers do not fill their place")))
    }
}

impl<'a> Headers<'a> {
    fn read(&mut self) -> Option<(&'a str, Option<&'a [u8]>)> {
        if self.left == 0 {
            return None;
        }
        let name = take_nullable(&mut self.rest)??;
        let value = take_nullable(&mut self.rest)?;
        Some((str::from_utf8(name).ok()?, value))
    }
}

/// A record split as far as its place in the batch goes.
pub(super) struct RawRecord<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i64,
    /// From the key's length on.
    pub(super) rest: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Takes the record at the front of `bytes`. `None`: it passes the end.
    pub(super) fn take(bytes: &mut &'a [u8]) -> Option<RawRecord<'a>> {
        let length = usize::try_from(varint::take(bytes)?).ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        // The attributes have no meaning yet and are skipped, as Kafka does.
        let (_, mut record) = record.split_first()?;
        Some(RawRecord {
            timestamp_delta: varint::take(&mut record)?,
            offset_delta: varint::take(&mut record)?,
            rest: record,
        })
    }
}

type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, Headers<'a>);

fn parts(mut rest: &[u8]) -> Option<Parts<'_>> {
    let key = take_nullable(&mut rest)?;
    let value = take_nullable(&mut rest)?;
    let left = usize::try_from(varint::take(&mut rest)?).ok()?;
    // Each header takes at least two bytes.
    if left > RECORD_HEADERS_MAX || left * 2 > rest.len() {
        return None;
    }
    Some((key, value, Headers { rest, left }))
}

/// Takes a length and that many bytes; a length of -1 is null. The outer `None`: it passes the end.
#[expect(
    clippy::option_option,
    reason = "cut short, null and bytes are three things"
)]
fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint::take(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(Some(taken))
}
