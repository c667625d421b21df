//! `append`: a spool that is already full into an empty aggregator. Nothing is read or compressed
//! meanwhile, so the aggregator is seen at its own speed.

use anyhow::{Context as _, Result};
use weir_tests::condition::{Seen, wait};
use weir_tests::process::Wrapper;

use crate::input::Kind;
use crate::report::{Bar, Report, float};
use crate::stage::{Load, MEASURE_MAX, Stage};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kind of lines
    #[arg(long, value_enum, default_value = "access")]
    input: Kind,

    /// Size of the input in MiB
    #[arg(long, default_value_t = 1024)]
    mib: u32,
}

pub(crate) fn run(options: &Options) -> Result<Report> {
    let load = Load::new(options.input, options.mib)?;
    let mut stage = Stage::new("")?;
    load.write(&stage)?;
    stage.warm_memory(load.bytes.len() as u64)?;
    stage.aggregator.kill()?;
    stage.agent.spawn(&Wrapper::default())?;
    wait("all lines spooled", MEASURE_MAX, || {
        let spooled = stage.agent_metric("weir_agent_records_total")?;
        Ok(if spooled >= float(load.lines) {
            Seen::Yes(())
        } else {
            Seen::no(spooled)
        })
    })?;
    stage.aggregator.restart()?;
    let agent_before = stage.agent.process()?.usage()?;
    let aggregator_before = stage.aggregator.process()?.usage()?;
    // The agent comes back by its own clock; the measurement begins with the first record.
    let first = stage.await_durable(1)?;
    let ended = stage.await_durable(load.lines)?;
    let used = stage.usage()?;
    let records = stage.api.durable_records("logs")?;
    let fsyncs = stage
        .api
        .metric("weir_aggregator_fsync_seconds_count")
        .context("fsyncs")?;
    drop(stage);
    let baseline = load.baseline()?;
    let seconds = (ended - first).as_secs_f64();
    let bytes = float(load.bytes.len() as u64);
    let cpu = used
        .aggregator
        .cpu
        .saturating_sub(aggregator_before.cpu)
        .as_secs_f64();
    let agent_cpu = used
        .agent
        .cpu
        .saturating_sub(agent_before.cpu)
        .as_secs_f64();
    let zstd = baseline.cpu.as_secs_f64();
    let mut report = Report::new("append");
    report.word("input", format!("{:?}", options.input).to_lowercase());
    report.figure("records", float(records), "");
    report.figure("bare zstd-1 cpu", zstd / bytes * 1e9, "s/GB");
    report.figure("duration", seconds, "s");
    report.figure("lines a second, durable", float(load.lines) / seconds, "");
    report.figure("raw throughput", bytes / 1e6 / seconds, "MB/s");
    report.figure("aggregator cpu", cpu / bytes * 1e9, "s/GB");
    report.against(
        "aggregator cpu, of bare zstd-1",
        cpu / zstd,
        "×",
        Bar::AtMost(0.25),
    );
    report.figure(
        "agent cpu while sending, of bare zstd-1",
        agent_cpu / zstd,
        "×",
    );
    report.figure("fsyncs", fsyncs, "");
    let memory = float(used.aggregator.resident_bytes_max) / float(1 << 20);
    report.figure("aggregator memory, peak", memory, "MiB");
    Ok(report)
}
