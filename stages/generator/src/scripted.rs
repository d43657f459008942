//! An engine without a model: seeded, well-formed replies of random actions.
//!
//! For benchmarks and tests of everything else. It needs no weights, no version and no libtorch; the same prompt gets the
//! same reply, whoever asks and whenever.

use crate::engine::{Engine, Generated, Load, Request};
use context::{Context, ReplyParts, format};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use schemas::pipeline::PromptConfig;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Replies whose tokens are remembered. Five actions of twenty give millions, three of four only 84.
const REMEMBERED: usize = 4096;

pub struct Scripted {
    context: Arc<Context>,
    prompt: PromptConfig,
    /// Canonical names.
    actions: Vec<String>,
    tokens: BTreeMap<String, Vec<u32>>,
}

impl Scripted {
    /// An engine that replies with these actions.
    ///
    /// # Errors
    /// There are no actions to reply with.
    pub fn new(context: Arc<Context>, prompt: PromptConfig, actions: Vec<String>) -> Result<Scripted, String> {
        if actions.is_empty() {
            return Err("the world has no actions for a scripted reply".into());
        }
        Ok(Scripted { context, prompt, actions, tokens: BTreeMap::new() })
    }

    /// 1 to `actions_per_turn` actions, uniform, as a reply in the pipeline's format.
    fn text(&self, seed: u64) -> String {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut below = |bound: usize| (rng.next_u64() % bound as u64) as usize;
        let count = 1 + below(self.prompt.actions_per_turn.max(1) as usize);
        let actions = (0..count).map(|_| self.actions[below(self.actions.len())].clone()).collect();
        format::write(&self.prompt, &ReplyParts { actions, ..ReplyParts::default() })
    }

    fn ids(&mut self, seed: u64) -> Vec<u32> {
        let text = self.text(seed);
        if let Some(known) = self.tokens.get(&text) {
            return known.clone();
        }
        let ids = self.context.reply_ids(&text);
        if self.tokens.len() < REMEMBERED {
            self.tokens.insert(text, ids.clone());
        }
        ids
    }
}

impl Engine for Scripted {
    fn wants_weights(&self) -> bool {
        false
    }

    fn sees(&self) -> bool {
        true
    }

    fn load(&mut self, _version: u64, _weights: Vec<u8>) -> Result<bool, String> {
        Ok(true)
    }

    fn drop_version(&mut self, _version: u64) {}

    fn submit(&mut self, request: Request) -> Result<Option<Generated>, String> {
        let mut tokens = self.ids(request.sampling.seed);
        let limit = request.sampling.max_tokens as usize;
        let cut = tokens.len() > limit;
        tokens.truncate(limit);
        let versions = vec![(request.version, tokens.len() as u32)];
        Ok(Some(Generated { ticket: request.ticket, logprobs: vec![0.0; tokens.len()], tokens, versions, cut, failed: None }))
    }

    fn step(&mut self) -> Result<Vec<Generated>, String> {
        Ok(vec![])
    }

    fn has_work(&self) -> bool {
        false
    }

    fn forget(&mut self, _rollout: u64) {}

    fn load_now(&self) -> Load {
        Load::default()
    }
}
