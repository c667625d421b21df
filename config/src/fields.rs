//! How a struct reads itself: one call an option gives its name, type, default and sentence.
//!
//! ```
//! use config::fields::{Fields, Section};
//! use config::units::ByteSize;
//!
//! struct Spool {
//!     size: ByteSize,
//! }
//!
//! impl Section for Spool {
//!     fn read(fields: &mut Fields<'_>) -> Spool {
//!         Spool {
//!             size: fields.value("size", ByteSize::gib(4), "How much disk the spool may take."),
//!         }
//!     }
//! }
//! # let spool: Spool = config::load::load_text("size: 1GiB").unwrap().config;
//! # assert_eq!(spool.size, ByteSize::gib(1));
//! ```
//!
//! A read always returns a struct. Where the file is wrong the problem is noted and the default
//! stands in, so that every problem of a file is found in one pass; the loader then returns the
//! problems and no struct. The same calls over an empty section list the options
//! ([`crate::load::describe`]): there is no second declaration that could disagree.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use crate::environment::{self, Environment};
use crate::limits::PROBLEMS_KEPT_MAX;
use crate::node::{Entry, Kind, Node};
use crate::problem::{Problem, Span, Spanned};
use crate::suggest;
use crate::value::{Scalar, Value};

/// A struct that reads itself from a section of the file.
pub trait Section: Sized {
    /// Declares and reads every option.
    fn read(fields: &mut Fields<'_>) -> Self;
}

/// An option as the reference shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionInfo {
    /// Where it stands: `logs.*.files`.
    pub path: String,
    /// What to write.
    pub kind: &'static str,
    /// What holds when it is not written; `None` when nothing does.
    pub default: Option<String>,
    /// Whether it must be written.
    pub need: Need,
    /// What it is for.
    pub sentence: &'static str,
}

/// Whether an option must be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The file is wrong without it, or without it in each such section.
    Required,
    /// It may be left out.
    Optional,
}

/// What all sections of one read share.
pub(crate) struct Context<'a> {
    pub(crate) base: &'a Path,
    pub(crate) environment: &'a dyn Environment,
    pub(crate) problems: RefCell<Vec<Problem>>,
    pub(crate) options: RefCell<Vec<OptionInfo>>,
    /// Whether options are being listed: then sections that are not there are visited too.
    pub(crate) listing: Listing,
}

/// Whether a read is for the options' list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    Off,
    On,
}

/// One section of the file, being read.
pub struct Fields<'a> {
    context: &'a Context<'a>,
    path: String,
    span: Span,
    entries: &'a [Entry],
    declared: Vec<&'static str>,
    sound: Sound,
}

/// Whether a section was written as one: in what is not, nothing is missed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sound {
    Yes,
    No,
}

/// What stands where a section is expected.
#[derive(Clone, Copy)]
pub(crate) enum Written<'a> {
    Keys(&'a [Entry]),
    /// Something else, which has been refused.
    Otherwise,
}

impl<'a> Fields<'a> {
    /// An option with a default.
    pub fn value<T: Value>(&mut self, name: &'static str, default: T, sentence: &'static str) -> T {
        self.declare::<T>(name, Some(default.show()), Need::Optional, sentence);
        self.scalar(name).unwrap_or(default)
    }

    /// An option that may be absent and then means what its sentence says.
    pub fn optional<T: Value>(&mut self, name: &'static str, sentence: &'static str) -> Option<T> {
        self.declare::<T>(name, None, Need::Optional, sentence);
        self.scalar(name)
    }

    /// An option without which the file is wrong.
    pub fn required<T: Value + Default>(
        &mut self,
        name: &'static str,
        sentence: &'static str,
    ) -> T {
        self.declare::<T>(name, None, Need::Required, sentence);
        self.demand(name, T::KIND);
        self.scalar(name).unwrap_or_default()
    }

    /// A list; a single value stands for a list of one. Empty when it is not written.
    pub fn list<T: Value>(&mut self, name: &'static str, sentence: &'static str) -> Vec<T> {
        self.declare::<T>(name, Some("[]".to_owned()), Need::Optional, sentence);
        self.items(name)
    }

    /// A list of at least one value.
    pub fn required_list<T: Value>(
        &mut self,
        name: &'static str,
        sentence: &'static str,
    ) -> Vec<T> {
        self.declare::<T>(name, None, Need::Required, sentence);
        self.demand(name, T::KIND);
        let items = self.items(name);
        if let Some(Node {
            span,
            kind: Kind::Sequence(nodes),
        }) = self.node(name)
            && nodes.is_empty()
        {
            self.note(
                *span,
                format!("`{name}` is empty"),
                format!("write {}", T::KIND),
            );
        }
        items
    }

    /// Keys that the user chooses, each with a value.
    pub fn map<T: Value>(
        &mut self,
        name: &'static str,
        sentence: &'static str,
    ) -> BTreeMap<String, T> {
        self.declare::<T>(name, Some("{}".to_owned()), Need::Optional, sentence);
        let mut map = BTreeMap::new();
        for entry in self.entries_of(name) {
            if let Some(value) = self.read_scalar(&entry.key.value, &entry.value) {
                map.insert(entry.key.value.clone(), value);
            }
        }
        map
    }

    /// A section; when it is not written all its defaults hold.
    pub fn section<S: Section>(&mut self, name: &'static str) -> S {
        self.declared.push(name);
        let span = self.node(name).map_or(self.span, |node| node.span);
        let written = self.node(name).map(|node| self.mapping(name, node));
        read_section(
            self.context,
            self.child(name),
            span,
            written.unwrap_or(Written::Keys(&[])),
        )
    }

    /// A section that may be absent as a whole.
    pub fn optional_section<S: Section>(&mut self, name: &'static str) -> Option<S> {
        let written = self.entries.iter().any(|entry| entry.key.value == name);
        if written || self.context.listing == Listing::On {
            return Some(self.section(name));
        }
        self.declared.push(name);
        None
    }

    /// Sections under keys that the user chooses. The key is a value too: its type says which
    /// names are possible.
    pub fn named_sections<K: Value + Ord, S: Section>(
        &mut self,
        name: &'static str,
    ) -> BTreeMap<K, S> {
        self.declared.push(name);
        let mut sections = BTreeMap::new();
        if self.context.listing == Listing::On {
            let path = format!("{}.*", self.child(name));
            read_section::<S>(self.context, path, Span::default(), Written::Keys(&[]));
        }
        for entry in self.entries_of(name) {
            let path = format!("{}.{}", self.child(name), entry.key.value);
            let written = self.mapping(&entry.key.value, &entry.value);
            let section = read_section(self.context, path, entry.key.span, written);
            if let Some(key) = self.scalar_at(&entry.key.value, entry.key.span) {
                sections.insert(key, section);
            }
        }
        sections
    }

    /// Notes a problem that concerns several options, at the place of the first.
    pub fn problem(&mut self, name: &str, message: impl Into<String>, help: impl Into<String>) {
        let span = self.node(name).map_or(self.span, |node| node.span);
        self.note(span, message.into(), help.into());
    }

    /// Whether an option is written, right or wrong.
    pub fn has(&self, name: &str) -> bool {
        self.node(name).is_some()
    }

    /// Notes a problem at a place.
    pub fn problem_at(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.note(span, message.into(), help.into());
    }

    fn declare<T: Value>(
        &mut self,
        name: &'static str,
        default: Option<String>,
        need: Need,
        sentence: &'static str,
    ) {
        debug_assert!(!self.declared.contains(&name), "`{name}` is declared twice");
        self.declared.push(name);
        if self.context.listing == Listing::On {
            self.context.options.borrow_mut().push(OptionInfo {
                path: self.child(name),
                kind: T::KIND,
                default,
                need,
                sentence,
            });
        }
    }

    fn child(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    fn node(&self, name: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|entry| entry.key.value == name);
        entry.map(|entry| &entry.value)
    }

    /// Notes that a required option is missing.
    fn demand(&self, name: &str, kind: &str) {
        let looked_for = self.context.listing == Listing::Off && self.sound == Sound::Yes;
        if self.node(name).is_none() && looked_for {
            let whole = self.child(name);
            let message = format!("`{whole}` is missing");
            self.note(self.span, message, format!("add `{name}:` with {kind}"));
        }
    }

    fn scalar<T: Value>(&self, name: &str) -> Option<T> {
        self.read_scalar(name, self.node(name)?)
    }

    fn items<T: Value>(&self, name: &str) -> Vec<T> {
        match self.node(name) {
            None => Vec::new(),
            Some(Node {
                kind: Kind::Sequence(nodes),
                ..
            }) => {
                let items = nodes.iter().map(|node| self.read_scalar(name, node));
                items
                    .collect::<Vec<Option<T>>>()
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Some(node) => self.read_scalar(name, node).into_iter().collect(),
        }
    }

    fn read_scalar<T: Value>(&self, name: &str, node: &Node) -> Option<T> {
        let Kind::Scalar(written) = &node.kind else {
            let what = T::KIND.split(" such as ").next().unwrap_or(T::KIND);
            let message = format!("`{name}` needs {what}, this is {}", node.noun());
            let help = match node.kind {
                Kind::Refused => return None,
                Kind::Null => format!("write {}, or remove the line", T::KIND),
                _ => format!("write {}", T::KIND),
            };
            self.note(node.span, message, help);
            return None;
        };
        match environment::substitute(written, self.context.environment) {
            Ok(text) => self.scalar_at(&text, node.span),
            Err(mismatch) => {
                self.note(node.span, mismatch.message, mismatch.help);
                None
            }
        }
    }

    fn scalar_at<T: Value>(&self, text: &str, span: Span) -> Option<T> {
        let base = self.context.base;
        match T::read(&Scalar { text, span, base }) {
            Ok(value) => Some(value),
            Err(mismatch) => {
                self.note(span, mismatch.message, mismatch.help);
                None
            }
        }
    }

    fn entries_of(&self, name: &str) -> &'a [Entry] {
        match self.node(name).map(|node| self.mapping(name, node)) {
            Some(Written::Keys(entries)) => entries,
            Some(Written::Otherwise) | None => &[],
        }
    }

    fn mapping(&self, name: &str, node: &'a Node) -> Written<'a> {
        match &node.kind {
            Kind::Mapping(entries) => Written::Keys(entries),
            Kind::Null => Written::Keys(&[]),
            Kind::Refused => Written::Otherwise,
            Kind::Scalar(_) | Kind::Sequence(_) => {
                let message = format!("`{name}` is a section with keys, this is {}", node.noun());
                self.note(
                    node.span,
                    message,
                    "write `key: value` lines below it".to_owned(),
                );
                Written::Otherwise
            }
        }
    }

    fn note(&self, span: Span, message: String, help: String) {
        let mut problems = self.context.problems.borrow_mut();
        if problems.len() <= PROBLEMS_KEPT_MAX {
            problems.push(Problem {
                span,
                message,
                help,
            });
        }
    }

    /// Notes every key that no option has declared.
    fn finish(self) {
        for Entry {
            key: Spanned { value: key, span },
            ..
        } in self.entries
        {
            if self.declared.contains(&key.as_str()) {
                continue;
            }
            if self.context.problems.borrow().len() > PROBLEMS_KEPT_MAX {
                return;
            }
            let mut keys = self.declared.clone();
            keys.sort_unstable();
            let list = keys.join(", ");
            let help = match suggest::nearest(key, &keys) {
                Some(word) => format!("write `{word}`; the keys here are: {list}"),
                None => format!("the keys here are: {list}"),
            };
            self.note(*span, format!("unknown key `{key}`"), help);
        }
    }
}

/// Reads one section and notes the keys it does not know.
pub(crate) fn read_section<'a, S: Section>(
    context: &'a Context<'a>,
    path: String,
    span: Span,
    written: Written<'a>,
) -> S {
    let (entries, sound) = match written {
        Written::Keys(entries) => (entries, Sound::Yes),
        Written::Otherwise => (&[][..], Sound::No),
    };
    let mut fields = Fields {
        context,
        path,
        span,
        entries,
        declared: Vec::new(),
        sound,
    };
    let section = S::read(&mut fields);
    fields.finish();
    section
}
