//! The repository's files as the rules see them: what git tracks, and what it would track.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use weir_tests::process::run;
use weir_tests::programs::repository;

/// A text file of the repository.
pub(crate) struct Source {
    /// Path from the top folder, with `/`.
    pub(crate) path: String,
    /// Its content.
    pub(crate) text: String,
}

/// Every file below the top folder that git does not ignore and that is text.
pub(crate) fn all() -> Vec<Source> {
    let mut command = Command::new("git");
    command.current_dir(repository());
    command.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let listed = run(&mut command).expect("git lists the files of the repository");
    let read = |path: &str| {
        // A file that git lists may be deleted in the work tree; one that is no text has no words.
        let text = fs::read_to_string(repository().join(path)).ok()?;
        Some(Source {
            path: path.to_owned(),
            text,
        })
    };
    let mut sources: Vec<Source> = listed.lines().filter_map(read).collect();
    sources.sort_by(|left, right| left.path.cmp(&right.path));
    sources
}

/// Every Rust file.
pub(crate) fn rust() -> Vec<Source> {
    let mut sources = all();
    sources.retain(|source| has_extension(&source.path, "rs"));
    assert!(
        sources.len() > 20,
        "only {} Rust files found: a wrong folder?",
        sources.len()
    );
    sources
}

/// A file that must exist.
pub(crate) fn read(path: &str) -> String {
    let whole: PathBuf = repository().join(path);
    fs::read_to_string(&whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether the path ends in `.extension`.
pub(crate) fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path)
        .extension()
        .is_some_and(|found| found == extension)
}

/// Fails with every offence at once.
pub(crate) fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}:\n  {}", offences.join("\n  "));
}
