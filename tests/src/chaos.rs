//! Kills at random moments while lines are written and rotated, then the oracle's verdict.
//!
//! The tests run it short, `weir-bench chaos` at any length. The seed decides victims and moments;
//! what the machine makes of the moments it cannot decide, so a failing seed is a good hint and no
//! replay.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::agent::{Agent, AgentOptions};
use crate::aggregator::{Aggregator, AggregatorOptions};
use crate::limits::DRAIN_MAX;
use crate::oracle::checker::Verdict;
use crate::oracle::reader::{Reader, WriterProcess, plan_in};
use crate::oracle::writer::{Plan, Rotation};
use crate::process::Wrapper;
use crate::world::World;

/// What happens.
#[derive(Clone, Debug)]
pub struct ChaosPlan {
    /// How often a program is killed.
    pub kills: u32,
    /// Decides who is killed when.
    pub seed: u64,
    /// Lines a second of each writer.
    pub rate: u64,
    /// How the writers rotate; one writer each.
    pub rotations: Vec<Rotation>,
    /// Lines in a file before it is rotated.
    pub rotate_lines: u64,
    /// The longest time between two kills.
    pub pause_max: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct ChaosReport {
    /// Kills of the agent.
    pub agent_kills: u32,
    /// Kills of the aggregator.
    pub aggregator_kills: u32,
    /// The oracle's verdict.
    pub verdict: Verdict,
}

/// Runs the plan in the world.
pub fn run(world: &World, plan: &ChaosPlan) -> Result<ChaosReport> {
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let mut aggregator = Aggregator::start(world, &AggregatorOptions::default())?;
    // Rotated files keep matching, so that files which come and go while the agent is dead are
    // read when it is back.
    let options = AgentOptions::tailing(&[world.path("logs/*.log*")]);
    let mut agent = Agent::start(world, "agent", &options, &aggregator)?;
    let mut reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let writers = start_writers(world, plan)?;
    let (mut agent_kills, mut aggregator_kills) = (0, 0);
    while agent_kills + aggregator_kills < plan.kills {
        // The moment is the fault: it is chosen, not waited for.
        std::thread::sleep(plan.pause_max.mul_f64(random.f64()));
        if random.bool() {
            agent.process()?.expect_running()?;
            agent.kill()?;
            agent.restart()?;
            agent_kills += 1;
        } else {
            aggregator.process()?.expect_running()?;
            aggregator.kill()?;
            aggregator.spawn(&Wrapper::default())?;
            aggregator_kills += 1;
        }
        // What a consumer sees now must still be there at the end. It may be down just now.
        drop(reader.poll());
    }
    aggregator.await_ready()?;
    agent.process()?.expect_running()?;
    let mut written = crate::oracle::checker::Written::new();
    for writer in writers {
        written.extend(writer.finish()?);
    }
    ensure!(
        written.values().sum::<u64>() > 0,
        "the writers wrote nothing"
    );
    written.extend(fresh_lines(world)?);
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    agent.terminate()?;
    aggregator.terminate()?;
    Ok(ChaosReport {
        agent_kills,
        aggregator_kills,
        verdict,
    })
}

fn start_writers(world: &World, plan: &ChaosPlan) -> Result<Vec<WriterProcess>> {
    let numbered = (0..).zip(&plan.rotations);
    let writers = numbered.map(|(writer, rotation)| {
        WriterProcess::start(&Plan {
            writer,
            rate: plan.rate,
            rotation: *rotation,
            rotate_lines: plan.rotate_lines,
            seed: plan.seed,
            ..plan_in(world)
        })
    });
    writers.collect()
}

/// A few lines into a new file after all faults: they show that the whole still flows.
pub fn fresh_lines(world: &World) -> Result<crate::oracle::checker::Written> {
    let plan = Plan {
        writer: FRESH_WRITER,
        rate: 0,
        lines: Some(10),
        ..plan_in(world)
    };
    WriterProcess::start(&plan)?.finish()
}

/// The number of the writer of [`fresh_lines`], away from all others.
const FRESH_WRITER: u32 = 9_999;
