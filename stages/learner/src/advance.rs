//! What comes next: another phase, a batch, a checkpoint, the last validation, the end.

use crate::grants;
use crate::groups;
use crate::inbox::Chosen;
use crate::optimiser::Maker;
use crate::phases;
use crate::stage::{Learner, object_of};
use crate::validation::Pass;
use crate::work::{Batch, Order, with_advantages};
use kit::stage::{Now, Output, Report};
use schemas::pipeline::{Phase, PhaseConfig};
use schemas::{EpisodeId, Grant, Split, Use};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Uses that wait for a checkpoint at most, in number and in time. A batch usually comes first.
const PENDING_MOST: usize = 256;
const PENDING_MS: u64 = 2_000;
/// The same without batches.
const PENDING_IDLE_MS: u64 = 500;
/// Without batches: groups and expert episodes granted ahead of those that have ended.
const IDLE_AHEAD: u64 = 1024;
/// The same, raised in steps.
const IDLE_STEP: u64 = 128;

impl<M: Maker> Learner<M> {
    /// Called after every input: does what can be done now.
    pub(crate) fn go_on(&mut self, now: Now, out: &mut Vec<Output>) {
        if !self.is_at_work() && !self.publisher.is_busy() && self.probing.is_empty() {
            self.advance(now, out);
        }
        if self.is_idle() {
            self.raise_idle_grants();
        } else {
            self.known.state.raise_grants(&self.place.pipeline);
        }
        // A grant may only name what a checkpoint holds, and the version that generators were told of.
        let steady = !self.publisher.is_busy() && self.probing.is_empty() && !self.pending.now;
        if steady && (self.newest_published.is_some() || self.is_idle()) && !self.is_committing_passes() {
            let grant = self.grant();
            let ticket = self.ticket();
            out.extend(self.granter.offer(&self.identity.run, grant, ticket, now.mono_ms));
        }
    }

    /// Whether the order under way may be the one that writes new validation passes.
    fn is_committing_passes(&self) -> bool {
        self.is_at_work() && self.known.state.config(&self.place.pipeline).is_none()
    }

    fn grant(&self) -> Grant {
        let state = &self.known.state;
        Grant {
            epoch: self.identity.epoch,
            upto_group: state.upto_group,
            dagger_below: state.dagger_below,
            upto_expert: state.upto_expert,
            version: self.newest_published.unwrap_or(0),
            validate: state.validate(),
            finished: state.finished,
            start: state.start.clone(),
        }
    }

    fn advance(&mut self, now: Now, out: &mut Vec<Output>) {
        while let Some(config) = self.known.state.config(&self.place.pipeline) {
            if !self.is_phase_over(config) {
                break;
            }
            let phase = config.phase.as_str();
            self.known.state.next_phase();
            self.validate_phase(phase);
            self.put_away(now);
        }
        if self.known.state.config(&self.place.pipeline).is_none() {
            self.finish(now);
        } else if !self.is_idle() && self.train(now, out) {
            return;
        }
        let age = now.mono_ms.saturating_sub(self.pending.since_ms);
        let oldest = if self.is_idle() { PENDING_IDLE_MS } else { PENDING_MS };
        let due = !self.pending.ids.is_empty() && (self.pending.ids.len() >= PENDING_MOST && !self.is_idle() || age >= oldest);
        if self.pending.now || due {
            self.order(|snapshot| Order::Commit { snapshot }, true, out);
        }
    }

    /// Where the pipeline asks for it, what a phase before the last one came to is validated beside the training that goes on.
    fn validate_phase(&mut self, phase: &str) {
        let learner = &self.place.pipeline.learner;
        let state = &mut self.known.state;
        let is_last = state.config(&self.place.pipeline).is_none();
        let version = state.version;
        if !learner.validate || !learner.validate_phases || is_last || state.passes.iter().any(|p| p.version == version) {
            return;
        }
        state.passes.push(Pass { version, phase: phase.into(), ..Pass::default() });
    }

    fn is_phase_over(&self, config: &PhaseConfig) -> bool {
        if !self.is_idle() {
            return phases::is_over(config, &self.known.state.part);
        }
        // Without steps a phase's batches are counted by the groups, or expert episodes, that would have filled them.
        let part = &self.known.state.part;
        let ended =
            if phases::has_groups(config.phase) { part.next_group - part.first_group } else { part.next_expert - part.first_expert };
        let by_batches = config.batches > 0 && ended >= config.batches.saturating_mul(u64::from(config.batch));
        by_batches || (config.minutes > 0.0 && part.elapsed_ms as f64 >= config.minutes * 60_000.0)
    }

    /// Ends that the phase before left and this one has no use for.
    fn put_away(&mut self, now: Now) {
        let config = self.known.state.config(&self.place.pipeline);
        let taken: Vec<u64> =
            self.inbox.experts.iter().filter(|(_, (mode, _))| config.is_some() && self.takes_expert(*mode)).map(|(n, _)| *n).collect();
        let mut kept = BTreeMap::new();
        for number in taken {
            kept.extend(self.inbox.experts.remove_entry(&number));
        }
        for id in self.inbox.drain() {
            self.decide(id, Use::Unused, now);
        }
        if !self.place.pipeline.deterministic {
            self.known.state.part.next_expert = kept.keys().next().copied().unwrap_or(self.known.state.part.next_expert);
        }
        self.inbox.experts = kept;
        // No grant of the new phase may go out before a checkpoint knows of it.
        self.pending.now = true;
    }

    // --- Batches -------------------------------------------------------------------------------------------------

    /// Starts a batch if there is one; true if so.
    fn train(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        let Some(config) = self.known.state.config(&self.place.pipeline).cloned() else { return false };
        let batch = match config.phase {
            Phase::Imitation | Phase::Format => self.imitation_batch(&config),
            Phase::Dagger => self.dagger_batch(&config),
            Phase::Grpo => self.grpo_batch(&config, now),
        };
        let Some(batch) = batch else { return false };
        let every = u64::from(self.place.pipeline.learner.checkpoint_every.max(1));
        let keep = (self.known.state.batch + 1).is_multiple_of(every);
        let line = self.line();
        self.order(|snapshot| Order::Train { snapshot, batch, keep, line }, keep, out);
        true
    }

    fn choose_experts(&self, count: usize) -> Option<Chosen> {
        let used = |number| self.known.uses.get(EpisodeId { split: Split::Expert, number }).is_some();
        self.inbox.choose_experts(&self.known.state.part, count, self.place.pipeline.deterministic, used)
    }

    fn take_experts(&mut self, chosen: Chosen) -> (Vec<Arc<crate::tokens::Trajectory>>, Vec<Arc<crate::tokens::Trajectory>>) {
        self.known.state.part.next_expert = chosen.end;
        let mut take = |numbers: Vec<u64>| numbers.iter().filter_map(|n| self.inbox.experts.remove(n)).map(|(_, t)| t).collect();
        (take(chosen.new), take(chosen.held_out))
    }

    fn imitation_batch(&mut self, config: &PhaseConfig) -> Option<Batch> {
        match self.choose_experts(config.batch as usize) {
            Some(chosen) => {
                let (new, held_out) = self.take_experts(chosen);
                Some(Batch::Imitate { new, held_out, fed: true })
            }
            None => self.repeated(config),
        }
    }

    /// A batch of episodes seen before, where the clock runs and the new ones are not there yet.
    fn repeated(&self, config: &PhaseConfig) -> Option<Batch> {
        let enough = self.window_len >= config.batch as usize;
        (enough && phases::may_repeat(config, self.place.pipeline.deterministic)).then(|| Batch::Imitate {
            new: vec![],
            held_out: vec![],
            fed: false,
        })
    }

    fn dagger_batch(&mut self, config: &PhaseConfig) -> Option<Batch> {
        let chosen = self.inbox.choose_groups(&self.known.state.part, config.batch as usize, self.place.pipeline.deterministic);
        let Some(chosen) = chosen else { return self.repeated(config) };
        let mut new: Vec<_> = self.take_groups(&chosen).into_iter().map(|(trajectory, _)| trajectory).collect();
        // What the imitation before it left over comes along.
        let left: Vec<u64> = self.inbox.experts.keys().copied().collect();
        let (held_out, experts) = left.into_iter().partition(|n| grants::is_held_out(EpisodeId { split: Split::Expert, number: *n }));
        let end = self.known.state.part.next_expert;
        let (experts, held_out) = self.take_experts(Chosen { new: experts, held_out, end });
        new.extend(experts);
        Some(Batch::Imitate { new, held_out, fed: true })
    }

    fn take_groups(&mut self, numbers: &[u64]) -> Vec<(Arc<crate::tokens::Trajectory>, f32)> {
        let mut all = vec![];
        for number in numbers {
            if let Some(slot) = self.inbox.groups.remove(number) {
                all.extend(with_advantages(slot.group, &slot.advantages.unwrap_or_default()));
                self.known.state.part.close_group(*number);
            }
        }
        all
    }

    fn grpo_batch(&mut self, config: &PhaseConfig, now: Now) -> Option<Batch> {
        let (in_order, max_staleness) = (self.place.pipeline.deterministic, u64::from(self.place.pipeline.max_staleness()));
        loop {
            let state = &self.known.state;
            let chosen = self.inbox.choose_groups(&state.part, config.batch as usize, in_order)?;
            let stale: Vec<u64> = chosen.iter().copied().filter(|number| self.is_stale(*number, max_staleness)).collect();
            if stale.is_empty() {
                let open = self.inbox.lowest_open(&state.part, state.upto_group);
                if !in_order && grants::must_wait(open, &state.granted, state.batch, max_staleness) {
                    return None;
                }
                return Some(Batch::Reinforce(self.take_groups(&chosen)));
            }
            stale.into_iter().for_each(|number| self.waste(number, Use::Stale, now));
        }
    }

    fn is_stale(&self, number: u64, max_staleness: u64) -> bool {
        let state = &self.known.state;
        let Some(slot) = self.inbox.groups.get(&number) else { return false };
        let sampled = slot.group.members.values().filter_map(|m| m.oldest);
        sampled.min().is_some_and(|oldest| groups::is_stale(state.batch_of.get(&oldest).copied(), state.batch, max_staleness))
    }

    /// What a batch's log line says beside its training.
    fn line(&mut self) -> serde_json::Value {
        let recent = std::mem::take(&mut self.recent);
        let share = |sum: f64| if recent.episodes == 0 { 0.0 } else { sum / recent.episodes as f64 };
        self.last.success = share(recent.successes as f64);
        self.last.signal_share = self.signal.share();
        let line = json!({
            "policy_episodes": recent.episodes,
            "success": self.last.success,
            "well_formed": share(recent.well_formed),
            "groups_ended": self.signal.groups,
            "signal_share": self.last.signal_share,
            "furthest": self.signal.furthest,
            "milestone": self.signal.milestone,
            "wasted_groups": self.known.state.part.wasted,
            "elapsed_s": self.known.state.part.elapsed_ms as f64 / 1000.0,
        });
        self.signal.next_batch();
        line
    }

    // --- The end -------------------------------------------------------------------------------------------------

    /// The last step is made: the finished policy is validated, then everything is done.
    fn finish(&mut self, now: Now) {
        let validates = self.place.pipeline.learner.validate && !self.is_idle();
        let state = &mut self.known.state;
        if state.finished {
            return;
        }
        let episodes = self.place.pipeline.episodes.validation;
        if validates && !state.passes.iter().any(|p| p.last && !p.lost) {
            let phase = self.place.pipeline.schedule.last().map_or("", |c| c.phase.as_str());
            let version = state.version;
            match state.passes.iter_mut().find(|p| p.version == version && !p.lost) {
                Some(pass) => pass.last = true,
                None => state.passes.push(Pass { version, phase: phase.into(), last: true, ..Pass::default() }),
            }
            self.pending.now = true;
        }
        if !validates || state.passes.iter().all(|p| p.is_complete(episodes)) {
            state.finished = true;
            for id in self.inbox.drain() {
                self.decide(id, Use::Unused, now);
            }
            self.pending.now = true;
        }
    }

    // --- After a restart -----------------------------------------------------------------------------------------

    /// Looks for the weights of versions that are still to be validated: a broker that lost its files has none.
    pub(crate) fn probe(&mut self, out: &mut Vec<Output>) {
        let episodes = self.place.pipeline.episodes.validation;
        let current = self.known.state.version;
        let open = self.known.state.passes.iter().filter(|p| !p.is_complete(episodes) && p.version != current);
        for version in open.map(|p| p.version).collect::<Vec<_>>() {
            let ticket = self.ticket();
            self.probing.insert(ticket.0, version);
            out.push(Output::GetObject { ticket, name: object_of(version) });
        }
    }

    pub(crate) fn on_probed(&mut self, version: u64, is_there: bool) {
        if is_there {
            return;
        }
        tracing::warn!(version, "its weights are gone, so its validation stays incomplete");
        let state = &mut self.known.state;
        let untrained = state.batch == 0;
        for pass in state.passes.iter_mut().filter(|p| p.version == version) {
            pass.lost = true;
        }
        if untrained {
            // The weights have not changed since: the version they have now stands for the one that is gone.
            state.passes.push(Pass { version: state.version, phase: "start".into(), ..Pass::default() });
        }
        self.pending.now = true;
    }

    // --- Without steps -------------------------------------------------------------------------------------------

    fn raise_idle_grants(&mut self) {
        let Some(config) = self.known.state.config(&self.place.pipeline) else { return };
        let limit = if config.batches > 0 { config.batches.saturating_mul(u64::from(config.batch)) } else { u64::MAX };
        let groups = phases::has_groups(config.phase);
        let dagger = config.phase == Phase::Dagger;
        let state = &mut self.known.state;
        let (first, seen) = if groups { (state.part.first_group, self.seen_group) } else { (state.part.first_expert, self.seen_expert) };
        let upto = ((seen + IDLE_AHEAD) / IDLE_STEP * IDLE_STEP).min(first.saturating_add(limit));
        if groups {
            state.upto_group = state.upto_group.max(upto);
            state.dagger_below = if dagger { state.upto_group } else { state.dagger_below };
        } else {
            state.upto_expert = state.upto_expert.max(upto);
        }
    }

    // --- Told ----------------------------------------------------------------------------------------------------

    pub(crate) fn told(&self) -> Report {
        let state = &self.known.state;
        // Uses that a checkpoint holds: only those are sure to stay.
        let used = state.used().saturating_sub(self.uncommitted() as u64);
        let gauges = BTreeMap::from([
            ("finished", f64::from(u8::from(state.finished && !self.pending.now))),
            ("ends_used", used as f64),
            ("ends_held", self.held.len() as f64),
            ("trained_tokens", state.tokens.trained as f64),
            ("version", state.version as f64),
            ("batch", state.batch as f64),
            ("step", state.step as f64),
            ("loss", self.last.loss),
            ("success", self.last.success),
            ("signal_share", self.last.signal_share),
            ("wasted_groups", state.part.wasted as f64),
            ("window", self.window_len as f64),
        ]);
        let versions = self.newest_published.into_iter().collect();
        Report { done: used, waiting: self.held.len() as u64, free: 0, versions, gauges, line: self.spoken() }
    }

    fn spoken(&self) -> String {
        let state = &self.known.state;
        let episodes = self.place.pipeline.episodes.validation;
        match state.config(&self.place.pipeline) {
            _ if state.format == 0 => "starts".into(),
            _ if self.is_idle() => "takes no step".into(),
            _ if state.finished => format!("finished, version {}, {} batches", state.version, state.batch),
            None => {
                let done: usize = state.passes.iter().map(|p| p.episodes.len()).sum();
                format!("validates, {done} of {} episodes", state.passes.len() as u64 * episodes)
            }
            Some(config) => {
                let signal = if config.phase == Phase::Grpo { format!(", signal {:.2}", self.last.signal_share) } else { String::new() };
                format!(
                    "{}, batch {}, loss {:.3}, success {:.2}{signal}, version {}",
                    config.phase.as_str(),
                    state.part.batches,
                    self.last.loss,
                    self.last.success,
                    state.version
                )
            }
        }
    }
}
