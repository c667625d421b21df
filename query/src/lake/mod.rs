//! Tables of topics: how records become rows, and rows files.

pub mod columns;
pub mod file;
pub mod index;
pub mod local;
pub mod rows;
pub mod schema;
pub mod seal;
pub mod search;
pub mod statistics;
pub mod table;

#[cfg(test)]
mod faulty;
#[cfg(test)]
mod tests;
