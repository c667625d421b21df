//! Writes numbered lines into rotating files until its standard input ends, then reports on
//! standard output how many lines each file was given. See `weir_tests::oracle`.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use weir_tests::oracle::writer::{Plan, account_text, run};

#[derive(Parser)]
#[command(
    about = "Writes the oracle's numbered lines into rotating files",
    version
)]
struct Arguments {
    #[command(flatten)]
    plan: Plan,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let stop = Arc::new(AtomicBool::new(false));
    let seen_by_reader = Arc::clone(&stop);
    // Ends with the process: it waits for the end of standard input, which may never come.
    std::thread::spawn(move || {
        let mut ignored = Vec::new();
        drop(std::io::stdin().read_to_end(&mut ignored));
        seen_by_reader.store(true, Ordering::Relaxed);
    });
    let written = run(&arguments.plan, &stop)?;
    std::io::stdout().write_all(account_text(&written).as_bytes())?;
    Ok(())
}
