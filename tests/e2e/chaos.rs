//! Random kills under load, short. `weir-bench chaos --kills 200` is the long one.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::chaos::{ChaosPlan, fresh_lines, run};
use weir_tests::condition::{wait, when};
use weir_tests::limits::DRAIN_MAX;
use weir_tests::oracle::reader::{Reader, WriterProcess, plan_in};
use weir_tests::oracle::writer::{Plan, Rotation};
use weir_tests::world::World;

#[test]
fn twenty_kills_lose_double_and_reorder_nothing() -> Result<()> {
    let world = World::new()?;
    let seed = fastrand::u64(..);
    let plan = ChaosPlan {
        kills: 20,
        seed,
        rate: 2_000,
        rotations: vec![Rotation::Rename, Rotation::Create, Rotation::Copytruncate],
        rotate_lines: 3_000,
        pause_max: Duration::from_millis(1_500),
    };
    let report = run(&world, &plan)?;
    ensure!(report.verdict.is_clean(), "seed {seed}: {}", report.verdict);
    ensure!(
        report.agent_kills + report.aggregator_kills == 20,
        "seed {seed}: {report:?}"
    );
    Ok(())
}

/// Rotates while the agent runs; only `app*.log` matches, so rotated files must be followed by
/// what they are and not by their names. All but the last `keep` are deleted.
fn rotates_live(rotation: Rotation, keep: u32) -> Result<()> {
    let world = World::new()?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let options = AgentOptions::tailing(&[world.path("logs/app*.log")]);
    let mut written = fresh_lines(&world)?;
    let mut agent = Agent::start(&world, "agent", &options, &aggregator)?;
    // Files that come and go before the agent knows their folder are nobody's loss.
    let api = aggregator.api();
    wait("an agent at work", DRAIN_MAX, || {
        let durable = api.durable_records("logs")?;
        when(durable > 0, || "no line yet".to_owned())
    })?;
    let plan = Plan {
        rotation,
        keep,
        rotate_lines: 2_000,
        rate: 5_000,
        ..plan_in(&world)
    };
    let plan = Plan {
        lines: Some(20_500),
        ..plan
    };
    written.extend(WriterProcess::start(&plan)?.finish()?);
    let reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    ensure!(verdict.is_clean(), "{verdict}");
    agent.terminate()
}

#[test]
fn a_renamed_file_is_read_to_its_end() -> Result<()> {
    rotates_live(Rotation::Rename, 2)
}

#[test]
fn a_file_that_is_copied_and_truncated_loses_nothing() -> Result<()> {
    rotates_live(Rotation::Copytruncate, 5)
}

#[test]
fn files_with_new_names_are_found() -> Result<()> {
    rotates_live(Rotation::Create, 1_000)
}

#[test]
fn fifty_kills_while_a_million_lines_are_read_lose_double_and_reorder_nothing() -> Result<()> {
    let world = World::new()?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let options = AgentOptions::tailing(&[world.path("logs/app*.log")]);
    let mut agent = Agent::start(&world, "agent", &options, &aggregator)?;
    let plan = Plan {
        // About as fast as an agent reads that is killed four times a second.
        rate: 100_000,
        lines: Some(1_000_000),
        padding: 20,
        ..plan_in(&world)
    };
    let writer = WriterProcess::start(&plan)?;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..50 {
        // The moment is the fault: it is chosen, not waited for.
        std::thread::sleep(Duration::from_millis(random.u64(1..500)));
        agent.process()?.expect_running()?;
        agent.kill()?;
        agent.restart()?;
    }
    let written = writer.finish()?;
    let reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    ensure!(verdict.is_clean(), "seed {seed}: {verdict}");
    ensure!(verdict.written_lines == 1_000_000, "{verdict}");
    agent.terminate()
}
