//! Serves HTTP/1.1 on a listener: a bounded number of connections, each with a deadline for its
//! headers, closed gracefully at shutdown. Past that number a few more are taken, on which health and
//! metrics are answered once and all else is told to come again.

use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Api, Room, router};
use crate::limits::{
    ACCEPT_PAUSE, HTTP_CONNECTIONS_MAX, HTTP_CONNECTIONS_RESERVED, HTTP_HEADER_BYTES_MAX,
    HTTP_HEADER_TIMEOUT, HTTP_HEADER_TIMEOUT_RESERVED, HTTP_STALL_MAX,
};

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// For everything.
    pub(super) shared: usize,
    /// Past those, for health and metrics.
    pub(super) reserved: usize,
}

/// Answers requests until shutdown, then lets the running ones end.
pub async fn serve(listener: TcpListener, api: Api) {
    let places = Places {
        shared: HTTP_CONNECTIONS_MAX,
        reserved: HTTP_CONNECTIONS_RESERVED,
    };
    serve_at(listener, api, places).await;
}

/// As [`serve`], with other bounds.
pub(super) async fn serve_at(listener: TcpListener, api: Api, places: Places) {
    let shutdown = api.shutdown.clone();
    let telemetry = api.telemetry.clone();
    let (whole, health) = (
        router(api.clone(), Room::Plenty),
        router(api, Room::Reserved),
    );
    let shared = Arc::new(Semaphore::new(places.shared));
    let reserved = Arc::new(Semaphore::new(places.reserved));
    let connections = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = Arc::clone(&reserved).acquire_owned() => slot,
        };
        // Wholly full means wait: the kernel's backlog holds who comes next.
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, as a rule: some will be free in a moment.
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (slot, router, room) = match Arc::clone(&shared).try_acquire_owned() {
            Ok(slot) => (slot, whole.clone(), Room::Plenty),
            Err(_) => (slot, health.clone(), Room::Reserved),
        };
        let shutdown = shutdown.clone();
        let open = telemetry.http_connections.clone();
        open.inc();
        connections.spawn(async move {
            converse(stream, router, room, shutdown).await;
            open.dec();
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn converse(stream: TcpStream, router: Router, room: Room, shutdown: CancellationToken) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "cannot tune an HTTP connection");
    }
    let service = TowerToHyperService::new(router);
    let patience = match room {
        Room::Plenty => HTTP_HEADER_TIMEOUT,
        Room::Reserved => HTTP_HEADER_TIMEOUT_RESERVED,
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(patience)
        .keep_alive(room == Room::Plenty)
        .max_buf_size(HTTP_HEADER_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended");
    }
}

/// Answers go out at once; a peer that takes nothing for long is given up, or it would hold its
/// answer in our memory for ever.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(HTTP_STALL_MAX))?;
    Ok(())
}
