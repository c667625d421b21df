//! What a question's conditions ask of the search index.
//!
//! A [`Search`] is made of the filters of a query plan, and says of each block of a file whether it may hold a row
//! that passes them. It only leaves out: what passes is looked at, so a condition that is not understood here asks
//! for nothing.
//!
//! - `body = 'x'`, `body LIKE '…'`, `ILIKE`, regular expressions, `contains`, `starts_with`, `ends_with`, `IN`.
//! - `attributes['k'] = 'v'`, the same of `resource_attributes`, and `trace_id = 'x'`, `span_id = 'x'`.
//! - `AND` and `OR` of these.
//!
//! Letters that are the same but for their case are more than the index folds, so of a text whose case does not
//! matter only its ASCII parts are asked for.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{InList, Like, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use regex_syntax::hir::{Hir, HirKind};

use super::index::terms::{self, Hash, Place, Wanted};
use crate::limits::SEARCH_PARTS_MAX;

/// What must be in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Search {
    /// Anything: no block can be left out.
    Anything,
    /// All of these terms.
    Terms(Wanted),
    /// All of these.
    All(Vec<Search>),
    /// One of these.
    One(Vec<Search>),
}

/// Whether letters of another case are others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Minds,
    Ignores,
}

impl Search {
    /// What filters ask for, all of which a row must pass.
    pub fn of(filters: &[Expr]) -> Search {
        all(filters.iter().map(of_expression).collect())
    }

    /// Leaves in `blocks` those that may pass. `probe` takes from the blocks those that do not have a hash.
    pub fn retain(&self, blocks: &mut [bool], probe: &mut impl FnMut(Kind, Hash, &mut [bool])) {
        match self {
            Search::Anything => {}
            Search::Terms(wanted) => wanted.each(&mut |kind, hash| probe(kind, hash, blocks)),
            Search::All(parts) => {
                for part in parts {
                    part.retain(blocks, probe);
                }
            }
            Search::One(parts) => {
                let before = blocks.to_vec();
                blocks.fill(false);
                for part in parts {
                    let mut own = before.clone();
                    part.retain(&mut own, probe);
                    for (block, passes) in blocks.iter_mut().zip(own) {
                        *block |= passes;
                    }
                }
            }
        }
    }

    /// Tells every term that is asked for.
    pub fn each_term(&self, tell: &mut impl FnMut(Kind, Hash)) {
        match self {
            Search::Anything => {}
            Search::Terms(wanted) => wanted.each(tell),
            Search::All(parts) | Search::One(parts) => {
                for part in parts {
                    part.each_term(tell);
                }
            }
        }
    }
}

impl Wanted {
    fn each(&self, tell: &mut impl FnMut(Kind, Hash)) {
        self.words.iter().for_each(|&hash| tell(Kind::Words, hash));
        self.grams.iter().for_each(|&hash| tell(Kind::Grams, hash));
    }
}

/// Which filters a hash is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Words, prefixes, addresses and fields.
    Words,
    /// Grams.
    Grams,
}

fn of_expression(expression: &Expr) -> Search {
    match expression {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::And => all(vec![of_expression(left), of_expression(right)]),
            Operator::Or => one(vec![of_expression(left), of_expression(right)]),
            Operator::Eq => match (text(left), text(right)) {
                (None, Some(value)) => equals(left, value),
                (Some(value), None) => equals(right, value),
                _ => Search::Anything,
            },
            Operator::RegexMatch => matches(left, right, Case::Minds),
            Operator::RegexIMatch => matches(left, right, Case::Ignores),
            Operator::LikeMatch => like(left, right, None, Case::Minds),
            Operator::ILikeMatch => like(left, right, None, Case::Ignores),
            _ => Search::Anything,
        },
        Expr::Like(Like {
            negated: false,
            expr,
            pattern,
            escape_char,
            case_insensitive,
        }) => {
            let case = if *case_insensitive {
                Case::Ignores
            } else {
                Case::Minds
            };
            like(expr, pattern, *escape_char, case)
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) if list.len() <= SEARCH_PARTS_MAX => {
            let of_value =
                |value: &Expr| text(value).map_or(Search::Anything, |value| equals(expr, value));
            one(list.iter().map(of_value).collect())
        }
        Expr::ScalarFunction(function) => of_function(function),
        Expr::Alias(alias) => of_expression(&alias.expr),
        _ => Search::Anything,
    }
}

fn of_function(ScalarFunction { func, args }: &ScalarFunction) -> Search {
    let [subject, argument] = &args[..] else {
        return Search::Anything;
    };
    let place = match func.name() {
        "contains" => Place::Inside,
        "starts_with" => Place::Start,
        "ends_with" => Place::End,
        "regexp_like" => return matches(subject, argument, Case::Minds),
        _ => return Search::Anything,
    };
    match text(argument) {
        Some(text) if is_column(subject, "body") => part(text, place, Case::Minds),
        _ => Search::Anything,
    }
}

/// A column or a field that has a value.
fn equals(subject: &Expr, value: &str) -> Search {
    if is_column(subject, "body") {
        return part(value, Place::Whole, Case::Minds);
    }
    if is_column(subject, "trace_id") || is_column(subject, "span_id") {
        // Their grams are not in the index.
        let Wanted { words, .. } = terms::wanted(value, Place::Whole);
        let grams = Vec::new();
        return Search::Terms(Wanted { words, grams });
    }
    let Expr::ScalarFunction(ScalarFunction { func, args }) = subject else {
        return Search::Anything;
    };
    match (func.name(), &args[..]) {
        ("get_field", [map, name])
            if is_column(map, "attributes") || is_column(map, "resource_attributes") =>
        {
            let field = text(name).map(|name| terms::of_field(name, value));
            field.map_or(Search::Anything, |field| {
                Search::Terms(Wanted {
                    words: vec![field],
                    grams: Vec::new(),
                })
            })
        }
        _ => Search::Anything,
    }
}

fn like(subject: &Expr, pattern: &Expr, escape: Option<char>, case: Case) -> Search {
    let Some(pattern) = text(pattern).filter(|_| is_column(subject, "body")) else {
        return Search::Anything;
    };
    let escape = escape.unwrap_or('\\');
    let mut parts = vec![String::new()];
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' | '_' => parts.push(String::new()),
            _ if letter == escape => {
                let escaped = letters.next().unwrap_or(escape);
                parts.last_mut().expect("there is one").push(escaped);
            }
            _ => parts.last_mut().expect("there is one").push(letter),
        }
    }
    let last = parts.len() - 1;
    let asked = parts.iter().enumerate().map(|(at, text)| {
        let place = match (at == 0, at == last) {
            (true, true) => Place::Whole,
            (true, false) => Place::Start,
            (false, true) => Place::End,
            (false, false) => Place::Inside,
        };
        part(text, place, case)
    });
    all(asked.collect())
}

fn matches(subject: &Expr, pattern: &Expr, case: Case) -> Search {
    let Some(pattern) = text(pattern).filter(|_| is_column(subject, "body")) else {
        return Search::Anything;
    };
    // The letters as they are written: a class of both cases would be no literal.
    match regex_syntax::parse(pattern) {
        Ok(parsed) => of_regex(&parsed, case),
        Err(_) => Search::Anything,
    }
}

fn of_regex(pattern: &Hir, case: Case) -> Search {
    let literal = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes);
        text.map_or(Search::Anything, |text| part(text, Place::Inside, case))
    };
    match pattern.kind() {
        HirKind::Literal(text) => literal(&text.0),
        HirKind::Capture(group) => of_regex(&group.sub, case),
        HirKind::Repetition(repeated) if repeated.min > 0 => of_regex(&repeated.sub, case),
        HirKind::Concat(parts) => all(parts.iter().map(|part| of_regex(part, case)).collect()),
        HirKind::Alternation(parts) if parts.len() <= SEARCH_PARTS_MAX => {
            one(parts.iter().map(|part| of_regex(part, case)).collect())
        }
        _ => Search::Anything,
    }
}

/// A text at a place in the body.
fn part(text: &str, place: Place, case: Case) -> Search {
    let wanted = match case {
        Case::Ignores if !text.is_ascii() => {
            let mut wanted = Wanted::default();
            for piece in text.split(|letter: char| !letter.is_ascii()) {
                let Wanted { words, grams } = terms::wanted(piece, Place::Inside);
                wanted.words.extend(words);
                wanted.grams.extend(grams);
            }
            wanted
        }
        Case::Minds | Case::Ignores => terms::wanted(text, place),
    };
    if wanted.words.is_empty() && wanted.grams.is_empty() {
        return Search::Anything;
    }
    Search::Terms(wanted)
}

fn all(mut parts: Vec<Search>) -> Search {
    parts.retain(|part| *part != Search::Anything);
    match parts.len() {
        0 => Search::Anything,
        1 => parts.remove(0),
        _ => Search::All(parts),
    }
}

fn one(parts: Vec<Search>) -> Search {
    if parts.contains(&Search::Anything) {
        return Search::Anything;
    }
    Search::One(parts)
}

fn is_column(expression: &Expr, name: &str) -> bool {
    match expression {
        Expr::Column(column) => column.name == name,
        // The same text as another type of text.
        Expr::Cast(cast) => is_column(&cast.expr, name),
        _ => false,
    }
}

fn text(expression: &Expr) -> Option<&str> {
    let Expr::Literal(value, _) = expression else {
        return None;
    };
    match value {
        ScalarValue::Utf8(text) | ScalarValue::Utf8View(text) | ScalarValue::LargeUtf8(text) => {
            text.as_deref()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
