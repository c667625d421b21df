//! `weir-bench`: measures the real programs, and hunts for lost lines at length.
//!
//! Every measurement makes its own input, runs `weir serve` and `weir-agent` as processes of their
//! own on loopback, and gives each cost also as a ratio to what bare zstd level 1 takes for the same
//! bytes on one thread in the same run: machines drift, ratios hold.

mod append;
mod baseline;
mod fuzz;
mod hunt;
mod input;
mod latency;
mod report;
mod restart;
mod ship;
mod stage;
mod tail;

use clap::{Parser, Subcommand};

use crate::report::Style;

/// Measures the real programs on this machine, or hunts for lost lines at length.
#[derive(Parser)]
#[command(name = "weir-bench", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Also prints the figures as one line of JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Files to durable offsets at full speed: lines a second, processor time of both ends, memory
    Ship(ship::Options),
    /// A full spool into an empty aggregator: what receiving and appending cost
    Append(append::Options),
    /// From the write of a line to a consumer having it, at 1,000 lines a second and at half speed
    Latency(latency::Options),
    /// An agent started on a large spool: time until it is ready, memory
    Restart(restart::Options),
    /// Following files: at full speed, many of them, quiet ones, rotated ones
    Tail(tail::Options),
    /// Kills either side at random moments and accounts for every line
    Chaos(hunt::ChaosOptions),
    /// Kills either side at each file-changing system call and accounts for every line
    Sweep(hunt::SweepOptions),
    /// Plays random scripts of what becomes of files against a model; a failing seed is printed and replays
    TailFuzz(fuzz::Options),
    /// Runs seeds of the simulation; a failing one is printed and replays
    Sim(hunt::SimOptions),
}

const EXAMPLES: &str = "\
Examples:
  cargo run --release -p weir-bench -- ship
  cargo run --release -p weir-bench -- ship --input json --mib 1024 --json
  cargo run --release -p weir-bench -- latency --rate 1000 --seconds 30
  cargo run --release -p weir-bench -- tail a c --idle 50000
  cargo run --release -p weir-bench -- chaos --kills 200
  cargo run --release -p weir-bench -- sweep --kills-each 100
  cargo run --release -p weir-bench -- tail-fuzz --scripts 100000
  cargo run --release -p weir-bench -- sim --seeds 1000";

fn main() -> anyhow::Result<()> {
    let Arguments { command, json } = Arguments::parse();
    let report = match command {
        Command::Ship(options) => ship::run(&options),
        Command::Append(options) => append::run(&options),
        Command::Latency(options) => latency::run(&options),
        Command::Restart(options) => restart::run(&options),
        Command::Tail(options) => tail::run(&options),
        Command::Chaos(options) => hunt::chaos(&options),
        Command::Sweep(options) => hunt::sweep(&options),
        Command::TailFuzz(options) => Ok(fuzz::run(&options)),
        Command::Sim(options) => hunt::sim(&options),
    }?;
    report.print(if json {
        Style::TableAndJson
    } else {
        Style::Table
    })
}
