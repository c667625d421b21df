//! `kill -9` at file-changing system calls of either side. `weir-bench sweep` goes further.

use anyhow::{Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::skip::{missing_program, skip};
use weir_tests::sweep::{Sides, SweepPlan, SweepReport, Victim, run};
use weir_tests::world::World;

/// As far as a test's time allows; `weir-bench sweep` goes on from there.
const PLAN: SweepPlan = SweepPlan {
    kills_each: 20,
    lines: 40,
    rate: 0,
};

/// At least so many calls of each side must have been met.
const KILLS_MIN: u32 = 60;

#[test]
fn an_agent_killed_at_any_call_loses_and_doubles_nothing() -> Result<()> {
    sweep(
        "an_agent_killed_at_any_call_loses_and_doubles_nothing",
        Victim::Agent,
    )
}

#[test]
fn an_aggregator_killed_at_any_call_loses_and_doubles_nothing() -> Result<()> {
    sweep(
        "an_aggregator_killed_at_any_call_loses_and_doubles_nothing",
        Victim::Aggregator,
    )
}

fn sweep(test: &str, victim: Victim) -> Result<()> {
    if let Some(why) = missing_program(&["strace"]) {
        skip(test, &why);
        return Ok(());
    }
    let world = World::new()?;
    let options = AggregatorOptions {
        partitions: 8,
        ..AggregatorOptions::default()
    };
    let mut aggregator = Aggregator::start(&world, &options)?;
    let options = AgentOptions::tailing(&[world.path("logs/*.log")]);
    let mut agent = Agent::start(&world, "agent", &options, &aggregator)?;
    match victim {
        Victim::Agent => agent.kill()?,
        Victim::Aggregator => aggregator.kill()?,
    }
    let mut sides = Sides { aggregator, agent };
    let SweepReport { kills, verdict } = run(&world, &mut sides, victim, PLAN)?;
    ensure!(verdict.is_clean(), "{kills:?}: {verdict}");
    let total: u32 = kills.iter().map(|(_, kills)| kills).sum();
    ensure!(total >= KILLS_MIN, "only {total} kills: {kills:?}");
    Ok(())
}
