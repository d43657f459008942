//! The engine: continuous batching over the model.
//!
//! In: [`Request`]s. Out: [`Generated`]. Each [`Engine::step`] is one forward pass over slices of any number of sequences:
//! one token of each that is sampling, and chunks of prompts. Keys and values lie in pages that are found again by what they
//! hold, so that a turn computes its new tokens only, and members of a group compute what they share once.

use crate::cache::{self, DeviceCache};
use crate::cuda;
use crate::decode::{self, Simple};
use crate::drawing::draws;
use crate::eyes::Eyes;
use crate::host::{HostCache, each_piece};
use crate::loader::{Adapted, Base, Loaded, Loader, Prepared};
use crate::model::{Inputs, Model, Place, download, upload};
use crate::picture::{self, Picture, Shown, Sights};
use crate::plan::Plan;
use crate::sample::TokenLogprob;
use crate::scheduler::{CHUNK, CacheStats, Limits, Running, Scheduler, Slice};
use crate::{Error, LoraOptions, ModelConfig, Result, SamplingParams};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};

/// Added to the scores of banned ids: far enough below any score that their probability is exactly 0 in f32.
pub(crate) const BAN: f32 = -1e9;

#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Sequences computed at once.
    pub max_num_seqs: usize,
    /// Tokens of one forward pass.
    pub max_num_batched_tokens: usize,
    /// Memory for keys and values, MiB. Reserved at once and never passed.
    pub kv_cache_mib: usize,
    /// Ids that are never sampled, unless a request says otherwise. The trainer is given the same.
    pub banned: Vec<u32>,
    /// A result depends on its tokens, the weights and its seed alone: keys and values never outlive their version.
    pub deterministic: bool,
    /// Keep a rollout's keys and values when its next turn asks for another version, or compute them again.
    pub keep_kv: bool,
    /// Look for what a prompt starts with among what was computed before.
    pub prefix_caching: bool,
    /// Threads of the CPU's decoder.
    pub threads: usize,
    /// Compute with libtorch on the CPU too, as on a GPU.
    pub libtorch: bool,
    /// Weights, keys and values in bfloat16 on a GPU; the trainer's log-probabilities are then met less closely.
    pub bfloat16: bool,
    /// On a GPU, compute single tokens with kernels of our own where they know the model.
    pub kernels: bool,
    /// Memory for what the vision tower made of pictures, MiB. What does not fit is made again.
    pub pictures_mib: usize,
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
            prefix_caching: true,
            threads: 1,
            libtorch: false,
            bfloat16: false,
            kernels: true,
            pictures_mib: 256,
            device: Device::Cpu,
        }
    }
}

/// A reply that is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The caller's name for it; comes back in [`Generated`].
    pub ticket: u64,
    /// Whose keys and values outlive a change of version: one growing token sequence.
    pub rollout: u64,
    /// Requests of different salts share no keys and values.
    pub salt: u64,
    pub tokens: Vec<u32>,
    /// In the order of their offsets; each stands for a run of image tokens.
    pub pictures: Vec<Shown>,
    /// Weights to sample with; must be loaded.
    pub version: u64,
    pub sampling: SamplingParams,
    /// Any one of these ends the reply, and is part of it.
    pub stop_ids: Vec<u32>,
}

/// A finished reply.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub ticket: u64,
    /// The ids as sampled, the stop id included where one was sampled.
    pub tokens: Vec<u32>,
    /// Of each sampled id, as [`crate::LogprobsMode`] says.
    pub logprobs: Vec<f32>,
    /// The same, with ranks and the best other ids where the request asked for them.
    pub details: Vec<TokenLogprob>,
    /// Of the prompt's tokens from the second on, where the request asked for them.
    pub prompt_logprobs: Vec<TokenLogprob>,
    /// `(version, count)`: which weights sampled the next `count` tokens.
    pub versions: Vec<(u64, u32)>,
    /// `max_tokens` was reached before a stop id.
    pub cut: bool,
    /// Prompt tokens whose keys and values were there already.
    pub cached: usize,
    /// The scores were no numbers: the reply ends here, and the weights are at fault.
    pub broken: bool,
}

#[derive(Debug)]
enum Cache {
    Host(Box<HostCache>),
    Device(Box<DeviceCache>),
}

#[derive(Debug)]
pub struct Engine {
    config: ModelConfig,
    options: EngineOptions,
    models: BTreeMap<u64, Loaded>,
    /// Versions given up that requests still need.
    leaving: BTreeSet<u64>,
    scheduler: Scheduler,
    cache: Cache,
    pool: Option<rayon::ThreadPool>,
    place: Option<Place>,
    eyes: Eyes,
    base: Option<Arc<Mutex<Adapted>>>,
    /// What computes single tokens on a GPU.
    decoder: Option<Box<cuda::Decoder>>,
}

impl Engine {
    /// An engine without weights.
    ///
    /// # Errors
    /// Where the cache holds not even one page, or every id is banned; [`Error::Cuda`] where a GPU cannot be used as asked.
    pub fn new(config: ModelConfig, options: EngineOptions) -> Result<Engine> {
        let cuda = options.device != Device::Cpu;
        let half = cuda && options.bfloat16;
        let kind = if half { Kind::BFloat16 } else { Kind::Float };
        let place = (cuda || options.libtorch).then_some(Place { device: options.device, kind });
        let pages = cache::pages(&config, options.kv_cache_mib, if half { 2 } else { 4 })?;
        let limits = Limits {
            max_num_seqs: options.max_num_seqs.max(1),
            max_num_batched_tokens: options.max_num_batched_tokens,
            max_len: config.max_position_embeddings,
            chunk: if place.is_some() { CHUNK } else { usize::MAX },
            keep_kv: options.keep_kv && !options.deterministic,
            prefix_caching: options.prefix_caching,
        };
        if (0..config.vocab_size as u32).all(|id| options.banned.contains(&id)) {
            return Err(Error::Options("every token of the vocabulary is banned".into()));
        }
        let cache = match place {
            Some(place) => Cache::Device(Box::new(DeviceCache::new(&config, pages, place)?)),
            None => Cache::Host(Box::new(HostCache::new(&config, pages))),
        };
        let threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build();
        let pool = match options.threads {
            0 | 1 => None,
            count => Some(threads(count).map_err(|e| Error::Options(format!("{count} threads: {e}")))?),
        };
        let scheduler = Scheduler::new(limits, pages);
        let decoder = match options.device {
            Device::Cuda(ordinal) if half && options.kernels && cuda::supports(&config) => {
                Some(Box::new(cuda::Decoder::new(&config, options.max_num_seqs, &options.banned, ordinal)?))
            }
            _ => None,
        };
        let eyes = Eyes::new(options.pictures_mib << 20, options.deterministic);
        Ok(Engine {
            config,
            options,
            models: BTreeMap::new(),
            leaving: BTreeSet::new(),
            scheduler,
            cache,
            pool,
            place,
            eyes,
            base: None,
            decoder,
        })
    }

    /// What makes weights ready for this engine, on any thread.
    pub fn loader(&self) -> Loader {
        Loader::new(&self.config, self.place, self.base.clone())
    }

    /// From now on versions are adapters over this base, of the rank and alpha given. The base is held once, beside them.
    ///
    /// # Errors
    /// Whatever is wrong with the folder, by name; [`Error::Torch`] without memory.
    pub fn adapt(&mut self, base: Base<'_>, lora: &LoraOptions) -> Result<()> {
        self.base = Some(Arc::new(Mutex::new(Adapted::new(&self.config, base, lora, self.place)?)));
        Ok(())
    }

    /// Holds weights that were made ready.
    pub fn install(&mut self, version: u64, prepared: Prepared) {
        let mut loaded = prepared.0;
        if let (Some(encoder), Some(before)) = (loaded.tower_mut(), self.models.values().rev().find_map(Loaded::tower)) {
            encoder.share_encoder(before);
        }
        self.forget_version(version);
        self.models.insert(version, loaded);
        self.leaving.remove(&version);
    }

    /// Holds the weights of a version, from the bytes of a safetensors file.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Missing`] or [`Error::Weights`] where they are not of this model.
    pub fn load(&mut self, version: u64, safetensors: &[u8]) -> Result<()> {
        let prepared = self.loader().prepare(safetensors)?;
        self.install(version, prepared);
        Ok(())
    }

    /// Gives a version up. Requests that name it are still answered with it.
    pub fn drop_version(&mut self, version: u64) {
        if self.scheduler.version_in_use(version) {
            self.leaving.insert(version);
        } else {
            self.forget_version(version);
        }
    }

    /// Goes on with requests of one version under another: with the keys and values they have, or, where those do not
    /// outlive a version, from the start. Does nothing unless the other is held.
    pub fn move_requests(&mut self, from: u64, to: u64) {
        if self.models.contains_key(&to) {
            self.scheduler.move_to(from, to);
            self.release_versions();
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
        let pictures: Vec<Picture> = request.pictures.iter().map(|shown| shown.picture.clone()).collect();
        if let Err(reason) = picture::check(&pictures, &request.tokens, self.config.vision.as_ref()) {
            return refuse(reason);
        }
        let sights = Sights::of(request.tokens.len(), &request.pictures, self.config.vision.as_ref());
        self.scheduler.submit_seeing(request, sights)
    }

    /// Requests that hold room.
    pub fn running(&self) -> usize {
        self.scheduler.running.len()
    }

    /// Requests that wait for room.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Share of the cache that running requests use.
    pub fn kv_use(&self) -> f64 {
        let (used, all) = self.scheduler.usage();
        used as f64 / all as f64
    }

    /// Tokens that the cache holds.
    pub fn kv_tokens(&self) -> usize {
        self.scheduler.usage().1 * crate::kv::PAGE
    }

    /// What the cache has been good for.
    pub fn cache_stats(&self) -> CacheStats {
        self.scheduler.stats
    }

    /// Pictures that went through a frozen encoder, of all versions that share the newest one's.
    #[cfg(test)]
    pub(crate) fn pictures_encoded(&self) -> u64 {
        self.models.values().rev().find_map(Loaded::tower).map_or(0, |tower| tower.encoded.seen())
    }

    /// Pictures that went through the vision tower; those that were kept from before are not counted.
    pub fn pictures_seen(&self) -> u64 {
        self.eyes.seen()
    }

    /// Forgets every kept page; what runs keeps its own.
    pub fn clear_cache(&mut self) {
        self.scheduler.clear_cache();
    }

    /// The rollout is over; a later one of its name starts anew.
    pub fn forget(&mut self, rollout: u64) {
        self.scheduler.forget(rollout);
    }

    /// Gives a request up. True if it was waiting or running.
    pub fn cancel(&mut self, ticket: u64) -> bool {
        let known = self.scheduler.cancel(ticket);
        self.release_versions();
        known
    }

    /// What a request has sampled so far: for callers that look for stop texts, and then call [`Engine::stop`].
    pub fn sampled(&self, ticket: u64) -> Option<&[u32]> {
        self.scheduler.find(ticket).map(Running::reply)
    }

    /// The same with log-probabilities.
    pub fn details(&self, ticket: u64) -> Option<&[TokenLogprob]> {
        self.scheduler.find(ticket).map(|running| &running.sampled[..])
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
        let mut by_version: BTreeMap<u64, Vec<Slice>> = BTreeMap::new();
        for slice in self.scheduler.schedule() {
            by_version.entry(self.scheduler.running[slice.index].version).or_default().push(slice);
        }
        for (version, slices) in by_version {
            // Single tokens depend on nothing else of this step, while what starts may share what they write.
            let (single, rest): (Vec<Slice>, Vec<Slice>) = slices.into_iter().partition(|slice| self.is_single(slice));
            self.decode(version, &single)?;
            if !rest.is_empty() {
                self.compute(version, &rest)?;
            }
        }
        let mut done = vec![];
        for index in (0..self.scheduler.running.len()).rev() {
            if let Some(cut) = ending(&self.scheduler.running[index]) {
                let running = self.scheduler.finish(index);
                if running.broken {
                    match &mut self.cache {
                        Cache::Host(cache) => cache.scrub(&running.pages),
                        Cache::Device(cache) => cache.scrub(&running.pages),
                    }
                }
                done.push(finished(running, cut));
            }
        }
        done.reverse();
        self.release_versions();
        Ok(done)
    }

    fn release_versions(&mut self) {
        let unused: Vec<u64> = self.leaving.iter().filter(|v| !self.scheduler.version_in_use(**v)).copied().collect();
        for version in unused {
            self.leaving.remove(&version);
            self.forget_version(version);
        }
    }

    fn forget_version(&mut self, version: u64) {
        if let Some(decoder) = &mut self.decoder {
            decoder.forget(version);
        }
        self.models.remove(&version);
        self.eyes.forget(version);
    }

    /// Whether the GPU's decoder computes a slice: a token that was sampled, of a sequence that ran before this step.
    fn is_single(&self, slice: &Slice) -> bool {
        let sequence = &self.scheduler.running[slice.index];
        self.decoder.is_some() && !slice.starts && slice.count == 1 && sequence.computed >= sequence.prompt
    }

    /// Computes one token of each of some sequences with the GPU's decoder, and samples the next.
    fn decode(&mut self, version: u64, slices: &[Slice]) -> Result<()> {
        let (Some(decoder), Loaded::Device(model), Cache::Device(cache)) = (&mut self.decoder, &self.models[&version], &self.cache) else {
            return Ok(());
        };
        for slices in slices.chunks(decoder.rows()) {
            decode::step(decoder, version, model, cache, &mut self.scheduler.running, slices, &self.options.banned)?;
        }
        Ok(())
    }

    /// Computes slices with one version's weights, and samples a token where a sequence has been computed to its end.
    fn compute(&mut self, version: u64, slices: &[Slice]) -> Result<()> {
        let mut plan = Plan::new(&self.scheduler.running, slices);
        if let Some(tower) = self.models[&version].tower() {
            plan.seen = self.eyes.look(version, tower, &plan.spans, &self.scheduler.running)?;
        }
        let mut draws = draws(&plan, &self.scheduler.running);
        let (scheduler, banned, vocabulary) = (&self.scheduler, &self.options.banned, self.config.vocab_size);
        match (&self.models[&version], &mut self.cache) {
            (Loaded::Host(decoder, _), Cache::Host(cache)) => {
                let mut work = || {
                    let hidden = decoder.forward(&plan, cache);
                    if draws.is_empty() {
                        return;
                    }
                    let logits = decoder.logits(&hidden);
                    each_piece(&mut draws, 1, |_, draws| {
                        let read = |row: usize, into: &mut [f32]| logits.read(row, 0, into);
                        draws.iter_mut().for_each(|draw| draw.run(&scheduler.running, banned, vocabulary, &read));
                    });
                };
                match self.pool.as_ref().filter(|_| decoder.is_worth_threads(&plan)) {
                    Some(pool) => pool.install(work),
                    None => work(),
                }
            }
            (Loaded::Device(model), Cache::Device(cache)) => {
                let scores = device_scores(model, cache, &plan)?;
                let simple: Option<Vec<Simple>> = draws.iter().map(|draw| draw.simple(&scheduler.running, banned)).collect();
                if let (Some(decoder), Some(simple), Some(scores)) = (&mut self.decoder, simple, &scores) {
                    for (part, (draws, simple)) in draws.chunks_mut(decoder.rows()).zip(simple.chunks(decoder.rows())).enumerate() {
                        let scores = scores.narrow(0, (part * decoder.rows()) as i64, draws.len() as i64);
                        let sampling: Vec<cuda::Sampling> = simple.iter().map(|simple| simple.sampling).collect();
                        let drawn = decoder.draw(&scores, &sampling)?;
                        draws.iter_mut().zip(simple).zip(drawn).for_each(|((draw, simple), drawn)| draw.take(simple, drawn));
                    }
                } else if let Some(scores) = scores {
                    let scores = download(&scores);
                    let read = |row: usize, into: &mut [f32]| into.copy_from_slice(&scores[row * vocabulary..][..vocabulary]);
                    draws.iter_mut().for_each(|draw| draw.run(&scheduler.running, banned, vocabulary, &read));
                }
            }
            _ => return Err(Error::Options("weights and cache are of different devices".into())),
        }
        for span in &plan.spans {
            self.scheduler.running[span.index].computed += span.count;
        }
        for drawn in draws {
            drawn.take_in(&mut self.scheduler.running);
        }
        Ok(())
    }
}

/// Scores of the rows that a plan keeps, `[rows, vocabulary]`, computed by libtorch.
fn device_scores(model: &Model, cache: &mut DeviceCache, plan: &Plan) -> Result<Option<Tensor>> {
    let device = cache.device();
    let tokens: Vec<i64> = plan.tokens.iter().map(|id| i64::from(*id)).collect();
    let axis = |axis: usize| plan.positions.iter().map(move |position| i64::from(position[axis]));
    let positions = if model.config.rope.sections.is_some() {
        let all: Vec<i64> = (0..3).flat_map(axis).collect();
        Tensor::f_from_slice(&all)?.f_view([3, -1])?
    } else {
        Tensor::f_from_slice(&axis(0).collect::<Vec<i64>>())?
    };
    let mut inputs = Inputs::text(Tensor::f_from_slice(&tokens)?.f_to_device(device)?, positions.f_to_device(device)?);
    if !plan.seen.is_empty() {
        let rows: Vec<i64> = plan.seen.iter().map(|(row, _)| *row as i64).collect();
        let features = plan.seen.iter().flat_map(|(_, features)| features.iter().copied()).collect::<Vec<f32>>();
        let features = upload(&features, &[rows.len(), model.config.hidden_size], device)?;
        inputs.seen = Some(crate::model::Seen { rows: Tensor::f_from_slice(&rows)?.f_to_device(device)?, features });
    }
    cache.begin(plan)?;
    let keep = cache.keep().shallow_clone();
    let last = model.config.num_hidden_layers - 1;
    let hidden = model.forward(&inputs, &keep, &mut |layer, q, k, v| cache.attend(plan, layer, layer == last, q, k, v));
    Ok((!plan.keep.is_empty()).then(|| model.logits(&hidden).to_kind(Kind::Float)))
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
    if running.broken {
        return Some(false);
    }
    let last = running.reply().last()?;
    if running.request.stop_ids.contains(last) {
        return Some(false);
    }
    (running.reply().len() >= running.request.sampling.max_tokens as usize).then_some(true)
}

fn finished(running: Running, cut: bool) -> Generated {
    let Running { request, tokens, prompt, sampled, prompt_logprobs, versions, cached, broken, .. } = running;
    Generated {
        ticket: request.ticket,
        tokens: tokens[prompt..].to_vec(),
        logprobs: sampled.iter().map(|token| token.logprob).collect(),
        details: sampled,
        prompt_logprobs,
        versions,
        cut,
        cached: cached.unwrap_or(0),
        broken,
    }
}
