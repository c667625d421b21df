//! Every decoder of bytes from outside, fed broken input. How to add one: [`weir_tests::fuzz`].
#![expect(
    clippy::unwrap_used,
    reason = "all of this is test code, which clippy sees only in functions marked as tests"
)]

mod batch;
mod config;
mod index;
mod join;
mod log;
mod wire;
