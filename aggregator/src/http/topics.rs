//! `/api/v1/topics`: which topics there are, and how far each partition reaches.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Api;
use crate::topics::{PartitionInfo, TopicInfo};

#[derive(Serialize)]
pub(super) struct Answer {
    topics: Vec<Topic>,
}

#[derive(Serialize)]
struct Topic {
    name: String,
    partitions: Vec<Partition>,
    retention_bytes: Option<u64>,
    retention_ms: Option<i64>,
}

#[derive(Serialize)]
struct Partition {
    #[serde(rename = "partition")]
    number: u32,
    start_offset: i64,
    /// Of what is durable: the next offset that a consumer will see.
    end_offset: i64,
    appended_offset: i64,
    bytes: u64,
    segments: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

pub(super) async fn list(State(api): State<Api>) -> Json<Answer> {
    let topics = api.topics.list().into_iter().map(Topic::from).collect();
    Json(Answer { topics })
}

impl From<TopicInfo> for Topic {
    fn from(info: TopicInfo) -> Topic {
        Topic {
            name: info.name.to_string(),
            partitions: info.partitions.into_iter().map(Partition::from).collect(),
            retention_bytes: info.config.log.retention_bytes,
            retention_ms: info.config.log.retention_ms,
        }
    }
}

impl From<PartitionInfo> for Partition {
    fn from(info: PartitionInfo) -> Partition {
        Partition {
            number: info.partition,
            start_offset: info.start.get(),
            end_offset: info.durable.get(),
            appended_offset: info.appended.get(),
            bytes: info.bytes,
            segments: info.segments,
            failure: info.failure,
        }
    }
}
