//! From a delivered episode to a live rollout: backlog, scenes, suspects, fetches, and the progress acks that keep a
//! delivery ours.

use crate::alone::{self, AloneDone, Outcome, RunAlone};
use crate::rollout::{Next, Rollout, unplayed};
use crate::{Awaited, Held, Stand, Stepper};
use kit::{Delivered, Now, Output};
use schemas::{Cancel, EndReason, Episode, EpisodeId, Grant, Split, decode, digest_of, encode, subjects};
use std::sync::Arc;
use worlds::Task;

/// Processes that an episode may have taken down with it before it is run alone.
const CRASHES: u64 = 2;
/// How often a scene that is not there is asked for, and how long apart.
const SCENE_TRIES: u32 = 10;
const SCENE_PAUSE_MS: u64 = 500;

impl Stepper {
    /// Rollouts that hold a slot: also those whose end is not stored yet.
    pub(crate) fn slots_taken(&self) -> u32 {
        self.held.values().filter(|h| !matches!(h.stand, Stand::Backlog | Stand::Suspect)).count() as u32 + u32::from(self.child.is_some())
    }

    pub(crate) fn episode_came(&mut self, subject: String, payload: Vec<u8>, delivered: Delivered, now: Now, out: &mut Vec<Output>) {
        if let Some(split) = self.split_of(&delivered.durable) {
            self.fetches.arrived(split);
        }
        let world = &self.setting.pipeline.world.name;
        let episode: Episode = match decode(&payload).map_err(|e| e.to_string()) {
            Ok(episode) => episode,
            Err(reason) => {
                out.push(Output::Reject { subject, reason, payload });
                return out.push(Output::Term(delivered.delivery));
            }
        };
        if episode.world != *world {
            let reason = format!("episode {} is of world `{}`, this stepper has `{world}`", episode.id, episode.world);
            out.push(Output::Reject { subject, reason, payload });
            return out.push(Output::Term(delivered.delivery));
        }
        if let Some(held) = self.held.get_mut(&episode.id) {
            // The broker took it for lost while it was still in hand: go on under the new delivery.
            held.delivery = Some(delivered.delivery);
            held.progress_ms = now.mono_ms;
            return;
        }
        // A drain republishes, which begins a new count: the deliveries of this copy beyond the first are its crashes.
        let crashes = delivered.count.saturating_sub(1);
        let attempt = crashes as u32 + episode.handed_back;
        let id = episode.id;
        let suspect = crashes >= CRASHES && !self.options.alone_command.is_empty();
        let stand = if suspect { Stand::Suspect } else { Stand::Backlog };
        let held = Held { episode: Arc::new(episode), delivery: Some(delivered.delivery), attempt, progress_ms: now.mono_ms, stand };
        self.held.insert(id, held);
        if self.stillborn(id, now, out) {
            return;
        }
        if suspect { self.suspects.push_back(id) } else { self.backlog.push_back(id) }
    }

    /// Ends an episode that is not to be started any more: its group is broken, or the run is finished.
    fn stillborn(&mut self, id: EpisodeId, now: Now, out: &mut Vec<Output>) -> bool {
        let Some(held) = self.held.get(&id) else { return true };
        let broken = self.cancelled.contains(&(id.split, held.episode.group));
        let late = self.finished && id.split != Split::Val;
        if broken || late {
            let note = if broken { "its group was cancelled before it began" } else { "the run finished before it began" };
            self.end_unplayed(id, EndReason::Cancelled, note.into(), now, out);
        }
        broken || late
    }

    pub(crate) fn end_unplayed(&mut self, id: EpisodeId, reason: EndReason, note: String, now: Now, out: &mut Vec<Output>) {
        let Some(held) = self.held.get(&id) else { return };
        let end = unplayed(&self.setting, &held.episode, held.attempt, reason, note, now);
        self.publish_end(end, now, out);
    }

    /// Fills free slots from the backlog, then asks for more episodes.
    pub(crate) fn take_more(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.draining || self.options.alone.is_some() {
            return;
        }
        while self.slots_taken() < self.options.slots {
            let Some(id) = self.backlog.pop_front() else { break };
            self.begin(id, now, out);
        }
        self.start_child(out);
        if self.an_end_is_stuck() {
            return;
        }
        let capacity = self.options.slots + self.options.slots / 4;
        let room = capacity.saturating_sub(self.held.len() as u32);
        let mut by_split = [0u32; 3];
        for id in self.held.keys() {
            by_split[id.split as usize] += 1;
        }
        for (split, count) in self.fetches.plan(room, |split| by_split[split as usize], now.mono_ms) {
            out.push(Output::Fetch { durable: self.durable(split), count });
        }
    }

    /// Starts the world of an episode, or first asks for its scene.
    pub(crate) fn begin(&mut self, id: EpisodeId, now: Now, out: &mut Vec<Output>) {
        if self.stillborn(id, now, out) {
            return;
        }
        let Some(held) = self.held.get_mut(&id) else { return };
        let episode = Arc::clone(&held.episode);
        let mut scene = None;
        if let Some(wanted) = &episode.scene {
            scene = self.scenes.get(&wanted.digest);
            if scene.is_none() {
                held.stand = Stand::Scene;
                if !self.scenes_wanted.contains_key(&wanted.digest) {
                    self.scenes_wanted.insert(wanted.digest.clone(), (0, None));
                    self.ask_for_scene(wanted.digest.clone(), out);
                }
                return;
            }
        }
        let json = match String::from_utf8(episode.task.clone()) {
            Ok(json) => json,
            Err(_) => return self.end_unplayed(id, EndReason::EnvError, "its task is no text".into(), now, out),
        };
        let task = Task { seed: episode.seed, json, bucket: episode.bucket.clone(), expert_length: episode.expert_length };
        let world = match self.setting.kind.start(&task, scene.as_deref()) {
            Ok(world) => world,
            Err(error) => return self.end_unplayed(id, EndReason::EnvError, error, now, out),
        };
        let mut rollout = Box::new(Rollout::new(episode, held.attempt, world, now));
        let next = rollout.next_turn(&self.setting, now);
        held.stand = Stand::Live(rollout);
        self.go_on(id, next, now, out);
    }

    /// Asks for the turn that was prepared, or ends the episode.
    pub(crate) fn go_on(&mut self, id: EpisodeId, next: Next, now: Now, out: &mut Vec<Output>) {
        match next {
            Next::Ask => self.ask(id, now, out),
            Next::End(reason, note) => self.end_rollout(id, reason, note, now, out),
        }
    }

    fn ask_for_scene(&mut self, digest: String, out: &mut Vec<Output>) {
        let name = format!("scene-{digest}");
        let ticket = self.ticket(Awaited::Scene(digest));
        out.push(Output::GetObject { ticket, name });
    }

    pub(crate) fn scene_came(&mut self, digest: String, bytes: Option<Vec<u8>>, now: Now, out: &mut Vec<Output>) {
        let problem = match bytes {
            Some(bytes) if digest_of(&bytes) == digest => {
                self.scenes.put(digest.clone(), bytes);
                None
            }
            Some(_) => Some(format!("scene {digest} has other bytes than its digest says")),
            None => {
                let tries = self.scenes_wanted.get(&digest).map_or(0, |w| w.0) + 1;
                if tries < SCENE_TRIES {
                    self.scenes_wanted.insert(digest, (tries, Some(now.mono_ms + SCENE_PAUSE_MS)));
                    return;
                }
                Some(format!("scene {digest} is not in the run's artifacts"))
            }
        };
        self.scenes_wanted.remove(&digest);
        let waits = |h: &Held| matches!(h.stand, Stand::Scene) && h.episode.scene.as_ref().is_some_and(|s| s.digest == digest);
        let waiting: Vec<EpisodeId> = self.held.iter().filter(|(_, h)| waits(h)).map(|(id, _)| *id).collect();
        for id in waiting {
            match &problem {
                None => self.begin(id, now, out),
                Some(problem) => self.end_unplayed(id, EndReason::EnvError, problem.clone(), now, out),
            }
        }
    }

    pub(crate) fn tend_scenes(&mut self, now: Now, out: &mut Vec<Output>) {
        let due = |at: &Option<u64>| at.is_some_and(|at| at <= now.mono_ms);
        let again: Vec<String> = self.scenes_wanted.iter().filter(|(_, (_, at))| due(at)).map(|(d, _)| d.clone()).collect();
        for digest in again {
            if let Some((_, at)) = self.scenes_wanted.get_mut(&digest) {
                *at = None;
            }
            self.ask_for_scene(digest, out);
        }
    }

    pub(crate) fn cancel(&mut self, cancel: Cancel, now: Now, out: &mut Vec<Output>) {
        self.cancelled.insert((cancel.split, cancel.group));
        let member = |id: &EpisodeId, held: &Held| id.split == cancel.split && held.episode.group == cancel.group;
        let members: Vec<EpisodeId> = self.held.iter().filter(|(id, held)| member(id, held)).map(|(id, _)| *id).collect();
        let note = format!("its group was cancelled: {}", cancel.reason);
        for id in members {
            match self.held.get(&id).map(|h| &h.stand) {
                Some(Stand::Live(_)) => self.end_rollout(id, EndReason::Cancelled, note.clone(), now, out),
                // The child follows the cancellations itself.
                Some(Stand::Backlog | Stand::Scene | Stand::Suspect) if self.child != Some(id) => {
                    self.backlog.retain(|other| *other != id);
                    self.suspects.retain(|other| *other != id);
                    self.end_unplayed(id, EndReason::Cancelled, note.clone(), now, out);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn grant(&mut self, grant: Grant, now: Now, out: &mut Vec<Output>) {
        if grant.epoch < self.grant_epoch {
            return;
        }
        self.grant_epoch = grant.epoch;
        self.finished = grant.finished;
        if self.finished {
            let waiting: Vec<EpisodeId> = self.backlog.iter().copied().filter(|id| id.split != Split::Val).collect();
            self.backlog.retain(|id| id.split == Split::Val);
            for id in waiting {
                self.stillborn(id, now, out);
            }
        }
    }

    /// Runs the next suspect in a child process, one at a time.
    fn start_child(&mut self, out: &mut Vec<Output>) {
        if self.child.is_some() {
            return;
        }
        let Some(id) = self.suspects.pop_front() else { return };
        let Some(held) = self.held.get(&id) else { return };
        let order = alone::Order { attempt: held.attempt, episode: encode(held.episode.as_ref()) };
        let work = Box::new(RunAlone::new(self.options.alone_command.clone(), &order, self.child_process.clone()));
        self.child = Some(id);
        let ticket = self.ticket(Awaited::Alone(id));
        out.push(Output::Work { ticket, work });
    }

    pub(crate) fn child_ended(&mut self, id: EpisodeId, done: AloneDone, now: Now, out: &mut Vec<Output>) {
        self.child = None;
        let Some(held) = self.held.get(&id) else { return };
        match done.outcome {
            Outcome::Ended => {
                // The child has stored the end; only the delivery was ours.
                if let Some(held) = self.held.remove(&id) {
                    out.extend(held.delivery.map(Output::DoubleAck));
                }
                self.counts.ended += 1;
            }
            Outcome::GaveUp(_) => {
                if let Some(held) = self.held.remove(&id) {
                    out.extend(held.delivery.map(|delivery| Output::Nak { delivery, delay_ms: 1000 }));
                }
            }
            Outcome::Died(how) => {
                let note = format!("{how}, alone in a process of its own, after {} tries", held.attempt);
                let group = held.episode.group;
                let cancel = Cancel { split: id.split, group, reason: format!("{id} was rejected: {note}") };
                self.end_unplayed(id, EndReason::Rejected, note, now, out);
                self.cancels.push(cancel);
                self.publish_cancels(out);
            }
        }
    }

    /// Tells the other steppers of broken groups, until the stream has it.
    pub(crate) fn publish_cancels(&mut self, out: &mut Vec<Output>) {
        for cancel in std::mem::take(&mut self.cancels) {
            let payload = encode(&cancel);
            let ticket = self.ticket(Awaited::Cancel(cancel));
            let subject = subjects::cancel(&self.setting.run);
            out.push(Output::PublishDurable { ticket, subject, headers: Default::default(), payload, expected_last_sequence: None });
        }
    }

    /// In a child process: begins the one episode there is.
    pub(crate) fn begin_alone(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(order) = self.options.alone.clone() else { return };
        let episode: Episode = match decode(&order.episode) {
            Ok(episode) => episode,
            Err(error) => return out.push(Output::Exit { code: 2, message: format!("the episode to run alone: {error}") }),
        };
        let id = episode.id;
        let held = Held { episode: Arc::new(episode), delivery: None, attempt: order.attempt, progress_ms: 0, stand: Stand::Backlog };
        self.held.insert(id, held);
        self.begin(id, now, out);
    }

    /// Says 'still at work' for every delivery in hand each third of the time that the broker waits.
    pub(crate) fn keep_deliveries(&mut self, now: Now, out: &mut Vec<Output>) {
        let period_ms = (self.setting.pipeline.broker.ack_wait_s * 1000.0 / 3.0) as u64;
        for held in self.held.values_mut() {
            if now.mono_ms >= held.progress_ms + period_ms
                && let Some(delivery) = held.delivery
            {
                held.progress_ms = now.mono_ms;
                out.push(Output::Progress(delivery));
            }
        }
    }
}
