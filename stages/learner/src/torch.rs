//! The policy crate's trainer behind the library's seam.

use context::Tokenizer;
use learner::optimiser::{Digests, Files, Maker, Optimiser, Reinforce, Stats};
use learner::tokens::Sequence;
use schemas::pipeline::Pipeline;
use std::path::Path;

/// Makes trainers as the pipeline says.
pub(crate) struct Torch {
    pipeline: Pipeline,
}

impl Torch {
    pub(crate) fn new(pipeline: Pipeline) -> Torch {
        Torch { pipeline }
    }

    /// Settings of a trainer, and what the tokenizer is.
    fn prepare(&self, files: &Files) -> Result<(policy::ModelConfig, policy::TrainerOptions, Digests), String> {
        policy::set_threads(self.pipeline.learner.threads as usize);
        let tokenizer = Tokenizer::from_files(&files.tokenizer, &files.tokenizer_config).map_err(|e| e.to_string())?;
        let config = policy::ModelConfig::from_json(&files.config).map_err(|e| e.to_string())?;
        if config.vocab_size < tokenizer.vocab_size() {
            let (rows, ids) = (config.vocab_size, tokenizer.vocab_size());
            return Err(format!("config.json has vocab_size {rows}, tokenizer.json holds {ids} ids; hint: they are of different policies"));
        }
        let settings = &self.pipeline.learner;
        let device = if !self.pipeline.deterministic && policy::register_cuda() { policy::Device::Cuda(0) } else { policy::Device::Cpu };
        let options = policy::TrainerOptions {
            device,
            deterministic: self.pipeline.deterministic,
            microbatch_tokens: settings.microbatch_tokens as usize,
            weight_decay: f64::from(settings.weight_decay),
            clip_norm: f64::from(settings.clip_norm),
            banned: tokenizer.banned_ids(config.vocab_size),
            temperature: f64::from(self.pipeline.sampling.temperature),
        };
        let digests = Digests { tokenizer: tokenizer.digest(), template: tokenizer.template_digest() };
        Ok((config, options, digests))
    }

    fn trainer(&self, trainer: policy::Trainer, files: &Files) -> Trainer {
        Trainer { trainer, threads: self.pipeline.learner.threads as usize, files: files.clone() }
    }
}

impl Maker for Torch {
    type O = Trainer;

    fn create(&mut self, files: &Files) -> Result<(Trainer, Digests), String> {
        let (config, options, digests) = self.prepare(files)?;
        let folder = &self.pipeline.policy.folder;
        let trainer = if folder.is_empty() {
            policy::Trainer::new(config, self.pipeline.seed, options)
        } else {
            policy::Trainer::from_folder(Path::new(folder), options)
        };
        Ok((self.trainer(trainer.map_err(|e| e.to_string())?, files), digests))
    }

    fn restore(&mut self, files: &Files, folder: &Path, reference: Option<&Path>) -> Result<(Trainer, Digests), String> {
        let (config, options, digests) = self.prepare(files)?;
        let mut trainer = policy::Trainer::new(config, self.pipeline.seed, options).map_err(|e| e.to_string())?;
        if let Some(reference) = reference {
            trainer.load(reference).and_then(|()| trainer.snapshot_reference()).map_err(|e| e.to_string())?;
        }
        trainer.load(folder).map_err(|e| format!("checkpoint {}: {e}", folder.display()))?;
        Ok((self.trainer(trainer, files), digests))
    }
}

pub(crate) struct Trainer {
    trainer: policy::Trainer,
    threads: usize,
    files: Files,
}

impl Trainer {
    /// The work of each batch runs on a thread of its own, which has an OpenMP pool of its own.
    fn trainer(&mut self) -> &mut policy::Trainer {
        policy::set_threads(self.threads);
        &mut self.trainer
    }
}

fn sequences(all: &[Sequence]) -> Vec<policy::Sequence> {
    let span = |s: &learner::tokens::Span| policy::Span { start: s.start, end: s.end, advantage: s.advantage };
    let branch = |b: &learner::tokens::Branch| policy::Branch { after: b.after, tokens: b.tokens.clone(), weight: b.weight };
    all.iter()
        .map(|s| policy::Sequence {
            tokens: s.tokens.clone(),
            trained: s.trained.iter().map(span).collect(),
            old_logprobs: s.old_logprobs.clone(),
            branches: s.branches.iter().map(branch).collect(),
        })
        .collect()
}

fn stats(stats: policy::Stats) -> Stats {
    let policy::Stats { loss, tokens, entropy, kl_old, clip_fraction, grad_norm, finite } = stats;
    Stats { loss, tokens, entropy, kl_old, clip_fraction, grad_norm, finite }
}

impl Optimiser for Trainer {
    fn imitate(&mut self, all: &[Sequence], learning_rate: f64) -> Result<Stats, String> {
        self.trainer().imitate(&sequences(all), learning_rate).map(stats).map_err(|e| e.to_string())
    }

    fn imitation_loss(&mut self, all: &[Sequence]) -> Result<f64, String> {
        self.trainer().imitation_loss(&sequences(all)).map_err(|e| e.to_string())
    }

    fn reinforce(&mut self, all: &[Sequence], options: &Reinforce) -> Result<Stats, String> {
        let Reinforce { clip, entropy, kl, learning_rate } = *options;
        let options = policy::Reinforce { clip, entropy, kl, learning_rate };
        self.trainer().reinforce(&sequences(all), &options).map(stats).map_err(|e| e.to_string())
    }

    fn anchor(&mut self) -> Result<(), String> {
        self.trainer().snapshot_reference().map_err(|e| e.to_string())
    }

    fn save(&mut self, folder: &Path) -> std::io::Result<()> {
        self.trainer().save(folder).map_err(|error| match error {
            policy::Error::Io { source, .. } => source,
            other => std::io::Error::other(other.to_string()),
        })?;
        // With these the folder is a whole policy, that `errand eval` and others can load.
        std::fs::write(folder.join("tokenizer.json"), &self.files.tokenizer)?;
        std::fs::write(folder.join("tokenizer_config.json"), &self.files.tokenizer_config)
    }

    fn weights(&mut self) -> Vec<u8> {
        self.trainer().weights()
    }
}
