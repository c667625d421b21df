//! Words that have no place in the tree: unfinished code, silenced tests, paths of one machine.
//!
//! The words are put together from halves so that this file does not contain them.

use crate::sources::{all, assert_none, has_extension, rust};

/// Not in any Rust file.
const UNFINISHED: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
    concat!("should_", "panic"),
    concat!("allow(dead", "_code"),
    concat!("allow(clippy::", "all"),
];

/// Not in any file: the repository speaks of the project alone.
const FOREIGN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/fa", "rm/"),
    concat!("/tmp/", "plan"),
    concat!("sub", "agent"),
    concat!("this ses", "sion"),
    concat!("the work", "place"),
    concat!("Clau", "de"),
    concat!("Chat", "GPT"),
    concat!("language ", "model"),
];

#[test]
fn nothing_is_unfinished_or_silenced() {
    check(&rust_texts(), UNFINISHED, "finish it, or leave it out");
}

#[test]
fn no_word_is_foreign_to_the_project() {
    let texts: Vec<(String, String)> = all()
        .into_iter()
        .filter(|source| !has_extension(&source.path, "lock"))
        .map(|source| (source.path, source.text))
        .collect();
    check(&texts, FOREIGN, "say it without");
}

fn rust_texts() -> Vec<(String, String)> {
    rust()
        .into_iter()
        .map(|source| (source.path, source.text))
        .collect()
}

fn check(texts: &[(String, String)], words: &[&str], rule: &str) {
    let mut offences = Vec::new();
    for (path, text) in texts {
        for (at, line) in text.lines().enumerate() {
            let found = words.iter().filter(|word| line.contains(**word));
            offences.extend(found.map(|word| format!("{path}:{}: {word}", at + 1)));
        }
    }
    assert_none(rule, &offences);
}
