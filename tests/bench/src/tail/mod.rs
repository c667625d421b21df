//! `tail`: what following files costs, from one file at full speed to 20,000 quiet ones.
//!
//! | part | what is done |
//! |---|---|
//! | a | one file is read from its start to its end, into the durable spool |
//! | b | the same bytes in 100 files |
//! | c | 20,000 idle files and 20 with ten lines a second |
//! | d | 100,000 rotations, by rename and by copying and truncating |
//! | e | 1,000 files with a line a second |

mod follow;
mod read;
mod rotate;

use std::fs;

use anyhow::{Context as _, Result};

use crate::report::{Bar, Report, float};
use crate::stage::Stage;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which parts; without any, all
    #[arg(value_enum)]
    parts: Vec<Part>,

    /// a, b: size of the input in MiB
    #[arg(long, default_value_t = 512)]
    mib: u32,

    /// c: files that nobody writes to
    #[arg(long, default_value_t = 20_000)]
    idle: u32,

    /// c: files that are written to
    #[arg(long, default_value_t = 20)]
    hot: u32,

    /// c: lines a second in each of them
    #[arg(long, default_value_t = 10)]
    rate: u32,

    /// c, e: how long
    #[arg(long, default_value_t = 20)]
    seconds: u64,

    /// d: how many rotations
    #[arg(long, default_value_t = 100_000)]
    rotations: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    A,
    B,
    C,
    D,
    E,
}

pub(crate) fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("tail");
    let all = [Part::A, Part::B, Part::C, Part::D, Part::E];
    let parts = if options.parts.is_empty() {
        &all[..]
    } else {
        &options.parts
    };
    for part in parts {
        match part {
            Part::A => read::run("a", 1, options.mib, &mut report),
            Part::B => read::run("b", 100, options.mib, &mut report),
            Part::C => {
                let load = follow::Load {
                    idle: options.idle,
                    hot: options.hot,
                    rate: options.rate,
                    seconds: options.seconds,
                };
                follow::run("c", load, 1.0, &mut report)
            }
            Part::D => rotate::run("d", options.rotations, &mut report),
            Part::E => {
                let load = follow::Load {
                    idle: 0,
                    hot: 1_000,
                    rate: 1,
                    seconds: options.seconds,
                };
                follow::run("e", load, 4.0, &mut report)
            }
        }?;
    }
    Ok(report)
}

/// Descriptors of the running agent, all of them.
fn open_files(stage: &mut Stage) -> Result<u64> {
    let folder = format!("/proc/{}/fd", stage.agent.process()?.id());
    let entries = fs::read_dir(&folder).with_context(|| format!("list {folder}"))?;
    Ok(entries.count() as u64)
}

/// Adds the agent's highest memory.
fn memory(part: &str, stage: &mut Stage, bar_mib: f64, report: &mut Report) -> Result<()> {
    let bytes = stage.agent.process()?.usage()?.resident_bytes_max;
    let mib = float(bytes) / float(1 << 20);
    report.against(
        format!("{part}: agent memory, peak"),
        mib,
        "MiB",
        Bar::AtMost(bar_mib),
    );
    Ok(())
}
