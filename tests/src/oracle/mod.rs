//! The oracle: an account of every line that was written and of every line that came out.
//!
//! It shares no code with the log it judges: its own line format, its own checksum, its own
//! bookkeeping. A [`writer`] process, which is never killed, puts numbered and checksummed lines
//! into real files and rotates them. A [`reader`] drains the aggregator over HTTP. The [`checker`]
//! holds one bitmap a stream and names what is lost, doubled, out of order, invented, changed or
//! unexplained.
//!
//! A judgement has two phases: faults and load first; then no faults and a deadline in which
//! everything must arrive and a fresh line must flow from end to end. A system that is merely
//! stuck fails the second phase.

pub mod checker;
pub mod line;
pub mod reader;
pub mod writer;
