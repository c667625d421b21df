//! Records of one topic-partition, kept as they are until they are written, and their order in a file.
//!
//! Values are not looked into here: what they say is read when columns are made of them, a row group at a
//! time, so that the memory is that of the records and not of what they are decoded to. Headers are read once
//! for each stream.
//!
//! The order is: bucket of five minutes, service, stream, time, offset. The newest rows are in few row groups, and
//! lines of one program, which look alike, are neighbours: they compress best and most pages are passed over.

use std::collections::HashMap;

use commitlog::batch::records::Record;
use datafusion::arrow::buffer::Buffer;
use model::header;
use model::log::{LogRecord, Stream, Undecodable};
use twox_hash::XxHash3_64;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{BUCKET_NANOS, HEADERS_KNOWN_MAX, VALUES_BYTES};

/// Records as they came.
pub struct Rows {
    topic: String,
    partition: i32,
    pieces: Vec<Buffer>,
    /// The piece that is filled.
    open: Vec<u8>,
    records: Vec<Row>,
    streams: Streams,
    /// Headers that are a record's own, as far as they say what it means; the first are none.
    own: Vec<OwnHeaders>,
    own_numbers: HashMap<OwnHeaders, u32>,
}

/// The same in the order of a file.
pub struct Sorted {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) pieces: Vec<Buffer>,
    pub(super) rows: Vec<Row>,
    pub(super) streams: Vec<StreamRow>,
    own: Vec<OwnHeaders>,
}

/// One record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) time_unix_nano: i64,
    pub(super) offset: i64,
    pub(super) stream: u32,
    own: u32,
    pub(super) piece: u32,
    at: u32,
    bytes: u32,
}

/// One stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRow {
    /// What it is known by in rows: XXH3 of its names and values.
    pub id: i64,
    /// What is known of it.
    pub stream: Stream<'static>,
}

type OwnHeaders = Vec<(String, Vec<u8>)>;

/// Streams by their headers.
#[derive(Default)]
struct Streams {
    list: Vec<StreamRow>,
    by_headers: HashMap<Vec<u8>, u32>,
    by_id: HashMap<i64, u32>,
    /// The headers of the record that is looked at.
    key: Vec<u8>,
}

impl Rows {
    /// None yet.
    pub fn new(topic: &str, partition: i32) -> Rows {
        Rows {
            topic: topic.to_owned(),
            partition,
            pieces: Vec::new(),
            open: Vec::new(),
            records: Vec::new(),
            streams: Streams::default(),
            own: vec![OwnHeaders::new()],
            own_numbers: HashMap::from([(OwnHeaders::new(), 0)]),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes a record. One whose headers are damaged is not taken.
    pub fn push(&mut self, record: &Record<'_>) -> Result<()> {
        let mut own = OwnHeaders::new();
        let mut nanoseconds = 0;
        self.streams.key.clear();
        for header in record.headers.clone() {
            let (name, value) = header.map_err(|it| Error::new(ErrorKind::Damaged, it))?;
            let value = value.unwrap_or_default();
            match name {
                header::NANOSECONDS => nanoseconds = header::nanoseconds(value),
                header::SEVERITY | header::CONTENT_TYPE | header::LOG_RECORD_PARTIAL => {
                    own.push((name.to_owned(), value.to_owned()));
                }
                _ if header::is_of_stream(name) => put_header(&mut self.streams.key, name, value),
                _ => {}
            }
        }
        let stream = self.streams.number();
        let own = self.number_of(own);
        let (piece, at, bytes) = self.keep(record.value.unwrap_or_default())?;
        let millisecond = record.timestamp.0.saturating_mul(1_000_000);
        self.records.push(Row {
            time_unix_nano: millisecond.saturating_add(i64::from(nanoseconds)),
            offset: record.offset.get(),
            stream,
            own,
            piece,
            at,
            bytes,
        });
        Ok(())
    }

    /// Puts them in the order of a file.
    pub fn sort(mut self) -> Sorted {
        let ranks = self.streams.ranks();
        self.records.sort_by_key(|row| {
            let bucket = row.time_unix_nano.div_euclid(BUCKET_NANOS);
            let rank = ranks[row.stream as usize];
            (bucket, rank, row.time_unix_nano, row.offset)
        });
        self.as_they_are()
    }

    /// Leaves them in the order in which they came.
    pub fn as_they_are(mut self) -> Sorted {
        self.pieces.push(Buffer::from_vec(self.open));
        Sorted {
            topic: self.topic,
            partition: self.partition,
            pieces: self.pieces,
            rows: self.records,
            streams: self.streams.list,
            own: self.own,
        }
    }

    /// Keeps a value: its piece, where it begins there, and its length.
    fn keep(&mut self, value: &[u8]) -> Result<(u32, u32, u32)> {
        if self.open.len() + value.len() > VALUES_BYTES.max(value.len()) {
            let full = std::mem::take(&mut self.open);
            self.pieces.push(Buffer::from_vec(full));
        }
        let too_much = |_| Error::new(ErrorKind::Damaged, "a value of more than 4 GiB");
        let piece = u32::try_from(self.pieces.len()).map_err(too_much)?;
        let at = u32::try_from(self.open.len()).map_err(too_much)?;
        let bytes = u32::try_from(value.len()).map_err(too_much)?;
        self.open.extend(value);
        Ok((piece, at, bytes))
    }

    /// The number of a record's own headers. Most records have none, and the others have few different.
    fn number_of(&mut self, own: OwnHeaders) -> u32 {
        if let Some(&number) = self.own_numbers.get(&own) {
            return number;
        }
        let number = u32::try_from(self.own.len()).unwrap_or(0);
        self.own.push(own.clone());
        self.own_numbers.insert(own, number);
        number
    }
}

impl Sorted {
    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The streams of the rows, and maybe others.
    pub fn streams(&self) -> &[StreamRow] {
        &self.streams
    }

    /// A row's value, as its record has it.
    pub(super) fn value(&self, row: &Row) -> &[u8] {
        let piece = self.pieces[row.piece as usize].as_slice();
        &piece[row.at as usize..][..row.bytes as usize]
    }

    /// What a row says.
    pub(super) fn decode(&self, row: &Row) -> std::result::Result<LogRecord<'_>, Undecodable> {
        let own = self.own[row.own as usize].iter();
        LogRecord::of(
            self.value(row),
            own.map(|(name, value)| (&**name, &**value)),
        )
    }
}

impl Streams {
    /// The number of the stream with the headers in `key`.
    fn number(&mut self) -> u32 {
        if let Some(&number) = self.by_headers.get(&self.key) {
            return number;
        }
        let stream = Stream::of(headers_in(&self.key)).into_owned();
        let id = id_of(&stream);
        let list = &mut self.list;
        let number = *self.by_id.entry(id).or_insert_with(|| {
            list.push(StreamRow { id, stream });
            u32::try_from(list.len() - 1).unwrap_or(u32::MAX)
        });
        if self.by_headers.len() < HEADERS_KNOWN_MAX {
            self.by_headers.insert(self.key.clone(), number);
        }
        number
    }

    /// The place of each in the order of services and streams.
    fn ranks(&self) -> Vec<u32> {
        let mut order: Vec<usize> = (0..self.list.len()).collect();
        order.sort_by_key(|&at| {
            let StreamRow { id, stream } = &self.list[at];
            (stream.service_name.as_deref(), *id)
        });
        let mut ranks = vec![0; order.len()];
        for (rank, at) in (0..).zip(order) {
            ranks[at] = rank;
        }
        ranks
    }
}

/// A stream's id. It is in tables for years: the layout of what is hashed never changes.
fn id_of(stream: &Stream<'_>) -> i64 {
    let mut bytes = Vec::new();
    for (name, value) in &stream.attributes {
        put_header(&mut bytes, name, value.as_bytes());
    }
    XxHash3_64::oneshot(&bytes).cast_signed()
}

/// Name length u32, value length u32, name, value; little-endian.
fn put_header(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    // Both are of a batch, which is far smaller than 4 GiB.
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    bytes.extend(length(name.as_bytes()));
    bytes.extend(length(value));
    bytes.extend(name.as_bytes());
    bytes.extend(value);
}

/// What [`put_header`] wrote.
fn headers_in(mut bytes: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    std::iter::from_fn(move || {
        let (lengths, rest) = bytes.split_at_checked(8)?;
        let (name, value) = lengths.split_at(4);
        let length = |it: &[u8]| it.try_into().map(|it| u32::from_le_bytes(it) as usize);
        let (name, rest) = rest.split_at_checked(length(name).ok()?)?;
        let (value, rest) = rest.split_at_checked(length(value).ok()?)?;
        bytes = rest;
        Some((std::str::from_utf8(name).ok()?, value))
    })
}
