//! `weir-agent join TOKEN`: gets this host an identity.
//!
//! The key pair is made here and never leaves; it is on the disk before the token is used. So a join
//! that was cut off at any moment is simply run again: the aggregator knows the key and answers once
//! more without counting another use. Joining again with a new token keeps the agent's name, because
//! the connection shows the old certificate and proves its key.
//!
//! Invariant **I25**: a server that is not of the authority that the token names learns nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use commitlog::wire::message::Renewed;
use config::join::SERVER_NAME;
use config::join::message::{
    Accepted, Binary, FRAME_HEADER_BYTES, Reply, Request, content_bytes, decode, encode,
};
use config::join::proof::{EXPORTER_LABEL, Exporter, ProofKey};
use config::join::token::JoinToken;
use config::private_file;
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::ambient::Clock;
use crate::identity::{self, PrivateKey, StoredIdentity};
use crate::limits::{IDENTITY_FILE_BYTES_MAX, JOIN_EXCHANGE_MAX, REPROBE_AFTER};
use crate::producer::Identity;
use crate::producer::connect::{Choice, Dialer, Link};
use crate::producer::transport::Transport;

mod pin;
#[cfg(test)]
mod tests;

use pin::PinVerifier;

/// What a join needs.
pub struct Joining<'a> {
    /// The token.
    pub token: &'a JoinToken,
    /// Where the identity is to lie.
    pub data_dir: &'a Path,
    /// This host's name, for the operator's list.
    pub host: &'a str,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// The wall clock.
    pub clock: Clock,
}

/// A join that worked. Its `Display` tells the operator what was done and what comes next.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The agent's name.
    pub agent: String,
    /// Whether the name is the one it had.
    pub name: Name,
    /// The aggregator that answered.
    pub aggregator: String,
    /// The topics it may write, as patterns.
    pub allowed: Vec<String>,
    /// The topics there are, with their partitions.
    pub topics: Vec<(String, u32)>,
    /// The file with the identity.
    pub path: PathBuf,
}

/// Where an agent's name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// It had it before.
    Kept,
    /// The aggregator drew it.
    New,
}

/// A join that is under way, kept so that it can be taken up again.
#[derive(Serialize, Deserialize)]
struct Pending {
    token: String,
    key: PrivateKey,
}

/// Joins: tries the token's addresses in order until one answers.
pub async fn join(joining: Joining<'_>) -> Result<Joined> {
    let path = identity::path(joining.data_dir);
    let dir = path.parent().context("the identity's folder")?;
    private_file::create_dir(dir).with_context(|| dir.display().to_string())?;
    let old = StoredIdentity::read(&path).and_then(|old| {
        let fits = old.as_ref().map(|old| old.tls(&joining.clock));
        fits.transpose().map(|_| old)
    });
    let old = match old {
        Ok(old) => old,
        Err(error) => {
            tracing::warn!("the old identity is not used: {error:#}");
            None
        }
    };
    let pending_path = dir.join("pending.json");
    let key = pending_key(&pending_path, joining.token)?;
    let (aggregator, accepted) = ask_each(&joining, &key, old.as_ref()).await?;
    let stored = stored(&joining, key, accepted.clone())?;
    stored.write(&path)?;
    match std::fs::remove_file(&pending_path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| pending_path.display().to_string());
        }
        _ => {}
    }
    let kept = old.is_some_and(|old| old.agent == stored.agent);
    Ok(Joined {
        agent: stored.agent,
        name: if kept { Name::Kept } else { Name::New },
        aggregator,
        allowed: stored.allowed,
        topics: accepted
            .topics
            .into_iter()
            .map(|topic| (topic.name, topic.partitions))
            .collect(),
        path,
    })
}

/// The key of a join with this token that was cut off, or a new one, on the disk before it is used.
fn pending_key(path: &Path, token: &JoinToken) -> Result<PrivateKey> {
    let id = token.id.to_string();
    let found = private_file::read(path, IDENTITY_FILE_BYTES_MAX).ok();
    let found = found.and_then(|bytes| serde_json::from_slice::<Pending>(&bytes).ok());
    if let Some(pending) = found.filter(|pending| pending.token == id) {
        return Ok(pending.key);
    }
    let pending = Pending {
        token: id,
        key: identity::new_key()?,
    };
    private_file::write(path, &serde_json::to_vec(&pending)?)
        .with_context(|| path.display().to_string())?;
    Ok(pending.key)
}

async fn ask_each(
    joining: &Joining<'_>,
    key: &PrivateKey,
    old: Option<&StoredIdentity>,
) -> Result<(String, Accepted)> {
    let mut failures = Vec::new();
    for address in &joining.token.addresses {
        let address = address.to_string();
        let pin = PinVerifier::new(joining.token.pin);
        let config = pin.config(old, &joining.clock)?;
        let identity = Arc::new(Joiner { config });
        let transport = Arc::clone(&joining.transport);
        let mut dialer = Dialer::new(transport, identity, REPROBE_AFTER);
        let asked = match dialer.connect(&address, Choice::Race).await {
            Ok(link) => timeout(JOIN_EXCHANGE_MAX, ask(link, joining, key))
                .await
                .unwrap_or_else(|_| Err(anyhow!("no answer within {JOIN_EXCHANGE_MAX:?}"))),
            Err(error) => Err(pin
                .refusal()
                .map_or_else(|| error.into(), |why| anyhow!(why))),
        };
        match asked {
            Ok(Reply::Accepted(accepted)) => return Ok((address, accepted)),
            Ok(Reply::Refused(refusal)) if !refusal.code.passes() => {
                bail!("{address} refused ({}): {refusal}", refusal.code)
            }
            Ok(Reply::Refused(refusal)) => failures.push(format!("{address}: {refusal}")),
            Err(error) => failures.push(format!("{address}: {error:#}")),
        }
    }
    bail!("not joined:\n  {}", failures.join("\n  "))
}

async fn ask(link: Link, joining: &Joining<'_>, key: &PrivateKey) -> Result<Reply> {
    let mut exporter: Exporter = [0; 32];
    match link {
        Link::Quic(connection, _) => {
            connection
                .export_keying_material(&mut exporter, EXPORTER_LABEL, &[])
                .map_err(|_| anyhow!("the connection gives no exporter"))?;
            let (send, receive) = connection.open_bi().await?;
            let reply = exchange(tokio::io::join(receive, send), joining, key, &exporter).await;
            connection.close(0_u32.into(), b"done");
            reply
        }
        Link::Tcp(stream) => {
            let (_, tls) = stream.get_ref();
            tls.export_keying_material(&mut exporter, EXPORTER_LABEL, Some(&[]))?;
            exchange(stream, joining, key, &exporter).await
        }
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    joining: &Joining<'_>,
    key: &PrivateKey,
    exporter: &Exporter,
) -> Result<Reply> {
    let request = identity::certificate_request(key)?;
    let proof = ProofKey::of_secret(&joining.token.secret).prove(exporter, &request);
    let frame = encode(&Request {
        token: joining.token.id.to_string(),
        certificate_request: Binary(request),
        proof: Binary(proof.to_vec()),
        host: joining.host.to_owned(),
    })?;
    stream.write_all(&frame).await?;
    stream.flush().await?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream
        .read_exact(&mut header)
        .await
        .context("the answer was cut off")?;
    let mut content = vec![0; content_bytes(header)?];
    stream
        .read_exact(&mut content)
        .await
        .context("the answer was cut off")?;
    Ok(decode(&content)?)
}

/// Checks what was given before it replaces anything.
fn stored(joining: &Joining<'_>, key: PrivateKey, accepted: Accepted) -> Result<StoredIdentity> {
    let now = (joining.clock)();
    let told = if accepted.aggregators.is_empty() {
        joining
            .token
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect()
    } else {
        accepted.aggregators
    };
    let expires = identity::expires(&accepted.certificates)?;
    let stored = StoredIdentity {
        agent: accepted.agent,
        key,
        certificates: accepted.certificates,
        authorities: accepted.authorities,
        renew_at_ms: identity::renew_at(now, expires),
        expires_ms: expires.0,
        aggregators: told,
        allowed: accepted.allowed,
    };
    ensure!(
        !stored.authorities.is_empty(),
        "the aggregator named no authority"
    );
    stored
        .tls(&joining.clock)
        .context("the certificate that the aggregator gave cannot be used")?;
    Ok(stored)
}

/// An identity for enrolment only.
struct Joiner {
    config: Arc<ClientConfig>,
}

impl Identity for Joiner {
    fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    fn server_name(&self, _host: &str) -> String {
        SERVER_NAME.to_owned()
    }

    fn renewal(&self) -> Option<Vec<u8>> {
        None
    }

    fn renewed(&self, _renewed: &Renewed) -> Result<(), String> {
        Err("nothing was asked".to_owned())
    }
}

impl fmt::Display for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.name {
            Name::Kept => "again",
            Name::New => "as a new agent",
        };
        writeln!(f, "joined {} {name}: {}", self.aggregator, self.agent)?;
        writeln!(f, "  may write    {}", self.allowed.join(", "))?;
        for (topic, partitions) in &self.topics {
            writeln!(f, "  topic        {topic}, {partitions} partitions")?;
        }
        writeln!(
            f,
            "  identity     {}, renewed by itself",
            self.path.display()
        )?;
        write!(f, "next: weir-agent run --config agent.yaml")
    }
}
