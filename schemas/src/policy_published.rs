//! `PolicyPublished`: new weights are in the object store.

use crate::Message;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPublished {
    /// Counts up and never goes back, over restarts too.
    pub version: u64,
    /// Optimiser steps taken.
    pub step: u64,
    /// Batches trained: staleness counts these.
    pub batch: u64,
    /// The object's name in the run's artifacts bucket, a safetensors file.
    pub object: String,
    /// Hex BLAKE3 of the file.
    pub digest: String,
    /// Hex BLAKE3 of tokenizer.json: a stage with another one refuses the weights.
    pub tokenizer: String,
    /// Hex BLAKE3 of the chat template.
    pub template: String,
    /// Hex BLAKE3 of the image processor's settings; empty for a policy without eyes.
    pub image_processor: String,
    /// Which part of the schedule made it, as `imitation`.
    pub phase: String,
    /// The learner's lease epoch.
    pub epoch: u64,
}

impl Message for PolicyPublished {
    const NAME: &'static str = "PolicyPublished";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 1 << 16;

    fn example() -> Self {
        PolicyPublished {
            version: 3,
            step: 12,
            batch: 3,
            object: "policy-3".into(),
            digest: "ab".into(),
            tokenizer: "cd".into(),
            template: "ef".into(),
            image_processor: String::new(),
            phase: "imitation".into(),
            epoch: 1,
        }
    }
}
