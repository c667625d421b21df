//! Tables as SQL sees them.

pub mod hot;
pub mod logs;
mod pruning;

#[cfg(test)]
mod tests;
