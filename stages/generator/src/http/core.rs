//! The thread that computes.
//!
//! In: jobs and commands. Out: for each job a stream of events, the last of which says how it ended. Stop texts are looked
//! for here, token by token, so that a reply ends with the token that completes one. Weights change between two passes.

use super::metrics::Metrics;
use super::text::{Stream, Text};
use policy::{Engine, EngineOptions, Generated, Loader, LogprobsMode, ModelConfig, Prepared, Request, SamplingParams, TokenLogprob};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What the server is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub folder: PathBuf,
    /// Names under which the model is served; without any, the folder's path.
    pub names: Vec<String>,
    /// Memory for keys and values, MiB.
    pub kv_cache_mib: usize,
    pub max_num_seqs: usize,
    pub max_num_batched_tokens: usize,
    /// Requests that may wait or run; more are refused with 503.
    pub max_queued: usize,
    /// Longest sequence; the model's own without it.
    pub max_model_len: Option<usize>,
    pub max_logprobs: u32,
    pub threads: usize,
    /// Running replies keep their keys and values when weights change, or compute them again.
    pub keep_kv: bool,
    pub prefix_caching: bool,
    /// Compute in bfloat16 where there is a GPU.
    pub bfloat16: bool,
    /// Report log-probabilities of the model's own scores, as vLLM does unless told otherwise.
    pub raw_logprobs: bool,
    /// Any one of these opens the routes under `/v1`; without any they are open.
    pub api_keys: Vec<String>,
}

impl Settings {
    /// The defaults for a folder.
    pub fn of(folder: impl Into<PathBuf>) -> Settings {
        Settings {
            folder: folder.into(),
            names: vec![],
            kv_cache_mib: 1024,
            max_num_seqs: 128,
            max_num_batched_tokens: 2048,
            max_queued: 1024,
            max_model_len: None,
            max_logprobs: 20,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            keep_kv: true,
            prefix_caching: true,
            bfloat16: true,
            raw_logprobs: false,
            api_keys: vec![],
        }
    }
}

/// One reply to be made.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) tokens: Vec<u32>,
    pub(crate) pictures: Vec<policy::Shown>,
    pub(crate) sampling: SamplingParams,
    pub(crate) stop_ids: Vec<u32>,
    /// Ids that end a reply without being named as the reason.
    pub(crate) silent: Vec<u32>,
    pub(crate) stop: Vec<String>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
    pub(crate) salt: u64,
    /// The model that was asked for; `None` is the folder's own.
    pub(crate) adapter: Option<String>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
}

/// What became of a job since the last event.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) tokens: Vec<TokenLogprob>,
    /// Text that is final.
    pub(crate) text: String,
    pub(crate) done: Option<Done>,
}

/// How a reply ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// `stop`, `length`, `abort` or `error`.
    pub(crate) reason: &'static str,
    pub(crate) stop_text: Option<String>,
    pub(crate) stop_id: Option<u32>,
    pub(crate) prompt_logprobs: Vec<TokenLogprob>,
    /// Which weights made which tokens: name, first, one past the last.
    pub(crate) versions: Vec<(String, u32, u32)>,
    pub(crate) message: String,
}

/// What to do with running replies while weights change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseMode {
    Abort,
    Wait,
    Keep,
}

/// How long weights took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Installed {
    /// Nothing was computed for so long.
    pub(crate) pause_s: f64,
}

pub(crate) enum Command {
    Submit(Box<Job>),
    Pause {
        mode: PauseMode,
        clear: bool,
        done: oneshot::Sender<()>,
    },
    Resume,
    Abort {
        done: oneshot::Sender<usize>,
    },
    ClearCache,
    /// New weights for the folder's own model, or an adapter's.
    Install {
        adapter: Option<String>,
        name: String,
        prepared: Prepared,
        done: oneshot::Sender<Installed>,
    },
    Unload {
        adapter: String,
        done: oneshot::Sender<bool>,
    },
    Rename {
        name: String,
    },
}

/// The handle that handlers have.
pub struct Core {
    commands: Mutex<Sender<Command>>,
    pub(crate) loader: Loader,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) longest: usize,
    pub(crate) max_logprobs: u32,
    pub(crate) mode: LogprobsMode,
    max_queued: usize,
    in_hand: Arc<AtomicUsize>,
    pub(crate) paused: Arc<AtomicBool>,
    pub(crate) dead: Arc<AtomicBool>,
    pub(crate) version: Arc<Mutex<String>>,
    pub(crate) adapters: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Core {
    /// Loads the folder's weights and starts the thread.
    pub(crate) fn start(settings: &Settings, text: &Text) -> Result<Core, String> {
        let config = ModelConfig::from_json(&text.config).map_err(|e| e.to_string())?;
        let options = EngineOptions {
            max_num_seqs: settings.max_num_seqs,
            max_num_batched_tokens: settings.max_num_batched_tokens,
            kv_cache_mib: settings.kv_cache_mib,
            keep_kv: settings.keep_kv,
            prefix_caching: settings.prefix_caching,
            threads: settings.threads,
            bfloat16: settings.bfloat16,
            banned: text.eyes.as_ref().map_or_else(Vec::new, |eyes| eyes.ids().to_vec()),
            device: if policy::register_cuda() { policy::Device::Cuda(0) } else { policy::Device::Cpu },
            ..EngineOptions::default()
        };
        let mut engine = Engine::new(config, options).map_err(|e| e.to_string())?;
        let loader = engine.loader();
        engine.install(0, loader.prepare_folder(&settings.folder).map_err(|e| e.to_string())?);
        tracing::info!("cache for keys and values: {} MiB, {} tokens", settings.kv_cache_mib, engine.kv_tokens());
        let (commands, receiver) = channel();
        let longest = settings.max_model_len.unwrap_or(text.longest).min(text.longest).min(engine.kv_tokens());
        let core = Core {
            commands: Mutex::new(commands),
            loader,
            metrics: Arc::new(Metrics::default()),
            longest,
            max_logprobs: settings.max_logprobs,
            mode: if settings.raw_logprobs { LogprobsMode::Raw } else { LogprobsMode::Processed },
            max_queued: settings.max_queued,
            in_hand: Arc::default(),
            paused: Arc::default(),
            dead: Arc::default(),
            version: Arc::new(Mutex::new("default".to_string())),
            adapters: Arc::default(),
        };
        let worker = Worker {
            engine,
            text: Text::open(&settings.folder)?,
            receiver,
            live: BTreeMap::new(),
            tickets: 0,
            current: BTreeMap::from([(None, 0)]),
            versions: 1,
            names: BTreeMap::from([(0, "default".to_string())]),
            pausing: None,
            metrics: core.metrics.clone(),
            in_hand: core.in_hand.clone(),
            paused: core.paused.clone(),
        };
        let (dead, threads) = (core.dead.clone(), settings.threads);
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                policy::set_threads(threads);
                if let Err(error) = worker.run() {
                    tracing::error!("the engine is broken: {error}");
                }
                dead.store(true, Ordering::SeqCst);
            })
            .map_err(|e| e.to_string())?;
        Ok(core)
    }

    pub(crate) fn send(&self, command: Command) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        // The thread is gone only when the engine is broken; `/health` says so, and receivers see their channel closed.
        drop(commands.send(command));
    }

    /// Whether so many more requests may come.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.in_hand.load(Ordering::SeqCst) + more <= self.max_queued
    }

    pub(crate) fn submit(&self, job: Job) {
        self.in_hand.fetch_add(1, Ordering::SeqCst);
        self.send(Command::Submit(Box::new(job)));
    }

    pub(crate) fn in_hand(&self) -> usize {
        self.in_hand.load(Ordering::SeqCst)
    }
}

/// A job that the engine has.
struct Live {
    job: Job,
    stream: Stream,
    /// Tokens that have been looked at.
    seen: usize,
    /// Bytes of the text that have been told.
    told: usize,
    came: Instant,
    first: Option<Instant>,
    last: Instant,
}

struct Worker {
    engine: Engine,
    text: Text,
    receiver: Receiver<Command>,
    live: BTreeMap<u64, Live>,
    tickets: u64,
    /// The version of each model: the folder's own, and adapters.
    current: BTreeMap<Option<String>, u64>,
    versions: u64,
    names: BTreeMap<u64, String>,
    /// Someone waits until nothing runs any more.
    pausing: Option<(bool, oneshot::Sender<()>)>,
    metrics: Arc<Metrics>,
    in_hand: Arc<AtomicUsize>,
    paused: Arc<AtomicBool>,
}

impl Worker {
    fn run(mut self) -> policy::Result<()> {
        loop {
            let busy = self.engine.running() + self.engine.waiting() > 0;
            let draining = self.pausing.is_some();
            let idle = !busy || (self.paused.load(Ordering::SeqCst) && !draining);
            let command = if idle {
                match self.receiver.recv_timeout(std::time::Duration::from_millis(200)) {
                    Ok(command) => Some(command),
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => None,
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                }
            } else {
                match self.receiver.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            };
            if let Some(command) = command {
                self.command(command);
                continue;
            }
            self.drop_abandoned();
            if !idle {
                self.step()?;
            }
            if self.engine.running() + self.engine.waiting() == 0
                && let Some((clear, done)) = self.pausing.take()
            {
                self.paused.store(true, Ordering::SeqCst);
                if clear {
                    self.engine.clear_cache();
                }
                // Nobody waits any more where the caller went away; so in the other answers.
                let _ = done.send(());
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Submit(job) => self.submit(*job),
            Command::Pause { mode, clear, done } => self.pause(mode, clear, done),
            Command::Resume => {
                self.pausing = None;
                self.paused.store(false, Ordering::SeqCst);
            }
            Command::Abort { done } => {
                let _ = done.send(self.abort_all());
            }
            Command::ClearCache => self.engine.clear_cache(),
            Command::Install { adapter, name, prepared, done } => {
                let _ = done.send(self.install(adapter, name, prepared));
            }
            Command::Unload { adapter, done } => {
                let known = self.current.remove(&Some(adapter));
                if let Some(version) = known {
                    self.engine.drop_version(version);
                }
                let _ = done.send(known.is_some());
            }
            Command::Rename { name } => {
                if let Some(version) = self.current.get(&None) {
                    self.names.insert(*version, name);
                }
            }
        }
    }

    fn submit(&mut self, job: Job) {
        self.tickets += 1;
        let ticket = self.tickets;
        let version = self.current.get(&job.adapter).copied();
        let request = Request {
            ticket,
            rollout: ticket,
            salt: job.salt,
            tokens: job.tokens.clone(),
            pictures: job.pictures.clone(),
            version: version.unwrap_or(u64::MAX),
            sampling: job.sampling.clone(),
            stop_ids: job.stop_ids.clone(),
        };
        let now = Instant::now();
        let live = Live { job, stream: Stream::default(), seen: 0, told: 0, came: now, first: None, last: now };
        match self.engine.submit(request) {
            Ok(()) => {
                self.metrics.prompt(live.job.tokens.len());
                self.live.insert(ticket, live);
            }
            Err(error) => {
                let done = Done { reason: "error", message: error.to_string(), ..Done::default() };
                drop(live.job.events.send(Event { done: Some(done), ..Event::default() }));
                self.in_hand.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn pause(&mut self, mode: PauseMode, clear: bool, done: oneshot::Sender<()>) {
        if mode == PauseMode::Abort {
            self.abort_all();
        }
        if mode == PauseMode::Wait && self.engine.running() + self.engine.waiting() > 0 {
            self.pausing = Some((clear, done));
            return;
        }
        self.paused.store(true, Ordering::SeqCst);
        if clear && mode != PauseMode::Keep {
            self.engine.clear_cache();
        }
        let _ = done.send(());
    }

    fn abort_all(&mut self) -> usize {
        let tickets: Vec<u64> = self.live.keys().copied().collect();
        for ticket in &tickets {
            let generated = self.generated_so_far(*ticket);
            self.engine.cancel(*ticket);
            self.advance(*ticket, generated.details.clone(), Some((generated, "abort")));
        }
        tickets.len()
    }

    fn generated_so_far(&self, ticket: u64) -> Generated {
        Generated { ticket, details: self.engine.details(ticket).unwrap_or_default().to_vec(), ..Generated::default() }
    }

    /// Takes weights up. Replies that run go on with them.
    fn install(&mut self, adapter: Option<String>, name: String, prepared: Prepared) -> Installed {
        let started = Instant::now();
        let version = self.versions;
        self.versions += 1;
        self.engine.install(version, prepared);
        if let Some(old) = self.current.insert(adapter, version) {
            self.engine.move_requests(old, version);
            self.engine.drop_version(old);
        }
        self.names.insert(version, name);
        while self.names.len() > 1024 {
            self.names.pop_first();
        }
        let pause_s = started.elapsed().as_secs_f64();
        self.metrics.weights(pause_s);
        Installed { pause_s }
    }

    /// Gives up what nobody waits for any more.
    fn drop_abandoned(&mut self) {
        let gone: Vec<u64> = self.live.iter().filter(|(_, live)| live.job.events.is_closed()).map(|(ticket, _)| *ticket).collect();
        for ticket in gone {
            self.engine.cancel(ticket);
            self.live.remove(&ticket);
            self.in_hand.fetch_sub(1, Ordering::SeqCst);
            self.metrics.finished("abort", None);
        }
    }

    fn step(&mut self) -> policy::Result<()> {
        let started = Instant::now();
        let done = self.engine.step()?;
        for generated in done {
            let reason = match (generated.broken, generated.cut) {
                (true, _) => "error",
                (_, true) => "length",
                _ => "stop",
            };
            self.advance(generated.ticket, generated.details.clone(), Some((generated, reason)));
        }
        let tickets: Vec<u64> = self.live.keys().copied().collect();
        for ticket in tickets {
            let fresh = match (self.live.get(&ticket), self.engine.details(ticket)) {
                (Some(live), Some(all)) if all.len() > live.seen => all.to_vec(),
                _ => continue,
            };
            self.advance(ticket, fresh, None);
        }
        let (stats, now) = (self.engine.cache_stats(), (self.engine.running(), self.engine.waiting(), self.engine.kv_use()));
        self.metrics.step(stats, now, started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Tells what is new of a reply: `all` its tokens so far, `end` how it ended if it did.
    fn advance(&mut self, ticket: u64, all: Vec<TokenLogprob>, end: Option<(Generated, &'static str)>) {
        let Some(live) = self.live.get_mut(&ticket) else { return };
        let mut event = Event::default();
        let now = Instant::now();
        let count = all.len() - live.seen.min(all.len());
        if count > 0 {
            match live.first {
                None => self.metrics.first_token(now.duration_since(live.came).as_secs_f64()),
                Some(_) => self.metrics.next_token(now.duration_since(live.last).as_secs_f64()),
            }
            live.first.get_or_insert(now);
            live.last = now;
            self.metrics.generated(count);
        }
        let mut stopped = None;
        for (at, token) in all.into_iter().enumerate().skip(live.seen) {
            live.seen = at + 1;
            let ends = live.job.stop_ids.contains(&token.id) && end.as_ref().is_some_and(|(_, reason)| *reason == "stop");
            if !ends || live.job.include_stop {
                live.stream.push(&self.text, token.id, live.job.skip_special);
            }
            event.tokens.push(token);
            stopped = (live.seen >= live.job.sampling.min_tokens as usize).then(|| find_stop(live)).flatten();
            if stopped.is_some() {
                break;
            }
        }
        let finished = match (stopped, end) {
            (Some((text, until)), end) => {
                live.stream.text.truncate(until);
                let generated = end.map(|(generated, _)| generated).or_else(|| self.engine.stop(ticket)).unwrap_or_default();
                Some((generated, "stop", Some(text)))
            }
            (None, Some((generated, reason))) => {
                live.stream.finish(&self.text, live.job.skip_special);
                Some((generated, reason, None))
            }
            (None, None) => None,
        };
        let longest = live.job.stop.iter().map(String::len).max().unwrap_or(0);
        let hold = if finished.is_some() || live.job.include_stop { 0 } else { longest.saturating_sub(1) };
        let mut upto = live.stream.text.len().saturating_sub(hold).max(live.told);
        while !live.stream.text.is_char_boundary(upto) {
            upto -= 1;
        }
        event.text = live.stream.text.get(live.told..upto).unwrap_or_default().to_string();
        live.told = upto.min(live.stream.text.len());
        match finished {
            None => drop(live.job.events.send(event)),
            Some((generated, reason, stop_text)) => self.end(ticket, event, generated, reason, stop_text),
        }
    }

    fn end(&mut self, ticket: u64, mut event: Event, generated: Generated, reason: &'static str, stop_text: Option<String>) {
        let Some(live) = self.live.remove(&ticket) else { return };
        self.in_hand.fetch_sub(1, Ordering::SeqCst);
        let last = event.tokens.last().map(|token| token.id);
        let named = |id: &u32| reason == "stop" && live.job.stop_ids.contains(id) && !live.job.silent.contains(id);
        let mut from = 0;
        let mut left = live.seen as u32;
        let versions = generated.versions.iter().map(|(version, count)| {
            let (start, taken) = (from, left.min(*count));
            (from, left) = (from + taken, left - taken);
            (self.names.get(version).cloned().unwrap_or_default(), start, from)
        });
        let message =
            if generated.broken { "the model's scores are no numbers; hint: its weights are broken".to_string() } else { String::new() };
        event.done = Some(Done {
            reason,
            stop_id: if stop_text.is_none() { last.filter(named) } else { None },
            stop_text,
            prompt_logprobs: generated.prompt_logprobs.clone(),
            versions: versions.collect(),
            message,
        });
        self.metrics.finished(reason, Some((live.came.elapsed().as_secs_f64(), live.job.tokens.len(), live.seen)));
        drop(live.job.events.send(event));
    }
}

/// The first stop text in what has been said, and where the text ends then.
fn find_stop(live: &Live) -> Option<(String, usize)> {
    let text = &live.stream.text;
    let found = live.job.stop.iter().filter_map(|stop| {
        let mut from = live.told.saturating_sub(stop.len());
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        text[from..].find(stop.as_str()).map(|at| (from + at, stop))
    });
    let (at, stop) = found.min_by_key(|(at, _)| *at)?;
    Some((stop.clone(), if live.job.include_stop { at + stop.len() } else { at }))
}
