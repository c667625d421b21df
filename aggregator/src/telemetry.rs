//! What the aggregator tells about itself: every metric's name, with its unit, in one place.
//!
//! Counters on the hot path are atomics that were looked up once; nothing is looked up by label
//! while a batch is appended.

use std::sync::Arc;

use commitlog::id::TopicPartition;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Bytes of batches appended, compressed, by topic.
pub const APPENDED_BYTES: &str = "weir_aggregator_appended_bytes_total";
/// Records appended, by topic.
pub const APPENDED_RECORDS: &str = "weir_aggregator_appended_records_total";
/// Batches appended, by topic.
pub const APPENDED_BATCHES: &str = "weir_aggregator_appended_batches_total";
/// Batches that were there already and answered with their first offsets, by topic.
pub const DUPLICATE_BATCHES: &str = "weir_aggregator_duplicate_batches_total";
/// Batches with a known sequence and other content (a cloned machine, a restored disk), by topic.
pub const CONFLICTING_BATCHES: &str = "weir_aggregator_conflicting_batches_total";
/// Batches not appended, by topic and reason.
pub const REFUSED_BATCHES: &str = "weir_aggregator_refused_batches_total";
/// Records found damaged when their partition was opened, by topic.
pub const DAMAGED_RECORDS: &str = "weir_aggregator_damaged_records_total";
/// Duration of one fsync.
pub const FSYNC_SECONDS: &str = "weir_aggregator_fsync_seconds";
/// Times a partition was closed because its disk failed, by topic.
pub const PARTITION_FAILURES: &str = "weir_aggregator_partition_failures_total";
/// Partitions that take nothing at the moment.
pub const PARTITIONS_CLOSED: &str = "weir_aggregator_partitions_closed";
/// Records appended and not yet fsynced, by topic and partition.
pub const DURABLE_LAG_RECORDS: &str = "weir_aggregator_durable_lag_records";
/// The next offset that a consumer will see, by topic and partition.
pub const PARTITION_END_OFFSET: &str = "weir_aggregator_partition_end_offset";
/// The first offset that is kept, by topic and partition.
pub const PARTITION_START_OFFSET: &str = "weir_aggregator_partition_start_offset";
/// Bytes on disk, by topic and partition.
pub const PARTITION_BYTES: &str = "weir_aggregator_partition_bytes";
/// Free bytes on the data directory's disk.
pub const DISK_FREE_BYTES: &str = "weir_aggregator_disk_free_bytes";
/// Size of the data directory's disk.
pub const DISK_TOTAL_BYTES: &str = "weir_aggregator_disk_total_bytes";
/// Connected agents, by transport.
pub const AGENT_CONNECTIONS: &str = "weir_aggregator_agent_connections";
/// Open HTTP connections.
pub const HTTP_CONNECTIONS: &str = "weir_aggregator_http_connections";
/// HTTP requests answered, by method, route and status class.
pub const HTTP_REQUESTS: &str = "weir_aggregator_http_requests_total";

/// An fsync takes 0.1 ms on a good drive and seconds on a dying one.
const FSYNC_BUCKETS_SECONDS: [f64; 12] = [
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0,
];

/// All metrics; a handle, cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    inner: Arc<Metrics>,
}

impl std::ops::Deref for Telemetry {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.inner
    }
}

/// The metrics by name.
pub struct Metrics {
    registry: Registry,
    appended_bytes: IntCounterVec,
    appended_records: IntCounterVec,
    appended_batches: IntCounterVec,
    duplicates: IntCounterVec,
    conflicts: IntCounterVec,
    /// [`REFUSED_BATCHES`]
    pub refused: IntCounterVec,
    damaged: IntCounterVec,
    fsync_seconds: Histogram,
    failures: IntCounterVec,
    /// [`PARTITIONS_CLOSED`]
    pub partitions_closed: IntGauge,
    /// [`DURABLE_LAG_RECORDS`]
    pub durable_lag: IntGaugeVec,
    /// [`PARTITION_END_OFFSET`]
    pub end_offset: IntGaugeVec,
    /// [`PARTITION_START_OFFSET`]
    pub start_offset: IntGaugeVec,
    /// [`PARTITION_BYTES`]
    pub partition_bytes: IntGaugeVec,
    /// [`DISK_FREE_BYTES`]
    pub disk_free_bytes: IntGauge,
    /// [`DISK_TOTAL_BYTES`]
    pub disk_total_bytes: IntGauge,
    /// [`AGENT_CONNECTIONS`]
    pub agent_connections: IntGaugeVec,
    /// [`HTTP_CONNECTIONS`]
    pub http_connections: IntGauge,
    /// [`HTTP_REQUESTS`]
    pub http_requests: IntCounterVec,
}

/// One partition's counters, looked up once.
pub struct PartitionMetrics {
    appended_bytes: IntCounter,
    appended_records: IntCounter,
    appended_batches: IntCounter,
    /// Batches that were there already.
    pub duplicates: IntCounter,
    /// Known sequence, other content.
    pub conflicts: IntCounter,
    /// A sequence that is not the next.
    pub refused_out_of_order: IntCounter,
    /// An epoch that a newer one has fenced.
    pub refused_fenced: IntCounter,
    /// A batch that breaks the format's rules.
    pub refused_invalid: IntCounter,
    /// The disk is full; the batch is offered again later.
    pub refused_disk_full: IntCounter,
    /// Records found damaged.
    pub damaged_records: IntCounter,
    /// Times the partition was closed by its disk.
    pub failures: IntCounter,
    /// How long each fsync took.
    pub fsync_seconds: Histogram,
}

impl PartitionMetrics {
    /// Counts one appended batch.
    pub fn appended(&self, bytes: usize, records: u64) {
        self.appended_bytes.inc_by(bytes as u64);
        self.appended_records.inc_by(records);
        self.appended_batches.inc();
    }
}

impl Telemetry {
    /// Metrics that all stand at zero.
    pub fn new() -> Telemetry {
        let registry = Registry::new();
        let by_topic = |name, help| counters(&registry, name, help, &["topic"]);
        let by_partition = |name, help| gauges(&registry, name, help, &["topic", "partition"]);
        let inner = Metrics {
            appended_bytes: by_topic(APPENDED_BYTES, "Bytes of batches appended, compressed."),
            appended_records: by_topic(APPENDED_RECORDS, "Records appended."),
            appended_batches: by_topic(APPENDED_BATCHES, "Batches appended."),
            duplicates: by_topic(DUPLICATE_BATCHES, "Batches that were there already."),
            conflicts: by_topic(CONFLICTING_BATCHES, "Known sequence with other content."),
            refused: counters(
                &registry,
                REFUSED_BATCHES,
                "Batches not appended.",
                &["topic", "reason"],
            ),
            damaged: by_topic(DAMAGED_RECORDS, "Records found damaged."),
            fsync_seconds: fsync_histogram(&registry),
            failures: by_topic(
                PARTITION_FAILURES,
                "Partitions closed because their disk failed.",
            ),
            partitions_closed: gauge(
                &registry,
                PARTITIONS_CLOSED,
                "Partitions that take nothing.",
            ),
            durable_lag: by_partition(DURABLE_LAG_RECORDS, "Records appended, not yet fsynced."),
            end_offset: by_partition(PARTITION_END_OFFSET, "The next offset consumers will see."),
            start_offset: by_partition(PARTITION_START_OFFSET, "The first offset that is kept."),
            partition_bytes: by_partition(PARTITION_BYTES, "Bytes on disk."),
            disk_free_bytes: gauge(&registry, DISK_FREE_BYTES, "Free bytes of the data disk."),
            disk_total_bytes: gauge(&registry, DISK_TOTAL_BYTES, "Size of the data disk."),
            agent_connections: gauges(
                &registry,
                AGENT_CONNECTIONS,
                "Connected agents.",
                &["transport"],
            ),
            http_connections: gauge(&registry, HTTP_CONNECTIONS, "Open HTTP connections."),
            http_requests: counters(
                &registry,
                HTTP_REQUESTS,
                "HTTP requests answered.",
                &["method", "route", "status"],
            ),
            registry,
        };
        Telemetry {
            inner: Arc::new(inner),
        }
    }

    /// The counters of one partition.
    pub fn partition(&self, id: &TopicPartition) -> PartitionMetrics {
        let topic = id.topic.as_str();
        let refused = |reason| self.refused.with_label_values(&[topic, reason]);
        PartitionMetrics {
            appended_bytes: self.appended_bytes.with_label_values(&[topic]),
            appended_records: self.appended_records.with_label_values(&[topic]),
            appended_batches: self.appended_batches.with_label_values(&[topic]),
            duplicates: self.duplicates.with_label_values(&[topic]),
            conflicts: self.conflicts.with_label_values(&[topic]),
            refused_out_of_order: refused("out_of_order"),
            refused_fenced: refused("fenced"),
            refused_invalid: refused("invalid"),
            refused_disk_full: refused("disk_full"),
            damaged_records: self.damaged.with_label_values(&[topic]),
            failures: self.failures.with_label_values(&[topic]),
            fsync_seconds: self.fsync_seconds.clone(),
        }
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let encoded =
            prometheus::TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        if let Err(error) = encoded {
            tracing::error!(%error, "cannot write the metrics");
        }
        text
    }
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry::new()
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let metric = IntCounterVec::new(Opts::new(name, help), labels);
    registered(registry, metric)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels);
    registered(registry, metric)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help))
}

fn fsync_histogram(registry: &Registry) -> Histogram {
    let options = HistogramOpts::new(FSYNC_SECONDS, "Duration of one fsync.");
    let histogram = Histogram::with_opts(options.buckets(FSYNC_BUCKETS_SECONDS.to_vec()));
    registered(registry, histogram)
}

fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> M {
    let metric = metric.expect("names and labels are constants of this file, and a test makes all");
    registry
        .register(Box::new(metric.clone()))
        .expect("each name is registered once, and a test makes all");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_can_be_made_and_written() {
        let telemetry = Telemetry::new();
        let id = "logs-0".parse().unwrap();
        telemetry.partition(&id).appended(10, 2);
        let text = telemetry.text();
        assert!(
            text.contains(&format!("{APPENDED_RECORDS}{{topic=\"logs\"}} 2")),
            "{text}"
        );
        assert!(text.contains(DISK_FREE_BYTES), "{text}");
    }
}
