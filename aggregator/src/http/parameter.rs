//! Reads what stands in a path, a query or a body, with an error that says what to write.

use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use commitlog::id::TopicName;
use config::value::{Scalar, Value};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_BODY_TIMEOUT};

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

/// The one variable part of a path, decoded.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Segment, ApiError> {
        let path = extract::Path::<String>::from_request_parts(parts, state).await;
        let segment = path.map_err(|error| {
            ApiError::bad_request(error.body_text(), "percent-encode the name as UTF-8")
        })?;
        Ok(Segment(segment.0))
    }
}

/// A whole body, bounded.
pub(super) struct Whole(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Whole, ApiError> {
        let bytes = tokio::time::timeout(HTTP_BODY_TIMEOUT, Bytes::from_request(request, state));
        match bytes.await {
            Ok(Ok(bytes)) => Ok(Whole(bytes)),
            Ok(Err(error)) => {
                let hint = format!("a body has at most {HTTP_BODY_BYTES_MAX} bytes");
                let message = error.body_text();
                Err(ApiError::new(error.status(), "bad_body", message, hint))
            }
            Err(_) => Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                "the body did not come in time",
                "send it at once",
            )),
        }
    }
}

/// A JSON body. Any content type will do: `curl -d` sends the one of forms.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("the body is not the JSON that is expected: {error}");
        ApiError::bad_request(
            message,
            "send one JSON object with exactly the fields that this route knows",
        )
    })
}
