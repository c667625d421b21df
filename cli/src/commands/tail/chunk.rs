//! A fetched chunk and the text that it becomes, one record a line.
//!
//! Raw chunks are whole record batches, decoded one at a time, so that a lane holds one batch
//! decompressed however large its chunk is. JSON chunks are lines that the API made; they are passed
//! on as they are, and read only for their offset and time.

use anyhow::{Context, ensure};
use bytes::Bytes;
use commitlog::batch::header::BatchHeader;
use commitlog::batch::records::Decompressor;
use memchr::memchr;
use serde::Deserialize;

use crate::terminal;

/// How a record is printed: the value's bytes and a newline, or one JSON object a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Raw,
    Json,
}

impl Format {
    /// The media type that chunks are asked for in.
    pub(super) fn media_type(self) -> &'static str {
        match self {
            Format::Raw => "application/octet-stream",
            Format::Json => "application/x-ndjson",
        }
    }
}

/// What the text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Control characters are escaped.
    Terminal,
    /// Every byte stays.
    Pipe,
}

/// The records still to come of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The offset that the next record should have.
    pub(super) next: i64,
    /// Records from this offset on are not wanted.
    pub(super) until: i64,
}

/// Offsets that no record could be had for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    /// The first.
    pub(super) from: i64,
    /// The one after the last.
    pub(super) to: i64,
    pub(super) reason: String,
}

/// What of a chunk is not decoded yet.
pub(super) struct Chunk {
    /// The offset that it was asked for from.
    pub(super) from: i64,
    /// Whole batches or lines, as they came.
    pub(super) rest: Bytes,
    /// Where the log goes on after it.
    pub(super) next: i64,
    /// Why records may be missing in it.
    pub(super) reason: &'static str,
}

/// Decoded records as text, ready to be written.
#[derive(Debug, Default)]
pub(super) struct Block {
    pub(super) text: Vec<u8>,
    pub(super) records: Vec<Shown>,
    /// What was missing before, between or after the records.
    pub(super) gaps: Vec<Gap>,
}

/// One record of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    /// Where its text ends; it begins where the one before ends.
    pub(super) end: usize,
}

/// Turns chunks into blocks.
pub(super) struct Decoder {
    format: Format,
    target: Target,
    decompressor: Decompressor,
}

impl Decoder {
    pub(super) fn new(format: Format, target: Target) -> Decoder {
        Decoder {
            format,
            target,
            decompressor: Decompressor::new(),
        }
    }

    /// Replaces `block` by the next part of `chunk`: a batch, or all of the JSON lines. The block
    /// may come out empty. Gives back what is left of the chunk.
    pub(super) fn decode(
        &mut self,
        mut chunk: Chunk,
        cursor: &mut Cursor,
        block: &mut Block,
    ) -> anyhow::Result<Option<Chunk>> {
        block.text.clear();
        block.records.clear();
        block.gaps.clear();
        match self.format {
            _ if chunk.rest.is_empty() => {}
            Format::Raw => self.decode_batch(&mut chunk, cursor, block)?,
            Format::Json => self.decode_lines(&mut chunk, cursor, block)?,
        }
        if !chunk.rest.is_empty() {
            return Ok(Some(chunk));
        }
        block.skip_to(chunk.next.min(cursor.until), cursor, chunk.reason);
        Ok(None)
    }

    fn decode_batch(
        &mut self,
        chunk: &mut Chunk,
        cursor: &mut Cursor,
        block: &mut Block,
    ) -> anyhow::Result<()> {
        let rest = &mut chunk.rest;
        let header = BatchHeader::parse(rest)
            .with_context(|| format!("no record batch came for offset {}", cursor.next))?;
        let (have, stated) = (rest.len(), header.total_bytes());
        ensure!(
            stated <= have,
            "a batch of {stated} bytes came cut to {have}"
        );
        let batch = rest.split_to(stated);
        let end = header.next_offset().get().min(cursor.until);
        if end > cursor.next {
            block.skip_to(header.base_offset.get(), cursor, chunk.reason);
            self.decode_records(&header, &batch, cursor, block);
        }
        Ok(())
    }

    /// Records up to the first that is damaged; what follows it in the batch is a gap.
    fn decode_records(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        cursor: &mut Cursor,
        block: &mut Block,
    ) {
        let end = header.next_offset().get().min(cursor.until);
        let records = match self.decompressor.records(batch) {
            Ok(records) => records,
            Err(error) => return block.skip_to(end, cursor, &error.to_string()),
        };
        for record in records {
            let record = match record {
                Ok(record) => record,
                Err(error) => return block.skip_to(end, cursor, &error.to_string()),
            };
            let offset = record.offset.get();
            if offset >= cursor.until {
                return;
            }
            if offset < cursor.next {
                continue;
            }
            cursor.next = offset + 1;
            let value = record.value.unwrap_or_default();
            match self.target {
                Target::Pipe => block.text.extend_from_slice(value),
                // The carriage return of a line from Windows is harmless before a newline, and noise.
                Target::Terminal => {
                    let line = value.strip_suffix(b"\r").unwrap_or(value);
                    terminal::escape(line, &mut block.text);
                }
            }
            block.end_record(record.timestamp.0);
        }
    }

    fn decode_lines(
        &mut self,
        chunk: &mut Chunk,
        cursor: &mut Cursor,
        block: &mut Block,
    ) -> anyhow::Result<()> {
        let lines = std::mem::take(&mut chunk.rest);
        let mut rest: &[u8] = &lines;
        while !rest.is_empty() {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            self.decode_line(line, chunk.reason, cursor, block)?;
        }
        Ok(())
    }

    fn decode_line(
        &self,
        line: &[u8],
        reason: &str,
        cursor: &mut Cursor,
        block: &mut Block,
    ) -> anyhow::Result<()> {
        let read = serde_json::from_slice(line);
        let timestamp = match read.context("the aggregator sent a line that is no record")? {
            Line::Record { offset, .. } if offset < cursor.next || offset >= cursor.until => {
                return Ok(());
            }
            Line::Record { offset, timestamp } => {
                block.skip_to(offset, cursor, reason);
                cursor.next = offset + 1;
                timestamp
            }
            Line::Gap { gap } => {
                let end = gap.to.min(cursor.until);
                block.skip_to(end, cursor, &gap.reason);
                return Ok(());
            }
        };
        match self.target {
            Target::Pipe => block.text.extend_from_slice(line),
            Target::Terminal => terminal::escape_json(line, &mut block.text),
        }
        block.end_record(timestamp);
        Ok(())
    }
}

impl Block {
    fn end_record(&mut self, timestamp: i64) {
        self.text.push(b'\n');
        self.records.push(Shown {
            timestamp,
            end: self.text.len(),
        });
    }

    /// Notes that the records before `offset` did not come.
    fn skip_to(&mut self, offset: i64, cursor: &mut Cursor, reason: &str) {
        if offset <= cursor.next {
            return;
        }
        self.gaps.push(Gap {
            from: cursor.next,
            to: offset,
            reason: reason.to_owned(),
        });
        cursor.next = offset;
    }
}

/// What a line of JSON must hold for us; the rest is passed on unread.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Record { offset: i64, timestamp: i64 },
    Gap { gap: ToldGap },
}

#[derive(Deserialize)]
struct ToldGap {
    to: i64,
    reason: String,
}
