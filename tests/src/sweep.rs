//! `kill -9` at each file-changing system call, by strace's fault injection.
//!
//! The state of a disk changes at system calls only, so the calls are all the moments there are.
//! strace counts calls by thread and by name: "the third `pwrite64` of a thread". The sweep goes
//! through the names, and for each through the counts, until a program reaches the end of its
//! errand without coming by the call again. The killed call itself is not executed.
//!
//! One life follows the other on the same disks, as in a crash loop: the program is started under
//! strace, given lines, killed at its call, and started again. Between two lives the other side
//! runs on. At the end the oracle judges all of it.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::agent::Agent;
use crate::aggregator::Aggregator;
use crate::condition::{Seen, wait};
use crate::limits::DRAIN_MAX;
use crate::oracle::checker::{Verdict, Written};
use crate::oracle::reader::{Reader, WriterProcess, plan_in};
use crate::oracle::writer::{Plan, Rotation};
use crate::process::{Process, Wrapper};
use crate::world::World;

/// The calls that change files, with how often a life is likely to make them.
pub const CALLS: &[&str] = &[
    "mkdir",
    "openat",
    "pwrite64",
    "fdatasync",
    "fsync",
    "rename",
    "ftruncate",
    "unlink",
    "write",
];

/// Which side is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// `weir-agent run`.
    Agent,
    /// `weir serve`.
    Aggregator,
}

/// What came of a sweep.
#[derive(Debug)]
pub struct SweepReport {
    /// Kills by call.
    pub kills: Vec<(&'static str, u32)>,
    /// The oracle's verdict.
    pub verdict: Verdict,
}

impl SweepReport {
    /// All kills.
    pub fn total(&self) -> u32 {
        self.kills.iter().map(|(_, kills)| kills).sum()
    }
}

/// How far a sweep goes.
#[derive(Clone, Copy, Debug)]
pub struct SweepPlan {
    /// Kills at each call, at most.
    pub kills_each: u32,
    /// Lines that each life is given, in eight files.
    pub lines: u64,
    /// Lines a second; 0 writes them before the life begins.
    pub rate: u64,
}

/// Files that the lines of one life are spread over: each may go to another partition, and each
/// partition has calls of its own.
const FILES: u64 = 8;

/// Both sides of a sweep.
pub struct Sides {
    /// Running when the agent is the victim, started under strace otherwise.
    pub aggregator: Aggregator,
    /// Joined; running when the aggregator is the victim.
    pub agent: Agent,
}

/// Kills `victim` at one count of one call after the other.
pub fn run(
    world: &World,
    sides: &mut Sides,
    victim: Victim,
    plan: SweepPlan,
) -> Result<SweepReport> {
    let reader = Reader::new(sides.aggregator.http, sides.aggregator.token_file(), "logs");
    let mut written = Written::new();
    let mut kills = Vec::new();
    let mut life = 0;
    for call in CALLS {
        let mut count = 0;
        while count < plan.kills_each {
            life += 1;
            let writer = WriterProcess::start(&Plan {
                writer: life,
                rate: plan.rate,
                lines: Some(plan.lines),
                rotation: Rotation::Create,
                rotate_lines: plan.lines.div_ceil(FILES),
                ..plan_in(world)
            })?;
            let total = plan.lines * u64::from(life);
            let wrapper = killing_at(call, count + 1);
            let was_killed = live(sides, victim, &wrapper, total)
                .with_context(|| format!("{victim:?} at {call} number {}", count + 1))?;
            written.extend(writer.finish()?);
            if !was_killed {
                break;
            }
            count += 1;
        }
        kills.push((*call, count));
    }
    match victim {
        Victim::Agent => sides.agent.restart()?,
        Victim::Aggregator => sides.aggregator.restart()?,
    }
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    Ok(SweepReport { kills, verdict })
}

/// One life of the victim; whether its call killed it. One that delivers all of its lines has
/// outlived the call and is killed from outside.
fn live(sides: &mut Sides, victim: Victim, wrapper: &Wrapper, total: u64) -> Result<bool> {
    let api = sides.aggregator.api();
    match victim {
        Victim::Agent => sides.agent.spawn(wrapper)?,
        Victim::Aggregator => sides.aggregator.spawn(wrapper)?,
    }
    let process: &mut Process = match victim {
        Victim::Agent => sides.agent.process()?,
        Victim::Aggregator => sides.aggregator.process()?,
    };
    let was_killed = wait("a killed victim or all lines durable", LIFE_MAX, || {
        if let Some(status) = process.ended()? {
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            let is_kill = signal == Some(9);
            let ended = format!("ended by itself: {status}");
            return Ok(if is_kill {
                Seen::Yes(true)
            } else {
                Seen::Never(ended)
            });
        }
        let durable = api.durable_records("logs")?;
        Ok(if durable >= total {
            Seen::Yes(false)
        } else {
            Seen::no(durable)
        })
    })?;
    match (victim, was_killed) {
        (Victim::Agent, true) => sides.agent.forget(),
        (Victim::Agent, false) => sides.agent.kill()?,
        (Victim::Aggregator, true) => sides.aggregator.forget(),
        (Victim::Aggregator, false) => sides.aggregator.kill()?,
    }
    Ok(was_killed)
}

/// A life under strace in a debug build.
const LIFE_MAX: Duration = Duration::from_secs(30);

/// `-D` keeps the program our own child. `--seccomp-bpf` would be quicker, but strace 6.1 was seen
/// to inject nothing with it on one kernel, and to hang on another.
fn killing_at(call: &str, count: u32) -> Wrapper {
    Wrapper::new([
        "strace".to_owned(),
        "-f".to_owned(),
        "-D".to_owned(),
        "-qqq".to_owned(),
        "-o".to_owned(),
        "/dev/null".to_owned(),
        format!("--trace={call}"),
        format!("--inject={call}:signal=KILL:when={count}"),
    ])
}
