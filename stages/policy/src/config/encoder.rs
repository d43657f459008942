//! The keys of a LLaVA model that say how its pictures are seen: a frozen encoder's, and the projector's behind it.
//!
//! In: the root of such a `config.json`. Out: a [`VisionConfig`] with an [`Encoder`]. transformers takes the projector's input from
//! the states between the encoder's layers, so what lies behind the chosen layer (the final norm, SigLIP's pooling head) is read and
//! written back and never computed.

use super::keys::{Numbers, harmless, unknown};
use super::vision::VisionConfig;
use crate::{Error, Result};
use serde_json::{Map, Value};

/// The encoders that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderKind {
    /// SigLIP's vision transformer: pictures of one size, a learned position for each patch.
    Siglip,
    /// DINOv2's: pictures of any size, positions interpolated to it, a class token before the patches, scaled branches.
    Dinov2,
}

/// What lies between the two matrices of a feed-forward layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Gelu,
    /// GELU by its approximation with tanh.
    GeluTanh,
    /// A gate and its values, side by side in one matrix.
    SwiGlu,
}

/// A frozen encoder with a trained projector: what it has beside the numbers of every [`VisionConfig`].
#[derive(Clone, Debug, PartialEq)]
pub struct Encoder {
    pub kind: EncoderKind,
    /// Side of the pictures that it was trained on, pixels. SigLIP takes no others.
    pub image_size: usize,
    pub layer_norm_eps: f64,
    pub activation: Activation,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the file has a pooling head (SigLIP) or a mask token (DINOv2), which nothing here reads.
    pub has_unread: bool,
    /// Layers that a state went through before it is shown to the projector, one or more states side by side: 0 is before the first.
    pub feature_layers: Vec<usize>,
    /// Leave the first token out (`default`), or show all (`full`). The first is DINOv2's class token, and SigLIP's first patch.
    pub drops_first: bool,
    pub projector_bias: bool,
}

const BOTH: &[&str] = &[
    "attention_dropout",
    "hidden_act",
    "hidden_size",
    "image_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_channels",
    "num_hidden_layers",
    "patch_size",
];
const SIGLIP: &[&str] = &["projection_dim", "vision_use_head"];
/// Those of DINOv2 that only speak of its use as a backbone, or of its first weights, stand here as well.
const DINOV2: &[&str] = &[
    "apply_layernorm",
    "attention_probs_dropout_prob",
    "drop_path_rate",
    "hidden_dropout_prob",
    "layerscale_value",
    "mlp_ratio",
    "out_features",
    "out_indices",
    "qkv_bias",
    "reshape_hidden_states",
    "stage_names",
    "use_mask_token",
    "use_swiglu_ffn",
];
/// Keys that must be 0, being noise of another kind of training.
const NOISE: &[&str] = &["attention_dropout", "attention_probs_dropout_prob", "drop_path_rate", "hidden_dropout_prob"];

const PREFIX: &str = "vision_config.";

impl Encoder {
    /// Tokens that the encoder has before those of the patches.
    pub fn class_tokens(&self) -> usize {
        usize::from(self.kind == EncoderKind::Dinov2)
    }

    /// Tokens that a picture of so many patches costs.
    pub fn tokens(&self, patches: usize) -> usize {
        patches + self.class_tokens() - usize::from(self.drops_first)
    }

    /// Reads the root of a LLaVA `config.json`, for a decoder of this width.
    pub(super) fn read(source: &Map<String, Value>, hidden: usize) -> Result<VisionConfig> {
        let keys = source.get("vision_config").and_then(Value::as_object);
        let keys = keys.ok_or_else(|| Error::Config("`vision_config` is missing".into()))?;
        let kind = match keys.get("model_type").and_then(Value::as_str).unwrap_or("clip_vision_model") {
            "siglip_vision_model" => EncoderKind::Siglip,
            "dinov2" => EncoderKind::Dinov2,
            other => {
                return Err(Error::Config(format!("`vision_config.model_type` is `{other}`; allowed: `siglip_vision_model`, `dinov2`")));
            }
        };
        check_keys(kind, keys)?;
        let numbers = Numbers::within(keys, PREFIX);
        let (width, depth) = (numbers.size("hidden_size")?, numbers.size("num_hidden_layers")?);
        let plain = match keys.get("hidden_act").and_then(Value::as_str) {
            None if kind == EncoderKind::Siglip => Activation::GeluTanh,
            Some("gelu_pytorch_tanh") => Activation::GeluTanh,
            None | Some("gelu") => Activation::Gelu,
            Some(other) => {
                return Err(Error::Config(format!("`vision_config.hidden_act` is `{other}`; allowed: `gelu`, `gelu_pytorch_tanh`")));
            }
        };
        let (activation, inner) = match kind {
            EncoderKind::Siglip => (plain, numbers.size("intermediate_size")?),
            EncoderKind::Dinov2 => {
                let wide = width.saturating_mul(numbers.optional("mlp_ratio")?.unwrap_or(4));
                // The gate costs a third matrix, so the three are made two thirds as wide, rounded up to a multiple of 8.
                let gated = (wide.saturating_mul(2) / 3).next_multiple_of(8);
                if numbers.flag("use_swiglu_ffn", Some(false))? { (Activation::SwiGlu, gated) } else { (plain, wide) }
            }
        };
        let root = Numbers::of(source);
        let unread = if kind == EncoderKind::Siglip { "vision_use_head" } else { "use_mask_token" };
        let encoder = Encoder {
            kind,
            image_size: numbers.size("image_size")?,
            layer_norm_eps: numbers.optional_real("layer_norm_eps")?.unwrap_or(1e-6),
            activation,
            qkv_bias: kind == EncoderKind::Siglip || numbers.flag("qkv_bias", Some(true))?,
            has_unread: numbers.flag(unread, Some(true))?,
            feature_layers: feature_layers(source, depth)?,
            drops_first: drops_first(source)?,
            projector_bias: root.flag("multimodal_projector_bias", Some(true))?,
        };
        let token = root.optional("image_token_index")?.or(root.optional("image_token_id")?);
        Ok(VisionConfig {
            depth,
            hidden_size: width,
            intermediate_size: inner,
            num_heads: numbers.size("num_attention_heads")?,
            patch_size: numbers.size("patch_size")?,
            temporal_patch_size: 1,
            spatial_merge_size: 1,
            window_size: 0,
            fullatt_block_indexes: vec![],
            in_channels: numbers.optional("num_channels")?.unwrap_or(3),
            out_hidden_size: hidden,
            image_token_id: token.ok_or_else(|| Error::Config("`image_token_index` is missing".into()))? as u32,
            encoder: Some(encoder),
        })
    }

    pub(super) fn check(&self, vision: &VisionConfig) -> Result<()> {
        let (size, patch) = (self.image_size, vision.patch_size);
        if size < patch || size > 1 << 14 {
            return Err(Error::Config(format!(
                "`vision_config.image_size` is {size}; it must lie between a patch, {patch}, and {}",
                1 << 14
            )));
        }
        if !vision.hidden_size.is_multiple_of(vision.num_heads) {
            let (width, heads) = (vision.hidden_size, vision.num_heads);
            return Err(Error::Config(format!("`vision_config`: {width} units in {heads} heads; each head must have the same width")));
        }
        if self.tokens((size / patch) * (size / patch)) == 0 {
            return Err(Error::Config(
                "`vision_feature_select_strategy` is `default`, which leaves a picture of one patch no token".into(),
            ));
        }
        Ok(())
    }
}

fn check_keys(kind: EncoderKind, keys: &Map<String, Value>) -> Result<()> {
    let own = if kind == EncoderKind::Siglip { SIGLIP } else { DINOV2 };
    for (key, value) in keys {
        let name = key.as_str();
        if !BOTH.contains(&name) && !own.contains(&name) && !harmless(key) {
            return Err(unknown(&format!("{PREFIX}{key}")));
        }
        if NOISE.contains(&name) && value.as_f64() != Some(0.0) {
            return Err(Error::Config(format!("`{PREFIX}{key}` is {value}; allowed: 0")));
        }
    }
    Ok(())
}

/// Counted from the first state, whichever end the file counts from.
fn feature_layers(source: &Map<String, Value>, depth: usize) -> Result<Vec<usize>> {
    let default = Value::from(-2);
    let value = source.get("vision_feature_layer").unwrap_or(&default);
    let states = depth as i64 + 1;
    let wrong = || {
        let allowed = format!("-{states} to {depth}, one of the {states} states of {depth} layers, or a list of such");
        Error::Config(format!("`vision_feature_layer` is {value}; allowed: {allowed}"))
    };
    let one = |value: &Value| -> Result<usize> {
        let layer = value.as_i64().filter(|layer| (-states..states).contains(layer)).ok_or_else(wrong)?;
        Ok(if layer < 0 { layer + states } else { layer } as usize)
    };
    match value {
        Value::Array(list) if list.is_empty() => Err(wrong()),
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn drops_first(source: &Map<String, Value>) -> Result<bool> {
    match source.get("vision_feature_select_strategy").map(|v| v.as_str().unwrap_or_default()) {
        None | Some("default") => Ok(true),
        Some("full") => Ok(false),
        Some(other) => Err(Error::Config(format!("`vision_feature_select_strategy` is `{other}`; allowed: `default`, `full`"))),
    }
}
