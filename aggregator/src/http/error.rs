//! What the API says when it does not do what was asked: a status, a code for programs, a message
//! and a hint for people.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use commitlog::error::{Error, ErrorKind};

use crate::limits::HTTP_RETRY_AFTER_SECONDS;

/// A request that is not answered as asked.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    hint: String,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ApiError {
        ApiError {
            status,
            code,
            message: message.into(),
            hint: hint.into(),
            header: None,
        }
    }

    /// The request itself is wrong.
    pub(super) fn bad_request(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message, hint)
    }

    /// What is asked for is not there.
    pub(super) fn not_found(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message, hint)
    }

    /// There is no room for it now; says when to come again.
    pub(super) fn busy(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message, hint)
            .with_header(header::RETRY_AFTER, HTTP_RETRY_AFTER_SECONDS)
    }

    pub(super) fn with_header(
        mut self,
        name: HeaderName,
        value: impl Into<HeaderValue>,
    ) -> ApiError {
        self.header = Some(Box::new((name, value.into())));
        self
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> ApiError {
        let (status, code, hint) = match error.kind {
            ErrorKind::Retry => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "try again in a moment; /readyz tells what is not ready",
            ),
            ErrorKind::Input => (
                StatusCode::BAD_REQUEST,
                "bad_request",
                "correct the request",
            ),
            ErrorKind::Damaged => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "damaged",
                "`weir log verify` on the data directory tells what is damaged",
            ),
            ErrorKind::Closed => (
                StatusCode::SERVICE_UNAVAILABLE,
                "closed",
                "the disk failed; it is tried again by itself, /readyz tells when it works",
            ),
        };
        ApiError::new(status, code, error.message, hint)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "error": {"code": self.code, "message": self.message, "hint": self.hint}
        });
        let json = HeaderValue::from_static("application/json");
        let mut response = (
            self.status,
            [(header::CONTENT_TYPE, json)],
            body.to_string(),
        )
            .into_response();
        if let Some(header) = self.header {
            let (name, value) = *header;
            response.headers_mut().insert(name, value);
        }
        response
    }
}
