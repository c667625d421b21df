//! `weir-bench`: measures the real programs.
fn main() {}
