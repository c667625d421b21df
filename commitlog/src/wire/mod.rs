//! The wire: how an agent's batches reach an aggregator, as plain functions of bytes and time.
//!
//! Nothing here opens a socket, reads a clock or waits. [`producer::ProducerSession`] and [`broker::BrokerSession`] are
//! fed bytes and a `now`, and give back events and bytes to send; the agent's producer and the
//! aggregator's broker drive them over QUIC or TCP, the simulation over a simulated network.
//!
//! # Layers
//!
//! ```text
//! QUIC (ALPN weir/1)                           TLS 1.3 over TCP (ALPN weir/1), same port number
//!   the agent's first bidirectional stream       chunks: varint stream, varint length, bytes
//!     = the control stream                         stream 0   = the control stream, both ways
//!   one unidirectional stream from the agent       stream s+1 = slot s, agent to aggregator
//!     per topic-partition                          a chunk has 1 byte to 64 KiB
//! ```
//!
//! The bytes of the streams are the same in both. A **slot** is a topic-partition's number within one
//! session: the place in which the agent named it, counted from 0. Slots are never reused.
//!
//! Integers are RFC 9000 varints (1, 2, 4 or 8 bytes, big-endian, the first two bits give the size)
//! unless a size is given; those are big-endian too. `str` and `bytes` are a varint length and the
//! bytes; `[x]` is a varint count and the items; `x?` is one byte 0 or 1, and `x` after a 1.
//!
//! # Data streams
//!
//! ```text
//! stream   = header frame*
//! header   = u8 1, varint slot, varint sequence      where the first frame's batch begins
//! frame    = varint length, RecordBatch              61 bytes to BATCH_BYTES_MAX
//! ```
//!
//! The batches of a stream are those of the session's producer id and epoch, and each begins at the
//! sequence where the one before ended. A stream that breaks a rule ends the session.
//!
//! # Control stream
//!
//! ```text
//! message  = varint length, u8 kind, fields
//! ```
//!
//! Fields have a fixed order. Bytes after the last known field are ignored, so that a later version can
//! add some; a kind of 128 and more that is not known is ignored, a lower one is an error.
//!
//! | kind | agent → aggregator | fields |
//! |---|---|---|
//! | 1 | Hello | varint version min, max; u64 producer; varint epoch; (u64 producer)? replaces; str host, machine, boot, agent version; \[str topic, varint partition\] |
//! | 2 | `OpenPartition` | varint slot; str topic; varint partition |
//! | 3 | Renew | bytes request |
//! | 4 | Goodbye | str reason |
//! | 5 | Compare | varint slot; \[varint sequence, u32 crc\] |
//! | 128 | Ping | |
//! | 129 | Status | varint lag bytes, lag records, unread bytes; \[str reason, varint count\] |
//!
//! | kind | aggregator → agent | fields |
//! |---|---|---|
//! | 1 | `HelloAck` | varint version; u64 producer; \[opened\]; hints |
//! | 2 | Opened | varint slot; opened |
//! | 3 | Ack | \[varint slot, appended, durable\] |
//! | 4 | Credit | \[varint slot, limit\] |
//! | 5 | Conflict | varint slot; varint sequence |
//! | 6 | Refused | refusal |
//! | 7 | Redirect | \[str address\]; str reason |
//! | 8 | Goodbye | str reason |
//! | 9 | Renewed | \[bytes certificate\]; \[bytes authority\] |
//! | 10 | Common | varint slot; varint sequence |
//! | 128 | Ping | |
//! | 129 | Hints | hints |
//!
//! ```text
//! opened   = u8 0, progress?, varint credit   or   u8 1, refusal
//! progress = varint next, varint durable, (varint sequence, u32 crc)? last batch
//! refusal  = varint code, str message, varint retry after in ms
//! hints    = varint linger in µs, [str topic, varint partitions], varint partitions of a new topic
//! ```
//!
//! # A session
//!
//! 1. The agent opens the control stream and sends Hello. Nothing else is allowed before.
//! 2. The aggregator authenticates the peer, stops an older connection of the same producer and waits
//!    until none of its appends is under way, then answers `HelloAck` with one `opened` per slot, or
//!    Refused and closes.
//! 3. For each slot the agent compares the aggregator's progress with its spool ([`resume::resume`]). Where they
//!    agree it opens the data stream at the place the aggregator expects. Where they do not, somebody
//!    else has used the same producer id (a cloned machine, a snapshot that was rolled back): it asks by
//!    Compare what of its spool is in the log nevertheless, frees that, waits for what it has under way,
//!    leaves, draws a new producer id and comes back with `replaces`.
//! 4. The agent sends batches, never more than the slot's credit: an absolute count of batch bytes since
//!    the session began, which only grows (as QUIC's `MAX_STREAM_DATA`). The aggregator raises it as it
//!    appends and holds it when memory or disk run short.
//! 5. The aggregator acknowledges: `appended` and `durable` are the next sequences it expects, written
//!    and fsynced. Only `durable` frees the spool. Acknowledgements coalesce: one message carries the
//!    latest state of every slot that moved.
//! 6. Either side says Goodbye before it leaves. After Goodbye the aggregator still acknowledges what it
//!    appends; the agent waits for that within its grace.
//!
//! Over TCP both sides ping when they sent nothing for a while and give up on a peer that is silent for
//! longer; QUIC does this by itself.
//!
//! # What a hostile peer can do
//!
//! Lengths are checked before anything is allocated, buffers grow with bytes that came, lists are
//! counted against `limits.rs`, and every error ends the session with a sentence. An aggregator cannot
//! make an agent free what it never sent, nor an agent write under another producer's id or past its
//! credit.

pub mod broker;
pub mod chunk;
pub mod control;
mod field;
pub mod frame;
pub mod message;
pub mod producer;
pub mod resume;
mod varint;

#[cfg(test)]
mod tests;

/// The application protocol of a session, in TLS's handshake.
pub const ALPN: &[u8] = b"weir/1";

/// The versions of the session that this code speaks.
pub const VERSION_MIN: u32 = 1;
/// See [`VERSION_MIN`].
pub const VERSION_MAX: u32 = 1;
