//! Reads what stands in a path, a query or a body, with an error that says what to write.

use std::path::Path;
use std::time::Duration;

use commitlog::id::TopicName;
use config::value::{Scalar, Value};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A topic's name. The only way from a request to a directory's name.
pub(super) fn topic(name: &str) -> Result<TopicName, ApiError> {
    name.parse().map_err(|error: commitlog::error::Error| {
        ApiError::bad_request(error.message, "/api/v1/topics lists the topics")
    })
}

/// A duration as the configuration writes it: `500ms`, `5s`, `1h`.
pub(super) fn duration(name: &str, text: &str) -> Result<Duration, ApiError> {
    let scalar = Scalar {
        text,
        span: config::problem::Span::default(),
        base: Path::new(""),
    };
    let read = <Duration as Value>::read(&scalar);
    read.map_err(|wrong| ApiError::bad_request(format!("{name}: {}", wrong.message), wrong.help))
}

/// A JSON body. Any content type will do: `curl -d` sends the one of forms.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("the body is not the JSON that is expected: {error}");
        ApiError::bad_request(message, "send one JSON object, as the API's description shows")
    })
}
