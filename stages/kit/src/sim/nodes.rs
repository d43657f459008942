//! Stages as nodes of a simulated network: how they start, step, tick, fall silent and die.

use super::{EPOCH_US, Event, Factory, RUN, Sim};
use crate::program::Outcome;
use crate::sim::streams::Puller;
use crate::stage::{Follow, Identity, Input, Needs, Now, Output, Stage, Work};
use rand::RngExt;
use schemas::subjects::Stream;
use std::collections::BTreeMap;

const TICK_US: u64 = 100_000;
const PRESENCE_TICKS: u64 = 10;
const SILENCE_US: u64 = 3_000_000;
const IDLE_US: u64 = 1_000;

/// A stage's place in the run, over all its lives.
pub(super) struct Node {
    pub(super) name: String,
    factory: Factory,
    pub(super) stage: Option<Box<dyn Stage>>,
    pub(super) needs: Needs,
    /// Counts starts; what was meant for an older life is dropped.
    pub(super) life: u64,
    /// The epoch of each life.
    pub(super) epochs: BTreeMap<u64, u64>,
    started_us: u64,
    ticks: u64,
    pub(super) idle_due: bool,
    /// Links keep their order: nothing arrives before what was sent earlier.
    pub(super) last_in_us: u64,
    pub(super) last_out_us: u64,
    /// Of a life that has ended, what was sent after this never arrived.
    pub(super) cut_us: BTreeMap<u64, u64>,
    /// Others that this node has heard of, and when: for nodes that watch presence.
    seen: BTreeMap<String, (String, u64)>,
    pub(super) outcome: Option<Outcome>,
}

impl Node {
    pub(super) fn new(name: &str, factory: Factory) -> Node {
        Node {
            name: name.to_string(),
            factory,
            stage: None,
            needs: Needs::default(),
            life: 0,
            epochs: BTreeMap::new(),
            started_us: 0,
            ticks: 0,
            idle_due: false,
            last_in_us: 0,
            last_out_us: 0,
            cut_us: BTreeMap::new(),
            seen: BTreeMap::new(),
            outcome: None,
        }
    }

    /// `env-stepper` of `env-stepper-2`.
    fn kind(&self) -> &str {
        self.name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-')
    }
}

impl Sim {
    pub(super) fn puller(&self, node: usize) -> Puller {
        Puller { node, life: self.nodes[node].life }
    }

    pub(super) fn lives_as(&self, at: Puller) -> bool {
        let node = &self.nodes[at.node];
        node.life == at.life && node.stage.is_some()
    }

    /// Makes the stage anew, unless another of its kind holds the lease.
    pub(super) fn begin(&mut self, node: usize) {
        if self.nodes[node].stage.is_some() {
            return;
        }
        let kind = self.nodes[node].kind().to_string();
        let held = self.nodes.iter().any(|n| n.stage.is_some() && n.needs.lease && n.kind() == kind);
        if held {
            // Standing by.
            return self.at(self.now_us + TICK_US, Event::Start { node });
        }
        let epoch = self.epochs.entry(kind).or_insert(0);
        *epoch += 1;
        let identity = Identity {
            run: RUN.to_string(),
            id: self.nodes[node].name.clone(),
            host: "sim".to_string(),
            pid: node as u32 + 1,
            epoch: *epoch,
            since_us: 0,
            folder: std::path::PathBuf::from("sim").join(&self.nodes[node].name),
            pipeline: self.pipeline.clone(),
        };
        let now_us = self.now_us;
        let me = &mut self.nodes[node];
        me.life += 1;
        me.epochs.insert(me.life, identity.epoch);
        me.started_us = now_us;
        me.ticks = 0;
        me.idle_due = false;
        me.outcome = None;
        me.seen.clear();
        let stage = (me.factory)(identity);
        me.needs = stage.needs();
        me.stage = Some(stage);
        let to = self.puller(node);
        self.step(to, Input::Started);
        self.at(now_us + TICK_US, Event::Tick { to });
        let follow = self.nodes[node].needs.follow.clone();
        for (stream, from) in follow {
            self.replay(to, stream, from);
        }
    }

    fn replay(&mut self, to: Puller, stream: Stream, from: Follow) {
        let stored: Vec<_> = self.stream(stream).into_iter().cloned().collect();
        let skip = if from == Follow::Last { stored.len().saturating_sub(1) } else { 0 };
        for message in stored.into_iter().skip(skip) {
            let input = Input::Message { subject: message.subject, headers: message.headers, payload: message.payload, delivery: None };
            self.send_in(to, input);
        }
    }

    /// Ends a life at once; what it had sent arrives up to a random point.
    pub(super) fn crash(&mut self, node: usize, restart_after_us: Option<u64>) {
        if self.nodes[node].stage.take().is_some() {
            let last = self.nodes[node].last_out_us.max(self.now_us);
            let cut = self.rng.random_range(self.now_us..=last);
            let life = self.nodes[node].life;
            self.nodes[node].cut_us.insert(life, cut);
        }
        if let Some(after) = restart_after_us {
            self.at(self.now_us + after, Event::Start { node });
        }
    }

    /// Sends an input over a node's link, behind what is on its way already.
    pub(super) fn send_in(&mut self, to: Puller, input: Input) {
        let delay = self.delay_us();
        let at = (self.now_us + delay).max(self.nodes[to.node].last_in_us);
        self.nodes[to.node].last_in_us = at;
        self.at(at, Event::Deliver { to, input });
    }

    /// An input arrives, unless its node is dead or cut off.
    pub(super) fn deliver(&mut self, to: Puller, input: Input) {
        if !self.lives_as(to) {
            return;
        }
        let Some(until) = self.cut_off_until(to.node, self.now_us) else { return self.step(to, input) };
        match input {
            // Asked for again, redelivered, or of no use later.
            Input::Message { delivery: Some(_), .. } | Input::Presence(_) | Input::Gone { .. } => {}
            Input::Message { ref subject, .. } if !self.is_stored(subject) => {}
            Input::Published { ticket, .. } => {
                let result = Err(crate::stage::PublishError::Unknown("no answer in time".into()));
                self.at(until + 2_000_000, Event::Deliver { to, input: Input::Published { ticket, result } });
            }
            other => self.at(until, Event::Deliver { to, input: other }),
        }
    }

    /// Steps the logic and sends what it answers.
    pub(super) fn step(&mut self, to: Puller, input: Input) {
        let now_us = self.now_us;
        let node = &mut self.nodes[to.node];
        let Some(stage) = node.stage.as_mut() else { return };
        let now = Now { unix_us: EPOCH_US + now_us, mono_ms: (now_us - node.started_us) / 1000 };
        let outputs = stage.step(input, now);
        for output in outputs {
            match output {
                Output::Exit { code, message } => {
                    self.leave(to, Outcome { code, message });
                    return;
                }
                Output::Work { ticket, work } => {
                    let result: Box<dyn Work> = work.run();
                    let at = now_us + (self.faults.work_ms * 1000.0) as u64;
                    self.at(at, Event::Deliver { to, input: Input::Worked { ticket, result } });
                }
                output => self.send_out(to, output),
            }
        }
        let node = &mut self.nodes[to.node];
        let wants_idle = node.stage.as_ref().is_some_and(|stage| stage.wants_idle());
        if wants_idle && !node.idle_due {
            node.idle_due = true;
            self.at(now_us + IDLE_US, Event::Idle { to });
        }
    }

    fn send_out(&mut self, from: Puller, output: Output) {
        let delay = self.delay_us();
        let mut at = (self.now_us + delay).max(self.nodes[from.node].last_out_us);
        if let Some(until) = self.cut_off_until(from.node, at) {
            at = until;
        }
        self.nodes[from.node].last_out_us = at;
        self.at(at, Event::Arrive { from, output });
    }

    /// Ends in order: everything sent before arrives, and the others are told.
    fn leave(&mut self, who: Puller, outcome: Outcome) {
        let node = &mut self.nodes[who.node];
        node.stage = None;
        node.outcome = Some(outcome);
        let name = node.name.clone();
        for other in 0..self.nodes.len() {
            if let Some((stage, _)) = self.nodes[other].seen.remove(&name) {
                let to = self.puller(other);
                self.send_in(to, Input::Gone { stage, id: name.clone() });
            }
        }
    }

    /// Ten times a second; each tenth time the node says that it is alive.
    pub(super) fn tick(&mut self, to: Puller) {
        if !self.lives_as(to) {
            return;
        }
        self.at(self.now_us + TICK_US, Event::Tick { to });
        self.step(to, Input::Tick);
        if !self.lives_as(to) {
            return;
        }
        let node = &mut self.nodes[to.node];
        node.ticks += 1;
        if node.ticks % PRESENCE_TICKS == 1 {
            self.announce(to);
        }
        if self.nodes[to.node].needs.presence {
            self.look_around(to);
        }
    }

    fn announce(&mut self, who: Puller) {
        let node = &self.nodes[who.node];
        let Some(stage) = &node.stage else { return };
        let report = stage.report();
        let presence = schemas::Presence {
            stage: node.needs.stage.to_string(),
            id: node.name.clone(),
            host: "sim".to_string(),
            pid: who.node as u32 + 1,
            started_us: EPOCH_US + node.started_us,
            done: report.done,
            waiting: report.waiting,
            free: report.free,
            versions: report.versions,
            gauges: report.gauges.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
            line: report.line,
        };
        if self.cut_off_until(who.node, self.now_us).is_some() {
            return;
        }
        for other in 0..self.nodes.len() {
            let listens = other != who.node && self.nodes[other].stage.is_some() && self.nodes[other].needs.presence;
            if !listens || self.cut_off_until(other, self.now_us).is_some() {
                continue;
            }
            self.nodes[other].seen.insert(presence.id.clone(), (presence.stage.clone(), self.now_us));
            let to = self.puller(other);
            self.send_in(to, Input::Presence(Box::new(presence.clone())));
        }
    }

    /// Tells a node of those that have fallen silent. Silence while it was itself cut off says nothing.
    fn look_around(&mut self, to: Puller) {
        let now_us = self.now_us;
        if self.cut_off_until(to.node, now_us).is_some() {
            self.nodes[to.node].seen.values_mut().for_each(|(_, at)| *at = now_us);
            return;
        }
        let seen = &self.nodes[to.node].seen;
        let silent: Vec<(String, String)> =
            seen.iter().filter(|(_, (_, at))| now_us - at > SILENCE_US).map(|(id, (stage, _))| (id.clone(), stage.clone())).collect();
        for (id, stage) in silent {
            self.nodes[to.node].seen.remove(&id);
            self.at(now_us, Event::Deliver { to, input: Input::Gone { stage, id } });
        }
    }
}
