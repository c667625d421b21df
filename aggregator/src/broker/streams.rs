//! Data streams: their bytes become batches, and batches go to their slot's [`Intake`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use commitlog::limits::CHUNK_BYTES_MAX;
use commitlog::wire::chunk::{Chunk, ChunkDecoder};
use commitlog::wire::frame::{FrameDecoder, FrameEvent};
use commitlog::wire::message::Slot;
use quinn::{Connection, RecvStream};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, sleep_until};

use super::append::Intake;
use super::credit::FrameMemory;
use super::peer::TcpConnection;
use super::session::{Shared, Verdict};
use crate::limits::{
    FRAME_BYTES_PER_SECOND_MIN, FRAME_PROGRESS_GRACE, SESSION_TICK, SLOT_QUEUE_BATCHES,
};

/// Chunks taken from a QUIC stream at once: a datagram's worth each.
const CHUNKS_AT_ONCE: usize = 32;

/// Accepts data streams over QUIC, each in a task of its own, until the session is stopped.
pub(super) async fn accept(connection: Connection, shared: Arc<Shared>) -> Result<(), Verdict> {
    let mut streams = JoinSet::new();
    let end = loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break Ok(()),
            Some(ended) = streams.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(verdict)) => break Err(verdict),
                Err(panicked) => break Err(Verdict::failed(&panicked)),
            },
            stream = connection.accept_uni() => match stream {
                Ok(stream) => {
                    streams.spawn(read(stream, Arc::clone(&shared)));
                }
                Err(error) => break Err(Verdict::Lost(error.to_string())),
            },
        }
    };
    // An append under way is never torn off: whoever comes next must know what is in the log.
    shared.stop.cancel();
    while streams.join_next().await.is_some() {}
    end
}

/// Reads one data stream to its end.
async fn read(mut stream: RecvStream, shared: Arc<Shared>) -> Result<(), Verdict> {
    let mut decoder = FrameDecoder::new();
    let mut intake = None;
    let mut memory = None;
    let mut deadline = Deadline::started();
    let mut chunks: [Bytes; CHUNKS_AT_ONCE] = Default::default();
    loop {
        let read = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            read = stream.read_chunks(&mut chunks) => read,
            verdict = deadline.passed() => return Err(verdict),
        };
        let Some(count) = read.map_err(|error| Verdict::Lost(error.to_string()))? else {
            if decoder.is_between_frames() {
                return Ok(());
            }
            return Err(Verdict::Lost("a stream ended within a batch".to_owned()));
        };
        for chunk in &chunks[..count] {
            let mut input = &chunk[..];
            while let Some(event) = next_event(&mut decoder, &mut input)? {
                match event {
                    FrameEvent::Header(header) => intake = Some(shared.begin(header)?),
                    FrameEvent::Begins(bytes) => {
                        let intake = intake.as_ref().expect(HEADER_FIRST);
                        memory = Some(memory_of(&shared, intake.slot, bytes).await?);
                        decoder.gather_in(shared.broker.budget.buffers().take(bytes));
                        deadline = Deadline::of_frame(bytes);
                    }
                    FrameEvent::Batch(batch) => {
                        let intake: &Arc<Intake> = intake.as_ref().expect(HEADER_FIRST);
                        memory.as_mut().map(FrameMemory::received);
                        match intake.append(batch, &shared).await {
                            Err(Verdict::SlotEnds) => return Ok(()),
                            other => other?,
                        }
                        drop(memory.take());
                    }
                }
            }
        }
        deadline.look_at(&decoder);
    }
}

fn next_event(
    decoder: &mut FrameDecoder,
    input: &mut &[u8],
) -> Result<Option<FrameEvent>, Verdict> {
    let next = decoder.next(input);
    next.map_err(|error| Verdict::Protocol(error.message))
}

/// A batch that waits for its slot, with its memory.
type Queued = (Vec<u8>, FrameMemory);

/// The streams of a TCP connection.
pub(super) struct TcpStreams {
    shared: Arc<Shared>,
    chunks: ChunkDecoder,
    slots: BTreeMap<u32, TcpSlot>,
    appending: JoinSet<Result<(), Verdict>>,
    control: mpsc::Sender<Vec<u8>>,
}

struct TcpSlot {
    decoder: FrameDecoder,
    deadline: Deadline,
    memory: Option<FrameMemory>,
    queue: Option<mpsc::Sender<Queued>>,
}

impl TcpStreams {
    pub(super) fn new(shared: Arc<Shared>, control: mpsc::Sender<Vec<u8>>) -> TcpStreams {
        TcpStreams {
            shared,
            chunks: ChunkDecoder::new(),
            slots: BTreeMap::new(),
            appending: JoinSet::new(),
            control,
        }
    }

    /// Reads the connection to its end.
    pub(super) async fn run(mut self, connection: ReadHalf<TcpConnection>) -> Result<(), Verdict> {
        let end = self.read(connection).await;
        self.shared.stop.cancel();
        self.slots.clear();
        while self.appending.join_next().await.is_some() {}
        end
    }

    async fn read(&mut self, mut connection: ReadHalf<TcpConnection>) -> Result<(), Verdict> {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES_MAX);
            let deadline = self.deadline();
            let read = tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Ok(()),
                Some(ended) = self.appending.join_next() => {
                    match ended {
                        Ok(Ok(()) | Err(Verdict::SlotEnds)) => continue,
                        Ok(Err(verdict)) => return Err(verdict),
                        Err(panicked) => return Err(Verdict::failed(&panicked)),
                    }
                }
                read = connection.read_buf(&mut buffer) => read,
                verdict = deadline.passed() => return Err(verdict),
            };
            if read.map_err(|error| Verdict::Lost(error.to_string()))? == 0 {
                return Err(Verdict::Lost("the agent closed the connection".to_owned()));
            }
            self.shared.heard();
            let bytes = buffer.split();
            let mut input = &bytes[..];
            let mut control = Vec::new();
            loop {
                let chunk = self.chunks.next(&mut input);
                let chunk = chunk.map_err(|error| Verdict::Protocol(error.message))?;
                match chunk {
                    None => break,
                    Some(Chunk { stream: 0, bytes }) => control.extend_from_slice(bytes),
                    Some(Chunk { stream, bytes }) => self.take(stream - 1, bytes).await?,
                }
            }
            if control.is_empty() {
                continue;
            }
            // A session that ends takes nothing more, and waits for us.
            let sent = tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Ok(()),
                sent = self.control.send(control) => sent,
            };
            if sent.is_err() {
                return Ok(());
            }
        }
    }

    /// The first deadline of all slots.
    fn deadline(&self) -> Deadline {
        let deadlines = self.slots.values().filter_map(|it| it.deadline.0);
        Deadline(deadlines.min())
    }

    async fn take(&mut self, slot: u32, mut input: &[u8]) -> Result<(), Verdict> {
        let it = self.slots.entry(slot).or_insert_with(|| TcpSlot {
            decoder: FrameDecoder::new(),
            deadline: Deadline::started(),
            memory: None,
            queue: None,
        });
        while let Some(event) = next_event(&mut it.decoder, &mut input)? {
            match event {
                FrameEvent::Header(header) => {
                    if header.slot.0 != slot {
                        return Err(Verdict::Protocol(format!(
                            "stream {} says that it is slot {}",
                            slot + 1,
                            header.slot.0
                        )));
                    }
                    let intake = self.shared.begin(header)?;
                    let (queue, batches) = mpsc::channel(SLOT_QUEUE_BATCHES);
                    it.queue = Some(queue);
                    let shared = Arc::clone(&self.shared);
                    self.appending.spawn(append_all(intake, batches, shared));
                }
                FrameEvent::Begins(bytes) => {
                    it.memory = Some(memory_of(&self.shared, Slot(slot), bytes).await?);
                    it.decoder
                        .gather_in(self.shared.broker.budget.buffers().take(bytes));
                    it.deadline = Deadline::of_frame(bytes);
                }
                FrameEvent::Batch(batch) => {
                    let mut memory = it.memory.take().expect("taken when the batch began");
                    memory.received();
                    let queue = it.queue.as_ref().expect(HEADER_FIRST);
                    // A closed queue is a slot that ended: what still comes of it is not wanted.
                    if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send((batch, memory))
                    {
                        return Err(Verdict::Protocol(
                            "more batches than credit allows".to_owned(),
                        ));
                    }
                }
            }
        }
        it.deadline.look_at(&it.decoder);
        Ok(())
    }
}

/// Waits for the memory of a batch that its slot's credit allows. The peer is not to blame for the wait.
async fn memory_of(shared: &Shared, slot: Slot, bytes: usize) -> Result<FrameMemory, Verdict> {
    let credit = shared.session().credit_left(slot);
    if bytes as u64 > credit {
        return Err(Verdict::Protocol(format!(
            "a batch of {bytes} bytes begins where slot {} has credit for {credit}",
            slot.0
        )));
    }
    let began = Instant::now();
    let mut memory = std::pin::pin!(shared.frames.take(bytes));
    loop {
        tokio::select! {
            biased;
            memory = &mut memory => return Ok(memory),
            () = shared.stop.cancelled() => return Err(Verdict::Lost("stopped".to_owned())),
            () = sleep(SESSION_TICK) => shared.heard(),
        }
        // Alone it may wait for ever; but what has come in part could wait for bytes behind this wait.
        if shared.frames.is_receiving() && began.elapsed() > FRAME_PROGRESS_GRACE {
            let why = "the batches that were begun leave no memory to end them";
            return Err(Verdict::StartOver(why.to_owned()));
        }
    }
}

async fn append_all(
    intake: Arc<Intake>,
    mut batches: mpsc::Receiver<Queued>,
    shared: Arc<Shared>,
) -> Result<(), Verdict> {
    loop {
        let (batch, _memory) = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            next = batches.recv() => match next {
                Some(next) => next,
                None => return Ok(()),
            },
        };
        intake.append(batch, &shared).await?;
    }
}

/// A frame that has begun must come to its end.
#[derive(Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn started() -> Deadline {
        Deadline(Some(Instant::now() + FRAME_PROGRESS_GRACE))
    }

    fn of_frame(bytes: usize) -> Deadline {
        let seconds = (bytes / FRAME_BYTES_PER_SECOND_MIN) as u64;
        Deadline(Some(
            Instant::now() + FRAME_PROGRESS_GRACE + Duration::from_secs(seconds),
        ))
    }

    /// Between frames a stream may be silent for ever.
    fn look_at(&mut self, decoder: &FrameDecoder) {
        if decoder.is_between_frames() {
            self.0 = None;
        } else if self.0.is_none() {
            *self = Deadline::started();
        }
    }

    /// Ends when the time is over; never without one.
    async fn passed(self) -> Verdict {
        match self.0 {
            None => std::future::pending().await,
            Some(at) => {
                sleep_until(at).await;
                Verdict::Protocol("a batch came too slowly: the connection is cut".to_owned())
            }
        }
    }
}

const HEADER_FIRST: &str = "a header comes before any batch";

#[cfg(test)]
mod tests;
