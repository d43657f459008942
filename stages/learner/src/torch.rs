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
            ..policy::TrainerOptions::default()
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
            pictures: vec![],
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

#[cfg(test)]
mod tests {
    use super::*;
    use learner::tokens::{Branch, Span};

    fn torch() -> (Torch, Files) {
        let text = "name = \"t\"\n[world]\nname = \"frozenlake\"\n[policy]\nhidden = 16\nlayers = 1\nheads = 2\nkv_heads = 1\nintermediate = 32\n[learner]\nthreads = 1\n[[schedule]]\nphase = \"grpo\"\nbatch = 1\n";
        let pipeline = Pipeline::parse(text).unwrap();
        let (tokenizer, tokenizer_config) = context::train_small(&["P _ G".to_string()], &["Left".into(), "Right".into()], 300).unwrap();
        let size = Tokenizer::from_files(&tokenizer, &tokenizer_config).unwrap().vocab_size();
        let config = policy::ModelConfig::tiny(&pipeline.policy, size).unwrap().to_json().into_bytes();
        (Torch::new(pipeline), Files { tokenizer, tokenizer_config, config })
    }

    fn lessons() -> Vec<Sequence> {
        let plain =
            Sequence { tokens: vec![9, 8, 7, 6, 5], trained: vec![Span { start: 2, end: 5, advantage: 1.0 }], ..Sequence::default() };
        let branch = Branch { after: 2, tokens: vec![7, 6], weight: 1.0 };
        vec![plain, Sequence { tokens: vec![9, 8, 3], branches: vec![branch], ..Sequence::default() }]
    }

    #[test]
    fn a_restored_policy_goes_on_as_if_nothing_had_been() {
        let (mut torch, files) = torch();
        let (mut first, digests) = torch.create(&files).unwrap();
        assert_eq!(digests.tokenizer, blake3::hash(&files.tokenizer).to_hex().to_string());
        let before = first.imitation_loss(&lessons()).unwrap();
        for _ in 0..5 {
            assert_eq!(first.imitate(&lessons(), 1e-2).unwrap().tokens, 5, "spans and labels are counted");
        }
        assert!(first.imitation_loss(&lessons()).unwrap() < before);
        let folder = tempfile::tempdir().unwrap();
        first.save(folder.path()).unwrap();
        assert!(folder.path().join("tokenizer.json").is_file(), "the folder is a whole policy");
        let (mut second, _) = torch.restore(&files, folder.path(), Some(folder.path())).unwrap();
        first.imitate(&lessons(), 1e-2).unwrap();
        second.imitate(&lessons(), 1e-2).unwrap();
        assert_eq!(first.weights(), second.weights(), "weights and moments came back");
    }

    #[test]
    fn reinforcement_moves_towards_what_was_good() {
        let (mut torch, files) = torch();
        let (mut trainer, _) = torch.create(&files).unwrap();
        let mut good = lessons().remove(0);
        good.old_logprobs = trainer.trainer().logprobs(&sequences(std::slice::from_ref(&good))[0]).unwrap();
        let options = Reinforce { clip: [0.2, 0.28], entropy: 0.0, kl: 0.0, learning_rate: 1e-2 };
        let stats = trainer.reinforce(std::slice::from_ref(&good), &options).unwrap();
        assert!(stats.finite && stats.tokens == 3 && stats.kl_old < 1e-6, "{stats:?}");
        let after = trainer.trainer().logprobs(&sequences(std::slice::from_ref(&good))[0]).unwrap();
        assert!(after.iter().sum::<f32>() > good.old_logprobs.iter().sum::<f32>());
    }
}
