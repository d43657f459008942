//! How pictures are seen, and `vision_config` of a Qwen2.5-VL model.

use super::encoder::Encoder;
use super::keys::{Numbers, harmless, unknown};
use crate::{Error, Result};
use serde_json::{Map, Value};

/// The shape of the vision tower: Qwen2.5-VL's, or a frozen encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    pub depth: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_heads: usize,
    /// Side of a patch, pixels.
    pub patch_size: usize,
    /// Frames that one patch spans; a still picture is shown that many times. 1 for an encoder.
    pub temporal_patch_size: usize,
    /// Patches merged into one token, along each side. 1 for an encoder.
    pub spatial_merge_size: usize,
    /// Side of a window of attention, pixels. An encoder has none: 0.
    pub window_size: usize,
    /// Blocks whose attention spans the whole picture.
    pub fullatt_block_indexes: Vec<usize>,
    pub in_channels: usize,
    /// Width of a picture's tokens: the decoder's.
    pub out_hidden_size: usize,
    /// What stands in the token sequence for each token of a picture.
    pub image_token_id: u32,
    /// In place of Qwen2.5-VL's tower: a frozen encoder and a projector.
    pub encoder: Option<Encoder>,
}

const KNOWN: &[&str] = &[
    "depth",
    "fullatt_block_indexes",
    "hidden_act",
    "hidden_size",
    "in_channels",
    "in_chans",
    "intermediate_size",
    "num_heads",
    "out_hidden_size",
    "patch_size",
    "rope_parameters",
    "spatial_merge_size",
    "spatial_patch_size",
    "temporal_patch_size",
    "tokens_per_second",
    "window_size",
];

impl VisionConfig {
    pub(super) fn read(source: &Map<String, Value>) -> Result<VisionConfig> {
        let keys = source.get("vision_config").and_then(Value::as_object);
        let keys = keys.ok_or_else(|| Error::Config("`vision_config` is missing".into()))?;
        if let Some(key) = keys.keys().find(|key| !KNOWN.contains(&key.as_str()) && !harmless(key)) {
            return Err(unknown(&format!("vision_config.{key}")));
        }
        if keys.get("hidden_act").is_some_and(|act| act != "silu") {
            return Err(Error::Config(format!("`vision_config.hidden_act` is {}; allowed: `silu`", keys["hidden_act"])));
        }
        if let Some(Value::Object(rope)) = keys.get("rope_parameters") {
            let kind = rope.get("rope_type").and_then(Value::as_str).unwrap_or("axial");
            let theta = rope.get("rope_theta").and_then(Value::as_f64).unwrap_or(THETA);
            if !["axial", "default"].contains(&kind) || theta != THETA {
                return Err(Error::Config(format!(
                    "`vision_config.rope_parameters` is `{kind}` with base {theta}; allowed: `axial` with {THETA}"
                )));
            }
        }
        let numbers = Numbers::within(keys, "vision_config.");
        let blocks = numbers.sizes("fullatt_block_indexes")?;
        Ok(VisionConfig {
            depth: numbers.size("depth")?,
            hidden_size: numbers.size("hidden_size")?,
            intermediate_size: numbers.size("intermediate_size")?,
            num_heads: numbers.size("num_heads")?,
            patch_size: numbers.size("patch_size")?,
            temporal_patch_size: numbers.size("temporal_patch_size")?,
            spatial_merge_size: numbers.size("spatial_merge_size")?,
            window_size: numbers.size("window_size")?,
            fullatt_block_indexes: blocks.ok_or_else(|| Error::Config("`vision_config.fullatt_block_indexes` is missing".into()))?,
            in_channels: numbers.optional("in_channels")?.or(numbers.optional("in_chans")?).unwrap_or(3),
            out_hidden_size: numbers.size("out_hidden_size")?,
            image_token_id: Numbers::of(source).size("image_token_id")? as u32,
            encoder: None,
        })
    }

    pub(super) fn check(&self, hidden: usize) -> Result<()> {
        let sizes = [
            ("depth", self.depth),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_heads", self.num_heads),
            ("patch_size", self.patch_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("spatial_merge_size", self.spatial_merge_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0 || *size > 1 << 16) {
            return Err(Error::Config(format!("`vision_config.{name}` must lie between 1 and {}", 1 << 16)));
        }
        if self.in_channels != 3 {
            return Err(Error::Config(format!("`vision_config.in_channels` is {}; allowed: 3", self.in_channels)));
        }
        if let Some(encoder) = &self.encoder {
            return encoder.check(self);
        }
        if self.out_hidden_size != hidden {
            let out = self.out_hidden_size;
            return Err(Error::Config(format!("`vision_config.out_hidden_size` is {out}; the decoder's `hidden_size` is {hidden}")));
        }
        if !self.hidden_size.is_multiple_of(self.num_heads) || !self.head_dim().is_multiple_of(4) {
            let (width, heads) = (self.hidden_size, self.num_heads);
            return Err(Error::Config(format!("`vision_config`: {width} units in {heads} heads; a head's width must be a multiple of 4")));
        }
        if self.window() == 0 {
            return Err(Error::Config(format!("`vision_config.window_size` is {}; it must hold one token", self.window_size)));
        }
        Ok(())
    }

    /// Holds the image processor and the tokenizer to what the tower was made for. `image`: the tokenizer's image token.
    ///
    /// # Errors
    /// [`Error::Config`], with both values.
    pub fn check_processor(&self, image: Option<u32>, patch: u32, merge: u32) -> Result<()> {
        let (patches, merges) = (self.patch_size, self.spatial_merge_size);
        if image != Some(self.image_token_id) {
            let found = image.map_or_else(|| "none".to_string(), |id| id.to_string());
            let expected = self.image_token_id;
            return Err(Error::Config(format!("`image_token_id` is {expected}, the tokenizer's image token is {found}")));
        }
        if (patch as usize, merge as usize) != (patches, merges) {
            return Err(Error::Config(format!(
                "patches of {patches} pixels, {merges} x {merges} a token; preprocessor_config.json has {patch}, {merge} x {merge}"
            )));
        }
        // The image processor counts a token for each patch, and so must the model.
        if let Some(encoder) = self.encoder.as_ref().filter(|encoder| encoder.tokens(1) != 1) {
            let strategy = if encoder.drops_first { "full" } else { "default" };
            return Err(Error::Config(format!(
                "a picture costs another number of tokens than it has patches; hint: `vision_feature_select_strategy` must be `{strategy}`"
            )));
        }
        Ok(())
    }

    /// Tokens that a picture of this grid costs: time (1), height and width, in patches.
    pub fn tokens(&self, grid: [u32; 3]) -> usize {
        let patches = grid.iter().map(|n| *n as usize).product();
        self.encoder.as_ref().map_or(patches / self.merged(), |encoder| encoder.tokens(patches))
    }

    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Numbers in one patch, all frames and channels.
    pub fn patch_width(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Side of a window of attention, tokens.
    pub fn window(&self) -> usize {
        self.window_size / self.spatial_merge_size / self.patch_size
    }

    /// Patches of one token.
    pub fn merged(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }

    /// Radians per patch of each rotary pair that follows one axis: a quarter of a head.
    pub(crate) fn frequencies(&self) -> Vec<f32> {
        let half = self.head_dim() / 2;
        (0..half / 2).map(|i| 1.0 / libm::powf(THETA as f32, (2 * i) as f32 / half as f32)).collect()
    }
}

/// Base of the tower's rotary angles.
const THETA: f64 = 10_000.0;
