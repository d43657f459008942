//! Houses and held-out tasks from files: the one reader of files in this stage.
//!
//! In: a file, a folder, or a URL of ProcTHOR houses (`.json` holds one house or a list of them, `.jsonl` one a line, each
//! also as `.gz`), and a frozen file of held-out tasks. Out: the houses that can be used. One that cannot is named with
//! its line, counted and skipped; it is an error if none is left.

use household::{compile, parse};
use schemas::pipeline::EpisodesConfig;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use worlds::{HouseFile, Houses};

/// The most house JSON that is kept, bytes. What comes after is skipped and counted.
const KEPT_BYTES: usize = 1 << 30;
/// The largest object that is fetched from a URL, bytes.
const FETCHED_BYTES: u64 = 4 << 30;
/// The largest file of held-out tasks, bytes.
const TASKS_BYTES: u64 = 256 << 20;
/// How many skipped houses are named; the others are counted.
const NAMED: usize = 20;

/// Why no houses could be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{path}` cannot be read: {source}; hint: episodes.{key} is a path as seen from where the scene-loader runs, or a URL")]
    Unreadable { key: &'static str, path: String, source: std::io::Error },
    #[error("`{url}` cannot be fetched: {reason}")]
    Url { url: String, reason: String },
    #[error("no usable house in `{path}`: {skipped} skipped; the first: {first}")]
    NoneLeft { path: String, skipped: u64, first: String },
    #[error("`{path}` holds no house; hint: a house file ends in .json, .jsonl, .json.gz or .jsonl.gz")]
    Empty { path: String },
}

/// The houses that can be used, and what was left out.
#[derive(Debug, Default)]
pub struct Found {
    pub houses: Houses,
    pub skipped: u64,
    /// The first skipped ones, as `train.jsonl.gz:17: ...`.
    pub named: Vec<String>,
    /// House JSON kept so far, bytes.
    kept: usize,
}

impl Found {
    fn skip(&mut self, line: String) {
        self.skipped += 1;
        if self.named.len() < NAMED {
            self.named.push(line);
        }
    }
}

/// Reads what `episodes.houses` and `episodes.validation_file` name.
///
/// # Errors
/// See [`Error`].
pub fn read(config: &EpisodesConfig) -> Result<Found, Error> {
    let mut found = Found { houses: Houses { generated: config.generated_houses, ..Houses::default() }, ..Found::default() };
    if !config.validation_file.is_empty() {
        found.houses.validation = tasks(&config.validation_file)?;
    }
    let place = config.houses.as_str();
    if place.is_empty() {
        return Ok(found);
    }
    if place.contains("://") && !place.starts_with("file://") {
        let bytes = fetch(place)?;
        read_file(&mut found, place, Cursor::new(bytes), false);
    } else {
        let path = Path::new(place.strip_prefix("file://").unwrap_or(place));
        for file in files(path)? {
            // In a folder, what is named after validation or testing is never trained in.
            let name = file_name(&file.to_string_lossy()).to_string();
            let held_out = path.is_dir() && (name.starts_with("val") || name.starts_with("test"));
            let opened = File::open(&file).map_err(|source| unreadable("houses", &file, source))?;
            read_file(&mut found, &name, opened, held_out);
        }
    }
    if found.houses.train.is_empty() {
        let path = place.to_string();
        return Err(match found.named.first() {
            Some(first) => Error::NoneLeft { path, skipped: found.skipped, first: first.clone() },
            None => Error::Empty { path },
        });
    }
    Ok(found)
}

fn unreadable(key: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Unreadable { key, path: path.display().to_string(), source }
}

/// The file itself, or the house files of a folder by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let metadata = std::fs::metadata(path).map_err(|source| unreadable("houses", path, source))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|source| unreadable("houses", path, source))?;
    let is_house = |p: &PathBuf| {
        let name = p.to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        p.is_file() && (name.ends_with(".jsonl") || name.ends_with(".json"))
    };
    let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|e| e.path()).filter(is_house).collect();
    files.sort();
    Ok(files)
}

fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

fn read_file(found: &mut Found, path: &str, file: impl Read + Send + 'static, held_out: bool) {
    let name = file_name(path).to_string();
    let whole = name.to_lowercase().trim_end_matches(".gz").ends_with(".json");
    if whole {
        return read_whole(found, &name, file, held_out);
    }
    for (line, json) in parse::lines(file) {
        keep(found, format!("{name}:{line}"), json.map_err(|e| e.to_string()), held_out);
    }
}

/// A `.json` file: one house, or a list of houses, over any number of lines.
fn read_whole(found: &mut Found, name: &str, file: impl Read + Send + 'static, held_out: bool) {
    let mut bytes = vec![];
    for (line, part) in parse::lines(file) {
        match part {
            Ok(part) if bytes.len() + part.len() <= FETCHED_BYTES as usize / 4 => bytes.extend(part),
            Ok(_) => return found.skip(format!("{name}:{line}: the file is over {} MiB", FETCHED_BYTES >> 22)),
            Err(error) => return found.skip(format!("{name}:{line}: {error}")),
        }
    }
    if !bytes.trim_ascii_start().starts_with(b"[") {
        return keep(found, format!("{name}:1"), Ok(bytes), held_out);
    }
    match serde_json::from_slice::<Vec<serde_json::Value>>(&bytes) {
        Err(error) => found.skip(format!("{name}:{}: {error}", error.line())),
        Ok(houses) => {
            for (index, house) in houses.iter().enumerate() {
                keep(found, format!("{name}:{}", index + 1), Ok(house.to_string().into_bytes()), held_out);
            }
        }
    }
}

/// Keeps a house that parses and compiles, and skips another.
fn keep(found: &mut Found, origin: String, json: Result<Vec<u8>, String>, held_out: bool) {
    let usable = json.and_then(|json| {
        if found.kept + json.len() > KEPT_BYTES {
            return Err(format!("houses beyond the first {} MiB are not kept", KEPT_BYTES >> 20));
        }
        parse::house(&json).and_then(|house| compile::compile(&house)).map_err(|e| e.to_string())?;
        found.kept += json.len();
        Ok(json)
    });
    match usable {
        Err(error) => found.skip(format!("{origin}: {error}")),
        Ok(json) if held_out => found.houses.held_out.push(HouseFile { origin, json }),
        Ok(json) => found.houses.train.push(HouseFile { origin, json }),
    }
}

/// The lines of a frozen file of held-out tasks.
fn tasks(path: &str) -> Result<Vec<String>, Error> {
    let error = |source| unreadable("validation_file", Path::new(path), source);
    let mut text = String::new();
    File::open(path).map_err(error)?.take(TASKS_BYTES).read_to_string(&mut text).map_err(error)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

/// An object of any store that `object_store` knows; its settings come from the environment, as `AWS_ACCESS_KEY_ID`.
fn fetch(url: &str) -> Result<Vec<u8>, Error> {
    let wrong = |reason: String| Error::Url { url: url.to_string(), reason };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| wrong(e.to_string()))?;
    runtime.block_on(async {
        let parsed = url.parse().map_err(|e| wrong(format!("{e}")))?;
        let settings = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
        let (store, path) = object_store::parse_url_opts(&parsed, settings).map_err(|e| wrong(e.to_string()))?;
        let object = object_store::ObjectStoreExt::get(&store, &path).await.map_err(|e| wrong(e.to_string()))?;
        if object.meta.size > FETCHED_BYTES {
            return Err(wrong(format!("{} bytes are over the bound of {FETCHED_BYTES}", object.meta.size)));
        }
        Ok(object.bytes().await.map_err(|e| wrong(e.to_string()))?.to_vec())
    })
}
