//! What the tests of the whole stand on: real processes, an account of every line, house rules.

pub mod condition;
pub mod limits;
pub mod oracle;
pub mod skip;
