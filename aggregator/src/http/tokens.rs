//! `/api/v1/tokens`: the strings that hosts join with.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::Api;
use super::error::ApiError;
use super::parameter::{self, Segment, Whole};
use super::time::rfc3339;
use crate::identity::acl::TopicAcl;
use crate::identity::tokens::{NewToken, TokenInfo, TokenState};

/// What is asked for; what is not said is as `weir token create` would have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    ttl: String,
    uses: u32,
    topics: Vec<String>,
}

impl Default for Order {
    fn default() -> Order {
        Order {
            ttl: "1h".to_owned(),
            uses: 1,
            topics: vec!["*".to_owned()],
        }
    }
}

#[derive(Serialize)]
pub(super) struct Made {
    /// Shown once and kept nowhere.
    token: String,
    id: String,
    expires: Option<String>,
    uses: u32,
}

#[derive(Serialize)]
pub(super) struct Listed {
    tokens: Vec<Token>,
}

#[derive(Serialize)]
pub(super) struct Token {
    id: String,
    created: Option<String>,
    expires: Option<String>,
    /// How many can still join with it.
    uses: u32,
    topics: Vec<String>,
    state: TokenState,
}

pub(super) async fn create(
    State(api): State<Api>,
    Whole(body): Whole,
) -> Result<Json<Made>, ApiError> {
    let order: Order = if body.is_empty() {
        Order::default()
    } else {
        parameter::body(&body)?
    };
    let topics = TopicAcl::new(order.topics)
        .map_err(|error| ApiError::bad_request(error.to_string(), "\"*\" allows every topic"))?;
    let new = NewToken {
        ttl: parameter::duration("ttl", &order.ttl)?,
        uses: order.uses,
        topics,
    };
    let (authority, addresses) = (api.authority.clone(), api.agents_connect_to.clone());
    let make = move || authority.create_token(&new, &addresses);
    let made = api.blocking.run(make).await?;
    Ok(Json(Made {
        id: made.token.id.to_string(),
        token: made.token.to_string(),
        expires: rfc3339(made.expires.0),
        uses: order.uses,
    }))
}

pub(super) async fn list(State(api): State<Api>) -> Result<Json<Listed>, ApiError> {
    let authority = api.authority.clone();
    let tokens = api.blocking.run(move || authority.tokens()).await?;
    let tokens = tokens.into_iter().map(Token::from).collect();
    Ok(Json(Listed { tokens }))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Segment(id): Segment,
) -> Result<Json<Token>, ApiError> {
    let authority = api.authority.clone();
    let shown = id.clone();
    let revoked = api
        .blocking
        .run(move || authority.revoke_token(&id))
        .await?;
    let revoked = revoked.ok_or_else(|| {
        ApiError::not_found(
            format!("there is no token {shown:?}"),
            "/api/v1/tokens lists them",
        )
    })?;
    Ok(Json(Token::from(revoked)))
}

impl From<TokenInfo> for Token {
    fn from(info: TokenInfo) -> Token {
        Token {
            id: info.id,
            created: rfc3339(info.created_ms),
            expires: rfc3339(info.expires_ms),
            uses: info.uses_left,
            topics: info.topics,
            state: info.state,
        }
    }
}
