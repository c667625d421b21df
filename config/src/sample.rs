//! Checks that a sample file names every option, with its default and its sentence.
//!
//! In a sample a comment line is prose when a space follows its `#`, and an option that has no
//! default when none does. With those options switched on the file must load, and each option must
//! stand under a comment that is its sentence.

use crate::environment::EmptyEnvironment;
use crate::fields::Section;
use crate::load::{describe, load_source, paths};
use crate::problem::Source;

/// What is wrong with a sample; empty when nothing is.
pub fn faults<C: Section>(sample: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for text in [sample.to_owned(), switched_on(sample)] {
        let source = Source {
            path: "sample.yaml".into(),
            text,
        };
        if let Err(problems) = load_source::<C>(source, &EmptyEnvironment) {
            faults.push(problems.to_string());
        }
    }
    let named = paths(&switched_on(sample)).unwrap_or_default();
    for option in describe::<C>() {
        if !named.iter().any(|path| fits(&option.path, path)) {
            faults.push(format!("`{}` is missing", option.path));
        }
        if !sample.contains(&format!("# {}", option.sentence.trim_end_matches('.'))) {
            faults.push(format!(
                "`{}` lacks its sentence: {}",
                option.path, option.sentence
            ));
        }
        let last = option.path.rsplit('.').next().unwrap_or_default();
        let line = option
            .default
            .as_ref()
            .map(|default| format!("{last}: {default}"));
        if let Some(line) = line.filter(|line| !sample.lines().any(|l| l.trim() == line)) {
            faults.push(format!("`{}` lacks the line `{line}`", option.path));
        }
    }
    faults
}

/// The text with its commented options in force.
fn switched_on(sample: &str) -> String {
    let mut text = String::new();
    for line in sample.lines() {
        let start = line.trim_start();
        let indent = &line[..line.len() - start.len()];
        match start.strip_prefix('#') {
            Some(option) if option.starts_with(|c: char| c.is_ascii_lowercase()) => {
                text.extend([indent, option]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Whether a path of a file is the option `declared`, in which `*` stands for a name of the user's.
fn fits(declared: &str, path: &str) -> bool {
    let (mut declared, mut path) = (declared.split('.'), path.split('.'));
    loop {
        match (declared.next(), path.next()) {
            (None, None) => return true,
            (Some(a), Some(b)) if a == "*" || a == b => {}
            _ => return false,
        }
    }
}
