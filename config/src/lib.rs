//! Loads what users write.
