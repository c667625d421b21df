//! The broker and what hangs on it: topics, groups, HTTP.
