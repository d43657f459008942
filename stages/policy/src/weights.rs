//! Weights on the host: Hugging Face names, f32, and the safetensors format.
//!
//! In: bytes of a safetensors file. Out: every tensor that the configuration asks for, of the right shape, and nothing else.

use crate::error::io;
use crate::{Error, ModelConfig, Result};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One tensor on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HostTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// Tensors by their Hugging Face name.
pub(crate) type Weights = BTreeMap<String, HostTensor>;

/// Every tensor of a model, in the order of its layers, with its shape.
pub(crate) fn layout(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let kv = config.num_key_value_heads * config.head_dim();
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![config.vocab_size, hidden])];
    for layer in 0..config.num_hidden_layers {
        let mut add = |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{name}"), shape));
        add("input_layernorm.weight", vec![hidden]);
        for (name, rows) in [("q", hidden), ("k", kv), ("v", kv)] {
            add(&format!("self_attn.{name}_proj.weight"), vec![rows, hidden]);
            add(&format!("self_attn.{name}_proj.bias"), vec![rows]);
        }
        add("self_attn.o_proj.weight", vec![hidden, hidden]);
        add("post_attention_layernorm.weight", vec![hidden]);
        add("mlp.gate_proj.weight", vec![inner, hidden]);
        add("mlp.up_proj.weight", vec![inner, hidden]);
        add("mlp.down_proj.weight", vec![hidden, inner]);
    }
    all.push(("model.norm.weight".to_string(), vec![hidden]));
    if !config.tie_word_embeddings {
        all.push(("lm_head.weight".to_string(), vec![config.vocab_size, hidden]));
    }
    all
}

/// Reads a safetensors file of exactly this model.
pub(crate) fn read(config: &ModelConfig, bytes: &[u8]) -> Result<Weights> {
    let mut found = parse(bytes)?;
    let weights = take(config, &mut found, "")?;
    // Some programs write the tied output layer out in full; it is the embedding again.
    found.retain(|name, _| !(config.tie_word_embeddings && name == "lm_head.weight"));
    match found.keys().next() {
        Some(name) => Err(Error::Weights(format!("tensor `{name}` has no place in this model"))),
        None => Ok(weights),
    }
}

/// Takes the tensors of one model out of `found`, where each is named `<prefix><name>`.
pub(crate) fn take(config: &ModelConfig, found: &mut Weights, prefix: &str) -> Result<Weights> {
    let mut weights = Weights::new();
    for (name, expected) in layout(config) {
        let Some(tensor) = found.remove(&format!("{prefix}{name}")) else { return Err(Error::Missing { name, expected }) };
        if tensor.shape != expected {
            return Err(Error::Shape { name, expected, found: tensor.shape });
        }
        weights.insert(name, tensor);
    }
    Ok(weights)
}

/// Reads any safetensors file; bf16 and f16 are widened.
pub(crate) fn parse(bytes: &[u8]) -> Result<Weights> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Error::Weights(format!("not a safetensors file: {e}")))?;
    let mut weights = Weights::new();
    for (name, view) in file.iter() {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::BF16 => data.chunks_exact(2).map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)).collect(),
            Dtype::F16 => data.chunks_exact(2).map(|b| widen_f16(u16::from_le_bytes([b[0], b[1]]))).collect(),
            other => return Err(Error::Weights(format!("tensor `{name}` is {other:?}; allowed: F32, BF16, F16"))),
        };
        weights.insert(name.to_string(), HostTensor { shape: view.shape().to_vec(), values });
    }
    Ok(weights)
}

/// IEEE half precision to single precision, exactly.
fn widen_f16(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((half >> 10) & 0x1f);
    let fraction = f32::from(half & 0x3ff);
    sign * match exponent {
        0 => libm::ldexpf(fraction, -24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => libm::ldexpf(fraction + 1024.0, exponent - 25),
    }
}

/// The bytes of a safetensors file; the same weights always give the same bytes.
pub(crate) fn write(weights: &Weights) -> Vec<u8> {
    let bytes: Vec<(&String, &HostTensor, Vec<u8>)> =
        weights.iter().map(|(name, t)| (name, t, t.values.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views = bytes.iter().map(|(name, tensor, data)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), data).expect("the data was made from the shape");
        (name.as_str(), view)
    });
    let format = [("format".to_string(), "pt".to_string())].into();
    serialize(views, Some(format)).expect("names are unique and views are whole")
}

/// Reads the weights of a Hugging Face folder, in one file or several.
pub(crate) fn read_folder(config: &ModelConfig, folder: &Path) -> Result<Weights> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        let path = folder.join("model.safetensors");
        return read(config, &std::fs::read(&path).map_err(io(&path))?);
    }
    let text = std::fs::read(&index).map_err(io(&index))?;
    let index: serde_json::Value = serde_json::from_slice(&text).map_err(|e| Error::Weights(format!("{}: {e}", index.display())))?;
    let map = index["weight_map"].as_object().ok_or_else(|| Error::Weights("the index lacks `weight_map`".into()))?;
    let files: BTreeSet<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
    let mut found = Weights::new();
    for file in files {
        if file.contains('/') {
            return Err(Error::Weights(format!("the index names `{file}`, which lies outside the folder")));
        }
        let path = folder.join(file);
        found.extend(parse(&std::fs::read(&path).map_err(io(&path))?)?);
    }
    take(config, &mut found, "")
}
