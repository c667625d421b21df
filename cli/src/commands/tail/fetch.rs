//! Fetches one partition's records ahead of the printer, a chunk at a time.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::chunk::{Chunk, Format};
use crate::client::{Client, Failure, FailureKind};
use crate::limits::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNKS_BYTES_MAX, CHUNKS_WAITING_MAX, POLL_WAIT,
    RECONNECT_PAUSE,
};

/// A range of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) partition: u32,
    pub(super) from: i64,
    /// The offset after the last.
    pub(super) until: i64,
}

impl Share {
    /// How many records it has when none is missing.
    pub(super) fn records(&self) -> u64 {
        u64::try_from(self.until - self.from).unwrap_or(0)
    }
}

/// What a following fetch tells the printer.
pub(super) enum Event {
    /// The next records of a partition.
    Chunk(u32, Chunk),
    /// The server is away; it is tried until it is back.
    Lost(Failure),
    /// The server is back.
    Back,
    /// It ends here.
    Failed(anyhow::Error),
}

/// Asks for the records of one partition.
pub(super) struct Fetch {
    client: Client,
    /// Path and query but for the offset and the wait.
    path: String,
    format: Format,
    partition: u32,
}

impl Fetch {
    /// Of the partition `partition` at the records' `path`, one of `lanes` that fetch at once.
    pub(super) fn new(
        client: Client,
        path: &str,
        format: Format,
        partition: u32,
        lanes: usize,
    ) -> Fetch {
        let chunk = (CHUNKS_BYTES_MAX / lanes.max(1)).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        Fetch {
            client,
            path: format!("{path}?partition={partition}&max_bytes={chunk}"),
            format,
            partition,
        }
    }

    /// Fetches all of `share`, ahead of who receives, until it is there or a request fails.
    pub(super) fn drain(
        mut self,
        share: Share,
        runtime: &Handle,
    ) -> mpsc::Receiver<anyhow::Result<Chunk>> {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        runtime.spawn(async move {
            let mut from = share.from;
            while from < share.until {
                let result = self.fetch(from, Duration::ZERO).await;
                let failed = result.is_err();
                if let Ok(chunk) = &result {
                    from = chunk.next;
                }
                if sender.send(result).await.is_err() || failed {
                    return;
                }
            }
        });
        receiver
    }

    /// Fetches from `from` on for as long as somebody receives, across restarts of the server.
    pub(super) async fn follow(mut self, mut from: i64, events: mpsc::Sender<Event>) {
        let mut lost = false;
        loop {
            let event = match self.fetch(from, POLL_WAIT).await {
                Ok(chunk) => {
                    if lost && events.send(Event::Back).await.is_err() {
                        return;
                    }
                    lost = false;
                    from = chunk.next;
                    Event::Chunk(self.partition, chunk)
                }
                Err(error) => match error.downcast::<Failure>() {
                    Ok(failure) if failure.kind == FailureKind::Unreachable => {
                        sleep(RECONNECT_PAUSE).await;
                        lost = true;
                        Event::Lost(failure)
                    }
                    Ok(failure) => Event::Failed(failure.into()),
                    Err(error) => Event::Failed(error),
                },
            };
            let ends = matches!(event, Event::Failed(_));
            if events.send(event).await.is_err() || ends {
                return;
            }
        }
    }

    async fn fetch(&mut self, from: i64, wait: Duration) -> anyhow::Result<Chunk> {
        let path = format!("{}&from={from}&wait={}ms", self.path, wait.as_millis());
        let answer = match self.client.fetch(&path, self.format.media_type()).await {
            Ok(answer) => answer,
            Err(Failure {
                kind: FailureKind::Trimmed(start),
                ..
            }) if start > from => {
                return Ok(Chunk {
                    from,
                    rest: Bytes::new(),
                    next: start,
                    reason: "retention has deleted them meanwhile",
                });
            }
            Err(failure) => return Err(failure.into()),
        };
        let next = self.client.header(&answer.headers, "weir-next-offset")?;
        if wait.is_zero() && next <= from {
            bail!(
                "partition {} gives nothing at offset {from}, though its end lies beyond; \
                 `weir log verify` on the aggregator's disk tells more",
                self.partition
            );
        }
        Ok(Chunk {
            from,
            rest: answer.body,
            next,
            reason: "the aggregator skipped them as damaged",
        })
    }
}
