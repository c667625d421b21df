//! Streams over one TCP connection: the agent's writing half and reading half.
//!
//! Whoever writes hands over chunks of at most 64 KiB. Control goes first; data streams wait in one
//! short queue, and since the queue is first come first served, streams that have much to send take
//! turns.

use std::io;

use bytes::{Bytes, BytesMut};
use commitlog::limits::CHUNK_BYTES_MAX;
use commitlog::wire::chunk::{ChunkDecoder, chunk_header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;

use crate::limits::{MUX_CONTROL_QUEUE, MUX_DATA_QUEUE, MUX_WRITE_BYTES};

/// Writes to one stream of the connection.
#[derive(Clone)]
pub(super) struct MuxWriter {
    stream: u32,
    chunks: mpsc::Sender<(u32, Bytes)>,
}

/// Makes the writers of a connection; its task is to be run beside them.
pub(super) struct Mux {
    control: mpsc::Sender<(u32, Bytes)>,
    data: mpsc::Sender<(u32, Bytes)>,
}

/// What is written, still in queues.
pub(super) struct MuxQueues {
    control: mpsc::Receiver<(u32, Bytes)>,
    data: mpsc::Receiver<(u32, Bytes)>,
}

impl Mux {
    pub(super) fn new() -> (Mux, MuxQueues) {
        let (control, control_queue) = mpsc::channel(MUX_CONTROL_QUEUE);
        let (data, data_queue) = mpsc::channel(MUX_DATA_QUEUE);
        let queues = MuxQueues {
            control: control_queue,
            data: data_queue,
        };
        (Mux { control, data }, queues)
    }

    /// The control stream, 0.
    pub(super) fn control(&self) -> MuxWriter {
        MuxWriter {
            stream: 0,
            chunks: self.control.clone(),
        }
    }

    /// The data stream of a slot.
    pub(super) fn slot(&self, slot: u32) -> MuxWriter {
        MuxWriter {
            stream: slot + 1,
            chunks: self.data.clone(),
        }
    }
}

impl MuxWriter {
    /// Queues the bytes; waits for its turn.
    pub(super) async fn write(&self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            let sent = self.chunks.send((self.stream, chunk)).await;
            sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }
}

impl MuxQueues {
    /// Writes what is queued until every writer is gone or the connection breaks.
    pub(super) async fn write_to(mut self, connection: impl AsyncWrite + Unpin) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(MUX_WRITE_BYTES, connection);
        loop {
            let next = tokio::select! {
                biased;
                Some(next) = self.control.recv() => Some(next),
                Some(next) = self.data.recv() => Some(next),
                else => None,
            };
            let Some((stream, bytes)) = next else {
                out.flush().await?;
                return out.shutdown().await;
            };
            out.write_all(&chunk_header(stream, bytes.len())).await?;
            out.write_all(&bytes).await?;
            if self.control.is_empty() && self.data.is_empty() {
                out.flush().await?;
            }
        }
    }
}

/// Reads the control stream; the aggregator sends no other.
pub(super) struct MuxReader<R> {
    connection: R,
    decoder: ChunkDecoder,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> MuxReader<R> {
    pub(super) fn new(connection: R) -> MuxReader<R> {
        MuxReader {
            connection,
            decoder: ChunkDecoder::new(),
            buffer: BytesMut::new(),
        }
    }

    /// The next control bytes; `None` at the end of the connection. Can be cancelled between reads.
    pub(super) async fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            self.buffer.reserve(CHUNK_BYTES_MAX);
            if self.connection.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
            let mut control = Vec::new();
            let mut input = &self.buffer[..];
            loop {
                match self.decoder.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(chunk)) if chunk.stream == 0 => control.extend_from_slice(chunk.bytes),
                    Ok(Some(chunk)) => {
                        let message = format!("the aggregator sent on stream {}", chunk.stream);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                    }
                    Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                }
            }
            self.buffer.clear();
            if !control.is_empty() {
                return Ok(Some(control));
            }
        }
    }
}
