//! Serves HTTP/1.1 on a listener: a bounded number of connections, each with a deadline for its
//! headers, closed gracefully at shutdown.

use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Api, router};
use crate::limits::{
    ACCEPT_PAUSE, HTTP_CONNECTIONS_MAX, HTTP_HEADER_BYTES_MAX, HTTP_HEADER_TIMEOUT, HTTP_STALL_MAX,
};

/// Answers requests until shutdown, then lets the running ones end.
pub async fn serve(listener: TcpListener, api: Api) {
    let shutdown = api.shutdown.clone();
    let telemetry = api.telemetry.clone();
    let router = router(api);
    let slots = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            () = shutdown.cancelled() => break,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        // Full means wait: the kernel's backlog holds who comes next.
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
        let router = router.clone();
        let shutdown = shutdown.clone();
        let open = telemetry.http_connections.clone();
        open.inc();
        connections.spawn(async move {
            converse(stream, router, shutdown).await;
            open.dec();
            drop(slot);
        });
    }
    connections.close();
    connections.wait().await;
}

async fn converse(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%error, "cannot tune an HTTP connection");
    }
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEADER_TIMEOUT)
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
