//! The small facts that must survive: committed offsets, join tokens, agents.
//!
//! One redb database, `data_dir/meta.redb`. Every call that changes something has fsynced it when it
//! returns. Calls wait for the disk: run them where that is allowed (`blocking.rs`).
//!
//! Damage is never read as emptiness: a file that fails its checksums is an error that says what to
//! do, and a write that failed is retried on a database opened anew. After a failed fsync nothing
//! more is written until the process starts again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use commitlog::error::{Error, ErrorKind, Result};
use commitlog::id::{Offset, TopicPartition};
use commitlog::storage::{OpenMode, Storage, temporary_name};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

mod backend;
#[cfg(test)]
mod tests;

use backend::StorageFile;

/// The database.
pub struct Meta {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    database: Mutex<Handle>,
    sync_failed: Arc<AtomicBool>,
}

/// The database, and the one before it.
#[derive(Default)]
struct Handle {
    /// `None` after a failure, until a later call opens it again.
    open: Option<Arc<Database>>,
    /// What failed. While a call still uses it nothing else may be opened: two databases on one file
    /// would write over each other.
    failed: Option<Arc<Database>>,
}

/// What a group has committed.
pub type GroupOffsets = Vec<(TopicPartition, Offset)>;

/// A kind of record that is kept under a text key, as JSON.
pub trait Record: Serialize + DeserializeOwned {
    /// Where.
    const TABLE: TableDefinition<'static, &'static str, &'static [u8]>;
}

/// A change in progress: all of it happens, or nothing.
pub struct Change {
    transaction: WriteTransaction,
    path: PathBuf,
}

const OFFSETS: TableDefinition<'static, (&str, &str), i64> = TableDefinition::new("offsets");

impl Meta {
    /// Opens the database, or makes it when there is none.
    pub fn open(storage: Arc<dyn Storage>, path: &Path) -> Result<Meta> {
        let meta = Meta {
            storage,
            path: path.to_owned(),
            database: Mutex::default(),
            sync_failed: Arc::default(),
        };
        meta.database()?;
        Ok(meta)
    }

    /// Why nothing can be written any more, where that is so.
    pub fn failure(&self) -> Option<String> {
        let failed = self.sync_failed.load(Ordering::Acquire);
        failed.then(|| {
            format!(
                "{}: an earlier fsync failed; check the disk, then restart the aggregator",
                self.path.display()
            )
        })
    }

    /// Commits a group's offsets.
    pub fn put_offsets(&self, group: &str, offsets: &[(TopicPartition, Offset)]) -> Result<()> {
        self.change(|change| {
            let mut table = change
                .transaction
                .open_table(OFFSETS)
                .map_err(|e| change.wrong(e))?;
            for (partition, offset) in offsets {
                let key = (group, &*partition.to_string());
                table
                    .insert(key, offset.get())
                    .map_err(|e| change.wrong(e))?;
            }
            Ok(())
        })
    }

    /// What each group has committed, by group.
    pub fn offsets(&self) -> Result<Vec<(String, GroupOffsets)>> {
        let mut groups: Vec<(String, GroupOffsets)> = Vec::new();
        self.each_offset(|group, partition, offset| match groups.last_mut() {
            Some((last, offsets)) if last == group => offsets.push((partition, offset)),
            _ => groups.push((group.to_owned(), vec![(partition, offset)])),
        })?;
        Ok(groups)
    }

    /// One record.
    pub fn record<R: Record>(&self, key: &str) -> Result<Option<R>> {
        let database = self.database()?;
        let transaction = database
            .begin_read()
            .map_err(|e| self.failed(&database, e))?;
        match transaction.open_table(R::TABLE) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            table => find(
                &self.path,
                &table.map_err(|e| self.failed(&database, e))?,
                key,
            ),
        }
    }

    /// Every record of a kind, by key.
    pub fn records<R: Record>(&self) -> Result<Vec<(String, R)>> {
        let database = self.database()?;
        let transaction = database
            .begin_read()
            .map_err(|e| self.failed(&database, e))?;
        match transaction.open_table(R::TABLE) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
            table => list(&self.path, &table.map_err(|e| self.failed(&database, e))?),
        }
    }

    /// Reads and writes in one step: durable as a whole when it returns, undone when `work` fails.
    pub fn change<T, E: From<Error>>(
        &self,
        work: impl FnOnce(&Change) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let database = self.database()?;
        let transaction = database
            .begin_write()
            .map_err(|e| self.failed(&database, e))?;
        let change = Change {
            transaction,
            path: self.path.clone(),
        };
        let result = work(&change)?;
        change
            .transaction
            .commit()
            .map_err(|e| self.failed(&database, e))?;
        Ok(result)
    }

    fn each_offset(&self, mut visit: impl FnMut(&str, TopicPartition, Offset)) -> Result<()> {
        let database = self.database()?;
        let transaction = database
            .begin_read()
            .map_err(|e| self.failed(&database, e))?;
        let table = match transaction.open_table(OFFSETS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            table => table.map_err(|e| self.failed(&database, e))?,
        };
        for entry in table
            .range::<(&str, &str)>(..)
            .map_err(|e| self.failed(&database, e))?
        {
            let (key, offset) = entry.map_err(|e| self.failed(&database, e))?;
            let (group, partition) = key.value();
            let offset = Offset::new(offset.value()).ok_or_else(|| damaged(&self.path))?;
            visit(group, partition.parse()?, offset);
        }
        Ok(())
    }

    /// The open database, opened again after a failure.
    fn database(&self) -> Result<Arc<Database>> {
        if let Some(failure) = self.failure() {
            return Err(Error::new(ErrorKind::Closed, failure));
        }
        let mut handle = self.handle();
        if let Some(database) = &handle.open {
            return Ok(Arc::clone(database));
        }
        if handle
            .failed
            .as_ref()
            .is_some_and(|it| Arc::strong_count(it) > 1)
        {
            return Err(wrong(&self.path, redb::Error::PreviousIo));
        }
        // It writes once more when it is dropped.
        drop(handle.failed.take());
        self.make_if_missing()?;
        let database = Arc::new(self.open_at(&self.path)?);
        handle.open = Some(Arc::clone(&database));
        Ok(database)
    }

    /// A panic while it was held leaves it whole: each change is a single assignment.
    fn handle(&self) -> MutexGuard<'_, Handle> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an empty database beside its place and moves it there when it is whole: a file that is
    /// there and cannot be read is damaged, never new.
    fn make_if_missing(&self) -> Result<()> {
        let told = |error| Error::io(self.path.display().to_string(), error);
        match self.storage.open(&self.path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(drop).map_err(told),
        }
        if self.ran_before().map_err(told)? {
            return Err(Error::damaged(format!(
                "{path} is missing where an aggregator has run before: restore it from a backup, or \
                 make it an empty file (`truncate -s 0 {path}`) to {START_OVER}",
                path = self.path.display()
            )));
        }
        let beside = temporary_name(&self.path);
        match self.storage.remove(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(told(error)),
            _ => {}
        }
        drop(self.open_at(&beside)?);
        self.storage.rename(&beside, &self.path).map_err(told)?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        self.storage.sync_dir(dir).map_err(told)
    }

    /// Whether something lies beside the file that is made only after it.
    fn ran_before(&self) -> io::Result<bool> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let found = self.storage.list(dir)?;
        Ok(found.iter().any(|entry| entry.name == MADE_LATER))
    }

    fn open_at(&self, path: &Path) -> Result<Database> {
        let file = StorageFile::open(&*self.storage, path, Arc::clone(&self.sync_failed))?;
        Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(file)
            .map_err(|error| wrong(path, error.into()))
    }

    /// What a failure means; once no call uses this database any more, the next opens it anew.
    fn failed(&self, database: &Arc<Database>, error: impl Into<redb::Error>) -> Error {
        let mut handle = self.handle();
        if handle
            .open
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(it, database))
        {
            handle.failed = handle.open.take();
        }
        drop(handle);
        wrong(&self.path, error.into())
    }
}

impl Change {
    /// One record.
    pub fn record<R: Record>(&self, key: &str) -> Result<Option<R>> {
        let table = self
            .transaction
            .open_table(R::TABLE)
            .map_err(|e| self.wrong(e))?;
        find(&self.path, &table, key)
    }

    /// Every record of a kind, by key.
    pub fn records<R: Record>(&self) -> Result<Vec<(String, R)>> {
        let table = self
            .transaction
            .open_table(R::TABLE)
            .map_err(|e| self.wrong(e))?;
        list(&self.path, &table)
    }

    /// Writes a record, over the one that is there.
    pub fn put<R: Record>(&self, key: &str, record: &R) -> Result<()> {
        let bytes = serde_json::to_vec(record).map_err(|e| Error::input(e.to_string()))?;
        let mut table = self
            .transaction
            .open_table(R::TABLE)
            .map_err(|e| self.wrong(e))?;
        table.insert(key, &*bytes).map_err(|e| self.wrong(e))?;
        Ok(())
    }

    /// Removes a record.
    pub fn remove<R: Record>(&self, key: &str) -> Result<()> {
        let mut table = self
            .transaction
            .open_table(R::TABLE)
            .map_err(|e| self.wrong(e))?;
        table.remove(key).map_err(|e| self.wrong(e))?;
        Ok(())
    }

    fn wrong(&self, error: impl Into<redb::Error>) -> Error {
        wrong(&self.path, error.into())
    }
}

fn find<R: Record>(
    path: &Path,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<R>> {
    let found = table.get(key).map_err(|e| wrong(path, e.into()))?;
    found.map(|bytes| read(path, bytes.value())).transpose()
}

fn list<R: Record>(
    path: &Path,
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<(String, R)>> {
    let mut found = Vec::new();
    for entry in table.iter().map_err(|e| wrong(path, e.into()))? {
        let (key, bytes) = entry.map_err(|e| wrong(path, e.into()))?;
        found.push((key.value().to_owned(), read(path, bytes.value())?));
    }
    Ok(found)
}

fn read<R: Record>(path: &Path, bytes: &[u8]) -> Result<R> {
    serde_json::from_slice(bytes).map_err(|_| damaged(path))
}

fn wrong(path: &Path, error: redb::Error) -> Error {
    match error {
        redb::Error::Io(error) => Error::io(path.display().to_string(), error),
        redb::Error::PreviousIo => Error::new(
            ErrorKind::Retry,
            format!("{}: an earlier write failed", path.display()),
        ),
        redb::Error::Corrupted(_) => damaged(path),
        error => Error::new(ErrorKind::Closed, format!("{}: {error}", path.display())),
    }
}

fn damaged(path: &Path) -> Error {
    Error::damaged(format!(
        "{path} is damaged: restore it from a backup, or empty it (`truncate -s 0 {path}`) to \
         {START_OVER}",
        path = path.display()
    ))
}

/// What an operator who gives the file up agrees to.
const START_OVER: &str = "start without committed offsets, tokens and revocations";

/// What an aggregator makes in its data directory after this database.
const MADE_LATER: &str = "admin.token";

/// A few thousand agents and groups fit; the kernel caches the rest.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
