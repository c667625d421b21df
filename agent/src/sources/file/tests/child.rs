//! Tests that need a process of their own: other limits, another user, another namespace.

use std::fs::File;
use std::process::Command;

use super::skip::skip;

/// Set in the process that runs the test's body.
const CHILD: &str = "WEIR_TEST_CHILD";

/// Whether this is the process that runs the test's body.
pub(super) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs a test of `module` again in a process of its own, started through `wrapper`, after the shell has
/// run `before`. Where the wrapper is not allowed the test is skipped, visibly.
///
/// The program is handed over open, as standard input: another user may not reach it by its path.
pub(super) fn child(module: &str, test: &str, wrapper: &[&str], before: &str) {
    let (_, module) = module.split_once("::").unwrap();
    let mut words = wrapper.to_vec();
    words.extend(["sh", "-c"]);
    let shell = |script: &str| {
        let (first, rest) = words.split_first().unwrap();
        let mut command = Command::new(first);
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        command.args(rest).arg(script).arg("sh").stdin(program);
        command
    };
    let why = match shell(&format!("{before} && test -x /proc/self/fd/0")).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Some(format!("{wrapper:?}: {}, {}", output.status, said.trim()))
        }
        Err(error) => Some(format!("{wrapper:?}: {error}")),
    };
    if let Some(why) = why {
        return skip(test, &why);
    }
    let output = shell(&format!("{before} && exec /proc/self/fd/0 \"$@\""))
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}
