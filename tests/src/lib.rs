//! Harness for tests that run the real programs.
