//! The trainer: loss, gradient and step.
//!
//! In: [`Sequence`]s. Out: moved weights and [`Stats`]. Each call of [`Trainer::imitate`] or [`Trainer::reinforce`] is one
//! step of the optimiser over all its sequences; microbatches bound memory and change nothing else. The mean is over tokens
//! of the whole batch, so a long episode weighs as much as its tokens.

use crate::batch::{Microbatch, Packing, pack};
use crate::engine::{BAN, ban_row};
use crate::lora::Adapters;
use crate::model::{Model, Place, download};
use crate::objective::{self, Columns, Sums};
use crate::optimizer::AdamW;
use crate::pass::{Head, targets_at_once};
use crate::{Error, LoraOptions, ModelConfig, Reinforce, Result, Sequence, Stats, init, weights};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Tokens of one pass on a CPU, at most: what passes between two operations should still lie in its caches.
const CACHED: usize = 2048;
/// Tokens of a batch below which threads cost more than they save.
const WORTH_A_THREAD: usize = 1024;

#[derive(Clone, Debug)]
pub struct TrainerOptions {
    pub device: Device,
    /// Sequences are computed in the order given, one a block, so that a result never depends on how they are sorted.
    pub deterministic: bool,
    /// Tokens of one forward and backward pass; a longer sequence is one pass of its own.
    pub microbatch_tokens: usize,
    pub weight_decay: f64,
    /// Largest norm of the gradient; a longer one is scaled down. 0 sets no limit.
    pub clip_norm: f64,
    /// Ids that the engine never samples.
    pub banned: Vec<u32>,
    /// At which the engine samples. 0 (greedy) counts as 1.
    pub temperature: f64,
    pub precision: Precision,
    /// Keep each layer's input alone and compute the layer again on the way back: much less memory for a third more work.
    pub recompute: bool,
}

/// The type that weights lie and are computed in. The optimiser's moments are f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    #[default]
    F32,
    Bf16,
}

impl Precision {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        }
    }
}

impl Default for TrainerOptions {
    fn default() -> Self {
        TrainerOptions {
            device: Device::Cpu,
            deterministic: false,
            microbatch_tokens: 8192,
            weight_decay: 0.01,
            clip_norm: 1.0,
            banned: vec![],
            temperature: 1.0,
            precision: Precision::F32,
            recompute: false,
        }
    }
}

#[derive(Debug)]
pub struct Trainer {
    pub(crate) options: TrainerOptions,
    pub(crate) model: Model,
    pub(crate) optimizer: AdamW,
    pub(crate) reference: Option<Model>,
    ban: Tensor,
    banned: Vec<bool>,
}

/// Which loss a pass computes.
enum Objective<'a> {
    Imitation,
    Reinforcement(&'a Reinforce),
}

impl Trainer {
    /// A new policy, drawn from the seed.
    ///
    /// # Errors
    /// [`Error::Options`] where every token is banned; [`Error::Torch`].
    pub fn new(config: ModelConfig, seed: u64, options: TrainerOptions) -> Result<Trainer> {
        let weights = init::draw(&config, seed);
        Trainer::with(config, &weights, options)
    }

    /// A policy from a Hugging Face folder: `config.json` and `model.safetensors` (or several files and their index).
    ///
    /// # Errors
    /// Whatever is wrong with the folder, by name.
    pub fn from_folder(folder: &Path, options: TrainerOptions) -> Result<Trainer> {
        let path = folder.join("config.json");
        let config = ModelConfig::from_json(&std::fs::read(&path).map_err(crate::error::io(&path))?)?;
        let weights = weights::read_folder(&config, folder)?;
        Trainer::with(config, &weights, options)
    }

    fn with(config: ModelConfig, weights: &weights::Weights, options: TrainerOptions) -> Result<Trainer> {
        let ban = ban_row(&config, &options.banned, options.device)?;
        let mut banned = vec![false; config.vocab_size];
        options
            .banned
            .iter()
            .filter_map(|id| usize::try_from(*id).ok())
            .filter(|id| *id < config.vocab_size)
            .for_each(|id| banned[id] = true);
        let place = Place { device: options.device, kind: options.precision.kind() };
        let model = Model::new(&config, weights, place)?;
        let optimizer = AdamW::new(&model)?;
        Ok(Trainer { options, model, optimizer, reference: None, ban, banned })
    }

    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Optimiser steps taken.
    pub fn step(&self) -> u64 {
        self.optimizer.step
    }

    /// The weights: bytes of a safetensors file, Hugging Face names, f32.
    pub fn weights(&self) -> Vec<u8> {
        weights::write(&self.host_weights()).expect("weights on the host have a type that the format knows")
    }

    pub(crate) fn host_weights(&self) -> weights::Weights {
        self.model.weights()
    }

    /// Trains a new adapter from now on, and nothing else. The reference, where one is held, stays as it is.
    ///
    /// # Errors
    /// [`Error::Adapter`] for a module that the model lacks, or where it has an adapter already.
    pub fn adapt(&mut self, options: &LoraOptions, seed: u64) -> Result<()> {
        let adapters = Adapters::draw(&self.model.config, &self.model.layout, options, seed, self.model.place)?;
        self.take_adapters(adapters)
    }

    /// Trains an adapter of PEFT's from now on, and nothing else.
    ///
    /// # Errors
    /// [`Error::Adapter`], [`Error::Shape`] or [`Error::Missing`] where it was made for another base; [`Error::Io`].
    pub fn load_adapter(&mut self, folder: &Path) -> Result<()> {
        let adapters = Adapters::read(&self.model.config, &self.model.layout, folder, self.model.place)?;
        self.take_adapters(adapters)
    }

    fn take_adapters(&mut self, adapters: Adapters) -> Result<()> {
        if self.model.adapters.is_some() {
            return Err(Error::Adapter("the model has one already; hint: call `merge_adapter` first".into()));
        }
        self.model.adapters = Some(adapters);
        self.optimizer.restart();
        Ok(())
    }

    /// Writes the adapter as PEFT does.
    ///
    /// # Errors
    /// [`Error::Adapter`] where there is none; [`Error::Io`].
    pub fn save_adapter(&self, folder: &Path) -> Result<()> {
        let adapters = self.model.adapters.as_ref().ok_or_else(|| Error::Adapter("the model has none".into()))?;
        adapters.save(&self.model.config, folder)
    }

    /// Adds the adapter to the weights; from now on all of them are trained.
    pub fn merge_adapter(&mut self) {
        if let Some(adapters) = self.model.adapters.take() {
            self.model.values = adapters.merge(&self.model.values);
            self.optimizer.restart();
        }
    }

    /// Holds the present weights as the reference of the KL penalty.
    ///
    /// # Errors
    /// [`Error::Torch`], without memory.
    pub fn snapshot_reference(&mut self) -> Result<()> {
        let mut reference = Model::new(&self.model.config, &self.host_weights(), self.model.place)?;
        reference.share_encoder(&self.model);
        self.reference = Some(reference);
        Ok(())
    }

    /// One step towards the trained tokens and the labels: mean negative log-likelihood, weighted by the branches' weights.
    ///
    /// # Errors
    /// [`Error::Sequence`] for a sequence that cannot be trained on; nothing is changed then.
    pub fn imitate(&mut self, sequences: &[Sequence], learning_rate: f64) -> Result<Stats> {
        self.train(sequences, &Objective::Imitation, learning_rate)
    }

    /// The loss that [`Trainer::imitate`] would see, without a step.
    ///
    /// # Errors
    /// [`Error::Sequence`].
    pub fn imitation_loss(&self, sequences: &[Sequence]) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let batches = self.pack(sequences, true)?;
        let (_, total) = totals(&batches, &Objective::Imitation);
        let worker = self.worker();
        let losses = batches.iter().filter_map(|batch| worker.evaluate(batch, &Objective::Imitation, total));
        Ok(losses.map(|sums| sums.loss.double_value(&[])).sum())
    }

    /// One step of the clipped objective on the policy's own tokens. Branches take no part.
    ///
    /// # Errors
    /// [`Error::Sequence`]; [`Error::Options`] for a KL weight without a reference.
    pub fn reinforce(&mut self, sequences: &[Sequence], options: &Reinforce) -> Result<Stats> {
        if options.kl != 0.0 && self.reference.is_none() {
            return Err(Error::Options("a KL penalty needs a reference; hint: call `snapshot_reference` first".into()));
        }
        for (index, sequence) in sequences.iter().enumerate() {
            let (old, trained) = (sequence.old_logprobs.len(), sequence.trained_tokens());
            if old != trained {
                return Err(Error::Sequence { index, reason: format!("{old} old log-probabilities for {trained} trained tokens") });
            }
        }
        self.train(sequences, &Objective::Reinforcement(options), options.learning_rate)
    }

    /// Log-probabilities of a sequence's trained tokens, in order, by a fresh forward pass.
    ///
    /// # Errors
    /// [`Error::Sequence`].
    pub fn logprobs(&self, sequence: &Sequence) -> Result<Vec<f32>> {
        let _guard = tch::no_grad_guard();
        let batches = self.pack(std::slice::from_ref(sequence), false)?;
        let all = batches.iter().map(|batch| {
            let columns = Columns::new(&batch.targets, self.options.device);
            download(&self.head().logprobs(&self.model, batch, &columns))
        });
        Ok(all.flatten().collect())
    }

    fn pack(&self, sequences: &[Sequence], with_branches: bool) -> Result<Vec<Microbatch>> {
        self.pack_for(self.options.device, sequences, with_branches)
    }

    fn pack_for(&self, device: Device, sequences: &[Sequence], with_branches: bool) -> Result<Vec<Microbatch>> {
        for (index, sequence) in sequences.iter().enumerate() {
            sequence.check(index, &self.model.config, &self.banned)?;
        }
        let cpu = device == Device::Cpu;
        let tokens: usize = sequences.iter().map(|s| s.tokens.len()).sum();
        let packing = Packing {
            vision: self.model.config.vision.as_ref(),
            microbatch_tokens: self.options.microbatch_tokens.min(if cpu { CACHED } else { usize::MAX }),
            microbatch_targets: if cpu { targets_at_once(self.model.config.vocab_size, device) } else { usize::MAX },
            in_order: self.options.deterministic,
            blocks: !cpu,
            threads: if cpu && tokens >= WORTH_A_THREAD { threads() } else { 1 },
            with_branches,
        };
        Ok(pack(sequences, &packing))
    }

    fn train(&mut self, sequences: &[Sequence], objective: &Objective<'_>, learning_rate: f64) -> Result<Stats> {
        let batches = self.pack(sequences, matches!(objective, Objective::Imitation))?;
        let (tokens, total) = totals(&batches, objective);
        if tokens == 0 {
            return Ok(Stats { finite: true, ..Stats::default() });
        }
        let Sum { loss, meters, gradients } = self.differentiate(&batches, objective, total);
        let _guard = tch::no_grad_guard();
        let grad_norm = self.optimizer.norm(&gradients)?;
        let finite = loss.is_finite() && grad_norm.is_finite();
        if finite {
            let limit = self.options.clip_norm;
            let scale = if limit > 0.0 && grad_norm > limit { limit / (grad_norm + 1e-6) } else { 1.0 };
            self.optimizer.step(&self.model, &gradients, scale, learning_rate, self.options.weight_decay)?;
        }
        let [entropy, kl_old, clip_fraction] = meters.map(|sum| sum / tokens as f64);
        Ok(Stats { loss, tokens, entropy, kl_old, clip_fraction, grad_norm, finite })
    }

    /// The gradient of the whole batch. On the CPU each thread takes every so many-th microbatch, computes it with that one
    /// thread, and the sums are added in the threads' order: small operations gain nothing from being split.
    fn differentiate(&self, batches: &[Microbatch], objective: &Objective<'_>, total: f64) -> Sum {
        let count = if self.options.device == Device::Cpu { threads().min(batches.len()) } else { 1 };
        if count == 1 {
            return self.worker().sum(batches.iter(), objective, total);
        }
        let workers: Vec<Worker> = (0..count).map(|_| self.worker()).collect();
        let sums: Vec<Sum> = std::thread::scope(|scope| {
            let start = |(number, worker): (usize, Worker)| {
                scope.spawn(move || {
                    crate::set_threads(1);
                    worker.sum(batches.iter().skip(number).step_by(count), objective, total)
                })
            };
            let running: Vec<_> = workers.into_iter().enumerate().map(start).collect();
            running.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let _guard = tch::no_grad_guard();
        sums.into_iter().reduce(Sum::plus).expect("there is at least one worker")
    }

    /// Gradients of the imitation loss, computed the way a GPU's are, or the CPU's.
    #[cfg(test)]
    pub(crate) fn gradients(&self, sequences: &[Sequence], as_on_gpu: bool) -> Result<Vec<Tensor>> {
        let device = if as_on_gpu { Device::Cuda(0) } else { Device::Cpu };
        let batches = self.pack_for(device, sequences, true)?;
        let (_, total) = totals(&batches, &Objective::Imitation);
        Ok(self.worker().sum(batches.iter(), &Objective::Imitation, total).gradients)
    }

    fn head(&self) -> Head<'_> {
        Head { ban: &self.ban, temperature: self.options.temperature, recompute: self.options.recompute }
    }

    fn worker(&self) -> Worker {
        Worker {
            model: self.model.alias(),
            reference: self.reference.as_ref().map(Model::alias),
            ban: self.ban.shallow_clone(),
            temperature: self.options.temperature,
            recompute: self.options.recompute,
            device: self.options.device,
        }
    }
}

/// What one thread needs to compute gradients: the same weights with gradients of its own.
struct Worker {
    model: Model,
    reference: Option<Model>,
    ban: Tensor,
    temperature: f64,
    recompute: bool,
    device: Device,
}

/// Loss, meters and gradients of some microbatches.
struct Sum {
    loss: f64,
    /// Entropy, mismatch, clipped tokens.
    meters: [f64; 3],
    gradients: Vec<Tensor>,
}

impl Sum {
    fn plus(mut self, other: Sum) -> Sum {
        self.loss += other.loss;
        self.meters.iter_mut().zip(other.meters).for_each(|(a, b)| *a += b);
        for (gradient, more) in self.gradients.iter_mut().zip(&other.gradients) {
            let _ = gradient.g_add_(more);
        }
        self
    }
}

impl Worker {
    fn sum<'a>(&self, batches: impl Iterator<Item = &'a Microbatch>, objective: &Objective<'_>, total: f64) -> Sum {
        let (mut loss, mut meters) = (0.0, [0.0; 3]);
        for batch in batches {
            let Some(sums) = self.differentiate(batch, objective, total) else { continue };
            loss += sums.loss.double_value(&[]);
            meters.iter_mut().zip(download(&sums.meters)).for_each(|(meter, value)| *meter += f64::from(value));
        }
        Sum { loss, meters, gradients: self.model.gradients() }
    }

    fn head(&self) -> Head<'_> {
        Head { ban: &self.ban, temperature: self.temperature, recompute: self.recompute }
    }

    fn columns(&self, batch: &Microbatch, objective: &Objective<'_>) -> Columns {
        let mut columns = Columns::new(&batch.targets, self.device);
        let asked = matches!(objective, Objective::Reinforcement(options) if options.kl != 0.0);
        if let Some(reference) = self.reference.as_ref().filter(|_| asked) {
            columns.reference = Some(self.head().logprobs(reference, batch, &columns));
        }
        columns
    }

    fn differentiate(&self, batch: &Microbatch, objective: &Objective<'_>, total: f64) -> Option<Sums> {
        let columns = self.columns(batch, objective);
        self.head().backward(&self.model, batch, &columns, &mut |all, columns| objective.sums(all, columns, total))
    }

    fn evaluate(&self, batch: &Microbatch, objective: &Objective<'_>, total: f64) -> Option<Sums> {
        let columns = self.columns(batch, objective);
        tch::no_grad(|| self.head().forward(&self.model, batch, &columns, &mut |all, columns| objective.sums(all, columns, total)))
    }
}

impl Objective<'_> {
    fn sums(&self, all: &Tensor, columns: &Columns, total: f64) -> Sums {
        match self {
            Objective::Imitation => objective::imitation(all, columns, total),
            Objective::Reinforcement(options) => objective::reinforcement(all, columns, total, options),
        }
    }
}

/// Threads that [`crate::set_threads`] allows.
fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1).max(1)
}

/// Trained tokens of a batch, and what its loss is divided by.
fn totals(batches: &[Microbatch], objective: &Objective<'_>) -> (u64, f64) {
    let targets = || batches.iter().flat_map(|b| &b.targets);
    let tokens = targets().count();
    let total = match objective {
        Objective::Imitation => targets().map(|t| f64::from(t.weight)).sum(),
        Objective::Reinforcement(_) => tokens as f64,
    };
    (tokens as u64, if total > 0.0 { total } else { 1.0 })
}

const _: () = assert!(BAN < -1e8, "a banned id's probability must be exactly 0");
