//! The exchange in which an agent gets its first certificate.
//!
//! One request, one reply, over a connection of ALPN `weir-enrol/1`. The listener gives what the
//! connection proves: its TLS exporter, the certificate whose key the client holds (an agent that
//! joins again shows its old one, and keeps its name), and the address.
//!
//! The order of checks is that of what each tells: who cannot prove the token's secret learns only
//! whether a token of that id exists.
//!
//! Invariant **I24**: the secret never crosses the network, and a proof of it is worth nothing on another
//! connection.

use std::net::IpAddr;

use commitlog::error::Error;
use commitlog::id::{Timestamp, TopicName};
use config::join::id::{AgentId, AuthorityPin};
use config::join::message::{
    Accepted, Binary, FRAME_HEADER_BYTES, MessageError, Reply, Request, Topic, content_bytes,
    decode, encode,
};
use config::join::proof::Exporter;
use config::join::refusal::{Code, Refusal};
use config::value::HostPort;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::identity::acl::TopicAcl;
use crate::identity::agents::{AgentRecord, KeyRecord, Standing};
use crate::identity::ca::{CheckedRequest, Issued};
use crate::identity::tokens::TokenRecord;
use crate::identity::{Authority, internal};
use crate::limits::{ENROL_TIMEOUT, ENROL_TOPICS_MAX, HOST_NAME_BYTES_MAX};
use crate::meta::Change;

/// What the connection proves.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// The TLS exporter for [`config::join::proof::EXPORTER_LABEL`] with an empty context.
    pub exporter: Exporter,
    /// The client's certificates, empty when it showed none.
    pub chain: Vec<CertificateDer<'static>>,
    /// Where it comes from.
    pub address: IpAddr,
}

/// What a joined agent is told besides its certificate.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// Where to connect from now on.
    pub aggregators: Vec<HostPort>,
    /// The topics there are, with their partitions.
    pub topics: Vec<(TopicName, u32)>,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Enrolment {
    /// This agent has joined.
    Joined(AgentId),
    /// It was refused, and told why.
    Refused(Refusal),
}

/// Refused, or the database failed.
enum Failure {
    Refused(Refusal),
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

impl Authority {
    /// Serves one exchange. The caller closes the connection after the client has, or after a moment:
    /// what was written must still arrive.
    pub async fn enrol(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        handshake: Handshake,
        offer: Offer,
    ) -> std::io::Result<Enrolment> {
        let address = handshake.address;
        let request = timeout(ENROL_TIMEOUT, read_request(&mut stream)).await??;
        let answer = match request {
            Ok(request) => self.answer(request, handshake, offer).await,
            Err(error) => Err(Refusal::new(
                Code::BadRequest,
                format!("the request cannot be read: {error}"),
                "use a weir-agent of the aggregator's version",
            )),
        };
        let (reply, ended) = match answer {
            Ok((id, accepted)) => (Reply::Accepted(accepted), Enrolment::Joined(id)),
            Err(refusal) => {
                self.attempts.failed(address, self.now());
                (Reply::Refused(refusal.clone()), Enrolment::Refused(refusal))
            }
        };
        let frame = encode(&reply).map_err(std::io::Error::other)?;
        timeout(ENROL_TIMEOUT, async {
            stream.write_all(&frame).await?;
            stream.shutdown().await
        })
        .await??;
        Ok(ended)
    }

    async fn answer(
        &self,
        request: Request,
        handshake: Handshake,
        offer: Offer,
    ) -> Result<(AgentId, Accepted), Refusal> {
        self.attempts.admit(handshake.address, self.now())?;
        let authority = self.clone();
        let (id, issued, topics) = self
            .blocking
            .run(move || authority.redeem(&request, &handshake))
            .await?;
        let accepted = Accepted {
            agent: id.to_string(),
            certificates: vec![Binary(issued.certificate.to_vec())],
            authorities: self.authorities(),
            aggregators: offer.aggregators.iter().map(HostPort::to_string).collect(),
            topics: told(offer.topics, &topics),
            allowed: topics.patterns().to_vec(),
        };
        Ok((id, accepted))
    }

    /// Takes one use of a token, durably, and makes the certificate.
    fn redeem(
        &self,
        request: &Request,
        handshake: &Handshake,
    ) -> Result<(AgentId, Issued, TopicAcl), Refusal> {
        let ca = self.built_in()?;
        let now = self.now();
        let csr = CheckedRequest::read(&request.certificate_request.0).ok_or_else(|| {
            Refusal::new(
                Code::BadRequest,
                "the certificate request is damaged, or its key is not Ed25519",
                "run `weir-agent join` again",
            )
        })?;
        let _in_order = self.granting();
        let done = self.meta.change(|change| {
            let token = find_token(change, request, handshake, now)?;
            let id = self.use_token(change, (request, &token), &csr, handshake)?;
            let topics = TopicAcl::new(token.topics)
                .map_err(|error| Error::damaged(format!("token {}: {error}", request.token)))?;
            let issued = ca.issue_agent(&csr, &id, &topics, now)?;
            let record = AgentRecord {
                host: host_name(&request.host),
                token: request.token.clone(),
                key: key_name(&csr),
                joined_ms: now.0,
                expires_ms: issued.expires.0,
                serial: Binary(issued.serial.to_vec()),
                topics: topics.patterns().to_vec(),
                standing: Standing::Good,
            };
            let before = change.record::<AgentRecord>(id.as_str())?;
            if let Some(before) = before.filter(|before| before.key != record.key) {
                // Answers to it that got lost are of no use any more.
                change.remove::<KeyRecord>(&before.key)?;
            }
            change.put(id.as_str(), &record)?;
            Ok((id, issued, topics))
        });
        let done = done.map_err(|failure| match failure {
            Failure::Refused(refusal) => refusal,
            Failure::Failed(error) => internal(&error),
        });
        if let Ok((id, _, topics)) = &done {
            self.grants().insert(id.clone(), topics.clone());
        }
        done
    }

    /// Counts a use and chooses the agent's name; an answer that was lost is given again, and counts
    /// no use.
    fn use_token(
        &self,
        change: &Change,
        (request, token): (&Request, &TokenRecord),
        csr: &CheckedRequest,
        handshake: &Handshake,
    ) -> Result<AgentId, Failure> {
        let now = self.now();
        let key = key_name(csr);
        if let Some(id) = earlier_answer(change, &key, &request.token)? {
            return Ok(id);
        }
        if let Some(refusal) = token.state(now).refusal(&request.token) {
            return Err(refusal.into());
        }
        change.put(&request.token, &token.used())?;
        let id = self.name_for(change, handshake, now)?;
        let record = KeyRecord {
            agent: id.to_string(),
        };
        change.put(&key, &record)?;
        Ok(id)
    }

    /// The old name for who shows the old key, unless it was revoked; else a new one.
    fn name_for(
        &self,
        change: &Change,
        handshake: &Handshake,
        now: Timestamp,
    ) -> Result<AgentId, Error> {
        if let Some(old) = self.verifier.check_however_old(&handshake.chain, now) {
            let known = change.record::<AgentRecord>(old.id.as_str())?;
            if known.is_none_or(|record| record.standing == Standing::Good) {
                return Ok(old.id);
            }
        }
        let mut bits = [0; 16];
        (self.random)(&mut bits);
        Ok(AgentId::from_random(bits))
    }
}

/// Under which a request's public key is kept.
fn key_name(csr: &CheckedRequest) -> String {
    AuthorityPin::of_public_key(csr.public_key()).to_string()
}

/// The token, if the request proves its secret.
fn find_token(
    change: &Change,
    request: &Request,
    handshake: &Handshake,
    now: Timestamp,
) -> Result<TokenRecord, Failure> {
    let token = change
        .record::<TokenRecord>(&request.token)?
        .ok_or_else(|| {
            Refusal::new(
                Code::TokenUnknown,
                "this aggregator knows no such token",
                "make one on it with `weir token create`; tokens that ended long ago are forgotten",
            )
        })?;
    let key = token
        .proof_key()
        .ok_or_else(|| Error::damaged(format!("token {}", request.token)))?;
    let csr = &request.certificate_request.0;
    if !key.verify(&handshake.exporter, csr, &request.proof.0) {
        return Err(Failure::Refused(Refusal::new(
            Code::BadProof,
            "the proof does not fit this token and this connection",
            "copy the token again, whole; if it persists, somebody is between you and the aggregator",
        )));
    }
    // A token that was taken back or has ended gives nothing, not even an answer that got lost.
    let state = token.state(now);
    match state.refusal(&request.token) {
        Some(refusal) if refusal.code != Code::TokenUsedUp => Err(refusal.into()),
        _ => Ok(token),
    }
}

/// The agent that this key joined as with this token, when the answer was lost on the way.
fn earlier_answer(change: &Change, key: &str, token: &str) -> Result<Option<AgentId>, Error> {
    let Some(found) = change.record::<KeyRecord>(key)? else {
        return Ok(None);
    };
    let agent = change.record::<AgentRecord>(&found.agent)?;
    let same = agent.is_some_and(|a| a.token == token && a.standing == Standing::Good);
    Ok(found.agent.parse().ok().filter(|_| same))
}

/// As many topics as surely fit the reply. They are for the operator's eyes: the agent learns the rest
/// when it ships.
fn told(topics: Vec<(TopicName, u32)>, allowed: &TopicAcl) -> Vec<Topic> {
    let allowed = topics.into_iter().filter(|(name, _)| allowed.allows(name));
    allowed
        .take(ENROL_TOPICS_MAX)
        .map(|(name, partitions)| Topic {
            name: name.to_string(),
            partitions,
        })
        .collect()
}

/// A name for the operator's list: cut, and without what could steer a terminal.
fn host_name(told: &str) -> String {
    let mut name: String = told.chars().filter(|c| !c.is_control()).collect();
    while name.len() > HOST_NAME_BYTES_MAX {
        name.pop();
    }
    name
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<Result<Request, MessageError>> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = match content_bytes(header) {
        Ok(length) => length,
        Err(error) => return Ok(Err(error)),
    };
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await?;
    Ok(decode(&content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_is_told_of_the_topics_that_it_may_write() {
        let topics = ["logs", "secret", "web-access"].map(|name| (name.parse().unwrap(), 1));
        let allowed = TopicAcl::new(vec!["web-*".to_owned(), "logs".to_owned()]).unwrap();
        let told = told(topics.to_vec(), &allowed);
        let names: Vec<_> = told.iter().map(|topic| &*topic.name).collect();
        assert_eq!(names, ["logs", "web-access"]);
    }
}
