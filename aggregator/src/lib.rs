//! The broker and what hangs on it: topics, groups, HTTP.

pub mod agents;
pub mod blocking;
pub mod config;
pub mod groups;
pub mod health;
pub mod identity;
pub mod limits;
pub mod meta;
pub mod parts;
pub mod telemetry;
pub mod topics;
