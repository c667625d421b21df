//! `aggregator.yaml`: where the aggregator listens, what it keeps and how long.
//!
//! Each struct below declares its options once: name, default, sentence.
//! `config/aggregator.yaml` is the sample that names them all.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use commitlog::id::TopicName;
use commitlog::limits::PARTITIONS_MAX;
use config::fields::{Fields, Section};
use config::units::{ByteSize, Percent};
use config::value::{FromText, HostPort, Mismatch, Scalar, Value, choose, word_for};

#[cfg(test)]
mod tests;

/// The whole file.
#[derive(Debug, Clone)]
pub struct AggregatorConfig {
    /// Topics, the CA, tokens and offsets.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listen: ListenConfig,
    /// Topics that differ from the defaults.
    pub topics: BTreeMap<TopicName, TopicConfig>,
    /// What holds for every topic that does not say otherwise.
    pub defaults: TopicDefaults,
    /// Who may use HTTP.
    pub auth: Auth,
    /// What agents are told to connect to.
    pub advertise: Vec<HostPort>,
    /// When the disk counts as full.
    pub disk: DiskConfig,
    /// The user's own certificates instead of the built-in authority.
    pub tls: Option<ServeTls>,
}

/// Where it listens.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// Agents: QUIC on UDP, and TLS on TCP with the same port.
    pub quic: SocketAddr,
    /// People and consumers.
    pub http: SocketAddr,
}

/// What a topic says of itself; `None` means as in `defaults`.
#[derive(Debug, Clone, Default)]
pub struct TopicConfig {
    /// How many partitions.
    pub partitions: Option<u32>,
    /// How long records stay.
    pub retention: TopicRetention,
    /// How large a segment grows.
    pub segment_bytes: Option<ByteSize>,
}

/// How long a topic's records stay; `None` means as in `defaults`.
#[derive(Debug, Clone, Default)]
pub struct TopicRetention {
    /// By time since the append.
    pub age: Option<Duration>,
    /// By size of each partition.
    pub bytes: Option<ByteSize>,
}

/// What holds for every topic that does not say otherwise.
#[derive(Debug, Clone)]
pub struct TopicDefaults {
    /// How many partitions.
    pub partitions: u32,
    /// How long records stay.
    pub retention: DefaultRetention,
    /// How large a segment grows.
    pub segment_bytes: ByteSize,
}

/// How long records stay.
#[derive(Debug, Clone)]
pub struct DefaultRetention {
    /// By time since the append.
    pub age: Duration,
    /// By size of each partition; `None` is without such a limit.
    pub bytes: Option<ByteSize>,
}

/// Who may use HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Who shows a token.
    Token,
    /// Everybody; only on loopback.
    None,
}

/// When the disk counts as full.
#[derive(Debug, Clone)]
pub struct DiskConfig {
    /// The share in use past which agents are asked to wait.
    pub high_water: Percent,
}

/// The user's own certificates.
#[derive(Debug, Clone)]
pub struct ServeTls {
    /// PEM file of the authorities that agents' certificates must come from.
    pub ca: PathBuf,
    /// PEM file of the aggregator's certificate chain.
    pub cert: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
}

impl Section for AggregatorConfig {
    fn read(fields: &mut Fields<'_>) -> AggregatorConfig {
        let config = AggregatorConfig {
            data_dir: fields.value(
                "data_dir",
                PathBuf::from("/var/lib/weir"),
                "Where topics, the certificate authority, tokens and committed offsets lie.",
            ),
            listen: fields.section("listen"),
            topics: fields
                .named_sections::<FromText<TopicName>, TopicConfig>("topics")
                .into_iter()
                .map(|(name, topic)| (name.0, topic))
                .collect(),
            defaults: fields.section("defaults"),
            auth: fields.value(
                "auth",
                Auth::Token,
                "Whether HTTP asks for a token; `none` is possible on loopback only.",
            ),
            advertise: fields.list(
                "advertise",
                "Addresses that agents are told to connect to; by default where it listens.",
            ),
            disk: fields.section("disk"),
            tls: fields.optional_section("tls"),
        };
        if config.auth == Auth::None && !config.listen.http.ip().is_loopback() {
            let message = format!(
                "`auth: none` while {} is open to others",
                config.listen.http
            );
            let help = "remove `auth: none`, or listen on 127.0.0.1 only";
            fields.problem("auth", message, help);
        }
        config
    }
}

impl Section for ListenConfig {
    fn read(fields: &mut Fields<'_>) -> ListenConfig {
        ListenConfig {
            quic: fields.value(
                "quic",
                loopback(9347),
                "Where agents connect: QUIC on UDP, and TLS on the same TCP port.",
            ),
            http: fields.value(
                "http",
                loopback(9348),
                "Where people, consumers and Prometheus connect.",
            ),
        }
    }
}

impl Section for TopicConfig {
    fn read(fields: &mut Fields<'_>) -> TopicConfig {
        let topic = TopicConfig {
            partitions: fields.optional("partitions", "Partitions of this topic."),
            retention: fields.section("retention"),
            segment_bytes: fields.optional(
                "segment_bytes",
                "Size at which this topic begins a new segment file.",
            ),
        };
        check_partitions(fields, topic.partitions);
        check_segment_bytes(fields, topic.segment_bytes);
        topic
    }
}

impl Section for TopicRetention {
    fn read(fields: &mut Fields<'_>) -> TopicRetention {
        TopicRetention {
            age: fields.optional("age", "How long this topic keeps records after the append."),
            bytes: fields.optional("bytes", "How much each partition of this topic keeps."),
        }
    }
}

impl Section for TopicDefaults {
    fn read(fields: &mut Fields<'_>) -> TopicDefaults {
        let defaults = TopicDefaults {
            partitions: fields.value("partitions", 4, "Partitions of a topic."),
            retention: fields.section("retention"),
            segment_bytes: fields.value(
                "segment_bytes",
                ByteSize::mib(256),
                "Size at which a new segment file begins.",
            ),
        };
        check_partitions(fields, Some(defaults.partitions));
        check_segment_bytes(fields, Some(defaults.segment_bytes));
        defaults
    }
}

impl Section for DefaultRetention {
    fn read(fields: &mut Fields<'_>) -> DefaultRetention {
        DefaultRetention {
            age: fields.value(
                "age",
                Duration::from_hours(7 * 24),
                "How long records are kept after the append.",
            ),
            bytes: fields.optional(
                "bytes",
                "How much each partition keeps; without it only the age counts.",
            ),
        }
    }
}

impl Section for DiskConfig {
    fn read(fields: &mut Fields<'_>) -> DiskConfig {
        let disk = DiskConfig {
            high_water: fields.value(
                "high_water",
                Percent(90),
                "Share of the disk in use past which agents are asked to wait; nothing is dropped.",
            ),
        };
        if disk.high_water.0 < 10 {
            fields.problem(
                "high_water",
                "the disk would always be full",
                "write 10% or more",
            );
        }
        disk
    }
}

impl Section for ServeTls {
    fn read(fields: &mut Fields<'_>) -> ServeTls {
        ServeTls {
            ca: fields.required(
                "ca",
                "PEM file of the authorities that agents' certificates must come from.",
            ),
            cert: fields.required("cert", "PEM file of the aggregator's certificate chain."),
            key: fields.required("key", "PEM file of the aggregator's private key."),
        }
    }
}

impl Value for Auth {
    const KIND: &'static str = "token or none";

    fn read(scalar: &Scalar<'_>) -> Result<Auth, Mismatch> {
        choose(scalar, &AUTH)
    }

    fn show(&self) -> String {
        word_for(self, &AUTH)
    }
}

fn check_partitions(fields: &mut Fields<'_>, partitions: Option<u32>) {
    if let Some(count) = partitions
        && !(1..=PARTITIONS_MAX).contains(&count)
    {
        let message = format!("a topic cannot have {count} partitions");
        fields.problem(
            "partitions",
            message,
            format!("write 1 to {PARTITIONS_MAX}"),
        );
    }
}

fn check_segment_bytes(fields: &mut Fields<'_>, bytes: Option<ByteSize>) {
    if let Some(bytes) = bytes
        && !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
    {
        let message = format!("a segment cannot have {bytes}");
        let help = format!("write {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}");
        fields.problem("segment_bytes", message, help);
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const AUTH: [(&str, Auth); 2] = [("token", Auth::Token), ("none", Auth::None)];

/// Two of the largest batches: a segment must hold at least one.
const SEGMENT_BYTES_MIN: ByteSize = ByteSize::mib(1);

/// Kafka's index holds 32-bit positions.
const SEGMENT_BYTES_MAX: ByteSize = ByteSize::gib(1);
