//! Random scripts of what programs and operators do to log files, while the agent runs, stops, is
//! killed and loses power, against a model that knows every byte.
//!
//! | file | what it is |
//! |---|---|
//! | `plan.rs` | a script: what a seed decides |
//! | `play.rs` | the script, done to real files and a real agent |
//! | `model.rs` | what must come of it, and what must be counted |
//!
//! Held against the model: every line comes once, in the order of its log, as it was written; what cannot
//! come any more is counted as far as the agent had seen it; what stays open and remembered is bounded by
//! the files that are there.

#![expect(
    clippy::unwrap_used,
    reason = "a test's tool: what goes wrong fails the test"
)]

mod model;
mod plan;
mod play;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use plan::Plan;

/// Plays the scripts of seeds, on several threads, until `failures_max` of them failed. `progress` is told
/// of each that was played. Gives what [`run`] says of those that failed.
pub fn run_many(
    seeds: Range<u64>,
    failures_max: usize,
    progress: &(dyn Fn(u64) + Sync),
) -> Vec<String> {
    let (next, played) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let failed = failures.lock().map_or(0, |failures| failures.len());
            if seed >= seeds.end || failed >= failures_max {
                return;
            }
            if let Err(failure) = run(seed)
                && let Ok(mut failures) = failures.lock()
            {
                failures.push(failure);
            }
            progress(played.fetch_add(1, Ordering::Relaxed) + 1);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    failures.into_inner().unwrap_or_default()
}

/// Plays the script of a seed. The error tells what went wrong, and the fewest steps that were found to
/// bring it about.
pub fn run(seed: u64) -> Result<(), String> {
    let plan = Plan::of(seed);
    let Err(why) = attempt(&plan, seed) else {
        return Ok(());
    };
    let (plan, why) = shrink(plan, why, seed);
    Err(format!("seed {seed}: {why}\n{plan}"))
}

fn attempt(plan: &Plan, seed: u64) -> Result<(), String> {
    let played = catch_unwind(AssertUnwindSafe(|| play::play(plan, seed)));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(text.unwrap_or_default())
    })
}

/// Leaves steps out as long as the script goes on failing.
fn shrink(mut plan: Plan, mut why: String, seed: u64) -> (Plan, String) {
    let mut chunk = plan.steps.len();
    while chunk > 0 {
        let mut at = 0;
        while at < plan.steps.len() {
            let mut fewer = plan.clone();
            fewer.steps.drain(at..(at + chunk).min(plan.steps.len()));
            match attempt(&fewer, seed) {
                Err(still) => (plan, why) = (fewer, still),
                Ok(()) => at += chunk,
            }
        }
        chunk /= 2;
    }
    (plan, why)
}

/// More than there are cores: a script that ends waits for the kernel to let go of its watches. A user
/// may have 128 of these.
const THREADS: usize = 16;

#[cfg(test)]
mod tests {
    use super::run_many;

    const SCRIPTS: u64 = 2_000;

    /// As many failures are worth reading.
    const FAILURES_MAX: usize = 8;

    /// Seeds beyond them that failed once, each for another reason.
    const FAILED_ONCE: [u64; 28] = [
        2118, 2156, 4075, 5507, 5672, 5698, 6092, 6664, 8106, 8961, 10304, 12020, 12386, 13048,
        13386, 31658, 39105, 51375, 54551, 56164, 60211, 65898, 75384, 91750, 92580, 31_012_701,
        31_013_094, 31_016_645,
    ];

    #[test]
    fn scripts_that_failed_once_pass() {
        let failures = FAILED_ONCE
            .iter()
            .flat_map(|&seed| run_many(seed..seed + 1, FAILURES_MAX, &|_| {}));
        let failures: Vec<String> = failures.collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn i19_every_line_comes_once_and_in_order_whatever_is_done_to_its_file() {
        // One seed, or a range of them: `7`, `2000..9000`.
        let asked = std::env::var("WEIR_SCRIPT").ok().map(|it| {
            let (from, to) = it.split_once("..").unwrap_or((&it, ""));
            let from = from.parse().unwrap();
            from..to.parse().unwrap_or(from + 1)
        });
        let seeds = asked.unwrap_or(0..SCRIPTS);
        let failures = run_many(seeds, FAILURES_MAX, &|_| {});
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
