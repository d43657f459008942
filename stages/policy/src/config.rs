//! `config.json` of a Qwen2 model, as Hugging Face writes it.
//!
//! In: JSON. Out: the numbers that give the model its shape. Keys that change what is computed and that this code does not
//! compute are refused by name; keys that change nothing here are passed over.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The shape of a model. Written and read as Hugging Face's `config.json` with `model_type` `qwen2`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    pub architectures: Vec<String>,
    pub model_type: String,
    pub hidden_act: String,
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of keys and values; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// Longest sequence, tokens.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding table.
    pub tie_word_embeddings: bool,
    pub torch_dtype: String,
}

/// Keys that other programs write and that change nothing here.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "max_window_layers",
    "pad_token_id",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_mrope",
];

#[derive(Deserialize)]
struct Shape {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    vocab_size: usize,
    rms_norm_eps: f64,
    max_position_embeddings: usize,
    #[serde(default)]
    tie_word_embeddings: bool,
}

const SHAPE: &[&str] = &[
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "rms_norm_eps",
    "max_position_embeddings",
    "tie_word_embeddings",
];

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] for another architecture, a key that is not known, a missing key, or a shape that cannot be.
    pub fn from_json(json: &[u8]) -> Result<ModelConfig> {
        let value: Value = serde_json::from_slice(json).map_err(|e| Error::Config(e.to_string()))?;
        let Value::Object(keys) = value else { return Err(Error::Config("expected one JSON object".into())) };
        let model_type = keys.get("model_type").and_then(Value::as_str).unwrap_or_default();
        if model_type != "qwen2" {
            return Err(Error::Config(format!("`model_type` is `{model_type}`; allowed: `qwen2`")));
        }
        let rope_theta = rope_theta(&keys)?;
        for (key, value) in &keys {
            check_key(key, value)?;
        }
        let head_dim = keys.get("head_dim").and_then(Value::as_u64);
        let shape: Shape = serde_json::from_value(Value::Object(keys)).map_err(|e| Error::Config(e.to_string()))?;
        let config = ModelConfig {
            num_key_value_heads: shape.num_key_value_heads.unwrap_or(shape.num_attention_heads),
            hidden_size: shape.hidden_size,
            intermediate_size: shape.intermediate_size,
            num_hidden_layers: shape.num_hidden_layers,
            num_attention_heads: shape.num_attention_heads,
            vocab_size: shape.vocab_size,
            rms_norm_eps: shape.rms_norm_eps,
            rope_theta,
            max_position_embeddings: shape.max_position_embeddings,
            tie_word_embeddings: shape.tie_word_embeddings,
            ..Self::fixed()
        };
        config.check()?;
        if head_dim.is_some_and(|d| d != config.head_dim() as u64) {
            return Err(Error::Config(format!("`head_dim` must be hidden_size / num_attention_heads = {}", config.head_dim())));
        }
        Ok(config)
    }

    /// The configuration of a new policy.
    ///
    /// # Errors
    /// [`Error::Config`] where the sizes do not divide.
    pub fn tiny(policy: &schemas::pipeline::PolicyConfig, vocab_size: usize) -> Result<ModelConfig> {
        let config = ModelConfig {
            hidden_size: policy.hidden as usize,
            intermediate_size: policy.intermediate as usize,
            num_hidden_layers: policy.layers as usize,
            num_attention_heads: policy.heads as usize,
            num_key_value_heads: policy.kv_heads as usize,
            vocab_size,
            ..Self::fixed()
        };
        config.check()?;
        Ok(config)
    }

    /// The text of `config.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings always serialise")
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn fixed() -> ModelConfig {
        ModelConfig {
            architectures: vec!["Qwen2ForCausalLM".into()],
            model_type: "qwen2".into(),
            hidden_act: "silu".into(),
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            vocab_size: 0,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            max_position_embeddings: 32_768,
            tie_word_embeddings: true,
            torch_dtype: "float32".into(),
        }
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0 || *size > 1 << 24) {
            return Err(Error::Config(format!("`{name}` must lie between 1 and {}", 1 << 24)));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) || !self.head_dim().is_multiple_of(2) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(Error::Config(format!("{hidden} hidden units in {heads} heads: each head must have the same, even width")));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
            return Err(Error::Config(format!("`num_key_value_heads` {kv} does not divide `num_attention_heads` {heads}")));
        }
        Ok(())
    }
}

/// The base of the rotary angles, at the root (older files) or in `rope_parameters` (newer ones).
fn rope_theta(keys: &Map<String, Value>) -> Result<f64> {
    if let Some(Value::Object(rope)) = keys.get("rope_parameters") {
        let kind = rope.get("rope_type").and_then(Value::as_str).unwrap_or("default");
        if kind != "default" {
            return Err(Error::Config(format!("`rope_parameters.rope_type` is `{kind}`; allowed: `default`")));
        }
        if let Some(theta) = rope.get("rope_theta").and_then(Value::as_f64) {
            return Ok(theta);
        }
    }
    let missing = || Error::Config("`rope_theta` is missing".into());
    keys.get("rope_theta").and_then(Value::as_f64).ok_or_else(missing)
}

fn check_key(key: &str, value: &Value) -> Result<()> {
    let allowed = match key {
        "hidden_act" if value != "silu" => "`silu`",
        "use_sliding_window" if value != &Value::Bool(false) => "false",
        "rope_scaling" if !value.is_null() => "null",
        "architectures" if value != &serde_json::json!(["Qwen2ForCausalLM"]) => "[\"Qwen2ForCausalLM\"]",
        "layer_types" if value.as_array().is_none_or(|l| l.iter().any(|t| t != "full_attention")) => "`full_attention` in every layer",
        "hidden_act" | "use_sliding_window" | "rope_scaling" | "architectures" | "layer_types" => return Ok(()),
        "model_type" | "rope_theta" | "rope_parameters" | "head_dim" => return Ok(()),
        _ if HARMLESS.contains(&key) || SHAPE.contains(&key) => return Ok(()),
        _ => return Err(Error::Config(format!("key `{key}` is not known; hint: it may change what the model computes"))),
    };
    Err(Error::Config(format!("`{key}` is {value}; allowed: {allowed}")))
}
