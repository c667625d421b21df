//! The two messages of enrolment.
//!
//! Each is a frame: its length as 32 bits, big-endian, then so many bytes of JSON; at most
//! [`FRAME_BYTES_MAX`]. JSON, because the messages are rare and a later version can add fields that
//! this one ignores. Binary fields are base64.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::join::refusal::Refusal;

/// The largest frame: a request has under 2 KiB, a reply with a thousand topics about 64 KiB.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;

/// Bytes before a frame's content: its length.
pub const FRAME_HEADER_BYTES: usize = 4;

/// What an agent sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The token's id.
    pub token: String,
    /// The certificate request, PKCS #10 in DER. Only its public key is used.
    pub certificate_request: Binary,
    /// The proof.
    pub proof: Binary,
    /// The host's name, for the operator's list.
    pub host: String,
}

/// What the aggregator answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The agent has joined.
    Accepted(Accepted),
    /// It has not.
    Refused(Refusal),
}

/// What a joined agent gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its name.
    pub agent: String,
    /// Its certificate, then those between it and the authority, in DER.
    pub certificates: Vec<Binary>,
    /// The authorities to trust, in DER.
    pub authorities: Vec<Binary>,
    /// Where to connect from now on; empty means the token's addresses.
    pub aggregators: Vec<String>,
    /// The topics there are.
    pub topics: Vec<Topic>,
    /// The topics it may write, as patterns.
    pub allowed: Vec<String>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: u32,
}

/// Bytes that stand in JSON as base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Binary(pub Vec<u8>);

/// Bytes are not such a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MessageError(pub String);

impl From<Binary> for String {
    fn from(binary: Binary) -> String {
        data_encoding::BASE64.encode(&binary.0)
    }
}

impl TryFrom<String> for Binary {
    type Error = MessageError;

    fn try_from(text: String) -> Result<Binary, MessageError> {
        let bytes = data_encoding::BASE64.decode(text.as_bytes());
        let wrong =
            |error: data_encoding::DecodeError| MessageError(format!("bad base64: {error}"));
        bytes.map(Binary).map_err(wrong)
    }
}

/// A message as a frame.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, MessageError> {
    let wrong = |error: serde_json::Error| MessageError(error.to_string());
    let content = serde_json::to_vec(message).map_err(wrong)?;
    if content.len() > FRAME_BYTES_MAX {
        return Err(too_long(content.len()));
    }
    let length = u32::try_from(content.len()).map_err(|_| too_long(content.len()))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(content);
    Ok(frame)
}

/// How many bytes follow a frame's header.
pub fn content_bytes(header: [u8; FRAME_HEADER_BYTES]) -> Result<usize, MessageError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        Err(too_long(length))
    } else {
        Ok(length)
    }
}

/// A message from a frame's content.
pub fn decode<M: DeserializeOwned>(content: &[u8]) -> Result<M, MessageError> {
    serde_json::from_slice(content).map_err(|error| MessageError(error.to_string()))
}

fn too_long(bytes: usize) -> MessageError {
    MessageError(format!(
        "a frame of {bytes} bytes, over the limit of {FRAME_BYTES_MAX}"
    ))
}
