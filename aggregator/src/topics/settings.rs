//! From what the configuration says to what the topics need: defaults filled in, units as the log
//! counts them.

use std::time::Duration;

use commitlog::log::partition::LogConfig;
use config::units::ByteSize;

use super::{TopicConfig, TopicsConfig};
use crate::config::{AggregatorConfig, TopicDefaults};
use crate::limits::{PARTITIONS_TOTAL_MAX, SEGMENT_AGE_MAX};

/// Where below the data directory the partitions lie.
const LOG_DIR: &str = "log";

impl TopicsConfig {
    /// What `config` says about topics.
    pub fn from_config(config: &AggregatorConfig) -> TopicsConfig {
        let defaults = &config.defaults;
        let topics = config.topics.iter().map(|(name, topic)| {
            let retention = &topic.retention;
            let settings = TopicConfig {
                partitions: topic.partitions.unwrap_or(defaults.partitions),
                log: log_config(
                    topic.segment_bytes.unwrap_or(defaults.segment_bytes),
                    retention.age.unwrap_or(defaults.retention.age),
                    retention.bytes.or(defaults.retention.bytes),
                ),
            };
            (name.clone(), settings)
        });
        TopicsConfig {
            log_dir: config.data_dir.join(LOG_DIR),
            topics: topics.collect(),
            defaults: default_topic(defaults),
            disk_high_water_percent: config.disk.high_water.0,
            partitions_max: PARTITIONS_TOTAL_MAX,
        }
    }
}

fn default_topic(defaults: &TopicDefaults) -> TopicConfig {
    let retention = &defaults.retention;
    TopicConfig {
        partitions: defaults.partitions,
        log: log_config(defaults.segment_bytes, retention.age, retention.bytes),
    }
}

fn log_config(segment: ByteSize, age: Duration, bytes: Option<ByteSize>) -> LogConfig {
    LogConfig {
        segment_bytes_max: segment.0,
        // Retention drops whole segments: one must not span more than a part of the age.
        segment_age_max_ms: milliseconds((age / 4).min(SEGMENT_AGE_MAX)).max(1),
        retention_bytes: bytes.map(|bytes| bytes.0),
        retention_ms: Some(milliseconds(age)),
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
