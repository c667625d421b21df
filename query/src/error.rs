//! What can go wrong, by what its caller does about it.

use std::fmt::Display;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What to do about it.
    pub kind: ErrorKind,
    message: String,
}

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Bytes are not what they should be: report it and go on with the others.
    Damaged,
    /// The table's storage did not do what it was asked for: try again later.
    Storage,
    /// Somebody else has written to the table: look at it anew.
    Conflict,
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Display) -> Error {
        Error {
            kind,
            message: message.to_string(),
        }
    }

    pub(crate) fn storage(error: impl Display) -> Error {
        Error::new(ErrorKind::Storage, error)
    }
}
