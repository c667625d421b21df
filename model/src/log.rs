//! What a record of a log topic says, as OpenTelemetry's log data model names it.
//!
//! A record is a raw line, or with `content-type: application/json` a JSON object. What its headers say of
//! where it comes from is the same for all records of a file: a [`Stream`], read once for many.
//!
//! A raw line is the body, byte for byte where it is UTF-8. Is it a JSON object, then its fields are attributes
//! besides, so that they can be asked for by name. Of a structured record the field with the message is the body.
//!
//! - Nested fields have names with dots, at most [`DEPTH_MAX`] deep; what is deeper is JSON text, and so are
//!   lists. A field that is null is none. Of two with one name the last is meant.
//! - At most [`ATTRIBUTES_MAX`] are taken; the others are counted, and the body of such a record is its
//!   whole text.
//! - A value is text, whatever its type was: no two records can disagree about it.
//!
//! Invariant **I13**: no bytes make the decoder panic, or take memory without a bound.
//!
//! Source: OpenTelemetry, Logs Data Model, "Log and Event Record Definition".

mod json;

use std::borrow::Cow;

use crate::header;
use crate::severity::{self, SeverityNumber};

/// Fields of a record's JSON that are taken at most.
pub const ATTRIBUTES_MAX: usize = 512;

/// Objects in one another whose fields are taken.
pub const DEPTH_MAX: usize = 8;

/// Where records come from: what all records of a stream have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream<'a> {
    /// Who wrote them.
    pub service_name: Option<Cow<'a, str>>,
    /// On which host.
    pub host_name: Option<Cow<'a, str>>,
    /// Into which file.
    pub file_path: Option<Cow<'a, str>>,
    /// All of it by name, in the order of names; the last of several of one name.
    pub attributes: Attributes<'a>,
}

/// Names and values in the order of names, each name once.
pub type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// What one record says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Nanoseconds beyond the record's millisecond, below a million.
    pub nanoseconds: u32,
    /// How bad it is; 0 where that is not said.
    pub severity_number: SeverityNumber,
    /// The same in the program's own word.
    pub severity_text: Option<Cow<'a, str>>,
    /// The line, or the message.
    pub body: Cow<'a, str>,
    /// The trace that it belongs to, 32 hexadecimal digits.
    pub trace_id: Option<Cow<'a, str>>,
    /// The span, 16 hexadecimal digits.
    pub span_id: Option<Cow<'a, str>>,
    /// Fields.
    pub attributes: Attributes<'a>,
    /// Fields that there was no room for.
    pub attributes_dropped: u32,
}

/// A record that is no log record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Its content is of a type that nobody here reads.
    #[error("content-type {0:?} is not known for logs")]
    ContentType(String),
    /// It says that it is a JSON object, and is none.
    #[error("its value is no JSON object: {0}")]
    Json(String),
}

impl<'a> Stream<'a> {
    /// Reads a record's headers.
    pub fn of(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Stream<'a> {
        let mut stream = Stream::default();
        for (name, value) in headers.filter(|(name, _)| header::is_of_stream(name)) {
            let value = String::from_utf8_lossy(value);
            let place = match name {
                header::SERVICE_NAME => Some(&mut stream.service_name),
                header::HOST_NAME => Some(&mut stream.host_name),
                header::LOG_FILE_PATH => Some(&mut stream.file_path),
                _ => None,
            };
            if let Some(place) = place {
                *place = Some(value.clone());
            }
            stream.attributes.push((name.into(), value));
        }
        put_in_order(&mut stream.attributes);
        stream
    }
}

impl Stream<'_> {
    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let at = self.attributes.binary_search_by(|it| (*it.0).cmp(name));
        at.ok().map(|at| &*self.attributes[at].1)
    }

    /// The same with nothing borrowed.
    pub fn into_owned(self) -> Stream<'static> {
        fn owned(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        let attributes = self.attributes.into_iter();
        Stream {
            service_name: self.service_name.map(owned),
            host_name: self.host_name.map(owned),
            file_path: self.file_path.map(owned),
            attributes: attributes
                .map(|(name, value)| (owned(name), owned(value)))
                .collect(),
        }
    }
}

impl<'a> LogRecord<'a> {
    /// Reads a record's value and what its headers say of it alone.
    pub fn of(
        value: &'a [u8],
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<LogRecord<'a>, Undecodable> {
        let mut record = LogRecord::default();
        let mut content_type = None;
        for (name, value) in headers {
            match name {
                header::CONTENT_TYPE => content_type = Some(value),
                header::NANOSECONDS => record.nanoseconds = header::nanoseconds(value),
                header::SEVERITY => record.take_severity(String::from_utf8_lossy(value)),
                header::LOG_RECORD_PARTIAL => {
                    let how = String::from_utf8_lossy(value);
                    record.attributes.push((name.into(), how));
                }
                _ => {}
            }
        }
        match content_type {
            None => record.read_line(value),
            Some(it) if is_json(it) => record.read_structured(value)?,
            Some(other) => {
                let other = String::from_utf8_lossy(other).into_owned();
                return Err(Undecodable::ContentType(other));
            }
        }
        put_in_order(&mut record.attributes);
        Ok(record)
    }

    fn read_line(&mut self, value: &'a [u8]) {
        self.body = String::from_utf8_lossy(value);
        if let Ok(text) = std::str::from_utf8(value)
            && text.trim_ascii_start().starts_with('{')
            && let Ok(fields) = json::fields(text)
        {
            self.take_fields(fields);
        }
    }

    fn read_structured(&mut self, value: &'a [u8]) -> Result<(), Undecodable> {
        let text = std::str::from_utf8(value).map_err(|it| Undecodable::Json(it.to_string()))?;
        let fields = json::fields(text).map_err(|it| Undecodable::Json(it.to_string()))?;
        self.take_fields(fields);
        let mut names = MESSAGE.iter();
        let message = names.find_map(|name| self.attributes.iter().position(|it| it.0 == *name));
        self.body = match message {
            Some(at) if self.attributes_dropped == 0 => self.attributes.swap_remove(at).1,
            _ => text.into(),
        };
        Ok(())
    }

    fn take_fields(&mut self, fields: json::Fields<'a>) {
        self.attributes_dropped = fields.dropped;
        let value_of = |names: &[&str]| {
            let mut names = names.iter();
            let field = names.find_map(|name| fields.list.iter().rfind(|it| it.0 == *name));
            field.map(|(_, value)| value.clone())
        };
        if self.severity_text.is_none()
            && let Some(text) = value_of(&SEVERITY)
        {
            self.take_severity(text);
        }
        self.trace_id = value_of(&TRACE_ID).and_then(|it| hexadecimal(it, 32));
        self.span_id = value_of(&SPAN_ID).and_then(|it| hexadecimal(it, 16));
        self.attributes.extend(fields.list);
    }

    fn take_severity(&mut self, text: Cow<'a, str>) {
        self.severity_number = severity::number_of(&text);
        self.severity_text = Some(text);
    }
}

/// Puts them in the order of their names and keeps the last of each.
fn put_in_order(attributes: &mut Attributes<'_>) {
    if attributes.is_sorted_by(|a, b| a.0 < b.0) {
        return;
    }
    attributes.reverse();
    attributes.sort_by(|a, b| a.0.cmp(&b.0));
    attributes.dedup_by(|later, first| later.0 == first.0);
}

/// `application/json`, whatever follows it.
fn is_json(content_type: &[u8]) -> bool {
    let end = content_type.iter().position(|&byte| byte == b';');
    let kind = &content_type[..end.unwrap_or(content_type.len())];
    kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// An id of so many digits, in lower case.
fn hexadecimal(text: Cow<'_, str>, digits: usize) -> Option<Cow<'_, str>> {
    let is_id = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let has_upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
    match (is_id, has_upper) {
        (false, _) => None,
        (true, false) => Some(text),
        (true, true) => Some(text.to_ascii_lowercase().into()),
    }
}

const MESSAGE: [&str; 5] = ["message", "msg", "body", "log", "event"];
const SEVERITY: [&str; 7] = [
    "level",
    "severity",
    "severity_text",
    "lvl",
    "log.level",
    "loglevel",
    "levelname",
];
const TRACE_ID: [&str; 4] = ["trace_id", "traceId", "trace.id", "traceid"];
const SPAN_ID: [&str; 4] = ["span_id", "spanId", "span.id", "spanid"];

#[cfg(test)]
mod tests;
