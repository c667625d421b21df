//! The lake: what topics hold, as tables that every engine can read.
