//! Pictures in chat requests.
//!
//! In: `image_url` parts whose URL holds the picture itself, and the prompt's text with a mark in the place of each. Out: token
//! ids in which each picture has as many image tokens as the vision tower gives features, and the pictures cut into patches.
//! Nothing is fetched from elsewhere, and nothing larger than [`MOST_PIXELS`] is decoded.

use super::ApiError;
use super::text::Text;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use context::ImageSettings;
use context::image::{Rgb, png_size};
use context::tokenizer::{IMAGE_PAD, VISION_END, VISION_START};
use policy::{Levels, Picture, Shown};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Pictures of one request.
const MOST: usize = 64;
/// Pixels of one picture before it is resized: a small file may hold very many.
const MOST_PIXELS: u64 = 1 << 24;

/// What a policy with eyes needs to take pictures in.
#[derive(Clone, Debug)]
pub(crate) struct Eyes {
    settings: ImageSettings,
    levels: Levels,
    start: u32,
    pad: u32,
    end: u32,
}

impl Eyes {
    /// Of a folder whose config.json has a vision tower; `id` knows the tokenizer's special tokens.
    pub(crate) fn open(folder: &Path, config: &Value, id: impl Fn(&str) -> Option<u32>) -> Result<Option<Eyes>, String> {
        if !config["vision_config"].is_object() {
            return Ok(None);
        }
        let path = folder.join("preprocessor_config.json");
        let json = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let settings = ImageSettings::from_json(&json).map_err(|e| format!("{}: {e}", folder.display()))?;
        let token = |text: &str| id(text).ok_or_else(|| format!("tokenizer.json has no `{text}`"));
        let levels = Levels(Arc::new(settings.levels()));
        let eyes = Eyes { settings, levels, start: token(VISION_START)?, pad: token(IMAGE_PAD)?, end: token(VISION_END)? };
        Ok(Some(eyes))
    }

    /// Ids that no reply may hold.
    pub(crate) fn ids(&self) -> [u32; 3] {
        [self.start, self.pad, self.end]
    }

    /// The picture of a part `{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`.
    pub(crate) fn read(&self, part: &Value) -> Result<Picture, ApiError> {
        let wrong = |what: String| ApiError::param("image_url", what);
        let url = part["image_url"]["url"].as_str().or_else(|| part["image_url"].as_str());
        let url = url.ok_or_else(|| wrong("an image_url part has no url".into()))?;
        let Some(data) = url.strip_prefix("data:image/png;base64,") else {
            let shown: String = url.chars().take(40).collect();
            return Err(wrong(format!("the picture's url begins with `{shown}`; allowed: data:image/png;base64,")));
        };
        let png = STANDARD.decode(data.trim()).map_err(|e| wrong(format!("the picture's base64 is broken: {e}")))?;
        let (width, height) = png_size(&png).map_err(&wrong)?;
        if u64::from(width) * u64::from(height) > MOST_PIXELS {
            return Err(wrong(format!("a picture of {width} x {height} pixels; at most {MOST_PIXELS} are taken")));
        }
        self.settings.grid(height, width).map_err(&wrong)?;
        let cut = Rgb::from_png(&png).and_then(|rgb| self.settings.patches(&rgb)).map_err(&wrong)?;
        Ok(Picture { offset: 0, grid: cut.grid, patches: cut.bytes.into(), levels: self.levels.clone() })
    }

    /// The ids of a prompt in which [`mark`] stands for each picture, in order, and the pictures at their places.
    pub(crate) fn place(&self, text: &Text, prompt: &str, pictures: Vec<Picture>) -> Result<(Vec<u32>, Vec<Shown>), ApiError> {
        let (mut ids, mut shown, mut rest) = (vec![], Vec::with_capacity(pictures.len()), prompt);
        let words = |words: &str, ids: &mut Vec<u32>| -> Result<(), ApiError> {
            let more = text.encode(words, false)?;
            if more.contains(&self.pad) {
                return Err(ApiError::bad(format!("the text holds {IMAGE_PAD}; hint: pictures are image_url parts")));
            }
            ids.extend(more);
            Ok(())
        };
        for (number, mut picture) in pictures.into_iter().enumerate() {
            let (before, after) =
                rest.split_once(&mark(number)).ok_or_else(|| ApiError::bad("the chat template leaves pictures out of its text"))?;
            words(before, &mut ids)?;
            rest = after;
            ids.push(self.start);
            picture.offset = ids.len() as u32;
            ids.extend(std::iter::repeat_n(self.pad, self.settings.tokens(picture.grid) as usize));
            ids.push(self.end);
            shown.push(Shown { digest: picture.digest(), picture });
        }
        words(rest, &mut ids)?;
        Ok((ids, shown))
    }
}

/// What stands for a picture while the template is filled in: two of Unicode's private characters around its number.
pub(crate) fn mark(number: usize) -> String {
    format!("\u{f8fe}{number}\u{f8fd}")
}

/// Checks that one more picture is not too many.
pub(crate) fn room(pictures: usize) -> Result<(), ApiError> {
    if pictures < MOST { Ok(()) } else { Err(ApiError::bad(format!("a request holds more than {MOST} pictures"))) }
}

/// Checks that no text of a client's passes for a picture.
pub(crate) fn unmarked(text: &str) -> Result<(), ApiError> {
    match text.contains(['\u{f8fe}', '\u{f8fd}']) {
        true => Err(ApiError::bad("U+F8FE and U+F8FD may not stand in a message to a model that takes pictures")),
        false => Ok(()),
    }
}
