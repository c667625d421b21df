//! `tail-fuzz`: the random scripts of the agent's tests, as many as wanted.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use agent::sources::file::scripts;

use crate::report::{Report, float};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many scripts
    #[arg(long, default_value_t = 100_000)]
    scripts: u64,

    /// Plays only the script of this seed
    #[arg(long, conflicts_with_all = ["scripts", "first"])]
    seed: Option<u64>,

    /// The first of the seeds
    #[arg(long, default_value_t = 0)]
    first: u64,

    /// Stops once so many have failed
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    failures: usize,
}

pub(crate) fn run(options: &Options) -> Report {
    // A panic is a script's failure, and told with its steps.
    std::panic::set_hook(Box::new(|_| {}));
    let seeds = match options.seed {
        Some(seed) => seed..seed + 1,
        None => options.first..options.first + options.scripts,
    };
    let (count, started) = (seeds.end - seeds.start, Instant::now());
    let failures = scripts::run_many(seeds, options.failures, &|played| {
        tell(played, count, started);
    });
    let mut report = Report::new("tail-fuzz");
    report.figure("scripts", float(count), "");
    report.figure("duration", started.elapsed().as_secs_f64(), "s");
    report.figure("failed", float(failures.len() as u64), "");
    if !failures.is_empty() {
        let replay = "replay one with `tail-fuzz --seed SEED`";
        report.fail(format!("{}\n{replay}", failures.join("\n")));
    }
    report
}

/// Shows how far it is, where somebody may look.
fn tell(played: u64, of: u64, started: Instant) {
    let mut err = std::io::stderr().lock();
    if played.is_multiple_of(PROGRESS_EVERY) && err.is_terminal() {
        let rate = float(played) / started.elapsed().as_secs_f64();
        // Nothing depends on it.
        drop(write!(
            err,
            "\r{played} of {of} scripts, {rate:.0} a second "
        ));
    }
}

const PROGRESS_EVERY: u64 = 100;
