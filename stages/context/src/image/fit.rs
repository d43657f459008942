//! How pictures are brought to the size that a model takes.

use super::patches::Rgb;
use super::resize::resize;
use super::{MAX_ASPECT, MAX_PIXELS};
use serde::Deserialize;

/// How pictures are brought to size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Fit {
    /// The shape is kept and the area brought between two bounds: Qwen2-VL's rule.
    Area,
    /// Every picture to these sides, whatever its shape: SigLIP's.
    Exact { height: u32, width: u32 },
    /// The shorter side to this length, the shape kept, and the middle cut out: DINOv2's.
    Crop { shortest: u32, height: u32, width: u32 },
}

/// `size` or `crop_size`, as a `preprocessor_config.json` has them.
#[derive(Default, Deserialize)]
pub(super) struct Size {
    pub(super) shortest_edge: Option<u64>,
    pub(super) longest_edge: Option<u64>,
    height: Option<u64>,
    width: Option<u64>,
}

impl Fit {
    /// Which rule a file's sizes are of.
    pub(super) fn of(size: &Size, crop: Option<&Size>) -> Result<Fit, String> {
        let side = |name: &str, side: Option<u64>| {
            let fits = side.and_then(|side| u32::try_from(side).ok()).filter(|side| (1..=1 << 14).contains(side));
            fits.ok_or_else(|| format!("`{name}` must be 1 to {}", 1 << 14))
        };
        match crop {
            Some(crop) => {
                let shortest = side("size.shortest_edge", size.shortest_edge)?;
                let (height, width) = (side("crop_size.height", crop.height)?, side("crop_size.width", crop.width)?);
                if height.max(width) > shortest {
                    return Err(format!("crop_size {height} x {width} is larger than shortest_edge {shortest}; nothing is padded"));
                }
                Ok(Fit::Crop { shortest, height, width })
            }
            None if size.height.is_some() || size.width.is_some() => {
                Ok(Fit::Exact { height: side("size.height", size.height)?, width: side("size.width", size.width)? })
            }
            None => Ok(Fit::Area),
        }
    }

    /// Height and width of what is cut into patches, for a picture of these sides; [`Fit::Area`] leaves them alone.
    ///
    /// # Errors
    /// Text for people: a side of 0, a side under a patch, or a shape that resizing would blow up.
    pub(super) fn sides(self, height: u32, width: u32, patch: u32) -> Result<(u32, u32), String> {
        if height == 0 || width == 0 {
            return Err(format!("{width} x {height} pixels is no size"));
        }
        let (h, w) = match self {
            Fit::Area => (height, width),
            Fit::Exact { height, width } => (height, width),
            Fit::Crop { shortest, height: h, width: w } => {
                let (tall, wide) = scaled(shortest, height, width);
                if f64::from(height.max(width)) > MAX_ASPECT * f64::from(height.min(width))
                    || u64::from(tall) * u64::from(wide) > MAX_PIXELS
                {
                    return Err(format!("{width} x {height} pixels is longer than {MAX_ASPECT} to 1, or too large once resized"));
                }
                (h, w)
            }
        };
        if h < patch || w < patch {
            return Err(format!("{w} x {h} pixels is less than a patch of {patch}"));
        }
        Ok((h, w))
    }

    /// The picture resized and cut; [`Fit::Area`] leaves it alone.
    pub(super) fn apply(self, picture: &Rgb) -> Rgb {
        match self {
            Fit::Area => picture.clone(),
            Fit::Exact { height, width } => resize(picture, width, height),
            Fit::Crop { shortest, height, width } => {
                let (tall, wide) = scaled(shortest, picture.height, picture.width);
                middle(&resize(picture, wide, tall), height, width)
            }
        }
    }
}

/// Height and width once the shorter side has a length; the longer one is rounded down.
fn scaled(shortest: u32, height: u32, width: u32) -> (u32, u32) {
    let (short, long) = (height.min(width), height.max(width));
    let to = (f64::from(shortest) * f64::from(long) / f64::from(short)) as u32;
    if width <= height { (to, shortest) } else { (shortest, to) }
}

/// The middle of a picture that is no smaller; an odd pixel is left over at the bottom and the right.
fn middle(picture: &Rgb, height: u32, width: u32) -> Rgb {
    let (top, left) = ((picture.height - height) as usize / 2, (picture.width - width) as usize / 2);
    let row = 3 * picture.width as usize;
    let cut = |y: usize| &picture.pixels[(top + y) * row + 3 * left..][..3 * width as usize];
    Rgb { width, height, pixels: (0..height as usize).flat_map(cut).copied().collect() }
}
