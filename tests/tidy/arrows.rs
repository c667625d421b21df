//! Arrows between crates and, where they matter, between modules. Nothing else may point.
//!
//! `commitlog` and `model` do not know each other: that makes "the broker never looks inside a
//! batch" a fact of the manifests. Inside `commitlog` the log and the wire never meet; inside
//! `aggregator` the parts that hang on the topics do not look sideways.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use weir_tests::process::run;
use weir_tests::programs::repository;

use crate::sources::{assert_none, read, rust};

/// A name and the names it may point to.
type Arrows = (&'static str, &'static [&'static str]);

/// Package → the packages of ours that it may depend on, tests included.
const CRATES: &[Arrows] = &[
    ("agent", &["commitlog", "config", "model"]),
    ("aggregator", &["commitlog", "config", "model"]),
    // `commitlog` for `weir log verify|dump|repair`, which works without any server.
    ("weir", &["agent", "aggregator", "commitlog", "config"]),
    ("commitlog", &[]),
    ("model", &[]),
    ("query", &["commitlog", "model"]),
    ("config", &[]),
    (
        "weir-tests",
        &[
            "agent",
            "aggregator",
            "commitlog",
            "config",
            "model",
            "query",
        ],
    ),
    ("weir-bench", &["agent", "commitlog", "weir-tests"]),
];

/// The agent stays small: none of these in its tree, however deep.
const NOT_IN_THE_AGENT: &[&str] = &[
    "arrow",
    "axum",
    "datafusion",
    "deltalake",
    "object_store",
    "parquet",
    "tonic",
    "vrl",
];

/// Crate folder, module → the modules of the same crate that it may use.
const MODULES: &[(&str, &[Arrows])] = &[(
    "commitlog",
    &[
        ("error", &[]),
        ("limits", &[]),
        ("id", &["error", "limits"]),
        ("batch", &["error", "id", "limits"]),
        ("storage", &["error", "limits"]),
        ("log", &["batch", "error", "id", "limits", "storage"]),
        ("wire", &["batch", "error", "id", "limits"]),
    ],
)];

/// Crate folder, modules of one row: none of them uses another.
const ROWS: &[(&str, &[&str])] = &[
    ("aggregator", &["alerts", "broker", "http", "sinks"]),
    ("agent", &["producer", "sources"]),
];

#[test]
fn crates_point_only_where_the_table_says() {
    let metadata = cargo_metadata(&["--no-deps"]);
    let packages = metadata["packages"]
        .as_array()
        .expect("cargo lists packages");
    let mut offences = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let Some((_, allowed)) = CRATES.iter().find(|(from, _)| *from == name) else {
            offences.push(format!("{name} is not in the table of crates"));
            continue;
        };
        for dependency in package["dependencies"]
            .as_array()
            .expect("a list of dependencies")
        {
            let to = dependency["name"]
                .as_str()
                .expect("a dependency has a name");
            if dependency["path"].is_string() && !allowed.contains(&to) {
                offences.push(format!("{name} → {to}"));
            }
        }
    }
    assert_none("an arrow between crates that nobody decided", &offences);
}

#[test]
fn the_agents_tree_stays_small() {
    let mut command = Command::new("cargo");
    command.current_dir(repository());
    command.args([
        "tree",
        "--offline",
        "-p",
        "agent",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    let tree = run(&mut command).expect("cargo shows the agent's tree");
    let names: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains("commitlog"), "an odd tree: {tree}");
    let found: Vec<String> = NOT_IN_THE_AGENT
        .iter()
        .filter(|name| names.contains(**name))
        .map(ToString::to_string)
        .collect();
    assert_none("too heavy for a guest on every host", &found);
}

#[test]
fn modules_point_only_where_the_table_says() {
    let mut offences = Vec::new();
    for (folder, modules) in MODULES {
        let allowed: BTreeMap<&str, &[&str]> = modules.iter().copied().collect();
        for (path, from, to) in module_arrows(folder) {
            let Some(targets) = allowed.get(from.as_str()) else {
                offences.push(format!("{path}: module {from} is not in the table"));
                continue;
            };
            if allowed.contains_key(to.as_str()) && !targets.contains(&to.as_str()) {
                offences.push(format!("{path}: {from} → {to}"));
            }
        }
    }
    assert_none("an arrow between modules that nobody decided", &offences);
}

#[test]
fn modules_of_a_row_do_not_look_sideways() {
    let mut offences = Vec::new();
    for (folder, row) in ROWS {
        for (path, from, to) in module_arrows(folder) {
            if from != to && row.contains(&from.as_str()) && row.contains(&to.as_str()) {
                offences.push(format!("{path}: {from} → {to}"));
            }
        }
    }
    assert_none("what they share belongs below them", &offences);
}

#[test]
fn the_map_shows_the_same_arrows() {
    let map = read("ARCHITECTURE.md");
    let mut offences = Vec::new();
    for (from, targets) in CRATES {
        // The map speaks of folders; tests may use anything.
        let from = if *from == "weir" { "cli" } else { from };
        if targets.is_empty() || from.starts_with("weir-") {
            continue;
        }
        let arrow = format!("`{from} → {}`", targets.join(" "));
        if !map.contains(&arrow) {
            offences.push(format!("{arrow} is not in ARCHITECTURE.md"));
        }
    }
    assert_none("the map and the table differ", &offences);
}

fn cargo_metadata(arguments: &[&str]) -> Value {
    let mut command = Command::new("cargo");
    command
        .current_dir(repository())
        .args(["metadata", "--offline", "--format-version=1"]);
    let text = run(command.args(arguments)).expect("cargo describes the workspace");
    serde_json::from_str(&text).expect("cargo writes JSON")
}

/// File, module, used module: for each use of another module of the crate. The crate's root files
/// are the map that names all modules, so they count for nothing.
fn module_arrows(folder: &str) -> Vec<(String, String, String)> {
    let prefix = format!("{folder}/src/");
    let mut arrows = Vec::new();
    for source in rust() {
        let Some(inner) = source.path.strip_prefix(&prefix) else {
            continue;
        };
        let inner = inner.trim_end_matches(".rs").trim_end_matches("/mod");
        let module = inner.split('/').next().unwrap_or(inner);
        if matches!(inner, "lib" | "main") {
            continue;
        }
        let depth = inner.split('/').count();
        let text = without_comments(&source.text);
        let roots = ["crate::".to_owned(), "super::".repeat(depth)];
        for target in roots.iter().flat_map(|root| targets(&text, root)) {
            arrows.push((source.path.clone(), module.to_owned(), target));
        }
    }
    arrows.retain(|(_, from, to)| from != to);
    arrows
}

/// The first name behind each `root`, also within braces.
fn targets(text: &str, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(root) {
        let is_longer_path = text[..at].ends_with("super::");
        if is_longer_path {
            continue;
        }
        let rest = &text[at + root.len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The first names of the entries of a `use` group, up to its closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut depth = 0usize;
    let mut heads = Vec::new();
    let mut entry = String::new();
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.extend(head(&std::mem::take(&mut entry))),
            _ if depth == 0 => entry.push(letter),
            _ => {}
        }
    }
    heads.extend(head(&entry));
    heads
}

fn head(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let name = &text[..end.unwrap_or(text.len())];
    let is_module = !name.is_empty() && name != "super";
    is_module.then(|| name.to_owned())
}

fn without_comments(text: &str) -> String {
    let code = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    code.collect::<Vec<_>>().join("\n")
}

#[test]
fn uses_are_found_in_every_form() {
    let text = "use crate::batch::{verify, A};\nuse crate::{\n  id::{Offset, Sequence},\n  log,\n};\n\
                fn f() { crate::wire::g(); super::super::storage::h() } // crate::no";
    let text = without_comments(text);
    assert_eq!(targets(&text, "crate::"), ["batch", "id", "log", "wire"]);
    assert_eq!(targets(&text, "super::super::"), ["storage"]);
    assert_eq!(targets(&text, "super::"), Vec::<String>::new());
}
