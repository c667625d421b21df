//! A test that cannot run here says so and is counted as skipped, never as passed.
//!
//! A skipped test prints `SKIPPED: <test>: <why>`. Runners hide the output of tests that return
//! well, so the line is also appended to the file named by `WEIR_SKIPPED`, which `tests/run` prints
//! and subtracts from the passed ones. One line a test.

use std::io::Write as _;

/// Where skipped tests are written down for `tests/run`.
pub const SKIPPED_VARIABLE: &str = "WEIR_SKIPPED";

/// Says that `test` does not run here and why. The caller returns right after it.
#[expect(
    clippy::print_stderr,
    reason = "the line must be in the test's captured output"
)]
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    eprint!("{line}");
    let Some(path) = std::env::var_os(SKIPPED_VARIABLE) else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path);
    let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!(
            "cannot note the skipped test in {}: {error}",
            path.display()
        );
    }
}

/// Why a test that needs root cannot run, if so.
pub fn not_root() -> Option<String> {
    if rustix::process::geteuid().is_root() {
        None
    } else {
        Some("needs root".to_owned())
    }
}

/// Why a test that needs these programs cannot run, if so.
pub fn missing_program(names: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = names.iter().find(|name| {
        !std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
            && !["/usr/sbin", "/sbin"]
                .iter()
                .any(|folder| std::path::Path::new(folder).join(name).is_file())
    })?;
    Some(format!("the program {missing} is not installed"))
}
