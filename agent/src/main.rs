//! `weir-agent`: flags, then configuration, then run.
fn main() {}
