//! The program on every host: sources, router, spool, producer.

pub mod ambient;
pub mod config;
pub mod identity;
pub mod join;
pub mod limits;
pub mod pipeline;
pub mod producer;
pub mod router;
pub mod sources;
pub mod spool;
pub mod telemetry;

#[cfg(test)]
mod testing;
