//! `/healthz`, `/readyz` and `/metrics`, at an address that the operator chose.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use config::listen::{Protocol, cannot_listen};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::limits::{STATUS_CONNECTION_MAX, STATUS_CONNECTIONS_MAX, STATUS_HEADER_MAX};
use crate::pipeline::requests::Requests;
use crate::producer::stats::{Connected, Stats};
use crate::spool::Spool;
use crate::telemetry::Telemetry;

/// What there is to say.
#[derive(Clone)]
pub struct Status {
    spool: Spool,
    telemetry: Telemetry,
    producer: Arc<Stats>,
    requests: Requests,
    failed: CancellationToken,
}

/// Where connections come from.
pub(crate) trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Status {
    /// The state of an agent. `failed`: a part has ended that must not.
    pub fn new(
        spool: Spool,
        telemetry: Telemetry,
        producer: Arc<Stats>,
        requests: Requests,
        failed: CancellationToken,
    ) -> Status {
        Status {
            spool,
            telemetry,
            producer,
            requests,
            failed,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/healthz" | "/readyz" if self.failed.is_cancelled() => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "a part of the agent has ended; its log says why\n",
            ),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.spool.is_full() => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the spool or its disk is full: reading waits until an aggregator takes more\n",
            ),
            "/readyz" => match self.producer.connected() {
                Connected::No => text(StatusCode::OK, "ok, spooling: no aggregator is connected\n"),
                Connected::Quic => text(StatusCode::OK, "ok, shipping over QUIC\n"),
                Connected::Tcp => text(StatusCode::OK, "ok, shipping over TCP\n"),
            },
            "/metrics" => {
                let totals = self.requests.totals().await.unwrap_or_default();
                let metrics = self.telemetry.text(&self.spool, &self.producer, &totals);
                let mut response = text(StatusCode::OK, metrics);
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz and /metrics\n",
            ),
        }
    }
}

/// Serves until the task is aborted; where it listens.
pub async fn serve(
    listen: SocketAddr,
    status: Status,
) -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
    let bound = TcpListener::bind(listen).await;
    let listener = bound.map_err(|error| {
        anyhow::Error::msg(cannot_listen("agent.http", listen, Protocol::Tcp, &error))
    })?;
    let addr = listener.local_addr()?;
    let answer = move |request| {
        let status = status.clone();
        async move { status.answer(request).await }
    };
    let accepting = accept(listener, STATUS_CONNECTION_MAX, answer);
    Ok((addr, tokio::spawn(accepting)))
}

/// Serves every connection, a few at once, each for so long at most.
pub(crate) async fn accept<L, A, F>(listener: L, time_max: Duration, answer: A)
where
    L: Listener,
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let mut connections = tokio::task::JoinSet::new();
    let slots = Arc::new(Semaphore::new(STATUS_CONNECTIONS_MAX));
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        while connections.try_join_next().is_some() {}
        let stream = match listener.next().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, "no connection accepted");
                tokio::time::sleep(STATUS_HEADER_MAX / 100).await;
                continue;
            }
        };
        let answer = answer.clone();
        connections.spawn(async move {
            let answer = service_fn(|request| {
                let answer = answer(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(STATUS_HEADER_MAX)
                .serve_connection(TokioIo::new(stream), answer);
            if let Ok(Err(error)) = tokio::time::timeout(time_max, served).await {
                tracing::debug!(%error, "status connection ended");
            }
            drop(slot);
        });
    }
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
