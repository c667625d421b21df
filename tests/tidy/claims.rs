//! What the tail promises in the odd cases stands in ARCHITECTURE.md ("The tail's claims"), each with
//! the tests that prove it. A row is complete: a claim whose test is not there is none.

use std::collections::BTreeMap;

use crate::sources::{assert_none, read, rust};

#[test]
fn every_claim_of_the_tail_names_tests_that_are_there() {
    let sources = rust();
    let claims = claims(&read("ARCHITECTURE.md"));
    assert!(!claims.is_empty(), "ARCHITECTURE.md has no claims");
    let mut offences = Vec::new();
    for (number, Claim { what, tests }) in &claims {
        if what.is_empty() || tests.is_empty() {
            offences.push(format!("claim {number} is no complete row"));
        }
        for test in tests {
            let declared = format!("fn {test}(");
            if !sources.iter().any(|source| source.text.contains(&declared)) {
                offences.push(format!("claim {number}: there is no test {test}"));
            }
        }
    }
    assert_none("a claim without a test is a wish", &offences);
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    what: String,
    tests: Vec<String>,
}

/// The rows of the section's table: number, claim, tests.
fn claims(document: &str) -> BTreeMap<u32, Claim> {
    let section = document.split("\n## ");
    let section = section.filter(|section| section.starts_with("The tail's claims\n"));
    let read = |line: &str| {
        let mut columns = line.strip_prefix('|')?.split('|').map(str::trim);
        let number = columns.next()?.parse().ok()?;
        let what = columns.next().unwrap_or_default().to_owned();
        let tests = columns.next().unwrap_or_default();
        let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned);
        let tests = tests.collect();
        Some((number, Claim { what, tests }))
    };
    section.flat_map(str::lines).filter_map(read).collect()
}

#[test]
fn the_rows_of_the_claims_are_read() {
    let document = "# A\n\n## The tail's claims\n\n| | claim | test |\n|---|---|---|\n\
                    | 1 | it holds | `holds`, `also` |\n| 7 | it | |\n\n## Next\n\n| 3 | no | `x` |\n";
    let claim = |what: &str, tests: &[&str]| Claim {
        what: what.to_owned(),
        tests: tests.iter().map(ToString::to_string).collect(),
    };
    let expected = [
        (1, claim("it holds", &["holds", "also"])),
        (7, claim("it", &[])),
    ];
    assert_eq!(claims(document), BTreeMap::from(expected));
}
