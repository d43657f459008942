//! What stages need of a policy before its first weights: model shape, tokenizer, chat template.
//!
//! A policy that starts from nothing gets a small byte-level BPE tokenizer, trained here on the world's own words, in which
//! each action is one token.

use anyhow::{Context, Result};
use schemas::pipeline::{Pipeline, PolicyConfig};
use std::path::Path;
use worlds::Kind;

/// Lines of observation text that a small tokenizer is trained on.
const CORPUS_LINES: usize = 4000;

/// Files by object name.
pub(crate) type Files = Vec<(&'static str, Vec<u8>)>;

/// `config.json`, `tokenizer.json` and `tokenizer_config.json` of the pipeline's policy.
///
/// # Errors
/// A folder without one of them.
pub(crate) fn prepare(pipeline: &Pipeline, kind: &dyn Kind) -> Result<Files> {
    let policy = &pipeline.policy;
    if !policy.folder.is_empty() {
        return read_folder(Path::new(&policy.folder), &["config.json", "tokenizer.json", "tokenizer_config.json"]);
    }
    if !policy.tokenizer.is_empty() {
        return read_folder(Path::new(&policy.tokenizer), &["tokenizer.json", "tokenizer_config.json"]);
    }
    let actions: Vec<String> = kind.actions().iter().map(|a| a.name.to_string()).collect();
    let (tokenizer, tokenizer_config) = context::train_small(&corpus(pipeline, kind), &actions, policy.vocabulary as usize)
        .map_err(|e| anyhow::anyhow!("the tokenizer could not be trained: {e}"))?;
    let loaded = context::Tokenizer::from_files(&tokenizer, &tokenizer_config)?;
    let config = model_config(policy, loaded.vocab_size(), loaded.end_of_turn(), pipeline.prompt.segment_tokens);
    Ok(vec![
        ("config.json", serde_json::to_vec_pretty(&config)?),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
    ])
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
fn model_config(policy: &PolicyConfig, vocabulary: usize, end_of_turn: u32, context_tokens: u32) -> serde_json::Value {
    serde_json::json!({
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
