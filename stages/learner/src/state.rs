//! What the learner knows beside its weights: everything that a checkpoint must hold for another process to go on.

use crate::grants::{self, ExpertGrant, GroupGrant};
use crate::phases::{self, Part};
use crate::tokens::Counts;
use crate::validation::Pass;
use crate::window::Chunk;
use schemas::pipeline::{Phase, PhaseConfig, Pipeline};
use schemas::{EpisodeId, Start, Use};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Versions whose batch is remembered.
const BATCHES_REMEMBERED: usize = 256;

/// `learner.json` of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Of this file's layout.
    pub format: u32,
    /// Counts checkpoints.
    pub checkpoint: u64,
    /// Of the weights in the same checkpoint.
    pub version: u64,
    /// The highest version that may be published before the next checkpoint; a restored learner goes on above it.
    pub ceiling: u64,
    /// Batches trained.
    pub batch: u64,
    /// Optimiser steps taken.
    pub step: u64,
    /// Index into the schedule; its length when the last step is made.
    pub phase: usize,
    pub part: Part,
    /// What was granted so far; never falls.
    pub upto_group: u64,
    pub upto_expert: u64,
    /// Groups below are of mode `Dagger`.
    pub dagger_below: u64,
    /// `(upto, batch)`: which groups were allowed when. Only of the present phase.
    pub granted: Vec<(u64, u64)>,
    /// Batches trained when a version was made.
    pub batch_of: BTreeMap<u64, u64>,
    /// Versions whose weights are in the artifacts bucket.
    pub published: Vec<u64>,
    /// Every trajectory used as `trained`, once.
    pub tokens: Counts,
    /// Tokens of all passes and epochs.
    pub passed_tokens: u64,
    pub uses: BTreeMap<String, u64>,
    /// Stale trajectories by hundreds of tokens, to see whether long ones suffer.
    pub stale_by_length: BTreeMap<u64, u64>,
    /// Without steps: how many members of a group have ended.
    pub open_members: BTreeMap<u64, u32>,
    pub passes: Vec<Pass>,
    pub finished: bool,
    /// When the broker's record of the run was made, as it was known when this was written.
    #[serde(default)]
    pub since_us: u64,
    /// Where episodes went on when that record was last lost.
    #[serde(default)]
    pub start: Option<Start>,
    pub chunks: Vec<Chunk>,
    pub seconds_by_phase: BTreeMap<String, f64>,
    pub seconds_by_part: BTreeMap<String, f64>,
}

/// What a batch came to: applied to the state in memory and to the copy that goes into the checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub uses: Vec<(EpisodeId, Use)>,
    pub steps: u64,
    /// Of the trajectories that were used.
    pub counts: Counts,
    pub passed_tokens: u64,
    pub loss: f64,
    pub entropy: f64,
    pub kl_old: f64,
    pub clip_fraction: f64,
    pub grad_norm: f64,
    pub held_out_loss: Option<f64>,
    pub held_out: u64,
    pub chunk: Option<Chunk>,
    /// Whether the batch took groups or new episodes, and how many expert episodes.
    pub fed: bool,
    pub taken: u64,
    pub train_s: f64,
}

impl State {
    /// The state of a new run.
    pub fn new() -> State {
        State { format: 1, batch_of: BTreeMap::from([(0, 0)]), ..State::default() }
    }

    /// The phase that the schedule is in; `None` when it is done.
    pub fn config<'a>(&self, pipeline: &'a Pipeline) -> Option<&'a PhaseConfig> {
        pipeline.schedule.get(self.phase)
    }

    pub fn phase_name(&self, pipeline: &Pipeline) -> &'static str {
        self.config(pipeline).map_or("finished", |config| config.phase.as_str())
    }

    /// A batch was trained: another version, made in `phase`.
    pub fn apply(&mut self, outcome: &Outcome) {
        self.batch += 1;
        self.step += outcome.steps;
        self.version += 1;
        self.note_version();
        self.part.batches += 1;
        self.part.fed += u64::from(outcome.fed);
        self.part.taken += outcome.taken;
        if let Some(loss) = outcome.held_out_loss {
            self.part.note_loss(loss, outcome.held_out);
        }
        self.tokens.add(&outcome.counts);
        self.passed_tokens += outcome.passed_tokens;
        *self.seconds_by_part.entry("training".into()).or_insert(0.0) += outcome.train_s;
        self.count_uses(&outcome.uses);
        if let Some(chunk) = outcome.chunk {
            self.chunks.push(chunk);
            self.chunks = crate::window::needed(&self.chunks);
        }
    }

    pub fn count_uses(&mut self, uses: &[(EpisodeId, Use)]) {
        for (_, what) in uses {
            *self.uses.entry(what.as_str().into()).or_insert(0) += 1;
        }
    }

    /// Called for every checkpoint: versions up to this one may be published before the next.
    pub fn reserve(&mut self, checkpoint_every: u64) {
        self.ceiling = self.ceiling.max(self.version + checkpoint_every.saturating_sub(1));
    }

    /// Another process goes on from here: its weights are a new version before anything else.
    pub fn restored(&mut self) {
        self.version = self.ceiling.max(self.version) + 1;
        self.ceiling = self.version;
        self.note_version();
    }

    /// The broker has lost its record of the run: whatever was allowed and is in no batch will never come. Its numbers are left
    /// out, as if those groups and episodes had been wasted, and validation passes that were under way stay incomplete.
    pub fn forfeit(&mut self, pipeline: &Pipeline) {
        if let Some(config) = self.config(pipeline).cloned() {
            let part = &mut self.part;
            if phases::has_groups(config.phase) {
                let resolved = part.first_group + part.fed * u64::from(config.batch) + part.wasted;
                part.wasted += self.upto_group.saturating_sub(resolved);
                part.next_group = self.upto_group;
                part.passed.clear();
            } else {
                let allowed = grants::trained_below(self.upto_expert) - grants::trained_below(part.first_expert);
                part.lost = allowed.saturating_sub(part.taken);
                part.next_expert = self.upto_expert;
            }
        }
        self.open_members.clear();
        self.published.clear();
        let size = pipeline.episodes.validation;
        for pass in self.passes.iter_mut().filter(|pass| !pass.is_complete(size)) {
            pass.lost = true;
        }
        if self.batch == 0 && !self.passes.is_empty() {
            // The weights have not changed since: the version they have now stands for the one that is gone.
            self.passes.push(Pass { version: self.version, phase: "start".into(), ..Pass::default() });
        }
        let begun: Vec<u64> = self.passes.iter().filter(|pass| pass.version < self.version).map(|pass| pass.version).collect();
        let largest_group = u64::from(pipeline.episodes.group_size.max(pipeline.episodes.group_size_hard));
        self.start = Some(Start {
            group: self.upto_group,
            train: self.upto_group * largest_group,
            expert: self.upto_expert,
            val: begun.len() as u64 * size,
            passes: begun,
        });
    }

    fn note_version(&mut self) {
        self.batch_of.insert(self.version, self.batch);
        while self.batch_of.len() > BATCHES_REMEMBERED {
            self.batch_of.pop_first();
        }
    }

    /// The next phase begins where the one before had been allowed to go.
    pub fn next_phase(&mut self) {
        self.phase += 1;
        self.part = Part::starting(self.upto_group, self.upto_expert);
        self.granted.clear();
    }

    /// Raises what is granted to what the formulas allow.
    pub fn raise_grants(&mut self, pipeline: &Pipeline) {
        let Some(config) = self.config(pipeline) else { return };
        let (batch, limit, part) = (u64::from(config.batch), config.batches, &self.part);
        if phases::has_groups(config.phase) {
            let max_staleness = u64::from(pipeline.max_staleness());
            let grant = GroupGrant { first: part.first_group, max_staleness, batches: part.fed, batch, wasted: part.wasted, limit };
            let upto = grants::upto_group(grant).max(self.upto_group);
            if upto > self.upto_group {
                self.granted.push((upto, self.batch));
                self.upto_group = upto;
            }
            if config.phase == Phase::Dagger {
                self.dagger_below = self.upto_group;
            }
        } else {
            let grant = ExpertGrant { first: part.first_expert, taken: part.taken, batch, lost: part.lost, limit };
            self.upto_expert = grants::upto_expert(grant).max(self.upto_expert);
        }
    }

    /// Versions that are to be validated and can be, oldest first.
    pub fn validate(&self) -> Vec<u64> {
        let mut versions: Vec<u64> = self.passes.iter().filter(|p| !p.lost).map(|p| p.version).collect();
        versions.sort_unstable();
        versions
    }

    pub fn used(&self) -> u64 {
        self.uses.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(schedule: &str) -> Pipeline {
        Pipeline::parse(&format!("name = \"t\"\n[world]\nname = \"frozenlake\"\n[learner]\nmax_staleness = 1\n{schedule}")).unwrap()
    }

    #[test]
    fn what_the_broker_lost_is_not_waited_for() {
        let pipeline = pipeline(
            "[[schedule]]\nphase = \"imitation\"\nbatch = 4\nbatches = 9\n[[schedule]]\nphase = \"grpo\"\nbatch = 2\nbatches = 9\n",
        );
        let mut state = State::new();
        state.passes.push(Pass { phase: "start".into(), ..Pass::default() });
        state.raise_grants(&pipeline);
        let allowed = state.upto_expert;
        state.apply(&Outcome { fed: true, taken: 4, ..Outcome::default() });
        state.restored();
        state.forfeit(&pipeline);
        let start = state.start.clone().unwrap();
        assert_eq!((start.expert, start.group, start.passes.as_slice()), (allowed, 0, [0].as_slice()));
        assert!(state.passes[0].lost && start.val == pipeline.episodes.validation);
        state.raise_grants(&pipeline);
        let trainable =
            (allowed..state.upto_expert).filter(|n| !grants::is_held_out(EpisodeId { split: schemas::Split::Expert, number: *n }));
        assert_eq!(trainable.count(), 12, "three batches ahead of what is left");

        state.next_phase();
        state.raise_grants(&pipeline);
        state.apply(&Outcome { fed: true, ..Outcome::default() });
        state.forfeit(&pipeline);
        let before = state.upto_group;
        assert_eq!(
            state.start.as_ref().unwrap().train,
            before * u64::from(pipeline.episodes.group_size_hard.max(pipeline.episodes.group_size))
        );
        state.raise_grants(&pipeline);
        assert_eq!(state.upto_group, before + 2 * 2, "as many groups may start as at the beginning");
    }

    #[test]
    fn phases_follow_one_another_without_a_gap() {
        let pipeline = pipeline(
            "[[schedule]]\nphase = \"imitation\"\nbatch = 4\nbatches = 2\n[[schedule]]\nphase = \"dagger\"\nbatch = 3\nbatches = 2\n[[schedule]]\nphase = \"grpo\"\nbatch = 2\nbatches = 3\n",
        );
        let mut state = State::new();
        state.raise_grants(&pipeline);
        assert_eq!((state.upto_expert, state.upto_group, state.dagger_below), (8, 0, 0));
        state.next_phase();
        state.raise_grants(&pipeline);
        assert_eq!((state.upto_group, state.dagger_below), (6, 6));
        state.part.wasted = 1;
        state.raise_grants(&pipeline);
        assert_eq!((state.upto_group, state.dagger_below), (7, 7));
        state.next_phase();
        state.raise_grants(&pipeline);
        assert_eq!((state.part.first_group, state.upto_group, state.dagger_below), (7, 11, 7));
        assert_eq!(state.granted, [(11, 0)]);
        state.next_phase();
        state.raise_grants(&pipeline);
        assert_eq!((state.upto_group, state.config(&pipeline)), (11, None));
    }

    #[test]
    fn a_restored_learner_publishes_above_all_that_may_have_been() {
        let mut state = State::new();
        for _ in 0..3 {
            state.apply(&Outcome { steps: 2, ..Outcome::default() });
        }
        state.reserve(4);
        assert_eq!((state.version, state.ceiling, state.step, state.batch), (3, 6, 6, 3));
        state.restored();
        assert_eq!((state.version, state.ceiling, state.batch_of[&7]), (7, 7, 3));
    }

    #[test]
    fn it_is_read_back_as_it_was_written() {
        let mut state = State::new();
        state.apply(&Outcome { loss: 0.1, held_out_loss: Some(0.3), held_out: 4, train_s: 0.1 + 0.2, ..Outcome::default() });
        state.granted = vec![(3, 1)];
        state.part.passed.insert(2);
        let back: State = serde_json::from_slice(&serde_json::to_vec(&state).unwrap()).unwrap();
        assert_eq!(back, state);
    }
}
