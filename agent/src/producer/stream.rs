//! The streams of a session over either transport.

use bytes::Bytes;
use commitlog::wire::message::Slot;
use quinn::{Connection, RecvStream, SendStream};
use tokio::io::ReadHalf;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::connect::Link;
use super::mux::{Mux, MuxReader, MuxWriter};
use super::socket::Ear;
use super::transport::ByteStream;
use crate::limits::CLOSE_GRACE;

type TcpConnection = TlsStream<Box<dyn ByteStream>>;

/// Control is never behind data.
const PRIORITY_CONTROL: i32 = 2;
/// A partition that is read as it is written.
pub(super) const PRIORITY_LIVE: i32 = 1;
/// A partition that catches up.
pub(super) const PRIORITY_BACKLOG: i32 = 0;

/// The control stream and the way to open others.
pub(super) struct Channel {
    pub(super) reader: ControlReader,
    pub(super) writer: ControlWriter,
    /// Says when the connection's socket is listened to.
    pub(super) ear: Ear,
    link: OpenLink,
}

enum OpenLink {
    Quic(Connection),
    Tcp {
        mux: Mux,
        writing: JoinHandle<std::io::Result<()>>,
    },
}

/// The aggregator's control bytes.
pub(super) enum ControlReader {
    Quic(RecvStream),
    Tcp(MuxReader<ReadHalf<Box<TcpConnection>>>),
}

/// Our control bytes.
pub(super) enum ControlWriter {
    Quic(SendStream),
    Tcp(MuxWriter),
}

/// One slot's batches.
pub(super) enum SlotWriter {
    Quic(SendStream),
    Tcp(MuxWriter),
}

impl Channel {
    pub(super) async fn open(link: Link) -> Result<Channel, String> {
        match link {
            Link::Quic(connection, ear) => {
                let (writer, reader) = connection.open_bi().await.map_err(|e| e.to_string())?;
                writer
                    .set_priority(PRIORITY_CONTROL)
                    .map_err(|e| e.to_string())?;
                Ok(Channel {
                    reader: ControlReader::Quic(reader),
                    writer: ControlWriter::Quic(writer),
                    ear,
                    link: OpenLink::Quic(connection),
                })
            }
            Link::Tcp(stream) => {
                let (read, write) = tokio::io::split(stream);
                let (mux, queues) = Mux::new();
                Ok(Channel {
                    reader: ControlReader::Tcp(MuxReader::new(read)),
                    writer: ControlWriter::Tcp(mux.control()),
                    ear: Ear::default(),
                    link: OpenLink::Tcp {
                        mux,
                        writing: tokio::spawn(queues.write_to(write)),
                    },
                })
            }
        }
    }

    /// Opens a slot's stream.
    pub(super) async fn open_slot(&self, slot: Slot) -> Result<SlotWriter, String> {
        match &self.link {
            OpenLink::Quic(connection) => {
                let stream = connection.open_uni().await.map_err(|e| e.to_string())?;
                stream
                    .set_priority(PRIORITY_LIVE)
                    .map_err(|e| e.to_string())?;
                Ok(SlotWriter::Quic(stream))
            }
            OpenLink::Tcp { mux, .. } => Ok(SlotWriter::Tcp(mux.slot(slot.0))),
        }
    }

    /// Sees what was written off, for a moment, and closes.
    pub(super) async fn close(self) {
        self.ear.listen();
        drop(self.reader);
        match (self.link, self.writer) {
            (OpenLink::Quic(connection), ControlWriter::Quic(mut control)) => {
                if control.finish().is_ok() {
                    // The aggregator stops reading or acknowledges; both are good.
                    let stopped = control.stopped();
                    drop(tokio::time::timeout(CLOSE_GRACE, stopped).await);
                }
                connection.close(0_u32.into(), b"left");
            }
            (OpenLink::Tcp { mux, mut writing }, writer) => {
                drop((mux, writer));
                if tokio::time::timeout(CLOSE_GRACE, &mut writing)
                    .await
                    .is_err()
                {
                    writing.abort();
                }
            }
            (OpenLink::Quic(connection), ControlWriter::Tcp(_)) => {
                connection.close(0_u32.into(), b"left");
            }
        }
    }
}

impl ControlReader {
    /// The next bytes; `None` when the aggregator closed. Can be cancelled.
    pub(super) async fn read(&mut self) -> Result<Option<Vec<u8>>, String> {
        match self {
            ControlReader::Quic(stream) => {
                let chunk = stream.read_chunk(usize::MAX, true).await;
                let chunk = chunk.map_err(|e| e.to_string())?;
                Ok(chunk.map(|chunk| chunk.bytes.to_vec()))
            }
            ControlReader::Tcp(reader) => reader.read().await.map_err(|e| e.to_string()),
        }
    }
}

impl ControlWriter {
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), String> {
        match self {
            ControlWriter::Quic(stream) => {
                stream.write_chunk(bytes).await.map_err(|e| e.to_string())
            }
            ControlWriter::Tcp(writer) => writer.write(bytes).await.map_err(|e| e.to_string()),
        }
    }
}

impl SlotWriter {
    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), String> {
        match self {
            SlotWriter::Quic(stream) => stream.write_chunk(bytes).await.map_err(|e| e.to_string()),
            SlotWriter::Tcp(writer) => writer.write(bytes).await.map_err(|e| e.to_string()),
        }
    }

    /// Which streams go first when all cannot.
    pub(super) fn prioritise(&self, priority: i32) {
        if let SlotWriter::Quic(stream) = self
            && stream.set_priority(priority).is_err()
        {
            tracing::debug!("the stream is closed; writing to it will tell");
        }
    }
}
