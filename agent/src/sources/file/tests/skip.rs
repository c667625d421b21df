//! A test that cannot run here says so, and is counted as skipped.

use std::fs::OpenOptions;
use std::io::Write;

/// Says that a test does not run here and why: in its output, and in the file named by `WEIR_SKIPPED`,
/// from which the runner of all tests counts. The caller returns right after it.
pub(super) fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("WEIR_SKIPPED") {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path);
        file.unwrap().write_all(line.as_bytes()).unwrap();
    }
}
