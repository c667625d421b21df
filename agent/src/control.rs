//! The socket in the data directory, `agent.sock`: what a running agent tells the user that owns it.
//!
//! It speaks HTTP and has one route, `GET /files`. Names of files are nobody else's business, so the
//! socket is open to its owner only, and `agent.http`, which asks for nothing, does not have the route.
//! Whoever makes the socket holds the spool's lock: one that is there already is left over.

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use commitlog::id::{Offset, TopicPartition};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::files::{Committed, FilesReport};
use crate::limits::{COMMITTED_WAIT_MAX, CONTROL_CONNECTION_MAX, FILES_ANSWER_BYTES_MAX};
use crate::pipeline::requests::Requests;
use crate::spool::Spool;
use crate::status::{accept, text};

const SOCKET: &str = "agent.sock";

/// What the socket's routes ask.
#[derive(Clone)]
pub struct Control {
    /// The data thread.
    pub requests: Requests,
    /// What is durable.
    pub spool: Spool,
}

/// A socket that is served.
pub struct Served {
    path: PathBuf,
    task: JoinHandle<()>,
}

/// Serves the socket of `data_dir`. Where there can be none the agent does without: that is said.
pub fn serve(data_dir: &Path, control: Control) -> Option<Served> {
    let path = data_dir.join(SOCKET);
    let listener = match listen(&path) {
        Ok(listener) => listener,
        Err(error) => {
            let hint = "`weir-agent files` then tells only what the spool has";
            tracing::warn!(path = %path.display(), %error, hint, "there is no control socket");
            return None;
        }
    };
    let answer = move |request| {
        let control = control.clone();
        async move { control.answer(request).await }
    };
    let task = tokio::spawn(accept(listener, CONTROL_CONNECTION_MAX, answer));
    Some(Served { path, task })
}

impl Served {
    /// Ends serving and takes the socket away.
    pub async fn stop(self) {
        self.task.abort();
        // It has ended: aborted, or before.
        self.task.await.ok();
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "control socket is left over");
        }
    }
}

/// A socket that its owner alone can open, from its first moment on.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let address = SockAddr::unix(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("something else bears that name")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux gives the name the rights of the socket; elsewhere the data directory guards it until it has
    // its own.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).ok();
    socket.bind(&address)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

impl Control {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        if request.uri().path() != "/files" {
            return text(StatusCode::NOT_FOUND, "there is /files\n");
        }
        let unavailable = |why: &'static str| text(StatusCode::SERVICE_UNAVAILABLE, why);
        let Some(sources) = self.requests.files().await else {
            return unavailable("the data thread does not answer; the agent's log may say why\n");
        };
        let committed = self.committed().await;
        let document = spawn_blocking(move || {
            let report = FilesReport::new(sources, &committed);
            serde_json::to_vec(&report)
        });
        let Ok(Ok(document)) = document.await else {
            return unavailable("the report could not be made\n");
        };
        let mut response = text(StatusCode::OK, document);
        let kind = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }

    /// How far each file is durable. What was appended is, once the fsync that is under way is done;
    /// on a disk that stands still it is told as not durable.
    async fn committed(&self) -> Committed {
        let mut changed = self.spool.changed();
        let positions = self.spool.positions();
        let ends: Vec<(TopicPartition, Offset)> = self
            .spool
            .partitions()
            .into_iter()
            .map(|partition| {
                let end = self.spool.range(&partition).end;
                (partition, end)
            })
            .collect();
        let is_durable = |(partition, end): &(TopicPartition, Offset)| {
            self.spool.range(partition).durable_end >= *end
        };
        let synced = async {
            while !ends.iter().all(is_durable) {
                changed.changed().await.ok();
            }
        };
        let is_all = timeout(COMMITTED_WAIT_MAX, synced).await.is_ok();
        let is_known = |of: Option<&TopicPartition>| {
            let mut ends = ends.iter();
            is_all || ends.any(|end| of == Some(&end.0) && is_durable(end))
        };
        positions
            .into_iter()
            .filter(|placed| is_known(placed.partition.as_ref()))
            .map(|placed| {
                let position = placed.position;
                ((position.lineage, position.epoch), position.offset)
            })
            .collect()
    }
}

/// What the agent that runs on `data_dir` tells of its files; `None`: none listens there.
pub async fn ask_files(data_dir: &Path) -> anyhow::Result<Option<FilesReport>> {
    let path = data_dir.join(SOCKET);
    let is_too_long = SockAddr::unix(&path).is_err();
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) || is_too_long => return Ok(None),
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::PermissionDenied => ": run this as the agent's user, or as root",
                _ => "",
            };
            return Err(error).with_context(|| format!("cannot ask {}{help}", path.display()));
        }
    };
    within(CONTROL_CONNECTION_MAX, exchange(stream))
        .await
        .map(Some)
}

fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory)
}

async fn exchange(stream: UnixStream) -> anyhow::Result<FilesReport> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get("/files")
        .header("host", "agent")
        .body(Full::<Bytes>::default())?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), FILES_ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok((status, body.to_bytes()))
    };
    tokio::pin!(connection);
    let (status, body) = tokio::select! {
        answered = answered => answered?,
        ended = &mut connection => {
            ended?;
            bail!("the agent hung up");
        }
    };
    ensure!(
        status.is_success(),
        "the agent says: {}",
        String::from_utf8_lossy(&body).trim()
    );
    serde_json::from_slice(&body).context("the agent is of another version")
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = timeout(time, work).await;
    done.context("the agent does not answer in time")?
}

#[cfg(test)]
mod tests;
