//! What the tests of the whole stand on: real processes, an account of every line, house rules.
//!
//! A test makes a [`world::World`], starts an [`aggregator::Aggregator`] and an [`agent::Agent`] in
//! it, lets the [`oracle`] write and read, and asks for its verdict. Programs are killed by their
//! id; waiting is always for a [`condition`]; whatever a test made is gone when it ends.

pub mod agent;
pub mod aggregator;
pub mod api;
pub mod chaos;
pub mod condition;
pub mod fuzz;
pub mod limits;
pub mod namespace;
pub mod oracle;
pub mod process;
pub mod programs;
pub mod skip;
pub mod sweep;
pub mod world;
