//! The stage itself: prompts in, completions out.

use crate::engine::{Engine, Generated, Picture, Request};
use crate::memory::{Finished, TurnId};
use crate::pictures::{Album, Found as Seen};
use crate::stop::cut_at_stop;
use crate::versions::{Found, Versions};
use context::{Context, ImageSettings, Reply};
use kit::stage::{Follow, Identity, Input, Needs, Now, Output, Report, Stage, Ticket};
use schemas::pipeline::Engine as EngineName;
use schemas::{Completion, EpisodeId, PolicyPin, PolicyPublished, Prompt, Source, Status, seed_of, subjects};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How long a prompt waits for its version before another generator is to be asked.
const VERSION_WAIT_MS: u64 = 5_000;
/// How often a prompt in hand is reported as running.
const RUNNING_EVERY_MS: u64 = 1_000;
/// How often files that are not there yet are asked for again.
const RETRY_MS: u64 = 500;
/// Rollouts whose segment is remembered, so that the keys and values of a closed one are freed at once.
const ROLLOUTS: usize = 8192;

/// What an engine is made from.
pub struct Files {
    pub context: Arc<Context>,
    /// The model's config.json; empty where the engine needs none.
    pub config: Vec<u8>,
}

/// Makes the engine, once the files are there.
pub type Make = Box<dyn FnOnce(&Files) -> Result<Box<dyn Engine>, String> + Send>;

/// A prompt in hand.
struct Job {
    prompt: Prompt,
    /// What its segment shows.
    pictures: Vec<Picture>,
    arrived_us: u64,
    arrived_ms: u64,
    told_ms: u64,
    /// The version that answers; `None` while it waits for one.
    version: Option<u64>,
}

/// What is loaded.
struct Ready {
    context: Arc<Context>,
    engine: Box<dyn Engine>,
}

#[derive(Default)]
struct Counts {
    done: u64,
    tokens: u64,
    prompt_tokens: u64,
}

/// See the crate's text.
pub struct Generator {
    identity: Identity,
    make: Option<Make>,
    files: BTreeMap<&'static str, Option<Vec<u8>>>,
    retry_ms: Option<u64>,
    ready: Option<Ready>,
    versions: Versions,
    jobs: BTreeMap<u64, Job>,
    by_turn: BTreeMap<TurnId, u64>,
    /// Jobs without a version, in order of arrival.
    waiting: VecDeque<u64>,
    finished: Finished,
    /// The segment that an episode is in: attempt, segment, rollout.
    rollouts: BTreeMap<EpisodeId, (u32, u32, u64)>,
    album: Album,
    /// The version that the engine makes ready.
    loading: Option<u64>,
    tickets: u64,
    counts: Counts,
    /// The policies' subject, to tell a publication from a prompt.
    policies: String,
}

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CONFIG: &str = "config.json";
const IMAGE_PROCESSOR: &str = "preprocessor_config.json";
/// The last one is there only where the policy has eyes.
const FILES: [&str; 4] = [TOKENIZER, TOKENIZER_CONFIG, CONFIG, IMAGE_PROCESSOR];

impl Generator {
    pub fn new(identity: Identity, make: Make) -> Generator {
        let policies = subjects::policies(&identity.run);
        Generator {
            identity,
            make: Some(make),
            files: BTreeMap::new(),
            retry_ms: None,
            ready: None,
            versions: Versions::default(),
            jobs: BTreeMap::new(),
            by_turn: BTreeMap::new(),
            waiting: VecDeque::new(),
            finished: Finished::default(),
            rollouts: BTreeMap::new(),
            album: Album::default(),
            loading: None,
            tickets: 0,
            counts: Counts::default(),
            policies,
        }
    }

    /// Replies need no weights of this run.
    fn is_weightless(&self) -> bool {
        matches!(self.identity.pipeline.generator.engine, EngineName::Scripted | EngineName::Chat)
    }

    fn needed(&self) -> &'static [&'static str] {
        if self.is_weightless() { &FILES[..2] } else { &FILES }
    }

    fn has(&self, file: &str) -> bool {
        match self.files.get(file) {
            Some(bytes) => bytes.is_some() || file == IMAGE_PROCESSOR,
            None => false,
        }
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn room(&self) -> u64 {
        let config = &self.identity.pipeline.generator;
        u64::from(config.max_num_seqs) + u64::from(config.queue)
    }

    // --- Files and weights ---------------------------------------------------------------------------------------

    fn ask_files(&mut self, out: &mut Vec<Output>) {
        self.retry_ms = None;
        for name in self.needed() {
            if !self.has(name) {
                let ticket = Ticket(self.ticket());
                out.push(Output::GetObject { ticket, name: (*name).to_string() });
            }
        }
    }

    fn on_object(&mut self, name: &str, bytes: Option<Vec<u8>>, now: Now, out: &mut Vec<Output>) {
        let Some(file) = FILES.into_iter().find(|f| *f == name) else { return self.on_weights(bytes, now, out) };
        if bytes.is_none() && file != IMAGE_PROCESSOR {
            self.retry_ms = Some(now.mono_ms + RETRY_MS);
        }
        self.files.insert(file, bytes);
        if self.ready.is_none() && self.needed().iter().all(|f| self.has(f)) {
            match self.prepare() {
                Ok(ready) => self.ready = Some(ready),
                Err(message) => return out.push(Output::Exit { code: 1, message }),
            }
            self.go_on(now, out);
        }
    }

    fn prepare(&mut self) -> Result<Ready, String> {
        let mut take = |name: &str| self.files.remove(name).flatten().unwrap_or_default();
        let (tokenizer, tokenizer_config, config) = (take(TOKENIZER), take(TOKENIZER_CONFIG), take(CONFIG));
        let images = match self.files.remove(IMAGE_PROCESSOR).flatten() {
            Some(json) => ImageSettings::from_json(&json).map_err(|e| e.to_string())?,
            None => ImageSettings::default(),
        };
        let context = Context::from_files(&tokenizer, &tokenizer_config, images).map_err(|e| e.to_string())?;
        let files = Files { context: Arc::new(context), config };
        let make = self.make.take().ok_or("the engine was made before")?;
        let engine = make(&files)?;
        Ok(Ready { context: files.context, engine })
    }

    /// New weights came, or were not there.
    fn on_weights(&mut self, bytes: Option<Vec<u8>>, now: Now, out: &mut Vec<Output>) {
        let Some(policy) = self.versions.fetched() else { return };
        let taken = self.load(&policy, bytes);
        self.took(policy.version, taken, now, out);
    }

    /// Weights are there, or are refused, or are being made ready.
    fn took(&mut self, version: u64, taken: Result<bool, String>, now: Now, out: &mut Vec<Output>) {
        match taken {
            Ok(false) => self.loading = Some(version),
            Ok(true) => {
                for dropped in self.versions.hold(version, self.identity.pipeline.generator.versions_held as usize) {
                    if let Some(ready) = &mut self.ready {
                        ready.engine.drop_version(dropped);
                    }
                }
            }
            Err(reason) => {
                tracing::warn!(version, "weights are refused: {reason}");
                self.versions.refuse(version);
            }
        }
        self.go_on(now, out);
    }

    /// Takes up what the engine has made ready meanwhile.
    fn look_for_weights(&mut self, now: Now, out: &mut Vec<Output>) {
        let (Some(version), Some(ready)) = (self.loading, &mut self.ready) else { return };
        if let Some(loaded) = ready.engine.loaded() {
            self.loading = None;
            self.took(version, loaded.map(|()| true), now, out);
        }
    }

    fn load(&mut self, policy: &PolicyPublished, bytes: Option<Vec<u8>>) -> Result<bool, String> {
        let bytes = bytes.ok_or_else(|| format!("there is no object `{}`", policy.object))?;
        let digest = blake3::hash(&bytes).to_hex();
        if digest.as_str() != policy.digest {
            return Err(format!("`{}` has digest {digest}, published was {}", policy.object, policy.digest));
        }
        let Some(ready) = &mut self.ready else { return Err("no engine yet".into()) };
        ready.engine.load(policy.version, bytes)
    }

    fn on_policy(&mut self, payload: &[u8]) -> Result<(), String> {
        let policy: PolicyPublished = schemas::decode(payload).map_err(|e| e.to_string())?;
        let version = policy.version;
        self.versions.publish(policy);
        tracing::debug!(version, "policy published");
        Ok(())
    }

    /// Weights whose tokenizer or template is another one would answer in other tokens.
    fn check_tokenizer(&self, policy: &PolicyPublished) -> Result<(), String> {
        let Some(ready) = &self.ready else { return Ok(()) };
        let (tokenizer, template) = (ready.context.tokenizer.digest(), ready.context.tokenizer.template_digest());
        for (what, theirs, ours) in [("tokenizer", &policy.tokenizer, tokenizer), ("chat template", &policy.template, template)] {
            if *theirs != ours {
                return Err(format!(
                    "version {} was made with {what} {theirs}, this generator has {ours}; hint: one run, one tokenizer",
                    policy.version
                ));
            }
        }
        Ok(())
    }

    // --- Prompts -------------------------------------------------------------------------------------------------

    fn on_prompt(&mut self, prompt: Prompt, now: Now, out: &mut Vec<Output>) {
        let turn = TurnId::of(&prompt.at);
        if let Some(encoded) = self.finished.get(&turn) {
            let subject = subjects::completions(&self.identity.run, &prompt.stepper);
            return out.push(Output::Publish { subject, payload: encoded.clone() });
        }
        if self.by_turn.contains_key(&turn) {
            return out.push(self.answer(&prompt, Status::Running));
        }
        if let Err(reason) = self.check(&prompt) {
            return out.push(self.answer(&prompt, Status::Failed(reason)));
        }
        // Before the engine is there nothing can be made of pictures.
        let early = self.ready.is_none() && !prompt.segment.images.is_empty();
        if early || self.jobs.len() as u64 >= self.room() {
            return out.push(self.answer(&prompt, Status::Busy));
        }
        let pictures = match self.pictures(&prompt) {
            Ok(Seen::All(pictures)) => pictures,
            Ok(Seen::Need(digests)) => return out.push(self.answer(&prompt, Status::Need(digests))),
            Err(reason) => return out.push(self.answer(&prompt, Status::Failed(reason))),
        };
        let (ticket, accepted) = (self.ticket(), self.answer(&prompt, Status::Accepted));
        self.note_rollout(&prompt);
        self.by_turn.insert(turn, ticket);
        let job = Job { prompt, pictures, arrived_us: now.unix_us, arrived_ms: now.mono_ms, told_ms: now.mono_ms, version: None };
        self.jobs.insert(ticket, job);
        self.waiting.push_back(ticket);
        let before = out.len();
        self.go_on(now, out);
        if self.jobs.contains_key(&ticket) {
            // Told before all else, unless the answer itself is there already.
            out.insert(before, accepted);
        }
    }

    /// The pictures that a prompt's segment shows. An engine that makes replies without looking is given none.
    fn pictures(&mut self, prompt: &Prompt) -> Result<Seen, String> {
        let looks = self.ready.as_ref().filter(|ready| ready.engine.looks());
        match looks.filter(|_| !prompt.segment.images.is_empty()) {
            Some(ready) => self.album.find(&ready.context.images, &prompt.segment.images, &prompt.frames),
            None => Ok(Seen::All(vec![])),
        }
    }

    fn check(&self, prompt: &Prompt) -> Result<(), String> {
        let segment = &prompt.segment;
        if segment.is_empty() || segment.prompt_end as usize != segment.len() {
            return Err(format!("the prompt ends at {} of {} tokens", segment.prompt_end, segment.len()));
        }
        if prompt.sampling.max_tokens == 0 {
            return Err("the prompt leaves no token for the reply".into());
        }
        let blind = self.ready.as_ref().is_some_and(|r| !r.engine.sees());
        if blind && !segment.images.is_empty() {
            return Err("this policy reads text only; hint: world.pictures = false".into());
        }
        Ok(())
    }

    /// Frees what the engine keeps of an episode's earlier segment or try.
    fn note_rollout(&mut self, prompt: &Prompt) {
        let now = (prompt.at.attempt, prompt.segment.number, rollout_of(prompt));
        let before = self.rollouts.insert(prompt.at.id, now);
        if let (Some((_, _, rollout)), Some(ready)) = (before.filter(|b| *b != now), &mut self.ready) {
            ready.engine.forget(rollout);
        }
        if self.rollouts.len() > ROLLOUTS {
            self.rollouts.pop_first();
        }
    }

    /// Fetches weights that are wanted, and hands prompts whose version is there to the engine.
    fn go_on(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(ready) = &self.ready else { return };
        if ready.engine.wants_weights() {
            self.fetch_weights(out);
        }
        for ticket in std::mem::take(&mut self.waiting) {
            let Some(job) = self.jobs.get(&ticket) else { continue };
            match self.find(job.prompt.policy) {
                Found::Use(version) => self.submit(ticket, version, now, out),
                Found::Wait if now.mono_ms.saturating_sub(job.arrived_ms) >= VERSION_WAIT_MS => {
                    let held = self.versions.held();
                    let Some(job) = self.drop_job(ticket) else { continue };
                    out.push(self.answer(&job.prompt, Status::Version(held)));
                }
                Found::Wait => self.waiting.push_back(ticket),
            }
        }
    }

    fn fetch_weights(&mut self, out: &mut Vec<Output>) {
        if self.loading.is_some() {
            return;
        }
        let exact = |ticket: &u64| match self.jobs.get(ticket).map(|job| job.prompt.policy) {
            Some(PolicyPin::Exactly(version)) => Some(version),
            _ => None,
        };
        let asked: Vec<u64> = self.waiting.iter().filter_map(exact).collect();
        while let Some(policy) = self.versions.next_fetch(asked.iter().copied()) {
            match self.check_tokenizer(&policy) {
                Ok(()) => {
                    let ticket = Ticket(self.ticket());
                    return out.push(Output::GetObject { ticket, name: policy.object });
                }
                Err(reason) => {
                    tracing::error!("{reason}");
                    self.versions.fetched();
                    self.versions.refuse(policy.version);
                    out.push(Output::Reject { subject: self.policies.clone(), reason, payload: schemas::encode(&policy) });
                }
            }
        }
    }

    /// A reply that is made with no weights of this run never waits for any.
    fn find(&self, pin: PolicyPin) -> Found {
        match pin {
            _ if !self.is_weightless() => self.versions.find(pin),
            PolicyPin::Exactly(version) => Found::Use(version),
            PolicyPin::Latest | PolicyPin::AtLeast(_) => Found::Use(self.versions.newest_published().unwrap_or(0)),
        }
    }

    fn submit(&mut self, ticket: u64, version: u64, now: Now, out: &mut Vec<Output>) {
        let (Some(job), Some(ready)) = (self.jobs.get_mut(&ticket), &mut self.ready) else { return };
        job.version = Some(version);
        let prompt = &job.prompt;
        let request = Request {
            ticket,
            rollout: rollout_of(prompt),
            group: seed_of(prompt.group, &[prompt.at.id.split.as_str().as_bytes()]),
            tokens: prompt.segment.tokens.0.clone(),
            pictures: std::mem::take(&mut job.pictures),
            version,
            sampling: prompt.sampling.clone(),
            stop_ids: prompt.stop_ids.clone(),
        };
        self.versions.begin(version);
        match ready.engine.submit(request) {
            Ok(None) => {}
            Ok(Some(generated)) => self.complete(generated, now, out),
            Err(reason) => self.fail(ticket, reason, out),
        }
    }

    fn drop_job(&mut self, ticket: u64) -> Option<Job> {
        let job = self.jobs.remove(&ticket)?;
        self.by_turn.remove(&TurnId::of(&job.prompt.at));
        let Some(version) = job.version else { return Some(job) };
        for dropped in self.versions.end(version, self.identity.pipeline.generator.versions_held as usize) {
            if let Some(ready) = &mut self.ready {
                ready.engine.drop_version(dropped);
            }
        }
        Some(job)
    }

    fn fail(&mut self, ticket: u64, reason: String, out: &mut Vec<Output>) {
        if let Some(job) = self.drop_job(ticket) {
            tracing::warn!(episode = %job.prompt.at.id, turn = job.prompt.at.turn, "a prompt cannot be answered: {reason}");
            out.push(self.answer(&job.prompt, Status::Failed(reason)));
        }
    }

    /// A reply is there: it becomes part of the segment and goes back to its stepper.
    fn complete(&mut self, generated: Generated, now: Now, out: &mut Vec<Output>) {
        if let Some(reason) = generated.failed {
            return self.fail(generated.ticket, reason, out);
        }
        let (Some(job), Some(ready)) = (self.drop_job(generated.ticket), &self.ready) else { return };
        let context = ready.context.clone();
        let Job { mut prompt, arrived_us, .. } = job;
        let generated = cut_at_stop(generated, &prompt.sampling.stop, |ids| context.tokenizer.decode(ids));
        let said = match generated.tokens.split_last() {
            Some((last, said)) if prompt.stop_ids.contains(last) => said,
            _ => &generated.tokens,
        };
        let text = context.tokenizer.decode(said);
        self.counts.done += 1;
        self.counts.tokens += generated.tokens.len() as u64;
        self.counts.prompt_tokens += prompt.segment.len() as u64;
        let turn = TurnId::of(&prompt.at);
        let reply = Reply {
            turn: prompt.at.turn,
            ids: generated.tokens,
            logprobs: generated.logprobs,
            versions: generated.versions,
            source: Source::Policy,
            cut: generated.cut,
            trainable: true,
        };
        if let Err(error) = context.push_reply(&mut prompt.segment, reply) {
            return out.push(self.answer(&prompt, Status::Failed(error.to_string())));
        }
        let mut trail = prompt.trail;
        trail.push(("generator".into(), arrived_us, now.unix_us));
        let completion = Completion {
            at: prompt.at,
            generator: self.identity.id.clone(),
            status: Status::Done,
            segment: Some(prompt.segment),
            text,
            trail,
        };
        let payload = schemas::encode(&completion);
        self.finished.insert(turn, payload.clone());
        out.push(Output::Publish { subject: subjects::completions(&self.identity.run, &prompt.stepper), payload });
    }

    fn answer(&self, prompt: &Prompt, status: Status) -> Output {
        let completion = Completion {
            at: prompt.at.clone(),
            generator: self.identity.id.clone(),
            status,
            segment: None,
            text: String::new(),
            trail: vec![],
        };
        let subject = subjects::completions(&self.identity.run, &prompt.stepper);
        Output::Publish { subject, payload: schemas::encode(&completion) }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        if self.retry_ms.is_some_and(|at| now.mono_ms >= at) {
            self.ask_files(out);
        }
        let due: Vec<u64> =
            self.jobs.iter().filter(|(_, j)| now.mono_ms.saturating_sub(j.told_ms) >= RUNNING_EVERY_MS).map(|(t, _)| *t).collect();
        for ticket in due {
            if let Some(job) = self.jobs.get_mut(&ticket) {
                job.told_ms = now.mono_ms;
            }
            if let Some(job) = self.jobs.get(&ticket) {
                out.push(self.answer(&job.prompt, Status::Running));
            }
        }
        self.look_for_weights(now, out);
        self.go_on(now, out);
    }

    fn on_message(&mut self, subject: String, payload: Vec<u8>, now: Now, out: &mut Vec<Output>) {
        if subject == self.policies {
            match self.on_policy(&payload) {
                Ok(()) => self.go_on(now, out),
                Err(reason) => out.push(Output::Reject { subject, reason, payload }),
            }
            return;
        }
        match schemas::decode::<Prompt>(&payload) {
            Ok(prompt) => self.on_prompt(prompt, now, out),
            Err(error) => out.push(Output::Reject { subject, reason: error.to_string(), payload }),
        }
    }

    fn compute(&mut self, now: Now, out: &mut Vec<Output>) {
        let Some(ready) = &mut self.ready else { return };
        match ready.engine.step() {
            Ok(done) => done.into_iter().for_each(|generated| self.complete(generated, now, out)),
            Err(message) => return out.push(Output::Exit { code: 1, message }),
        }
        self.look_for_weights(now, out);
    }
}

/// The same for all turns of a segment, and for no other segment.
fn rollout_of(prompt: &Prompt) -> u64 {
    let Prompt { at, segment, .. } = prompt;
    let parts: [&[u8]; 4] =
        [at.id.split.as_str().as_bytes(), &at.id.number.to_le_bytes(), &at.attempt.to_le_bytes(), &segment.number.to_le_bytes()];
    seed_of(0, &parts)
}

impl Stage for Generator {
    fn needs(&self) -> Needs {
        Needs {
            stage: "generator",
            subscribe: vec![(subjects::prompts(&self.identity.run, &self.identity.id), None)],
            follow: vec![(subjects::Stream::Policies, Follow::All)],
            ..Needs::default()
        }
    }

    fn step(&mut self, input: Input, now: Now) -> Vec<Output> {
        let mut out = vec![];
        match input {
            Input::Started => self.ask_files(&mut out),
            Input::Message { subject, payload, .. } => self.on_message(subject, payload, now, &mut out),
            Input::Object { name, bytes, .. } => self.on_object(&name, bytes, now, &mut out),
            Input::Tick => self.tick(now, &mut out),
            Input::Idle => self.compute(now, &mut out),
            Input::Drain => {
                out.extend(self.jobs.values().map(|job| self.answer(&job.prompt, Status::Busy)));
                out.push(Output::Exit { code: 0, message: String::new() });
            }
            _ => {}
        }
        out
    }

    fn wants_idle(&self) -> bool {
        self.ready.as_ref().is_some_and(|ready| ready.engine.has_work())
    }

    fn report(&self) -> Report {
        let load = self.ready.as_ref().map(|r| r.engine.load_now()).unwrap_or_default();
        let in_hand = self.jobs.len() as u64;
        let gauges = BTreeMap::from([
            ("tokens_sampled_total", self.counts.tokens as f64),
            ("prompt_tokens_total", self.counts.prompt_tokens as f64),
            ("running", load.running as f64),
            ("kv_used_mib", load.kv_used_mib),
            ("computing_seconds_total", load.computing_s),
        ]);
        let versions = match self.is_weightless() {
            true => self.versions.newest_published().into_iter().collect(),
            false => self.versions.held(),
        };
        let line = match (&self.ready, versions.last()) {
            (None, _) => "waits for its tokenizer".to_string(),
            (_, _) if self.identity.pipeline.generator.engine == EngineName::Scripted => "scripted replies".to_string(),
            (_, _) if self.is_weightless() => "replies of another server".to_string(),
            (_, None) => "waits for the first policy".to_string(),
            (_, Some(version)) => format!("version {version}"),
        };
        let free = if self.ready.is_some() { self.room().saturating_sub(in_hand) } else { 0 };
        Report { done: self.counts.done, waiting: in_hand, free, versions, gauges, line }
    }
}
