//! Attacks and accidents. What the agent does about a wrong server is tested with the agent.

mod authority;
mod enrolment;
mod peers;
pub(crate) mod world;
