//! A store that fails at a put of the test's choice, before it is done or after.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::local::Local;

/// The local disk, with one failure.
#[derive(Debug)]
pub(super) struct Faulty {
    disk: Local,
    puts: AtomicUsize,
    fails_at: usize,
    when: When,
}

/// When a put fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Nothing was done.
    Before,
    /// It was done, and nobody is told.
    After,
}

impl Faulty {
    /// Fails at the put of this number, from 0 on.
    pub(super) fn new(fails_at: usize, when: When) -> Faulty {
        Faulty {
            disk: Local::default(),
            puts: AtomicUsize::new(0),
            fails_at,
            when,
        }
    }

    /// Whether it has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.puts.load(Ordering::Relaxed) > self.fails_at
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a disk that fails")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fails = self.puts.fetch_add(1, Ordering::Relaxed) == self.fails_at;
        if fails && self.when == When::Before {
            return Err(failed());
        }
        let done = self.disk.put_opts(location, payload, options).await;
        if fails { Err(failed()) } else { done }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.disk.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.disk.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.disk.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.disk.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.disk.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.disk.copy_opts(from, to, options).await
    }
}

fn failed() -> Error {
    Error::Generic {
        store: "a disk that fails",
        source: "it was the test's wish".into(),
    }
}
