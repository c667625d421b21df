//! Every limit, with its reason.

/// Rows of a row group. A reader holds one in memory; what is skipped is skipped by pages below it.
pub const ROW_GROUP_ROWS: usize = 131_072;

/// Rows of a page, the least that is read. Pages of all columns end at the same rows, and so do the blocks of
/// the search index.
pub const PAGE_ROWS: usize = 8192;

/// Bytes of a page. Lines compress 15 times in 4 MiB, 11.7 times in 256 KiB.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of a dictionary page, behind which a column is written without one.
pub const DICTIONARY_BYTES: usize = 1024 * 1024;

/// The widest bucket of time whose rows are sorted by stream: the newest rows of a file are few buckets.
pub const BUCKET_NANOS: i64 = 5 * 60 * 1_000_000_000;

/// Values are kept in pieces of this size until they are written; a longer one has its own.
pub const VALUES_BYTES: usize = 8 * 1024 * 1024;

/// Header blocks whose meaning is remembered; those that differ in every record are not worth more.
pub const HEADERS_KNOWN_MAX: usize = 16_384;

/// Bytes of a minimum or maximum in a table's statistics. Longer ones are cut.
pub const STATISTICS_BYTES: usize = 64;

/// Bits of a term in the index's filters of words: one filter of two thousand has a word that it has not.
pub const WORD_BITS: usize = 16;

/// The same in the filters of grams. A question asks for many of them, so each may err more often.
pub const GRAM_BITS: usize = 10;

/// Bytes of batches that are read from a log at a time.
pub const SEAL_READ_BYTES: usize = 4 * 1024 * 1024;

/// Commits after which a checkpoint is written: opening a table reads at most so many.
pub const COMMITS_PER_CHECKPOINT: u64 = 20;

/// Threads that wait for the disk on behalf of a table.
pub const IO_THREADS_MAX: usize = 4;

/// Alternatives of a condition that are asked of the search index; more are not asked.
pub const SEARCH_PARTS_MAX: usize = 64;

/// Bytes of batches that a query reads from a log at a time.
pub const HOT_READ_BYTES: usize = 1024 * 1024;

/// Rows that a query takes at a time of what is not sealed.
pub const HOT_ROWS: usize = 8192;

/// Such pieces that are read ahead of a query.
pub const HOT_BATCHES_AHEAD: usize = 2;
