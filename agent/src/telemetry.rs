//! The agent's own metrics: names, units and handles.
//!
//! Counters are counted where things happen. What can be looked up, how full the spool is, how much is
//! unread, is looked up when somebody asks, so it is never off.

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::files::Totals;
use crate::producer::stats::{Connected, Stats};
use crate::spool::Spool;

/// Bytes read from sources, by source.
pub const READ_BYTES: &str = "weir_agent_read_bytes_total";
/// Records taken from sources, by source.
pub const RECORDS: &str = "weir_agent_records_total";
/// Lines that were longer than the limit, or than a batch, and became several records, by source.
pub const LINES_SPLIT: &str = "weir_agent_lines_split_total";
/// Batches written to the spool.
pub const BATCHES: &str = "weir_agent_batches_total";
/// Bytes of batches written to the spool.
pub const BATCH_BYTES: &str = "weir_agent_batch_bytes_total";
/// Records that are gone or, of what was never read, times that a file lost some, by source and reason.
pub const LOSSES: &str = "weir_agent_losses_total";
/// Bytes that are gone, by source and reason.
pub const LOST_BYTES: &str = "weir_agent_lost_bytes_total";
/// Lives of files that ended, by source and reason.
pub const EPOCHS_CLOSED: &str = "weir_agent_epochs_closed_total";
/// Bytes that the configuration passes over, by source and reason.
pub const SKIPPED_BYTES: &str = "weir_agent_skipped_bytes_total";
/// Unacknowledged bytes in the spool.
pub const SPOOL_BYTES: &str = "weir_agent_spool_bytes";
/// Bytes of the spool on disk.
pub const SPOOL_DISK_BYTES: &str = "weir_agent_spool_disk_bytes";
/// Unacknowledged records in the spool.
pub const LAG_RECORDS: &str = "weir_agent_lag_records";
/// First unacknowledged offset, by partition.
pub const ACKNOWLEDGED_OFFSET: &str = "weir_agent_acknowledged_offset";
/// End of what is fsynced, by partition.
pub const DURABLE_OFFSET: &str = "weir_agent_durable_offset";
/// Files and directories that were looked at without an event, by source.
pub const LOOKS: &str = "weir_agent_looks_total";
/// Files that are followed, by source.
pub const FILES: &str = "weir_agent_files";
/// Files that cannot be read, by source.
pub const FILES_UNREADABLE: &str = "weir_agent_files_unreadable";
/// Directories that a source knows.
pub const DIRECTORIES: &str = "weir_agent_directories";
/// Bytes of followed files that are not read yet, by source.
pub const FILE_UNREAD_BYTES: &str = "weir_agent_file_unread_bytes";
/// Files that are held open, by source.
pub const FILES_OPEN: &str = "weir_agent_files_open";

/// Records written to a stream, sent again ones included.
pub const SENT_RECORDS: &str = "weir_agent_sent_records_total";
/// Bytes of batches written to a stream, sent again ones included.
pub const SENT_BYTES: &str = "weir_agent_sent_bytes_total";
/// Connections made to aggregators.
pub const SESSIONS: &str = "weir_agent_sessions_total";
/// Whether an aggregator is connected: 1 by this transport.
pub const CONNECTED: &str = "weir_agent_connected";

/// Handles to all metrics; clones count into the same ones.
#[derive(Clone)]
pub struct Telemetry {
    registry: Registry,
    read_bytes: IntCounterVec,
    records: IntCounterVec,
    lines_split: IntCounterVec,
    looks: IntCounterVec,
    batches: IntCounter,
    batch_bytes: IntCounter,
    losses: IntCounterVec,
    lost_bytes: IntCounterVec,
    epochs_closed: IntCounterVec,
    skipped_bytes: IntCounterVec,
    spool_bytes: IntGauge,
    spool_disk_bytes: IntGauge,
    lag_records: IntGauge,
    acknowledged: IntGaugeVec,
    durable: IntGaugeVec,
    files: IntGaugeVec,
    files_unreadable: IntGaugeVec,
    directories: IntGaugeVec,
    file_unread_bytes: IntGaugeVec,
    files_open: IntGaugeVec,
    sent_records: IntCounter,
    sent_bytes: IntCounter,
    sessions: IntCounter,
    connected: IntGaugeVec,
}

/// The handles of one source.
#[derive(Clone)]
pub struct SourceTelemetry {
    /// Bytes taken.
    pub read_bytes: IntCounter,
    /// Records taken.
    pub records: IntCounter,
    /// Lines that became several records.
    pub lines_split: IntCounter,
    /// Looks without an event.
    pub looks: IntCounter,
    /// Files followed.
    pub files: IntGauge,
    /// Files that cannot be read.
    pub files_unreadable: IntGauge,
    /// Directories in which files are or can be.
    pub directories: IntGauge,
}

impl Default for Telemetry {
    fn default() -> Telemetry {
        Telemetry::new()
    }
}

impl Telemetry {
    /// A set of metrics of its own registry.
    pub fn new() -> Telemetry {
        let registry = Registry::new();
        let by_source = |name, help| counters(&registry, name, help, &["source"]);
        let by_reason = |name, help| counters(&registry, name, help, &["source", "reason"]);
        let of_source = |name, help| gauges(&registry, name, help, &["source"]);
        Telemetry {
            read_bytes: by_source(READ_BYTES, "Bytes read."),
            records: by_source(RECORDS, "Records taken."),
            lines_split: by_source(LINES_SPLIT, "Lines that became several records."),
            looks: by_source(LOOKS, "Files and directories looked at without an event."),
            batches: counter(&registry, BATCHES, "Batches spooled."),
            batch_bytes: counter(&registry, BATCH_BYTES, "Bytes of batches spooled."),
            losses: by_reason(
                LOSSES,
                "Records that are gone or, of what was never read, times that a file lost some.",
            ),
            lost_bytes: by_reason(LOST_BYTES, "Bytes that are known to be gone."),
            epochs_closed: by_reason(EPOCHS_CLOSED, "Lives of files that ended."),
            skipped_bytes: by_reason(SKIPPED_BYTES, "Bytes that the configuration passes over."),
            spool_bytes: gauge(&registry, SPOOL_BYTES, "Unacknowledged bytes in the spool."),
            spool_disk_bytes: gauge(&registry, SPOOL_DISK_BYTES, "Bytes of the spool on disk."),
            lag_records: gauge(&registry, LAG_RECORDS, "Unacknowledged records."),
            acknowledged: gauges(
                &registry,
                ACKNOWLEDGED_OFFSET,
                "First unacknowledged offset.",
                &["topic", "partition"],
            ),
            durable: gauges(
                &registry,
                DURABLE_OFFSET,
                "End of what is fsynced.",
                &["topic", "partition"],
            ),
            files: of_source(FILES, "Files followed."),
            files_unreadable: of_source(FILES_UNREADABLE, "Files that cannot be read."),
            directories: of_source(DIRECTORIES, "Directories in which files are or can be."),
            file_unread_bytes: of_source(
                FILE_UNREAD_BYTES,
                "Bytes of followed files that are not read yet.",
            ),
            files_open: of_source(FILES_OPEN, "Files held open."),
            sent_records: counter(&registry, SENT_RECORDS, "Records sent."),
            sent_bytes: counter(&registry, SENT_BYTES, "Bytes sent."),
            sessions: counter(&registry, SESSIONS, "Connections made."),
            connected: gauges(
                &registry,
                CONNECTED,
                "Whether an aggregator is connected.",
                &["transport"],
            ),
            registry,
        }
    }

    /// The producer counts for itself; what it has is copied when somebody asks.
    fn show_producer(&self, producer: &Stats) {
        let counts = [
            (&self.sent_records, producer.sent_records()),
            (&self.sent_bytes, producer.sent_bytes()),
            (&self.sessions, producer.sessions()),
        ];
        for (counter, count) in counts {
            count_up_to(counter, count);
        }
        let connected = producer.connected();
        for (name, transport) in [("quic", Connected::Quic), ("tcp", Connected::Tcp)] {
            let gauge = self.connected.with_label_values(&[name]);
            gauge.set(i64::from(connected == transport));
        }
    }

    /// Where others add their metrics, the producer for one.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The handles of the source `name`.
    pub fn source(&self, name: &str) -> SourceTelemetry {
        SourceTelemetry {
            read_bytes: self.read_bytes.with_label_values(&[name]),
            records: self.records.with_label_values(&[name]),
            lines_split: self.lines_split.with_label_values(&[name]),
            looks: self.looks.with_label_values(&[name]),
            files: self.files.with_label_values(&[name]),
            files_unreadable: self.files_unreadable.with_label_values(&[name]),
            directories: self.directories.with_label_values(&[name]),
        }
    }

    /// A batch of this many bytes is in the spool.
    pub fn count_batch(&self, bytes: usize) {
        self.batches.inc();
        self.batch_bytes.inc_by(bytes as u64);
    }

    /// A life of a file has ended.
    pub fn count_closed(&self, source: &str, reason: &'static str) {
        self.epochs_closed
            .with_label_values(&[source, reason])
            .inc();
    }

    /// Bytes are passed over because the configuration says so.
    pub fn count_skipped(&self, source: &str, reason: &'static str, bytes: u64) {
        let skipped = self.skipped_bytes.with_label_values(&[source, reason]);
        skipped.inc_by(bytes);
    }

    /// All metrics as Prometheus text, with the spool's and the sources' as of now.
    pub fn text(&self, spool: &Spool, producer: &Stats, sources: &[(String, Totals)]) -> String {
        self.show_producer(producer);
        // A reload may have ended some.
        self.file_unread_bytes.reset();
        self.files_open.reset();
        for (source, totals) in sources {
            let unread = self.file_unread_bytes.with_label_values(&[source.as_str()]);
            unread.set(signed(totals.unread_bytes));
            let open = self.files_open.with_label_values(&[source.as_str()]);
            open.set(signed(totals.open_files));
        }
        for ((source, reason), loss) in spool.losses() {
            let labels = [source.as_str(), reason.as_str()];
            count_up_to(&self.losses.with_label_values(&labels), loss.count);
            count_up_to(&self.lost_bytes.with_label_values(&labels), loss.bytes);
        }
        let fill = spool.fill();
        self.spool_bytes.set(signed(fill.unacknowledged_bytes));
        self.spool_disk_bytes.set(signed(fill.disk_bytes));
        self.lag_records.set(signed(fill.unacknowledged_records));
        for partition in spool.partitions() {
            let range = spool.range(&partition);
            let number = partition.partition.to_string();
            let labels = [partition.topic.as_str(), number.as_str()];
            let start = self.acknowledged.with_label_values(&labels);
            start.set(range.start.get());
            let durable = self.durable.with_label_values(&labels);
            durable.set(range.durable_end.get());
        }
        let mut text = Vec::new();
        // Encoding into memory fails only for a metric without a name.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics are not encoded");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Shows a count that is kept elsewhere and only grows.
fn count_up_to(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let metric = IntCounter::new(name, help).expect("the name is a legal constant");
    register(registry, metric.clone());
    metric
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let metric =
        IntCounterVec::new(Opts::new(name, help), labels).expect("the names are legal constants");
    register(registry, metric.clone());
    metric
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let metric = IntGauge::new(name, help).expect("the name is a legal constant");
    register(registry, metric.clone());
    metric
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let metric =
        IntGaugeVec::new(Opts::new(name, help), labels).expect("the names are legal constants");
    register(registry, metric.clone());
    metric
}

fn register(registry: &Registry, metric: impl prometheus::core::Collector + 'static) {
    registry
        .register(Box::new(metric))
        .expect("each name is registered once");
}
