//! `ship`: a file that is already there, from its first byte to the last durable offset.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::baseline::Baseline;
use crate::input::Kind;
use crate::report::{Bar, Report, float};
use crate::stage::{Both, Load, Stage, loopback_bytes};
use weir_tests::process::Wrapper;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kind of lines
    #[arg(long, value_enum, default_value = "access")]
    input: Kind,

    /// Size of the input in MiB
    #[arg(long, default_value_t = 512)]
    mib: u32,

    /// Writes the input at so many MB/s while it is shipped; without it the file is there before
    #[arg(long, value_name = "MB/S")]
    grow: Option<u64>,
}

/// When the input is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Growth {
    /// Before the agent starts.
    WrittenBefore,
    /// While it is shipped.
    MegabytesPerSecond(u64),
}

/// What shipping a load took.
pub(crate) struct Shipped {
    pub(crate) took: Duration,
    /// From the last byte written to the last line durable.
    pub(crate) behind: Duration,
    pub(crate) used: Both,
    pub(crate) wire_bytes: u64,
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
    pub(crate) baseline: Baseline,
}

impl Shipped {
    pub(crate) fn lines_per_second(&self) -> f64 {
        float(self.lines) / self.took.as_secs_f64()
    }
}

/// Ships a load from nothing to durable.
pub(crate) fn ship(kind: Kind, mib: u32, growth: Growth) -> Result<Shipped> {
    let load = Load::new(kind, mib)?;
    let mut stage = Stage::new("")?;
    if growth == Growth::WrittenBefore {
        load.write(&stage)?;
    }
    stage.warm_memory(load.bytes.len() as u64)?;
    let aggregator_before = stage.aggregator.process()?.usage()?;
    let wire_before = loopback_bytes()?;
    let started = Instant::now();
    stage.agent.spawn(&Wrapper::default())?;
    let written = match growth {
        Growth::WrittenBefore => started,
        Growth::MegabytesPerSecond(rate) => load.write_slowly(&stage, rate)?,
    };
    let ended = stage.await_durable(load.lines)?;
    let mut used = stage.usage()?;
    used.aggregator.cpu -= aggregator_before.cpu;
    let wire_bytes = loopback_bytes()? - wire_before;
    drop(stage);
    Ok(Shipped {
        took: ended - started,
        behind: ended - written,
        used,
        wire_bytes,
        lines: load.lines,
        bytes: load.bytes.len() as u64,
        baseline: load.baseline()?,
    })
}

pub(crate) fn run(options: &Options) -> Result<Report> {
    let growth = options
        .grow
        .map_or(Growth::WrittenBefore, Growth::MegabytesPerSecond);
    let shipped = ship(options.input, options.mib, growth)?;
    let Shipped {
        took,
        used,
        wire_bytes,
        bytes,
        baseline,
        ..
    } = &shipped;
    let mut report = Report::new("ship");
    let seconds = took.as_secs_f64();
    let gigabytes = float(*bytes) / 1e9;
    let zstd = baseline.cpu.as_secs_f64();
    report.word("input", format!("{:?}", options.input).to_lowercase());
    report.figure("input bytes", float(*bytes), "B");
    report.figure("bytes a line", float(*bytes) / float(shipped.lines), "B");
    report.figure("bare zstd-1 ratio", baseline.ratio, "");
    report.figure("bare zstd-1 cpu", zstd / gigabytes, "s/GB");
    report.figure("duration", seconds, "s");
    match growth {
        Growth::WrittenBefore => {
            let bar = Bar::AtLeast(1e6);
            report.against(
                "lines a second, durable",
                shipped.lines_per_second(),
                "",
                bar,
            );
        }
        Growth::MegabytesPerSecond(_) => {
            report.figure("lines a second, durable", shipped.lines_per_second(), "");
            report.figure(
                "behind the writer at the end",
                shipped.behind.as_secs_f64(),
                "s",
            );
        }
    }
    report.figure("throughput", float(*bytes) / 1e6 / seconds, "MB/s");
    costs(&mut report, used, gigabytes, zstd);
    let over = float(*wire_bytes) / float(*bytes);
    report.figure("loopback bytes a byte of input", over, "");
    Ok(report)
}

/// What both ends used, beside what they may.
fn costs(report: &mut Report, used: &Both, gigabytes: f64, zstd: f64) {
    let sides = [
        ("agent", used.agent, 1.6),
        ("aggregator", used.aggregator, 0.25),
    ];
    for (name, usage, bar) in sides {
        let cpu = usage.cpu.as_secs_f64();
        report.figure(format!("{name} cpu"), cpu / gigabytes, "s/GB");
        let key = format!("{name} cpu, of bare zstd-1");
        report.against(key, cpu / zstd, "×", Bar::AtMost(bar));
    }
    let mib = |bytes: u64| float(bytes) / float(1 << 20);
    let memory = mib(used.agent.resident_bytes_max);
    report.against("agent memory, peak", memory, "MiB", Bar::AtMost(60.0));
    let memory = mib(used.aggregator.resident_bytes_max);
    report.figure("aggregator memory, peak", memory, "MiB");
}
