//! A Parquet file of sorted rows.
//!
//! Row groups of [`ROW_GROUP_ROWS`], pages of [`PAGE_ROWS`] in all columns. zstd level 1. Lines have no dictionary;
//! what repeats has one. Behind the row groups lies the [`index`](super::index). The file says nothing of Arrow, so that every reader sees plain Parquet types.
//!
//! Source: Apache Parquet, `parquet.thrift`.

use std::collections::BTreeSet;

use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use datafusion::parquet::basic::{Compression, Encoding, ZstdLevel};
use datafusion::parquet::file::metadata::KeyValue;
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use datafusion::parquet::schema::types::ColumnPath;

use super::columns::{Columns, Refused};
use super::index::{self, Index};
use super::rows::Sorted;
use super::schema::arrow;
use super::statistics::Statistics;
use crate::error::{Error, Result};
use crate::limits::{DICTIONARY_BYTES, PAGE_BYTES, PAGE_ROWS, ROW_GROUP_ROWS, STATISTICS_BYTES};

/// A file that is to be put in a table.
#[derive(Debug, Clone)]
pub struct File {
    /// Its content.
    pub bytes: Vec<u8>,
    /// What the table tells of it, so that readers can pass it over.
    pub statistics: Statistics,
}

/// Writes rows as a file. What is no log record is left out and told; `None` where nothing else is there.
pub fn write(rows: &Sorted, refused: &mut Vec<Refused>) -> Result<Option<File>> {
    let options = ArrowWriterOptions::new()
        .with_properties(properties())
        .with_skip_arrow_metadata(true);
    let mut writer =
        ArrowWriter::try_new_with_options(Vec::new(), arrow(), options).map_err(Error::storage)?;
    let columns = Columns::new(rows);
    let before = refused.len();
    let mut index = index::Builder::default();
    let mut begin = 0;
    while begin < rows.len() {
        let end = rows.len().min(begin + ROW_GROUP_ROWS);
        let batch = columns.batch(begin..end, Some(&mut index), refused)?;
        writer.write(&batch).map_err(Error::storage)?;
        begin = end;
    }
    let written = rows.len() - (refused.len() - before);
    let refused: BTreeSet<i64> = refused[before..].iter().map(|it| it.offset).collect();
    put_index(&mut writer, &index.finish())?;
    let bytes = writer.into_inner().map_err(Error::storage)?;
    Ok((written > 0).then(|| File {
        bytes,
        statistics: Statistics::of(rows, &refused),
    }))
}

/// Puts the index behind the row groups, and where it is into the footer.
fn put_index(writer: &mut ArrowWriter<Vec<u8>>, index: &Index) -> Result<()> {
    writer.flush().map_err(Error::storage)?;
    let footer = index.footer(writer.bytes_written() as u64);
    for matrix in [&index.words, &index.grams] {
        writer.write_all(matrix.bytes()).map_err(Error::storage)?;
    }
    let footer = serde_json::to_string(&footer).map_err(Error::storage)?;
    writer.append_key_value_metadata(KeyValue::new(index::KEY.to_owned(), footer));
    Ok(())
}

fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(1).expect("zstd has a level 1");
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("weir ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(PAGE_ROWS)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_column_index_truncate_length(Some(STATISTICS_BYTES));
    for name in ["time", "time_unix_nano", "offset"] {
        let column = ColumnPath::from(name);
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    for name in ["body", "trace_id", "span_id"] {
        properties = properties.set_column_dictionary_enabled(name.into(), false);
    }
    // The least and the greatest line tell nothing.
    properties
        .set_column_statistics_enabled("body".into(), EnabledStatistics::None)
        .build()
}
