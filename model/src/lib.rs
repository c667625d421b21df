//! What a record means: the names of its headers, what a log record says, and the file position that the
//! last record of a file in each batch carries.
//!
//! A record is a Kafka record: key, value and headers. A raw log line is the value, byte for byte;
//! everything known about it is a header, by its OpenTelemetry name where there is one.

pub mod header;
pub mod log;
pub mod position;
pub mod severity;
