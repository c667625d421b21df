//! Counts requests by route and status class; the counters are looked up once.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use prometheus::IntCounter;

use crate::telemetry::Telemetry;

/// One route's counters: 2xx, 4xx, 5xx. No route answers otherwise.
pub(super) type Counters = [(u16, IntCounter); 3];

/// The counters of the route `method path`.
pub(super) fn requests(telemetry: &Telemetry, method: &Method, path: &str) -> Counters {
    [(2, "2xx"), (4, "4xx"), (5, "5xx")].map(|(class, name)| {
        let labels = &[method.as_str(), path, name];
        (class, telemetry.http_requests.with_label_values(labels))
    })
}

/// Counts one request when its answer begins.
pub(super) async fn count(
    State(counters): State<Counters>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let class = response.status().as_u16() / 100;
    if let Some((_, counter)) = counters.iter().find(|(counted, _)| *counted == class) {
        counter.inc();
    }
    response
}
