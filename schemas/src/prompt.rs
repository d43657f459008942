//! `Prompt`: a segment that ends where the reply is to start, on its way to the generator that holds its prefix.

use crate::{Address, Frame, Message, Observation, PolicyPin, Segment, segment::example_segment};
use serde::{Deserialize, Serialize};

/// How a reply is sampled. In episodes that are trained on, `top_p = 1`, `top_k = 0` and `min_p = 0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// A function of the pipeline's seed, split, episode and turn.
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the smallest set of tokens whose probabilities reach this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens with at least this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// `min(turn limit, what is left)`, worked out before sampling.
    pub max_tokens: u32,
    /// Text that ends the reply, found also across token borders. Empty for most policies.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { seed: 0, temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, max_tokens: 16, stop: vec![] }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    pub at: Address,
    pub group: u64,
    pub stepper: String,
    pub policy: PolicyPin,
    /// Ends at `prompt_end`, which equals its length.
    pub segment: Segment,
    /// This turn's pictures; earlier ones go by digest.
    pub frames: Vec<Frame>,
    /// Token ids of which any one ends the reply.
    pub stop_ids: Vec<u32>,
    pub sampling: Sampling,
    /// Time spent so far, for `errand trace`: `(stage, arrived, left)` in Unix microseconds.
    pub trail: Vec<(String, u64, u64)>,
}

impl Message for Prompt {
    const NAME: &'static str = "Prompt";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 64 << 20;

    fn example() -> Self {
        let Observation { at, group, stepper, policy, frames, sampling, .. } = Observation::example();
        let trail = vec![("prompt-renderer".to_string(), 1_700_000_000_000_100, 1_700_000_000_000_150)];
        Prompt { at, group, stepper, policy, segment: example_segment(), frames, stop_ids: vec![3], sampling, trail }
    }
}
