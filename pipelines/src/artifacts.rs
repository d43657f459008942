//! What stages need of a policy before its first weights: model shape, tokenizer, chat template.
//!
//! A policy that starts from nothing gets a small byte-level BPE tokenizer, trained here on the world's own words, in which
//! each action is one token.

use anyhow::{Context, Result};
use schemas::pipeline::{Pipeline, PolicyConfig, VisionSettings};
use serde_json::{Value, json};
use std::path::Path;
use worlds::Kind;

/// Lines of observation text that a small tokenizer is trained on.
const CORPUS_LINES: usize = 4000;

/// Files by object name.
pub(crate) type Files = Vec<(&'static str, Vec<u8>)>;

/// What a policy with eyes has beside the others.
const IMAGE_PROCESSOR: &str = "preprocessor_config.json";

/// `config.json`, `tokenizer.json` and `tokenizer_config.json` of the pipeline's policy, and before them, where it has eyes,
/// `preprocessor_config.json`: whoever finds the others finds it too.
///
/// # Errors
/// A folder without one of them.
pub(crate) fn prepare(pipeline: &Pipeline, kind: &dyn Kind) -> Result<Files> {
    let policy = &pipeline.policy;
    if !policy.folder.is_empty() {
        let folder = Path::new(&policy.folder);
        let mut files = read_folder(folder, &["config.json", "tokenizer.json", "tokenizer_config.json"])?;
        let config: Value = serde_json::from_slice(&files[0].1).with_context(|| format!("`{}`", folder.join("config.json").display()))?;
        if config.get("vision_config").is_some() {
            files.splice(0..0, read_folder(folder, &[IMAGE_PROCESSOR])?);
        }
        return Ok(files);
    }
    if !policy.tokenizer.is_empty() {
        return read_folder(Path::new(&policy.tokenizer), &["tokenizer.json", "tokenizer_config.json"]);
    }
    let actions: Vec<String> = kind.actions().iter().map(|a| a.name.to_string()).collect();
    let (tokenizer, tokenizer_config) = context::train_small(&corpus(pipeline, kind), &actions, policy.vocabulary as usize)
        .map_err(|e| anyhow::anyhow!("the tokenizer could not be trained: {e}"))?;
    let loaded = context::Tokenizer::from_files(&tokenizer, &tokenizer_config)?;
    let mut config = model_config(policy, loaded.vocab_size(), loaded.end_of_turn(), pipeline.prompt.segment_tokens);
    let mut files = vec![];
    if let Some(vision) = &policy.vision {
        config = seeing(config, policy, vision, &loaded)?;
        files.push((IMAGE_PROCESSOR, serde_json::to_vec_pretty(&image_processor(vision))?));
    }
    files.extend([
        ("config.json", serde_json::to_vec_pretty(&config)?),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
    ]);
    Ok(files)
}

/// The Qwen2 shape with Qwen2.5-VL's tower before it, nested as transformers 5 writes it.
fn seeing(mut text: Value, policy: &PolicyConfig, vision: &VisionSettings, tokenizer: &context::Tokenizer) -> Result<Value> {
    let id = |token: &str| tokenizer.special_id(token).with_context(|| format!("the tokenizer has no `{token}`"));
    let (end, dtype) = (text["eos_token_id"].clone(), text["torch_dtype"].clone());
    let tied = text["tie_word_embeddings"].clone();
    let fields = text.as_object_mut().context("a configuration is an object")?;
    fields.retain(|key, _| !["architectures", "torch_dtype"].contains(&key.as_str()));
    fields.insert("model_type".into(), "qwen2_5_vl_text".into());
    // A head's pairs, shared out to time, height and width as in the released models: 16, 24 and 24 of 64.
    let pairs = policy.hidden / policy.heads / 2;
    let time = (pairs / 4).max(1);
    let height = (pairs - time) / 2;
    let sections = [time, height, pairs - time - height];
    fields.insert("rope_scaling".into(), json!({ "type": "mrope", "rope_type": "default", "mrope_section": sections }));
    Ok(json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "text_config": text,
        "vision_config": {
            "depth": vision.layers,
            "hidden_size": vision.hidden,
            "intermediate_size": vision.intermediate,
            "num_heads": vision.heads,
            "patch_size": vision.patch,
            "temporal_patch_size": 2,
            "spatial_merge_size": vision.merge,
            "window_size": vision.window,
            "fullatt_block_indexes": [vision.layers - 1],
            "in_channels": 3,
            "out_hidden_size": policy.hidden,
            "hidden_act": "silu",
            "tokens_per_second": 2,
            "model_type": "qwen2_5_vl_vision",
        },
        "image_token_id": id(context::tokenizer::IMAGE_PAD)?,
        "vision_start_token_id": id(context::tokenizer::VISION_START)?,
        "vision_end_token_id": id(context::tokenizer::VISION_END)?,
        "tie_word_embeddings": tied,
        "eos_token_id": end,
        "torch_dtype": dtype,
    }))
}

fn image_processor(vision: &VisionSettings) -> Value {
    let images = context::ImageSettings::default();
    json!({
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": vision.patch,
        "merge_size": vision.merge,
        "temporal_patch_size": 2,
        "min_pixels": vision.min_pixels,
        "max_pixels": vision.max_pixels,
        "image_mean": images.mean,
        "image_std": images.std,
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "do_resize": true,
        "do_rescale": true,
        "do_normalize": true,
        "do_convert_rgb": true,
    })
}

/// All that such a policy will read: observations, and the rules where they are said.
fn corpus(pipeline: &Pipeline, kind: &dyn Kind) -> Vec<String> {
    let mut lines = kind.corpus(CORPUS_LINES);
    if pipeline.prompt.system {
        lines.push(kind.rules());
    }
    lines
}

/// A Hugging Face `config.json` of the Qwen2 shape.
fn model_config(policy: &PolicyConfig, vocabulary: usize, end_of_turn: u32, context_tokens: u32) -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": policy.hidden,
        "intermediate_size": policy.intermediate,
        "num_hidden_layers": policy.layers,
        "num_attention_heads": policy.heads,
        "num_key_value_heads": policy.kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context_tokens,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "use_sliding_window": false,
        "eos_token_id": end_of_turn,
        "torch_dtype": "float32",
    })
}

fn read_folder(folder: &Path, names: &[&'static str]) -> Result<Files> {
    let read = |name: &&'static str| {
        let path = folder.join(name);
        let bytes = std::fs::read(&path)
            .with_context(|| format!("`{}` cannot be read; hint: a policy folder is a Hugging Face folder", path.display()))?;
        Ok((*name, bytes))
    };
    names.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(policy: &str) -> Pipeline {
        let head = "name = \"a\"\n[world]\nname = \"frozenlake\"\npictures = true\n";
        Pipeline::parse(&format!("{head}[[schedule]]\nphase = \"grpo\"\nbatches = 1\nbatch = 1\n{policy}")).expect("a sound file")
    }

    fn prepared(policy: &str) -> Result<Files> {
        let pipeline = pipeline(policy);
        let kind = crate::kinds::kind(&pipeline).expect("a world that is known");
        prepare(&pipeline, kind.as_ref())
    }

    #[test]
    fn a_policy_with_eyes_has_its_processor_before_all_else() {
        let files = prepared("[policy]\nvocabulary = 640\n[policy.vision]\nhidden = 32\n").expect("it is drawn");
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [IMAGE_PROCESSOR, "config.json", "tokenizer.json", "tokenizer_config.json"]);
        let images = context::ImageSettings::from_json(&files[0].1).expect("our own settings");
        assert_eq!(images.grid(84, 140), Ok([1, 6, 10]));
        assert_eq!(images.levels(), context::ImageSettings::default().levels());
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in &files[1..] {
            std::fs::write(folder.path().join(name), bytes).expect("a file");
        }
        let from = format!("[policy]\nfolder = \"{}\"\n", folder.path().display());
        let without = prepared(&from).expect_err("no processor").to_string();
        assert!(without.contains(IMAGE_PROCESSOR) && without.contains("hint"), "{without}");
        std::fs::write(folder.path().join(IMAGE_PROCESSOR), &files[0].1).expect("a file");
        assert_eq!(prepared(&from).expect("whole"), files);
        std::fs::remove_file(folder.path().join("tokenizer.json")).expect("it was there");
        assert!(prepared(&from).expect_err("no tokenizer").to_string().contains("tokenizer.json"));
    }
}
