//! House rules that are tests: arrows between crates and modules, lengths, invariants, samples,
//! words that have no place here, and documents that must stay true.
//!
//! A rule's table stands at the top of its file. An exception is an entry there with its reason.

mod arrows;
mod claims;
mod dependencies;
mod documents;
mod invariants;
mod lengths;
mod samples;
mod sources;
mod telemetry;
mod words;
