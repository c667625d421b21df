//! `/api/v1/topics/{topic}/records`: the records of one partition, from an offset or a time on, as
//! ndjson or as the batches themselves; waits for the first one when asked to.
//!
//! What is read is durable. An answer is at most a few megabytes; the client goes on at
//! `weir-next-offset`, which counts records and is known before the first byte goes out.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use commitlog::batch::header::BatchHeader;
use commitlog::error::ErrorKind;
use commitlog::id::{Offset, Timestamp, TopicPartition};
use commitlog::log::reader::Slice;
use futures_util::stream;
use serde::Deserialize;

use super::Api;
use super::error::ApiError;
use super::lines::Lines;
use super::parameter::{Segment, duration};
use crate::blocking::Blocking;
use crate::limits::{
    FETCH_BYTES_DEFAULT, FETCH_BYTES_MAX, FETCH_READ_BYTES_MIN, FETCH_WAIT_MAX, HTTP_LONG_POLLS_MAX,
};
use crate::topics::Partition;

const NEXT_OFFSET: HeaderName = HeaderName::from_static("weir-next-offset");
const END_OFFSET: HeaderName = HeaderName::from_static("weir-end-offset");
const START_OFFSET: HeaderName = HeaderName::from_static("weir-start-offset");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    partition: Option<u32>,
    from: Option<String>,
    max_records: Option<u32>,
    max_bytes: Option<u64>,
    wait: Option<String>,
}

/// Where to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Beginning,
    End,
    Offset(Offset),
    Time(Timestamp),
}

/// How much one answer holds.
struct Bounds {
    records: u32,
    bytes: usize,
}

#[derive(Clone, Copy)]
enum Format {
    Ndjson,
    Batches,
}

pub(super) async fn get(
    State(api): State<Api>,
    Segment(topic): Segment,
    parameters: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(parameters) = parameters.map_err(|error| {
        let hint = "known: partition, from, max_records, max_bytes, wait";
        ApiError::bad_request(error.body_text(), hint)
    })?;
    let partition = choose_partition(&api, &topic, parameters.partition)?;
    let from = From::parse(parameters.from.as_deref())?;
    let wait = match &parameters.wait {
        Some(text) => duration("wait", text)?.min(FETCH_WAIT_MAX),
        None => Duration::ZERO,
    };
    let bounds = Bounds::new(&parameters)?;
    let from = from.resolve(&partition).await?;
    let end = wait_past(&api, &partition, from, wait).await?;
    if from > end {
        return Err(beyond_end(&partition, from, end));
    }
    let slice = read(&partition, from, end, &bounds).await?;
    let next = cut(&slice, from, &bounds);
    let format = Format::chosen(&headers);
    let body = match format {
        Format::Batches => Body::from(whole_batches_before(slice.batches, next)),
        Format::Ndjson => ndjson(&api, &partition, slice, from, next).await,
    };
    let fields = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static(format.media_type()),
        ),
        (NEXT_OFFSET, HeaderValue::from(next.get())),
        (END_OFFSET, HeaderValue::from(end.get())),
        (START_OFFSET, HeaderValue::from(start(&partition)?.get())),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((fields, body).into_response())
}

fn choose_partition(
    api: &Api,
    topic: &str,
    number: Option<u32>,
) -> Result<Arc<Partition>, ApiError> {
    let topic = super::parameter::topic(topic)?;
    let count = api.topics.existing_count(&topic);
    if count == 0 {
        return Err(ApiError::not_found(
            format!("there is no topic {topic}"),
            "/api/v1/topics lists the topics; a topic exists from its first record on",
        ));
    }
    let number = match number {
        Some(number) => number,
        None if count == 1 => 0,
        None => {
            return Err(ApiError::bad_request(
                format!("topic {topic} has {count} partitions and they are not mixed"),
                format!("add partition=0 to partition={}", count - 1),
            ));
        }
    };
    let id = TopicPartition {
        topic,
        partition: number,
    };
    api.topics.existing(&id).ok_or_else(|| {
        ApiError::not_found(
            format!("topic {} has no partition {number}", id.topic),
            format!("its partitions are 0 to {}", count - 1),
        )
    })
}

impl From {
    fn parse(text: Option<&str>) -> Result<From, ApiError> {
        let text = match text {
            None | Some("beginning") => return Ok(From::Beginning),
            Some("end") => return Ok(From::End),
            Some(text) => text,
        };
        if let Ok(offset) = text.parse::<i64>()
            && let Some(offset) = Offset::new(offset)
        {
            return Ok(From::Offset(offset));
        }
        // A plus sign that was not percent-encoded arrives as a space.
        let time = text
            .parse()
            .or_else(|_| text.replace(' ', "+").parse::<jiff::Timestamp>());
        match time {
            Ok(time) => Ok(From::Time(Timestamp(time.as_millisecond()))),
            Err(_) => Err(ApiError::bad_request(
                format!("from={text} is no place in a partition"),
                "write beginning, end, an offset such as 1000, or a time such as \
                 2026-01-31T08:00:00Z",
            )),
        }
    }

    async fn resolve(self, partition: &Arc<Partition>) -> Result<Offset, ApiError> {
        let durable = *partition.durable().borrow();
        match self {
            From::Beginning => start(partition),
            From::End => Ok(durable),
            From::Offset(offset) => Ok(offset),
            From::Time(time) => {
                let found = partition.offset_at(time).await?;
                Ok(found.map_or(durable, |found| found.min(durable)))
            }
        }
    }
}

fn start(partition: &Partition) -> Result<Offset, ApiError> {
    Ok(partition.reader()?.start())
}

impl Bounds {
    fn new(parameters: &Parameters) -> Result<Bounds, ApiError> {
        let bytes = parameters.max_bytes.map_or(FETCH_BYTES_DEFAULT, |bytes| {
            usize::try_from(bytes)
                .unwrap_or(FETCH_BYTES_MAX)
                .min(FETCH_BYTES_MAX)
        });
        let records = parameters.max_records.unwrap_or(u32::MAX);
        if records == 0 {
            return Err(ApiError::bad_request(
                "max_records=0 asks for nothing",
                "write 1 or more",
            ));
        }
        Ok(Bounds { records, bytes })
    }
}

impl Format {
    fn chosen(headers: &HeaderMap) -> Format {
        let mut accepted = headers.get_all(header::ACCEPT).iter();
        let batches =
            accepted.any(|value| value.as_bytes().starts_with(b"application/octet-stream"));
        if batches {
            Format::Batches
        } else {
            Format::Ndjson
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Format::Ndjson => "application/x-ndjson",
            Format::Batches => "application/octet-stream",
        }
    }
}

/// The durable end, after waiting for it to pass `from` for at most `wait`, or until we stop.
async fn wait_past(
    api: &Api,
    partition: &Partition,
    from: Offset,
    wait: Duration,
) -> Result<Offset, ApiError> {
    let mut durable = partition.durable();
    let waits = !wait.is_zero() && *durable.borrow() <= from;
    if waits {
        let Ok(_place) = api.long_polls.try_acquire() else {
            return Err(ApiError::busy(
                format!("{HTTP_LONG_POLLS_MAX} requests wait for records already"),
                "ask without wait, or again in a moment",
            ));
        };
        let grown = durable.wait_for(|durable| *durable > from);
        tokio::select! {
            _ = tokio::time::timeout(wait, grown) => {}
            () = api.shutdown.cancelled() => {}
        }
    }
    Ok(*durable.borrow())
}

fn beyond_end(partition: &Partition, from: Offset, end: Offset) -> ApiError {
    ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "offset_beyond_end",
        format!(
            "offset {from} of {} does not exist yet, it ends at {end}",
            partition.id()
        ),
        format!("start from {end} or before; was the aggregator's data directory replaced?"),
    )
    .with_header(END_OFFSET, end.get())
}

async fn read(
    partition: &Arc<Partition>,
    from: Offset,
    end: Offset,
    bounds: &Bounds,
) -> Result<Slice, ApiError> {
    if from == end {
        return Ok(Slice {
            batches: Vec::new(),
            next: from,
            gaps: Vec::new(),
        });
    }
    // Lines compress well: a quarter of the raw bytes is read at first.
    let read_bytes = (bounds.bytes / 4).max(FETCH_READ_BYTES_MIN);
    let error = match partition.read(from, read_bytes).await {
        Ok(slice) => return Ok(slice),
        Err(error) => error,
    };
    let start = start(partition)?;
    if error.kind != ErrorKind::Input || from >= start {
        return Err(error.into());
    }
    Err(ApiError::new(
        StatusCode::GONE,
        "offset_trimmed",
        format!(
            "offset {from} of {} is gone: retention has deleted up to {start}",
            partition.id()
        ),
        format!("go on from {start}, which weir-start-offset says too"),
    )
    .with_header(START_OFFSET, start.get()))
}

/// The offset at which this answer ends: whole batches up to the bound on raw bytes, the first one
/// in any case, and at most the records asked for.
fn cut(slice: &Slice, from: Offset, bounds: &Bounds) -> Offset {
    let mut next = from;
    let mut raw_bytes = 0;
    let mut rest = slice.batches.as_slice();
    while let Ok(header) = BatchHeader::parse(rest) {
        let (batch, behind) = rest.split_at(header.total_bytes().min(rest.len()));
        raw_bytes += commitlog::batch::header::raw_bytes(batch);
        if raw_bytes > bounds.bytes && next > from {
            break;
        }
        next = header.next_offset();
        rest = behind;
    }
    if rest.is_empty() {
        next = slice.next;
    }
    next.min(from.plus(bounds.records))
}

fn whole_batches_before(mut batches: Vec<u8>, next: Offset) -> Vec<u8> {
    let mut end = 0;
    while let Some(rest) = batches.get(end..)
        && let Ok(header) = BatchHeader::parse(rest)
        && header.base_offset < next
    {
        end += header.total_bytes();
    }
    batches.truncate(end);
    batches
}

/// A small answer at once; a large one in pieces, each made when the one before has been taken.
async fn ndjson(
    api: &Api,
    partition: &Partition,
    slice: Slice,
    from: Offset,
    next: Offset,
) -> Body {
    let lines = Lines::new(partition.id(), slice.batches, slice.gaps, from, next);
    let blocking = api.blocking;
    let (first, lines) = piece(blocking, lines).await;
    if lines.is_done() {
        return Body::from(first);
    }
    let pieces = stream::unfold((Some(first), lines), move |(ready, lines)| async move {
        let (piece, lines) = match ready {
            Some(first) => (first, lines),
            None => piece(blocking, lines).await,
        };
        (!piece.is_empty()).then_some((Ok::<_, Infallible>(piece), (None, lines)))
    });
    Body::from_stream(pieces)
}

async fn piece(blocking: Blocking, mut lines: Lines) -> (Bytes, Lines) {
    let make = move || {
        let piece = lines.next_piece();
        (Bytes::from(piece), lines)
    };
    blocking.run(make).await
}
