//! What stays the same over all rollouts of a stepper.

use context::format::{self, ActionSpec};
use schemas::pipeline::Pipeline;
use schemas::{EpisodeId, Sampling, Split, seed_of};
use std::sync::Arc;
use worlds::Kind;

/// The pipeline's rules as the rollouts need them.
pub(crate) struct Setting {
    pub(crate) run: String,
    /// The stepper's own id.
    pub(crate) stepper: String,
    pub(crate) pipeline: Pipeline,
    pub(crate) kind: Arc<dyn Kind>,
    pub(crate) actions: Vec<ActionSpec>,
    /// The system prompt; empty where the pipeline has none.
    pub(crate) system: String,
    /// How a reply must look, at the end of each turn's text; empty without a system prompt.
    pub(crate) reminder: String,
    /// The world leaves the reward of a success to the pipeline.
    pub(crate) pays_success: bool,
}

impl Setting {
    pub(crate) fn new(run: &str, stepper: &str, pipeline: Pipeline, kind: Arc<dyn Kind>) -> Setting {
        let spec = |a: &worlds::ActionName| ActionSpec {
            name: a.name.to_string(),
            aliases: a.aliases.iter().map(|a| a.to_string()).collect(),
            ends_reply: a.ends_reply,
        };
        let actions: Vec<ActionSpec> = kind.actions().iter().map(spec).collect();
        let (mut system, mut reminder) = (String::new(), String::new());
        if pipeline.prompt.system {
            system = format!("{}\n{}", kind.rules(), format::instructions(&pipeline.prompt, &actions));
            reminder = format::reminder(&pipeline.prompt);
        }
        let pays_success = crate::rewards::is_left_open(kind.reward_bounds(pipeline.limits.steps));
        Setting { run: run.to_string(), stepper: stepper.to_string(), pipeline, kind, actions, system, reminder, pays_success }
    }

    /// How the reply of a turn is sampled. What is trained on is sampled from the whole distribution.
    pub(crate) fn sampling(&self, id: EpisodeId, turn: u32, max_tokens: u32) -> Sampling {
        let seed = self.seed(id, turn);
        let config = &self.pipeline.sampling;
        match id.split {
            Split::Val => Sampling {
                seed,
                temperature: config.validation_temperature,
                top_p: config.top_p,
                top_k: config.top_k,
                min_p: config.min_p,
                max_tokens,
                stop: vec![],
            },
            Split::Train | Split::Expert => Sampling { seed, temperature: config.temperature, max_tokens, ..Sampling::default() },
        }
    }

    /// A turn's seed: a function of the pipeline's seed, split, episode and turn, and of nothing else.
    pub(crate) fn seed(&self, id: EpisodeId, turn: u32) -> u64 {
        seed_of(self.pipeline.seed, &[id.split.as_str().as_bytes(), &id.number.to_le_bytes(), &turn.to_le_bytes()])
    }
}
