//! Split-block Bloom filters of one size, stored side by side: all that a question needs of a thousand filters
//! lies in one place.
//!
//! A filter is `rows` blocks of 256 bits; a hash sets eight bits of one block. The matrix has block `j` of every
//! filter in its row `j`, 32 bytes each: whether a term may be in the filters is one read of `32 × filters` bytes.
//!
//! Source: Apache Parquet, `BloomFilter.md`, "Technical Approach".

use super::terms::Hash;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 32;

/// Filters side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// How many filters there are.
    filters: usize,
    /// How many blocks each has.
    rows: u32,
    bytes: Vec<u8>,
}

impl Matrix {
    /// Empty filters for at most `terms` terms each, of which `bits` bits are kept for each.
    pub fn new(filters: usize, terms: usize, bits: usize) -> Matrix {
        let rows = (terms * bits).div_ceil(BLOCK_BYTES * 8).max(1);
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        Matrix {
            filters,
            rows,
            bytes: vec![0; rows as usize * filters * BLOCK_BYTES],
        }
    }

    /// Puts a term into a filter.
    pub fn insert(&mut self, filter: usize, hash: Hash) {
        let row = row_of(hash, self.rows) as usize;
        let begin = (row * self.filters + filter) * BLOCK_BYTES;
        let block = &mut self.bytes[begin..begin + BLOCK_BYTES];
        for (byte, bits) in block.iter_mut().zip(mask(hash)) {
            *byte |= bits;
        }
    }

    /// How many blocks each filter has.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// All of it, row by row.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The row that tells of a hash.
pub fn row_of(hash: Hash, rows: u32) -> u32 {
    let row = ((hash >> 32) * u64::from(rows)) >> 32;
    u32::try_from(row).unwrap_or(0)
}

/// Takes from `candidates` the filters that surely do not have the hash. `row` is the row that tells of it.
pub fn retain(row: &[u8], hash: Hash, candidates: &mut [bool]) {
    let mask = mask(hash);
    for (block, is_candidate) in row.chunks_exact(BLOCK_BYTES).zip(candidates) {
        *is_candidate &= block
            .iter()
            .zip(mask)
            .all(|(byte, bits)| byte & bits == bits);
    }
}

/// The bits of a block that a hash sets.
fn mask(hash: Hash) -> [u8; BLOCK_BYTES] {
    let low = u32::try_from(hash & 0xffff_ffff).unwrap_or(0);
    let mut mask = [0; BLOCK_BYTES];
    for (word, salt) in mask.chunks_exact_mut(4).zip(SALT) {
        let bit = low.wrapping_mul(salt) >> 27;
        word.copy_from_slice(&(1_u32 << bit).to_le_bytes());
    }
    mask
}

const SALT: [u32; 8] = [
    0x47b6_137b,
    0x4497_4d91,
    0x8824_ad5b,
    0xa2b7_289d,
    0x7054_95c7,
    0x2df1_424b,
    0x9efc_4947,
    0x5c6b_fb31,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Which filters may have a hash.
    fn found(matrix: &Matrix, hash: Hash) -> Vec<bool> {
        let width = matrix.filters * BLOCK_BYTES;
        let row = row_of(hash, matrix.rows()) as usize;
        let mut candidates = vec![true; matrix.filters];
        retain(
            &matrix.bytes()[row * width..][..width],
            hash,
            &mut candidates,
        );
        candidates
    }

    /// Every hash twice as far from the one before.
    fn hashes(seed: u64) -> impl Iterator<Item = Hash> {
        (0..5000_u64).map(move |n| (n + seed * 5000).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn what_is_in_a_filter_is_found_and_little_else() {
        let mut matrix = Matrix::new(3, 5000, 16);
        for filter in [0, 2] {
            for hash in hashes(filter as u64) {
                matrix.insert(filter, hash);
            }
        }
        for filter in [0, 2] {
            let filters = hashes(filter as u64).map(|hash| found(&matrix, hash));
            assert!(filters.into_iter().all(|found| found[filter]));
        }
        let false_positives = hashes(9).filter(|&hash| found(&matrix, hash)[0]).count();
        assert!(false_positives < 25, "{false_positives} of 5000");
        assert!(hashes(0).all(|hash| !found(&matrix, hash)[1]));
    }

    #[test]
    fn a_filter_of_nothing_has_a_block() {
        let matrix = Matrix::new(1, 0, 16);
        assert_eq!((matrix.rows(), matrix.bytes().len()), (1, 32));
    }
}
