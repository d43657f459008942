//! What an episode is paid, by part.
//!
//! The parts are `task`, `format`, `progress` and `steps`; their sum is the return. [`bounds`] says what the worst success
//! and the best failure of a pipeline are paid: in every pipeline the first must be more.

use schemas::pipeline::Pipeline;
use worlds::{RewardBounds, Standing};

/// Counts of a played episode that rewards depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Sum of the world's own rewards.
    pub task: f32,
    pub turns: u32,
    pub well_formed: u32,
    /// Primitive actions.
    pub steps: u32,
}

/// Whether a world leaves it to the pipeline what a success is worth (the household): it pays nothing itself.
pub fn is_left_open(world: RewardBounds) -> bool {
    world.worst_success == 0.0 && world.best_failure == 0.0
}

/// Reward by part. A part that the pipeline has turned off is not listed, `task` always is.
pub fn parts(pipeline: &Pipeline, pays_success: bool, standing: &Standing, tally: Tally) -> Vec<(String, f32)> {
    let rules = &pipeline.rewards;
    let success = if pays_success && standing.success { rules.success } else { 0.0 };
    let mut parts = vec![("task".to_string(), tally.task + success)];
    if rules.format != 0.0 {
        let share = if rules.format_per_turn { tally.well_formed as f32 } else { tally.well_formed as f32 / tally.turns.max(1) as f32 };
        parts.push(("format".to_string(), rules.format * share));
    }
    if rules.progress != 0.0 {
        let progress = if standing.success { 0.0 } else { standing.progress.clamp(0.0, 1.0) };
        parts.push(("progress".to_string(), rules.progress * progress));
    }
    if rules.step_penalty != 0.0 {
        parts.push(("steps".to_string(), -rules.step_penalty * tally.steps as f32));
    }
    parts
}

/// The least that a success and the most that a failure is paid, over all episodes that the limits allow.
pub fn bounds(pipeline: &Pipeline, world: RewardBounds) -> RewardBounds {
    let (rules, limits) = (&pipeline.rewards, &pipeline.limits);
    let success = if is_left_open(world) { rules.success } else { 0.0 };
    let format = if rules.format_per_turn { rules.format * limits.turns as f32 } else { rules.format };
    let penalty = rules.step_penalty * limits.steps as f32;
    RewardBounds {
        worst_success: world.worst_success + success + format.min(0.0) - penalty.max(0.0),
        best_failure: world.best_failure + format.max(0.0) + rules.progress.max(0.0) - penalty.min(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use schemas::pipeline::RewardsConfig;

    fn pipeline() -> Pipeline {
        Pipeline::parse("name = \"p\"\nworld = { name = \"fetch\" }\nschedule = []").unwrap()
    }

    fn total(parts: &[(String, f32)]) -> f32 {
        parts.iter().map(|(_, r)| r).sum()
    }

    fn tally() -> impl Strategy<Value = Tally> {
        (1u32..=120, 0.0f32..=1.0, 0u32..=600).prop_map(|(turns, share, steps)| {
            let well_formed = (turns as f32 * share) as u32;
            Tally { task: 0.0, turns, well_formed, steps }
        })
    }

    proptest! {
        #[test]
        fn the_worst_success_out_scores_the_best_failure(
            format in 0.0f32..3.0, per_turn: bool, success in 0.0f32..20.0, progress in 0.0f32..5.0, penalty in 0.0f32..0.02,
            won in tally(), lost in tally(), far in 0.0f32..1.0,
        ) {
            let mut pipeline = pipeline();
            pipeline.rewards = RewardsConfig { format, format_per_turn: per_turn, success, progress, step_penalty: penalty };
            let bounds = bounds(&pipeline, RewardBounds { worst_success: 0.0, best_failure: 0.0 });
            let winner = total(&parts(&pipeline, true, &Standing { success: true, progress: 1.0, ..Standing::default() }, won));
            let loser = total(&parts(&pipeline, true, &Standing { progress: far, ..Standing::default() }, lost));
            prop_assert!(winner >= bounds.worst_success - 1e-3 && loser <= bounds.best_failure + 1e-3);
            if bounds.worst_success > bounds.best_failure + 1e-3 {
                prop_assert!(winner > loser);
            }
        }
    }

    #[test]
    fn the_defaults_keep_the_rule_and_a_reward_per_turn_breaks_it() {
        let mut pipeline = pipeline();
        let open = RewardBounds { worst_success: 0.0, best_failure: 0.0 };
        let by_default = bounds(&pipeline, open);
        assert!(by_default.worst_success > by_default.best_failure);
        pipeline.rewards.format_per_turn = true;
        let per_turn = bounds(&pipeline, open);
        assert!(per_turn.worst_success < per_turn.best_failure, "0.5 a turn over 120 turns is more than 10");
    }

    #[test]
    fn the_worlds_own_reward_stands_where_it_has_one() {
        let standing = Standing { success: true, ..Standing::default() };
        let tally = Tally { task: 10.0, turns: 4, well_formed: 3, steps: 6 };
        let parts = parts(&pipeline(), false, &standing, tally);
        assert_eq!(parts, vec![("task".to_string(), 10.0), ("format".to_string(), 0.375)]);
    }
}
