//! The table `logs` as of one moment: a pinned version of the Delta table, and of each topic-partition what is
//! durable in its log and not in that version.
//!
//! The version is pinned first and the ends of the logs are read afterwards. What is converted in between is in
//! the log still, and not in the version: each record is there once, whatever is sealed meanwhile.
//!
//! Invariant **I33**: a query sees each durable record of the moment when it was pinned once.

use std::sync::Arc;

use async_trait::async_trait;
use commitlog::id::Offset;
use commitlog::log::reader::LogReader;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::DataSourceExec;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::union::UnionExec;
use object_store::path::Path;

use super::hot::HotPartition;
use super::pruning::Pruner;
use crate::error;
use crate::lake::schema;
use crate::lake::search::Search;
use crate::lake::table::{DataFile, Table};

/// The table as of one moment.
#[derive(Debug)]
pub struct LogsTable {
    files: Vec<DataFile>,
    root: Path,
    hot: Vec<HotPartition>,
}

/// A topic-partition whose log is read behind the table.
#[derive(Clone)]
pub struct Source {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// Its log.
    pub log: LogReader,
}

impl LogsTable {
    /// Pins the version that `table` knows, and then the ends of the logs.
    pub fn pin(table: &Table, sources: &[Source]) -> error::Result<LogsTable> {
        let files = table.files()?;
        let mut hot = Vec::new();
        for Source {
            topic,
            partition,
            log,
        } in sources
        {
            let upto = table.converted_upto(topic, *partition)?;
            let upto = upto.and_then(Offset::new).unwrap_or(Offset::ZERO);
            let (from, to) = (upto.max(log.start()), log.durable_end());
            if from < to {
                hot.push(HotPartition::new(topic, *partition, log.clone(), from, to));
            }
        }
        Ok(LogsTable {
            files,
            root: table.root()?,
            hot,
        })
    }

    /// The files of the version, those blocks of them that may have an answer.
    async fn sealed(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let url = ObjectStoreUrl::local_filesystem();
        let store = state.runtime_env().object_store(&url)?;
        let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
        let readers = CachedParquetFileReaderFactory::new(Arc::clone(&store), Arc::clone(&footers));
        let pruner = Pruner::new(store, footers, Search::of(filters));
        let mut files: Vec<PartitionedFile> = Vec::new();
        for file in &self.files {
            files.extend(pruner.prune(self.scanned(file)).await?);
        }
        if files.is_empty() {
            return Ok(None);
        }
        let mut source =
            ParquetSource::new(schema::query()).with_parquet_file_reader_factory(Arc::new(readers));
        if let Some(filter) = conjunction(filters.iter().cloned()) {
            let columns = DFSchema::try_from(schema::query())?;
            source = source.with_predicate(state.create_physical_expr(filter, &columns)?);
        }
        let groups = FileGroup::new(files).split_files(state.config().target_partitions());
        let scan = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(Some(DataSourceExec::from_data_source(scan)))
    }

    /// A file as a scan knows it. None is ever written again under its name, so they have no times.
    fn scanned(&self, file: &DataFile) -> PartitionedFile {
        let mut scanned = PartitionedFile::new("", file.bytes);
        let parts = file.path.split('/');
        scanned.object_meta.location = parts.fold(self.root.clone(), Path::join);
        scanned
    }

    /// What is in the logs alone.
    fn unsealed(&self, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = self.hot.iter().map(|it| Arc::new(it.clone()) as _);
        let partitions: Vec<Arc<dyn PartitionStream>> = partitions.collect();
        let scan =
            StreamingTableExec::try_new(schema::query(), partitions, projection, [], false, None)?;
        Ok(Arc::new(scan))
    }
}

#[async_trait]
impl TableProvider for LogsTable {
    fn schema(&self) -> SchemaRef {
        schema::query()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut plans = Vec::new();
        plans.extend(self.sealed(state, projection, filters, limit).await?);
        if !self.hot.is_empty() {
            plans.push(self.unsealed(projection)?);
        }
        match plans.len() {
            0 => {
                let columns = schema::query();
                let columns = match projection {
                    Some(projection) => Arc::new(columns.project(projection)?),
                    None => columns,
                };
                Ok(Arc::new(EmptyExec::new(columns)))
            }
            1 => Ok(plans.remove(0)),
            _ => UnionExec::try_new(plans),
        }
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // Blocks are left out by them, rows are not.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}
