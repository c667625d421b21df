//! No file over 800 lines, no function over 70.
//!
//! The lists hold what is over and how long it may be; they only ever shrink. A function counts as
//! clippy counts it: lines of code between its braces, without comments and blank lines.

use crate::sources::{assert_none, rust};

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// Files that may be longer, with their length.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions that may be longer: file, name, length.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

#[test]
fn no_file_is_too_long() {
    let mut offences = Vec::new();
    for source in rust() {
        let lines = source.text.lines().count();
        let entry = LONG_FILES.iter().find(|(path, _)| *path == source.path);
        let allowed = entry.map_or(FILE_LINES_MAX, |(_, lines)| *lines);
        if lines > allowed {
            offences.push(format!(
                "{}: {lines} lines, {allowed} are allowed",
                source.path
            ));
        } else if entry.is_some() && lines < allowed {
            offences.push(format!(
                "{}: shrank to {lines} lines: lower its entry",
                source.path
            ));
        }
    }
    assert_none("a file is one idea", &offences);
}

#[test]
fn no_function_is_too_long() {
    let mut offences = Vec::new();
    for source in rust() {
        for (name, lines) in functions(&source.text) {
            let entry = LONG_FUNCTIONS
                .iter()
                .find(|(path, long, _)| *path == source.path && *long == name);
            let allowed = entry.map_or(FUNCTION_LINES_MAX, |(_, _, lines)| *lines);
            if lines > allowed {
                let path = &source.path;
                offences.push(format!(
                    "{path}: fn {name} has {lines} lines, allowed {allowed}"
                ));
            }
        }
    }
    assert_none("a function fits a screen", &offences);
}

/// Name and length of each function. It relies on rustfmt: a function's closing brace stands alone
/// under the first letter of its declaration.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let rest = &lines[at..];
        // A declaration without a body, or a body on the same line.
        let Some(open) = rest
            .iter()
            .position(|line| line.ends_with('{') || line.ends_with('}') || line.ends_with(';'))
        else {
            continue;
        };
        if !rest[open].ends_with('{') {
            continue;
        }
        let Some(close) = rest.iter().position(|line| *line == closing) else {
            continue;
        };
        let code = rest[open + 1..close.max(open + 1)].iter().filter(|line| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with("//")
        });
        found.push((name.to_owned(), code.count()));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for word in ["pub", "const", "async", "unsafe", "extern"] {
        if let Some(after) = rest.strip_prefix(word) {
            let after = after.strip_prefix('(').map_or(after, |inside| {
                inside.split_once(')').map_or(inside, |(_, after)| after)
            });
            let after = after.strip_prefix(" \"C\"").unwrap_or(after);
            rest = after.strip_prefix(' ')?;
        }
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .next()
}

#[test]
fn functions_are_counted_as_clippy_counts_them() {
    let text = "\
impl A {
    pub(crate) async fn first(&self) -> u8 {
        // a comment

        one();
        {
            two();
        }
    }

    fn declared(&self);
    fn short() {}
    pub const fn wide(
        a: u8,
    ) -> u8 {
        a
    }
}
";
    let expected = [("first".to_owned(), 4), ("wide".to_owned(), 1)];
    assert_eq!(functions(text), expected);
}
