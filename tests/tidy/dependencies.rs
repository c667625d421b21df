//! What enters by a dependency, held without any tool but cargo: the licences and the bans of
//! `deny.toml`. `cargo deny` reads the same file where it is installed.

use std::collections::BTreeSet;
use std::process::Command;

use weir_tests::process::run;
use weir_tests::programs::repository;

use crate::sources::{assert_none, read};

#[test]
fn every_dependency_is_allowed_by_its_licence() {
    let rules = read("deny.toml");
    let allowed = list_of(&rules, "allow = [");
    assert!(!allowed.is_empty(), "deny.toml allows no licence");
    let is_refused = |(_, licence): &(String, String)| !is_allowed(licence, &allowed);
    let refused = dependencies().into_iter().filter(is_refused);
    let offences: Vec<String> = refused
        .map(|(name, licence)| format!("{name}: {licence:?}"))
        .collect();
    assert_none("a licence that deny.toml does not allow", &offences);
}

#[test]
fn no_banned_crate_is_in_the_tree() {
    let rules = read("deny.toml");
    let named = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("{ crate = \""));
    let banned: BTreeSet<&str> = named.filter_map(|rest| rest.split('"').next()).collect();
    assert!(
        banned.contains("openssl-sys"),
        "deny.toml is read wrongly: {banned:?}"
    );
    let dependencies = dependencies().into_iter();
    let offences: Vec<String> = dependencies
        .map(|(name, _)| name)
        .filter(|name| banned.contains(name.as_str()))
        .collect();
    assert_none("deny.toml says why", &offences);
}

/// Name and licence of every package in the tree, for this machine's platform.
fn dependencies() -> BTreeSet<(String, String)> {
    let mut command = Command::new("cargo");
    command
        .current_dir(repository())
        .args(["tree", "--workspace", "--offline"]);
    command.args([
        "--edges",
        "normal,build,dev",
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ]);
    let tree = run(&mut command).expect("cargo shows the tree");
    let split = |line: &str| {
        let (package, licence) = line.trim_end_matches(" (*)").split_once('|')?;
        Some((package.split(' ').next()?.to_owned(), licence.to_owned()))
    };
    let found: BTreeSet<_> = tree.lines().filter_map(split).collect();
    assert!(
        found.len() > 50,
        "only {} dependencies: {tree}",
        found.len()
    );
    found
}

/// The quoted words of a list that begins with this line.
fn list_of<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| *line != start).skip(1);
    let entries = lines.take_while(|line| *line != "]");
    entries.filter_map(|line| line.split('"').nth(1)).collect()
}

/// Whether an SPDX expression can be met with allowed licences. Older manifests write `/` for OR.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut is_met = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        is_met |= all_of(words, allowed);
    }
    is_met
}

fn all_of(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut is_met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        is_met &= one(words, allowed);
    }
    is_met
}

fn one(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    match words.next() {
        Some("(") => {
            let is_met = any_of(words, allowed);
            words.next_if_eq(&")").is_some() && is_met
        }
        Some(licence) => {
            // An exception only widens what the licence permits.
            if words.next_if_eq(&"WITH").is_some() {
                words.next();
            }
            allowed.contains(&licence)
        }
        None => false,
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0", "ISC"];
    let check = |expression: &str, expected: bool| {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    };
    check("MIT", true);
    check("GPL-3.0", false);
    check("", false);
    check("MIT/Apache-2.0", true);
    check("GPL-3.0 OR MIT", true);
    check("Apache-2.0 AND GPL-3.0", false);
    check("Apache-2.0 AND ISC", true);
    check("(MIT OR GPL-3.0) AND Unicode-3.0", false);
    check("Apache-2.0 WITH LLVM-exception OR X", true);
}
