//! Where a store lies: a path or an object_store URL, and the run within it.

use crate::{Error, one_line};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, local::LocalFileSystem, memory::InMemory, path::Path};
use std::path::PathBuf;
use std::sync::Arc;

/// An opened place and the run in it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    object: Arc<dyn ObjectStore>,
    base: Path,
    url: String,
    run: String,
    /// The folder, where the store is one.
    folder: Option<PathBuf>,
}

/// What became of a put-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    Written,
    AlreadyThere,
}

impl Store {
    /// Opens a path (made where it is missing) or a URL. Cloud credentials come from the environment, in each cloud's own
    /// variables, as `AWS_ACCESS_KEY_ID`.
    ///
    /// # Errors
    /// [`Error::Location`]: an unknown scheme, a folder that cannot be made, settings that are missing.
    pub fn open(url: &str, run: &str) -> Result<Store, Error> {
        Store::open_or(url, run, true)
    }

    /// As [`Store::open`], for reading: a folder that is not there is an error and is not made.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(url: &str, run: &str) -> Result<Store, Error> {
        Store::open_or(url, run, false)
    }

    fn open_or(url: &str, run: &str, make: bool) -> Result<Store, Error> {
        let location = |reason: String| Error::Location { url: url.into(), reason };
        let scheme = url.split_once(':').map(|(scheme, _)| scheme).filter(|s| s.len() > 1 && s.chars().all(|c| c.is_ascii_alphanumeric()));
        let path = match scheme {
            None => Some(url),
            Some("file") => Some(file_path(url)),
            Some(_) => None,
        };
        if let Some(path) = path {
            let object = Arc::new(open_folder(path, make).map_err(location)?);
            return Ok(Store { folder: Some(path.into()), ..Store::over(object, url, run) });
        }
        if scheme == Some("memory") {
            return Ok(Store::over(Arc::new(InMemory::new()), url, run));
        }
        let parsed = parse(url).map_err(location)?;
        // Names are matched in lower case; anything that is no setting of the cloud in question is passed over.
        let settings = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
        let (object, base) = object_store::parse_url_opts(&parsed, settings).map_err(|e| location(one_line(&e)))?;
        Ok(Store { base, ..Store::over(Arc::from(object), url, run) })
    }

    /// A store over an object store that is open already.
    pub fn over(object: Arc<dyn ObjectStore>, url: &str, run: &str) -> Store {
        Store { object, base: Path::default(), url: url.into(), run: run.into(), folder: None }
    }

    /// The URL or path as it was given.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn run(&self) -> &str {
        &self.run
    }

    fn full(&self, path: &str) -> Path {
        self.base.parts().chain(Path::from(path).parts()).collect()
    }

    /// Writes an object unless there is one of that name. Whole or not at all, and there to stay when this returns: in a
    /// folder it is synced to the disk, so that an entry never outlives the loss of power without its files.
    pub(crate) async fn put(&self, path: &str, bytes: Bytes) -> Result<Put, Error> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.object.put_opts(&self.full(path), PutPayload::from_bytes(bytes), options).await {
            Ok(_) => {
                self.sync(path).map_err(|error| self.write_error(path, &error))?;
                Ok(Put::Written)
            }
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::AlreadyThere),
            Err(error) => Err(self.write_error(path, &error)),
        }
    }

    /// Whether a write that failed has certainly left nothing. A request to a cloud may arrive after its sender gave up.
    pub(crate) fn fails_for_good(&self) -> bool {
        self.folder.is_some()
    }

    /// Syncs a file, and the folders that lead to it as far as this write may have made them.
    fn sync(&self, path: &str) -> std::io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut at = folder.join(path);
        std::fs::File::open(&at)?.sync_all()?;
        // table / run / split / file
        const LEVELS: usize = 4;
        for _ in 0..LEVELS {
            if !at.pop() || !at.starts_with(folder) {
                break;
            }
            std::fs::File::open(&at)?.sync_all()?;
        }
        Ok(())
    }

    /// `None` where there is no such object.
    pub(crate) async fn get(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let read = |error: object_store::Error| self.read_error(path, &error);
        match self.object.get(&self.full(path)).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(read)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(read(error)),
        }
    }

    /// Bytes of an object; `None` where there is none.
    pub(crate) async fn size(&self, path: &str) -> Result<Option<u64>, Error> {
        match self.object.head(&self.full(path)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.read_error(path, &error)),
        }
    }

    /// The object store itself, and an object's name in it.
    pub fn object(&self, path: &str) -> (Arc<dyn ObjectStore>, Path) {
        (self.object.clone(), self.full(path))
    }

    /// The names of the runs that have something committed here, in order.
    ///
    /// # Errors
    /// [`Error::Read`] where the store cannot be listed.
    pub async fn runs(&self) -> Result<Vec<String>, Error> {
        let listed = self.object.list_with_delimiter(Some(&self.full("manifest"))).await;
        let listed = listed.map_err(|error| self.read_error("manifest", &error))?;
        let mut names: Vec<String> = listed.common_prefixes.iter().filter_map(|path| Some(path.filename()?.to_string())).collect();
        names.sort();
        Ok(names)
    }

    /// The same place, another run in it.
    #[must_use]
    pub fn with_run(&self, run: &str) -> Store {
        Store { run: run.into(), ..self.clone() }
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Error> {
        match self.object.delete(&self.full(path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.write_error(path, &error)),
        }
    }

    /// The objects below a folder: paths relative to the store, and how many seconds before `now_us` each was written.
    pub(crate) async fn list(&self, folder: &str, now_us: u64) -> Result<Vec<(String, f64)>, Error> {
        let prefix = self.full(folder);
        let found: Vec<_> = self.object.list(Some(&prefix)).try_collect().await.map_err(|e| self.read_error(folder, &e))?;
        let skipped = self.base.parts().count();
        let mut names = Vec::with_capacity(found.len());
        for meta in found {
            let name = meta.location.parts().skip(skipped).map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/");
            names.push((name, (now_us as f64 - meta.last_modified.timestamp_micros() as f64) / 1e6));
        }
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    fn read_error(&self, path: &str, error: &object_store::Error) -> Error {
        Error::Read { store: self.url.clone(), path: path.into(), reason: one_line(error) }
    }

    fn write_error(&self, path: &str, error: &dyn std::error::Error) -> Error {
        let reason = one_line(error);
        Error::Write { store: self.url.clone(), path: path.into(), hint: hint(&reason), reason }
    }
}

/// What to do about a failed write, by the operating system's or the cloud's own words.
fn hint(reason: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if has(&["No space left", "os error 28", "quota", "Quota"]) {
        "; hint: free some space, or set record.url to another place"
    } else if has(&["Permission denied", "os error 13", "Read-only file system", "PermissionDenied", "AccessDenied", "403"]) {
        "; hint: make it writable for this user, or set record.url to another place"
    } else {
        ""
    }
}

/// The path of a `file:` URL, in any of its spellings: `file:a/b`, `file:///a/b`, `file://localhost/a/b`.
fn file_path(url: &str) -> &str {
    let rest = url.strip_prefix("file:").unwrap_or(url);
    match rest.strip_prefix("//") {
        Some(after) => after.strip_prefix("localhost").filter(|path| path.starts_with('/')).unwrap_or(after),
        None => rest,
    }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn open_folder(path: &str, make: bool) -> Result<LocalFileSystem, String> {
    if path.is_empty() {
        return Err("it names no folder".into());
    }
    if make {
        std::fs::create_dir_all(path).map_err(|error| format!("cannot make the folder: {error}"))?;
    } else if !std::path::Path::new(path).is_dir() {
        return Err("there is no such folder".into());
    }
    LocalFileSystem::new_with_prefix(path).map_err(|error| one_line(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls_in_every_spelling_name_the_path() {
        for (url, path) in [("file:a/b", "a/b"), ("file:///a/b", "/a/b"), ("file:/a", "/a"), ("file://localhost/a/b", "/a/b")] {
            assert_eq!(file_path(url), path);
        }
    }

    #[test]
    fn reading_makes_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing").display().to_string();
        assert!(Store::open_existing(&missing, "r").unwrap_err().to_string().contains("no such folder"));
        Store::open(&missing, "r").unwrap();
        Store::open_existing(&missing, "r").unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_is_refused_in_one_line() {
        for url in ["", "file:", "bogus://x/y", "/dev/null/sub"] {
            let error = Store::open(url, "r").unwrap_err().to_string();
            assert!(error.contains("hint:") && !error.contains('\n'), "{error}");
        }
    }
}
