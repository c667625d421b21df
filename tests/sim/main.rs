//! The whole in one thread: agents and an aggregator, real QUIC and TLS over a simulated network, disks
//! that fail; one seed decides everything and replays it.
//!
//! `WEIR_SIM_SEED=N` runs that seed alone and says what befell it; `WEIR_SIM_SEEDS=N` runs so many, from
//! `WEIR_SIM_FIRST_SEED` on (`weir-bench sim` sets both).

mod hosts;
mod network;
mod oracle;
mod source;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs seeds on as many threads as there are cores; names the ones that fail.
fn run_all(seeds: std::ops::Range<u64>, check: impl Fn(u64) -> Result<(), String> + Sync) {
    if let Some(seed) = number_of("WEIR_SIM_SEED") {
        if let Err(error) = check(seed) {
            panic!("seed {seed}: {error}");
        }
        return;
    }
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if let Err(error) = check(seed) {
                        hosts::lock(&failures).push((seed, error));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panicked");
    let named: Vec<_> = failures
        .iter()
        .map(|(seed, error)| {
            format!("seed {seed}: {error}\nreplay: WEIR_SIM_SEED={seed} cargo test -p weir-tests --test sim\n")
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} seeds fail\n{}",
        named.len(),
        named.join("\n")
    );
}

fn number_of(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is a number")),
    )
}

#[test]
fn all_seeds_deliver_every_line_once_and_in_order() {
    let first = number_of("WEIR_SIM_FIRST_SEED").unwrap_or(0);
    let count = number_of("WEIR_SIM_SEEDS").unwrap_or(100);
    run_all(first..first + count, |seed| {
        world::run(seed).map(|report| {
            if std::env::var_os("WEIR_SIM_SEED").is_some() {
                println!("{report:#?}");
            }
        })
    });
}

#[test]
fn a_seed_replays() {
    run_all(1000..1020, |seed| {
        let (first, second) = (world::run(seed)?, world::run(seed)?);
        if first == second {
            return Ok(());
        }
        Err(format!(
            "two runs differ: {:x} and {:x}",
            first.trace, second.trace
        ))
    });
}
