//! Names and fixed values of record headers. OpenTelemetry's semantic conventions where they have a
//! name; a `weir.` prefix for what only this project's programs read.

/// The host that the record comes from.
pub const HOST_NAME: &str = "host.name";

/// The service that wrote it, where that is configured.
pub const SERVICE_NAME: &str = "service.name";

/// The file that a line comes from: the path that its source watches, also after a rotation.
pub const LOG_FILE_PATH: &str = "log.file.path";

/// The record is a part of a line: [`PARTIAL_SPLIT`], [`PARTIAL_TRUNCATED`] or [`PARTIAL_UNTERMINATED`].
pub const LOG_RECORD_PARTIAL: &str = "log.record.partial";

/// The line was longer than the limit: the next record of the same file continues it.
pub const PARTIAL_SPLIT: &[u8] = b"split";

/// The line was longer than the limit: this is its start, and the rest is left out.
pub const PARTIAL_TRUNCATED: &[u8] = b"truncated";

/// The file ended for good without a newline: this is all there is of its last line.
pub const PARTIAL_UNTERMINATED: &[u8] = b"unterminated";

/// Whether a name says what only the agent knows: a label of that name would hide it.
pub fn is_reserved(name: &str) -> bool {
    let own = [LOG_FILE_PATH, LOG_RECORD_PARTIAL, NANOSECONDS, CONTENT_TYPE];
    own.contains(&name) || name.starts_with("weir.")
}

/// Whether a header says where records come from, and is the same for all that come from there.
pub fn is_of_stream(name: &str) -> bool {
    !is_reserved(name) && name != SEVERITY || name == LOG_FILE_PATH
}

/// The severity as the source gives it.
pub const SEVERITY: &str = "severity";

/// The event time's nanoseconds below the record's millisecond, as decimal digits.
pub const NANOSECONDS: &str = "ns";

/// Reads [`NANOSECONDS`]: decimal digits below a million. Anything else is none.
pub fn nanoseconds(value: &[u8]) -> u32 {
    let number = std::str::from_utf8(value).ok();
    let number = number.and_then(|it| it.parse().ok());
    number.filter(|&it: &u32| it < 1_000_000).unwrap_or(0)
}

/// The media type of the value. Absent: raw bytes, one log line.
pub const CONTENT_TYPE: &str = "content-type";

/// Where the record's file is read on from: a [`Position`](crate::position::Position), on the last
/// record that a batch holds of the file; several one behind the other where the record is put together
/// from several files.
pub const POSITION: &str = "weir.position";
