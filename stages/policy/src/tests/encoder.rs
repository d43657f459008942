//! A frozen encoder in training and serving: it stays as it is, its projector moves, and a picture goes through it once.

use super::*;
use crate::{EncoderKind, Error, Levels, Picture, Shown};
use std::sync::Arc;
use tch::Tensor;

const IMAGE: u32 = 90;
const KINDS: [EncoderKind; 2] = [EncoderKind::Siglip, EncoderKind::Dinov2];

/// A small Qwen2 behind an encoder of 3 x 3 patches.
fn shape(kind: EncoderKind) -> ModelConfig {
    crate::set_threads(1);
    let (vision, strategy) = match kind {
        EncoderKind::Siglip => (serde_json::json!({ "model_type": "siglip_vision_model", "intermediate_size": 24 }), "full"),
        EncoderKind::Dinov2 => (serde_json::json!({ "model_type": "dinov2", "mlp_ratio": 2 }), "default"),
    };
    let mut config = serde_json::json!({
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "image_token_index": IMAGE,
        "vision_feature_layer": -1, "vision_feature_select_strategy": strategy, "projector_hidden_act": "gelu",
        "text_config": { "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6,
            "max_position_embeddings": 2048, "tie_word_embeddings": true, "rope_theta": 10000.0 },
        "vision_config": { "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 12, "patch_size": 4 },
    });
    for (key, value) in vision.as_object().unwrap() {
        config["vision_config"][key] = value.clone();
    }
    ModelConfig::from_json(config.to_string().as_bytes()).unwrap()
}

/// Words, nine tokens of a picture, words; the last words are trained.
fn talk(seed: u32) -> Sequence {
    let levels: [[f32; 256]; 3] = std::array::from_fn(|_| std::array::from_fn(|level| level as f32 / 128.0 - 1.0));
    let patches: Arc<[u8]> = words(seed, 9 * 3 * 16).into_iter().map(|n| (3 * n) as u8).collect();
    let picture = Picture { offset: 5, grid: [1, 3, 3], patches, levels: Levels(Arc::new(levels)) };
    let tokens = [words(seed, 5), vec![IMAGE; 9], words(seed + 1, 12)].concat();
    let trained = vec![Span { start: 16, end: 26, advantage: 1.0 }];
    Sequence { tokens, trained, pictures: vec![picture], ..Sequence::default() }
}

fn named(trainer: &Trainer, prefix: &str) -> BTreeMap<String, Tensor> {
    let weights = trainer.host_weights();
    let names = weights.names().filter(|name| name.starts_with(prefix));
    names.map(|name| (name.to_string(), weights.get(name).unwrap().copy())).collect()
}

#[test]
fn the_projector_moves_and_the_encoder_stays() {
    for kind in KINDS {
        let mut trainer = Trainer::new(shape(kind), 5, TrainerOptions { weight_decay: 0.1, ..options() }).unwrap();
        let before = [named(&trainer, "vision_tower."), named(&trainer, "multi_modal_projector.")];
        let lessons: Vec<Sequence> = (0..3).map(|seed| talk(10 * seed)).collect();
        let first = trainer.imitate(&lessons, 1e-2).unwrap().loss;
        for _ in 0..20 {
            trainer.imitate(&lessons, 1e-2).unwrap();
        }
        assert!(trainer.imitation_loss(&lessons).unwrap() < 0.7 * first);
        assert_eq!(trainer.model.encoded.seen(), 3, "each picture is encoded once in all steps");
        let after = [named(&trainer, "vision_tower."), named(&trainer, "multi_modal_projector.")];
        assert!(before[0] == after[0], "{kind:?}: the encoder moved");
        assert!(before[1].iter().all(|(name, value)| !value.equal(&after[1][name])), "{kind:?}: a part of the projector stayed");
        let moments = trainer.optimizer.saved(&trainer.model).first.len();
        assert_eq!(moments, trainer.model.layout.trained().len());
        assert!(trainer.model.layout.entries.iter().filter(|entry| entry.frozen).count() > 20);
    }
}

#[test]
fn training_goes_on_from_a_checkpoint_without_moments_of_the_encoder() {
    for kind in KINDS {
        let lessons: Vec<Sequence> = (0..2).map(|seed| talk(10 * seed)).collect();
        let mut trainer = Trainer::new(shape(kind), 5, options()).unwrap();
        trainer.imitate(&lessons, 1e-2).unwrap();
        let folder = tempfile::tempdir().unwrap();
        trainer.save(folder.path()).unwrap();
        let mut again = Trainer::new(shape(kind), 6, options()).unwrap();
        again.load(folder.path()).unwrap();
        trainer.imitate(&lessons, 1e-2).unwrap();
        again.imitate(&lessons, 1e-2).unwrap();
        assert!(trainer.weights() == again.weights(), "{kind:?}");
        let moments = Tensor::read_safetensors(folder.path().join("optimizer.safetensors")).unwrap();
        assert!(moments.iter().all(|(name, _)| !name.contains("vision_tower")));
    }
}

#[test]
fn versions_share_what_the_encoder_made_and_agree_with_the_trainer() {
    for kind in KINDS {
        let mut trainer = Trainer::new(shape(kind), 5, options()).unwrap();
        let sequence = talk(1);
        for libtorch in [false, true] {
            let mut engine = engine(&trainer, EngineOptions { kv_cache_mib: 8, libtorch, ..EngineOptions::default() });
            trainer.imitate(&[talk(20)], 1e-2).unwrap();
            engine.load(2, &trainer.weights()).unwrap();
            let shown: Vec<Shown> = sequence.pictures.iter().map(|p| Shown { digest: p.digest(), picture: p.clone() }).collect();
            let mut replies = vec![];
            for version in [1, 2] {
                let request = Request { pictures: shown.clone(), version, ..request(version, sequence.tokens.clone(), 12) };
                engine.submit(Request { rollout: version, ..request }).unwrap();
                replies.push(drain(&mut engine).remove(&version).unwrap());
            }
            let start = sequence.tokens.len() as u32;
            let tokens = [&sequence.tokens[..], &replies[1].tokens].concat();
            let trained = vec![Span { start, end: tokens.len() as u32, advantage: 0.0 }];
            let fresh = trainer.logprobs(&Sequence { tokens, trained, ..sequence.clone() }).unwrap();
            assert!(close(&fresh, &replies[1].logprobs, 1e-4), "{kind:?}: {fresh:?} {:?}", replies[1].logprobs);
            assert_eq!(engine.pictures_encoded(), 1, "both versions have the same encoder");
        }
    }
}

#[test]
fn a_dark_picture_changes_the_log_probabilities_and_wrong_sizes_are_refused() {
    for kind in KINDS {
        let trainer = Trainer::new(shape(kind), 5, options()).unwrap();
        let sequence = talk(1);
        let seen = trainer.logprobs(&sequence).unwrap();
        let mut dark = sequence.clone();
        dark.pictures[0].patches = vec![0; dark.pictures[0].patches.len()].into();
        assert!(!close(&seen, &trainer.logprobs(&dark).unwrap(), 1e-5), "{kind:?}");
        let mut wide = sequence.clone();
        wide.pictures[0].grid = [1, 1, 9];
        match (kind, trainer.logprobs(&wide)) {
            (EncoderKind::Siglip, Err(Error::Sequence { reason, .. })) => assert!(reason.contains("takes [1, 3, 3] alone"), "{reason}"),
            (EncoderKind::Dinov2, Ok(found)) => assert!(!close(&seen, &found, 1e-6), "positions are those of another shape"),
            (_, other) => panic!("{kind:?}: {other:?}"),
        }
        let mut short = sequence;
        short.tokens.remove(5);
        assert!(trainer.logprobs(&short).is_err());
    }
}

#[test]
fn a_processor_that_counts_other_tokens_is_refused() {
    let vision = shape(EncoderKind::Siglip).vision.unwrap();
    assert!(vision.check_processor(Some(IMAGE), 4, 1).is_ok());
    assert!(vision.check_processor(Some(IMAGE), 14, 1).unwrap_err().to_string().contains("patches of 4 pixels"));
    let cut = |kind: EncoderKind| {
        let mut vision = shape(kind).vision.unwrap();
        vision.encoder.as_mut().unwrap().drops_first ^= true;
        vision.check_processor(Some(IMAGE), 4, 1).unwrap_err().to_string()
    };
    assert!(cut(EncoderKind::Siglip).contains("must be `full`"));
    assert!(cut(EncoderKind::Dinov2).contains("must be `default`"));
}
