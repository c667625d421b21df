//! `/healthz`, `/readyz`, `/metrics`: whether it lives, whether it works, what it does.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// What is not as it should be, a sentence each.
    problems: Vec<String>,
}

/// The process answers: that is all.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// 200 when agents can ship and consumers can read everything; otherwise 503 and why not.
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let mut problems = api.health.problems(&api.topics);
    problems.extend(api.groups.failure());
    let ready = problems.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(Readiness { ready, problems })).into_response()
}

/// Prometheus' text format.
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    api.topics.observe();
    let text = api.telemetry.text();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}
