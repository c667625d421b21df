//! The lake: what topics hold, as tables that every engine can read, and SQL over them.
//!
//! Hot data is the commit log itself; there is no second write-ahead log. Of each topic-partition a converter
//! seals what is durable into Parquet files of a Delta Lake table, and the same commit says up to which offset:
//! a record is in the table once, whatever is killed when.
//!
//! | step | where |
//! |---|---|
//! | what is durable of a partition | [`lake::seal`] |
//! | its records, in the order of the table | [`lake::rows`] |
//! | as columns | [`lake::columns`], [`lake::schema`] |
//! | as a Parquet file, with the search index | [`lake::file`], [`lake::index`] |
//! | in the table | [`lake::table`] |
//! | what a question's conditions ask of the index | [`lake::search`] |
//! | the table and the log behind it, as SQL sees them | [`sql::logs`] |

pub mod error;
pub mod lake;
pub mod limits;
pub mod sql;
