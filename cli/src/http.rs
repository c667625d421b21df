//! A small HTTP/1.1 client: one kept connection, one request at a time.
//!
//! Plain `http://` only. Between hosts put the API behind a proxy that terminates TLS, or tunnel it
//! (`ssh -L 9348:127.0.0.1:9348 HOST`): the token would otherwise cross the network readable.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::{CONNECT_TIMEOUT, RESPONSE_BYTES_MAX, RESPONSE_TIMEOUT};
use crate::terminal::append;

/// Where an aggregator's HTTP API is: `http://HOST:PORT`, with no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    host: String,
    port: u16,
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<ServerUrl, String> {
        if url.starts_with("https://") {
            return Err(
                "https is not spoken here; use a tunnel or a proxy on this host, \
                 for instance `ssh -L 9348:127.0.0.1:9348 HOST` and http://127.0.0.1:9348"
                    .into(),
            );
        }
        let address = url.strip_prefix("http://").unwrap_or(url);
        let address = address.strip_suffix('/').unwrap_or(address);
        let wrong = || format!("{url:?} is no server; write http://HOST:PORT");
        let authority: hyper::http::uri::Authority = address.parse().map_err(|_| wrong())?;
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => 80,
            Some(port) => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .ok_or_else(wrong)?,
            None => return Err(wrong()),
        };
        if host.is_empty() {
            return Err(wrong());
        }
        let host = host.to_owned();
        Ok(ServerUrl { host, port })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// Path and query, already escaped.
    pub(crate) path: String,
    pub(crate) accept: &'static str,
    /// JSON, or empty.
    pub(crate) body: Vec<u8>,
}

/// What came back, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}", root(.0))]
    Connect(#[source] std::io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(std::time::Duration),
    #[error("the connection broke: {}", root(.0))]
    Broken(#[source] hyper::Error),
    #[error("the answer broke off or is too large: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Request(#[from] hyper::http::Error),
}

/// One connection to one server; made at the first request and again after it was lost.
pub(crate) struct Connection {
    server: ServerUrl,
    authorization: Option<String>,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(crate) fn new(server: ServerUrl, token: Option<&str>) -> Connection {
        Connection {
            server,
            authorization: token.map(|token| format!("Bearer {token}")),
            sender: None,
        }
    }

    /// Sends `ask` and reads the whole answer. A kept connection that the server has closed
    /// meanwhile is replaced once.
    pub(crate) async fn send(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let kept = self.sender.is_some();
        match self.try_send(ask).await {
            Err(Error::Broken(error)) if kept && (error.is_canceled() || error.is_closed()) => {
                self.try_send(ask).await
            }
            result => result,
        }
    }

    async fn try_send(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let request = self.request(ask)?;
        let mut sender = match self.sender.take() {
            Some(sender) => sender,
            None => connect(&self.server).await?,
        };
        let answer = timeout(RESPONSE_TIMEOUT, async {
            sender.ready().await.map_err(Error::Broken)?;
            let response = sender.send_request(request).await.map_err(Error::Broken)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, RESPONSE_BYTES_MAX).collect().await;
            Ok::<_, Error>(Answer {
                status: head.status,
                headers: head.headers,
                body: body.map_err(Error::Body)?.to_bytes(),
            })
        });
        let answer = answer
            .await
            .map_err(|_| Error::Timeout(RESPONSE_TIMEOUT))??;
        self.sender = Some(sender);
        Ok(answer)
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, Error> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(HOST, format!("{}:{}", self.server.host, self.server.port))
            .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, ask.accept);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !ask.body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::new(Bytes::from(ask.body.clone())))?)
    }
}

async fn connect(server: &ServerUrl) -> Result<SendRequest<Full<Bytes>>, Error> {
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, server.port)));
    let stream = stream.await.map_err(|_| Error::Timeout(CONNECT_TIMEOUT))?;
    let stream = stream.map_err(Error::Connect)?;
    stream.set_nodelay(true).map_err(Error::Connect)?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(Error::Broken)?;
    // Ends by itself once `sender` is dropped; its errors reach the caller through `sender`.
    tokio::spawn(connection);
    Ok(sender)
}

/// The innermost cause in plain words: `connection refused` rather than hyper's or the system's
/// wrapping of it.
fn root(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    match text.rsplit_once(" (os error ") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// Percent-encodes a path segment or a query value.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => append(&mut out, format_args!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_with_or_without_scheme() {
        for (input, expected) in [
            ("http://127.0.0.1:9348", "http://127.0.0.1:9348"),
            ("http://logs.example/", "http://logs.example:80"),
            ("localhost:9348", "http://localhost:9348"),
            ("http://[::1]:9348", "http://[::1]:9348"),
        ] {
            assert_eq!(input.parse::<ServerUrl>().unwrap().to_string(), expected);
        }
        for wrong in [
            "",
            "http://",
            "http://a/b",
            "http://u:p@h:1",
            "http://h:99999",
            "ftp://h",
        ] {
            assert!(wrong.parse::<ServerUrl>().is_err(), "{wrong}");
        }
        let https = "https://logs.example".parse::<ServerUrl>().unwrap_err();
        assert!(https.contains("ssh -L"), "{https}");
    }

    #[test]
    fn a_query_value_is_escaped() {
        assert_eq!(
            percent_encode("2026-01-02T03:04:05+00:00"),
            "2026-01-02T03%3A04%3A05%2B00%3A00"
        );
        assert_eq!(percent_encode("ä/.."), "%C3%A4%2F..");
    }
}
