//! `files`: a host with many files, quiet ones or ones with a line now and then.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use weir_tests::condition::{Seen, wait};
use weir_tests::process::Wrapper;

use crate::input::{Kind, Lines};
use crate::report::{Bar, Report, float};
use crate::stage::{MEASURE_MAX, Stage};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many files
    #[arg(long, default_value_t = 1_000)]
    count: u32,

    /// Lines a second in each; 0 leaves them idle
    #[arg(long, default_value_t = 1)]
    rate: u32,

    /// How long
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut stage = Stage::new("")?;
    let folder = stage.world.path("logs");
    std::fs::create_dir_all(&folder)?;
    let mut lines = Lines::new(Kind::Access, 3);
    for file in 0..options.count {
        let (bytes, _) = lines.bytes(1);
        std::fs::write(folder.join(format!("app{file}.log")), bytes)?;
    }
    let count = u64::from(options.count);
    stage.agent.spawn(&Wrapper::default())?;
    stage.await_durable(count)?;
    let started = Instant::now();
    let before = stage.usage()?;
    let written = write_in_turn(&stage, options, &mut lines, started)?;
    let end = Duration::from_secs(options.seconds);
    wait("the end of the measurement", MEASURE_MAX, || {
        let elapsed = started.elapsed();
        Ok(if elapsed >= end {
            Seen::Yes(())
        } else {
            Seen::No(format!("{elapsed:?}"))
        })
    })?;
    let took = started.elapsed().as_secs_f64();
    let after = stage.usage()?;
    stage.await_durable(count + written)?;
    let share = |after: Duration, before: Duration| {
        after.saturating_sub(before).as_secs_f64() / took * 100.0
    };
    let mut report = Report::new("files");
    report.figure("files", f64::from(options.count), "");
    report.figure("lines a second in each", f64::from(options.rate), "");
    let bar = Bar::AtMost(if options.rate == 0 { 1.0 } else { 4.0 });
    let cpu = share(after.agent.cpu, before.agent.cpu);
    report.against("agent cpu", cpu, "% of a core", bar);
    let cpu = share(after.aggregator.cpu, before.aggregator.cpu);
    report.figure("aggregator cpu", cpu, "% of a core");
    let bar = Bar::AtMost(if options.count <= 100 { 30.0 } else { 60.0 });
    let memory = float(after.agent.resident_bytes_max) / float(1 << 20);
    report.against("agent memory", memory, "MiB", bar);
    Ok(report)
}

/// Writes a line into one file after the other, spread evenly over the time; returns how many.
fn write_in_turn(
    stage: &Stage,
    options: &Options,
    lines: &mut Lines,
    started: Instant,
) -> Result<u64> {
    let Options {
        count,
        rate,
        seconds,
    } = *options;
    let total = u64::from(count) * u64::from(rate) * seconds;
    let per_second = float(u64::from(count) * u64::from(rate));
    for line in 0..total {
        let due_at = Duration::from_secs_f64(float(line) / per_second);
        std::thread::sleep(due_at.saturating_sub(started.elapsed()));
        let path = stage
            .world
            .path(&format!("logs/app{}.log", line % u64::from(count)));
        let mut file = File::options().append(true).open(path)?;
        file.write_all(&lines.bytes(1).0).context("write a line")?;
    }
    Ok(total)
}
