//! Pictures within a token sequence, and the positions of the tokens around them.
//!
//! In: the image processor's patches, and where their tokens lie. Out: pixel rows for the vision tower, and M-RoPE's positions.

use crate::config::{EncoderKind, VisionConfig};
use crate::{Error, Result};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// What each level of each channel becomes: `(level / 255 - mean) / std`, as the image processor computes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Levels(pub Arc<[[f32; 256]; 3]>);

/// A still picture that stands in place of a run of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// First of its tokens.
    pub offset: u32,
    /// Patches: time (1), height, width. Its tokens are their product over the patches of one token.
    pub grid: [u32; 3],
    /// `[patches, channels, patch, patch]`, the patches of one token side by side, tokens row by row.
    pub patches: Arc<[u8]>,
    pub levels: Levels,
}

/// Names a picture by what it holds.
pub type Digest = [u8; 32];

/// A picture of a request, and the name by which what the tower made of it is found again.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub picture: Picture,
    pub digest: Digest,
}

impl Picture {
    /// A name for callers that have none: of the grid and all patches.
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        self.grid.iter().for_each(|n| {
            hasher.update(&n.to_le_bytes());
        });
        *hasher.update(&self.patches).finalize().as_bytes()
    }

    /// Patches of the picture.
    pub(crate) fn rows(&self) -> usize {
        self.grid.iter().map(|n| *n as usize).product()
    }

    /// Tokens that stand for it.
    pub fn tokens(&self, vision: &VisionConfig) -> usize {
        vision.tokens(self.grid)
    }

    /// One past its last token.
    pub(crate) fn end(&self, vision: &VisionConfig) -> usize {
        self.offset as usize + self.tokens(vision)
    }

    /// Says what is wrong with the picture, where something is.
    pub(crate) fn check(&self, vision: &VisionConfig) -> std::result::Result<(), String> {
        let [time, height, width] = self.grid;
        let merge = vision.spatial_merge_size as u32;
        if time != 1 || height == 0 || width == 0 || height % merge != 0 || width % merge != 0 || height.max(width) > 1 << 14 {
            return Err(format!("a picture's grid is {:?}; expected [1, h, w] with h and w multiples of {merge}", self.grid));
        }
        let fixed = vision.encoder.as_ref().filter(|encoder| encoder.kind == EncoderKind::Siglip);
        let side = fixed.map(|encoder| (encoder.image_size / vision.patch_size) as u32);
        if let Some(side) = side.filter(|side| [*side, *side] != [height, width]) {
            return Err(format!("a picture's grid is {:?}; the encoder takes [1, {side}, {side}] alone", self.grid));
        }
        if vision.tokens(self.grid) == 0 {
            return Err("a picture of one patch, whose only token the encoder leaves out".into());
        }
        let expected = self.rows() * vision.in_channels * vision.patch_size * vision.patch_size;
        if self.patches.len() != expected {
            let [h, w] = [height, width];
            return Err(format!("a picture of {h} x {w} patches has {} bytes; expected {expected}", self.patches.len()));
        }
        Ok(())
    }
}

/// Checks pictures against the tokens that they stand for: whole, in rising order, on image tokens and nothing else.
pub(crate) fn check(pictures: &[Picture], tokens: &[u32], vision: Option<&VisionConfig>) -> std::result::Result<(), String> {
    let Some(vision) = vision else {
        return if pictures.is_empty() { Ok(()) } else { Err("pictures for a model without eyes".into()) };
    };
    let mut free_from = 0;
    for picture in pictures {
        picture.check(vision)?;
        let (start, end) = (picture.offset as usize, picture.end(vision));
        if start < free_from || end > tokens.len() {
            let len = tokens.len();
            return Err(format!(
                "a picture's tokens {start}..{end} must lie in {free_from}..{len}; hint: a picture is cut off or copied twice"
            ));
        }
        if let Some(id) = tokens[start..end].iter().find(|id| **id != vision.image_token_id) {
            return Err(format!("token {id} stands within a picture's tokens; expected {}", vision.image_token_id));
        }
        let between = &tokens[free_from..start];
        free_from = end;
        no_image_token(between, vision)?;
    }
    no_image_token(&tokens[free_from..], vision)
}

fn no_image_token(tokens: &[u32], vision: &VisionConfig) -> std::result::Result<(), String> {
    match tokens.iter().filter(|id| **id == vision.image_token_id).count() {
        0 => Ok(()),
        count => Err(format!("{count} image tokens without a picture")),
    }
}

/// Time, height and width of each token, and the position of the token that would follow: text counts on. Behind a tower a picture's tokens
/// count their place in it from where it begins, and after it the count goes on past its longer side.
pub(crate) fn positions(count: usize, pictures: &[Picture], vision: Option<&VisionConfig>) -> (Vec<[i64; 3]>, i64) {
    let mut all = Vec::with_capacity(count);
    let mut next = 0;
    for picture in pictures {
        let Some(vision) = vision else { break };
        count_on(&mut all, (picture.offset as usize).min(count), &mut next);
        if vision.encoder.is_some() {
            // A decoder with positions of one axis counts a picture's tokens like any others.
            count_on(&mut all, picture.end(vision).min(count), &mut next);
            continue;
        }
        let merge = vision.spatial_merge_size as i64;
        let (height, width) = (i64::from(picture.grid[1]) / merge, i64::from(picture.grid[2]) / merge);
        all.extend((0..height * width).map(|cell| [next, next + cell / width, next + cell % width]));
        next += height.max(width);
    }
    count_on(&mut all, count, &mut next);
    (all, next)
}

/// What a request with pictures has beside its tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sights {
    /// Time, height and width of each token of the prompt.
    positions: Vec<[u32; 3]>,
    /// Position of the first token after the prompt.
    next: u32,
    /// Tokens and digest of each picture, in their order.
    pub(crate) spans: Vec<(std::ops::Range<usize>, Digest)>,
}

impl Sights {
    /// Of pictures that were checked against the tokens; none where there are no pictures.
    pub(crate) fn of(count: usize, shown: &[Shown], vision: Option<&VisionConfig>) -> Option<Sights> {
        let vision = vision.filter(|_| !shown.is_empty())?;
        let pictures: Vec<Picture> = shown.iter().map(|shown| shown.picture.clone()).collect();
        let (positions, next) = positions(count, &pictures, Some(vision));
        let span = |shown: &Shown| (shown.picture.offset as usize..shown.picture.end(vision), shown.digest);
        let positions = positions.into_iter().map(|axes| axes.map(|axis| axis as u32)).collect();
        Some(Sights { positions, next: next as u32, spans: shown.iter().map(span).collect() })
    }

    /// The position of the token of this number, sampled ones included.
    pub(crate) fn position(&self, token: usize) -> [u32; 3] {
        let count = self.positions.len();
        self.positions.get(token).copied().unwrap_or_else(|| [self.next + (token - count) as u32; 3])
    }

    /// Pictures with a token in a range, by number.
    pub(crate) fn within(&self, tokens: std::ops::Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let overlaps = move |span: &std::ops::Range<usize>| span.start < tokens.end && tokens.start < span.end;
        self.spans.iter().enumerate().filter(move |(_, (span, _))| overlaps(span)).map(|(number, _)| number)
    }
}

fn count_on(all: &mut Vec<[i64; 3]>, upto: usize, next: &mut i64) {
    while all.len() < upto {
        all.push([*next; 3]);
        *next += 1;
    }
}

/// Pixel rows of all patches, `[patches, channels * frames * patch * patch]`: a still picture is every frame of its patches.
pub(crate) fn pixels(pictures: &[&Picture], vision: &VisionConfig, device: Device, kind: Kind) -> Result<Tensor> {
    let (channels, area) = (vision.in_channels as i64, (vision.patch_size * vision.patch_size) as i64);
    let mut all = Vec::with_capacity(pictures.len());
    for picture in pictures {
        picture.check(vision).map_err(Error::Options)?;
        let levels = Tensor::f_from_slice(picture.levels.0.as_flattened())?.f_to_device(device)?;
        let bytes = Tensor::f_from_slice(&picture.patches)?.f_to_device(device)?.f_view([-1, channels, 1, area])?;
        let offsets = Tensor::arange_start_step(0, 256 * channels, 256, (Kind::Int64, device)).view([1, channels, 1, 1]);
        let places = bytes.to_kind(Kind::Int64) + offsets;
        let values = levels.index_select(0, &places.flatten(0, -1)).view([-1, channels, 1, area]);
        let frames = values.expand([-1, channels, vision.temporal_patch_size as i64, area], true);
        all.push(frames.reshape([-1, vision.patch_width() as i64]));
    }
    Ok(Tensor::f_cat(&all, 0)?.f_to_kind(kind)?)
}
