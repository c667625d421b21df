//! `weir`: one command for everything but the lone agent.
//!
//! [`commands`] lists what it can do, one file each. `client` speaks to an aggregator's HTTP API,
//! `terminal` keeps foreign bytes from acting on a terminal, `table` prints for people.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. A reader that goes away (`weir tail … | head`) is no
//! failure and gets no message.

mod client;
mod commands;
mod events;
mod http;
mod limits;
mod signals;
mod table;
mod terminal;

use std::io::{self, Write};
use std::process::ExitCode;

use config::problem::Problems;

/// mimalloc: quicker than the system's allocator where the log makes and drops large buffers.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            let is_usage = error.is::<Problems>();
            ExitCode::from(if is_usage { EXIT_USAGE } else { EXIT_FAILURE })
        }
    }
}

const EXIT_FAILURE: u8 = 1;
/// A configuration file is usage too.
const EXIT_USAGE: u8 = 2;

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Prints the chain of causes in one line and, where the failure knows one, a hint below it.
fn report(error: &anyhow::Error) {
    // Problems of a file begin with its place, where editors look for it.
    let mut text = String::from(if error.is::<Problems>() {
        ""
    } else {
        "error: "
    });
    terminal::escape_text(&causes(error), terminal::Lines::Keep, &mut text);
    let hint = error.chain().find_map(|cause| {
        let failure = cause.downcast_ref::<client::Failure>()?;
        failure.hint.as_deref()
    });
    if let Some(hint) = hint {
        text.push_str("\n hint: ");
        terminal::escape_text(hint, terminal::Lines::Keep, &mut text);
    }
    // Nobody is left to tell when stderr is gone.
    drop(writeln!(io::stderr(), "{text}"));
}

/// `what: why: why`, without a cause that the words before it have told already.
fn causes(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.contains(&cause) {
            continue;
        }
        if !told.is_empty() {
            told.push_str(": ");
        }
        told.push_str(&cause);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("port taken").context("cannot listen: port taken");
        assert_eq!(
            causes(&error.context("no start")),
            "no start: cannot listen: port taken"
        );
    }
}
