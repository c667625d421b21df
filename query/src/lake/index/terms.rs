//! What of a text is in the index, and what of it must be there for a text that is looked for.
//!
//! Everything is folded: letters are small ones, so that one index answers questions that mind the case and that
//! do not. Folding goes letter by letter, so that a part of a text is a part of the folded text.
//!
//! - *Words*: runs of letters, digits and `_`, and all that is not ASCII. Of a text that is looked for anywhere
//!   in lines, only words with something else on both sides are known to be whole.
//! - *Prefixes* of long words with digits, [`PREFIX_BYTES`] long: ids are asked for by how they begin.
//! - *Addresses*: runs of digits with dots between, as `10.0.0.1`; their parts are words of little meaning.
//! - *Grams*: each four bytes. Those of letters and digits with a digit among them are left out: of ids and
//!   numbers every gram is somewhere.
//! - *Fields*: `name=value`, both folded.
//!
//! Invariant **I31**: what a text has is found by every question that it answers: no block is ever passed over
//! that has an answer.

use std::borrow::Cow;

use memchr::memchr_iter;
use twox_hash::XxHash3_64;

/// A term as the filters have it.
pub type Hash = u64;

/// The length of a prefix.
pub const PREFIX_BYTES: usize = 8;

/// Words from this length on have prefixes, if they have digits.
const PREFIXED_BYTES_MIN: usize = 16;

/// The length of a gram.
const GRAM_BYTES: usize = 4;

/// What a text that is looked for must have in a block's filters: all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Words, prefixes, addresses and fields.
    pub words: Vec<Hash>,
    /// Grams.
    pub grams: Vec<Hash>,
}

/// Where a text that is looked for may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Anywhere in a text.
    Inside,
    /// At its start.
    Start,
    /// At its end.
    End,
    /// It is the text.
    Whole,
}

/// Tells the terms of a text to `words` and `grams`.
pub fn of_text(text: &str, words: &mut impl FnMut(Hash), grams: &mut impl FnMut(Hash)) {
    let folded = fold(text);
    let bytes = folded.as_bytes();
    each_word(bytes, |word, _| {
        words(of_word(word));
        if has_prefix(word) {
            words(of_prefix(&word[..PREFIX_BYTES]));
        }
    });
    each_address(bytes, |address, _| words(of_address(address)));
    each_gram(bytes, grams);
}

/// The term of a field.
pub fn of_field(name: &str, value: &str) -> Hash {
    let (name, value) = (fold(name), fold(value));
    let mut bytes = Vec::with_capacity(name.len() + value.len() + 1);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'=');
    bytes.extend_from_slice(value.as_bytes());
    hash(Kind::Field, &bytes)
}

/// What a text that is looked for needs.
pub fn wanted(text: &str, place: Place) -> Wanted {
    let folded = fold(text);
    let bytes = folded.as_bytes();
    let mut wanted = Wanted::default();
    let opens = matches!(place, Place::Start | Place::Whole);
    let ends = matches!(place, Place::End | Place::Whole);
    let is_cut = |run: &[u8], at: usize| {
        let is_first = at == 0 && !opens;
        let is_last = at + run.len() == bytes.len() && !ends;
        (is_first, is_last)
    };
    each_word(bytes, |word, at| match is_cut(word, at) {
        (false, false) => wanted.words.push(of_word(word)),
        // What follows may make it long enough, and have its digits.
        (false, true) if has_prefix(word) => wanted.words.push(of_prefix(&word[..PREFIX_BYTES])),
        _ => {}
    });
    each_address(bytes, |address, at| {
        if is_cut(address, at) == (false, false) {
            wanted.words.push(of_address(address));
        }
    });
    each_gram(bytes, &mut |gram| wanted.grams.push(gram));
    for terms in [&mut wanted.words, &mut wanted.grams] {
        terms.sort_unstable();
        terms.dedup();
    }
    wanted
}

/// The same text with small letters. Of each letter by itself, whatever stands beside it.
fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return text.to_ascii_lowercase().into();
        }
        return text.into();
    }
    let letters = text.chars().flat_map(|letter| match letter {
        // It is an `s` to whoever does not mind the case, and small already.
        'ſ' => 's'.to_lowercase(),
        letter => letter.to_lowercase(),
    });
    letters.collect::<String>().into()
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn is_of_address(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
}

fn has_prefix(word: &[u8]) -> bool {
    word.len() >= PREFIXED_BYTES_MIN && word[..PREFIX_BYTES].iter().any(u8::is_ascii_digit)
}

fn each_word(text: &[u8], mut tell: impl FnMut(&[u8], usize)) {
    each_run(text, is_of_word, &mut tell);
}

/// Runs of digits and dots with three dots or more between digits.
fn each_address(text: &[u8], mut tell: impl FnMut(&[u8], usize)) {
    if !text.contains(&b'.') {
        return;
    }
    each_run(text, is_of_address, &mut |run, at| {
        if run.len() >= 7 && memchr_iter(b'.', run).count() >= 3 {
            tell(run, at);
        }
    });
}

fn each_run(text: &[u8], is_of: fn(u8) -> bool, tell: &mut impl FnMut(&[u8], usize)) {
    let mut begin = None;
    for (at, &byte) in text.iter().enumerate() {
        match (is_of(byte), begin) {
            (true, None) => begin = Some(at),
            (false, Some(first)) => {
                tell(&text[first..at], first);
                begin = None;
            }
            _ => {}
        }
    }
    if let Some(first) = begin {
        tell(&text[first..], first);
    }
}

fn each_gram(text: &[u8], tell: &mut impl FnMut(Hash)) {
    for gram in text.array_windows::<GRAM_BYTES>() {
        if is_kept(*gram) {
            tell(of_gram(*gram));
        }
    }
}

/// Whether a gram tells anything.
fn is_kept(gram: [u8; GRAM_BYTES]) -> bool {
    let is_plain = gram
        .iter()
        .all(|it| it.is_ascii_digit() || it.is_ascii_lowercase());
    !(is_plain && gram.iter().any(u8::is_ascii_digit))
}

#[derive(Clone, Copy)]
enum Kind {
    Word = 0,
    Prefix = 1,
    Address = 2,
    Field = 3,
}

fn of_word(word: &[u8]) -> Hash {
    hash(Kind::Word, word)
}

fn of_prefix(prefix: &[u8]) -> Hash {
    hash(Kind::Prefix, prefix)
}

fn of_address(address: &[u8]) -> Hash {
    hash(Kind::Address, address)
}

/// Files are read for years: this never changes within a version of the index.
fn hash(kind: Kind, bytes: &[u8]) -> Hash {
    XxHash3_64::oneshot_with_seed(kind as u64, bytes)
}

/// `splitmix64` of the four bytes.
fn of_gram(gram: [u8; GRAM_BYTES]) -> Hash {
    let mut hash = u64::from(u32::from_le_bytes(gram)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn has(text: &str, wanted: &Wanted) -> bool {
        let (mut words, mut grams) = (BTreeSet::new(), BTreeSet::new());
        let mut add_word = |it| {
            words.insert(it);
        };
        let mut add_gram = |it| {
            grams.insert(it);
        };
        of_text(text, &mut add_word, &mut add_gram);
        wanted.words.iter().all(|it| words.contains(it))
            && wanted.grams.iter().all(|it| grams.contains(it))
    }

    #[test]
    fn what_a_text_has_not_is_told_from_it() {
        let line = "GET /Orders/7f3a9c21d04e5b66aa 10.0.0.17 status=500 [Kernel]";
        for (text, place, is_there) in [
            ("orders", Place::Inside, true),
            ("status=500 [kernel", Place::Inside, true),
            ("status=404 [", Place::Inside, false),
            (" 10.0.0.17 ", Place::Inside, true),
            (" 10.0.0.18 ", Place::Inside, false),
            ("/7f3a9c21d04e5b66", Place::Inside, true),
            ("/7f3a9c22d04e5b66", Place::Inside, false),
            ("get", Place::Start, true),
            ("kernel]", Place::End, true),
            ("orderz", Place::Inside, false),
        ] {
            assert_eq!(has(line, &wanted(text, place)), is_there, "{text}");
        }
    }

    #[test]
    fn letters_that_are_the_same_but_for_their_case_are_one_term() {
        for (line, text) in [
            ("DIS\u{212a}", "disk"),
            ("Straſe", "STRASE"),
            ("ΣΑΣ", "σασ"),
        ] {
            assert!(has(line, &wanted(text, Place::Whole)), "{line}");
        }
    }

    proptest! {
        #[test]
        fn i31_a_part_of_a_text_is_found(
            text in "([a-zA-Z0-9_ .:=/-]|[äſKΣ日]){0,60}",
            begin in 0_usize..60,
            length in 0_usize..60,
        ) {
            let letters: Vec<char> = text.chars().collect();
            let begin = begin.min(letters.len());
            let end = (begin + length).min(letters.len());
            let part: String = letters[begin..end].iter().collect();
            for part in [part.clone(), part.to_uppercase(), part.to_lowercase()] {
                // What changes by its case as a whole is another text.
                if !fold(&text).contains(&*fold(&part)) {
                    continue;
                }
                prop_assert!(has(&text, &wanted(&part, Place::Inside)), "{part:?}");
            }
            let start: String = letters[..end].iter().collect();
            prop_assert!(has(&text, &wanted(&start, Place::Start)));
            let rest: String = letters[begin..].iter().collect();
            prop_assert!(has(&text, &wanted(&rest, Place::End)));
            prop_assert!(has(&text, &wanted(&text, Place::Whole)));
        }
    }
}
