//! Folders that are refused, each with one line that names what is wrong and what was expected.

use super::*;
use crate::{Levels, Picture};
use std::path::Path;
use std::sync::Arc;

/// A copy of a committed case that a test may spoil.
fn copy(case: &str) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/fixtures").join(case);
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        std::fs::copy(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
    }
    folder
}

fn refusal(folder: &Path) -> String {
    let error = Trainer::from_folder(folder, TrainerOptions::default()).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// A committed case whose weights lie in several files.
fn sharded() -> tempfile::TempDir {
    (0..10).map(|n| copy(&format!("qwen2-{n}"))).find(|folder| folder.path().join("model.safetensors.index.json").exists()).unwrap()
}

#[test]
fn folders_with_holes_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(empty.path()).contains("config.json"));
    let folder = sharded();
    let shard = folder.path().join("model-00001-of-00002.safetensors");
    let shard = if shard.exists() { shard } else { shards(folder.path()).remove(0) };
    let whole = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &whole[..whole.len() - 10]).unwrap();
    assert!(refusal(folder.path()).contains("cut short"));
    std::fs::write(&shard, &whole[..4]).unwrap();
    assert!(refusal(folder.path()).contains("shorter than its header"));
    std::fs::remove_file(&shard).unwrap();
    let missing = refusal(folder.path());
    assert!(missing.contains(&*shard.file_name().unwrap().to_string_lossy()), "{missing}");
}

fn shards(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut shards: Vec<_> = files.filter(|path| path.to_string_lossy().contains("-of-")).collect();
    shards.sort();
    shards
}

#[test]
fn a_tensor_of_another_type_is_refused_by_name() {
    let folder = copy("qwen2_5_vl-0");
    let single = folder.path().join("model.safetensors");
    let path = if single.exists() { single } else { shards(folder.path()).remove(0) };
    let mut tensors: Vec<(String, tch::Tensor)> = tch::Tensor::read_safetensors(&path).unwrap();
    let (name, tensor) = &mut tensors[0];
    (*tensor, *name) = (tensor.to_kind(tch::Kind::Int64), name.clone());
    let name = name.clone();
    tch::Tensor::write_safetensors(&tensors, &path).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains(&name) && error.contains("allowed: F32, BF16, F16"), "{error}");
}

#[test]
fn ten_pictures_cut_at_a_limit_of_tokens_are_refused() {
    let folder = copy("qwen2_5_vl-0");
    let trainer = Trainer::from_folder(folder.path(), TrainerOptions::default()).unwrap();
    let vision = trainer.config().vision.clone().unwrap();
    let bytes = 324 * 4 * 3 * vision.patch_size * vision.patch_size;
    let picture = |number: u32| Picture {
        offset: 324 * number,
        grid: [1, 36, 36],
        patches: vec![0; bytes].into(),
        levels: Levels(Arc::new([[0.0; 256]; 3])),
    };
    let pictures: Vec<Picture> = (0..10).map(picture).collect();
    let fits = |tokens: usize, pictures: &[Picture]| crate::picture::check(pictures, &vec![vision.image_token_id; tokens], Some(&vision));
    assert_eq!(fits(3_240, &pictures), Ok(()));
    let cut = fits(2_524, &pictures).unwrap_err();
    assert!(cut.contains("2268..2592") && cut.contains("cut off"), "{cut}");
    assert!(fits(2_524, &pictures[..7]).unwrap_err().contains("256 image tokens without a picture"));
}

#[test]
fn configurations_that_are_not_computed_are_refused_by_name() {
    let spoiled = |case: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let folder = copy(case);
        let path = folder.path().join("config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
        refusal(folder.path())
    };
    let rope = spoiled("llama-0", &|c| c["rope_parameters"] = serde_json::json!({ "rope_type": "longrope", "rope_theta": 1e4 }));
    assert!(rope.contains("`longrope`") && rope.contains("allowed"), "{rope}");
    let key = spoiled("llama-0", &|c| c["rope_parameters"]["beta_fastest"] = 3.into());
    assert!(key.contains("`rope_parameters.beta_fastest`"), "{key}");
    let key = spoiled("qwen2_5_vl-0", &|c| c["text_config"]["logit_scale"] = 3.into());
    assert!(key.contains("`text_config.logit_scale`"), "{key}");
    let key = spoiled("qwen2_5_vl-0", &|c| c["vision_config"]["registers"] = 3.into());
    assert!(key.contains("`vision_config.registers`"), "{key}");
    let other = spoiled("qwen3-0", &|c| c["architectures"] = serde_json::json!(["Qwen3ForSequenceClassification"]));
    assert!(other.contains("Qwen3ForSequenceClassification"), "{other}");
    let shape = spoiled("qwen3-0", &|c| c["intermediate_size"] = 5.into());
    assert!(shape.contains("mlp.gate_proj.weight") && shape.contains("expected shape [5, "), "{shape}");
}

#[test]
fn pictures_and_image_tokens_that_do_not_match_are_refused() {
    let folder = copy("qwen2_5_vl-0");
    let trainer = Trainer::from_folder(folder.path(), TrainerOptions::default()).unwrap();
    let vision = trainer.config().vision.clone().unwrap();
    let pad = vision.image_token_id;
    let bytes = 4 * 3 * vision.patch_size * vision.patch_size;
    let picture = |offset: u32, bytes: usize| Picture {
        offset,
        grid: [1, 2, 2],
        patches: vec![0; bytes].into(),
        levels: Levels(Arc::new([[0.0; 256]; 3])),
    };
    let refusal = |tokens: Vec<u32>, pictures: Vec<Picture>| {
        let trained = vec![Span { start: 4, end: 5, advantage: 0.0 }];
        trainer.logprobs(&Sequence { tokens, trained, pictures, ..Sequence::default() }).map_err(|e| e.to_string())
    };
    assert!(refusal(vec![1, pad, 2, 3, 4], vec![picture(1, bytes)]).is_ok());
    for (tokens, pictures, why) in [
        (vec![1, pad, pad, 3, 4], vec![picture(1, bytes)], "1 image tokens without a picture"),
        (vec![1, 2, 2, 3, 4], vec![picture(1, bytes)], "stands within a picture's tokens"),
        (vec![1, pad, 2, 3, 4], vec![picture(1, bytes), picture(1, bytes)], "must lie in 2..5"),
        (vec![1, pad, 2, 3, 4], vec![picture(1, bytes - 1)], "expected"),
        (vec![1, 2, 3, 5, pad], vec![], "image token"),
    ] {
        let error = refusal(tokens, pictures).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

/// A committed case of LLaVA's whose config.json was changed.
fn spoiled_encoder(case: &str, change: &dyn Fn(&mut serde_json::Value)) -> String {
    let folder = copy(case);
    let path = folder.path().join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    refusal(folder.path())
}

#[test]
fn encoders_that_are_not_computed_are_refused_by_name() {
    type Change<'a> = &'a dyn Fn(&mut serde_json::Value);
    let cases: [(&str, Change<'_>, &str); 12] = [
        ("llava-0", &|c| c["vision_config"]["model_type"] = "clip_vision_model".into(), "allowed: `siglip_vision_model`, `dinov2`"),
        ("llava-0", &|c| c["text_config"]["model_type"] = "gemma".into(), "`text_config.model_type` is `gemma`"),
        ("llava-0", &|c| c["vision_feature_layer"] = 9.into(), "`vision_feature_layer` is 9; allowed: -"),
        ("llava-1", &|c| c["vision_feature_layer"] = serde_json::json!([-1, -9]), "`vision_feature_layer` is [-1,-9]"),
        ("llava-1", &|c| c["vision_feature_layer"] = serde_json::json!([]), "`vision_feature_layer` is []"),
        ("llava-0", &|c| c["vision_feature_select_strategy"] = "cls".into(), "allowed: `default`, `full`"),
        ("llava-0", &|c| c["projector_hidden_act"] = "relu".into(), "`projector_hidden_act` is \"relu\"; allowed: `gelu`"),
        ("llava-0", &|c| c["vision_config"]["registers"] = 4.into(), "`vision_config.registers`"),
        ("llava-0", &|c| c["video_token_index"] = 4.into(), "key `video_token_index` is not known"),
        ("llava-1", &|c| c["vision_config"]["drop_path_rate"] = 0.1.into(), "`vision_config.drop_path_rate` is 0.1; allowed: 0"),
        ("llava-1", &|c| c["vision_config"]["image_size"] = 1.into(), "`vision_config.image_size` is 1"),
        ("llava-0", &|c| c["vision_config"]["num_attention_heads"] = 5.into(), "units in 5 heads"),
    ];
    for (case, change, why) in cases {
        let error = spoiled_encoder(case, change);
        assert!(error.contains(why), "{case}: {error}");
    }
}

#[test]
fn a_projector_of_another_shape_is_refused_with_both_shapes() {
    let more = |c: &mut serde_json::Value| {
        let layers = c["vision_feature_layer"].as_array().map_or(1, Vec::len);
        c["vision_feature_layer"] = vec![-1; layers + 1].into();
    };
    for case in ["llava-0", "llava-1"] {
        let error = spoiled_encoder(case, &more);
        assert!(error.contains("tensor `multi_modal_projector.linear_1.weight`: expected shape ["), "{error}");
    }
}
