//! The record batch at rest and in flight: how it is made, kept and carried, never what it means.
//!
//! No sockets, no clock, no chance: time, randomness and the disk are arguments, so that a seed
//! replays everything.

pub mod batch;
pub mod error;
pub mod id;
pub mod limits;
pub mod log;
pub mod storage;
pub mod wire;
