//! The aggregator's HTTP API: the list of its routes, each with who may ask it. One file a
//! resource.
//!
//! | ask | answer |
//! |---|---|
//! | `GET /healthz`, `/readyz`, `/metrics` | it lives; it works, or why not; Prometheus' text |
//! | `GET /api/v1/topics` | topics, partitions, their start, durable and appended end |
//! | `GET /api/v1/topics/{topic}/records` `?partition=N` `&from=beginning`, `end`, offset or RFC 3339 `&max_records` `&max_bytes` `&wait=5s` | ndjson, or whole batches for `accept: application/octet-stream`; `weir-next-offset` says where to go on |
//! | `GET /api/v1/groups`, `GET`, `POST /api/v1/groups/{group}/offsets` | committed offsets; `{"offsets":[{"topic","partition","offset"}]}` commits, fsynced when answered |
//! | `GET /api/v1/agents`, `POST …/{id}/revoke` | who ships, lag, counted losses; shuts one out |
//! | `GET`, `POST /api/v1/tokens`, `DELETE …/{id}` | join tokens; `{"ttl":"1h","uses":1,"topics":["*"]}` makes one |
//!
//! A full server still answers health and metrics, on connections that are kept for them (`server`).
//!
//! Invariants: **I26** every route but those marked [`Access::Everybody`] asks for the token (a test goes
//! over the list); errors are JSON with a code, a message and a hint; nothing here waits for a disk
//! on an async thread.

pub mod admin_token;
mod agents;
mod auth;
mod count;
mod error;
mod groups;
mod health;
mod json;
mod lines;
mod parameter;
mod records;
mod server;
#[cfg(test)]
mod tests;
mod time;
mod tokens;
mod topics;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};
use config::value::HostPort;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use auth::{Gate, Origins};
pub use server::serve;

use self::error::ApiError;
use crate::agents::Agents;
use crate::blocking::Blocking;
use crate::groups::Groups;
use crate::health::Health;
use crate::identity::Authority;
use crate::limits::{HTTP_BODY_BYTES_MAX, HTTP_CONNECTIONS_MAX};
use crate::telemetry::Telemetry;
use crate::topics::Topics;

/// What the handlers work with; a handle, cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The topics.
    pub topics: Topics,
    /// Consumer groups.
    pub groups: Groups,
    /// Who ships here.
    pub agents: Agents,
    /// Tokens and revocation.
    pub authority: Authority,
    /// The addresses that a join token tells agents to connect to.
    pub agents_connect_to: Arc<[HostPort]>,
    /// The metrics.
    pub telemetry: Telemetry,
    /// Whether all works.
    pub health: Health,
    /// Who may ask.
    pub gate: Gate,
    /// Where work that waits for the disk runs.
    pub blocking: Blocking,
    /// Room for requests that wait for a record: [`HTTP_LONG_POLLS_MAX`](crate::limits::HTTP_LONG_POLLS_MAX).
    pub long_polls: Arc<Semaphore>,
    /// Ends long polls.
    pub shutdown: CancellationToken,
}

/// Who may ask a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Everybody: health checks carry no secrets.
    Everybody,
    /// Who shows the token.
    Token,
}

struct Route {
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<Api>,
}

/// What all paths but those of health and metrics begin with.
const API: &str = "/api/";

const GROUP_OFFSETS: &str = "/api/v1/groups/{group}/offsets";

/// All routes. The one list.
fn routes() -> Vec<Route> {
    use Access::{Everybody, Token};
    let route = |method, path, access, handler| Route {
        method,
        path,
        access,
        handler,
    };
    vec![
        route(Method::GET, "/healthz", Everybody, get(health::healthz)),
        route(Method::GET, "/readyz", Everybody, get(health::readyz)),
        route(Method::GET, "/metrics", Token, get(health::metrics)),
        route(Method::GET, "/api/v1/topics", Token, get(topics::list)),
        route(
            Method::GET,
            "/api/v1/topics/{topic}/records",
            Token,
            get(records::get),
        ),
        route(Method::GET, "/api/v1/groups", Token, get(groups::list)),
        route(Method::GET, GROUP_OFFSETS, Token, get(groups::offsets)),
        route(Method::POST, GROUP_OFFSETS, Token, post(groups::commit)),
        route(Method::GET, "/api/v1/agents", Token, get(agents::list)),
        route(
            Method::POST,
            "/api/v1/agents/{id}/revoke",
            Token,
            post(agents::revoke),
        ),
        route(Method::GET, "/api/v1/tokens", Token, get(tokens::list)),
        route(Method::POST, "/api/v1/tokens", Token, post(tokens::create)),
        route(
            Method::DELETE,
            "/api/v1/tokens/{id}",
            Token,
            delete(tokens::revoke),
        ),
    ]
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// Everything.
    Plenty,
    /// Health and metrics; all else is told to come again.
    Reserved,
}

/// The API as a service.
fn router(api: Api, room: Room) -> Router {
    let gate = api.gate.clone();
    let token = || from_fn_with_state(gate.clone(), auth::require_token);
    let mut router = Router::new();
    let is_answered = |route: &Route| room == Room::Plenty || !route.path.starts_with(API);
    for route in routes().into_iter().filter(is_answered) {
        let handler = match route.access {
            Access::Everybody => route.handler,
            Access::Token => route.handler.layer(token()),
        };
        let count = count::requests(&api.telemetry, &route.method, route.path);
        router = router.route(
            route.path,
            handler.layer(from_fn_with_state(count, count::count)),
        );
    }
    let router = match room {
        Room::Plenty => router.fallback(no_such_path),
        Room::Reserved => router.fallback(no_room),
    };
    router
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(HTTP_BODY_BYTES_MAX))
        .layer(from_fn_with_state(gate.clone(), auth::require_origin))
        .with_state(api)
}

async fn no_room() -> ApiError {
    ApiError::busy(
        format!("all {HTTP_CONNECTIONS_MAX} connections are in use"),
        "try again in a moment; it helps when consumers keep one connection each and fewer follow",
    )
}

async fn no_such_path(uri: Uri) -> ApiError {
    let message = format!("there is nothing at {}", uri.path());
    ApiError::not_found(message, "the API begins at /api/v1/topics")
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} cannot be asked with {method}", uri.path()),
        "GET reads; POST commits, makes and revokes; DELETE takes tokens back",
    )
}
