//! The YAML file as a tree in which every key and value knows its place.
//!
//! Built from the parser's events and deliberately poorer than YAML: one document, keys are
//! strings, no aliases (so no alias bombs) and no tags. A scalar stays text; what it means is
//! decided by the option that reads it, so `no` is never silently a boolean and `1.10` never a
//! number.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

use crate::limits::{DEPTH_MAX, NODES_MAX};
use crate::problem::{Problem, Span, Spanned};

/// A value.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// What a value is made of.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Nothing was written, or `null` or `~`.
    Null,
    /// Something that has been refused already: nothing more is said about it.
    Refused,
    Scalar(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Spanned<String>,
    pub(crate) value: Node,
}

impl Node {
    /// What it is, with an article, for messages.
    pub(crate) fn noun(&self) -> &'static str {
        match self.kind {
            Kind::Null | Kind::Refused => "nothing",
            Kind::Scalar(_) => "a single value",
            Kind::Sequence(_) => "a list",
            Kind::Mapping(_) => "a section with keys",
        }
    }
}

/// Parses one document. Syntax errors end it; the rest is collected in `problems`. An empty
/// document is `Null`.
pub(crate) fn parse(text: &str, problems: &mut Vec<Problem>) -> Node {
    let mut builder = Builder {
        parser: Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text)),
        text,
        problems,
        nodes: 0,
        aliases: 0,
    };
    builder.document().unwrap_or(Node {
        span: Span::default(),
        kind: Kind::Null,
    })
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
    nodes: usize,
    aliases: usize,
}

impl<'a> Builder<'a> {
    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return root,
                Event::DocumentStart(_) if root.is_some() => {
                    self.wrong(
                        span,
                        "a second document begins here",
                        "remove the `---` line: a configuration file is one document",
                    );
                    return root;
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, span, 0)?),
            }
        }
    }

    /// The next event; `None` after a syntax error, which has then been noted.
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        match self.parser.next_event()? {
            Ok((event, span)) => {
                let chars = if span.start.line() == span.end.line() {
                    span.len()
                } else {
                    1
                };
                Some((event, place(&span.start, chars)))
            }
            Err(error) => {
                let span = place(error.marker(), 1);
                let line = self.text.lines().nth(span.line as usize - 1).unwrap_or("");
                self.wrong(span, error.info(), syntax_help(line));
                None
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Option<Node> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            let what = format!("more than {DEPTH_MAX} levels or {NODES_MAX} values");
            self.wrong(span, &what, "is this the right file?");
            return None;
        }
        let (tag, anchor) = match &event {
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (tag.is_some(), *anchor > 0),
            _ => (false, false),
        };
        if tag {
            self.wrong(span, "a tag (`!…`) has no meaning here", "remove the tag");
        }
        if anchor || matches!(event, Event::Alias(_)) {
            self.refuse_alias(span);
        }
        let kind = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..)
                if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") =>
            {
                Kind::Null
            }
            Event::Scalar(text, ..) => Kind::Scalar(text.into_owned()),
            Event::SequenceStart(..) => Kind::Sequence(self.sequence(depth)?),
            Event::MappingStart(..) => Kind::Mapping(self.mapping(depth)?),
            _ => Kind::Refused,
        };
        Some(Node { span, kind })
    }

    /// Says it once: a file that uses aliases uses many.
    fn refuse_alias(&mut self, span: Span) {
        self.aliases += 1;
        if self.aliases == 1 {
            self.wrong(
                span,
                "anchors and aliases (`&…`, `*…`) are not supported",
                "write the value out; a value that begins with `*` or `&` needs quotes",
            );
        }
    }

    fn sequence(&mut self, depth: usize) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Some(nodes),
                (event, span) => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, depth: usize) -> Option<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = std::collections::HashMap::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Some(entries);
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, value_span) = self.next()?;
            let value = self.node(event, value_span, depth + 1)?;
            let Kind::Scalar(name) = key.kind else {
                self.wrong(span, "a key must be a word", "write `key: value`");
                continue;
            };
            if let Some(first) = seen.insert(name.clone(), span.line) {
                let message = format!("`{name}` is written twice, first at line {first}");
                self.wrong(span, &message, "keep one of the two");
                continue;
            }
            entries.push(Entry {
                key: Spanned { value: name, span },
                value,
            });
        }
    }

    fn wrong(&mut self, span: Span, message: &str, help: &str) {
        self.problems.push(Problem::new(span, message, help));
    }
}

fn place(marker: &saphyr_parser::Marker, chars: usize) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX - 1);
    Span {
        line: number(marker.line().max(1)),
        column: number(marker.col()) + 1,
        chars: number(chars.max(1)),
    }
}

/// The parser's words are those of the YAML specification; most slips are one of these.
fn syntax_help(line: &str) -> &'static str {
    let start = line.trim_start();
    if line[..line.len() - start.len()].contains('\t') {
        "indent with spaces: YAML does not allow tabs there"
    } else if line.contains("${") {
        "put quotes around a value with `${…}`: inside braces or brackets it needs them"
    } else if line.contains(": *") || line.contains("[*") || line.contains("- *") {
        "put quotes around a value that begins with `*`"
    } else if start.matches(": ").count() > 1 && !start.contains('{') {
        "put quotes around a value with `: ` in it"
    } else {
        "check indentation, quotes and brackets here and in the line above"
    }
}
