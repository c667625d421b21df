//! Finds the programs under test, building them first unless `WEIR_BUILT=1` says they are built.
//!
//! Cargo tells a test only the programs of its own package, so the harness looks beside itself: a
//! test runs from `<target>/<profile>/deps/`, a tool from `<target>/<profile>/`, and the programs
//! of the same profile stand in that folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};

/// Set by `tests/run`, which builds once for all test processes.
const BUILT_VARIABLE: &str = "WEIR_BUILT";

/// The command of users: `weir`.
pub fn weir() -> Result<PathBuf> {
    program("weir")
}

/// The program on every host: `weir-agent`.
pub fn weir_agent() -> Result<PathBuf> {
    program("weir-agent")
}

/// The oracle's writer.
pub fn oracle_writer() -> Result<PathBuf> {
    program("weir-oracle-writer")
}

/// Cuts the power of a loop mount.
pub fn power_cut() -> Result<PathBuf> {
    program("weir-power-cut")
}

/// The top folder of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the repository")
}

fn program(name: &str) -> Result<PathBuf> {
    static PROFILE_FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = PROFILE_FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let folder = folder
        .as_ref()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "no program {}; build it first",
        path.display()
    );
    Ok(path)
}

/// Builds the programs with the profile of the running one; returns the folder they stand in.
fn build() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find the running program")?;
    let folder = own.parent().context("the running program has no folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    if std::env::var_os(BUILT_VARIABLE).is_some() {
        return Ok(folder.to_owned());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repository());
    command.args([
        "build",
        "--quiet",
        "--bins",
        "-p",
        "weir",
        "-p",
        "agent",
        "-p",
        "weir-tests",
    ]);
    // Cargo names a profile's folder after the profile, except for the first of all.
    let profile = folder.file_name().and_then(|name| name.to_str());
    let profile = profile.filter(|name| *name != "debug").unwrap_or("dev");
    command.args(["--profile", profile]);
    let built = command.output().context("run cargo build")?;
    if !built.status.success() {
        bail!(
            "cargo build failed: {}",
            String::from_utf8_lossy(&built.stderr)
        );
    }
    Ok(folder.to_owned())
}
