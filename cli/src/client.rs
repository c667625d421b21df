//! An aggregator's API as the commands use it: which server, which token, what went wrong and what
//! to try.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use config::{credentials, private_file};
use hyper::header::RETRY_AFTER;
use hyper::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::http::{Answer, Ask, Connection, Error, ServerUrl};
use crate::limits::{BUSY_MAX, BUSY_PAUSE};
use crate::terminal;

/// Which aggregator a command speaks to, and as whom.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerOptions {
    /// The aggregator's HTTP address [default: that of the last `weir up`, or port 9348 here]
    #[arg(long, value_name = "URL", env = "WEIR_SERVER", hide_env_values = true)]
    server: Option<ServerUrl>,

    /// The token to show; it is visible in the process list, so prefer the environment or a file
    #[arg(long, value_name = "TOKEN", env = "WEIR_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// A file that holds the token, such as admin.token in an aggregator's data directory
    #[arg(
        long,
        value_name = "FILE",
        env = "WEIR_TOKEN_FILE",
        hide_env_values = true,
        conflicts_with = "token"
    )]
    token_file: Option<PathBuf>,
}

/// A connection to the server that the options name.
pub(crate) struct Client {
    server: ServerUrl,
    connection: Connection,
    /// Where the token came from, for the message that it was refused.
    token_origin: Option<String>,
    /// People were told that the server has no room.
    has_told_busy: bool,
}

/// A request that failed, told to people.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    message: String,
    pub(crate) hint: Option<String>,
}

/// What the caller can do about a [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The server cannot be reached or broke off: the same request can succeed later.
    Unreachable,
    /// The records asked for are deleted; those from this offset on are there.
    Trimmed(i64),
    /// The server answered no.
    Refused,
}

impl ServerOptions {
    /// A client for these options. Connects when it is first asked something.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let given = self.given_token()?;
        // The stored server and its token are a pair: who names a token means another server.
        let stored = match &given {
            Some(_) => None,
            None => stored_credentials()?,
        };
        let server = match (&self.server, &stored) {
            (Some(server), _) => server.clone(),
            (None, Some(stored)) => stored.server.clone(),
            (None, None) => DEFAULT_SERVER.parse().map_err(anyhow::Error::msg)?,
        };
        // A stored token is for its own server and shown to no other.
        let stored = stored.filter(|stored| stored.server == server);
        let token = given.or_else(|| stored.map(|stored| stored.token));
        Ok(Client {
            connection: Connection::new(
                server.clone(),
                token.as_ref().map(|it| it.secret.as_str()),
            ),
            server,
            token_origin: token.map(|token| token.origin),
            has_told_busy: false,
        })
    }

    fn given_token(&self) -> anyhow::Result<Option<Token>> {
        let (secret, origin) = match (&self.token, &self.token_file) {
            (Some(token), _) => (token.trim().to_owned(), "--token or WEIR_TOKEN".into()),
            (None, Some(file)) => (read_token(file)?, file.display().to_string()),
            (None, None) => return Ok(None),
        };
        Ok(Some(Token { secret, origin }))
    }
}

/// A token and, for the message that it was refused, where it came from.
struct Token {
    secret: String,
    origin: String,
}

/// What `weir up` left for this user.
struct Stored {
    server: ServerUrl,
    token: Token,
}

fn stored_credentials() -> anyhow::Result<Option<Stored>> {
    let Some(path) = credentials::path() else {
        return Ok(None);
    };
    let Some(credentials) = credentials::read(&path)? else {
        return Ok(None);
    };
    let server = credentials.server.parse();
    let server = server.map_err(|error: String| anyhow::anyhow!("{}: {error}", path.display()))?;
    let token = Token {
        secret: credentials.token,
        origin: path.display().to_string(),
    };
    Ok(Some(Stored { server, token }))
}

fn read_token(file: &Path) -> anyhow::Result<String> {
    if let Some(warning) = private_file::exposed(file) {
        warn(&warning);
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token from {}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn warn(what: &str) {
    let mut line = String::from("weir: ");
    terminal::escape_text(what, terminal::Lines::Escape, &mut line);
    // When stderr is gone there is nobody to warn.
    drop(writeln!(io::stderr(), "{line}"));
}

impl Client {
    /// A client of `server` that shows `token`.
    pub(crate) fn new(server: ServerUrl, token: &str) -> Client {
        Client {
            connection: Connection::new(server.clone(), Some(token)),
            server,
            token_origin: Some("the aggregator of this process".into()),
            has_told_busy: false,
        }
    }

    /// Asks for JSON and reads it into `T`.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> anyhow::Result<T> {
        let answer = self.fetch(path, "application/json").await?;
        self.parse(path, &answer)
    }

    /// Sends a body and reads the JSON that comes back.
    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> anyhow::Result<T> {
        let body = serde_json::to_vec(body).context("cannot write the request as JSON")?;
        let answer = self.send(&ask(Method::POST, path, body)).await?;
        self.parse(path, &answer)
    }

    /// Asks for something to be done where the answer holds nothing to read.
    pub(crate) async fn order(&mut self, method: Method, path: &str) -> Result<(), Failure> {
        self.send(&ask(method, path, Vec::new())).await.map(drop)
    }

    /// Asks for `path` in the given media type.
    pub(crate) async fn fetch(
        &mut self,
        path: &str,
        accept: &'static str,
    ) -> Result<Answer, Failure> {
        let ask = Ask {
            method: Method::GET,
            path: path.to_owned(),
            accept,
            body: Vec::new(),
        };
        self.send(&ask).await
    }

    /// The number in a header that the API promises.
    pub(crate) fn header(&self, headers: &HeaderMap, name: &str) -> anyhow::Result<i64> {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        let number = value.and_then(|value| value.parse().ok());
        number.with_context(|| {
            format!(
                "{} sent no header {name}: is it a Weir aggregator?",
                self.server
            )
        })
    }

    /// A server that has no room says so; it is asked again until it has, or for too long.
    async fn send(&mut self, ask: &Ask) -> Result<Answer, Failure> {
        let begun = Instant::now();
        loop {
            let answer = match self.connection.send(ask).await {
                Ok(answer) => answer,
                Err(error) => return Err(self.unreachable(&error)),
            };
            if answer.status.is_success() {
                return Ok(answer);
            }
            let is_busy = answer.status == StatusCode::SERVICE_UNAVAILABLE
                && answer.headers.contains_key(RETRY_AFTER);
            if !is_busy || begun.elapsed() > BUSY_MAX {
                return Err(self.refused(&answer));
            }
            self.tell_busy();
            sleep(BUSY_PAUSE).await;
        }
    }

    /// Says once why nothing is seen for a while.
    fn tell_busy(&mut self) {
        if !std::mem::replace(&mut self.has_told_busy, true) {
            warn(&format!(
                "{} has no room at the moment; it is asked again for up to {} s",
                self.server,
                BUSY_MAX.as_secs()
            ));
        }
    }

    fn parse<T: DeserializeOwned>(&self, path: &str, answer: &Answer) -> anyhow::Result<T> {
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("{} answered {path} with something else", self.server))
    }

    fn unreachable(&self, error: &Error) -> Failure {
        let server = &self.server;
        let (message, hint) = match error {
            Error::Connect(_) | Error::Timeout(_) => (
                format!("cannot connect to {server}: {error}"),
                "is `weir up` or `weir serve` running there? \
                 Another address: --server URL or WEIR_SERVER",
            ),
            _ => (
                format!("lost {server}: {error}"),
                "the aggregator may have stopped, or this is no HTTP port; see its own messages",
            ),
        };
        Failure {
            kind: FailureKind::Unreachable,
            message,
            hint: Some(hint.into()),
        }
    }

    /// Puts the server's own words first: it knows more.
    fn refused(&self, answer: &Answer) -> Failure {
        #[derive(Deserialize)]
        struct Body {
            error: Told,
        }
        #[derive(Deserialize)]
        struct Told {
            message: String,
            #[serde(default)]
            hint: Option<String>,
        }
        let (server, status) = (&self.server, answer.status);
        let told = serde_json::from_slice::<Body>(&answer.body)
            .ok()
            .map(|body| body.error);
        let (message, hint) = match told {
            Some(told) => (format!("{server}: {}", told.message), told.hint),
            None => (format!("{server} answered {status}"), None),
        };
        let hint = match status {
            StatusCode::UNAUTHORIZED => Some(self.token_hint()),
            _ => hint.filter(|hint| !hint.is_empty()),
        };
        let start = self.header(&answer.headers, "weir-start-offset");
        let kind = match (status, start) {
            (StatusCode::GONE, Ok(start)) => FailureKind::Trimmed(start),
            // Overloaded or stopping: the same request can succeed.
            (StatusCode::SERVICE_UNAVAILABLE, _) => FailureKind::Unreachable,
            _ => FailureKind::Refused,
        };
        Failure {
            kind,
            message,
            hint,
        }
    }

    fn token_hint(&self) -> String {
        let found = match &self.token_origin {
            Some(origin) => format!("the token was taken from {origin}"),
            None => "no token was given and none found".into(),
        };
        format!(
            "{found}; the aggregator keeps one in DATA_DIR/admin.token: \
             pass that file by --token-file or WEIR_TOKEN_FILE"
        )
    }
}

fn ask(method: Method, path: &str, body: Vec<u8>) -> Ask {
    Ask {
        method,
        path: path.to_owned(),
        accept: "application/json",
        body,
    }
}

/// Where `weir up` and `weir serve` listen unless they are told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:9348";

/// Runs one command's requests to their end on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build();
    runtime.context("cannot start the network")?.block_on(work)
}

/// Prints a server's JSON answer, indented, safe on a terminal.
pub(crate) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    let mut out = Vec::with_capacity(text.len() + 1);
    if io::stdout().is_terminal() {
        for line in text.lines() {
            terminal::escape_json(line.as_bytes(), &mut out);
            out.push(b'\n');
        }
    } else {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
    Ok(io::stdout().lock().write_all(&out)?)
}
