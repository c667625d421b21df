//! The whole, as real processes.
