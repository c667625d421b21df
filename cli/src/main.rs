//! `weir`: one command for everything but the lone agent.
fn main() {}
