//! How an agent joins an aggregator: the token that a person copies, and the two messages in which
//! it is used.
//!
//! The agent connects without a certificate (ALPN [`ENROL_ALPN`]) and holds the connection for true
//! only if the server's chain ends in an authority whose public key has the hash that the token
//! names. It then sends one [`message::Request`] and gets one [`message::Reply`]. The proof in the
//! request is an HMAC over this very connection (its TLS exporter) and this very certificate
//! request: the secret never crosses the wire, and what was overheard or relayed proves nothing on
//! another connection.

pub mod id;
pub mod message;
pub mod proof;
pub mod refusal;
pub mod token;

/// The protocol in which an agent gets its certificate, over QUIC or TLS on TCP.
pub const ENROL_ALPN: &[u8] = b"weir-enrol/1";

/// The name in the aggregator's own certificate. Agents know the authority by its key, so the name
/// need not be that of any host: an aggregator can move without a new certificate.
pub const SERVER_NAME: &str = "aggregator.weir";

/// The URI in an agent's certificate, before its id.
pub const AGENT_URI: &str = "weir://agent/";

/// The URIs in an agent's certificate that tell its topics, before the pattern.
pub const TOPICS_URI: &str = "weir://topics/";
