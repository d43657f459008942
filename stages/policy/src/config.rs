//! `config.json` as Hugging Face writes it: the numbers that give a model its shape.
//!
//! In: JSON of one of four families, or of LLaVA's nesting of three of them behind a frozen encoder. Out: a [`ModelConfig`].
//! Keys that change what is computed and that this code does not compute are refused by name; so are keys that it does not know. What was read is kept, so that it is written back as it was.

mod encoder;
mod keys;
mod rope;
mod vision;

pub use encoder::{Activation, Encoder, EncoderKind};
pub use rope::{Rope, RopeScaling};
pub use vision::VisionConfig;

use crate::{Error, Result};
use serde_json::{Map, Value, json};

/// The decoders that are known. What they differ in is in [`ModelConfig`]; this is what the file is called by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Qwen2 and Qwen2.5.
    Qwen2,
    Qwen3,
    /// Llama, and SmolLM2 that has its shape.
    Llama,
    /// Qwen2's decoder behind a vision tower.
    Qwen25Vl,
}

/// Which linear layers add a bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// After attention.
    pub out: bool,
    /// All three of the feed-forward layer.
    pub mlp: bool,
}

/// The shape of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub family: Family,
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Heads of keys and values; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Longest sequence, tokens.
    pub max_position_embeddings: usize,
    /// Whether the output layer is the embedding table.
    pub tie_word_embeddings: bool,
    pub biases: Biases,
    /// Whether queries and keys are normalised head by head before they are rotated (Qwen3).
    pub qk_norm: bool,
    /// The tower or the encoder in front, for a policy with eyes.
    pub vision: Option<VisionConfig>,
    /// What was read, for [`ModelConfig::to_json`].
    pub(crate) source: Source,
}

/// The file that a configuration was read from. Two configurations are equal where they compute the same, however it is written.
#[derive(Clone, Debug)]
pub(crate) struct Source(Map<String, Value>);

impl PartialEq for Source {
    fn eq(&self, _: &Source) -> bool {
        true
    }
}

impl ModelConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] for another architecture, a key that is not known, a missing key, or a shape that cannot be.
    pub fn from_json(json: &[u8]) -> Result<ModelConfig> {
        let value: Value = serde_json::from_slice(json).map_err(|e| Error::Config(e.to_string()))?;
        let Value::Object(source) = value else { return Err(Error::Config("expected one JSON object".into())) };
        let (family, encoder) = family(&source)?;
        let keys = if encoder { keys::behind_encoder(family, &source)? } else { keys::text(family, &source)? };
        let numbers = keys::Numbers::of(&keys);
        let heads = numbers.size("num_attention_heads")?;
        let hidden = numbers.size("hidden_size")?;
        let biases = match family {
            Family::Qwen2 | Family::Qwen25Vl => Biases { qkv: true, ..Biases::default() },
            Family::Qwen3 | Family::Llama => {
                let attention = numbers.flag("attention_bias", Some(false))?;
                Biases { qkv: attention, out: attention, mlp: family == Family::Llama && numbers.flag("mlp_bias", Some(false))? }
            }
        };
        let head_dim = match numbers.optional("head_dim")? {
            Some(dim) => dim,
            // Qwen3's own default is no quotient, so a file without it says too little.
            None if family == Family::Qwen3 => return Err(Error::Config("`head_dim` is missing".into())),
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(Error::Config(format!("{hidden} hidden units in {heads} heads: each head must have the same width"))),
        };
        let config = ModelConfig {
            family,
            hidden_size: hidden,
            intermediate_size: numbers.size("intermediate_size")?,
            num_hidden_layers: numbers.size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: numbers.optional("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            vocab_size: numbers.size("vocab_size")?,
            rms_norm_eps: numbers.real("rms_norm_eps")?,
            rope: Rope::read(&keys)?,
            max_position_embeddings: numbers.size("max_position_embeddings")?,
            tie_word_embeddings: numbers.flag("tie_word_embeddings", Some(false))?,
            biases,
            qk_norm: family == Family::Qwen3,
            vision: match family {
                _ if encoder => Some(Encoder::read(&source, hidden)?),
                Family::Qwen25Vl => Some(VisionConfig::read(&source)?),
                _ => None,
            },
            source: Source(source),
        };
        config.check()?;
        Ok(config)
    }

    /// The configuration of a new policy.
    ///
    /// # Errors
    /// [`Error::Config`] where the sizes do not divide.
    pub fn tiny(policy: &schemas::pipeline::PolicyConfig, vocab_size: usize) -> Result<ModelConfig> {
        let config = json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_act": "silu",
            "hidden_size": policy.hidden,
            "intermediate_size": policy.intermediate,
            "num_hidden_layers": policy.layers,
            "num_attention_heads": policy.heads,
            "num_key_value_heads": policy.kv_heads,
            "vocab_size": vocab_size,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
        });
        ModelConfig::from_json(config.to_string().as_bytes())
    }

    /// The text of `config.json`: what was read.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.source.0).expect("what was parsed can be written")
    }

    /// The same with the type of the weights that lie beside it, `float32` or `bfloat16`, in every place that names one.
    pub fn with_dtype(&self, dtype: &str) -> ModelConfig {
        let mut config = self.clone();
        keys::set_dtype(&mut config.source.0, dtype);
        config
    }

    /// The type of weights that the file names, as `bfloat16`.
    pub fn dtype(&self) -> Option<&str> {
        let keys = &self.source.0;
        keys.get("dtype").or_else(|| keys.get("torch_dtype")).or_else(|| keys.get("text_config")?.get("dtype"))?.as_str()
    }

    /// The frozen encoder in front, where there is one.
    pub fn encoder(&self) -> Option<&Encoder> {
        self.vision.as_ref()?.encoder.as_ref()
    }

    /// What the names of the decoder's tensors begin with in the file.
    pub(crate) fn decoder_prefix(&self) -> &'static str {
        if self.encoder().is_some() { "language_model." } else { "" }
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Width of all heads' queries together, and of what attention gives.
    pub fn attention_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        crate::weights::layout(self).iter().map(|(_, shape)| shape.iter().map(|n| *n as u64).product::<u64>()).sum()
    }

    /// Number of weights that training moves: all but a frozen encoder's.
    pub fn trained_parameters(&self) -> u64 {
        let layout = crate::layout::Layout::new(self);
        let parts = layout.trained().into_iter().flat_map(|entry| &entry.parts);
        parts.map(|part| part.shape.iter().map(|n| *n as u64).product::<u64>()).sum()
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0 || *size > 1 << 24) {
            return Err(Error::Config(format!("`{name}` must lie between 1 and {}", 1 << 24)));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::Config(format!("a head's width is {}; it must be even", self.head_dim)));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
            return Err(Error::Config(format!("`num_key_value_heads` {kv} does not divide `num_attention_heads` {heads}")));
        }
        self.rope.check(self.head_dim, self.family == Family::Qwen25Vl)?;
        self.vision.as_ref().map_or(Ok(()), |vision| vision.check(self.hidden_size))
    }
}

/// The decoder, and whether a frozen encoder stands before it.
fn family(source: &Map<String, Value>) -> Result<(Family, bool)> {
    let named = |keys: &Map<String, Value>| keys.get("model_type").and_then(Value::as_str).unwrap_or_default().to_string();
    let model_type = named(source);
    let (family, architecture) = match model_type.as_str() {
        "qwen2" => (Family::Qwen2, "Qwen2ForCausalLM"),
        "qwen3" => (Family::Qwen3, "Qwen3ForCausalLM"),
        "llama" => (Family::Llama, "LlamaForCausalLM"),
        "qwen2_5_vl" => (Family::Qwen25Vl, "Qwen2_5_VLForConditionalGeneration"),
        "llava" => {
            let text = source.get("text_config").and_then(Value::as_object).map(named).unwrap_or_default();
            let family = match text.as_str() {
                "qwen2" => Family::Qwen2,
                "qwen3" => Family::Qwen3,
                "llama" | "" => Family::Llama,
                other => return Err(Error::Config(format!("`text_config.model_type` is `{other}`; allowed: `qwen2`, `qwen3`, `llama`"))),
            };
            (family, "LlavaForConditionalGeneration")
        }
        other => {
            let allowed = "`qwen2`, `qwen3`, `llama`, `qwen2_5_vl`, `llava`";
            return Err(Error::Config(format!("`model_type` is `{other}`; allowed: {allowed}")));
        }
    };
    match source.get("architectures") {
        Some(named) if !named.is_null() && *named != json!([architecture]) => {
            Err(Error::Config(format!("`architectures` is {named}; allowed: [\"{architecture}\"]")))
        }
        _ => Ok((family, model_type == "llava")),
    }
}
