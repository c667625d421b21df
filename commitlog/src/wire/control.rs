//! What both sessions share: control bytes in and out, and the pings that keep a TCP connection honest.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    CONTROL_BACKLOG_BYTES_MAX, CONTROL_BYTES_MAX, SESSION_PING_AFTER, SESSION_SILENCE_MAX,
};

use super::message::Decoded;

/// Who notices that the peer is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// QUIC's keep-alive and idle timeout do.
    Transport,
    /// The session does, by pings: TCP would take minutes.
    Session,
}

/// Control bytes that came and are not yet a message, and those that wait to be written.
#[derive(Debug)]
pub(super) struct Control {
    input: Vec<u8>,
    output: Vec<u8>,
    liveness: Liveness,
    heard: Duration,
    spoke: Duration,
}

impl Control {
    pub(super) fn new(liveness: Liveness, now: Duration) -> Control {
        Control {
            input: Vec::new(),
            output: Vec::new(),
            liveness,
            heard: now,
            spoke: now,
        }
    }

    /// Notes that the peer lives.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// Takes bytes of the control stream. They are messages once [`Control::message`] says so.
    pub(super) fn push(&mut self, bytes: &[u8], now: Duration) {
        self.heard(now);
        self.input.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub(super) fn message<T>(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<Decoded<T>>,
    ) -> Result<Option<T>> {
        let mut at = 0;
        let found = loop {
            match decode(&self.input[at..])? {
                Decoded::Partial => break None,
                Decoded::Ignored(size) => at += size,
                Decoded::Message(message, size) => {
                    at += size;
                    break Some(message);
                }
            }
        };
        self.input.drain(..at);
        Ok(found)
    }

    /// Queues a message.
    pub(super) fn say(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        encode(&mut self.output);
        if self.output.len() > CONTROL_BACKLOG_BYTES_MAX {
            return Err(Error::input(format!(
                "the peer does not read: {} control bytes wait for it",
                self.output.len()
            )));
        }
        Ok(())
    }

    /// Takes the bytes to write.
    pub(super) fn output(&mut self, now: Duration) -> Vec<u8> {
        if !self.output.is_empty() {
            self.spoke = now;
        }
        std::mem::take(&mut self.output)
    }

    /// Whether a ping is due; fails when the peer has been silent for too long.
    pub(super) fn is_ping_due(&self, now: Duration) -> Result<bool> {
        if self.liveness == Liveness::Transport {
            return Ok(false);
        }
        let silence = now.saturating_sub(self.heard);
        if silence > SESSION_SILENCE_MAX {
            return Err(Error::new(
                ErrorKind::Retry,
                format!("the peer has been silent for {} s", silence.as_secs()),
            ));
        }
        Ok(now.saturating_sub(self.spoke) >= SESSION_PING_AFTER)
    }
}

const _: () = assert!(CONTROL_BACKLOG_BYTES_MAX > CONTROL_BYTES_MAX);
