//! The learning-signal meter: whether reinforcement has anything to learn from.
//!
//! A group teaches the task only where its members' task rewards differ, the format reward apart. Where none does, more
//! batches change nothing, and the run says so.

use crate::groups::Group;

/// What was seen since the last batch, and how long there has been no signal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signal {
    /// Since the last batch.
    pub groups: u64,
    pub differing: u64,
    /// The furthest that any episode came: progress from 0 to 1, and the milestone's name.
    pub furthest: f32,
    pub milestone: Option<String>,
    /// Groups since the last that differed.
    silent: u64,
    warned: bool,
}

impl Signal {
    /// Takes in a whole group.
    pub fn note(&mut self, group: &Group) {
        self.groups += 1;
        if group.differs_in_task() {
            self.differing += 1;
            self.silent = 0;
            self.warned = false;
        } else {
            self.silent += 1;
        }
        for member in group.members.values().filter(|m| m.progress.is_finite()) {
            if self.milestone.is_none() || member.progress > self.furthest {
                self.furthest = member.progress.max(self.furthest);
                self.milestone = member.milestone.clone().or(self.milestone.take());
            }
        }
    }

    /// Share of the groups since the last batch that differed.
    pub fn share(&self) -> f64 {
        if self.groups == 0 { 0.0 } else { self.differing as f64 / self.groups as f64 }
    }

    /// What to say when no group has differed for `batches` batches of `batch` groups; said once.
    pub fn warning(&mut self, batch: u64, batches: u64) -> Option<String> {
        if self.warned || batches == 0 || batch == 0 || self.silent < batch * batches {
            return None;
        }
        self.warned = true;
        let reached = self.milestone.as_deref().unwrap_or("none");
        Some(format!(
            "no group differed in task reward for {batches} batches ({} groups), so there is nothing to learn from; furthest milestone: {reached} ({:.0} % of the way); \
             hint: imitate longer before grpo, ask for easier episodes (episodes.curriculum, world.settings), larger groups (episodes.group_size), or raise sampling.temperature",
            self.silent,
            100.0 * self.furthest
        ))
    }

    /// A batch was made: the counts since the last one start anew.
    pub fn next_batch(&mut self) {
        (self.groups, self.differing) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::Member;
    use crate::tokens::{Counts, Lesson, Trajectory};
    use schemas::{EndReason, EpisodeId, Split};

    fn group(tasks: [f32; 2], milestone: &str) -> Group {
        let id = EpisodeId { split: Split::Train, number: 0 };
        let trajectory = Trajectory { id, lesson: Lesson::Sampled, segments: vec![], counts: Counts::default(), frames: vec![] };
        let member = |task: f32| Member {
            trajectory: trajectory.clone(),
            reason: EndReason::Done,
            total: task,
            task,
            success: false,
            progress: task / 10.0,
            milestone: Some(milestone.into()),
            oldest: None,
        };
        Group { size: 2, members: [(0, member(tasks[0])), (1, member(tasks[1]))].into() }
    }

    #[test]
    fn silence_is_said_once_with_what_to_change() {
        let mut signal = Signal::default();
        for _ in 0..5 {
            signal.note(&group([2.0, 2.0], "target seen"));
        }
        assert_eq!(signal.warning(2, 3), None);
        signal.note(&group([2.0, 2.0], "target seen"));
        let said = signal.warning(2, 3).unwrap();
        assert!(said.contains("target seen (20 % of the way)") && said.contains("hint: "), "{said}");
        assert_eq!(signal.warning(2, 3), None);
        signal.note(&group([2.0, 10.0], "done"));
        assert_eq!((signal.differing, signal.milestone.as_deref()), (1, Some("done")));
        for _ in 0..6 {
            signal.note(&group([2.0, 2.0], "target seen"));
        }
        assert!(signal.warning(2, 3).is_some(), "a new silence is said again");
    }

    #[test]
    fn the_share_counts_from_batch_to_batch() {
        let mut signal = Signal::default();
        assert_eq!(signal.share(), 0.0);
        signal.note(&group([0.0, 1.0], "a"));
        signal.note(&group([1.0, 1.0], "a"));
        assert_eq!(signal.share(), 0.5);
        signal.next_batch();
        assert_eq!((signal.share(), signal.milestone.as_deref()), (0.0, Some("a")));
    }
}
