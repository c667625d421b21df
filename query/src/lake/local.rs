//! A local file system whose objects are durable once they are there: content and name are fsynced before a
//! put is answered, so that a commit never names a file that a power cut takes back, and no part of a file
//! is ever seen under its name.
//!
//! Crate `object_store` has such a store without the fsync; it lists and reads here, and leaves out the names
//! that files bear while they are written, `NAME#N`.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path as OsPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

/// The file system from its root on.
#[derive(Debug, Default)]
pub struct Local {
    files: LocalFileSystem,
}

/// An object that comes in parts. It is put whole.
#[derive(Debug)]
struct Upload {
    path: PathBuf,
    parts: Vec<PutPayload>,
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local disk")
    }
}

#[async_trait]
impl ObjectStore for Local {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let path = self.files.path_to_filesystem(location)?;
        put(path, vec![payload], options.mode).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload {
            path: self.files.path_to_filesystem(location)?,
            parts: Vec::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await?;
        let path = self.files.path_to_filesystem(to)?;
        blocking(to.to_string(), move || {
            File::open(&path)?.sync_all()?;
            sync_directory(&path)
        })
        .await
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        self.parts.push(part);
        std::future::ready(Ok(())).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let parts = std::mem::take(&mut self.parts);
        put(self.path.clone(), parts, PutMode::Overwrite).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}

async fn put(path: PathBuf, parts: Vec<PutPayload>, mode: PutMode) -> Result<PutResult> {
    let place = path.display().to_string();
    let is_new = match mode {
        PutMode::Overwrite => false,
        PutMode::Create => true,
        PutMode::Update(_) => {
            return Err(Error::NotImplemented {
                operation: "an update that depends on the object".to_owned(),
                implementer: "local disk".to_owned(),
            });
        }
    };
    blocking(place, move || write(&path, &parts, is_new)).await?;
    Ok(PutResult {
        e_tag: None,
        version: None,
    })
}

fn write(path: &OsPath, parts: &[PutPayload], is_new: bool) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        create_directory(directory)?;
    }
    let staged = staged(path);
    let written = File::create_new(&staged).and_then(|mut file| {
        for piece in parts.iter().flatten() {
            file.write_all(piece)?;
        }
        file.sync_all()?;
        if is_new {
            // A rename would replace what somebody else put there.
            std::fs::hard_link(&staged, path)
        } else {
            std::fs::rename(&staged, path)
        }
    });
    if is_new || written.is_err() {
        match std::fs::remove_file(&staged) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(path = %staged.display(), %error, "a file that is not needed stays");
            }
            _ => {}
        }
    }
    written?;
    sync_directory(path)
}

/// A name for a file that is being written. Another process may write the same one, or have died at it.
fn staged(path: &OsPath) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = u64::from(std::process::id());
    let number = process * 1_000_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000_000;
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{number}"));
    PathBuf::from(name)
}

/// Makes a directory and those above it, each durable.
pub(super) fn create_directory(path: &OsPath) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Ok(()) => sync_directory(path),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_directory(path.parent().ok_or(error)?)?;
            create_directory(path)
        }
        Err(error) => Err(error),
    }
}

/// Makes a name durable.
fn sync_directory(path: &OsPath) -> io::Result<()> {
    let directory = path.parent().unwrap_or(OsPath::new("/"));
    File::open(directory)?.sync_all()
}

async fn blocking(
    path: String,
    work: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<()> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(io::Error::other).flatten();
    done.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::AlreadyExists {
            path,
            source: error.into(),
        },
        ErrorKind::PermissionDenied => Error::PermissionDenied {
            path,
            source: error.into(),
        },
        _ => Error::Generic {
            store: "local disk",
            source: error.into(),
        },
    })
}
