//! The image processor: a picture's size in tokens, and its patches.
//!
//! The rule of sizes is Qwen2-VL's `smart_resize`: both sides become multiples of `patch * merge` and the area is brought between
//! two bounds, the shape kept as well as it can be. Encoders that stand alone take pictures of one size: [`Fit`]. The patches are those of transformers' processor over Pillow, bit for bit.

mod fit;
mod patches;
mod resize;

pub use fit::Fit;
pub use patches::{Patches, Rgb};

use crate::Error;
use serde::{Deserialize, Serialize};

/// How pictures are cut into patches, as `preprocessor_config.json` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageSettings {
    /// Side of a patch in pixels.
    pub patch: u32,
    /// Patches merged into one token, along each side.
    pub merge: u32,
    /// Least and greatest area in pixels after resizing.
    pub min_pixels: u64,
    pub max_pixels: u64,
    /// Of each channel, levels counted from 0 to 1.
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// How pictures are brought to size.
    pub fit: Fit,
}

impl Default for ImageSettings {
    /// The settings of Qwen2.5-VL's checkpoints.
    fn default() -> Self {
        ImageSettings {
            patch: 14,
            merge: 2,
            min_pixels: 3136,
            max_pixels: 12_845_056,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            fit: Fit::Area,
        }
    }
}

/// Pillow's number of the filter.
const BICUBIC: u32 = 3;
/// The longest side may be this many times the shortest.
const MAX_ASPECT: f64 = 200.0;
/// The greatest area that settings may allow: patches then always count in 32 bits.
const MAX_PIXELS: u64 = 1 << 30;

impl ImageSettings {
    /// Reads a `preprocessor_config.json`. The bounds may be `min_pixels` and `max_pixels`, or `size` with
    /// `shortest_edge` and `longest_edge`, which then are areas too. A `size` of `height` and `width`, or a `crop_size`, is an encoder's:
    /// [`Fit`]. A key that is missing takes the default.
    ///
    /// # Errors
    /// [`Error::ImageSettings`] where it is no JSON object of that kind, or a value is 0 or out of order.
    pub fn from_json(json: &[u8]) -> Result<ImageSettings, Error> {
        #[derive(Deserialize)]
        struct File {
            patch_size: Option<u32>,
            merge_size: Option<u32>,
            min_pixels: Option<u64>,
            max_pixels: Option<u64>,
            size: Option<fit::Size>,
            crop_size: Option<fit::Size>,
            do_center_crop: Option<bool>,
            image_mean: Option<[f64; 3]>,
            image_std: Option<[f64; 3]>,
            temporal_patch_size: Option<u32>,
            resample: Option<u32>,
            rescale_factor: Option<f64>,
            do_resize: Option<bool>,
            do_rescale: Option<bool>,
            do_normalize: Option<bool>,
        }
        let file: File = serde_json::from_slice(json).map_err(|e| Error::ImageSettings(e.to_string()))?;
        let size = file.size.unwrap_or_default();
        let default = ImageSettings::default();
        let other =
            |key: &str, allowed: &str| Err(Error::ImageSettings(format!("`{key}` is another than {allowed}, the only one that is known")));
        if file.do_resize == Some(false) || file.do_rescale == Some(false) || file.do_normalize == Some(false) {
            return other("do_resize, do_rescale or do_normalize", "true");
        }
        if file.temporal_patch_size.is_some_and(|frames| frames != 2) {
            return other("temporal_patch_size", "2");
        }
        if file.resample.is_some_and(|filter| filter != BICUBIC) {
            return other("resample", "3 (bicubic)");
        }
        if file.rescale_factor.is_some_and(|factor| (factor - 1.0 / 255.0).abs() > 1e-12) {
            return other("rescale_factor", "1/255");
        }
        let cropped = file.crop_size.filter(|_| file.do_center_crop != Some(false));
        let fit = Fit::of(&size, cropped.as_ref()).map_err(Error::ImageSettings)?;
        // Encoders merge no patches; SigLIP's levels lie between -1 and 1.
        let merge = if fit == Fit::Area { default.merge } else { 1 };
        let plain = if matches!(fit, Fit::Exact { .. }) { [[0.5; 3]; 2] } else { [default.mean, default.std] };
        let settings = ImageSettings {
            patch: file.patch_size.unwrap_or(default.patch),
            merge: file.merge_size.unwrap_or(merge),
            min_pixels: file.min_pixels.or(size.shortest_edge).unwrap_or(default.min_pixels),
            max_pixels: file.max_pixels.or(size.longest_edge).unwrap_or(default.max_pixels),
            mean: file.image_mean.unwrap_or(plain[0]),
            std: file.image_std.unwrap_or(plain[1]),
            fit,
        };
        if settings.mean.iter().chain(&settings.std).any(|n| !n.is_finite()) || settings.std.iter().any(|n| *n <= 0.0) {
            return Err(Error::ImageSettings("image_mean must be numbers and image_std numbers over 0".into()));
        }
        if settings.patch == 0 || settings.merge == 0 || settings.patch > 1024 || settings.merge > 64 {
            return Err(Error::ImageSettings("patch_size must be 1 to 1024 and merge_size 1 to 64".into()));
        }
        if settings.merge != 1 && settings.fit != Fit::Area {
            return Err(Error::ImageSettings("merge_size must be 1 where pictures have one size".into()));
        }
        if settings.max_pixels < settings.min_pixels || settings.max_pixels < u64::from(settings.factor()).pow(2) {
            return Err(Error::ImageSettings("max_pixels must be at least min_pixels and one token's area".into()));
        }
        if settings.max_pixels > MAX_PIXELS {
            return Err(Error::ImageSettings(format!("max_pixels {} is over {MAX_PIXELS}", settings.max_pixels)));
        }
        Ok(settings)
    }

    /// Side of a token in pixels.
    pub fn factor(&self) -> u32 {
        self.patch * self.merge
    }

    /// Hex BLAKE3 of the settings, for `PolicyPublished::image_processor`.
    pub fn digest(&self) -> String {
        let ImageSettings { patch, merge, min_pixels, max_pixels, mean, std, fit } = self;
        let text = format!("patch={patch} merge={merge} min_pixels={min_pixels} max_pixels={max_pixels} mean={mean:?} std={std:?}");
        let text = if *fit == Fit::Area { text } else { format!("{text} fit={fit:?}") };
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// Height and width in pixels after resizing.
    ///
    /// # Errors
    /// Text for people: a side of 0, or a shape longer than 200 to 1.
    pub fn smart_resize(&self, height: u32, width: u32) -> Result<(u32, u32), String> {
        if height == 0 || width == 0 {
            return Err(format!("{width} x {height} pixels is no size"));
        }
        let (h, w, factor) = (f64::from(height), f64::from(width), f64::from(self.factor()));
        if h.max(w) / h.min(w) > MAX_ASPECT {
            return Err(format!("{width} x {height} pixels is longer than {MAX_ASPECT} to 1"));
        }
        // Halves go to the even side, as in Python: 70 / 28 = 2.5 gives 2.
        let round = |side: f64| (side / factor).round_ties_even() * factor;
        let (mut to_h, mut to_w) = (round(h), round(w));
        let (least, greatest) = (self.min_pixels as f64, self.max_pixels as f64);
        if to_h * to_w > greatest {
            let beta = (h * w / greatest).sqrt();
            let shrink = |side: f64| ((side / beta / factor).floor() * factor).max(factor);
            (to_h, to_w) = (shrink(h), shrink(w));
        } else if to_h * to_w < least {
            let beta = (least / (h * w)).sqrt();
            let grow = |side: f64| (side * beta / factor).ceil() * factor;
            (to_h, to_w) = (grow(h), grow(w));
        }
        if to_h < factor || to_w < factor {
            return Err(format!("{width} x {height} pixels has a side under half of a token's {factor}"));
        }
        Ok((to_h as u32, to_w as u32))
    }

    /// Patches of one still picture: time (1), height, width.
    ///
    /// # Errors
    /// As [`ImageSettings::smart_resize`].
    pub fn grid(&self, height: u32, width: u32) -> Result<[u32; 3], String> {
        let (h, w) = match self.fit {
            Fit::Area => self.smart_resize(height, width)?,
            fit => fit.sides(height, width, self.patch)?,
        };
        Ok([1, h / self.patch, w / self.patch])
    }

    /// Placeholder tokens of a grid: `t * h * w / merge²`.
    pub fn tokens(&self, grid: [u32; 3]) -> u32 {
        grid.iter().product::<u32>() / (self.merge * self.merge)
    }
}

/// Width and height in pixels, from a PNG's header.
///
/// # Errors
/// Text for people, where the bytes do not begin as a PNG does.
pub fn png_size(bytes: &[u8]) -> Result<(u32, u32), String> {
    const SIGNATURE: [u8; 8] = [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n'];
    // Signature, then the first chunk: its length, `IHDR`, width, height.
    let number = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    match (number(16), number(20)) {
        (Some(width), Some(height)) if bytes.starts_with(&SIGNATURE) && &bytes[12..16] == b"IHDR" => {
            if width == 0 || height == 0 {
                return Err(format!("a PNG of {width} x {height} pixels"));
            }
            Ok((width, height))
        }
        _ => Err(format!("{} bytes that are no PNG", bytes.len())),
    }
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
