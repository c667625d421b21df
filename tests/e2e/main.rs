//! The whole, as real processes: files in, `kill -9` in between, every line out exactly once.

mod chaos;
mod files;
mod hosts;
mod main_job;
mod power_cut;
mod refusals;
mod rotation;
mod stored_log;
mod system_calls;
mod udp_blocked;
