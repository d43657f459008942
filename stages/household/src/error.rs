//! What can be wrong with a house or a task.

use thiserror::Error;

/// Why a house cannot be used. The caller adds which house and line it was.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    #[error("house of {bytes} bytes: at most {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
    #[error("line {line}, column {column}: {what}{key}")]
    Json { line: usize, column: usize, what: String, key: String },
    #[error("`{path}`: {what}")]
    Key { path: String, what: String },
    #[error("schema `{found}` is not read, only `1.0.0`; hint: procthor's upgrade_house_version.py turns 0.0.1 into 1.0.0")]
    Schema { found: String },
    #[error("{what}")]
    Scene { what: String },
    #[error("no episode of bucket `{bucket}` after {tries} tries; hint: ask for another bucket or another house")]
    NoEpisode { bucket: String, tries: u32 },
    #[error("no house after {tries} layouts of seed {seed}")]
    NoHouse { seed: u64, tries: u32 },
}

impl Error {
    pub(crate) fn key(path: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Key { path: path.into(), what: what.into() }
    }
}
