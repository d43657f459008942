//! How far generation may run ahead: pure formulas.
//!
//! A grant is cumulative. Groups are counted by what batches take of them, not by what starts, so that a group that is
//! wasted is made up for by exactly one other, and a trajectory's age is bounded when it is dispatched.

use schemas::{EpisodeId, Split};

/// Expert episodes are generated this many batches ahead.
pub const EXPERT_BATCHES_AHEAD: u64 = 3;

/// Of this many expert episodes, one is held out to measure the loss on.
pub const HELD_OUT_EVERY: u64 = 16;

/// What a phase with groups has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupGrant {
    /// The phase's first group.
    pub first: u64,
    pub max_staleness: u64,
    /// Batches that took their groups.
    pub batches: u64,
    /// Groups of a batch.
    pub batch: u64,
    /// Groups of the phase that ended without being trained.
    pub wasted: u64,
    /// The phase's limit in batches; 0 sets none.
    pub limit: u64,
}

/// Groups below this number may start: `first + (max_staleness + 1 + batches) * batch + wasted`, and no more than the
/// phase's last batch can take.
pub fn upto_group(grant: GroupGrant) -> u64 {
    let GroupGrant { first, max_staleness, batches, batch, wasted, limit } = grant;
    let ahead = max_staleness + 1 + batches;
    let allowed = if limit > 0 { ahead.min(limit) } else { ahead };
    first + allowed * batch + wasted
}

/// Whether an expert episode is held out of training, to measure the loss on.
pub fn is_held_out(id: EpisodeId) -> bool {
    id.split == Split::Expert && id.number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
}

/// How many expert episodes below a number are trained on.
pub fn trained_below(number: u64) -> u64 {
    number - number / HELD_OUT_EVERY
}

/// The smallest number such that from `first` up to it there are `needed` expert episodes to train on.
pub fn expert_bound(first: u64, needed: u64) -> u64 {
    let target = trained_below(first) + needed;
    // The last one needed is never a held-out one, so the bound lies right after it.
    let (whole, rest) = (target / (HELD_OUT_EVERY - 1), target % (HELD_OUT_EVERY - 1));
    let bound = whole * HELD_OUT_EVERY + rest;
    let bound = if rest == 0 { bound.saturating_sub(1) } else { bound };
    bound.max(first)
}

/// What a phase that imitates the expert has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertGrant {
    /// The phase's first expert episode.
    pub first: u64,
    /// Episodes that batches took.
    pub taken: u64,
    /// Episodes of a batch.
    pub batch: u64,
    /// Episodes that cannot be trained on.
    pub lost: u64,
    /// The phase's limit in batches; 0 sets none.
    pub limit: u64,
}

/// Expert episodes below this number may start.
pub fn upto_expert(grant: ExpertGrant) -> u64 {
    let ExpertGrant { first, taken, batch, lost, limit } = grant;
    let ahead = taken + EXPERT_BATCHES_AHEAD * batch;
    let needed = if limit > 0 { ahead.min(limit * batch) } else { ahead };
    expert_bound(first, needed + lost)
}

/// Whether a batch must wait although it is full: a group that still runs was allowed so long ago that it would be too
/// old for the batch after this one. `open`: the lowest group that still runs. `granted`: `(upto, batch)`, from the first
/// grant on, rising: which groups were allowed when.
pub fn must_wait(open: Option<u64>, granted: &[(u64, u64)], batch: u64, max_staleness: u64) -> bool {
    let Some(open) = open else { return false };
    let allowed_at = granted.iter().find(|(upto, _)| open < *upto).map_or(batch, |(_, at)| *at);
    batch + 1 > allowed_at + max_staleness
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grant() -> GroupGrant {
        GroupGrant { first: 10, max_staleness: 1, batch: 4, ..GroupGrant::default() }
    }

    #[test]
    fn it_is_the_formula() {
        assert_eq!(upto_group(grant()), 10 + 2 * 4);
        assert_eq!(upto_group(GroupGrant { batches: 3, wasted: 5, ..grant() }), 10 + 5 * 4 + 5);
        assert_eq!(upto_group(GroupGrant { max_staleness: 0, ..grant() }), 14);
    }

    #[test]
    fn no_group_starts_that_no_batch_can_take() {
        let last = GroupGrant { batches: 2, limit: 3, wasted: 1, ..grant() };
        assert_eq!(upto_group(last), 10 + 3 * 4 + 1);
        assert_eq!(upto_group(GroupGrant { batches: 3, ..last }), 10 + 3 * 4 + 1);
    }

    #[test]
    fn one_in_sixteen_expert_episodes_is_held_out() {
        let held = |number| is_held_out(EpisodeId { split: Split::Expert, number });
        assert_eq!((0..48).filter(|n| held(*n)).collect::<Vec<_>>(), [15, 31, 47]);
        assert!(!is_held_out(EpisodeId { split: Split::Train, number: 15 }));
    }

    #[test]
    fn expert_episodes_stay_a_few_batches_ahead() {
        let grant = ExpertGrant { batch: 10, ..ExpertGrant::default() };
        assert_eq!(upto_expert(grant), 31, "30 to train on, and one held out among them");
        assert_eq!(upto_expert(ExpertGrant { taken: 10, ..grant }), 42);
        assert_eq!(upto_expert(ExpertGrant { limit: 1, ..grant }), 10);
        assert_eq!(upto_expert(ExpertGrant { limit: 1, lost: 2, ..grant }), 12);
    }

    proptest! {
        #[test]
        fn the_bound_holds_exactly_what_is_needed(first in 0u64..200, needed in 0u64..200) {
            let bound = expert_bound(first, needed);
            let trained = (first..bound).filter(|n| n % HELD_OUT_EVERY != HELD_OUT_EVERY - 1).count() as u64;
            prop_assert_eq!(trained, needed);
            prop_assert!(needed == 0 || (bound - 1) % HELD_OUT_EVERY != HELD_OUT_EVERY - 1);
        }

        #[test]
        fn it_never_falls(batches in 0u64..9, wasted in 0u64..9, limit in 0u64..5) {
            let now = upto_group(GroupGrant { batches, wasted, limit, ..grant() });
            for (more, lost) in [(1, 0), (0, 1)] {
                let later = GroupGrant { batches: batches + more, wasted: wasted + lost, limit, ..grant() };
                prop_assert!(upto_group(later) >= now);
            }
        }
    }

    #[test]
    fn a_long_rollout_is_waited_for_before_it_is_too_old() {
        // Groups below 8 were allowed before the first batch, below 12 after it, and so on.
        let granted = [(8, 0), (12, 1), (16, 2)];
        assert!(!must_wait(Some(5), &granted, 0, 1), "it can still join the next batch");
        assert!(must_wait(Some(5), &granted, 1, 1));
        assert!(!must_wait(Some(9), &granted, 1, 1));
        assert!(!must_wait(None, &granted, 9, 0));
        assert!(must_wait(Some(5), &granted, 0, 0), "synchronous: every group of the batch");
    }
}
