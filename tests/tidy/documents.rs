//! Documents that can drift are checked: README's folders and the paths that documents name.

use std::collections::BTreeSet;

use weir_tests::programs::repository;

use crate::sources::{all, assert_none, has_extension, read};

#[test]
fn readmes_table_of_folders_is_true() {
    let readme = read("README.md");
    let listed: BTreeSet<&str> = readme.lines().filter_map(folder_of_row).collect();
    let sources = all();
    let actual: BTreeSet<&str> = sources
        .iter()
        .filter_map(|source| source.path.split_once('/'))
        .map(|(folder, _)| folder)
        .filter(|folder| !folder.starts_with('.'))
        .collect();
    assert_eq!(listed, actual, "README's table and the folders differ");
}

/// The folder that a table's row begins with: "| `agent/` | …".
fn folder_of_row(line: &str) -> Option<&str> {
    let (folder, _) = line.strip_prefix("| `")?.split_once("/` |")?;
    (!folder.contains('/')).then_some(folder)
}

#[test]
fn every_path_that_a_document_names_exists() {
    let sources = all();
    let mut offences = Vec::new();
    for source in sources
        .iter()
        .filter(|source| has_extension(&source.path, "md"))
    {
        for (at, line) in source.text.lines().enumerate() {
            for path in line
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|word| is_path(word))
            {
                if !repository().join(path).exists() {
                    offences.push(format!("{}:{}: {path}", source.path, at + 1));
                }
            }
        }
    }
    assert_none("a document names a path that is not there", &offences);
}

/// Whether a word in code marks is meant as a path of the repository.
fn is_path(word: &str) -> bool {
    let is_plain = word
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    let top = word.split('/').next().unwrap_or(word);
    let is_ours = word.contains('/') && repository().join(top).is_dir() && !top.is_empty();
    is_plain && is_ours && top != "." && top != ".."
}
