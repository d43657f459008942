//! Pictures in requests: what the engine says of its tokens is what the trainer says, and depends on what is shown.

use super::*;
use crate::{Levels, Picture, Shown};
use std::sync::Arc;

const IMAGE: u32 = 90;

/// A small Qwen2.5-VL with two blocks, one of them over windows.
fn seeing() -> Trainer {
    crate::set_threads(1);
    let config = serde_json::json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "image_token_id": IMAGE,
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "tie_word_embeddings": true,
        "rope_theta": 10000.0, "rope_scaling": { "type": "mrope", "mrope_section": [2, 1, 1] },
        "vision_config": { "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4,
            "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [1], "in_channels": 3,
            "out_hidden_size": 32 },
    });
    let config = ModelConfig::from_json(config.to_string().as_bytes()).unwrap();
    let mut trainer = Trainer::new(config, 5, options()).unwrap();
    let lessons: Vec<Sequence> = (0..3).map(|seed| talk(seed, &[[2, 6], [4, 2]])).collect();
    for _ in 0..10 {
        trainer.imitate(&lessons, 1e-2).unwrap();
    }
    trainer
}

fn picture(seed: u32, offset: usize, [height, width]: [u32; 2]) -> Picture {
    let levels: [[f32; 256]; 3] = std::array::from_fn(|_| std::array::from_fn(|level| level as f32 / 128.0 - 1.0));
    let count = (height * width) as usize * 3 * 16;
    let patches: Arc<[u8]> = words(seed, count).into_iter().map(|n| (3 * n) as u8).collect();
    Picture { offset: offset as u32, grid: [1, height, width], patches, levels: Levels(Arc::new(levels)) }
}

/// Words, a picture, words, and so on; the last words are trained.
fn talk(seed: u32, grids: &[[u32; 2]]) -> Sequence {
    let mut sequence = Sequence { tokens: words(seed, 7), ..Sequence::default() };
    for (number, grid) in grids.iter().enumerate() {
        sequence.pictures.push(picture(100 * seed + number as u32, sequence.tokens.len(), *grid));
        sequence.tokens.extend(vec![IMAGE; (grid[0] * grid[1] / 4) as usize]);
        sequence.tokens.extend(words(seed + 10 + number as u32, 9));
    }
    let end = sequence.tokens.len() as u32;
    sequence.trained = vec![Span { start: end - 8, end, advantage: 1.0 }];
    sequence
}

fn shown(pictures: &[Picture]) -> Vec<Shown> {
    pictures.iter().map(|picture| Shown { digest: picture.digest(), picture: picture.clone() }).collect()
}

fn ask(ticket: u64, sequence: &Sequence) -> Request {
    Request { pictures: shown(&sequence.pictures), ..request(ticket, sequence.tokens.clone(), 12) }
}

/// Adds a reply to a sequence, as the only one that is trained.
fn with(sequence: &Sequence, reply: &crate::Generated) -> Sequence {
    let start = sequence.tokens.len() as u32;
    let tokens = [&sequence.tokens[..], &reply.tokens].concat();
    let trained = vec![Span { start, end: tokens.len() as u32, advantage: 1.0 }];
    Sequence { tokens, trained, old_logprobs: reply.logprobs.clone(), ..sequence.clone() }
}

#[test]
fn the_engine_and_the_trainer_agree_on_what_is_seen() {
    let trainer = seeing();
    for libtorch in [false, true] {
        let mut engine = engine(&trainer, EngineOptions { kv_cache_mib: 8, libtorch, ..EngineOptions::default() });
        let mut talks: Vec<Sequence> = (0..3).map(|seed| talk(seed, &[[2, 6], [8, 8]])).collect();
        for turn in 0..3 {
            for (number, talk) in talks.iter().enumerate() {
                let request = Request { rollout: number as u64, ..ask(10 * turn + number as u64, talk) };
                engine.submit(request).unwrap();
            }
            let replies = drain(&mut engine);
            for (number, sequence) in talks.iter_mut().enumerate() {
                let whole = with(sequence, &replies[&(10 * turn + number as u64)]);
                let fresh = trainer.logprobs(&whole).unwrap();
                assert!(close(&fresh, &whole.old_logprobs, 1e-4), "libtorch: {libtorch}, turn {turn}: {fresh:?} {:?}", whole.old_logprobs);
                *sequence = whole;
                // The next turn shows one more.
                let grid = [4, 2 + 2 * turn as u32];
                sequence.pictures.push(picture(900 + turn as u32, sequence.tokens.len(), grid));
                sequence.tokens.extend(vec![IMAGE; (grid[0] * grid[1] / 4) as usize]);
                sequence.tokens.extend(words(50 + turn as u32, 5));
            }
        }
        assert!(engine.cache_stats().hits > 0, "earlier turns are found again");
        // Two pictures of each conversation, and the two that all were shown later.
        assert_eq!(engine.pictures_seen(), 3 * 2 + 2, "each picture is seen once");
    }
}

#[test]
fn a_blacked_out_camera_changes_the_log_probabilities() {
    let trainer = seeing();
    let sequence = talk(1, &[[2, 6], [4, 2]]);
    let seen = trainer.logprobs(&sequence).unwrap();
    for camera in 0..2 {
        let mut dark = sequence.clone();
        dark.pictures[camera].patches = vec![0; dark.pictures[camera].patches.len()].into();
        let unseen = trainer.logprobs(&dark).unwrap();
        assert!(!close(&seen, &unseen, 1e-3), "camera {camera}: {seen:?} {unseen:?}");
        // What one request left in the cache is no other picture's.
        let mut engine = engine(&trainer, EngineOptions { kv_cache_mib: 8, ..EngineOptions::default() });
        engine.submit(ask(1, &sequence)).unwrap();
        let light = drain(&mut engine).remove(&1).unwrap();
        engine.submit(Request { rollout: 1, ..ask(1, &dark) }).unwrap();
        let dark_reply = drain(&mut engine).remove(&1).unwrap();
        let fresh = trainer.logprobs(&with(&dark, &dark_reply)).unwrap();
        assert!(close(&fresh, &dark_reply.logprobs, 1e-4), "{fresh:?} {:?}", dark_reply.logprobs);
        assert!(light.logprobs != dark_reply.logprobs);
    }
}

#[test]
fn a_result_is_the_same_whoever_is_beside_it_and_however_little_is_kept() {
    let trainer = seeing();
    let replies = |options: EngineOptions, beside: u64| {
        let mut engine = engine(&trainer, EngineOptions { kv_cache_mib: 8, deterministic: true, ..options });
        (0..=beside).for_each(|seed| engine.submit(ask(seed, &talk(seed as u32, &[[2, 6], [8, 8], [2, 2]]))).unwrap());
        let reply = drain(&mut engine).remove(&0).unwrap();
        (reply.tokens, reply.logprobs)
    };
    let alone = replies(EngineOptions::default(), 0);
    assert_eq!(alone, replies(EngineOptions::default(), 5));
    assert_eq!(alone, replies(EngineOptions { pictures_mib: 0, max_num_batched_tokens: 16, ..EngineOptions::default() }, 5));
}

#[test]
fn pictures_that_do_not_fit_their_tokens_are_refused() {
    let trainer = seeing();
    let mut engine = engine(&trainer, EngineOptions { kv_cache_mib: 8, ..EngineOptions::default() });
    let mut refused = |request: Request| engine.submit(request).unwrap_err().to_string();
    let whole = talk(1, &[[2, 6]]);
    let request = || ask(1, &whole);
    assert!(refused(Request { pictures: vec![], ..request() }).contains("3 image tokens without a picture"));
    let mut late = request();
    late.pictures[0].picture.offset += 1;
    assert!(refused(late).contains("stands within a picture's tokens"));
    let mut torn = request();
    torn.pictures[0].picture.patches = vec![0; 5].into();
    assert!(refused(torn).contains("has 5 bytes; expected 576"));
    let blind = Trainer::new(config(), 5, options()).unwrap();
    let mut engine = super::engine(&blind, EngineOptions { kv_cache_mib: 8, ..EngineOptions::default() });
    assert!(engine.submit(request()).unwrap_err().to_string().contains("pictures for a model without eyes"));
}
