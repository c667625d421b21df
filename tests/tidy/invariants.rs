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
    for (number, Invariant { modules, tests }) in &invariants {
        if modules.is_empty() {
            offences.push(format!(
                "I{number}: ARCHITECTURE.md names no module in `code` marks"
            ));
        }
        for path in modules
            .iter()
            .filter(|path| !is_named_in(*number, path, &sources))
        {
            offences.push(format!("I{number} is not named in {path}"));
        }
        let own = format!("i{number}_");
        if !tests.iter().any(|test| test.starts_with(&own)) {
            offences.push(format!("I{number}: ARCHITECTURE.md names no test `{own}…`"));
        }
        for test in tests {
            let declared = format!("fn {test}(");
            if !sources.iter().any(|source| source.text.contains(&declared)) {
                offences.push(format!("I{number}: there is no test {test}"));
            }
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

/// What the map says of an invariant.
#[derive(Debug, PartialEq, Eq)]
struct Invariant {
    /// The files and folders of the column "kept by".
    modules: Vec<String>,
    /// The tests of the column "proved by".
    tests: Vec<String>,
}

/// The rows of the map's table: number, what holds, kept by, proved by.
fn invariants(map: &str) -> BTreeMap<u32, Invariant> {
    let read = |line: &str| {
        let number = number_of(line)?;
        let column = |at| marked(line.split('|').nth(at).unwrap_or_default());
        Some((
            number,
            Invariant {
                modules: column(3),
                tests: column(4),
            },
        ))
    };
    map.lines().filter_map(read).collect()
}

/// The number of a row: `| I4 | …`.
fn number_of(line: &str) -> Option<u32> {
    let (name, _) = line.strip_prefix("| I")?.split_once(" |")?;
    name.parse().ok()
}

/// The words in code marks.
fn marked(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
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
fn the_rows_of_the_table_are_read() {
    let map = "| | what | kept by | proved by |\n| I2 | of `a/b` | `c/d.rs`, `e/` | `i2_holds` |\n\
               I know nothing\n| I3 | x | y | z |\n";
    let invariant = |modules: &[&str], tests: &[&str]| {
        let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        Invariant {
            modules: owned(modules),
            tests: owned(tests),
        }
    };
    let expected = [
        (2, invariant(&["c/d.rs", "e/"], &["i2_holds"])),
        (3, invariant(&[], &[])),
    ];
    assert_eq!(invariants(map), BTreeMap::from(expected));
}
