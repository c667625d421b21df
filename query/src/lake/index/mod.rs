//! The search index of a file: which of its blocks may have a text, a word, a field.
//!
//! A block is the rows of a page, [`PAGE_ROWS`] of them. For each there are two filters, of words and of grams
//! ([`terms`]), all filters of one kind in a [`Matrix`](bloom::Matrix). The matrices lie in the Parquet file between
//! the last row group and the footer, where other readers pass them over; the footer's key [`KEY`] has as JSON where
//! they are, a [`Footer`].
//!
//! A question reads one row of a matrix for each term, 32 bytes a block: of a file of a million rows 4 KiB.

pub mod bloom;
pub mod terms;

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use model::log::LogRecord;
use serde::{Deserialize, Serialize};

use crate::limits::{GRAM_BITS, PAGE_ROWS, WORD_BITS};
use bloom::Matrix;
use terms::Hash;

/// The footer's key.
pub const KEY: &str = "weir.index";

/// The version of all that is written here.
pub const VERSION: u32 = 1;

/// Where the index of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footer {
    /// [`VERSION`]. A reader that does not know it has no index.
    pub version: u32,
    /// Rows of a block.
    pub block_rows: usize,
    /// Blocks of the file.
    pub blocks: usize,
    /// The filters of words.
    pub words: Place,
    /// The filters of grams.
    pub grams: Place,
}

/// Where a matrix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its first byte in the file.
    pub offset: u64,
    /// Its rows.
    pub rows: u32,
}

/// A footer that tells of no index that could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIndex {
    /// It is not what a writer puts there.
    #[error("the index's footer is damaged: {0}")]
    Damaged(String),
    /// A later version wrote it.
    #[error("version {0} of the index is not known")]
    Version(u32),
}

impl Footer {
    /// Reads a footer's value. `end` is where the index must end: the start of the Parquet footer.
    pub fn parse(text: &str, end: u64) -> Result<Footer, NoIndex> {
        let damaged = |what: &dyn ToString| NoIndex::Damaged(what.to_string());
        let footer: Footer = serde_json::from_str(text).map_err(|it| damaged(&it))?;
        if footer.version != VERSION {
            return Err(NoIndex::Version(footer.version));
        }
        let end_of = |place: Place| -> Option<u64> {
            let bytes = footer.row_bytes()?.checked_mul(u64::from(place.rows))?;
            place.offset.checked_add(bytes)
        };
        let is_inside = |place| end_of(place).is_some_and(|it| it <= end);
        if footer.block_rows == 0 || !is_inside(footer.words) || !is_inside(footer.grams) {
            return Err(damaged(&"its filters are not in the file"));
        }
        Ok(footer)
    }

    /// The bytes of the file that tell of a hash, for [`bloom::retain`]; `None` where there are no filters.
    pub fn row_of(&self, place: Place, hash: Hash) -> Option<Range<u64>> {
        let bytes = self.row_bytes()?;
        let row = u64::from(bloom::row_of(hash, place.rows));
        (place.rows > 0).then(|| {
            let begin = place.offset + row * bytes;
            begin..begin + bytes
        })
    }

    fn row_bytes(&self) -> Option<u64> {
        u64::try_from(self.blocks)
            .ok()?
            .checked_mul(bloom::BLOCK_BYTES as u64)
    }
}

/// Gathers the terms of rows, in the order in which they are written.
#[derive(Default)]
pub struct Builder {
    words: Vec<Terms>,
    grams: Vec<Terms>,
    rows: usize,
}

/// The index of a file's rows.
pub struct Index {
    /// The filters of words.
    pub words: Matrix,
    /// The filters of grams.
    pub grams: Matrix,
    blocks: usize,
}

type Terms = HashSet<Hash, BuildHasherDefault<AsItIs>>;

/// A hash's hash: itself.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        debug_assert!(false, "only numbers are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Builder {
    /// Adds the next row, and the fields of its stream.
    pub fn add(&mut self, record: &LogRecord<'_>, stream_fields: &[Hash]) {
        if self.rows.is_multiple_of(PAGE_ROWS) {
            self.words.push(Terms::default());
            self.grams.push(Terms::default());
        }
        self.rows += 1;
        let (Some(words), Some(grams)) = (self.words.last_mut(), self.grams.last_mut()) else {
            return;
        };
        words.extend(stream_fields);
        let mut add_gram = |hash| {
            grams.insert(hash);
        };
        let mut add_word = |hash| {
            words.insert(hash);
        };
        each_term(record, &mut add_word, &mut add_gram);
    }

    /// Makes the filters.
    pub fn finish(self) -> Index {
        Index {
            blocks: self.words.len(),
            words: matrix(&self.words, WORD_BITS),
            grams: matrix(&self.grams, GRAM_BITS),
        }
    }
}

impl Index {
    /// What the footer says where its matrices, words first, begin at this byte.
    pub fn footer(&self, offset: u64) -> Footer {
        let words = Place {
            offset,
            rows: self.words.rows(),
        };
        let grams = Place {
            offset: offset + self.words.bytes().len() as u64,
            rows: self.grams.rows(),
        };
        Footer {
            version: VERSION,
            block_rows: PAGE_ROWS,
            blocks: self.blocks,
            words,
            grams,
        }
    }
}

/// Tells the terms of a record, those of its stream apart.
pub(super) fn each_term(
    record: &LogRecord<'_>,
    words: &mut impl FnMut(Hash),
    grams: &mut impl FnMut(Hash),
) {
    for (name, value) in &record.attributes {
        words(terms::of_field(name, value));
    }
    terms::of_text(&record.body, words, grams);
    for id in [&record.trace_id, &record.span_id].into_iter().flatten() {
        terms::of_text(id, words, &mut |_| {});
    }
}

fn matrix(blocks: &[Terms], bits: usize) -> Matrix {
    let most = blocks.iter().map(HashSet::len).max().unwrap_or(0);
    let mut matrix = Matrix::new(blocks.len(), most, bits);
    for (filter, terms) in blocks.iter().enumerate() {
        for &hash in terms {
            matrix.insert(filter, hash);
        }
    }
    matrix
}
