//! Rotary positions as a `config.json` describes them, and the angle that each pair of a head turns by per position.
//!
//! Formulas: RoPE (Su et al. 2021); linear interpolation (Chen et al. 2023); Llama 3.1's bands; YaRN (Peng et al. 2023);
//! M-RoPE's sections (Qwen2-VL, Wang et al. 2024). All in single precision, in the order in which transformers computes them, so
//! that the angles are its own but for the last bit.

use super::keys::{Numbers, unknown};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::f64::consts::PI;

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
    /// Pairs of a head that follow the time, height and width axis. None where positions have one axis.
    pub sections: Option<[usize; 3]>,
}

/// How a context longer than the one first trained on is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: f64 },
    Yarn { factor: f64, original: f64, attention: f64, fast: f64, slow: f64, truncate: bool },
}

const KINDS: &str = "`default`, `linear`, `llama3`, `yarn`, `mrope`";

impl Rope {
    /// From `rope_parameters` (newer files), or `rope_theta` and `rope_scaling` (older ones).
    pub(super) fn read(keys: &Map<String, Value>) -> Result<Rope> {
        let object = |key: &'static str| match keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(rope)) => Ok(Some((key, rope))),
            Some(other) => Err(Error::Config(format!("`{key}` is {other}; expected an object"))),
        };
        let root = Numbers::of(keys).optional_real("rope_theta")?;
        let missing = || Error::Config("`rope_theta` is missing".into());
        let Some((name, rope)) = object("rope_parameters")?.or(object("rope_scaling")?) else {
            return Ok(Rope { theta: root.ok_or_else(missing)?, scaling: RopeScaling::None, sections: None });
        };
        let kind = ["rope_type", "type"].iter().find_map(|k| rope.get(*k)).and_then(Value::as_str).unwrap_or("default");
        let known: &[&str] = match kind {
            "default" | "mrope" => &[],
            "linear" => &["factor"],
            "llama3" => &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
            "yarn" => &["factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"],
            other => return Err(Error::Config(format!("`{name}.rope_type` is `{other}`; allowed: {KINDS}"))),
        };
        let always = ["rope_type", "type", "rope_theta", "mrope_section"];
        if let Some(key) = rope.keys().find(|key| !known.contains(&key.as_str()) && !always.contains(&key.as_str())) {
            return Err(unknown(&format!("{name}.{key}")));
        }
        let prefix = if name == "rope_parameters" { "rope_parameters." } else { "rope_scaling." };
        let numbers = Numbers::within(rope, prefix);
        let theta = numbers.optional_real("rope_theta")?.or(root).ok_or_else(missing)?;
        let scaling = RopeScaling::read(kind, &numbers, keys)?;
        let sections = match numbers.sizes("mrope_section")? {
            Some(list) => Some(list.try_into().map_err(|_| Error::Config(format!("`{prefix}mrope_section` must have 3 entries")))?),
            None => None,
        };
        Ok(Rope { theta, scaling, sections })
    }

    pub(super) fn check(&self, dim: usize, vision: bool) -> Result<()> {
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(Error::Config(format!("`rope_theta` is {}; it must be over 1", self.theta)));
        }
        match (self.sections, vision) {
            (Some(sections), true) if sections.iter().sum::<usize>() != dim / 2 => {
                Err(Error::Config(format!("`mrope_section` {sections:?} must sum to half of a head's width, {}", dim / 2)))
            }
            (None, true) => Err(Error::Config("`mrope_section` is missing".into())),
            (Some(_), false) => Err(Error::Config("`mrope_section` is for models with a vision tower".into())),
            _ => Ok(()),
        }
    }

    /// Radians per position of each rotary pair of a head of `dim`.
    pub(crate) fn frequencies(&self, dim: usize) -> Vec<f32> {
        let power = |pair: usize| libm::powf(self.theta as f32, (2 * pair) as f32 / dim as f32);
        let plain = (0..dim / 2).map(|pair| 1.0 / power(pair));
        match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor as f32).collect(),
            RopeScaling::Llama3 { factor, low, high, original } => {
                let band = |f: f32| {
                    let wavelength = (2.0 * PI) as f32 / f;
                    if wavelength < (original / high) as f32 {
                        return f;
                    }
                    if wavelength > (original / low) as f32 {
                        return f / factor as f32;
                    }
                    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
                    (1.0 - smooth) * f / factor as f32 + smooth * f
                };
                plain.map(band).collect()
            }
            RopeScaling::Yarn { factor, original, fast, slow, truncate, .. } => {
                let turns = |n: f64| dim as f64 * libm::log(original / (n * 2.0 * PI)) / (2.0 * libm::log(self.theta));
                let (mut low, mut high) = (turns(fast), turns(slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let blend = |(pair, f): (usize, f32)| {
                    let stays = 1.0 - ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    1.0 / (factor as f32 * power(pair)) * (1.0 - stays) + f * stays
                };
                plain.enumerate().map(blend).collect()
            }
        }
    }

    /// What cosines and sines are multiplied by.
    pub(crate) fn attention_factor(&self) -> f64 {
        if let RopeScaling::Yarn { attention, .. } = self.scaling { attention } else { 1.0 }
    }

    /// The axis of positions, 0 to 2, that each rotary pair follows.
    pub(crate) fn axes(&self) -> Option<Vec<i64>> {
        let sections = self.sections?;
        Some(sections.iter().zip(0i64..).flat_map(|(count, axis)| std::iter::repeat_n(axis, *count)).collect())
    }
}

impl RopeScaling {
    fn read(kind: &str, numbers: &Numbers<'_>, keys: &Map<String, Value>) -> Result<RopeScaling> {
        Ok(match kind {
            "linear" => RopeScaling::Linear { factor: numbers.real("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: numbers.real("factor")?,
                low: numbers.real("low_freq_factor")?,
                high: numbers.real("high_freq_factor")?,
                original: numbers.real("original_max_position_embeddings")?,
            },
            "yarn" => {
                let factor = numbers.real("factor")?;
                let original = match numbers.optional_real("original_max_position_embeddings")? {
                    Some(original) => original,
                    None => Numbers::of(keys).real("max_position_embeddings")?,
                };
                let attention = numbers.optional_real("attention_factor")?;
                RopeScaling::Yarn {
                    factor,
                    original,
                    attention: attention.unwrap_or(if factor <= 1.0 { 1.0 } else { 0.1 * libm::log(factor) + 1.0 }),
                    fast: numbers.optional_real("beta_fast")?.unwrap_or(32.0),
                    slow: numbers.optional_real("beta_slow")?.unwrap_or(1.0),
                    truncate: numbers.flag("truncate", Some(true))?,
                }
            }
            _ => RopeScaling::None,
        })
    }
}
