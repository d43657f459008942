//! Ends come in: each is checked, and decided, kept for a batch, or added to its group.

use crate::groups::{Group, Member, Verdict, judge};
use crate::optimiser::Maker;
use crate::phases;
use crate::stage::Learner;
use crate::tokens::{self, Counts, Lesson, Trajectory};
use crate::validation::Judged;
use kit::stage::{Delivery, Now, Output};
use schemas::pipeline::Phase;
use schemas::{End, EpisodeId, Mode, Split, Use};
use std::sync::Arc;

impl<M: Maker> Learner<M> {
    pub(crate) fn receive(&mut self, subject: String, payload: Vec<u8>, delivery: Delivery, now: Now, out: &mut Vec<Output>) {
        let end = match schemas::decode::<End>(&payload) {
            Ok(end) => end,
            Err(error) => {
                out.push(Output::Reject { subject, reason: error.to_string(), payload });
                return out.push(Output::Term(delivery));
            }
        };
        let id = end.id();
        if let Some(deliveries) = self.held.get_mut(&id) {
            return deliveries.push(delivery);
        }
        if self.known.uses.get(id).is_some() {
            // Its use is in a checkpoint: only the ack was lost.
            return out.push(Output::Ack(delivery));
        }
        let counts = match tokens::check(&end) {
            Ok(counts) => counts,
            Err(broken) => return self.fail(broken.to_string()),
        };
        if id.split != Split::Val
            && !self.is_idle()
            && end.reason.is_played()
            && let Err(broken) = tokens::check_pictures(&end)
        {
            return self.fail(broken.to_string());
        }
        self.held.insert(id, vec![delivery]);
        match id.split {
            _ if self.is_idle() => self.count_only(&end, now),
            Split::Val => self.on_val(&end, now),
            _ if self.known.state.finished || self.known.state.config(&self.place.pipeline).is_none() => self.decide(id, Use::Unused, now),
            Split::Expert => self.on_expert(end, counts, now),
            Split::Train => self.on_train(end, counts, now),
        }
    }

    /// Without steps: nothing is learned, everything is counted.
    fn count_only(&mut self, end: &End, now: Now) {
        self.note_recent(end);
        self.decide(end.id(), Use::Unused, now);
        let state = &mut self.known.state;
        match end.id().split {
            Split::Train => {
                let group = end.episode.group;
                self.seen_group = self.seen_group.max(group + 1);
                let ended = state.open_members.entry(group).or_insert(0);
                *ended += 1;
                if *ended >= end.episode.group_size {
                    state.open_members.remove(&group);
                    state.part.close_group(group);
                }
            }
            Split::Expert => {
                self.seen_expert = self.seen_expert.max(end.id().number + 1);
                while self.known.uses.get(EpisodeId { split: Split::Expert, number: state.part.next_expert }).is_some() {
                    state.part.next_expert += 1;
                }
            }
            Split::Val => {}
        }
    }

    fn on_val(&mut self, end: &End, now: Now) {
        let place = end.id().number % self.place.pipeline.episodes.validation.max(1);
        if let Some(pass) = self.known.state.passes.iter_mut().find(|p| p.version == end.episode.validates) {
            pass.episodes.entry(place).or_insert_with(|| Judged::of(end));
        }
        self.decide(end.id(), Use::Evaluated, now);
    }

    fn on_expert(&mut self, end: End, counts: Counts, now: Now) {
        let (id, mode) = (end.id(), end.episode.mode);
        if !self.takes_expert(mode) {
            return self.decide(id, Use::Unused, now);
        }
        if !end.reason.is_played() {
            self.known.state.part.lost += 1;
            return self.decide(id, Use::GroupBroken, now);
        }
        let trajectory = Arc::new(Trajectory { id, lesson: Lesson::Replies, segments: end.segments, counts, frames: end.frames });
        self.inbox.experts.insert(id.number, (mode, trajectory));
    }

    /// Whether expert episodes of this mode are of use now. In number order a phase asks for exactly as many as it takes,
    /// so none is left over for the next.
    pub(crate) fn takes_expert(&self, mode: Mode) -> bool {
        let deterministic = self.place.pipeline.deterministic;
        let config = self.known.state.config(&self.place.pipeline);
        config.is_some_and(|c| phases::takes_expert(c.phase, mode) && !(deterministic && c.phase == Phase::Dagger))
    }

    fn on_train(&mut self, end: End, counts: Counts, now: Now) {
        let (id, mode, group) = (end.id(), end.episode.mode, end.episode.group);
        self.note_recent(&end);
        let phase = self.known.state.config(&self.place.pipeline).map(|c| c.phase);
        if group < self.known.state.part.first_group || !phase.is_some_and(phases::has_groups) {
            return self.decide(id, Use::Unused, now);
        }
        let (size, number) = (end.episode.group_size, end.episode.member);
        if self.inbox.add_member(group, size, number, member(end, counts)) {
            if phase.is_some_and(|phase| phases::takes_group(phase, mode)) {
                self.on_whole(group, now);
            } else {
                // A group of another phase under a number of this one: another takes its place.
                self.waste(group, Use::Unused, now);
            }
        }
    }

    fn note_recent(&mut self, end: &End) {
        if end.reason.is_played() {
            self.recent.episodes += 1;
            self.recent.successes += u64::from(end.success);
            self.recent.well_formed += f64::from(Judged::of(end).well_formed);
        }
    }

    /// The last member of a group has ended.
    fn on_whole(&mut self, number: u64, now: Now) {
        let Some(config) = self.known.state.config(&self.place.pipeline) else { return };
        let (phase, batch, normalize) = (config.phase, u64::from(config.batch), config.normalize);
        let Some(slot) = self.inbox.groups.get_mut(&number) else { return };
        if phase == Phase::Dagger {
            if slot.group.members.values().all(|m| m.reason.is_played()) {
                slot.advantages = Some(vec![1.0; slot.group.members.len()]);
                return;
            }
            return self.waste(number, Use::GroupBroken, now);
        }
        let verdict = judge(&slot.group, normalize);
        if verdict != Verdict::Broken {
            self.signal.note(&slot.group);
        }
        match verdict {
            Verdict::Train(advantages) => slot.advantages = Some(advantages),
            Verdict::Broken => self.waste(number, Use::GroupBroken, now),
            Verdict::NonFinite => self.waste(number, Use::NonFinite, now),
            Verdict::Equal => self.waste(number, Use::EqualRewards, now),
        }
        if let Some(warning) = self.signal.warning(batch, u64::from(self.place.pipeline.learner.no_signal_batches)) {
            tracing::warn!("{warning}");
        }
    }

    /// A whole group ends without being trained; another may start in its place.
    pub(crate) fn waste(&mut self, number: u64, what: Use, now: Now) {
        let group = self.inbox.groups.remove(&number).map(|slot| slot.group).unwrap_or_default();
        let Group { members, .. } = group;
        for member in members.values() {
            self.decide(member.trajectory.id, what, now);
            if what == Use::Stale {
                let hundreds = member.trajectory.counts.sampled / 100;
                *self.known.state.stale_by_length.entry(hundreds).or_insert(0) += 1;
            }
        }
        self.known.state.part.wasted += 1;
        self.known.state.part.close_group(number);
    }
}

fn member(end: End, counts: Counts) -> Member {
    let (total, format) = (end.total_reward(), end.reward("format"));
    let oldest = end.versions().map(|(oldest, _)| oldest);
    Member {
        reason: end.reason,
        total,
        task: total - format,
        success: end.success,
        progress: end.progress,
        milestone: end.milestones.last().cloned(),
        oldest,
        trajectory: Trajectory { id: end.id(), lesson: Lesson::of(end.episode.mode), segments: end.segments, counts, frames: end.frames },
    }
}
