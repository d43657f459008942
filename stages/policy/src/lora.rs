//! LoRA (Hu et al. 2021) in PEFT's layout: matrices of low rank beside frozen ones.
//!
//! In: an adapter's folder (`adapter_config.json`, `adapter_model.safetensors`), or the wish for a new one. Out: what is added
//! to a linear layer's output, `B A x * alpha / r`, tensors under PEFT's names, and weights with the product merged in. The adapter
//! is in f32 whatever the base is in.

use crate::error::io;
use crate::init::unit;
use crate::layout::{Layout, Pairs};
use crate::model::Place;
use crate::weights::{Weights, open, write};
use crate::{Error, ModelConfig, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use schemas::pipeline::LoraSettings;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// A new adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraOptions {
    /// Rank.
    pub r: usize,
    pub alpha: f64,
    /// Last parts of the names of the decoder's modules, as `q_proj`.
    pub language: Vec<String>,
    /// The same of the vision tower's, as `attn.qkv`, or of the projector's, as `linear_1`.
    pub vision: Vec<String>,
}

impl Default for LoraOptions {
    fn default() -> Self {
        LoraOptions::from(&LoraSettings::default())
    }
}

impl From<&LoraSettings> for LoraOptions {
    fn from(s: &LoraSettings) -> Self {
        LoraOptions { r: s.rank as usize, alpha: f64::from(s.alpha), language: s.modules.clone(), vision: s.vision_modules.clone() }
    }
}

/// Where an adapter's pair of matrices is added.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    /// The module's name in the base's file, without `.weight`.
    module: String,
    /// The base's computed matrix, and the rows of it that are this module's.
    entry: usize,
    from: i64,
    rows: i64,
    width: i64,
    pairs: Pairs,
}

/// Adapters of a model, on its device.
#[derive(Debug)]
pub(crate) struct Adapters {
    slots: Vec<Slot>,
    by_entry: BTreeMap<usize, Vec<usize>>,
    scale: f64,
    /// `A [r, in]` and `B [out, r]` of each slot, in turn. The rows of `B` lie as those of the base's matrix.
    pub(crate) values: Vec<Tensor>,
    /// `adapter_config.json`.
    source: Map<String, Value>,
}

/// Every module that can take an adapter.
fn modules(layout: &Layout) -> Vec<Slot> {
    let mut all = vec![];
    for (entry, computed) in layout.entries.iter().enumerate() {
        if computed.frozen {
            continue;
        }
        let mut from = 0;
        for part in &computed.parts {
            let rows = part.shape[0] as i64;
            if let ([_, width], Some(module)) = (&part.shape[..], part.name.strip_suffix(".weight"))
                && !["embed_tokens", "lm_head"].iter().any(|end| module.ends_with(end))
            {
                all.push(Slot { module: module.into(), entry, from, rows, width: *width as i64, pairs: part.pairs });
            }
            from += rows;
        }
    }
    all
}

/// A module's name in PEFT's files: that of the model in memory.
fn path(config: &ModelConfig, module: &str) -> String {
    match (&config.vision, module.strip_prefix(&format!("{}model.", config.decoder_prefix()))) {
        (Some(_), Some(rest)) => format!("model.language_model.{rest}"),
        (Some(_), None) => format!("model.{module}"),
        (None, _) => module.to_string(),
    }
}

/// Whether a module belongs to what sees pictures: the tower, or the projector behind an encoder.
fn sees(module: &str) -> bool {
    ["visual.", "multi_modal_projector."].iter().any(|prefix| module.starts_with(prefix))
}

impl Adapters {
    fn new(slots: Vec<Slot>, scale: f64, values: Vec<Tensor>, source: Map<String, Value>) -> Adapters {
        let mut by_entry: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, slot) in slots.iter().enumerate() {
            by_entry.entry(slot.entry).or_default().push(number);
        }
        Adapters { slots, by_entry, scale, values, source }
    }

    /// A new adapter: `A` uniform within `1 / sqrt(in)` as PEFT draws it, `B` zero, so that nothing is changed yet.
    pub(crate) fn draw(config: &ModelConfig, layout: &Layout, options: &LoraOptions, seed: u64, place: Place) -> Result<Adapters> {
        let wanted = |slot: &Slot| {
            let names = if sees(&slot.module) { &options.vision } else { &options.language };
            names.iter().any(|name| slot.module == *name || slot.module.ends_with(&format!(".{name}")))
        };
        let slots: Vec<Slot> = modules(layout).into_iter().filter(wanted).collect();
        for (names, tower) in [(&options.language, false), (&options.vision, true)] {
            let has = |name: &&String| slots.iter().any(|s| sees(&s.module) == tower && s.module.ends_with(&format!(".{name}")));
            if let Some(name) = names.iter().find(|name| !has(name)) {
                return Err(Error::Adapter(format!("the model has no module `{name}`")));
            }
        }
        if options.r == 0 || slots.is_empty() {
            return Err(Error::Adapter("a rank of at least 1 and at least one module are needed".into()));
        }
        let mut values = vec![];
        for slot in &slots {
            let mut key = blake3::Hasher::new();
            key.update(&seed.to_le_bytes()).update(slot.module.as_bytes()).update(b"lora");
            let mut rng = ChaCha8Rng::from_seed(*key.finalize().as_bytes());
            let bound = 1.0 / (slot.width as f64).sqrt();
            let a: Vec<f32> = (0..options.r * slot.width as usize).map(|_| (bound * (2.0 * unit(&mut rng) - 1.0)) as f32).collect();
            values.push(Tensor::from_slice(&a).view([options.r as i64, slot.width]).to_device(place.device));
            values.push(Tensor::zeros([slot.rows, options.r as i64], (Kind::Float, place.device)));
        }
        let targets: Vec<String> = slots.iter().map(|slot| path(config, &slot.module)).collect();
        let source = json!({
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": null, "inference_mode": true,
            "r": options.r, "lora_alpha": options.alpha, "lora_dropout": 0.0, "target_modules": targets, "bias": "none",
            "fan_in_fan_out": false, "use_rslora": false, "use_dora": false, "rank_pattern": {}, "alpha_pattern": {},
            "modules_to_save": null, "init_lora_weights": true,
        });
        let Value::Object(source) = source else { return Err(Error::Adapter("an object was written".into())) };
        Ok(Adapters::new(slots, options.alpha / options.r as f64, values, source))
    }

    /// Reads PEFT's folder.
    pub(crate) fn read(config: &ModelConfig, layout: &Layout, folder: &Path, place: Place) -> Result<Adapters> {
        let at = folder.join("adapter_config.json");
        let source: Value = serde_json::from_slice(&std::fs::read(&at).map_err(io(&at))?)
            .map_err(|e| Error::Adapter(format!("adapter_config.json: {e}")))?;
        let Value::Object(source) = source else { return Err(Error::Adapter("adapter_config.json: expected an object".into())) };
        check(&source)?;
        let file = open(&folder.join("adapter_model.safetensors"))?;
        Adapters::take(config, layout, &file, source, place)
    }

    /// Takes an adapter's values out of named tensors, which must be those of one adapter and no others.
    pub(crate) fn take(
        config: &ModelConfig,
        layout: &Layout,
        file: &Weights,
        source: Map<String, Value>,
        place: Place,
    ) -> Result<Adapters> {
        let number = |key: &str| {
            source.get(key).and_then(Value::as_f64).ok_or_else(|| Error::Adapter(format!("adapter_config.json: `{key}` is missing")))
        };
        let (r, alpha) = (number("r")?, number("lora_alpha")?);
        let rank_stable = source.get("use_rslora") == Some(&Value::Bool(true));
        let scale = if rank_stable { alpha / r.sqrt() } else { alpha / r };
        let mut left: std::collections::BTreeSet<String> = file.names().map(String::from).collect();
        let (mut slots, mut values) = (vec![], vec![]);
        for slot in modules(layout) {
            // Older releases named the decoder within a model with eyes as if it stood alone.
            let spellings = [path(config, &slot.module), slot.module.clone()];
            let name = |path: &str, side: &str| format!("base_model.model.{path}.lora_{side}.weight");
            let Some(found) = spellings.iter().find(|path| left.contains(&name(path, "A"))) else { continue };
            for (side, expected) in [("A", [r as i64, slot.width]), ("B", [slot.rows, r as i64])] {
                let name = name(found, side);
                let expected_shape: Vec<usize> = expected.iter().map(|n| *n as usize).collect();
                if !left.remove(&name) {
                    return Err(Error::Missing { name, expected: expected_shape });
                }
                let tensor = file.get(&name)?;
                if tensor.size() != expected {
                    let found = tensor.size().iter().map(|n| *n as usize).collect();
                    return Err(Error::Shape { name, expected: expected_shape, found });
                }
                let tensor = tensor.to_kind(Kind::Float).to_device(place.device);
                values.push(if side == "B" { slot.pairs.reorder(&tensor) } else { tensor });
            }
            slots.push(slot);
        }
        match left.first() {
            Some(name) => Err(Error::Adapter(format!("tensor `{name}` has no place in this model; hint: it was made for another base"))),
            None if slots.is_empty() => Err(Error::Adapter("it holds no tensors".into())),
            None => Ok(Adapters::new(slots, scale, values, source)),
        }
    }

    /// PEFT's names of any values that lie like [`Adapters::values`], on the host.
    pub(crate) fn named(&self, config: &ModelConfig, values: &[Tensor]) -> Weights {
        let mut weights = Weights::default();
        for (slot, pair) in self.slots.iter().zip(values.chunks_exact(2)) {
            let name = |side: &str| format!("base_model.model.{}.lora_{side}.weight", path(config, &slot.module));
            let host = |tensor: &Tensor| tensor.detach().to_device(Device::Cpu).contiguous();
            weights.insert(name("A"), host(&pair[0]));
            weights.insert(name("B"), host(&slot.pairs.restore(&pair[1])));
        }
        weights
    }

    /// `adapter_config.json`.
    pub(crate) fn source(&self) -> &Map<String, Value> {
        &self.source
    }

    pub(crate) fn save(&self, config: &ModelConfig, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).map_err(io(&path))
        };
        let text = serde_json::to_string_pretty(&self.source).map_err(|e| Error::Adapter(e.to_string()))?;
        put("adapter_config.json", text.as_bytes())?;
        put("adapter_model.safetensors", &write(&self.named(config, &self.values))?)
    }

    /// The same adapter over other values.
    pub(crate) fn over(&self, values: Vec<Tensor>) -> Adapters {
        Adapters { slots: self.slots.clone(), by_entry: self.by_entry.clone(), scale: self.scale, values, source: self.source.clone() }
    }

    /// Adds to `y`, the output of matrix `entry` for `x`, what its adapters give.
    pub(crate) fn add(&self, entry: usize, x: &Tensor, y: Tensor) -> Tensor {
        let Some(numbers) = self.by_entry.get(&entry) else { return y };
        let (count, all) = (y.size()[0], y.size()[1]);
        let x = x.to_kind(Kind::Float);
        let mut parts = vec![];
        let mut from = 0;
        let gap = |from: i64, to: i64| Tensor::zeros([count, to - from], (Kind::Float, y.device()));
        for number in numbers {
            let (slot, pair) = (&self.slots[*number], &self.values[2 * number..2 * number + 2]);
            if slot.from > from {
                parts.push(gap(from, slot.from));
            }
            parts.push(x.linear::<Tensor>(&pair[0], None).linear::<Tensor>(&pair[1], None) * self.scale);
            from = slot.from + slot.rows;
        }
        if from < all {
            parts.push(gap(from, all));
        }
        let delta = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(&parts, 1) };
        &y + delta.to_kind(y.kind())
    }

    /// The base's matrices with the adapters' products added.
    pub(crate) fn merge(&self, base: &[Tensor]) -> Vec<Tensor> {
        let _guard = tch::no_grad_guard();
        let mut merged: Vec<Tensor> = base.iter().map(|value| value.detach()).collect();
        for (entry, numbers) in &self.by_entry {
            let whole = merged[*entry].to_kind(Kind::Float).copy();
            for number in numbers {
                let (slot, pair) = (&self.slots[*number], &self.values[2 * number..2 * number + 2]);
                let _ = whole.narrow(0, slot.from, slot.rows).g_add_(&(pair[1].matmul(&pair[0]) * self.scale));
            }
            merged[*entry] = whole.to_kind(merged[*entry].kind());
        }
        merged
    }
}

/// Refuses by name what this code does not compute.
fn check(source: &Map<String, Value>) -> Result<()> {
    let kind = source.get("peft_type").and_then(Value::as_str).unwrap_or_default();
    if kind != "LORA" {
        return Err(Error::Adapter(format!("adapter_config.json: `peft_type` is `{kind}`; allowed: `LORA`")));
    }
    const READ: &[&str] = &[
        "r",
        "lora_alpha",
        "use_rslora",
        "peft_type",
        "peft_version",
        "target_modules",
        "exclude_modules",
        "base_model_name_or_path",
        "task_type",
        "inference_mode",
        "init_lora_weights",
        "revision",
        "auto_mapping",
        "lora_dropout",
        "megatron_core",
        "qalora_group_size",
        "layers_pattern",
        "layers_to_transform",
    ];
    for (key, value) in source.iter().filter(|(key, _)| !READ.contains(&key.as_str())) {
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::String(text) => key == "bias" && text == "none",
            _ => false,
        };
        if !off {
            return Err(Error::Adapter(format!("adapter_config.json: `{key}` is {value}, which is not known; hint: merge it first")));
        }
    }
    Ok(())
}
