//! `chaos`, `sweep`, `sim`: what the tests do briefly, at any length.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weir_tests::agent::{Agent, AgentOptions};
use weir_tests::aggregator::{Aggregator, AggregatorOptions};
use weir_tests::chaos::{ChaosPlan, ChaosReport};
use weir_tests::oracle::checker::Verdict;
use weir_tests::oracle::writer::Rotation;
use weir_tests::programs::repository;
use weir_tests::skip::missing_program;
use weir_tests::sweep::{Sides, SweepPlan, Victim};
use weir_tests::world::{Logs, World};

use crate::report::{Report, float};

#[derive(clap::Args)]
pub(crate) struct ChaosOptions {
    /// How often a program is killed
    #[arg(long, default_value_t = 200)]
    kills: u32,

    /// Lines a second of each of the two writers
    #[arg(long, default_value_t = 20_000)]
    rate: u64,

    /// Lines in a file before it is rotated
    #[arg(long, default_value_t = 50_000)]
    rotate_lines: u64,

    /// How the two writers rotate
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "rename,create"
    )]
    rotations: Vec<Rotation>,

    /// The longest time between two kills, in milliseconds
    #[arg(long, default_value_t = 1_000)]
    pause_ms: u64,

    /// Decides who is killed when; drawn and printed when it is not given
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn chaos(options: &ChaosOptions) -> Result<Report> {
    let world = World::in_folder(&std::env::temp_dir(), Logs::Hidden)?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let plan = ChaosPlan {
        kills: options.kills,
        seed,
        rate: options.rate,
        rotations: options.rotations.clone(),
        rotate_lines: options.rotate_lines,
        pause_max: Duration::from_millis(options.pause_ms),
    };
    let started = Instant::now();
    let ran = weir_tests::chaos::run(&world, &plan).with_context(|| format!("seed {seed}"));
    let ChaosReport {
        agent_kills,
        aggregator_kills,
        verdict,
    } = ran?;
    let mut report = Report::new("chaos");
    report.word("seed", seed.to_string());
    report.figure("agent kills", f64::from(agent_kills), "");
    report.figure("aggregator kills", f64::from(aggregator_kills), "");
    report.figure("duration", started.elapsed().as_secs_f64(), "s");
    judge(&mut report, &verdict);
    Ok(report)
}

fn judge(report: &mut Report, verdict: &Verdict) {
    let count = |found: &[String]| float(found.len() as u64);
    report.figure("lines written", float(verdict.written_lines), "");
    report.figure("lines lost", float(verdict.lost_lines), "");
    report.figure("lines doubled", count(&verdict.doubled), "");
    report.figure("lines out of order", count(&verdict.disordered), "");
    report.figure("records invented", count(&verdict.invented), "");
    report.figure("offsets changed", count(&verdict.changed), "");
    if !verdict.is_clean() {
        report.fail(verdict.to_string());
    }
}

#[derive(clap::Args)]
pub(crate) struct SweepOptions {
    /// Kills at each system call and side, at most
    #[arg(long, default_value_t = 100)]
    kills_each: u32,

    /// Lines in each life
    #[arg(long, default_value_t = 400)]
    lines: u64,

    /// Lines a second; 0 writes them before each life
    #[arg(long, default_value_t = 400)]
    rate: u64,
}

pub(crate) fn sweep(options: &SweepOptions) -> Result<Report> {
    if let Some(why) = missing_program(&["strace"]) {
        bail!("{why}");
    }
    let mut report = Report::new("sweep");
    for victim in [Victim::Agent, Victim::Aggregator] {
        let world = World::in_folder(&std::env::temp_dir(), Logs::Hidden)?;
        let eight = AggregatorOptions {
            partitions: 8,
            ..AggregatorOptions::default()
        };
        let mut aggregator = Aggregator::start(&world, &eight)?;
        let tailing = AgentOptions::tailing(&[world.path("logs/*.log")]);
        let mut agent = Agent::start(&world, "agent", &tailing, &aggregator)?;
        match victim {
            Victim::Agent => agent.kill()?,
            Victim::Aggregator => aggregator.kill()?,
        }
        let mut sides = Sides { aggregator, agent };
        let SweepOptions {
            kills_each,
            lines,
            rate,
        } = *options;
        let plan = SweepPlan {
            kills_each,
            lines,
            rate,
        };
        let swept = weir_tests::sweep::run(&world, &mut sides, victim, plan)?;
        report.figure(format!("{victim:?} kills"), f64::from(swept.total()), "");
        for (call, kills) in &swept.kills {
            report.figure(format!("{victim:?} kills at {call}"), f64::from(*kills), "");
        }
        judge(&mut report, &swept.verdict);
    }
    Ok(report)
}

#[derive(clap::Args)]
pub(crate) struct SimOptions {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,

    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// Runs the simulation's test program over the seeds: it lives with the tests and prints the seed
/// of a failure.
pub(crate) fn sim(options: &SimOptions) -> Result<Report> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let started = Instant::now();
    let status = Command::new(cargo)
        .current_dir(repository())
        .args([
            "test",
            "--release",
            "-p",
            "weir-tests",
            "--test",
            "sim",
            "--",
            "--nocapture",
            "all_seeds",
        ])
        .env("WEIR_SIM_SEEDS", options.seeds.to_string())
        .env("WEIR_SIM_FIRST_SEED", options.first.to_string())
        .status()
        .context("run the simulation")?;
    let mut report = Report::new("sim");
    report.figure("seeds", float(options.seeds), "");
    report.figure("duration", started.elapsed().as_secs_f64(), "s");
    if !status.success() {
        report.fail("a seed failed; it is named above");
    }
    Ok(report)
}
