//! The policy crate's trainer behind the library's seam.

use crate::gallery::Gallery;
use context::{ImageSettings, Tokenizer};
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
    fn prepare(&self, files: &Files) -> Result<(policy::ModelConfig, policy::TrainerOptions, Gallery, Digests), String> {
        policy::set_threads(self.pipeline.learner.threads as usize);
        let tokenizer = Tokenizer::from_files(&files.tokenizer, &files.tokenizer_config).map_err(|e| e.to_string())?;
        let config = policy::ModelConfig::from_json(&files.config).map_err(|e| e.to_string())?;
        if config.vocab_size < tokenizer.vocab_size() {
            let (rows, ids) = (config.vocab_size, tokenizer.vocab_size());
            return Err(format!("config.json has vocab_size {rows}, tokenizer.json holds {ids} ids; hint: they are of different policies"));
        }
        let images = match (&config.vision, files.image_processor.is_empty()) {
            (Some(_), true) => return Err("a policy with eyes has no preprocessor_config.json in the run's artifacts".into()),
            (Some(_), false) => ImageSettings::from_json(&files.image_processor).map_err(|e| e.to_string())?,
            (None, _) => ImageSettings::default(),
        };
        if let Some(vision) = &config.vision {
            let image = tokenizer.special_id(context::tokenizer::IMAGE_PAD);
            vision.check_processor(image, images.patch, images.merge).map_err(|e| e.to_string())?;
        }
        let settings = &self.pipeline.learner;
        let (device, precision) = policy::place(&self.pipeline, &config).map_err(|e| e.to_string())?;
        let options = policy::TrainerOptions {
            device,
            precision,
            recompute: settings.recompute,
            deterministic: self.pipeline.deterministic,
            microbatch_tokens: settings.microbatch_tokens as usize,
            weight_decay: f64::from(settings.weight_decay),
            clip_norm: f64::from(settings.clip_norm),
            banned: tokenizer.banned_ids(config.vocab_size),
            temperature: f64::from(self.pipeline.sampling.temperature),
        };
        let image_processor = config.vision.as_ref().map_or_else(String::new, |_| images.digest());
        let digests = Digests { tokenizer: tokenizer.digest(), template: tokenizer.template_digest(), image_processor };
        Ok((config, options, Gallery::new(images), digests))
    }

    /// Trains an adapter, where the pipeline asks for one.
    fn adapt(&self, trainer: &mut policy::Trainer) -> Result<(), String> {
        let Some(lora) = &self.pipeline.policy.lora else { return Ok(()) };
        trainer.adapt(&policy::LoraOptions::from(lora), self.pipeline.seed).map_err(|e| format!("policy.lora: {e}"))
    }

    fn trainer(&self, trainer: policy::Trainer, gallery: Gallery, files: &Files) -> Trainer {
        let (threads, adapters) = (self.pipeline.learner.threads as usize, self.pipeline.publishes_adapters());
        Trainer { trainer, threads, adapters, gallery, files: files.clone() }
    }
}

impl Maker for Torch {
    type O = Trainer;

    fn create(&mut self, files: &Files) -> Result<(Trainer, Digests), String> {
        let (config, options, gallery, digests) = self.prepare(files)?;
        let folder = &self.pipeline.policy.folder;
        let trainer = if folder.is_empty() {
            policy::Trainer::new(config, self.pipeline.seed, options)
        } else {
            policy::Trainer::from_folder(Path::new(folder), options)
        };
        let mut trainer = trainer.map_err(|e| e.to_string())?;
        self.adapt(&mut trainer)?;
        Ok((self.trainer(trainer, gallery, files), digests))
    }

    fn restore(&mut self, files: &Files, folder: &Path, reference: Option<&Path>) -> Result<(Trainer, Digests), String> {
        let (config, options, gallery, digests) = self.prepare(files)?;
        let folder_of_base = &self.pipeline.policy.folder;
        let trainer = if self.pipeline.policy.lora.is_some() && !folder_of_base.is_empty() {
            // A checkpoint of an adapter holds the adapter; the base lies where it lay.
            policy::Trainer::from_folder(Path::new(folder_of_base), options)
        } else {
            policy::Trainer::new(config, self.pipeline.seed, options)
        };
        let mut trainer = trainer.map_err(|e| e.to_string())?;
        self.adapt(&mut trainer)?;
        if let Some(reference) = reference {
            trainer.load(reference).and_then(|()| trainer.snapshot_reference()).map_err(|e| e.to_string())?;
        }
        trainer.load(folder).map_err(|e| format!("checkpoint {}: {e}", folder.display()))?;
        Ok((self.trainer(trainer, gallery, files), digests))
    }
}

pub(crate) struct Trainer {
    trainer: policy::Trainer,
    threads: usize,
    /// Adapters are published, where one is trained.
    adapters: bool,
    gallery: Gallery,
    files: Files,
}

impl Trainer {
    /// The work of each batch runs on a thread of its own, which has an OpenMP pool of its own.
    fn trainer(&mut self) -> &mut policy::Trainer {
        policy::set_threads(self.threads);
        &mut self.trainer
    }

    /// Sequences as the trainer takes them, their pictures cut into patches.
    fn sequences(&mut self, all: &[Sequence]) -> Result<Vec<policy::Sequence>, String> {
        let pictures = all.iter().map(|s| s.pictures.iter().map(|shown| self.gallery.cut(shown)).collect());
        let pictures: Vec<Vec<policy::Picture>> = pictures.collect::<Result<_, String>>()?;
        Ok(all.iter().zip(pictures).map(|(sequence, pictures)| policy::Sequence { pictures, ..words(sequence) }).collect())
    }
}

/// A sequence without its pictures.
fn words(s: &Sequence) -> policy::Sequence {
    let span = |s: &learner::tokens::Span| policy::Span { start: s.start, end: s.end, advantage: s.advantage };
    let branch = |b: &learner::tokens::Branch| policy::Branch { after: b.after, tokens: b.tokens.clone(), weight: b.weight };
    policy::Sequence {
        tokens: s.tokens.clone(),
        trained: s.trained.iter().map(span).collect(),
        old_logprobs: s.old_logprobs.clone(),
        branches: s.branches.iter().map(branch).collect(),
        pictures: vec![],
    }
}

fn stats(stats: policy::Stats) -> Stats {
    let policy::Stats { loss, tokens, entropy, kl_old, clip_fraction, grad_norm, finite } = stats;
    Stats { loss, tokens, entropy, kl_old, clip_fraction, grad_norm, finite }
}

impl Optimiser for Trainer {
    fn imitate(&mut self, all: &[Sequence], learning_rate: f64) -> Result<Stats, String> {
        let sequences = self.sequences(all)?;
        self.trainer().imitate(&sequences, learning_rate).map(stats).map_err(|e| e.to_string())
    }

    fn imitation_loss(&mut self, all: &[Sequence]) -> Result<f64, String> {
        let sequences = self.sequences(all)?;
        self.trainer().imitation_loss(&sequences).map_err(|e| e.to_string())
    }

    fn reinforce(&mut self, all: &[Sequence], options: &Reinforce) -> Result<Stats, String> {
        let Reinforce { clip, entropy, kl, learning_rate } = *options;
        let options = policy::Reinforce { clip, entropy, kl, learning_rate };
        let sequences = self.sequences(all)?;
        self.trainer().reinforce(&sequences, &options).map(stats).map_err(|e| e.to_string())
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
        std::fs::write(folder.join("tokenizer_config.json"), &self.files.tokenizer_config)?;
        if self.files.image_processor.is_empty() {
            return Ok(());
        }
        std::fs::write(folder.join("preprocessor_config.json"), &self.files.image_processor)
    }

    fn weights(&mut self) -> Vec<u8> {
        let adapter = if self.adapters { self.trainer().adapter() } else { None };
        adapter.unwrap_or_else(|| self.trainer().weights())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use learner::tokens::{Branch, Span};
    use std::sync::Arc;

    fn torch() -> (Torch, Files) {
        let text = "name = \"t\"\n[world]\nname = \"frozenlake\"\n[policy]\nhidden = 16\nlayers = 1\nheads = 2\nkv_heads = 1\nintermediate = 32\n[learner]\nthreads = 1\n[[schedule]]\nphase = \"grpo\"\nbatch = 1\n";
        let pipeline = Pipeline::parse(text).unwrap();
        let (tokenizer, tokenizer_config) = context::train_small(&["P _ G".to_string()], &["Left".into(), "Right".into()], 300).unwrap();
        let size = Tokenizer::from_files(&tokenizer, &tokenizer_config).unwrap().vocab_size();
        let config = policy::ModelConfig::tiny(&pipeline.policy, size).unwrap().to_json().into_bytes();
        (Torch::new(pipeline), Files { tokenizer, tokenizer_config, config, image_processor: vec![] })
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
    fn an_adapter_is_trained_saved_and_goes_on() {
        let (mut torch, files) = torch();
        torch.pipeline.generator.engine = schemas::pipeline::Engine::Vllm;
        let whole = torch.create(&files).unwrap().0.weights();
        torch.pipeline.policy.lora = Some(schemas::pipeline::LoraSettings { rank: 2, ..Default::default() });
        let (mut first, _) = torch.create(&files).unwrap();
        assert!(first.weights() == whole, "an adapter that was not trained changes nothing");
        for _ in 0..5 {
            first.imitate(&lessons(), 1e-2).unwrap();
        }
        assert!(first.weights() != whole, "what is published has the adapter in it");
        let folder = tempfile::tempdir().unwrap();
        first.save(folder.path()).unwrap();
        assert!(folder.path().join("adapter/adapter_config.json").is_file());
        let (mut second, _) = torch.restore(&files, folder.path(), None).unwrap();
        first.imitate(&lessons(), 1e-2).unwrap();
        second.imitate(&lessons(), 1e-2).unwrap();
        assert!(first.weights() == second.weights(), "adapter and moments came back");
        // Our own engine is sent the adapter, and makes the same policy of it.
        torch.pipeline.generator.engine = schemas::pipeline::Engine::Builtin;
        let (mut small, _) = torch.restore(&files, folder.path(), None).unwrap();
        let adapter = small.weights();
        assert!(adapter.len() < whole.len() && small.trainer().adapter().unwrap() == adapter);
        torch.pipeline.policy.lora.as_mut().unwrap().modules = vec!["nothing".into()];
        assert!(torch.create(&files).err().unwrap().contains("policy.lora"));
    }

    #[test]
    fn a_device_that_is_not_there_is_one_line() {
        let (mut torch, files) = torch();
        torch.pipeline.policy.device = schemas::pipeline::Device::Cpu;
        torch.pipeline.policy.dtype = schemas::pipeline::Dtype::Bfloat16;
        let error = torch.create(&files).err().unwrap();
        assert!(error.contains("policy.dtype") && error.contains("allowed there") && error.lines().count() == 1, "{error}");
        if !policy::register_cuda() {
            torch.pipeline.policy.device = schemas::pipeline::Device::Cuda;
            assert!(torch.create(&files).err().unwrap().contains("policy.device = \"cuda\": no GPU is found"));
        }
    }

    fn png(level: u8) -> (String, Arc<[u8]>) {
        let mut bytes = vec![];
        let mut encoder = png::Encoder::new(&mut bytes, 84, 56);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().unwrap();
        let pixels: Vec<u8> = (0..3 * 84 * 56u32).map(|i| if level == 0 { 0 } else { (i % 251) as u8 }).collect();
        writer.write_image_data(&pixels).unwrap();
        writer.finish().unwrap();
        (schemas::digest_of(&bytes), bytes.into())
    }

    #[test]
    fn a_tokenizer_whose_ids_exceed_the_embedding_is_refused() {
        let (mut torch, mut files) = torch();
        let ids = Tokenizer::from_files(&files.tokenizer, &files.tokenizer_config).unwrap().vocab_size();
        let small = policy::ModelConfig::tiny(&torch.pipeline.policy, ids - 1).unwrap();
        files.config = small.to_json().into_bytes();
        let error = torch.create(&files).err().unwrap();
        assert!(error.contains(&format!("vocab_size {}, tokenizer.json holds {ids} ids", ids - 1)), "{error}");
    }

    #[test]
    fn a_policy_with_eyes_learns_by_what_it_sees() {
        let (mut torch, mut files) = torch();
        let tokenizer = Tokenizer::from_files(&files.tokenizer, &files.tokenizer_config).unwrap();
        let id = tokenizer.special_id(context::tokenizer::IMAGE_PAD).unwrap();
        files.config = eyes(tokenizer.vocab_size(), id);
        assert!(torch.create(&files).err().unwrap().contains("no preprocessor_config.json"));
        files.image_processor = br#"{"patch_size": 7, "merge_size": 2}"#.to_vec();
        assert!(torch.create(&files).err().unwrap().contains("patches of 14 pixels"));
        files.image_processor = br#"{"patch_size": 14, "merge_size": 2}"#.to_vec();
        let (mut trainer, digests) = torch.create(&files).unwrap();
        assert!(!digests.image_processor.is_empty());
        let mut lesson = lessons().remove(0);
        lesson.tokens = [vec![9, 8], vec![id; 6], vec![7, 6, 5]].concat();
        lesson.trained[0] = Span { start: 8, end: 11, advantage: 1.0 };
        let dark = png(0);
        let shown = |(digest, png): (String, Arc<[u8]>)| vec![learner::tokens::Shown { offset: 2, len: 6, digest, png }];
        let light = Sequence { pictures: shown(png(1)), ..lesson.clone() };
        let dark = Sequence { pictures: shown(dark), ..lesson };
        for _ in 0..5 {
            assert_eq!(trainer.imitate(std::slice::from_ref(&light), 1e-2).unwrap().tokens, 3);
        }
        let mut logprobs = |sequence: &Sequence| {
            let sequences = trainer.sequences(std::slice::from_ref(sequence)).unwrap();
            trainer.trainer().logprobs(&sequences[0]).unwrap()
        };
        let off: f32 = logprobs(&light).iter().zip(logprobs(&dark)).map(|(a, b)| (a - b).abs()).sum();
        assert!(off > 1e-3, "a blacked-out camera changes the log-probabilities: {off}");
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path()).unwrap();
        assert!(folder.path().join("preprocessor_config.json").is_file());
        let mut torn = light.clone();
        torn.pictures[0].len = 5;
        assert!(trainer.imitate(&[torn], 1e-2).unwrap_err().contains("6 tokens"));
    }

    fn eyes(vocabulary: usize, image: u32) -> Vec<u8> {
        let config = serde_json::json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "image_token_id": image,
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "vocab_size": vocabulary, "rms_norm_eps": 1e-6, "max_position_embeddings": 256, "tie_word_embeddings": true,
            "rope_theta": 10000.0, "rope_scaling": { "type": "mrope", "mrope_section": [2, 1, 1] },
            "vision_config": { "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 14,
                "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 56, "fullatt_block_indexes": [0], "in_channels": 3,
                "out_hidden_size": 16 },
        });
        config.to_string().into_bytes()
    }

    #[test]
    fn reinforcement_moves_towards_what_was_good() {
        let (mut torch, files) = torch();
        let (mut trainer, _) = torch.create(&files).unwrap();
        let mut good = lessons().remove(0);
        good.old_logprobs = trainer.trainer().logprobs(&words(&good)).unwrap();
        let options = Reinforce { clip: [0.2, 0.28], entropy: 0.0, kl: 0.0, learning_rate: 1e-2 };
        let stats = trainer.reinforce(std::slice::from_ref(&good), &options).unwrap();
        assert!(stats.finite && stats.tokens == 3 && stats.kl_old < 1e-6, "{stats:?}");
        let after = trainer.trainer().logprobs(&words(&good)).unwrap();
        assert!(after.iter().sum::<f32>() > good.old_logprobs.iter().sum::<f32>());
    }
}
