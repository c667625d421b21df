//! What the producer counts, for the agent's metrics, and what it is told of the sources.

use std::sync::atomic::{AtomicU64, Ordering};

use commitlog::batch::header::BatchHeader;

/// Counters since the start; all relaxed, each is true by itself.
#[derive(Debug, Default)]
pub struct Stats {
    sent_batches: AtomicU64,
    sent_records: AtomicU64,
    sent_bytes: AtomicU64,
    sessions: AtomicU64,
    connected: AtomicU64,
    unread_bytes: AtomicU64,
}

/// Which transport carries the session at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connected {
    /// None.
    No,
    /// QUIC.
    Quic,
    /// TLS over TCP.
    Tcp,
}

impl Stats {
    pub(super) fn sent(&self, batch: &BatchHeader) {
        self.sent_batches.fetch_add(1, Ordering::Relaxed);
        let records = u64::from(batch.record_count);
        self.sent_records.fetch_add(records, Ordering::Relaxed);
        let bytes = batch.total_bytes() as u64;
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn set_connected(&self, connected: Connected) {
        if connected != Connected::No {
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
        self.connected.store(connected as u64, Ordering::Relaxed);
    }

    /// Batches written to a stream, sent again ones included.
    pub fn sent_batches(&self) -> u64 {
        self.sent_batches.load(Ordering::Relaxed)
    }

    /// The records in them.
    pub fn sent_records(&self) -> u64 {
        self.sent_records.load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Connections made.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The sources have so many bytes before them that are not spooled yet: the next status tells it.
    pub fn set_unread_bytes(&self, bytes: u64) {
        self.unread_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of files that are not spooled yet, as of a moment ago.
    pub fn unread_bytes(&self) -> u64 {
        self.unread_bytes.load(Ordering::Relaxed)
    }

    /// The present transport.
    pub fn connected(&self) -> Connected {
        match self.connected.load(Ordering::Relaxed) {
            1 => Connected::Quic,
            2 => Connected::Tcp,
            _ => Connected::No,
        }
    }
}
