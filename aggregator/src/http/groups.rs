//! `/api/v1/groups`: consumer groups and the offsets they have committed.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use commitlog::id::{Offset, TopicPartition};
use serde::{Deserialize, Serialize};

use super::Api;
use super::error::ApiError;
use super::parameter::{self, Segment, Whole};
use crate::groups::GroupName;

#[derive(Serialize)]
pub(super) struct Groups {
    groups: Vec<Group>,
}

#[derive(Serialize)]
struct Group {
    group: String,
    offsets: Vec<GroupOffset>,
}

#[derive(Serialize)]
pub(super) struct Offsets {
    group: String,
    offsets: Vec<GroupOffset>,
}

#[derive(Serialize)]
struct GroupOffset {
    topic: String,
    partition: u32,
    offset: i64,
    /// The durable end: how far the group could be.
    end_offset: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit {
    offsets: Vec<Committed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    topic: String,
    partition: u32,
    offset: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    topic: Option<String>,
}

pub(super) async fn list(State(api): State<Api>) -> Json<Groups> {
    let groups = api.groups.list().into_iter();
    let groups = groups.map(|(group, offsets)| Group {
        group: group.to_string(),
        offsets: told(&api, offsets),
    });
    Json(Groups {
        groups: groups.collect(),
    })
}

pub(super) async fn offsets(
    State(api): State<Api>,
    Segment(group): Segment,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Offsets>, ApiError> {
    let Query(filter) =
        filter.map_err(|error| ApiError::bad_request(error.body_text(), "known: topic"))?;
    let topic = filter.topic.as_deref().map(parameter::topic).transpose()?;
    let group = name(&group)?;
    let mut offsets = api.groups.offsets(&group);
    offsets.retain(|(id, _)| topic.as_ref().is_none_or(|topic| id.topic == *topic));
    Ok(Json(Offsets {
        group: group.to_string(),
        offsets: told(&api, offsets),
    }))
}

pub(super) async fn commit(
    State(api): State<Api>,
    Segment(group): Segment,
    Whole(body): Whole,
) -> Result<Json<Offsets>, ApiError> {
    let group = name(&group)?;
    let commit: Commit = parameter::body(&body)?;
    let mut offsets = Vec::new();
    for committed in commit.offsets {
        let id = TopicPartition {
            topic: parameter::topic(&committed.topic)?,
            partition: committed.partition,
        };
        let offset = Offset::new(committed.offset).ok_or_else(|| {
            let message = format!("{id}: {} is no offset", committed.offset);
            ApiError::bad_request(message, "offsets count from 0")
        })?;
        offsets.push((id, offset));
    }
    api.groups.commit(&group, offsets.clone()).await?;
    Ok(Json(Offsets {
        group: group.to_string(),
        offsets: told(&api, offsets),
    }))
}

fn name(text: &str) -> Result<GroupName, ApiError> {
    let hint = "use letters, digits, '.', '_' and '-'";
    text.parse()
        .map_err(|error: commitlog::error::Error| ApiError::bad_request(error.message, hint))
}

fn told(api: &Api, offsets: Vec<(TopicPartition, Offset)>) -> Vec<GroupOffset> {
    let told = offsets.into_iter().map(|(id, offset)| GroupOffset {
        end_offset: api
            .topics
            .existing(&id)
            .map(|partition| partition.durable().borrow().get()),
        topic: id.topic.to_string(),
        partition: id.partition,
        offset: offset.get(),
    });
    told.collect()
}
