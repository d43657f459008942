//! The schedule: what a phase takes, and when it is over.

use schemas::Mode;
use schemas::pipeline::{Phase, PhaseConfig};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the present phase has come to. A new one starts with each phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub first_group: u64,
    pub first_expert: u64,
    /// Batches trained.
    pub batches: u64,
    /// Of these, batches that took their groups (not only what was seen before).
    pub fed: u64,
    /// Expert episodes that batches took.
    pub taken: u64,
    /// Groups that ended without being trained.
    pub wasted: u64,
    /// Expert episodes that cannot be trained on.
    pub lost: u64,
    /// Wasted groups that a batch in number order has not passed yet.
    pub passed: BTreeSet<u64>,
    /// The next group, and the next expert episode, of a batch in number order.
    pub next_group: u64,
    pub next_expert: u64,
    /// By the clock.
    pub elapsed_ms: u64,
    /// The least held-out loss so far, over how many episodes, and batches since.
    pub best_loss: Option<f64>,
    pub loss_over: u64,
    pub since_best: u64,
}

impl Part {
    /// A phase that starts where the one before had been allowed to go.
    pub fn starting(first_group: u64, first_expert: u64) -> Part {
        Part { first_group, first_expert, next_group: first_group, next_expert: first_expert, ..Part::default() }
    }

    /// Takes in a held-out loss. A loss over more episodes than before is not compared with the old best.
    pub fn note_loss(&mut self, loss: f64, episodes: u64) {
        let better = self.loss_over != episodes || self.best_loss.is_none_or(|best| loss < best);
        if better && loss.is_finite() {
            (self.best_loss, self.loss_over, self.since_best) = (Some(loss), episodes, 0);
        } else {
            self.since_best += 1;
        }
    }
}

/// Whether a phase has reached one of its limits.
pub fn is_over(config: &PhaseConfig, part: &Part) -> bool {
    let by_batches = config.batches > 0 && part.batches >= config.batches;
    let by_clock = config.minutes > 0.0 && part.elapsed_ms as f64 >= config.minutes * 60_000.0;
    let by_patience = config.patience > 0 && part.since_best >= config.patience;
    by_batches || by_clock || by_patience
}

/// Whether a phase imitates: labels and the expert's replies, not the policy's own.
pub fn imitates(phase: Phase) -> bool {
    phase != Phase::Grpo
}

/// Whether a phase trains expert episodes of this mode.
pub fn takes_expert(phase: Phase, mode: Mode) -> bool {
    match phase {
        Phase::Imitation | Phase::Dagger => mode == Mode::Expert,
        Phase::Format => mode == Mode::Format,
        Phase::Grpo => false,
    }
}

/// Whether a phase trains groups of this mode.
pub fn takes_group(phase: Phase, mode: Mode) -> bool {
    match phase {
        Phase::Dagger => mode == Mode::Dagger,
        Phase::Grpo => mode == Mode::Policy,
        Phase::Imitation | Phase::Format => false,
    }
}

/// Whether a phase asks for groups; the others ask for expert episodes.
pub fn has_groups(phase: Phase) -> bool {
    matches!(phase, Phase::Dagger | Phase::Grpo)
}

/// Whether a phase may train on episodes seen before while new ones are awaited: only where the clock is what ends it.
pub fn may_repeat(config: &PhaseConfig, deterministic: bool) -> bool {
    imitates(config.phase) && config.minutes > 0.0 && !deterministic
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(text: &str) -> PhaseConfig {
        let whole = format!("name = \"t\"\n[world]\nname = \"frozenlake\"\n[[schedule]]\nphase = \"imitation\"\nbatch = 4\n{text}");
        schemas::pipeline::Pipeline::parse(&whole).unwrap().schedule.remove(0)
    }

    #[test]
    fn a_phase_ends_at_its_first_limit() {
        let both = phase("batches = 3\nminutes = 1.0");
        let part = |batches, elapsed_ms| Part { batches, elapsed_ms, ..Part::default() };
        assert!(!is_over(&both, &part(2, 59_999)));
        assert!(is_over(&both, &part(3, 0)));
        assert!(is_over(&both, &part(0, 60_000)));
        assert!(!is_over(&phase(""), &part(1_000_000, u64::MAX)), "no limit, no end");
    }

    #[test]
    fn patience_counts_batches_without_a_better_loss() {
        let config = phase("patience = 2");
        let mut part = Part::default();
        let mut ended = vec![];
        for loss in [1.0, 0.5, 0.6, 0.4, 0.4, 0.5] {
            part.note_loss(loss, 8);
            ended.push(is_over(&config, &part));
        }
        assert_eq!(ended, [false, false, false, false, false, true]);
    }

    #[test]
    fn a_loss_over_more_episodes_starts_anew() {
        let mut part = Part::default();
        part.note_loss(0.5, 1);
        part.note_loss(0.9, 2);
        assert_eq!((part.best_loss, part.since_best), (Some(0.9), 0));
        part.note_loss(f64::NAN, 2);
        assert_eq!((part.best_loss, part.since_best), (Some(0.9), 1));
    }

    #[test]
    fn only_the_clock_lets_a_phase_repeat_itself() {
        assert!(may_repeat(&phase("minutes = 1.0"), false));
        assert!(!may_repeat(&phase("minutes = 1.0"), true));
        assert!(!may_repeat(&phase("batches = 9"), false));
    }
}
