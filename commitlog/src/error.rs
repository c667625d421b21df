//! What can go wrong in this crate, sorted by what the caller does about it.

/// A failure, with the kind that tells what to do and the words that tell what happened.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller does about it.
    pub kind: ErrorKind,
    /// Lower case, no full stop, with path, offset, value and the system's own words where they are known.
    pub message: String,
}

/// What the caller does about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The same call can succeed later: the disk is full, a resource is short. Wait, then retry.
    Retry,
    /// The input is wrong and stays wrong. Refuse it and say so.
    Input,
    /// Bytes that were written correctly are damaged. Skip what the message names, count it.
    Damaged,
    /// This log can take no more until it is opened again: an fsync or a write failed.
    Closed,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`ErrorKind::Input`] error.
    pub fn input(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Input, message)
    }

    /// An [`ErrorKind::Damaged`] error.
    pub fn damaged(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Damaged, message)
    }

    /// An error of the given kind with no cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
        }
    }

    /// Sorts an I/O error: a full disk can be retried, all else closes the log. What the system says is in the
    /// message, and only there: who prints a chain of causes says it once.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an error that is sorted is done with"
    )]
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Error {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull
            | std::io::ErrorKind::QuotaExceeded
            | std::io::ErrorKind::Interrupted => ErrorKind::Retry,
            _ => ErrorKind::Closed,
        };
        Error {
            kind,
            message: format!("{}: {source}", context.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn what_the_system_says_is_told_once() {
        let missing = std::io::Error::from(rustix::io::Errno::NOENT);
        let error = Error::io("cannot open a", missing);
        assert_eq!(error.message.matches("No such file").count(), 1);
        assert!(error.source().is_none());
    }
}
