//! The program on every host: sources, router, spool, producer.

pub mod config;
