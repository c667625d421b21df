//! Record batches as ndjson, a bounded piece at a time: one object a record, and one for each range
//! of offsets that cannot be read any more.
//!
//! Only offsets from `from` up to `until` are told, each at most once and in order; `until` was
//! promised to the client as its next offset before the first byte.

use std::collections::VecDeque;

use commitlog::batch::header::BatchHeader;
use commitlog::batch::records::{Decompressor, Record};
use commitlog::error::Result;
use commitlog::id::{Offset, TopicPartition};
use commitlog::log::reader::Gap;

use super::json::{push_field, push_number, push_string};
use crate::limits::{NDJSON_PIECE_BYTES, RECORD_JSON_BYTES};

/// The lines of some batches that are still to be written.
pub(super) struct Lines {
    /// `{"topic":"…","partition":N`, with which every line begins.
    head: Vec<u8>,
    batches: Vec<u8>,
    /// Where in `batches` the first unwritten batch begins.
    at: usize,
    gaps: VecDeque<Gap>,
    from: Offset,
    until: Offset,
    decompressor: Decompressor,
}

/// Where writing a batch ended.
enum Stop {
    /// At its end: the next batch follows.
    BatchEnd,
    /// In its middle: the piece is full.
    PieceFull,
}

impl Lines {
    pub(super) fn new(
        partition: &TopicPartition,
        batches: Vec<u8>,
        gaps: Vec<Gap>,
        from: Offset,
        until: Offset,
    ) -> Lines {
        let mut head = b"{\"topic\":".to_vec();
        push_string(&mut head, partition.topic.as_str());
        head.extend_from_slice(b",\"partition\":");
        push_number(&mut head, i64::from(partition.partition));
        Lines {
            head,
            batches,
            at: 0,
            gaps: gaps.into(),
            from,
            until,
            decompressor: Decompressor::new(),
        }
    }

    /// The next piece, of a few megabytes at most; empty at the end.
    pub(super) fn next_piece(&mut self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(NDJSON_PIECE_BYTES.min(self.batches.len() * 16) + RECORD_JSON_BYTES);
        while out.len() < NDJSON_PIECE_BYTES && self.from < self.until {
            let batch = self.batches.get(self.at..).unwrap_or_default();
            let Ok(header) = BatchHeader::parse(batch) else {
                self.push_gaps_before(&mut out, self.until);
                self.from = self.until;
                break;
            };
            self.push_gaps_before(&mut out, header.base_offset);
            if header.base_offset >= self.until {
                break;
            }
            match self.push_batch(&mut out, &header) {
                Ok(Stop::PieceFull) => break,
                Ok(Stop::BatchEnd) => {}
                // Its CRC is right and its records are not: its producer sealed it so.
                Err(error) => {
                    let from = self.from.max(header.base_offset);
                    self.push_gap(&mut out, from, header.next_offset(), &error.message);
                }
            }
            self.from = self.from.max(header.next_offset());
            self.at += header.total_bytes();
        }
        out
    }

    /// Whether everything has been told.
    pub(super) fn is_done(&self) -> bool {
        self.from >= self.until
    }

    fn push_batch(&mut self, out: &mut Vec<u8>, header: &BatchHeader) -> Result<Stop> {
        let batch = self
            .batches
            .get(self.at..self.at + header.total_bytes())
            .unwrap_or_default();
        let mut headers = Vec::new();
        for record in self.decompressor.records(batch)? {
            let record = record?;
            if record.offset < self.from {
                continue;
            }
            if record.offset >= self.until {
                break;
            }
            if out.len() >= NDJSON_PIECE_BYTES {
                return Ok(Stop::PieceFull);
            }
            headers.clear();
            for header in record.headers.clone() {
                headers.push(header?);
            }
            push_record(out, &self.head, &record, &headers);
            self.from = record.offset.plus(1);
        }
        Ok(Stop::BatchEnd)
    }

    fn push_gaps_before(&mut self, out: &mut Vec<u8>, offset: Offset) {
        while let Some(gap) = self.gaps.pop_front_if(|gap| gap.from < offset) {
            let from = gap.from.max(self.from);
            let to = gap.to.min(self.until);
            if from < to {
                self.push_gap(out, from, to, &gap.reason);
            }
        }
    }

    fn push_gap(&self, out: &mut Vec<u8>, from: Offset, to: Offset, reason: &str) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b",\"gap\":{\"from\":");
        push_number(out, from.get());
        out.extend_from_slice(b",\"to\":");
        push_number(out, to.get());
        out.extend_from_slice(b",\"reason\":");
        push_string(out, reason);
        out.extend_from_slice(b"}}\n");
    }
}

type Header<'a> = (&'a str, Option<&'a [u8]>);

fn push_record(out: &mut Vec<u8>, head: &[u8], record: &Record<'_>, headers: &[Header<'_>]) {
    out.extend_from_slice(head);
    out.extend_from_slice(b",\"offset\":");
    push_number(out, record.offset.get());
    out.extend_from_slice(b",\"timestamp\":");
    push_number(out, record.timestamp.0);
    out.push(b',');
    push_field(out, "key", record.key);
    out.extend_from_slice(b",\"headers\":{");
    push_headers(out, headers);
    out.extend_from_slice(b"},");
    push_field(out, "value", record.value);
    out.extend_from_slice(b"}\n");
}

/// A name that repeats gets a list at its first place, since JSON's readers keep one of two.
fn push_headers(out: &mut Vec<u8>, headers: &[Header<'_>]) {
    let mut first = true;
    for (index, (name, value)) in headers.iter().enumerate() {
        let same = |other: &&Header<'_>| other.0 == *name;
        if headers[..index].iter().any(|other| other.0 == *name) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        if !headers[index + 1..].iter().any(|other| same(&other)) {
            push_field(out, name, *value);
            continue;
        }
        push_string(out, name);
        out.extend_from_slice(b":[");
        for (number, (_, value)) in headers.iter().filter(same).enumerate() {
            if number > 0 {
                out.push(b',');
            }
            push_list_value(out, *value);
        }
        out.push(b']');
    }
}

/// In a list there is no name that could say base64: other bytes go as an object.
fn push_list_value(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value.map(std::str::from_utf8) {
        None => out.extend_from_slice(b"null"),
        Some(Ok(text)) => push_string(out, text),
        Some(Err(_)) => {
            out.push(b'{');
            push_field(out, "value", value);
            out.push(b'}');
        }
    }
}
