//! Which blocks of a file a query reads.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::error::DataFusionError;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use datafusion::parquet::file::metadata::ParquetMetaData;
use object_store::DynObjectStore;
use object_store::path::Path;

use crate::lake::index::bloom;
use crate::lake::index::{Footer, KEY};
use crate::lake::search::{Kind, Search};

/// Asks the indexes of files.
pub(super) struct Pruner {
    store: Arc<DynObjectStore>,
    footers: Arc<FileMetadataCache>,
    search: Search,
}

impl Pruner {
    /// `footers` are those that were read before.
    pub(super) fn new(
        store: Arc<DynObjectStore>,
        footers: Arc<FileMetadataCache>,
        search: Search,
    ) -> Pruner {
        Pruner {
            store,
            footers,
            search,
        }
    }

    /// A file, as far as it may have an answer; `None` where it has none.
    pub(super) async fn prune(&self, file: PartitionedFile) -> Result<Option<PartitionedFile>> {
        if self.search == Search::Anything {
            return Ok(Some(file));
        }
        let metadata = DFParquetMetadata::new(&*self.store, &file.object_meta)
            .with_file_metadata_cache(Some(Arc::clone(&self.footers)))
            .fetch_metadata()
            .await?;
        // A file without an index that is known is read.
        let Some(footer) = footer_of(&metadata, file.object_meta.size) else {
            return Ok(Some(file));
        };
        let blocks = self.blocks(&file.object_meta.location, &footer).await?;
        if !blocks.contains(&true) {
            return Ok(None);
        }
        let rows = metadata.file_metadata().num_rows();
        let rows = usize::try_from(rows).unwrap_or(0);
        let selection = selection(&blocks, footer.block_rows, rows);
        Ok(Some(
            file.with_extension(ParquetRowSelection::new(selection)),
        ))
    }

    async fn blocks(&self, path: &Path, footer: &Footer) -> Result<Vec<bool>> {
        // All rows that a search may ask for, read at once.
        let mut asked = Vec::new();
        self.search.each_term(&mut |kind, hash| {
            let place = match kind {
                Kind::Words => footer.words,
                Kind::Grams => footer.grams,
            };
            if let Some(range) = footer.row_of(place, hash) {
                asked.push(((kind, hash), range));
            }
        });
        asked.sort_unstable_by_key(|(term, _)| *term);
        asked.dedup_by_key(|(term, _)| *term);
        let ranges: Vec<_> = asked.iter().map(|(_, range)| range.clone()).collect();
        let rows = self.store.get_ranges(path, &ranges).await;
        let rows = rows.map_err(|error| DataFusionError::ObjectStore(Box::new(error)))?;
        let mut blocks = vec![true; footer.blocks];
        self.search.retain(&mut blocks, &mut |kind, hash, blocks| {
            let at = asked.binary_search_by_key(&(kind, hash), |(term, _)| *term);
            if let Ok(at) = at {
                bloom::retain(&rows[at], hash, blocks);
            }
        });
        Ok(blocks)
    }
}

fn footer_of(metadata: &ParquetMetaData, bytes: u64) -> Option<Footer> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    let footer = pairs.iter().find(|it| it.key == KEY)?;
    match Footer::parse(footer.value.as_deref()?, bytes) {
        Ok(footer) => Some(footer),
        Err(error) => {
            tracing::warn!(%error, "a file is read without its index");
            None
        }
    }
}

/// The rows of the blocks that are to be read.
fn selection(blocks: &[bool], block_rows: usize, rows: usize) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    for (block, &is_read) in blocks.iter().enumerate() {
        let begin = rows.min(block * block_rows);
        let end = rows.min(begin + block_rows);
        let count = end - begin;
        match selectors.last_mut() {
            Some(last) if last.skip != is_read => last.row_count += count,
            _ if is_read => selectors.push(RowSelector::select(count)),
            _ => selectors.push(RowSelector::skip(count)),
        }
    }
    RowSelection::from(selectors)
}
