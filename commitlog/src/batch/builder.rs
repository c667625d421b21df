//! Cuts records into batches: the agent's hot path.
//!
//! [`BatchBuilder::push`] encodes a record behind the others: one reservation, one copy of each part.
//! What all records of a source share, their headers, is encoded once in a [`HeaderBlock`].
//! [`BatchBuilder::finish`] compresses everything as one zstd frame with a context that is kept, and
//! seals it. When that passes [`BATCH_BYTES_MAX`], the records are cut into halves, and those again;
//! behind a record that bears a header of its own where there is one, because it ends what belongs
//! together.
//!
//! Invariants: offset deltas run from 0 without holes, the maximum timestamp is exact, the halves'
//! sequences continue each other, and `verify` accepts every batch that comes out.

use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, compress_bound};

use super::header::{ATTRIBUTES_ZSTD, HEADER_BYTES, LENGTH_EXCLUDES, MAGIC, Producer, seal};
use super::records::RawRecord;
use super::varint::{self, VARINT_BYTES_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Timestamp;
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_RAW_BYTES_MAX, BATCH_RECORDS_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX,
};

/// Headers that many records share, encoded once.
#[derive(Debug, Clone)]
pub struct HeaderBlock {
    /// The count's varint, then the headers.
    bytes: Vec<u8>,
    /// Where the headers begin in `bytes`.
    headers_at: usize,
    count: usize,
}

impl Default for HeaderBlock {
    fn default() -> HeaderBlock {
        HeaderBlock {
            bytes: vec![0],
            headers_at: 1,
            count: 0,
        }
    }
}

impl HeaderBlock {
    /// The headers in this order; a name may repeat.
    pub fn new(headers: &[(&str, &[u8])]) -> Result<HeaderBlock> {
        let mut block = HeaderBlock::default();
        for (name, value) in headers {
            block.push(name, value)?;
        }
        Ok(block)
    }

    /// Adds a header behind the others. One place is kept for the header that a single record adds.
    pub fn push(&mut self, name: &str, value: &[u8]) -> Result<()> {
        if self.count + 1 >= RECORD_HEADERS_MAX {
            return Err(Error::input(format!(
                "header {name:?} is one too many: a record has at most {RECORD_HEADERS_MAX}"
            )));
        }
        let bytes = self.bytes.len() + name.len() + value.len() + 2 * VARINT_BYTES_MAX;
        if bytes > RECORD_BYTES_MAX {
            return Err(Error::input(format!(
                "header {name:?} makes a record's headers {bytes} bytes long, \
                 at most {RECORD_BYTES_MAX} fit"
            )));
        }
        append_header(&mut self.bytes, name, value);
        self.count += 1;
        let mut count = Vec::with_capacity(VARINT_BYTES_MAX);
        varint::append(&mut count, varint::zigzag_length(self.count));
        self.bytes.splice(..self.headers_at, count.iter().copied());
        self.headers_at = count.len();
        Ok(())
    }

    /// The bytes that each record bears.
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// A record to be.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// Its time, clamped to ±[`TIMESTAMP_MAX`].
    pub timestamp: Timestamp,
    /// Its key, `None` for null.
    pub key: Option<&'a [u8]>,
    /// Its value: a line's bytes, whatever they are.
    pub value: &'a [u8],
    /// The headers that it shares with others.
    pub headers: &'a HeaderBlock,
    /// One more header, of this record alone.
    pub extra: Option<(&'a str, &'a [u8])>,
}

/// Gathers records and cuts them into batches. One is kept and reused: it owns the compressor.
pub struct BatchBuilder {
    run: Run,
    sealer: Sealer,
    /// The header that one record adds, being encoded.
    extra: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// An empty builder.
    pub fn new() -> BatchBuilder {
        BatchBuilder {
            run: Run::default(),
            sealer: Sealer {
                compressor: Compressor::new(ZSTD_LEVEL).expect("zstd has this level"),
                compressed: Vec::new(),
            },
            extra: Vec::new(),
        }
    }

    /// Adds a record behind the others. Anything fits for now; [`fits`](Self::fits) tells when to
    /// finish first.
    pub fn push(&mut self, record: &NewRecord<'_>) {
        let Some((name, value)) = record.extra else {
            self.run.push(record, &record.headers.bytes);
            return;
        };
        let shared = record.headers;
        self.extra.clear();
        varint::append(&mut self.extra, varint::zigzag_length(shared.count + 1));
        self.extra
            .extend_from_slice(&shared.bytes[shared.headers_at..]);
        append_header(&mut self.extra, name, value);
        self.run.push(record, &self.extra);
        self.run.ends.push(self.run.count);
    }

    /// The bytes of the records so far, before compression.
    pub fn raw_bytes(&self) -> usize {
        self.run.bytes.len()
    }

    /// The records so far.
    pub fn record_count(&self) -> u32 {
        self.run.count
    }

    /// Whether there is nothing to cut.
    pub fn is_empty(&self) -> bool {
        self.run.count == 0
    }

    /// Whether one more record of this many bytes, its key, value and headers, leaves one batch.
    pub fn fits(&self, record_bytes: usize) -> bool {
        let bytes = self.run.bytes.len() + record_bytes + RECORD_OVERHEAD_MAX;
        bytes <= BATCH_RAW_BYTES_MAX && self.run.count < BATCH_RECORDS_MAX
    }

    /// Forgets the records.
    pub fn clear(&mut self) {
        self.run.clear();
    }

    /// Cuts what was pushed: one batch, or several where one would be too large, appended to `out`
    /// with base offset 0 each. Where records bear a header of their own, the cut is behind one. The first
    /// record gets the producer's `base_sequence`, the others follow. The builder is empty afterwards.
    ///
    /// An [`ErrorKind::Input`] error names a record that fits into no batch, because it is longer than
    /// [`RECORD_BYTES_MAX`] or does not compress below [`BATCH_BYTES_MAX`]; then `out` is as before and
    /// the records are still here, for [`clear`](Self::clear).
    pub fn finish(&mut self, producer: Producer, out: &mut Vec<Vec<u8>>) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let longest = self.run.longest;
        if longest > RECORD_BYTES_MAX {
            return Err(Error::input(format!(
                "record of {longest} bytes is longer than the {RECORD_BYTES_MAX} that fit; \
                 limit the length of lines below that"
            )));
        }
        let before = out.len();
        if let Err(error) = self.sealer.cut(&self.run, producer, out) {
            out.truncate(before);
            return Err(error);
        }
        self.run.clear();
        Ok(())
    }
}

/// Records encoded back to back, and what a batch's header says of them.
#[derive(Default)]
struct Run {
    bytes: Vec<u8>,
    count: u32,
    /// The longest record's bytes.
    longest: usize,
    base_timestamp: i64,
    max_timestamp: i64,
    /// The numbers of records up to and with each that bears a header of its own.
    ends: Vec<u32>,
}

/// Compresses and seals.
struct Sealer {
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
}

impl Run {
    /// Encodes one record. `headers` are its last bytes, from the header count on.
    fn push(&mut self, record: &NewRecord<'_>, headers: &[u8]) {
        let timestamp = record.timestamp.0.clamp(-TIMESTAMP_MAX, TIMESTAMP_MAX);
        self.span(timestamp);
        let (key_length, key) = match record.key {
            None => (varint::zigzag(-1), &[][..]),
            Some(key) => (varint::zigzag_length(key.len()), key),
        };
        // The small fields up to the key's length, behind room for the length that they decide. The
        // byte between the two is the attributes, 0.
        let mut fields = [0; FIELDS_BYTES];
        let timestamp_delta = varint::zigzag(timestamp - self.base_timestamp);
        let mut key_at = varint::put(&mut fields, VARINT_BYTES_MAX + 1, timestamp_delta);
        key_at = varint::put(&mut fields, key_at, varint::zigzag(i64::from(self.count)));
        key_at = varint::put(&mut fields, key_at, key_length);
        let value_length = varint::zigzag_length(record.value.len());
        let end = varint::put(&mut fields, key_at, value_length);

        let record_bytes = end - VARINT_BYTES_MAX + key.len() + record.value.len() + headers.len();
        let length = varint::zigzag_length(record_bytes);
        let start = VARINT_BYTES_MAX - varint::encoded_bytes(length);
        varint::put(&mut fields, start, length);

        self.bytes.reserve(VARINT_BYTES_MAX + record_bytes);
        if key.is_empty() {
            self.bytes.extend_from_slice(&fields[start..end]);
        } else {
            self.bytes.extend_from_slice(&fields[start..key_at]);
            self.bytes.extend_from_slice(key);
            self.bytes.extend_from_slice(&fields[key_at..end]);
        }
        self.bytes.extend_from_slice(record.value);
        self.bytes.extend_from_slice(headers);
        self.longest = self.longest.max(record_bytes);
        self.count += 1;
    }

    /// Encodes a record of another run anew: its place is another, the rest is the same.
    fn push_encoded(&mut self, timestamp: i64, record: &RawRecord<'_>) {
        self.span(timestamp);
        let timestamp_delta = varint::zigzag(timestamp - self.base_timestamp);
        let offset_delta = varint::zigzag(i64::from(self.count));
        let record_bytes = 1
            + varint::encoded_bytes(timestamp_delta)
            + varint::encoded_bytes(offset_delta)
            + record.rest.len();
        varint::append(&mut self.bytes, varint::zigzag_length(record_bytes));
        self.bytes.push(0);
        varint::append(&mut self.bytes, timestamp_delta);
        varint::append(&mut self.bytes, offset_delta);
        self.bytes.extend_from_slice(record.rest);
        self.count += 1;
    }

    /// The first record's timestamp is the base; the latest is kept.
    fn span(&mut self, timestamp: i64) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
    }

    /// Two runs of the same records, about equal as far as the places for a cut allow.
    fn halves(&self) -> Result<[Run; 2]> {
        let middle = self.count / 2;
        let inner = self.ends.iter().filter(|&&end| end < self.count);
        let cut = inner.min_by_key(|end| end.abs_diff(middle));
        let cut = cut.copied().unwrap_or(middle);
        let mut halves = [Run::default(), Run::default()];
        let mut rest = &self.bytes[..];
        for index in 0..self.count {
            let record = RawRecord::take(&mut rest)
                .ok_or_else(|| Error::damaged(format!("record {index} is not as it was made")))?;
            let half = usize::from(index >= cut);
            halves[half].push_encoded(self.base_timestamp + record.timestamp_delta, &record);
        }
        for &end in &self.ends {
            let (half, before) = if end > cut { (1, cut) } else { (0, 0) };
            halves[half].ends.push(end - before);
        }
        Ok(halves)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.count = 0;
        self.longest = 0;
    }
}

impl Sealer {
    /// Appends the run to `out`: as one batch where it fits, else by halves.
    fn cut(&mut self, run: &Run, producer: Producer, out: &mut Vec<Vec<u8>>) -> Result<()> {
        let may_fit = run.bytes.len() <= BATCH_RAW_BYTES_MAX && run.count <= BATCH_RECORDS_MAX;
        if may_fit && self.compress(&run.bytes)? {
            out.push(assemble(run, producer, &self.compressed));
            return Ok(());
        }
        if run.count == 1 {
            let raw = run.bytes.len();
            return Err(Error::input(format!(
                "record of {raw} bytes does not compress into a batch of {BATCH_BYTES_MAX} bytes; \
                 limit the length of lines below that"
            )));
        }
        let [first, second] = run.halves()?;
        self.cut(&first, producer, out)?;
        let base_sequence = producer.base_sequence.plus(first.count);
        self.cut(
            &second,
            Producer {
                base_sequence,
                ..producer
            },
            out,
        )
    }

    /// Compresses `raw`, and tells whether a batch can hold the result.
    fn compress(&mut self, raw: &[u8]) -> Result<bool> {
        let failed = |error| Error::new(ErrorKind::Retry, format!("zstd cannot compress: {error}"));
        for parameter in parameters(raw.len()) {
            self.compressor.set_parameter(parameter).map_err(failed)?;
        }
        self.compressed.clear();
        self.compressed.reserve(compress_bound(raw.len()));
        let bytes = self
            .compressor
            .compress_to_buffer(raw, &mut self.compressed)
            .map_err(failed)?;
        Ok(HEADER_BYTES + bytes <= BATCH_BYTES_MAX)
    }
}

/// How a batch is compressed: as zstd chooses, which is 0, but for what is known to be better for large
/// and for small ones.
fn parameters(raw_bytes: usize) -> [CParameter; 3] {
    let [window, table, shortest] = if raw_bytes > TUNED_ABOVE {
        [WINDOW_LOG, HASH_LOG, MATCH_MIN]
    } else if raw_bytes <= SMALL {
        [0, HASH_LOG_SMALL, 0]
    } else {
        [0; 3]
    };
    [
        CParameter::WindowLog(window),
        CParameter::HashLog(table),
        CParameter::MinMatch(shortest),
    ]
}

/// Puts the header before the compressed records.
fn assemble(run: &Run, producer: Producer, compressed: &[u8]) -> Vec<u8> {
    let batch_bytes = HEADER_BYTES + compressed.len();
    let batch_length = u32::try_from(batch_bytes - LENGTH_EXCLUDES).expect("far below 2 GiB");
    let mut batch = Vec::with_capacity(batch_bytes);
    batch.extend_from_slice(&0i64.to_be_bytes());
    batch.extend_from_slice(&batch_length.to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.push(MAGIC);
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&ATTRIBUTES_ZSTD.to_be_bytes());
    batch.extend_from_slice(&(run.count - 1).to_be_bytes());
    batch.extend_from_slice(&run.base_timestamp.to_be_bytes());
    batch.extend_from_slice(&run.max_timestamp.to_be_bytes());
    batch.extend_from_slice(&producer.id.get().to_be_bytes());
    batch.extend_from_slice(&producer.epoch.get().to_be_bytes());
    batch.extend_from_slice(&producer.base_sequence.get().to_be_bytes());
    batch.extend_from_slice(&run.count.to_be_bytes());
    debug_assert_eq!(batch.len(), HEADER_BYTES);
    batch.extend_from_slice(compressed);
    seal(&mut batch);
    batch
}

fn append_header(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    varint::append(bytes, varint::zigzag_length(name.len()));
    bytes.extend_from_slice(name.as_bytes());
    varint::append(bytes, varint::zigzag_length(value.len()));
    bytes.extend_from_slice(value);
}

/// What a record costs besides its key, value and headers, at most: six varints and a byte.
pub const RECORD_OVERHEAD_MAX: usize = 6 * VARINT_BYTES_MAX + 1;

/// zstd's fastest plain level: level 3 gains 1 to 3 % in size and takes a third longer.
const ZSTD_LEVEL: i32 = 1;

/// Raw sizes for which zstd's own choice leaves the fast caches or tries short matches: from there on
/// the three below are set. Against its choice for 1 MiB (19, 14, 7) they take 10 to 15 % less time
/// and -0.5 to +1.7 % bytes, over access logs, JSON and the loghub samples.
const TUNED_ABOVE: usize = 128 * 1024;

/// 256 KiB.
const WINDOW_LOG: u32 = 18;

/// 8,192 places of 4 bytes, which fit the first-level cache.
const HASH_LOG: u32 = 13;

/// Raw sizes that come of a few lines each time: the table is in no cache by then.
const SMALL: usize = 32 * 1024;

/// 2,048 places of 4 bytes. With zstd's own table of up to 64 KiB a batch of 2 to 32 KiB takes 10 to 30 %
/// longer and is as large, over the loghub samples.
const HASH_LOG_SMALL: u32 = 11;

/// Records repeat in long pieces.
const MATCH_MIN: u32 = 7;

/// Room for a record's small fields: five varints and the attributes.
const FIELDS_BYTES: usize = 5 * VARINT_BYTES_MAX + 1;

/// Timestamps are clamped to just below ±2⁶² ms (146 million years), so that no two are too far apart
/// for a delta.
pub(super) const TIMESTAMP_MAX: i64 = (1 << 62) - 1;
