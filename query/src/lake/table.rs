//! A Delta Lake table, and how far each topic-partition is in it.
//!
//! A file and the offset that its partition is converted up to are one commit: the commit's `txn` has the
//! partition as its application and the offset as its version. So after a crash at any moment the table itself
//! says where to go on, and no record is in it twice. A file that was written and not committed is nobody's;
//! written again it has the same name.
//!
//! Everything here waits for the disk or the network: it is not for an async thread.
//!
//! Invariant **I32**: a record is in the table once, or told as refused or lost, whatever is killed when.
//!
//! Source: Delta Lake protocol, "Transaction Identifiers", "Add File and Remove File".

use std::sync::Arc;

use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::scan::state::ScanFile;
use delta_kernel::snapshot::SnapshotRef;
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::{CommitResult, UpdateTableOperation};
use delta_kernel::{Engine, KernelError, Snapshot};
use delta_kernel_default_engine::DefaultEngine;
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use object_store::DynObjectStore;
use object_store::path::Path;
use url::Url;

use super::file::File;
use super::local::{self, Local};
use super::schema;
use super::statistics::add_action;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{COMMITS_PER_CHECKPOINT, IO_THREADS_MAX};

/// A table of logs.
pub struct Table {
    engine: DefaultEngine<TokioMultiThreadExecutor>,
    location: Url,
    snapshot: SnapshotRef,
}

/// Offsets of a topic-partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offsets {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first.
    pub from: i64,
    /// The first that is not of them.
    pub to: i64,
}

/// A file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Where it is below the table.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
}

impl Table {
    /// Opens the table in a directory of this host, and makes it where there is none.
    pub fn open(location: &Url) -> Result<Table> {
        Table::open_in(Arc::new(Local::default()), location)
    }

    /// The same in a store.
    pub(super) fn open_in(store: Arc<DynObjectStore>, location: &Url) -> Result<Table> {
        let runtime = TokioMultiThreadExecutor::new_owned_runtime(Some(1), Some(IO_THREADS_MAX));
        let runtime = Arc::new(runtime.map_err(told)?);
        let store = DefaultEngine::builder(store);
        let engine = store.with_task_executor(runtime).build();
        let mut location = location.clone();
        if !location.path().ends_with('/') {
            location.set_path(&format!("{}/", location.path()));
        }
        if let Ok(folder) = location.to_file_path() {
            local::create_directory(&folder).map_err(Error::storage)?;
        }
        let latest = || Snapshot::builder_for(location.as_str()).build(&engine);
        let snapshot = match latest() {
            Ok(snapshot) => snapshot,
            Err(error) if is_no_table(&error) => {
                refuse_what_is_there(&location)?;
                let create = create_table(location.as_str(), schema::delta()?, WRITER, true)
                    .build(&engine, Box::new(FileSystemCommitter::new()));
                let created = create.and_then(|it| it.commit(&engine).map(drop));
                // Somebody else may have made it meanwhile.
                latest().map_err(|error| told(created.err().unwrap_or(error)))?
            }
            Err(error) => return Err(told(error)),
        };
        Ok(Table {
            engine,
            location,
            snapshot,
        })
    }

    /// Takes notice of what was committed since.
    pub fn refresh(&mut self) -> Result<()> {
        let snapshot = Snapshot::builder_from(Arc::clone(&self.snapshot));
        self.snapshot = snapshot.build(&self.engine).map_err(told)?;
        Ok(())
    }

    /// The offset up to which a partition is in the table; `None` before the first commit of it.
    pub fn converted_upto(&self, topic: &str, partition: i32) -> Result<Option<i64>> {
        let application = application(topic, partition);
        let upto = self.snapshot.get_app_id_version(&application, &self.engine);
        upto.map_err(told)
    }

    /// Puts records into the table and says that they are: all of `offsets`, of which a file has those that are
    /// log records. `now_ms` is the wall clock's milliseconds.
    ///
    /// A conflict says that the table is not as this one knows it. After [`refresh`](Self::refresh) it is to be
    /// asked again how far the partition is.
    pub fn append(&mut self, offsets: &Offsets, file: Option<File>, now_ms: i64) -> Result<()> {
        let operation = UpdateTableOperation::StreamingUpdate;
        let snapshot = Arc::clone(&self.snapshot);
        let update = snapshot.update_table(operation, WRITER, true);
        let update = update
            .build(&self.engine, Box::new(FileSystemCommitter::new()))
            .map_err(told)?;
        let application = application(&offsets.topic, offsets.partition);
        let mut update = update.with_transaction_id(application, offsets.to);
        if let Some(file) = file {
            let path = path_of(offsets);
            let action = add_action(&path, &file, now_ms)?;
            self.put(&path, file.bytes)?;
            update.add_files(Box::new(action));
        }
        match update.commit(&self.engine).map_err(told)? {
            CommitResult::Committed(committed) => {
                match committed.post_commit_snapshot() {
                    Some(snapshot) => self.snapshot = Arc::clone(snapshot),
                    None => self.refresh()?,
                }
                let commits = committed.post_commit_stats().commits_since_checkpoint;
                if commits >= COMMITS_PER_CHECKPOINT {
                    self.write_checkpoint();
                }
                Ok(())
            }
            CommitResult::Conflicted(conflict) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "somebody else has made version {}",
                    conflict.conflict_version()
                ),
            )),
            CommitResult::Retryable(failed) => Err(Error::storage(failed.error)),
        }
    }

    /// The table's files.
    pub fn files(&self) -> Result<Vec<DataFile>> {
        let scan = Arc::clone(&self.snapshot)
            .scan_builder()
            .build()
            .map_err(told)?;
        let mut files = Vec::new();
        for part in scan.scan_metadata(&self.engine).map_err(told)? {
            let part = part.map_err(told)?;
            files = part.visit_scan_files(files, take_file).map_err(told)?;
        }
        Ok(files)
    }

    /// Where it lies, from the root of its store on.
    pub fn root(&self) -> Result<Path> {
        Path::from_url_path(self.location.path()).map_err(Error::storage)
    }

    /// The table's version.
    pub fn version(&self) -> u64 {
        self.snapshot.version()
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let place = self.location.join(path).map_err(Error::storage)?;
        let store = self.engine.storage_handler();
        store.put(&place, bytes.into(), true).map_err(told)
    }

    /// Opening a table reads all commits since the last one. Where it fails the commits are there all the same.
    fn write_checkpoint(&mut self) {
        match self.snapshot.checkpoint(&self.engine, None) {
            Ok((_, snapshot)) => self.snapshot = snapshot,
            Err(error) => tracing::warn!(%error, "no checkpoint of a table"),
        }
    }
}

fn take_file(files: &mut Vec<DataFile>, file: ScanFile) {
    files.push(DataFile {
        path: file.path,
        bytes: u64::try_from(file.size).unwrap_or(0),
        rows: file.stats.map_or(0, |it| it.num_records),
    });
}

/// What a partition is called in transactions.
fn application(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// Where the records of these offsets are. The same for the same offsets.
fn path_of(offsets: &Offsets) -> String {
    let Offsets {
        topic,
        partition,
        from,
        to,
    } = offsets;
    format!("{topic}/{partition}-{from:020}-{to:020}.parquet")
}

/// What is missing is not empty: a folder with files and without the table's log has lost it.
fn refuse_what_is_there(location: &Url) -> Result<()> {
    let Ok(folder) = location.to_file_path() else {
        return Ok(());
    };
    for entry in std::fs::read_dir(&folder).map_err(Error::storage)? {
        let name = entry.map_err(Error::storage)?.file_name();
        if name != "_delta_log" {
            let message = format!(
                "`{}` holds `{}` and no table: restore its `_delta_log`, or give an empty folder",
                folder.display(),
                name.display()
            );
            return Err(Error::new(ErrorKind::Damaged, message));
        }
    }
    Ok(())
}

fn is_no_table(error: &KernelError) -> bool {
    matches!(error, KernelError::EmptyLog | KernelError::FileNotFound(_))
}

pub(super) fn told(error: KernelError) -> Error {
    let kind = match error {
        KernelError::MalformedJson(_) | KernelError::Parquet(_) => ErrorKind::Damaged,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, error)
}

/// What the table's history says of who wrote it.
const WRITER: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));
