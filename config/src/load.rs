//! From a file to a checked struct: every problem at once, no effects.

use std::cell::RefCell;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::environment::{EmptyEnvironment, Environment, ProcessEnvironment};
use crate::fields::{Context, Listing, OptionInfo, Section, Written, read_section};
use crate::limits::FILE_BYTES_MAX;
use crate::node::{self, Kind};
use crate::problem::{Problem, Problems, Source, Span};

/// A configuration and the text it came from, so that later checks can point into it.
#[derive(Debug, Clone)]
pub struct Loaded<C> {
    /// The configuration.
    pub config: C,
    /// Its text.
    pub source: Source,
}

/// Loads a file. Relative paths in it start at its directory.
pub fn load<C: Section>(path: &Path) -> Result<Loaded<C>, Problems> {
    let nothing = Source::nameless(path);
    let refuse = |message: String, help: &str| {
        nothing.report(vec![Problem::new(Span::default(), message, help)])
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let help = match error.kind() {
                ErrorKind::NotFound => "write the file, or give the path of another with --config",
                ErrorKind::PermissionDenied => "run this as a user who may read it",
                _ => "check the path given",
            };
            refuse(format!("cannot be read: {error}"), help)
        })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let message = format!("is larger than {FILE_BYTES_MAX} bytes");
        return Err(refuse(message, "is this a configuration file?"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        refuse(
            format!("is not UTF-8 at byte {at}"),
            "save the file as UTF-8",
        )
    })?;
    let source = Source {
        path: path.to_owned(),
        text,
    };
    load_source(source, &ProcessEnvironment)
}

/// Loads from text, with no environment: for tests and examples.
pub fn load_text<C: Section>(text: &str) -> Result<Loaded<C>, Problems> {
    let source = Source {
        path: "config.yaml".into(),
        text: text.to_owned(),
    };
    load_source(source, &EmptyEnvironment)
}

/// Loads from a source, with the environment given.
pub fn load_source<C: Section>(
    source: Source,
    environment: &dyn Environment,
) -> Result<Loaded<C>, Problems> {
    let mut problems = Vec::new();
    let root = node::parse(&source.text, &mut problems);
    let first_line = Span {
        line: 1,
        column: 1,
        chars: 1,
    };
    let entries: &[node::Entry] = match &root.kind {
        Kind::Mapping(entries) => entries,
        Kind::Null | Kind::Refused => &[],
        Kind::Scalar(_) | Kind::Sequence(_) => {
            let message = format!("the file is {}, not a section with keys", root.noun());
            problems.push(Problem::new(root.span, message, "write `key: value` lines"));
            &[]
        }
    };
    // After a syntax error the tree lacks its end: what it would miss is not missing.
    if !problems.is_empty() && entries.is_empty() {
        return Err(source.report(problems));
    }
    let context = Context {
        base: source.path.parent().unwrap_or(Path::new("")),
        environment,
        problems: RefCell::new(problems),
        options: RefCell::default(),
        listing: Listing::Off,
    };
    let config = read_section(&context, String::new(), first_line, Written::Keys(entries));
    let problems = context.problems.into_inner();
    if problems.is_empty() {
        return Ok(Loaded { config, source });
    }
    Err(source.report(problems))
}

/// Every option of a configuration, in the order of its declaration.
pub fn describe<C: Section>() -> Vec<OptionInfo> {
    let context = Context {
        base: Path::new(""),
        environment: &EmptyEnvironment,
        problems: RefCell::default(),
        options: RefCell::default(),
        listing: Listing::On,
    };
    read_section::<C>(&context, String::new(), Span::default(), Written::Keys(&[]));
    context.options.into_inner()
}

/// The paths of every key in a text, with user-chosen keys as they are: what a sample file names.
pub fn paths(text: &str) -> Result<Vec<String>, Problems> {
    let source = Source {
        path: "config.yaml".into(),
        text: text.to_owned(),
    };
    let mut problems = Vec::new();
    let root = node::parse(text, &mut problems);
    if !problems.is_empty() {
        return Err(source.report(problems));
    }
    let mut found = Vec::new();
    collect_paths("", &root, &mut found);
    Ok(found)
}

fn collect_paths(prefix: &str, node: &node::Node, found: &mut Vec<String>) {
    let Kind::Mapping(entries) = &node.kind else {
        return;
    };
    for entry in entries {
        let dot = if prefix.is_empty() { "" } else { "." };
        let path = format!("{prefix}{dot}{}", entry.key.value);
        collect_paths(&path, &entry.value, found);
        found.push(path);
    }
}
