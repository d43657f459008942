//! An object store that fails when it is told to: before a request does anything, or after it has done it.

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, memory::InMemory, path::Path,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What becomes of the request that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It never arrived.
    Before,
    /// It was done, and its answer was lost.
    After,
}

/// Requests that change something count from 0; that of number `at` fails, and all after it: the process is dead.
#[derive(Clone, Debug)]
pub(super) struct Faulty {
    pub(super) inner: Arc<InMemory>,
    at: u64,
    failure: Failure,
    count: Arc<AtomicU64>,
    says: &'static str,
}

impl Faulty {
    pub(super) fn new(inner: Arc<InMemory>, at: u64, failure: Failure) -> Faulty {
        Faulty { inner, at, failure, count: Arc::default(), says: "the process is dead" }
    }

    pub(super) fn saying(self, says: &'static str) -> Faulty {
        Faulty { says, ..self }
    }

    /// Requests that changed something, or would have.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn error(&self) -> object_store::Error {
        object_store::Error::Generic { store: "faulty", source: self.says.into() }
    }

    /// The number of the next change, and whether it may happen, and whether it may answer.
    fn next(&self) -> (bool, bool) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        (number < self.at || (number == self.at && self.failure == Failure::After), number < self.at)
    }

    fn dead(&self) -> bool {
        self.count() > self.at
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (happens, answers) = self.next();
        let done = if happens { self.inner.put_opts(path, payload, options).await } else { Err(self.error()) };
        if answers { done } else { Err(self.error()) }
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        if self.dead() { Err(self.error()) } else { self.inner.get_opts(path, options).await }
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (happens, answers) = self.next();
        let error = self.error();
        if happens && answers {
            return self.inner.delete_stream(paths);
        }
        futures::stream::once(async { Err(error) }).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.dead() {
            let error = self.error();
            return futures::stream::once(async { Err(error) }).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
