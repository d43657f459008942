//! The stage: what moves between the broker, the decisions and the work.

use crate::inbox::Inbox;
use crate::optimiser::{Digests, Files, Maker};
use crate::publishing::{Granter, Publisher};
use crate::signal::Signal;
use crate::work::{Done, Order, Place, Shop, Snapshot, Task};
use kit::stage::{Delivery, Durable, Identity, Input, Needs, Now, Output, Report, Stage, Ticket};
use schemas::subjects::{self, Stream};
use schemas::{EpisodeId, PolicyPublished, Use};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Ends asked for ahead of those that have come.
const FETCH_AHEAD: u32 = 1024;
/// How often files that are not there yet are asked for again.
const FILES_RETRY_MS: u64 = 500;
/// Weights that nobody needs any more are removed after this time.
const GRACE_MS: u64 = 5_000;
/// How often files that are not there yet are spoken of.
const FILES_PATIENCE: u32 = 20;

/// What the learner is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// Waits for the policy's files.
    Files,
    /// Makes or restores the policy.
    Starting,
    Running,
    /// Was told to finish.
    Draining,
    Over,
}

/// Uses that are decided and not yet in a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) ids: Vec<EpisodeId>,
    /// Since when.
    pub(crate) since_ms: u64,
    /// A checkpoint is due whatever their number.
    pub(crate) now: bool,
}

/// What is told of the last batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Last {
    pub(crate) loss: f64,
    pub(crate) signal_share: f64,
    pub(crate) success: f64,
}

/// Episodes of the policy since the last batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    pub(crate) episodes: u64,
    pub(crate) successes: u64,
    pub(crate) well_formed: f64,
}

/// See the crate's text.
pub struct Learner<M: Maker> {
    pub(crate) identity: Identity,
    pub(crate) place: Place,
    pub(crate) life: Life,
    maker: Option<M>,
    files: BTreeMap<&'static str, Option<Vec<u8>>>,
    retry_files_ms: Option<u64>,
    asked_files: u32,
    /// Not here while it is at work.
    shop: Option<Shop<M::O>>,
    digests: Digests,
    pub(crate) known: Snapshot,
    pub(crate) held: BTreeMap<EpisodeId, Vec<Delivery>>,
    pub(crate) inbox: Inbox,
    pub(crate) pending: Pending,
    /// Uses that the order under way writes.
    committing: Vec<EpisodeId>,
    pub(crate) publisher: Publisher,
    pub(crate) granter: Granter,
    /// Versions whose weights are looked for, after a restart, before they are validated further.
    pub(crate) probing: BTreeMap<u64, u64>,
    /// Versions that generators hold, by their ids.
    pub(crate) serving: BTreeMap<String, Vec<u64>>,
    pub(crate) signal: Signal,
    pub(crate) recent: Recent,
    pub(crate) last: Last,
    pub(crate) window_len: usize,
    pub(crate) newest_published: Option<u64>,
    /// Versions that nobody needs any more, and since when: their weights are removed a while later.
    superseded: BTreeMap<u64, u64>,
    fetching: u32,
    tickets: u64,
    swept_ms: u64,
    clock_ms: u64,
    /// One past the highest group and expert episode that has come; for a learner that takes no step.
    pub(crate) seen_group: u64,
    pub(crate) seen_expert: u64,
    pub(crate) failed: Option<String>,
}

/// The last one is there only where the policy has eyes.
const FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "config.json", IMAGE_PROCESSOR];
const IMAGE_PROCESSOR: &str = "preprocessor_config.json";

impl<M: Maker> Learner<M> {
    pub fn new(identity: Identity, maker: M) -> Learner<M> {
        let place = Place { folder: identity.folder.clone(), pipeline: Arc::new(identity.pipeline.clone()), since_us: identity.since_us };
        Learner {
            place,
            life: Life::Files,
            maker: (!identity.pipeline.learner.idle).then_some(maker),
            files: BTreeMap::new(),
            retry_files_ms: None,
            asked_files: 0,
            shop: None,
            digests: Digests::default(),
            known: Snapshot::default(),
            held: BTreeMap::new(),
            inbox: Inbox::default(),
            pending: Pending::default(),
            committing: vec![],
            publisher: Publisher::new(&identity.run),
            granter: Granter::default(),
            probing: BTreeMap::new(),
            serving: BTreeMap::new(),
            signal: Signal::default(),
            recent: Recent::default(),
            last: Last::default(),
            window_len: 0,
            newest_published: None,
            superseded: BTreeMap::new(),
            fetching: 0,
            tickets: 0,
            swept_ms: 0,
            clock_ms: 0,
            seen_group: 0,
            seen_expert: 0,
            failed: None,
            identity,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.identity.pipeline.learner.idle
    }

    pub(crate) fn is_at_work(&self) -> bool {
        self.shop.is_none()
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Ends the process with this line; what is not in a checkpoint comes again.
    pub(crate) fn fail(&mut self, message: impl Into<String>) {
        self.failed.get_or_insert(message.into());
    }

    // --- Starting ------------------------------------------------------------------------------------------------

    fn ask_files(&mut self, out: &mut Vec<Output>) {
        self.retry_files_ms = None;
        self.asked_files += 1;
        if self.asked_files.is_multiple_of(FILES_PATIENCE) {
            tracing::warn!(
                "waits for tokenizer.json, tokenizer_config.json and config.json in the run's artifacts; hint: `errand init` puts them there"
            );
        }
        for name in FILES {
            if !self.has(name) {
                let ticket = self.ticket();
                out.push(Output::GetObject { ticket, name: name.into() });
            }
        }
    }

    fn has(&self, file: &str) -> bool {
        self.files.get(file).is_some_and(|bytes| bytes.is_some() || file == IMAGE_PROCESSOR)
    }

    fn on_object(&mut self, ticket: Ticket, name: &str, bytes: Option<Vec<u8>>, now: Now, out: &mut Vec<Output>) {
        if let Some(version) = self.probing.remove(&ticket.0) {
            return self.on_probed(version, bytes.is_some());
        }
        let Some(file) = FILES.into_iter().find(|f| *f == name) else { return };
        if bytes.is_none() && file != IMAGE_PROCESSOR {
            self.retry_files_ms = Some(now.mono_ms + FILES_RETRY_MS);
        }
        self.files.insert(file, bytes);
        if self.life == Life::Files && FILES.iter().all(|f| self.has(f)) {
            self.start(out);
        }
    }

    fn start(&mut self, out: &mut Vec<Output>) {
        let mut take = |name: &str| self.files.remove(name).flatten().unwrap_or_default();
        let [tokenizer, tokenizer_config, config, image_processor] = FILES.map(&mut take);
        let files = Files { tokenizer, tokenizer_config, config, image_processor };
        self.life = Life::Starting;
        let order = Order::Start { maker: self.maker.take(), files };
        let task = Task::<M> { place: self.place.clone(), shop: None, order: Some(order), done: None };
        let ticket = self.ticket();
        out.push(Output::Work { ticket, work: Box::new(task) });
    }

    // --- Work ----------------------------------------------------------------------------------------------------

    /// Hands an order to the shop. All decided uses go with it if it writes a checkpoint.
    pub(crate) fn order(&mut self, make: impl FnOnce(Snapshot) -> Order<M>, keeps: bool, out: &mut Vec<Output>) {
        let Some(shop) = self.shop.take() else { return };
        if keeps {
            self.committing = std::mem::take(&mut self.pending).ids;
        }
        let order = make(self.known.clone());
        let task = Task::<M> { place: self.place.clone(), shop: Some(shop), order: Some(order), done: None };
        let ticket = self.ticket();
        out.push(Output::Work { ticket, work: Box::new(task) });
    }

    fn on_worked(&mut self, result: Box<dyn kit::stage::Work>, out: &mut Vec<Output>) {
        let Ok(task) = result.into_any().downcast::<Task<M>>() else { return self.fail("work came back as something else") };
        let Task { shop, done, .. } = *task;
        self.window_len = shop.as_ref().map_or(0, |s| s.window.len());
        self.shop = shop;
        match done {
            Some(Ok(done)) => self.on_done(done, out),
            Some(Err(message)) => self.fail(message),
            None => self.fail("work came back undone"),
        }
    }

    fn on_done(&mut self, done: Done, out: &mut Vec<Output>) {
        match done {
            Done::Started { snapshot, digests, weights, fresh } => {
                (self.known, self.digests) = (*snapshot, digests);
                self.newest_published = None;
                if self.life == Life::Starting {
                    self.life = Life::Running;
                }
                tracing::info!(version = self.known.state.version, batch = self.known.state.batch, fresh, "ready");
                if let Some(weights) = weights {
                    self.publish(weights, out);
                }
                if !fresh {
                    self.probe(out);
                }
            }
            Done::Trained { outcome, weights, kept } => {
                let phase = self.known.state.phase_name(&self.place.pipeline).to_string();
                self.known.state.apply(&outcome);
                self.last.loss = outcome.loss;
                for (id, what) in &outcome.uses {
                    if let Err(error) = self.known.uses.set(*id, *what) {
                        return self.fail(error.to_string());
                    }
                }
                let used = outcome.uses.iter().map(|(id, _)| *id);
                if kept {
                    self.committing.extend(used);
                    self.acknowledge(out);
                } else {
                    self.pending.ids.extend(used);
                }
                tracing::info!(
                    phase,
                    batch = self.known.state.batch,
                    loss = outcome.loss,
                    version = self.known.state.version,
                    "batch trained"
                );
                self.publish(weights, out);
            }
            Done::Committed => self.acknowledge(out),
        }
    }

    /// The checkpoint holds these uses: their ends are done with.
    fn acknowledge(&mut self, out: &mut Vec<Output>) {
        for id in std::mem::take(&mut self.committing) {
            out.extend(self.held.remove(&id).into_iter().flatten().map(Output::Ack));
        }
    }

    fn publish(&mut self, weights: Vec<u8>, out: &mut Vec<Output>) {
        let state = &mut self.known.state;
        state.published.push(state.version);
        let policy = PolicyPublished {
            version: state.version,
            step: state.step,
            batch: state.batch,
            object: object_of(state.version),
            digest: blake3::hash(&weights).to_hex().to_string(),
            tokenizer: self.digests.tokenizer.clone(),
            template: self.digests.template.clone(),
            image_processor: self.digests.image_processor.clone(),
            phase: state.phase_name(&self.place.pipeline).into(),
            epoch: self.identity.epoch,
        };
        let ticket = self.ticket();
        out.push(self.publisher.begin(policy, weights, ticket));
    }

    fn on_announced(&mut self, version: u64, out: &mut Vec<Output>) {
        self.newest_published = Some(version);
        let state = &mut self.known.state;
        let episodes = self.place.pipeline.episodes.validation;
        let newest = self.place.pipeline.generator.versions_held.max(2) as usize + 1;
        let validated = state.passes.iter().filter(|p| !p.is_complete(episodes)).map(|p| p.version);
        let served = self.serving.values().flatten().copied();
        let kept: BTreeSet<u64> = state.published.iter().rev().take(newest).copied().chain(validated).chain(served).collect();
        // A generator may be in the middle of reading one that was the newest a moment ago.
        self.superseded.retain(|version, _| !kept.contains(version));
        for version in state.published.iter().filter(|version| !kept.contains(version)) {
            self.superseded.entry(*version).or_insert(self.clock_ms);
        }
        let is_due = |version: &u64| self.superseded.get(version).is_some_and(|since| self.clock_ms >= since + GRACE_MS);
        let (go, stay): (Vec<u64>, Vec<u64>) = state.published.iter().partition(|version| is_due(version));
        self.superseded.retain(|version, _| stay.contains(version));
        state.published = stay;
        out.extend(go.into_iter().map(|version| Output::DeleteObject { name: object_of(version) }));
    }

    // --- Messages ------------------------------------------------------------------------------------------------

    fn durable() -> Durable {
        Durable { stream: Stream::Ends, name: subjects::ENDS_LEARNER.into() }
    }

    fn fetch(&mut self, out: &mut Vec<Output>) {
        if self.life == Life::Running && self.fetching <= FETCH_AHEAD / 2 {
            let count = FETCH_AHEAD - self.fetching;
            self.fetching += count;
            out.push(Output::Fetch { durable: Self::durable(), count });
        }
    }

    /// What is held long is kept by a sweep of progress acks.
    fn sweep(&mut self, now: Now, out: &mut Vec<Output>) {
        let every = (self.place.pipeline.broker.ack_wait_s * 1000.0 / 3.0) as u64;
        if now.mono_ms.saturating_sub(self.swept_ms) >= every.max(1) {
            self.swept_ms = now.mono_ms;
            out.extend(self.held.values().filter_map(|deliveries| deliveries.last()).map(|delivery| Output::Progress(*delivery)));
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.retry_files_ms.is_some_and(|at| now.mono_ms >= at) {
            self.ask_files(out);
        }
        let ticket = self.ticket();
        out.extend(self.publisher.on_tick(ticket, now.mono_ms));
        self.sweep(now, out);
    }

    /// The clock of the present phase goes on.
    fn pass_time(&mut self, now: Now) {
        let passed = now.mono_ms.saturating_sub(self.clock_ms);
        self.clock_ms = now.mono_ms;
        if self.life != Life::Running || passed == 0 || self.known.state.finished {
            return;
        }
        let name = match self.known.state.config(&self.place.pipeline) {
            Some(config) => config.phase.as_str(),
            None => "final_validation",
        };
        let state = &mut self.known.state;
        state.part.elapsed_ms += passed;
        *state.seconds_by_phase.entry(name.into()).or_insert(0.0) += passed as f64 / 1000.0;
        if self.shop.is_none() {
            *state.seconds_by_part.entry("at_work".into()).or_insert(0.0) += passed as f64 / 1000.0;
        } else {
            *state.seconds_by_part.entry("waiting".into()).or_insert(0.0) += passed as f64 / 1000.0;
        }
    }

    fn handle(&mut self, input: Input, now: Now, out: &mut Vec<Output>) {
        match input {
            Input::Started if self.is_idle() => self.start(out),
            Input::Started => self.ask_files(out),
            Input::Object { ticket, name, bytes } => self.on_object(ticket, &name, bytes, now, out),
            Input::Worked { result, .. } => self.on_worked(result, out),
            Input::ObjectPut { ticket, result } => {
                let next = self.ticket();
                out.extend(self.publisher.on_put(ticket, result, next, now.mono_ms));
            }
            Input::Published { ticket, result } => {
                self.granter.on_published(ticket, &result, now.mono_ms);
                match self.publisher.on_published(ticket, result, now.mono_ms) {
                    Ok(Some(version)) => self.on_announced(version, out),
                    Ok(None) => {}
                    Err(message) => self.fail(message),
                }
            }
            Input::Message { subject, payload, delivery: Some(delivered), .. } => {
                self.fetching = self.fetching.saturating_sub(1);
                self.receive(subject, payload, delivered.delivery, now, out);
            }
            Input::FetchEnded { missing, .. } => self.fetching = self.fetching.saturating_sub(missing),
            Input::Presence(presence) if presence.stage == "generator" => {
                self.serving.insert(presence.id.clone(), presence.versions);
            }
            Input::Gone { id, .. } => {
                self.serving.remove(&id);
            }
            Input::Tick => self.tick(now, out),
            Input::Drain => self.life = Life::Draining,
            _ => {}
        }
    }

    fn drain(&mut self, out: &mut Vec<Output>) {
        if self.is_at_work() && self.known.state.format != 0 {
            return;
        }
        if !self.is_at_work() && !self.pending.ids.is_empty() {
            return self.order(|snapshot| Order::Commit { snapshot }, true, out);
        }
        self.life = Life::Over;
        // What has no use yet is for the next learner, at once.
        out.extend(std::mem::take(&mut self.held).into_values().flatten().map(|delivery| Output::Nak { delivery, delay_ms: 0 }));
        out.push(Output::Exit { code: 0, message: String::new() });
    }

    /// Uses that no checkpoint holds yet.
    pub(crate) fn uncommitted(&self) -> usize {
        self.pending.ids.len() + self.committing.len()
    }

    /// Notes the one use of a trajectory; its end is acked with the checkpoint that holds it.
    pub(crate) fn decide(&mut self, id: EpisodeId, what: Use, now: Now) {
        if let Err(error) = self.known.uses.set(id, what) {
            return self.fail(error.to_string());
        }
        self.known.state.count_uses(&[(id, what)]);
        if self.pending.ids.is_empty() {
            self.pending.since_ms = now.mono_ms;
        }
        self.pending.ids.push(id);
    }
}

/// The name of a version's weights in the artifacts bucket.
pub(crate) fn object_of(version: u64) -> String {
    format!("policy-{version}")
}

impl<M: Maker> Stage for Learner<M> {
    fn needs(&self) -> Needs {
        Needs { stage: "learner", lease: true, presence: true, ..Needs::default() }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = vec![];
        if self.life == Life::Over {
            return out;
        }
        self.pass_time(now);
        self.handle(input, now, &mut out);
        match self.life {
            Life::Running if self.failed.is_none() => {
                self.go_on(now, &mut out);
                self.fetch(&mut out);
            }
            Life::Draining if self.failed.is_none() => self.drain(&mut out),
            _ => {}
        }
        if let Some(message) = self.failed.clone() {
            self.life = Life::Over;
            out.push(Output::Exit { code: 1, message });
        }
        out
    }

    fn report(&self) -> Report {
        self.told()
    }
}
