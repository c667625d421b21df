//! Counts requests by route and status class; the counters are looked up once.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use prometheus::IntCounter;

use crate::telemetry::Telemetry;

/// One route's counters: 1xx to 5xx.
pub(super) type Counters = [IntCounter; 5];

/// The counters of the route `method path`.
pub(super) fn requests(telemetry: &Telemetry, method: &Method, path: &str) -> Counters {
    ["1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| {
        let labels = &[method.as_str(), path, class];
        telemetry.http_requests.with_label_values(labels)
    })
}

/// Counts one request when its answer begins.
pub(super) async fn count(
    State(counters): State<Counters>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let class = usize::from(response.status().as_u16() / 100);
    if let Some(counter) = counters.get(class.wrapping_sub(1)) {
        counter.inc();
    }
    response
}
