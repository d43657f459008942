//! Feasible before it starts: can the expert solve this pipeline's episodes within this pipeline's limits?

use anyhow::{Result, bail};
use schemas::pipeline::{Engine, Pipeline};
use schemas::{End, EndReason, Split, seed_of};
use std::collections::BTreeMap;
use std::sync::Arc;
use worlds::{Kind, RewardBounds};

const EPISODES: u64 = 50;
/// Below this share a pipeline is refused.
const LEAST_SHARE: f64 = 0.8;

/// What the expert could solve.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Share {
    solved: usize,
    asked: usize,
    mean_turns: f64,
    mean_tokens: f64,
    /// Whether any phase of the pipeline depends on it: a pipeline for benchmarks may go without.
    required: bool,
    binding: Option<&'static str>,
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Share { solved, asked, mean_turns, mean_tokens, .. } = self;
        write!(
            f,
            "the expert solves {solved} of {asked} episodes within the limits ({mean_turns:.1} turns, {mean_tokens:.0} tokens on average)"
        )
    }
}

/// Runs the expert through the pipeline's own prompt, parser and limits, and refuses where too little can be solved.
///
/// # Errors
/// Fewer than 80 % solved, with the limit that binds; or a reward order in which a failure could out-score a success.
pub(crate) fn check(pipeline: &Pipeline, kind: Arc<dyn Kind>) -> Result<Share> {
    rewards_are_ordered(pipeline, kind.as_ref())?;
    let tasks = (0..EPISODES)
        .map(|number| {
            let seed = seed_of(pipeline.seed, &[b"train", b"feasibility", &number.to_le_bytes()]);
            kind.sample(seed, None).map_err(anyhow::Error::msg)
        })
        .collect::<Result<Vec<_>>>()?;
    let ends = crate::loopback::run_expert(pipeline, &kind, Split::Expert, &tasks)?;
    let share = measure(pipeline, &ends);
    if share.required && (share.solved as f64) < LEAST_SHARE * share.asked as f64 {
        let binding = share.binding.unwrap_or("none in particular: the expert itself fails");
        bail!("{share}; at least {:.0} % must be solvable; the limit that binds: {binding}", LEAST_SHARE * 100.0);
    }
    Ok(share)
}

fn measure(pipeline: &Pipeline, ends: &[End]) -> Share {
    let mut binds: BTreeMap<&'static str, usize> = BTreeMap::new();
    for end in ends.iter().filter(|end| !end.success) {
        let limit = match end.reason {
            // The stepper says which of the token limits it met.
            EndReason::LengthTotal => ["limits.reply_tokens", "prompt.segment_tokens"]
                .into_iter()
                .find(|limit| end.note.contains(limit))
                .unwrap_or("limits.episode_tokens"),
            EndReason::OutOfSteps if end.turns.len() as u32 >= pipeline.limits.turns => "limits.turns",
            EndReason::OutOfSteps => "limits.steps",
            _ if end.turns.iter().any(|t| t.cut) => "limits.reply_tokens",
            _ => continue,
        };
        *binds.entry(limit).or_default() += 1;
    }
    let count = ends.len().max(1) as f64;
    let tokens: u64 = ends.iter().flat_map(|e| &e.turns).map(|t| u64::from(t.prompt_tokens + t.reply_tokens)).sum();
    Share {
        solved: ends.iter().filter(|e| e.success).count(),
        asked: ends.len(),
        mean_turns: ends.iter().map(|e| e.turns.len() as f64).sum::<f64>() / count,
        mean_tokens: tokens as f64 / count,
        required: pipeline.generator.engine == Engine::Builtin,
        binding: binds.into_iter().max_by_key(|(_, times)| *times).map(|(name, _)| name),
    }
}

/// The worst success must out-score the best failure, format and progress rewards included.
fn rewards_are_ordered(pipeline: &Pipeline, kind: &dyn Kind) -> Result<()> {
    let RewardBounds { worst_success, best_failure } = env_stepper::rewards::bounds(pipeline, kind.reward_bounds(pipeline.limits.steps));
    if worst_success > best_failure {
        return Ok(());
    }
    bail!(
        "`rewards`: the worst success ({worst_success:.2}) must out-score the best failure ({best_failure:.2}); \
         hint: pay the format an episode (rewards.format_per_turn = false), or lower rewards.progress or rewards.step_penalty"
    )
}
