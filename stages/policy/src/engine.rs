//! The engine: continuous batching over the model.
//!
//! In: [`Request`]s. Out: [`Generated`]. Each [`Engine::step`] is one forward pass over slices of any number of sequences:
//! one token of each that is sampling, and chunks of prompts. A rollout's keys and values stay between its turns, so that a
//! turn computes its new tokens only; members of a group start from the first one's keys and values.

use crate::cache::{self, KvCache};
use crate::model::{Inputs, Model, download, upload};
use crate::plan::Plan;
use crate::scheduler::{Limits, Running, Scheduler, Slice};
use crate::{Error, ModelConfig, Result, sample, weights};
use schemas::Sampling;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, Tensor};

/// Added to the scores of banned ids: far enough below any score that their probability is exactly 0 in f32.
pub(crate) const BAN: f32 = -1e9;

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Sequences computed at once.
    pub max_num_seqs: usize,
    /// Tokens of one forward pass.
    pub max_num_batched_tokens: usize,
    /// Memory for keys and values, MiB. Never passed.
    pub kv_cache_mib: usize,
    /// Ids that are never sampled. The trainer is given the same.
    pub banned: Vec<u32>,
    /// Each request is computed alone, in slices of fixed size: its result depends on its tokens, the weights and its seed.
    pub deterministic: bool,
    /// Keep a rollout's keys and values when its next turn asks for another version, or compute them again.
    pub keep_kv: bool,
    pub device: Device,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            max_num_seqs: 64,
            max_num_batched_tokens: 4096,
            kv_cache_mib: 512,
            banned: vec![],
            deterministic: false,
            keep_kv: true,
            device: Device::Cpu,
        }
    }
}

/// A reply that is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The caller's name for it; comes back in [`Generated`].
    pub ticket: u64,
    /// Whose keys and values may be reused: one growing token sequence.
    pub rollout: u64,
    /// Rollouts of a group often start alike.
    pub group: u64,
    pub tokens: Vec<u32>,
    /// Weights to sample with; must be loaded.
    pub version: u64,
    pub sampling: Sampling,
    /// Any one of these ends the reply, and is part of it.
    pub stop_ids: Vec<u32>,
}

/// A finished reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    pub ticket: u64,
    /// The ids as sampled, the stop id included where one was sampled.
    pub tokens: Vec<u32>,
    /// Of each sampled id, after temperature and ban (under greedy sampling at temperature 1); filters do not enter.
    pub logprobs: Vec<f32>,
    /// `(version, count)`: which weights sampled the next `count` tokens.
    pub versions: Vec<(u64, u32)>,
    /// `max_tokens` was reached before a stop id.
    pub cut: bool,
}

#[derive(Debug)]
pub struct Engine {
    config: ModelConfig,
    options: EngineOptions,
    models: BTreeMap<u64, Model>,
    /// Versions given up that requests still need.
    leaving: BTreeSet<u64>,
    scheduler: Scheduler,
    kv: KvCache,
    ban: Tensor,
}

impl Engine {
    /// An engine without weights.
    ///
    /// # Errors
    /// Where the cache holds not even one block, or a banned id is none of the vocabulary's.
    pub fn new(config: ModelConfig, options: EngineOptions) -> Result<Engine> {
        let capacity = cache::capacity(&config, options.kv_cache_mib)?;
        let limits = Limits {
            max_num_seqs: options.max_num_seqs.max(1),
            max_num_batched_tokens: options.max_num_batched_tokens,
            max_len: config.max_position_embeddings,
            deterministic: options.deterministic,
            keep_kv: options.keep_kv,
        };
        let ban = ban_row(&config, &options.banned, options.device)?;
        let kv = KvCache::new(&config, capacity, options.device)?;
        let scheduler = Scheduler::new(limits, capacity);
        Ok(Engine { config, options, models: BTreeMap::new(), leaving: BTreeSet::new(), scheduler, kv, ban })
    }

    /// Holds the weights of a version, from the bytes of a safetensors file.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Weights`] where they are not of this model.
    pub fn load(&mut self, version: u64, safetensors: &[u8]) -> Result<()> {
        let model = Model::new(&self.config, &weights::read(&self.config, safetensors)?, self.options.device)?;
        self.models.insert(version, model);
        self.leaving.remove(&version);
        Ok(())
    }

    /// Gives a version up. Requests that name it are still answered with it.
    pub fn drop_version(&mut self, version: u64) {
        if self.scheduler.version_in_use(version) {
            self.leaving.insert(version);
        } else {
            self.models.remove(&version);
        }
    }

    /// Versions that requests may name, oldest first.
    pub fn versions(&self) -> Vec<u64> {
        self.models.keys().filter(|v| !self.leaving.contains(v)).copied().collect()
    }

    /// Takes a request.
    ///
    /// # Errors
    /// [`Error::Request`] where it can never be answered: a version not held, an id outside the vocabulary, too long.
    pub fn submit(&mut self, request: Request) -> Result<()> {
        let refuse = |reason: String| Err(Error::Request { ticket: request.ticket, reason });
        if !self.models.contains_key(&request.version) || self.leaving.contains(&request.version) {
            return refuse(format!("version {} is not held; held: {:?}", request.version, self.versions()));
        }
        if let Some(id) = request.tokens.iter().find(|id| **id as usize >= self.config.vocab_size) {
            return refuse(format!("token {id} lies outside the vocabulary of {}", self.config.vocab_size));
        }
        self.scheduler.submit(request)
    }

    /// Requests that hold room.
    pub fn running(&self) -> usize {
        self.scheduler.running.len()
    }

    /// Requests that wait for room.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Share of the cache in use, idle rollouts' included.
    pub fn kv_use(&self) -> f64 {
        let (used, all) = self.scheduler.usage();
        used as f64 / all as f64
    }

    /// Drops what is kept of a rollout.
    pub fn forget(&mut self, rollout: u64) {
        self.scheduler.forget(rollout);
    }

    /// Gives a request up. True if it was waiting or running.
    pub fn cancel(&mut self, ticket: u64) -> bool {
        let known = self.scheduler.cancel(ticket);
        self.release_versions();
        known
    }

    /// What a running request has sampled so far: for callers that look for stop texts, and then call [`Engine::stop`].
    pub fn sampled(&self, ticket: u64) -> Option<&[u32]> {
        let running = self.scheduler.running.iter().find(|r| r.request.ticket == ticket)?;
        Some(&running.tokens[running.prompt..])
    }

    /// Ends a running request as if it had sampled a stop id.
    pub fn stop(&mut self, ticket: u64) -> Option<Generated> {
        let index = self.scheduler.running.iter().position(|r| r.request.ticket == ticket)?;
        let generated = finished(self.scheduler.finish(index), false);
        self.release_versions();
        Some(generated)
    }

    /// One forward pass. Gives what it finished; nothing is left to do when [`Engine::running`] and [`Engine::waiting`] are 0.
    ///
    /// # Errors
    /// [`Error::Torch`] where libtorch fails, for instance without memory.
    pub fn step(&mut self) -> Result<Vec<Generated>> {
        let _guard = tch::no_grad_guard();
        for copy in self.scheduler.admit() {
            self.kv.copy(copy.from, copy.to, copy.len);
        }
        let mut by_version: BTreeMap<u64, Vec<Slice>> = BTreeMap::new();
        for slice in self.scheduler.schedule() {
            by_version.entry(self.scheduler.running[slice.index].request.version).or_default().push(slice);
        }
        for (version, slices) in by_version {
            self.compute(version, &slices)?;
        }
        let mut done = vec![];
        for index in (0..self.scheduler.running.len()).rev() {
            if let Some(cut) = ending(&self.scheduler.running[index]) {
                done.push(finished(self.scheduler.finish(index), cut));
            }
        }
        done.reverse();
        self.release_versions();
        Ok(done)
    }

    /// Keeps keys and values as a GPU's engine does.
    #[cfg(test)]
    pub(crate) fn use_device_cache(&mut self) {
        let capacity = cache::capacity(&self.config, self.options.kv_cache_mib).expect("it was worked out before");
        self.kv = KvCache::on_device(&self.config, capacity, self.options.device).expect("there is memory");
    }

    fn release_versions(&mut self) {
        let unused: Vec<u64> = self.leaving.iter().filter(|v| !self.scheduler.version_in_use(**v)).copied().collect();
        for version in unused {
            self.leaving.remove(&version);
            self.models.remove(&version);
        }
    }

    /// Computes slices with one version's weights, and samples a token where a sequence has been computed to its end.
    fn compute(&mut self, version: u64, slices: &[Slice]) -> Result<()> {
        let plan = Plan::new(&self.scheduler.running, slices);
        let model = &self.models[&version];
        let to = |ids: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(ids)?.f_to_device(self.options.device)?) };
        let (tokens, positions, keep) = (to(&plan.tokens)?, to(&plan.positions)?, to(&plan.keep)?);
        let last = self.config.num_hidden_layers - 1;
        let kv = &mut self.kv;
        kv.begin(&plan)?;
        let inputs = Inputs::text(tokens, positions);
        let hidden = model.forward(&inputs, &keep, &mut |layer, q, k, v| kv.attend(&plan, layer, layer == last, q, k, v));
        for (slice, span) in slices.iter().zip(&plan.spans) {
            self.scheduler.running[slice.index].computed += span.count;
        }
        let sampling: Vec<usize> = slices.iter().zip(&plan.spans).filter(|(_, span)| span.ends).map(|(slice, _)| slice.index).collect();
        if !sampling.is_empty() {
            self.sample(version, &hidden, &sampling)?;
        }
        Ok(())
    }

    /// Samples one token for each row of final hidden states.
    fn sample(&mut self, version: u64, hidden: &Tensor, rows: &[usize]) -> Result<()> {
        let running = &mut self.scheduler.running;
        let temperature = |index: &usize| {
            if running[*index].request.sampling.temperature > 0.0 { running[*index].request.sampling.temperature } else { 1.0 }
        };
        let temperatures: Vec<f32> = rows.iter().map(temperature).collect();
        let mut logits = self.models[&version].logits(hidden);
        if temperatures.iter().any(|t| *t != 1.0) {
            logits = &logits / upload(&temperatures, &[rows.len(), 1], self.options.device)?;
        }
        let logprobs = download(&(logits + &self.ban).log_softmax(-1, Kind::Float));
        for (row, index) in logprobs.chunks_exact(self.config.vocab_size).zip(rows) {
            let sequence = &mut running[*index];
            let id = sample::pick(row, &sequence.request.sampling, &mut sequence.rng);
            sequence.tokens.push(id as u32);
            sequence.logprobs.push(row[id]);
        }
        Ok(())
    }
}

/// A row to add to scores: [`BAN`] at banned ids, 0 elsewhere.
pub(crate) fn ban_row(config: &ModelConfig, banned: &[u32], device: Device) -> Result<Tensor> {
    let mut row = vec![0.0; config.vocab_size];
    for id in banned {
        // A tokenizer may know more ids than the model has rows for; those can never be sampled.
        if let Some(value) = row.get_mut(*id as usize) {
            *value = BAN;
        }
    }
    if row.iter().all(|value| *value != 0.0) {
        return Err(Error::Options("every token of the vocabulary is banned".into()));
    }
    upload(&row, &[config.vocab_size], device)
}

/// Whether a sequence is at its end, and if so whether it was cut.
fn ending(running: &Running) -> Option<bool> {
    let sampled = &running.tokens[running.prompt..];
    let last = sampled.last()?;
    if running.request.stop_ids.contains(last) {
        return Some(false);
    }
    (sampled.len() >= running.request.sampling.max_tokens as usize).then_some(true)
}

fn finished(running: Running, cut: bool) -> Generated {
    let Running { request, tokens, prompt, logprobs, .. } = running;
    let versions = if logprobs.is_empty() { vec![] } else { vec![(request.version, logprobs.len() as u32)] };
    Generated { ticket: request.ticket, tokens: tokens[prompt..].to_vec(), logprobs, versions, cut }
}
