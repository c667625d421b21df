//! Files that are rotated while a program writes to them as fast as a busy one does.

use anyhow::{Result, ensure};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::limits::DRAIN_MAX;
use weir_tests::oracle::reader::{Reader, WriterProcess, plan_in};
use weir_tests::oracle::writer::{Plan, Rotation};
use weir_tests::skip::{missing_program, skip};
use weir_tests::world::World;

/// 300,000 lines a second are 50 MB; its rotations lie within a third of a second. It is the rate that
/// matters, and a slow machine is to read all of it far within the deadline.
fn busy(world: &World, rotation: Rotation) -> Plan {
    Plan {
        rate: 300_000,
        lines: Some(100_000),
        rotation,
        rotate_lines: 12_500,
        ..plan_in(world)
    }
}

/// Follows the files while they are written; how many they were.
fn all_comes_once(rotation: Rotation) -> Result<usize> {
    let world = World::new()?;
    let aggregator = Aggregator::start(&world, &AggregatorOptions::default())?;
    let plan = busy(&world, rotation);
    let options = AgentOptions::tailing(&[plan.path()]);
    let _agent = Agent::start(&world, "agent", &options, &aggregator)?;
    let written = WriterProcess::start(&plan)?.finish()?;
    let reader = Reader::new(aggregator.http, aggregator.token_file(), "logs");
    let verdict = reader.judge(&written, DRAIN_MAX)?;
    ensure!(verdict.is_clean(), "{verdict}");
    Ok(written.len())
}

#[test]
fn a_file_renamed_under_50_megabytes_a_second_loses_and_repeats_nothing() -> Result<()> {
    let files = all_comes_once(Rotation::Rename)?;
    ensure!(files == 8, "{files} files were written");
    Ok(())
}

#[test]
fn a_file_that_logrotate_renames_under_50_megabytes_a_second_loses_and_repeats_nothing()
-> Result<()> {
    if let Some(why) = missing_program(&["logrotate"]) {
        skip(
            "a_file_that_logrotate_renames_under_50_megabytes_a_second_loses_and_repeats_nothing",
            &why,
        );
        return Ok(());
    }
    let files = all_comes_once(Rotation::Logrotate)?;
    ensure!(files > 2, "{files} files were written");
    Ok(())
}
