//! Tests that need a process of their own: other limits, another user, another namespace.

use std::io::Write as _;
use std::process::Command;

/// Set in the process that runs the test's body.
const CHILD: &str = "WEIR_TEST_CHILD";

/// Whether this is the process that runs the test's body.
pub(super) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs a test of `module` again in a process of its own, started through `wrapper`, after the shell has
/// run `before`. Where the wrapper is not allowed the test is skipped, visibly.
pub(super) fn child(module: &str, test: &str, wrapper: &[&str], before: &str) {
    let (_, module) = module.split_once("::").unwrap();
    let mut words = wrapper.to_vec();
    words.extend(["sh", "-c"]);
    let shell = |script: &str| {
        let (first, rest) = words.split_first().unwrap();
        let mut command = Command::new(first);
        command.args(rest).arg(script).arg("sh");
        command
    };
    let program = std::env::current_exe().unwrap();
    let may = shell(&format!("{before} && test -x \"$1\""))
        .arg(&program)
        .output();
    let why = match may {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("{wrapper:?}: {error}")),
    };
    if let Some(why) = why {
        return skip(test, &why);
    }
    let output = shell(&format!("{before} && exec \"$@\""))
        .arg(&program)
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

/// Says that a test does not run here and why, also in the file that the runner of all tests reads.
fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED: {test}: {why}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("WEIR_SKIPPED") {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
