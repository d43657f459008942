//! What can go wrong in this crate. Every message names the thing at fault and what is allowed instead.

use std::path::{Path, PathBuf};

/// The crate's one error type.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model configuration that is refused.
    #[error("config.json: {0}")]
    Config(String),
    /// A tensor whose shape does not fit the configuration.
    #[error("tensor `{name}`: expected shape {expected:?}, found {found:?}; hint: config.json and the weights are of different models")]
    Shape { name: String, expected: Vec<usize>, found: Vec<usize> },
    /// A tensor that the configuration asks for and the file lacks.
    #[error("tensor `{name}` is missing; expected shape {expected:?}")]
    Missing { name: String, expected: Vec<usize> },
    /// A weights file that cannot be read, or holds what the configuration has no place for.
    #[error("weights: {0}")]
    Weights(String),
    /// A LoRA adapter that is refused.
    #[error("adapter: {0}")]
    Adapter(String),
    /// A request that can never be answered, or names a version that is not held.
    #[error("request {ticket}: {reason}")]
    Request { ticket: u64, reason: String },
    /// A sequence that cannot be trained on.
    #[error("sequence {index}: {reason}")]
    Sequence { index: usize, reason: String },
    /// Options out of range.
    #[error("{0}")]
    Options(String),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// CUDA, beside libtorch: a library that is missing, or a launch that failed.
    #[error("CUDA: {0}")]
    Cuda(String),
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_path_buf(), source }
}
