//! Groups: episodes of one world and task that are judged against each other.
//!
//! A group is decided at once, when its last member has ended, so that a restart finds all of its members used or none.

use crate::tokens::Trajectory;
use schemas::EndReason;
use std::collections::BTreeMap;

/// A member that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub trajectory: Trajectory,
    pub reason: EndReason,
    /// The sum of all reward parts.
    pub total: f32,
    /// The same without the format reward.
    pub task: f32,
    pub success: bool,
    pub progress: f32,
    pub milestone: Option<String>,
    /// The oldest version that sampled a token of it.
    pub oldest: Option<u64>,
}

/// A group whose members end one by one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub size: u32,
    /// By member number.
    pub members: BTreeMap<u32, Member>,
}

impl Group {
    pub fn is_whole(&self) -> bool {
        self.members.len() as u32 >= self.size.max(1)
    }

    /// Whether members differ in the reward of the task, format apart: the signal that reinforcement learns from.
    pub fn differs_in_task(&self) -> bool {
        let mut tasks = self.members.values().map(|m| m.task);
        tasks.next().is_some_and(|first| tasks.any(|task| !same(task, first)))
    }
}

/// What becomes of a whole group.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Advantages by member number.
    Train(Vec<f32>),
    /// A member was not played.
    Broken,
    /// A reward is no number.
    NonFinite,
    /// All returns are equal, so that there is no gradient.
    Equal,
}

/// Returns closer than this are the same.
const SAME: f32 = 1e-6;

fn same(a: f32, b: f32) -> bool {
    (a - b).abs() <= SAME
}

/// Decides a whole group.
pub fn judge(group: &Group, normalize: bool) -> Verdict {
    if group.members.values().any(|m| !m.reason.is_played()) {
        return Verdict::Broken;
    }
    let returns: Vec<f32> = group.members.values().map(|m| m.total).collect();
    if returns.iter().any(|r| !r.is_finite()) {
        return Verdict::NonFinite;
    }
    advantages(&returns, normalize).map_or(Verdict::Equal, Verdict::Train)
}

/// Group-relative advantages: `(R - mean) / (std + 1e-6)` with the unbiased standard deviation, or `R - mean` where
/// `normalize` is off. `None` where all returns are equal.
pub fn advantages(returns: &[f32], normalize: bool) -> Option<Vec<f32>> {
    let first = *returns.first()?;
    if returns.iter().all(|r| same(*r, first)) {
        return None;
    }
    let count = returns.len() as f64;
    let mean = returns.iter().map(|r| f64::from(*r)).sum::<f64>() / count;
    let variance = returns.iter().map(|r| (f64::from(*r) - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let scale = if normalize { variance.sqrt() + 1e-6 } else { 1.0 };
    Some(returns.iter().map(|r| ((f64::from(*r) - mean) / scale) as f32).collect())
}

/// Whether a trajectory is too old for the batch that would train it. `sampled_at`: batches trained when its oldest
/// token's version was made; unknown versions are from before all that is remembered.
pub fn is_stale(sampled_at: Option<u64>, batch: u64, max_staleness: u64) -> bool {
    batch.saturating_sub(sampled_at.unwrap_or(0)) > max_staleness
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Counts, Lesson};
    use proptest::prelude::*;
    use schemas::{EpisodeId, Split};

    fn group(returns: &[f32]) -> Group {
        let member = |(number, total): (usize, &f32)| {
            let id = EpisodeId { split: Split::Train, number: number as u64 };
            let trajectory = Trajectory { id, lesson: Lesson::Sampled, segments: vec![], counts: Counts::default(), frames: vec![] };
            let member = Member {
                trajectory,
                reason: EndReason::Done,
                total: *total,
                task: *total,
                success: false,
                progress: 0.0,
                milestone: None,
                oldest: None,
            };
            (number as u32, member)
        };
        Group { size: returns.len() as u32, members: returns.iter().enumerate().map(member).collect() }
    }

    #[test]
    fn advantages_are_those_worked_out_by_hand() {
        // Mean 4; squares 16 + 0 + 16, over 2: variance 16.
        let normal = advantages(&[0.0, 4.0, 8.0], true).unwrap();
        normal.iter().zip([-1.0, 0.0, 1.0]).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{normal:?}"));
        assert_eq!(advantages(&[0.0, 4.0, 8.0], false).unwrap(), [-4.0, 0.0, 4.0]);
        assert_eq!(advantages(&[10.5, 10.5], true), None);
        assert_eq!(advantages(&[], true), None);
        assert_eq!(advantages(&[3.0], true), None, "one alone has nothing to be compared with");
    }

    proptest! {
        #[test]
        fn they_sum_to_zero_and_keep_the_order(returns in proptest::collection::vec(-20.0f32..20.0, 2..17), normalize: bool) {
            match advantages(&returns, normalize) {
                None => prop_assert!(returns.iter().all(|r| (r - returns[0]).abs() <= SAME)),
                Some(all) => {
                    let sum: f64 = all.iter().map(|a| f64::from(*a)).sum();
                    prop_assert!(sum.abs() < 1e-3, "{}", sum);
                    for (a, ra) in all.iter().zip(&returns) {
                        for (b, rb) in all.iter().zip(&returns) {
                            prop_assert!(ra <= rb || a >= b);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_group_with_a_member_that_was_not_played_is_broken() {
        for reason in EndReason::ALL {
            let mut group = group(&[0.0, 1.0]);
            group.members.get_mut(&1).unwrap().reason = reason;
            assert_eq!(judge(&group, true) == Verdict::Broken, !reason.is_played(), "{reason:?}");
        }
        assert_eq!(judge(&group(&[0.0, f32::NAN]), true), Verdict::NonFinite);
        assert_eq!(judge(&group(&[2.0, 2.0]), true), Verdict::Equal);
    }

    #[test]
    fn only_the_task_is_signal() {
        let mut group = group(&[0.25, 0.5]);
        group.members.values_mut().for_each(|m| m.task = 0.0);
        assert!(!group.differs_in_task());
        assert!(matches!(judge(&group, true), Verdict::Train(_)), "the format reward still teaches");
        group.members.get_mut(&0).unwrap().task = 10.0;
        assert!(group.differs_in_task());
    }

    #[test]
    fn age_is_counted_in_batches() {
        assert!(!is_stale(Some(4), 5, 1));
        assert!(is_stale(Some(3), 5, 1));
        assert!(is_stale(None, 5, 1));
        assert!(!is_stale(Some(7), 5, 0), "never younger than new");
    }
}
