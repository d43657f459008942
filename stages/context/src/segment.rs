//! Building segments: the one place where token ids of a context are written.
//!
//! In: texts, pictures and sampled ids. Out: [`Segment`]s that only ever grow. Image tokens are written by one function
//! alone, from a picture's own size; sampled ids go in as they were sampled; earlier turns are copied by id.

use crate::image::{ImageSettings, png_size};
use crate::tokenizer::{IMAGE_PAD, VISION_END, VISION_START};
use crate::{Error, Template, Tokenizer};
use schemas::{F32s, Frame, ImageSpan, Label, Segment, SegmentHead, Source, TurnSpan, U32s};

/// What stands in an observation's text for one picture.
pub const IMAGE: &str = "<image>";

/// A tokenizer and its template, ready to build segments.
#[derive(Debug)]
pub struct Context {
    pub tokenizer: Tokenizer,
    pub template: Template,
    pub images: ImageSettings,
}

/// A reply to be added to a segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The turn's number in its episode.
    pub turn: u32,
    /// Exactly as they were sampled, the token that ends the turn included where it was sampled.
    pub ids: Vec<u32>,
    /// One for each id where the policy's reply is trained; else empty.
    pub logprobs: Vec<f32>,
    /// `(version, count)`: which weights sampled the next `count` ids. Empty for the expert.
    pub versions: Vec<(u64, u32)>,
    pub source: Source,
    pub cut: bool,
    pub trainable: bool,
}

impl Context {
    /// Loads both files; pictures are cut as `images` says.
    ///
    /// # Errors
    /// As [`Tokenizer::from_files`].
    pub fn from_files(tokenizer_json: &[u8], tokenizer_config_json: &[u8], images: ImageSettings) -> Result<Context, Error> {
        let tokenizer = Tokenizer::from_files(tokenizer_json, tokenizer_config_json)?;
        let template = Template::new(&tokenizer)?;
        Ok(Context { tokenizer, template, images })
    }

    /// A new segment: the head's texts as one system prompt, then the carried turns. Nothing in the head's texts is taken
    /// for a picture or a special token.
    ///
    /// # Errors
    /// [`Error::Segment`] where the carried turns do not fit together.
    pub fn open(&self, head: &SegmentHead, number: u32) -> Result<Segment, Error> {
        let mut tokens = Vec::with_capacity(256);
        let texts = [&head.system, &head.instruction, &head.memory];
        let text = texts.into_iter().filter(|text| !text.is_empty()).map(String::as_str).collect::<Vec<_>>().join("\n");
        if text.is_empty() {
            tokens.extend_from_slice(&self.template.bare_head);
        } else {
            tokens.extend_from_slice(&self.template.system_prefix);
            self.tokenizer.encode_into(&text, &mut tokens);
            tokens.extend_from_slice(&self.template.system_suffix);
        }
        let start = tokens.len() as u32;
        let mut segment = Segment { number, turn_start: start, prompt_end: start, ..Segment::default() };
        if let Some(carried) = &head.carried {
            check(carried)?;
            segment.turns = carried.turns.iter().map(|span| moved(span, start)).collect();
            segment.images = carried.images.iter().map(|i| ImageSpan { offset: i.offset + start, ..i.clone() }).collect();
            tokens.extend_from_slice(&carried.tokens.0);
        }
        segment.tokens = U32s(tokens);
        Ok(segment)
    }

    /// Adds a turn's observation and asks for a reply: `turn_start` and `prompt_end` are set. With frames, each `<image>`
    /// of the text becomes a picture, in order; without any, `<image>` is text like the rest.
    ///
    /// # Errors
    /// [`Error::Placeholders`], [`Error::Picture`], [`Error::NoVisionTokens`]; the segment is then as it was.
    pub fn push_turn(&self, segment: &mut Segment, text: &str, frames: &[Frame]) -> Result<(), Error> {
        let placeholders = text.matches(IMAGE).count();
        if !frames.is_empty() && placeholders != frames.len() {
            return Err(Error::Placeholders { placeholders, frames: frames.len() });
        }
        let (tokens, images) = (segment.len(), segment.images.len());
        let added = self.observation(segment, text, frames);
        if added.is_err() {
            segment.tokens.0.truncate(tokens);
            segment.images.truncate(images);
            return added;
        }
        segment.turn_start = tokens as u32;
        segment.prompt_end = segment.len() as u32;
        Ok(())
    }

    fn observation(&self, segment: &mut Segment, text: &str, frames: &[Frame]) -> Result<(), Error> {
        segment.tokens.0.extend_from_slice(&self.template.user_prefix);
        let mut rest = text;
        for frame in frames {
            let (before, after) = rest.split_once(IMAGE).unwrap_or((rest, ""));
            self.tokenizer.encode_into(before, &mut segment.tokens.0);
            self.push_image(segment, frame)?;
            rest = after;
        }
        self.tokenizer.encode_into(rest, &mut segment.tokens.0);
        segment.tokens.0.extend_from_slice(&self.template.user_suffix);
        Ok(())
    }

    /// Writes the tokens of one picture: the only place that does. Their number follows from the picture's own size.
    fn push_image(&self, segment: &mut Segment, frame: &Frame) -> Result<(), Error> {
        let id = |token: &'static str| self.tokenizer.special_id(token).ok_or(Error::NoVisionTokens(token));
        let (start, pad, end) = (id(VISION_START)?, id(IMAGE_PAD)?, id(VISION_END)?);
        let wrong = |reason: String| Error::Picture { digest: frame.digest.clone(), reason };
        if !frame.png.is_empty() {
            let (width, height) = png_size(&frame.png).map_err(wrong)?;
            if (width, height) != (frame.width, frame.height) {
                let said = format!("its message says {} x {} pixels, its PNG {width} x {height}", frame.width, frame.height);
                return Err(wrong(said));
            }
        }
        let grid = self.images.grid(frame.height, frame.width).map_err(wrong)?;
        let len = self.images.tokens(grid);
        let tokens = &mut segment.tokens.0;
        tokens.push(start);
        let offset = tokens.len() as u32;
        tokens.extend(std::iter::repeat_n(pad, len as usize));
        tokens.push(end);
        segment.images.push(ImageSpan { offset, len, grid, digest: frame.digest.clone() });
        Ok(())
    }

    /// The ids of a reply that was written and not sampled: the expert's. It ends with the token that ends a turn.
    pub fn reply_ids(&self, text: &str) -> Vec<u32> {
        let mut ids = self.tokenizer.encode_text(text);
        ids.push(self.template.end_of_turn());
        ids
    }

    /// Adds a reply to the turn that was asked for, and closes the turn. Where the reply does not end with the token that
    /// ends a turn, the template's own is added after it, masked.
    ///
    /// # Errors
    /// [`Error::Segment`]: no turn is asked for, or log-probabilities or versions do not cover the ids.
    pub fn push_reply(&self, segment: &mut Segment, reply: Reply) -> Result<(), Error> {
        let wrong = |reason: String| Error::Segment { number: segment.number, reason };
        let count = reply.ids.len();
        let closed = segment.turns.last().map_or(0, |t| t.close);
        if segment.prompt_end as usize != segment.len() || segment.turn_start >= segment.prompt_end || segment.turn_start < closed {
            return Err(wrong(format!("a reply to turn {} came, but no turn is asked for", reply.turn)));
        }
        let sampled = reply.source == Source::Policy;
        if sampled && reply.trainable && reply.logprobs.len() != count {
            return Err(wrong(format!("turn {}: {} log-probabilities for {count} tokens", reply.turn, reply.logprobs.len())));
        }
        let versioned: u64 = reply.versions.iter().map(|(_, n)| u64::from(*n)).sum();
        if sampled && versioned != count as u64 {
            return Err(wrong(format!("turn {}: the versions cover {versioned} of {count} tokens", reply.turn)));
        }
        let start = segment.prompt_end;
        let ends = reply.ids.last() == Some(&self.template.end_of_turn());
        let tokens = &mut segment.tokens.0;
        tokens.extend_from_slice(&reply.ids);
        let end = tokens.len() as u32;
        if !ends {
            tokens.push(self.template.end_of_turn());
        }
        tokens.extend_from_slice(&self.template.after_end);
        if sampled && reply.trainable {
            segment.logprobs.0.extend_from_slice(&reply.logprobs);
        }
        segment.turns.push(TurnSpan {
            turn: reply.turn,
            start: segment.turn_start,
            reply: start,
            end,
            close: segment.tokens.0.len() as u32,
            trainable: reply.trainable,
            source: reply.source,
            versions: reply.versions,
            cut: reply.cut,
        });
        Ok(())
    }

    /// Keeps the expert's reply to the turn that is asked for as a label; the context stays as it is.
    pub fn push_label(&self, segment: &mut Segment, turn: u32, ids: Vec<u32>) {
        segment.labels.push(Label { turn, after: segment.prompt_end, tokens: U32s(ids) });
    }
}

fn moved(span: &TurnSpan, by: u32) -> TurnSpan {
    let TurnSpan { start, reply, end, close, .. } = *span;
    TurnSpan { start: start + by, reply: reply + by, end: end + by, close: close + by, trainable: false, ..span.clone() }
}

/// Refuses carried turns that do not lie one after the other, from the first token to the last.
fn check(carried: &Segment) -> Result<(), Error> {
    let wrong = |what: &str| Error::Segment { number: carried.number, reason: format!("the carried turns {what}") };
    let mut at = 0;
    for span in &carried.turns {
        if span.start != at || span.reply < span.start || span.end < span.reply || span.close < span.end {
            return Err(wrong("do not follow one another"));
        }
        at = span.close;
    }
    if at as usize != carried.len() {
        return Err(wrong("do not cover their tokens"));
    }
    let inside = |i: &ImageSpan| i.offset.checked_add(i.len).is_some_and(|end| end <= at);
    if !carried.images.iter().all(inside) {
        return Err(wrong("hold a picture that reaches over their end"));
    }
    Ok(())
}

/// Copies the last turns of a closed segment by id, from index `from` in its `turns` on, for a
/// [`SegmentHead::carried`]: masked, with their pictures, without log-probabilities and labels. Offsets count from the
/// copy's start. It needs no tokenizer.
pub fn carry(segment: &Segment, from: usize) -> Segment {
    let mut copy = Segment { number: segment.number, ..Segment::default() };
    let (Some(first), Some(last)) = (segment.turns.get(from), segment.turns.last()) else { return copy };
    let (start, end) = (first.start, last.close);
    copy.tokens = U32s(segment.tokens.0[start as usize..end as usize].to_vec());
    let back = |at: u32| at - start;
    copy.turns = segment.turns[from..]
        .iter()
        .map(|t| TurnSpan {
            start: back(t.start),
            reply: back(t.reply),
            end: back(t.end),
            close: back(t.close),
            trainable: false,
            ..t.clone()
        })
        .collect();
    let inside = segment.images.iter().filter(|i| i.offset >= start && i.offset < end);
    copy.images = inside.map(|i| ImageSpan { offset: back(i.offset), ..i.clone() }).collect();
    copy.prompt_end = end - start;
    copy.turn_start = end - start;
    copy.logprobs = F32s(vec![]);
    copy
}

/// The bounds of what is carried into a new segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CarryBounds {
    pub turns: usize,
    pub tokens: usize,
    pub images: usize,
}

/// The first turn, as an index into `turns`, from which the turns to the end stay within the bounds; `turns.len()` where
/// not even the last one does.
pub fn carry_from(segment: &Segment, bounds: CarryBounds) -> usize {
    let end = segment.turns.last().map_or(0, |t| t.close);
    let fits = |from: usize| {
        let start = segment.turns[from].start;
        let images = segment.images.iter().filter(|i| i.offset >= start && i.offset < end).count();
        segment.turns.len() - from <= bounds.turns && (end - start) as usize <= bounds.tokens && images <= bounds.images
    };
    (0..segment.turns.len()).find(|from| fits(*from)).unwrap_or(segment.turns.len())
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
