//! Loads what users write.
//!
//! A file becomes a tree of values that know their places (`node`), a struct declares and reads
//! its options from it (`fields`, `value`, `units`), and everything that is wrong comes back at
//! once, each with line, column and what to write instead (`problem`). Loading has no effects but
//! reading the file.
//!
//! The folder also holds the sample files that users copy: `agent.yaml` and `aggregator.yaml` name
//! every option there is.

pub mod credentials;
pub mod environment;
pub mod fields;
pub mod join;
mod limits;
pub mod listen;
pub mod load;
mod node;
pub mod private_file;
pub mod problem;
pub mod sample;
mod suggest;
pub mod units;
pub mod value;
