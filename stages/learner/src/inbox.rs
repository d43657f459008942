//! Ends that have come and have no use yet: expert episodes, and groups whose members end one by one.
//!
//! Choosing is pure: it looks at what is there and says what a batch takes, in number order, or that it must wait.

use crate::grants;
use crate::groups::{Group, Member};
use crate::phases::Part;
use crate::tokens::Trajectory;
use schemas::{EpisodeId, Mode, Split};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A group that is coming together.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    pub group: Group,
    /// Whole and to be trained: each member's advantage.
    pub advantages: Option<Vec<f32>>,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    pub experts: BTreeMap<u64, (Mode, Arc<Trajectory>)>,
    pub groups: BTreeMap<u64, Slot>,
}

/// Expert episodes for a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    pub new: Vec<u64>,
    pub held_out: Vec<u64>,
    /// One past the highest of them.
    pub end: u64,
}

impl Inbox {
    /// Adds a member; true when its group is whole.
    pub fn add_member(&mut self, group: u64, size: u32, number: u32, member: Member) -> bool {
        let slot = self.groups.entry(group).or_default();
        slot.group.size = size;
        slot.group.members.insert(number, member);
        slot.group.is_whole()
    }

    /// Expert episodes for a batch of `batch` to train on, lowest numbers first; held-out ones among them come along.
    /// In number order nothing is passed over but what `is_used` says has a use. `None`: too few.
    pub fn choose_experts(&self, part: &Part, batch: usize, in_order: bool, is_used: impl Fn(u64) -> bool) -> Option<Chosen> {
        let mut chosen = Chosen { end: part.next_expert, ..Chosen::default() };
        let mut take = |number: u64| {
            let held = grants::is_held_out(EpisodeId { split: Split::Expert, number });
            if held { &mut chosen.held_out } else { &mut chosen.new }.push(number);
            chosen.end = number + 1;
            chosen.new.len() == batch
        };
        if !in_order {
            return self.experts.keys().any(|number| take(*number)).then_some(chosen);
        }
        let mut number = part.next_expert;
        loop {
            if self.experts.contains_key(&number) {
                if take(number) {
                    return Some(chosen);
                }
            } else if !is_used(number) {
                return None;
            }
            number += 1;
        }
    }

    /// Whole groups for a batch, lowest numbers first. `None`: too few, or, in number order, one before them still runs.
    pub fn choose_groups(&self, part: &Part, batch: usize, in_order: bool) -> Option<Vec<u64>> {
        let is_ready = |number: &u64| self.groups.get(number).is_some_and(|slot| slot.advantages.is_some());
        let chosen: Vec<u64> = if in_order {
            let open = (part.next_group..).filter(|n| !part.passed.contains(n));
            open.take_while(is_ready).take(batch).collect()
        } else {
            self.groups.keys().copied().filter(is_ready).take(batch).collect()
        };
        (chosen.len() == batch).then_some(chosen)
    }

    /// The lowest group that was allowed to start and has not ended.
    pub fn lowest_open(&self, part: &Part, upto_group: u64) -> Option<u64> {
        let is_ready = |number: &u64| self.groups.get(number).is_some_and(|slot| slot.advantages.is_some());
        (part.next_group..upto_group).find(|n| !part.passed.contains(n) && !is_ready(n))
    }

    /// Everything that has no use yet.
    pub fn drain(&mut self) -> Vec<EpisodeId> {
        let experts = std::mem::take(&mut self.experts);
        let groups = std::mem::take(&mut self.groups);
        let members = groups.into_values().flat_map(|slot| slot.group.members.into_values().map(|m| m.trajectory.id));
        experts.into_values().map(|(_, t)| t.id).chain(members).collect()
    }
}

impl Part {
    /// A group has been trained or wasted.
    pub fn close_group(&mut self, group: u64) {
        self.passed.insert(group);
        while self.passed.remove(&self.next_group) {
            self.next_group += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::{Counts, Lesson};
    use std::collections::BTreeSet;

    fn experts(numbers: &[u64]) -> Inbox {
        let id = |number| EpisodeId { split: Split::Expert, number };
        let of = |n: &u64| {
            (
                *n,
                (
                    Mode::Expert,
                    Arc::new(Trajectory {
                        id: id(*n),
                        lesson: Lesson::Replies,
                        segments: vec![],
                        counts: Counts::default(),
                        frames: vec![],
                    }),
                ),
            )
        };
        Inbox { experts: numbers.iter().map(of).collect(), ..Inbox::default() }
    }

    fn groups(ready: &[u64], running: &[u64]) -> Inbox {
        let slot = |n: &u64| (*n, Slot { advantages: ready.contains(n).then(Vec::new), ..Slot::default() });
        Inbox { groups: ready.iter().chain(running).map(slot).collect(), ..Inbox::default() }
    }

    #[test]
    fn experts_come_lowest_first_and_held_out_ones_along() {
        let inbox = experts(&[3, 14, 15, 16, 17]);
        let chosen = inbox.choose_experts(&Part::default(), 3, false, |_| false).unwrap();
        assert_eq!(chosen, Chosen { new: vec![3, 14, 16], held_out: vec![15], end: 17 });
        assert_eq!(inbox.choose_experts(&Part::default(), 5, false, |_| false), None);
    }

    #[test]
    fn in_order_nothing_is_passed_over_but_what_has_a_use() {
        let part = Part { next_expert: 1, ..Part::default() };
        assert_eq!(experts(&[1, 2, 4]).choose_experts(&part, 3, true, |_| false), None);
        let used = |n| n == 3;
        assert_eq!(experts(&[1, 2, 4]).choose_experts(&part, 3, true, used).unwrap().new, [1, 2, 4]);
    }

    #[test]
    fn groups_in_order_wait_for_the_lowest() {
        let part = Part { next_group: 4, passed: BTreeSet::from([5]), ..Part::default() };
        assert_eq!(groups(&[4, 6, 8], &[]).choose_groups(&part, 2, true), Some(vec![4, 6]));
        assert_eq!(groups(&[6, 8], &[4]).choose_groups(&part, 2, true), None);
        assert_eq!(groups(&[6, 8], &[4]).choose_groups(&part, 2, false), Some(vec![6, 8]));
        assert_eq!(groups(&[4, 6], &[7]).lowest_open(&part, 9), Some(7));
        assert_eq!(groups(&[4, 6], &[]).lowest_open(&part, 7), None);
    }

    #[test]
    fn closed_groups_move_the_mark() {
        let mut part = Part { next_group: 2, ..Part::default() };
        part.close_group(4);
        part.close_group(3);
        assert_eq!((part.next_group, part.passed.len()), (2, 2));
        part.close_group(2);
        assert_eq!((part.next_group, part.passed.len()), (5, 0));
    }
}
