//! `${env:NAME}` and `${env:NAME:-default}` in values.
//!
//! Substitution happens in a value that is parsed already, never in the file's text: what a
//! variable holds cannot become keys or sections. `$${` stands for `${`.

use crate::limits::VALUE_BYTES_MAX;
use crate::value::Mismatch;

/// Where variables come from.
pub trait Environment {
    /// The variable's value; `None` when it is not set or not UTF-8.
    fn variable(&self, name: &str) -> Option<String>;
}

/// The process's own environment.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

/// An environment without variables.
#[derive(Debug, Clone, Copy)]
pub struct EmptyEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

impl Environment for EmptyEnvironment {
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }
}

/// Replaces every reference in a value.
pub(crate) fn substitute(text: &str, environment: &dyn Environment) -> Result<String, Mismatch> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            result.push_str(&rest[..at]);
            result.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            return Err(Mismatch::new(
                "`${` without its `}`",
                "write ${env:NAME}, or $${ for the two characters themselves",
            ));
        };
        result.push_str(&resolve(&rest[at + 2..at + end], environment)?);
        rest = &rest[at + end + 1..];
        if result.len() > VALUE_BYTES_MAX {
            let message = format!("the value is longer than {VALUE_BYTES_MAX} bytes");
            return Err(Mismatch::new(
                message,
                "shorten the variables it is made of",
            ));
        }
    }
    result.push_str(rest);
    Ok(result)
}

fn resolve(reference: &str, environment: &dyn Environment) -> Result<String, Mismatch> {
    let Some(body) = reference.strip_prefix("env:") else {
        let bare = reference
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_');
        let help = if bare && !reference.is_empty() {
            format!("write ${{env:{reference}}}")
        } else {
            "write ${env:NAME} or ${env:NAME:-default}".to_owned()
        };
        return Err(Mismatch::new(
            format!("`${{{reference}}}` is not a reference that is known"),
            help,
        ));
    };
    let (name, default) = match body.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (body, None),
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(legal) {
        return Err(Mismatch::new(
            format!("`{name}` is not the name of an environment variable"),
            "write ${env:NAME} or ${env:NAME:-default}",
        ));
    }
    let value = environment.variable(name).filter(|value| !value.is_empty());
    match value.or_else(|| default.map(str::to_owned)) {
        Some(value) => Ok(value),
        None => Err(Mismatch::new(
            format!("the environment variable {name} is not set"),
            format!("set it, or give a default: ${{env:{name}:-default}}"),
        )),
    }
}
