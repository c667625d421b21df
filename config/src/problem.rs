//! What is wrong, where, and what to write instead.
//!
//! A problem is one block of text that editors can jump to and people can act on:
//!
//! ```text
//! agent.yaml:5:5: unknown key `file`
//!   5 |     file: /srv/app/*.log
//!     |     ^^^^
//!     = write `files`; the keys here are: exclude, files, labels, start_at, topic
//! ```
//!
//! Nothing of the file reaches the terminal unescaped.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::limits::{EXCERPT_CHARS_MAX, MESSAGE_CHARS_MAX, PROBLEMS_MAX};

/// A place in a source: 1-based line and column and how many characters to mark. The default, line
/// 0, is no place: the value did not come from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Span {
    /// The line, from 1; 0 when there is no place.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// How many characters to mark.
    pub chars: u32,
}

/// A value and the place it was written at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub span: Span,
    /// What, without a full stop.
    pub message: String,
    /// What to write or do instead.
    pub help: String,
}

/// The text that spans point into.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file's path as the user gave it.
    pub path: PathBuf,
    /// Its whole text.
    pub text: String,
}

/// Everything that is wrong with one source. Its `Display` is what the user reads.
#[derive(Debug)]
pub struct Problems {
    /// The file.
    pub source: Source,
    /// What is wrong, in the file's order.
    pub list: Vec<Problem>,
}

impl Problem {
    /// A problem with what to do about it.
    pub fn new(span: Span, message: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem {
            span,
            message: message.into(),
            help: help.into(),
        }
    }
}

impl Source {
    /// A source without text: for values that come from the command line.
    pub fn nameless(name: impl AsRef<Path>) -> Source {
        Source {
            path: name.as_ref().to_owned(),
            text: String::new(),
        }
    }

    /// Binds problems to this source, sorted by place.
    pub fn report(&self, mut list: Vec<Problem>) -> Problems {
        list.sort_by_key(|problem| problem.span);
        list.dedup();
        Problems {
            source: self.clone(),
            list,
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().take(PROBLEMS_MAX).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            show(f, &self.source, problem)?;
        }
        let hidden = self.list.len().saturating_sub(PROBLEMS_MAX);
        if hidden > 0 {
            write!(f, "\nand {hidden} more")?;
        }
        Ok(())
    }
}

fn show(f: &mut fmt::Formatter<'_>, source: &Source, problem: &Problem) -> fmt::Result {
    let path = escaped(&source.path.to_string_lossy());
    let Span {
        line,
        column,
        chars,
    } = problem.span;
    let message = escaped(&problem.message);
    let help = escaped(&problem.help);
    if line == 0 {
        write!(f, "{path}: {message}")?;
        return if help.is_empty() {
            Ok(())
        } else {
            write!(f, "\n    = {help}")
        };
    }
    write!(f, "{path}:{line}:{column}: {message}")?;
    let number = line.to_string();
    let gutter = " ".repeat(number.len());
    let text = source.text.lines().nth(line as usize - 1).unwrap_or("");
    if !text.trim().is_empty() {
        let (excerpt, before, marked) = excerpt(text, column as usize - 1, chars as usize);
        let (indent, marks) = (" ".repeat(before), "^".repeat(marked));
        write!(f, "\n  {number} | {excerpt}\n  {gutter} | {indent}{marks}")?;
    }
    if !help.is_empty() {
        write!(f, "\n  {gutter} = {help}")?;
    }
    Ok(())
}

/// The part of a line that is shown, how many columns of it lie before the mark, and how many the
/// mark has. Each character takes one column: what could take none or several is replaced.
fn excerpt(line: &str, at: usize, chars: usize) -> (String, usize, usize) {
    let skipped = (at + chars.min(EXCERPT_CHARS_MAX / 2)).saturating_sub(EXCERPT_CHARS_MAX);
    let shown: String = line
        .trim_end()
        .chars()
        .skip(skipped)
        .take(EXCERPT_CHARS_MAX)
        .map(|c| if c == '\t' { ' ' } else { printable(c) })
        .collect();
    let before = at - skipped;
    let room = shown.chars().count().saturating_sub(before);
    (shown, before, chars.min(room).max(1))
}

/// Text that cannot steer a terminal, cut where it would fill one.
fn escaped(text: &str) -> String {
    let one_line = |c: char| if c == '\n' { ' ' } else { printable(c) };
    let mut shown: String = text.chars().take(MESSAGE_CHARS_MAX).map(one_line).collect();
    if shown.len() < text.len() && text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// Control characters, and those that reorder or hide text, become `�`.
fn printable(c: char) -> char {
    let reorders = matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    );
    if c.is_control() || reorders {
        '\u{fffd}'
    } else {
        c
    }
}
