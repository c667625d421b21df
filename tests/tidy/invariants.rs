//! Every numbered invariant stands in three places: ARCHITECTURE.md, the module that keeps it, and
//! the name of the test that proves it (`i4_…`).

use std::collections::BTreeMap;

use crate::sources::{Source, assert_none, read, rust};

#[test]
fn every_invariant_has_its_module_and_its_test() {
    let sources = rust();
    let invariants = invariants(&read("ARCHITECTURE.md"));
    assert!(
        !invariants.is_empty(),
        "ARCHITECTURE.md numbers no invariant"
    );
    let mut offences = Vec::new();
    for (number, paths) in &invariants {
        if paths.is_empty() {
            offences.push(format!(
                "I{number}: ARCHITECTURE.md names no module in `code` marks"
            ));
        }
        for path in paths
            .iter()
            .filter(|path| !is_named_in(*number, path, &sources))
        {
            offences.push(format!("I{number} is not named in {path}"));
        }
        let test = format!("fn i{number}_");
        if !sources.iter().any(|source| source.text.contains(&test)) {
            offences.push(format!("I{number} has no test `{test}…`"));
        }
    }
    assert_none("an invariant without a place is a wish", &offences);
}

#[test]
fn the_numbers_have_no_gap() {
    let numbers: Vec<u32> = invariants(&read("ARCHITECTURE.md")).into_keys().collect();
    let expected: Vec<u32> = (1..).take(numbers.len()).collect();
    assert_eq!(
        numbers, expected,
        "an invariant is never renumbered and never left out"
    );
}

/// Number → the modules its line in the map names in code marks.
fn invariants(map: &str) -> BTreeMap<u32, Vec<String>> {
    map.lines()
        .filter_map(|line| Some((number_of(line)?, modules_in(line))))
        .collect()
}

/// The number of a line that states an invariant: `- **I4** …`, `| I4 | …`, `**I4.** …`.
fn number_of(line: &str) -> Option<u32> {
    let stated = line.trim_start_matches(['-', '|', '*', ' ', '`']);
    let rest = stated.strip_prefix('I')?;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
    rest[..digits].parse().ok()
}

/// The words in code marks that are paths; in a table, those of the column "kept by".
fn modules_in(line: &str) -> Vec<String> {
    let line = if line.starts_with('|') {
        line.split('|').nth(3).unwrap_or(line)
    } else {
        line
    };
    let marked = line.split('`').skip(1).step_by(2);
    let is_path = |word: &&str| word.contains('/') && !word.contains(' ') && !word.contains('*');
    marked.filter(is_path).map(str::to_owned).collect()
}

/// Whether the file, or a file of the folder, says `I4`.
fn is_named_in(number: u32, path: &str, sources: &[Source]) -> bool {
    let name = format!("I{number}");
    let is_word = |text: &str| {
        text.split(|letter: char| !letter.is_alphanumeric())
            .any(|word| word == name)
    };
    let folder = format!("{}/", path.trim_end_matches('/'));
    sources
        .iter()
        .filter(|source| source.path == path || source.path.starts_with(&folder))
        .any(|source| is_word(&source.text))
}

#[test]
fn an_invariants_line_is_read_in_each_form() {
    let map = "# Invariants\n\n- **I1** dense: `commitlog/src/log/`, `a b/c`\n\
               | I2 | of `a/b` | `commitlog/src/wire/broker.rs` | `c/d` |\nI know nothing\n**I3.** x\n";
    let expected = [
        (1, vec!["commitlog/src/log/".to_owned()]),
        (2, vec!["commitlog/src/wire/broker.rs".to_owned()]),
        (3, vec![]),
    ];
    assert_eq!(invariants(map), BTreeMap::from(expected));
}
