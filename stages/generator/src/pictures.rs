//! Pictures that prompts have shown, cut into patches, by digest.
//!
//! In: a prompt's frames and the spans of its segment. Out: the patches of every picture that the segment shows, or which digests
//! are missing. A prompt brings only its own turn's frames; those of earlier turns are remembered here, within a bound, and asked
//! for again where they are gone.

use crate::engine::Picture;
use context::ImageSettings;
use context::image::{Patches, Rgb};
use schemas::{Frame, ImageSpan};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Bytes of pictures and their patches that are remembered.
const LIMIT: usize = 256 << 20;

#[derive(Clone, Debug)]
struct Cut {
    grid: [u32; 3],
    patches: Arc<[u8]>,
    png: Arc<[u8]>,
    used: u64,
}

/// What a segment's pictures are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    All(Vec<Picture>),
    /// Digests of pictures that have to be sent again.
    Need(Vec<String>),
}

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Album {
    cut: BTreeMap<String, Cut>,
    by_use: BTreeMap<u64, String>,
    clock: u64,
    bytes: usize,
}

impl Album {
    /// Takes a prompt's frames in, and finds every picture of its segment.
    ///
    /// # Errors
    /// A frame that is broken or is not what its digest says, or a span that does not fit its picture.
    pub(crate) fn find(&mut self, settings: &ImageSettings, spans: &[ImageSpan], frames: &[Frame]) -> Result<Found, String> {
        let mut held: BTreeMap<String, Cut> = BTreeMap::new();
        let given: BTreeMap<&str, &Frame> = frames.iter().filter(|f| !f.png.is_empty()).map(|f| (f.digest.as_str(), f)).collect();
        let mut missing = BTreeSet::new();
        for span in spans.iter().filter(|span| !span.digest.is_empty()) {
            if held.contains_key(&span.digest) {
                continue;
            }
            let cut = match (self.known(&span.digest), given.get(span.digest.as_str())) {
                (Some(cut), _) => cut,
                (None, Some(frame)) => self.take_in(settings, frame)?,
                (None, None) => {
                    missing.insert(span.digest.clone());
                    continue;
                }
            };
            held.insert(span.digest.clone(), cut);
        }
        self.forget_oldest();
        if !missing.is_empty() {
            return Ok(Found::Need(missing.into_iter().collect()));
        }
        let picture = |span: &ImageSpan| {
            let wrong = |what: String| format!("picture {} at token {}: {what}", span.digest, span.offset);
            let cut = held.get(&span.digest).ok_or_else(|| wrong("it has no digest".into()))?;
            if cut.grid != span.grid || settings.tokens(span.grid) != span.len {
                let (len, grid) = (span.len, span.grid);
                return Err(wrong(format!("the segment says {len} tokens of a grid of {grid:?}, the picture has one of {:?}", cut.grid)));
            }
            let digest = blake3::Hash::from_hex(&span.digest).map_err(|e| wrong(e.to_string()))?;
            Ok(Picture {
                digest: *digest.as_bytes(),
                offset: span.offset,
                grid: span.grid,
                patches: cut.patches.clone(),
                png: cut.png.clone(),
            })
        };
        spans.iter().map(picture).collect::<Result<_, String>>().map(Found::All)
    }

    fn known(&mut self, digest: &str) -> Option<Cut> {
        let cut = self.cut.get_mut(digest)?;
        self.by_use.remove(&cut.used);
        self.clock += 1;
        cut.used = self.clock;
        self.by_use.insert(self.clock, digest.to_string());
        Some(cut.clone())
    }

    fn take_in(&mut self, settings: &ImageSettings, frame: &Frame) -> Result<Cut, String> {
        let Patches { grid, bytes } = cut(settings, frame)?;
        self.clock += 1;
        self.bytes += bytes.len() + frame.png.len();
        let cut = Cut { grid, patches: bytes.into(), png: frame.png.as_slice().into(), used: self.clock };
        self.by_use.insert(self.clock, frame.digest.clone());
        self.cut.insert(frame.digest.clone(), cut.clone());
        Ok(cut)
    }

    fn forget_oldest(&mut self) {
        while self.bytes > LIMIT {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some(gone) = self.cut.remove(&oldest) {
                self.bytes -= gone.patches.len() + gone.png.len();
            }
        }
    }
}

/// A frame's patches, once its bytes are what its digest says.
fn cut(settings: &ImageSettings, frame: &Frame) -> Result<Patches, String> {
    let wrong = |what: String| format!("picture {}: {what}", frame.digest);
    let digest = schemas::digest_of(&frame.png);
    if digest != frame.digest {
        return Err(wrong(format!("its bytes have digest {digest}; hint: it was changed on its way")));
    }
    Rgb::from_png(&frame.png).and_then(|rgb| settings.patches(&rgb)).map_err(wrong)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A PNG of one colour.
    pub(crate) fn frame(level: u8, width: u32, height: u32) -> Frame {
        let mut png = vec![];
        let mut encoder = png::Encoder::new(&mut png, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&vec![level; (3 * width * height) as usize]).unwrap();
        writer.finish().unwrap();
        Frame { digest: schemas::digest_of(&png), png, width, height, camera: "navigation".into() }
    }

    fn span(offset: u32, frame: &Frame) -> ImageSpan {
        let settings = ImageSettings::default();
        let grid = settings.grid(frame.height, frame.width).unwrap();
        ImageSpan { offset, len: settings.tokens(grid), grid, digest: frame.digest.clone() }
    }

    #[test]
    fn earlier_pictures_are_remembered_and_unknown_ones_asked_for() {
        let (mut album, settings) = (Album::default(), ImageSettings::default());
        let (first, second) = (frame(10, 84, 56), frame(20, 56, 84));
        let spans = [span(3, &first), span(20, &second)];
        let needed = album.find(&settings, &spans, std::slice::from_ref(&second)).unwrap();
        assert_eq!(needed, Found::Need(vec![first.digest.clone()]));
        let Found::All(all) = album.find(&settings, &spans, std::slice::from_ref(&first)).unwrap() else { panic!("both are there") };
        assert_eq!((all[0].offset, all[0].grid, all[0].patches.len()), (3, [1, 4, 6], 84 * 56 * 3));
        assert!(matches!(album.find(&settings, &spans, &[]), Ok(Found::All(_))));
        assert_eq!(all[0].digest, *blake3::hash(&first.png).as_bytes());
    }

    #[test]
    fn a_picture_that_is_not_what_it_is_said_to_be_is_refused() {
        let (mut album, settings) = (Album::default(), ImageSettings::default());
        let good = frame(10, 84, 56);
        let changed = Frame { png: frame(11, 84, 56).png, ..good.clone() };
        assert!(album.find(&settings, &[span(0, &good)], &[changed]).unwrap_err().contains("changed on its way"));
        let cut = Frame { png: good.png[..40].to_vec(), digest: schemas::digest_of(&good.png[..40]), ..good.clone() };
        let of_cut = ImageSpan { digest: cut.digest.clone(), ..span(0, &good) };
        assert!(album.find(&settings, &[of_cut], &[cut]).unwrap_err().contains("broken"));
        let longer = ImageSpan { len: 7, ..span(0, &good) };
        assert!(album.find(&settings, &[longer], &[good]).unwrap_err().contains("7 tokens of a grid"));
    }
}
