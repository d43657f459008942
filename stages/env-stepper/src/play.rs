//! Asking for turns and taking replies.
//!
//! A rollout keeps its generator, which holds its prefix, and changes it only when it is gone or answers `busy` or
//! `version`. What is not answered is asked again.

use crate::rollout::{Asked, Rollout, Wait};
use crate::{Held, Stand, Stepper};
use kit::{Now, Output};
use schemas::{Completion, EndReason, EpisodeId, Frame, Observation, Presence, Status, encode, subjects};

/// Silence after which a turn is asked for again, milliseconds.
const SILENCE_MS: u64 = 3000;
/// Pause after every generator has refused a turn, milliseconds.
const REFUSED_MS: u64 = 250;

impl Stepper {
    fn live(&mut self, id: EpisodeId) -> Option<&mut Rollout> {
        match self.held.get_mut(&id) {
            Some(Held { stand: Stand::Live(rollout), .. }) => Some(rollout),
            _ => None,
        }
    }

    /// Sends the prepared turn on its way, to the generator that holds the prefix or to another.
    pub(crate) fn ask(&mut self, id: EpisodeId, now: Now, out: &mut Vec<Output>) {
        let Some(Held { stand: Stand::Live(rollout), .. }) = self.held.get_mut(&id) else { return };
        let Rollout { asked: Some(asked), generator, episode, .. } = rollout.as_mut() else { return };
        if asked.observation.expert_speaks {
            asked.observation.generator.clear();
        } else {
            let kept = self.generators.is_live(generator) && !asked.refused.contains(generator);
            if !kept {
                match self.generators.choose(episode.group, &asked.refused) {
                    Some(other) => *generator = other.to_string(),
                    None => {
                        // Refused by all: wait a little. None there: the next one that appears is asked at once.
                        let none_live = self.generators.is_empty();
                        asked.wait = if none_live { Wait::Generator } else { Wait::Later { at_ms: now.mono_ms + REFUSED_MS } };
                        return;
                    }
                }
            }
            asked.observation.generator.clone_from(generator);
        }
        asked.wait = Wait::Answer { heard_ms: now.mono_ms };
        asked.observation.sent_us = now.unix_us;
        out.push(Output::Publish { subject: subjects::observations(&self.setting.run), payload: encode(&asked.observation) });
    }

    /// An answer to some turn.
    pub(crate) fn completion(&mut self, completion: Completion, now: Now, out: &mut Vec<Output>) {
        let at = &completion.at;
        let id = at.id;
        let Some(rollout) = self.live(id) else {
            self.counts.stale += 1;
            return;
        };
        let waits = rollout.asked.as_ref().is_some_and(|a| a.observation.at.turn == at.turn);
        if at.attempt != rollout.attempt || !waits {
            self.counts.stale += 1;
            return;
        }
        match completion.status {
            Status::Done => self.done(id, completion, now, out),
            Status::Failed(ref reason) => {
                let note = format!("{} answered turn {}: {reason}", completion.generator, at.turn);
                self.end_rollout(id, EndReason::GeneratorError, note, now, out);
            }
            // Only the generator that is being asked has a say on the rest.
            _ if rollout.policy_speaks() && completion.generator != rollout.generator => self.counts.stale += 1,
            Status::Accepted | Status::Running => {
                rollout.moved_ms = now.mono_ms;
                if let Some(Asked { wait: Wait::Answer { heard_ms }, .. }) = &mut rollout.asked {
                    *heard_ms = now.mono_ms;
                }
            }
            Status::Need(ref digests) => self.send_frames(id, digests, now, out),
            Status::Busy | Status::Version(_) => {
                rollout.moved_ms = now.mono_ms;
                if let Some(asked) = &mut rollout.asked {
                    asked.refused.insert(completion.generator);
                }
                self.ask(id, now, out);
            }
        }
    }

    fn done(&mut self, id: EpisodeId, completion: Completion, now: Now, out: &mut Vec<Output>) {
        let Some(Held { stand: Stand::Live(rollout), .. }) = self.held.get_mut(&id) else { return };
        if rollout.fits(&completion).is_err() {
            // It does not go on from what was asked, so it is no answer. Asked again after the silence.
            self.counts.misfits += 1;
            return;
        }
        let steps = rollout.steps();
        let next = rollout.answer(&self.setting, completion, now);
        self.counts.steps += u64::from(rollout.steps() - steps);
        self.counts.turns += 1;
        self.go_on(id, next, now, out);
    }

    /// The generator lacks earlier pictures: sends the turn again, they follow its own.
    fn send_frames(&mut self, id: EpisodeId, digests: &[String], now: Now, out: &mut Vec<Output>) {
        let subject = subjects::observations(&self.setting.run);
        let Some(rollout) = self.live(id) else { return };
        rollout.moved_ms = now.mono_ms;
        let extra = rollout.frames(digests);
        let Some(asked) = &mut rollout.asked else { return };
        asked.wait = Wait::Answer { heard_ms: now.mono_ms };
        asked.observation.sent_us = now.unix_us;
        let own = asked.observation.frames.clone();
        let missing = extra.into_iter().filter(|f| own.iter().all(|o| o.digest != f.digest));
        let frames: Vec<Frame> = own.iter().cloned().chain(missing).collect();
        let observation = Observation { frames, ..asked.observation.clone() };
        out.push(Output::Publish { subject, payload: encode(&observation) });
    }

    pub(crate) fn present(&mut self, presence: &Presence, now: Now, out: &mut Vec<Output>) {
        match presence.stage.as_str() {
            "generator" if self.generators.seen(&presence.id) => {
                for id in self.waiting_for(|wait| wait == Wait::Generator) {
                    self.ask(id, now, out);
                }
            }
            "prompt-renderer" if !self.renderers.contains(&presence.id) => {
                self.renderers.insert(presence.id.clone());
            }
            _ => {}
        }
    }

    pub(crate) fn gone(&mut self, stage: &str, id: &str, now: Now, out: &mut Vec<Output>) {
        if stage == "prompt-renderer" {
            self.renderers.remove(id);
        }
        if stage == "generator" {
            self.generators.gone(id);
            let lost = |held: &Held| match &held.stand {
                Stand::Live(rollout) => rollout.policy_speaks() && rollout.generator == id,
                _ => false,
            };
            let again: Vec<EpisodeId> = self.held.iter().filter(|(_, held)| lost(held)).map(|(id, _)| *id).collect();
            for id in again {
                self.counts.asked_again += 1;
                self.ask(id, now, out);
            }
        }
    }

    fn waiting_for(&self, of: impl Fn(Wait) -> bool) -> Vec<EpisodeId> {
        let waits = |held: &Held| match &held.stand {
            Stand::Live(rollout) => rollout.asked.as_ref().is_some_and(|asked| of(asked.wait)),
            _ => false,
        };
        self.held.iter().filter(|(_, held)| waits(held)).map(|(id, _)| *id).collect()
    }

    /// Asks again where nothing was heard, and drops rollouts that stand still for longer than their deadline.
    pub(crate) fn tend_rollouts(&mut self, now: Now, out: &mut Vec<Output>) {
        let silent = |wait| matches!(wait, Wait::Answer { heard_ms } if now.mono_ms >= heard_ms + SILENCE_MS);
        for id in self.waiting_for(silent) {
            self.counts.asked_again += 1;
            self.ask(id, now, out);
        }
        for id in self.waiting_for(|wait| matches!(wait, Wait::Later { at_ms } if now.mono_ms >= at_ms)) {
            if let Some(asked) = self.live(id).and_then(|r| r.asked.as_mut()) {
                asked.refused.clear();
            }
            self.ask(id, now, out);
        }
        // Waiting for a generator, a version, or for any renderer to be there counts as moving.
        let all_wait = self.renderers.is_empty();
        for id in self.waiting_for(|wait| all_wait || !matches!(wait, Wait::Answer { .. })) {
            if let Some(rollout) = self.live(id) {
                rollout.moved_ms = now.mono_ms;
            }
        }
        self.drop_still_rollouts(now, out);
    }

    fn drop_still_rollouts(&mut self, now: Now, out: &mut Vec<Output>) {
        let deadline_ms = (self.setting.pipeline.limits.turn_deadline_s * 1000.0) as u64;
        let still = |held: &Held| match &held.stand {
            Stand::Live(rollout) => now.mono_ms > rollout.moved_ms + deadline_ms,
            _ => false,
        };
        let still: Vec<EpisodeId> = self.held.iter().filter(|(_, held)| still(held)).map(|(id, _)| *id).collect();
        for id in still {
            // No ack of any kind: the broker delivers it again when its patience ends.
            self.held.remove(&id);
            self.counts.dropped_rollouts += 1;
            if self.options.alone.is_some() {
                let message = format!("{id} has not moved for {} s", self.setting.pipeline.limits.turn_deadline_s);
                out.push(Output::Exit { code: crate::alone::GAVE_UP, message });
            }
        }
    }
}
