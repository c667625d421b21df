//! House rules that are tests.
