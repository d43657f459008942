//! How an episode, a turn and a try are named, and how seeds are derived from those names.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Which list of episodes an episode belongs to. Numbers count up apart in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// The policy acts, the learner trains.
    Train,
    /// The policy acts on held-out episodes, nothing is trained.
    Val,
    /// The expert acts, the learner imitates.
    Expert,
}

impl Split {
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Expert];

    /// The token that stands for the split in subjects.
    pub fn as_str(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Expert => "expert",
        }
    }
}

impl std::str::FromStr for Split {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Split::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("`{text}` is no split; allowed: train, val, expert"))
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one name of an episode: in subjects, claims, turn ids, seeds and Parquet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EpisodeId {
    pub split: Split,
    /// Dense from 0 within the split.
    pub number: u64,
}

impl fmt::Display for EpisodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.split, self.number)
    }
}

impl std::str::FromStr for EpisodeId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (split, number) =
            text.split_once('.').ok_or_else(|| format!("`{text}` is no episode; it is written SPLIT.NUMBER, as in train.17"))?;
        let number = number.parse().map_err(|_| format!("`{number}` is no episode number"))?;
        Ok(EpisodeId { split: split.parse()?, number })
    }
}

/// Where in a rollout a message belongs. Every message of a rollout carries one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    pub id: EpisodeId,
    /// From 0.
    pub turn: u32,
    /// From 0: how often the episode was begun before. A reply to an older try is dropped.
    pub attempt: u32,
    /// W3C trace context, so that one trace joins the stages.
    pub traceparent: String,
}

/// Derives a seed from a pipeline's seed and names. Never from a run's name, a try, a process or a time.
///
/// The first eight bytes, little endian, of BLAKE3 over the parts, each written as its length and its bytes.
pub fn seed_of(pipeline_seed: u64, parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&pipeline_seed.to_le_bytes());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut first = [0u8; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// Hex BLAKE3: how scenes, pictures, weights and tokenizers are named by content.
pub fn digest_of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
