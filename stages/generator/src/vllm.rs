//! Any vLLM, 0.32 or like it, in place of the built-in engine.
//!
//! In: token ids and how to sample. Out: token ids with log-probabilities and versions, by `/inference/v1/generate`. Every
//! sampling parameter is sent with every request, so a server's defaults bend nothing; what only a flag of the server can set
//! is tried out at start. New weights are written into a folder that the servers read, and taken in by the calls that vLLM
//! has for it; or each version is an adapter under a name of its own ([`lora`]). A rollout stays on the server that has its
//! prefix; a server that fails is left alone for a while and its requests go to another one.

mod lora;

use crate::engine::{Engine, Generated, Load, Request};
use crate::http_client::{Answer, Key, ask};
use crate::pending::Pending;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a request may take, tries together.
const DEADLINE: Duration = Duration::from_secs(600);
/// How long a server that failed is left alone.
const REST: Duration = Duration::from_secs(5);
/// How long weights may take.
const WEIGHTS: Duration = Duration::from_secs(300);
/// Rollouts whose server is remembered.
const ROLLOUTS: usize = 65_536;

/// Where the servers are.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// `http://host:port` of each.
    pub urls: Vec<String>,
    /// Weights are written here; the servers read them under the same path.
    pub folder: PathBuf,
    /// The policy's config.json and tokenizer files, written beside the weights.
    pub files: Vec<(String, Vec<u8>)>,
    /// Ids that are never sampled.
    pub banned: Vec<u32>,
    /// Whether keys and values outlive a change of weights.
    pub keep_kv: bool,
    pub key: Key,
    /// Versions are adapters, whose names begin so; without it they are whole models.
    pub adapters: Option<String>,
}

impl Options {
    /// Where a version lies.
    fn place(&self, version: u64) -> PathBuf {
        self.folder.join(format!("version-{version}"))
    }

    /// The adapter that a version is.
    fn adapter(&self, version: u64) -> Option<String> {
        self.adapters.as_ref().map(|run| format!("{run}-v{version}"))
    }
}

#[derive(Debug, Default)]
struct Server {
    running: usize,
    rests_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Fleet {
    servers: Vec<Server>,
    /// The server that has a rollout's prefix.
    homes: BTreeMap<u64, usize>,
}

impl Fleet {
    /// The rollout's own server while it is well, else the one with the least to do.
    fn choose(&mut self, rollout: u64, now: Instant) -> usize {
        let well = |server: &Server| server.rests_until.is_none_or(|until| until <= now);
        let home = self.homes.get(&rollout).copied().filter(|at| well(&self.servers[*at]));
        let order = |at: &usize| (!well(&self.servers[*at]), self.servers[*at].running, *at);
        let at = home.or_else(|| (0..self.servers.len()).min_by_key(order)).unwrap_or(0);
        self.homes.insert(rollout, at);
        if self.homes.len() > ROLLOUTS {
            self.homes.pop_first();
        }
        self.servers[at].running += 1;
        at
    }
}

/// See the module's text.
pub struct Vllm {
    options: Arc<Options>,
    fleet: Arc<Mutex<Fleet>>,
    pending: Pending,
    /// The version that the servers have, or that came last.
    version: u64,
    /// Adapters that the servers have.
    loaded: BTreeSet<u64>,
    started: Instant,
}

impl Vllm {
    /// Takes servers up, and refuses those whose settings would bend the distribution.
    ///
    /// # Errors
    /// A server that cannot be reached, or the flag that it has to be started with.
    pub fn new(options: Options) -> Result<Vllm, String> {
        if options.urls.is_empty() {
            return Err("`generator.urls` is empty; hint: urls = [\"http://host:8000\"]".into());
        }
        for url in &options.urls {
            check(url, &options.key)?;
        }
        let servers = options.urls.iter().map(|_| Server::default()).collect();
        let fleet = Arc::new(Mutex::new(Fleet { servers, homes: BTreeMap::new() }));
        Ok(Vllm {
            options: Arc::new(options),
            fleet,
            pending: Pending::new(),
            version: 0,
            loaded: BTreeSet::new(),
            started: Instant::now(),
        })
    }
}

/// A sampled token's log-probability under two temperatures: where they are the same, temperature does not enter.
fn check(url: &str, key: &Key) -> Result<(), String> {
    let probe = |temperature: f64| -> Result<Vec<f64>, String> {
        let body = json!({ "token_ids": [1, 2, 3], "sampling_params": { "temperature": temperature, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
            "repetition_penalty": 1.0, "max_tokens": 1, "logprobs": 5, "seed": 1 } });
        let answer = ask(&format!("{url}/inference/v1/generate"), Some(&body), key, DEADLINE)?;
        match answer.status {
            200 => {}
            401 => return Err(format!("{url} answers 401; {}", key.hint())),
            403 | 404 => return Err(format!("{url} has no /inference/v1/generate; hint: start it with --enable-scale-out")),
            status => return Err(format!("{url} answers {status}: {}", answer.json()["error"]["message"])),
        }
        let best = answer.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"].clone();
        let values = best.as_array().into_iter().flatten().filter_map(|entry| entry["logprob"].as_f64());
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Ok(values.split_off(values.len().saturating_sub(1)))
    };
    let (cool, warm) = (probe(0.5)?, probe(1.5)?);
    match cool.is_empty() {
        true => Err(format!("{url} gives no log-probabilities; hint: start it with --max-logprobs 20")),
        false if cool == warm => {
            Err(format!("{url} reports log-probabilities before temperature; hint: start it with --logprobs-mode processed_logprobs"))
        }
        false => Ok(()),
    }
}

fn body(options: &Options, version: u64, request: &Request) -> Value {
    let sampling = &request.sampling;
    let bias: serde_json::Map<String, Value> = options.banned.iter().map(|id| (id.to_string(), json!(-100.0))).collect();
    let mut body = json!({
        "request_id": format!("errand-{}-{}", request.rollout, request.ticket),
        "token_ids": request.tokens,
        "sampling_params": {
            "seed": sampling.seed >> 1,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "max_tokens": sampling.max_tokens,
            "min_tokens": 0,
            "n": 1,
            "stop_token_ids": request.stop_ids,
            "ignore_eos": true,
            "logprobs": 0,
            "skip_special_tokens": false,
        },
    });
    if !bias.is_empty() {
        body["sampling_params"]["logit_bias"] = Value::Object(bias);
    }
    match options.adapter(version) {
        Some(name) => body["model"] = json!(name),
        // Of adapters, each has keys and values of its own.
        None if options.keep_kv => {}
        None => body["cache_salt"] = json!(format!("version-{version}")),
    }
    body
}

/// What a server said, as a reply, with the versions that it names where `spans`; or why it is none and whether another try
/// makes sense.
fn read(answer: &Answer, request: &Request, version: u64, spans: bool) -> Result<Generated, (bool, String)> {
    let json = answer.json();
    if answer.status != 200 {
        let message = json["error"]["message"].as_str().unwrap_or("no message").to_string();
        return Err((answer.status >= 500 || answer.status == 429, format!("the server answers {}: {message}", answer.status)));
    }
    let choice = &json["choices"][0];
    let reason = choice["finish_reason"].as_str().unwrap_or("abort");
    if !matches!(reason, "stop" | "length") {
        return Err((true, format!("the server ended the reply: {reason}")));
    }
    let ids = choice["token_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).map(|id| id as u32);
    let tokens: Vec<u32> = ids.collect();
    let scores = choice["logprobs"]["content"].as_array().into_iter().flatten().filter_map(|entry| entry["logprob"].as_f64());
    let logprobs: Vec<f32> = scores.map(|score| score as f32).collect();
    if tokens.is_empty() || logprobs.len() != tokens.len() {
        return Err((false, format!("the server gave {} ids and {} log-probabilities", tokens.len(), logprobs.len())));
    }
    let mut versions = vec![];
    for span in choice["weight_versions"].as_array().into_iter().flatten().filter(|_| spans) {
        let count = span["end"].as_u64().unwrap_or(0).saturating_sub(span["start"].as_u64().unwrap_or(0)) as u32;
        let named = span["version"].as_str().and_then(|name| name.parse().ok()).unwrap_or(version);
        if count > 0 {
            versions.push((named, count));
        }
    }
    if versions.iter().map(|(_, count)| *count as usize).sum::<usize>() != tokens.len() {
        versions = vec![(version, tokens.len() as u32)];
    }
    Ok(Generated { ticket: request.ticket, tokens, logprobs, versions, cut: reason == "length", failed: None })
}

/// One request, on whichever server is well, until its deadline.
fn run(options: &Options, fleet: &Mutex<Fleet>, version: u64, request: &Request) -> Generated {
    let body = body(options, version, request);
    let until = Instant::now() + DEADLINE;
    let mut last = String::new();
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let lock = || fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let at = lock().choose(request.rollout, Instant::now());
        let answer = ask(&format!("{}/inference/v1/generate", options.urls[at]), Some(&body), &options.key, left);
        let outcome = answer.map_err(|reason| (true, reason)).and_then(|answer| match options.adapter(version) {
            // The server was started anew and lacks the adapter.
            Some(name) if answer.status == 404 => {
                lora::load(&options.urls[at], &name, &options.place(version), false, &options.key).map_err(|reason| (true, reason))?;
                Err((true, format!("the adapter `{name}` was not there and is loaded again")))
            }
            name => read(&answer, request, version, name.is_none()),
        });
        let mut fleet = lock();
        fleet.servers[at].running -= 1;
        match outcome {
            Ok(generated) => return generated,
            Err((true, reason)) => {
                tracing::warn!(server = options.urls[at], "{reason}");
                fleet.servers[at].rests_until = Some(Instant::now() + REST);
                last = reason;
                drop(fleet);
                std::thread::sleep(Duration::from_millis(200));
            }
            Err((false, reason)) => {
                last = reason;
                break;
            }
        }
    }
    Generated { ticket: request.ticket, failed: Some(last), ..Generated::default() }
}

impl Engine for Vllm {
    fn wants_weights(&self) -> bool {
        true
    }

    fn sees(&self) -> bool {
        false
    }

    fn load(&mut self, version: u64, weights: Vec<u8>) -> Result<bool, String> {
        let options = self.options.clone();
        let folder = options.place(version);
        match options.adapter(version) {
            Some(_) => lora::write(&folder, &weights)?,
            None => write(&folder, &options.files, &weights)?,
        }
        let mut taken = 0;
        let mut last = String::new();
        for (at, url) in options.urls.iter().enumerate() {
            let outcome = match options.adapter(version) {
                Some(name) => lora::load(url, &name, &folder, true, &options.key),
                None => take_in(url, &folder, version, &options),
            };
            match outcome {
                Ok(()) => taken += 1,
                Err(reason) => {
                    // It has other weights than the rest: it gets no requests until it has taken some.
                    let mut fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
                    fleet.servers[at].rests_until = Some(Instant::now() + DEADLINE);
                    last = reason;
                    tracing::warn!(server = url, version, "weights are not taken in: {last}");
                    continue;
                }
            }
            self.fleet.lock().unwrap_or_else(PoisonError::into_inner).servers[at].rests_until = None;
        }
        if taken == 0 {
            return Err(format!("no server took version {version} in: {last}"));
        }
        self.version = version;
        if options.adapters.is_some() {
            self.loaded.insert(version);
        } else if version > 1 {
            // A server may still read the one before; those before that are of no use. Removing is only tidiness.
            drop(std::fs::remove_dir_all(options.place(version - 2)));
        }
        Ok(true)
    }

    fn drop_version(&mut self, version: u64) {
        if !self.loaded.remove(&version) {
            return;
        }
        let options = self.options.clone();
        let Some(name) = options.adapter(version) else { return };
        // Only tidiness too: a name that stays is asked for no more.
        drop(std::fs::remove_dir_all(options.place(version)));
        for url in &options.urls {
            if let Err(reason) = lora::unload(url, &name, &options.key) {
                tracing::warn!(server = url, version, "an adapter is not unloaded: {reason}");
            }
        }
    }

    fn submit(&mut self, request: Request) -> Result<Option<Generated>, String> {
        // Adapters are there side by side, of whole models only the newest.
        let version = if self.options.adapters.is_some() { request.version } else { self.version };
        let (options, fleet) = (self.options.clone(), self.fleet.clone());
        self.pending.start(move || run(&options, &fleet, version, &request))?;
        Ok(None)
    }

    fn step(&mut self) -> Result<Vec<Generated>, String> {
        Ok(self.pending.collect())
    }

    fn has_work(&self) -> bool {
        self.pending.running() > 0
    }

    fn forget(&mut self, rollout: u64) {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner).homes.remove(&rollout);
    }

    fn load_now(&self) -> Load {
        Load { running: self.pending.running() as u64, kv_used_mib: 0.0, computing_s: self.started.elapsed().as_secs_f64() }
    }
}

impl Drop for Vllm {
    fn drop(&mut self) {
        while let Some(version) = self.loaded.first().copied() {
            self.drop_version(version);
        }
    }
}

/// Writes a version as a model's folder.
fn write(folder: &Path, files: &[(String, Vec<u8>)], weights: &[u8]) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let weights = ("model.safetensors", weights);
    for (name, bytes) in files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).chain([weights]) {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Has one server read a folder's weights, between two of its passes.
fn take_in(url: &str, folder: &Path, version: u64, options: &Options) -> Result<(), String> {
    let post = |path: &str, body: Value| -> Result<(), String> {
        let answer = ask(&format!("{url}{path}"), Some(&body), &options.key, WEIGHTS)?;
        if answer.status == 200 {
            return Ok(());
        }
        let said = answer.json()["error"]["message"].as_str().unwrap_or_default().to_string();
        let hint = if answer.status == 404 { "; hint: start it with VLLM_SERVER_DEV_MODE=1" } else { "" };
        Err(format!("{path} answers {}: {said}{hint}", answer.status))
    };
    post("/pause?mode=keep&clear_cache=false", json!({}))?;
    let taken = post("/collective_rpc", json!({ "method": "reload_weights", "kwargs": { "weights_path": folder } }))
        .and_then(|()| post("/update_weight_version", json!({ "new_version": version.to_string() })))
        .and_then(|()| if options.keep_kv { Ok(()) } else { post("/reset_prefix_cache", json!({})) });
    // It goes on in any case: with the old weights where the new ones were not taken.
    post("/resume", json!({})).and(taken)
}

#[cfg(test)]
mod tests;
