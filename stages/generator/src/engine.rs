//! The seam between serving prompts and computing replies.
//!
//! In: token ids, a version, how to sample. Out: sampled ids with log-probabilities. What serves prompts knows nothing of
//! how a reply is made; an engine knows nothing of messages, turns or people.

use schemas::Sampling;
use std::sync::Arc;

/// A picture of a prompt, cut into patches.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// BLAKE3 of the encoded picture.
    pub digest: [u8; 32],
    /// First of its tokens.
    pub offset: u32,
    /// Patches: time (1), height, width.
    pub grid: [u32; 3],
    /// As [`context::image::Patches`] has them.
    pub patches: Arc<[u8]>,
    /// The picture as it was encoded.
    pub png: Arc<[u8]>,
}

/// One reply to be sampled.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Names the request until its reply is there.
    pub ticket: u64,
    /// Names the growing segment that this prompt belongs to, so that its keys and values are kept between turns.
    pub rollout: u64,
    /// Names the group, whose members share a prefix.
    pub group: u64,
    pub tokens: Vec<u32>,
    /// In the order of their offsets.
    pub pictures: Vec<Picture>,
    pub version: u64,
    pub sampling: Sampling,
    /// Any one of these ends the reply and is its last token.
    pub stop_ids: Vec<u32>,
}

/// One sampled reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub ticket: u64,
    /// Exactly as sampled, the stop token included where one was sampled.
    pub tokens: Vec<u32>,
    /// One for each token.
    pub logprobs: Vec<f32>,
    /// `(version, count)`: which weights sampled the next `count` tokens.
    pub versions: Vec<(u64, u32)>,
    /// The reply hit its token limit.
    pub cut: bool,
    /// There is no reply, and why.
    pub failed: Option<String>,
}

/// How an engine is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Replies being decoded, and those that wait for room.
    pub running: u64,
    pub kv_used_mib: f64,
    /// Seconds spent computing so far.
    pub computing_s: f64,
}

/// What makes replies.
pub trait Engine: Send {
    /// Whether replies need published weights.
    fn wants_weights(&self) -> bool;
    /// Whether prompts with pictures can be answered.
    fn sees(&self) -> bool;

    /// Whether it is to be given them: one that makes replies without looking need not be.
    fn looks(&self) -> bool {
        self.sees() && self.wants_weights()
    }
    /// Takes a version's weights, a safetensors file. `false`: they are made ready beside the replies, and [`Engine::loaded`] tells
    /// when; until then no others come.
    ///
    /// # Errors
    /// A line that says what is wrong with the file.
    fn load(&mut self, version: u64, weights: Vec<u8>) -> Result<bool, String>;
    /// Whether the version that was being made ready can be asked for now, or why it never can; asked between two steps.
    fn loaded(&mut self) -> Option<Result<(), String>> {
        None
    }
    /// No reply needs this version any more.
    fn drop_version(&mut self, version: u64);
    /// Takes a request. An engine that needs no time gives the reply at once.
    ///
    /// # Errors
    /// The request can never be answered, and why.
    fn submit(&mut self, request: Request) -> Result<Option<Generated>, String>;
    /// One slice of work: some prefill, one decoding step. Replies that are finished come out.
    ///
    /// # Errors
    /// The engine is broken; the process is to end with this line.
    fn step(&mut self) -> Result<Vec<Generated>, String>;
    /// Whether [`Engine::step`] has something to do.
    fn has_work(&self) -> bool;
    /// The rollout will not be continued.
    fn forget(&mut self, rollout: u64);
    fn load_now(&self) -> Load;
}
