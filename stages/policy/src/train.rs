//! The trainer: loss, gradient and step.
//!
//! In: [`Sequence`]s. Out: moved weights and [`Stats`]. Each call of [`Trainer::imitate`] or [`Trainer::reinforce`] is one
//! step of the optimiser over all its sequences; microbatches bound memory and change nothing else. The mean is over tokens
//! of the whole batch, so a long episode weighs as much as its tokens.

use crate::batch::{Microbatch, Packing, pack};
use crate::engine::{BAN, ban_row};
use crate::model::Model;
use crate::objective::{self, Columns, Sums};
use crate::optimizer::{self, AdamW};
use crate::{Error, ModelConfig, Reinforce, Result, Sequence, Stats, init, weights};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Scores of one forward pass, `targets * vocabulary`, at most.
const SCORES: usize = 1 << 25;

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
        let model = Model::new(&config, weights, options.device)?;
        for (parameter, _) in model.parameters() {
            let _ = parameter.set_requires_grad(true);
        }
        let optimizer = AdamW::new(&model);
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
        weights::write(&self.host_weights())
    }

    pub(crate) fn host_weights(&self) -> weights::Weights {
        let parameters: Vec<Tensor> = self.model.parameters().iter().map(|(p, _)| p.detach()).collect();
        self.model.export(&parameters)
    }

    /// Holds the present weights as the reference of the KL penalty.
    ///
    /// # Errors
    /// [`Error::Torch`], without memory.
    pub fn snapshot_reference(&mut self) -> Result<()> {
        self.reference = Some(Model::new(&self.model.config, &self.host_weights(), self.options.device)?);
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
        let losses = batches.iter().map(|b| self.sums(b, &Objective::Imitation, total).loss.double_value(&[]));
        Ok(losses.sum())
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
            crate::model::download(&objective::chosen(&self.distributions(&self.model, batch, &columns), &columns.ids))
        });
        Ok(all.flatten().collect())
    }

    fn pack(&self, sequences: &[Sequence], with_branches: bool) -> Result<Vec<Microbatch>> {
        for (index, sequence) in sequences.iter().enumerate() {
            sequence.check(index, &self.model.config, &self.banned)?;
        }
        let packing = Packing {
            microbatch_tokens: self.options.microbatch_tokens,
            microbatch_targets: (SCORES / self.model.config.vocab_size).max(256),
            in_order: self.options.deterministic,
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
        for (parameter, _) in self.model.parameters() {
            parameter.shallow_clone().zero_grad();
        }
        let mut loss = 0.0;
        let mut meters = [0.0; 3];
        for batch in &batches {
            let sums = self.sums(batch, objective, total);
            sums.loss.backward();
            loss += sums.loss.double_value(&[]);
            for (meter, value) in meters.iter_mut().zip(crate::model::download(&sums.meters)) {
                *meter += f64::from(value) / tokens as f64;
            }
        }
        let _guard = tch::no_grad_guard();
        let gradients: Vec<Tensor> = self.model.parameters().iter().map(|(p, _)| p.grad()).collect();
        let grad_norm = optimizer::norm(&gradients);
        let finite = loss.is_finite() && grad_norm.is_finite();
        if finite {
            let limit = self.options.clip_norm;
            let scale = if limit > 0.0 && grad_norm > limit { limit / (grad_norm + 1e-6) } else { 1.0 };
            self.optimizer.step(&self.model, &gradients, scale, learning_rate, self.options.weight_decay);
        }
        let [entropy, kl_old, clip_fraction] = meters;
        Ok(Stats { loss, tokens, entropy, kl_old, clip_fraction, grad_norm, finite })
    }

    fn sums(&self, batch: &Microbatch, objective: &Objective<'_>, total: f64) -> Sums {
        let columns = Columns::new(&batch.targets, self.options.device);
        let all = self.distributions(&self.model, batch, &columns);
        match objective {
            Objective::Imitation => objective::imitation(&all, &columns, total),
            Objective::Reinforcement(options) => {
                let reference = self.reference.as_ref().filter(|_| options.kl != 0.0).map(|model| {
                    let _guard = tch::no_grad_guard();
                    objective::chosen(&self.distributions(model, batch, &columns), &columns.ids)
                });
                objective::reinforcement(&all, &columns, total, options, reference.as_ref())
            }
        }
    }

    /// Log-probabilities of every id at each target, `[targets, vocabulary]`, after temperature and ban.
    fn distributions(&self, model: &Model, batch: &Microbatch, columns: &Columns) -> Tensor {
        let ids = |ids: &[i64]| Tensor::from_slice(ids).to_device(self.options.device);
        let masks: Vec<Option<Tensor>> = batch.blocks.iter().map(|b| tree_mask(b, self.options.device)).collect();
        let last = model.config.num_hidden_layers - 1;
        let width = model.config.hidden_size as i64;
        let hidden = model.forward(&ids(&batch.tokens), &ids(&batch.positions), &columns.rows, &mut |layer, q, k, v| {
            let blocks = batch.blocks.iter().zip(&masks).map(|(block, mask)| {
                let side =
                    |x: &Tensor| x.narrow(0, block.offset, block.rows * block.len).unflatten(0, [block.rows, block.len]).transpose(1, 2);
                let mixed =
                    Tensor::scaled_dot_product_attention(&side(q), &side(k), &side(v), mask.as_ref(), 0.0, mask.is_none(), None, true);
                mixed.transpose(1, 2).reshape([block.rows * block.len, width])
            });
            let mut parts: Vec<Tensor> = blocks.collect();
            let all = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 0) };
            if layer == last { all.index_select(0, &columns.rows) } else { all }
        });
        let mut logits = model.logits(&hidden).narrow(0, 0, columns.ids.size()[0]);
        if self.options.temperature > 0.0 && self.options.temperature != 1.0 {
            logits = logits / self.options.temperature;
        }
        (logits + &self.ban).log_softmax(-1, Kind::Float)
    }
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

fn tree_mask(block: &crate::batch::Block, device: Device) -> Option<Tensor> {
    if block.mask.is_empty() {
        return None;
    }
    Some(Tensor::from_slice(&block.mask).view([block.rows, 1, block.len, block.len]).to_device(device))
}

const _: () = assert!(BAN < -1e8, "a banned id's probability must be exactly 0");
