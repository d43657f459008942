//! Which keys a `config.json` may have, and typed access to them.

use super::Family;
use crate::{Error, Result};
use serde_json::{Map, Value};

/// Keys that other programs write and that change nothing here.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "max_window_layers",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "transformers.js_config",
    "use_cache",
    "use_mrope",
];

/// Keys that are read.
const READ: &[&str] = &[
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Keys of a model with eyes, beside those of its decoder.
const ROOT_VISION: &[&str] = &[
    "image_token_id",
    "text_config",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
];

/// Keys of a decoder behind a frozen encoder, beside those of the two.
const ROOT_ENCODER: &[&str] = &[
    "ignore_index",
    "image_seq_length",
    "image_token_id",
    "image_token_index",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "text_config",
    "tie_word_embeddings",
    "vision_config",
    "vision_feature_layer",
    "vision_feature_select_strategy",
];

/// The decoder's keys of a LLaVA file, checked: all of them lie in `text_config`. The embeddings are tied where either place says so.
pub(super) fn behind_encoder(family: Family, source: &Map<String, Value>) -> Result<Map<String, Value>> {
    let nested = source.get("text_config").and_then(Value::as_object);
    let nested = nested.ok_or_else(|| Error::Config("`text_config` is missing".into()))?;
    for (key, value) in source {
        match nested.get(key) {
            Some(inner) if key == "vocab_size" && inner != value => {
                return Err(Error::Config(format!("`{key}` is {value} and `text_config.{key}` is {inner}; they must agree")));
            }
            _ if key == "projector_hidden_act" && value != "gelu" => {
                return Err(Error::Config(format!("`{key}` is {value}; allowed: `gelu`")));
            }
            _ if ROOT_ENCODER.contains(&key.as_str()) || harmless(key) || key == "vocab_size" => {}
            _ => return Err(unknown(key)),
        }
    }
    for (key, value) in nested {
        check(family, key, value, &format!("text_config.{key}"))?;
    }
    let mut keys = nested.clone();
    if source.get("tie_word_embeddings") == Some(&Value::Bool(true)) {
        keys.insert("tie_word_embeddings".into(), Value::Bool(true));
    }
    Ok(keys)
}

/// The decoder's keys, checked: those at the root, and those of `text_config` where the file is nested.
pub(super) fn text(family: Family, source: &Map<String, Value>) -> Result<Map<String, Value>> {
    let vision = family == Family::Qwen25Vl;
    let mut keys = Map::new();
    for (key, value) in source {
        if vision && ROOT_VISION.contains(&key.as_str()) {
            continue;
        }
        check(family, key, value, key)?;
        keys.insert(key.clone(), value.clone());
    }
    let Some(nested) = source.get("text_config").filter(|_| vision) else { return Ok(keys) };
    let nested = nested.as_object().ok_or_else(|| Error::Config("`text_config` must be an object".into()))?;
    for (key, value) in nested {
        let name = format!("text_config.{key}");
        check(family, key, value, &name)?;
        match keys.get(key) {
            Some(outer) if READ.contains(&key.as_str()) && outer != value => {
                return Err(Error::Config(format!("`{key}` is {outer} and `{name}` is {value}; they must agree")));
            }
            _ => keys.insert(key.clone(), value.clone()),
        };
    }
    Ok(keys)
}

fn check(family: Family, key: &str, value: &Value, name: &str) -> Result<()> {
    let llama = family == Family::Llama;
    let zero = value.as_f64() == Some(0.0);
    let allowed = match key {
        "hidden_act" if value != "silu" => "`silu`",
        "use_sliding_window" if value != &Value::Bool(false) => "false",
        "attention_dropout" if !zero => "0",
        "pretraining_tp" if value.as_u64() != Some(1) => "1",
        "rope_interleaved" if value != &Value::Bool(false) => "false",
        "layer_types" if value.as_array().is_none_or(|l| l.iter().any(|t| t != "full_attention")) => "`full_attention` in every layer",
        "attention_bias" if value != &Value::Bool(true) && value != &Value::Bool(false) => "true, false",
        "hidden_act" | "use_sliding_window" | "attention_dropout" | "layer_types" => return Ok(()),
        "attention_bias" if llama || family == Family::Qwen3 => return Ok(()),
        "mlp_bias" | "pretraining_tp" | "rope_interleaved" | "is_llama_config" if llama => return Ok(()),
        _ if HARMLESS.contains(&key) || READ.contains(&key) => return Ok(()),
        _ => return Err(unknown(name)),
    };
    Err(Error::Config(format!("`{name}` is {value}; allowed: {allowed}")))
}

pub(super) fn unknown(name: &str) -> Error {
    Error::Config(format!("key `{name}` is not known; hint: it may change what the model computes"))
}

/// Whether other programs write the key and it changes nothing.
pub(super) fn harmless(key: &str) -> bool {
    HARMLESS.contains(&key)
}

/// Names another type of weights wherever the file names one.
pub(super) fn set_dtype(keys: &mut Map<String, Value>, dtype: &str) {
    for (key, value) in keys.iter_mut() {
        match value {
            Value::String(named) if key == "dtype" || key == "torch_dtype" => *named = dtype.to_string(),
            Value::Object(inner) => set_dtype(inner, dtype),
            _ => {}
        }
    }
}

/// Typed reading of an object's keys.
pub(super) struct Numbers<'a> {
    keys: &'a Map<String, Value>,
    /// What stands before a key's name in messages.
    prefix: &'static str,
}

impl<'a> Numbers<'a> {
    pub(super) fn of(keys: &'a Map<String, Value>) -> Numbers<'a> {
        Numbers { keys, prefix: "" }
    }

    pub(super) fn within(keys: &'a Map<String, Value>, prefix: &'static str) -> Numbers<'a> {
        Numbers { keys, prefix }
    }

    fn found(&self, key: &str) -> Option<&'a Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> Error {
        Error::Config(format!("`{}{key}` is {value}; expected {wanted}", self.prefix))
    }

    fn missing(&self, key: &str) -> Error {
        Error::Config(format!("`{}{key}` is missing", self.prefix))
    }

    pub(super) fn optional(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.found(key) else { return Ok(None) };
        let whole = value.as_u64().filter(|n| *n <= 1 << 32).ok_or_else(|| self.wrong(key, value, "a whole number"))?;
        Ok(Some(whole as usize))
    }

    pub(super) fn size(&self, key: &str) -> Result<usize> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn optional_real(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.found(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, value, "a number"))
    }

    pub(super) fn real(&self, key: &str) -> Result<f64> {
        self.optional_real(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn flag(&self, key: &str, absent: Option<bool>) -> Result<bool> {
        match self.found(key) {
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false")),
            None => absent.ok_or_else(|| self.missing(key)),
        }
    }

    pub(super) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.found(key) else { return Ok(None) };
        let wrong = || self.wrong(key, value, "a list of whole numbers");
        let list = value.as_array().ok_or_else(wrong)?;
        list.iter().map(|n| n.as_u64().map(|n| n as usize).ok_or_else(wrong)).collect::<Result<_>>().map(Some)
    }
}
