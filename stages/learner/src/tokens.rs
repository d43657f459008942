//! Which tokens are trained: ends in, sequences out, and the count that must add up.
//!
//! **Trained tokens = sampled tokens − named masks.** What was sampled is counted from the end's turns, what is trained from
//! its segments: two records of one thing, written by two stages. Any difference stops the run.

use schemas::{End, EpisodeId, Frame, Mode, Segment, Source};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A run of trained tokens: `tokens[start..end]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
    pub advantage: f32,
}

/// A label, trained after `tokens[..after]` and seen by no other token.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    pub after: u32,
    pub tokens: Vec<u32>,
    pub weight: f32,
}

/// One segment, and what is learned from it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub trained: Vec<Span>,
    /// Of the trained tokens, in order; empty where nothing was sampled.
    pub old_logprobs: Vec<f32>,
    pub branches: Vec<Branch>,
    pub pictures: Vec<Shown>,
}

/// A picture in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// First of its tokens.
    pub offset: u32,
    /// Its tokens.
    pub len: u32,
    /// Hex BLAKE3 of `png`.
    pub digest: String,
    pub png: Arc<[u8]>,
}

impl Sequence {
    /// Tokens that are trained, labels included.
    pub fn trained_tokens(&self) -> u64 {
        let spans: u64 = self.trained.iter().map(|s| u64::from(s.end - s.start)).sum();
        spans + self.branches.iter().map(|b| b.tokens.len() as u64).sum::<u64>()
    }
}

/// What is learned from an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lesson {
    /// The replies as they are (modes `Expert` and `Format`).
    Replies,
    /// The expert's labels beside them (mode `Dagger`).
    Labels,
    /// The policy's own tokens, by advantage (mode `Policy`).
    Sampled,
}

impl Lesson {
    pub fn of(mode: Mode) -> Lesson {
        match mode {
            Mode::Expert | Mode::Format => Lesson::Replies,
            Mode::Dagger => Lesson::Labels,
            Mode::Policy => Lesson::Sampled,
        }
    }
}

/// How an episode's tokens add up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tokens of all replies, the expert's and the labels' included.
    pub sampled: u64,
    /// By name: tokens that were sampled and are not trained.
    pub masked: BTreeMap<String, u64>,
    pub trained: u64,
}

impl Counts {
    pub fn adds_up(&self) -> bool {
        self.sampled == self.trained + self.masked.values().sum::<u64>()
    }

    pub fn add(&mut self, other: &Counts) {
        self.sampled += other.sampled;
        self.trained += other.trained;
        for (name, count) in &other.masked {
            *self.masked.entry(name.clone()).or_insert(0) += count;
        }
    }
}

/// Why a run must stop: its tokens are not what they were said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("{id}, segment {segment}: {reason}")]
    Segment { id: EpisodeId, segment: u32, reason: String },
    #[error("{id}, picture {digest}: {reason}")]
    Picture { id: EpisodeId, digest: String, reason: String },
    #[error("{id}, turn {turn}: {reason}")]
    Turn { id: EpisodeId, turn: u32, reason: String },
    #[error("{id}: {sampled} tokens were sampled, {trained} are trained and {masked} masked; trained must be sampled minus masked")]
    Count { id: EpisodeId, sampled: u64, trained: u64, masked: u64 },
}

/// The mask of the policy's own replies in DAgger: they move the world and are not trained.
const POLICY_REPLY: &str = "policy_reply";

/// Checks that an end's segments hold what its turns say, and counts its tokens. An end that was not played is only
/// checked for its segments' shape: its last turn may be missing.
///
/// # Errors
/// See [`Broken`].
pub fn check(end: &End) -> Result<Counts, Broken> {
    let id = end.id();
    for segment in &end.segments {
        check_segment(segment).map_err(|reason| Broken::Segment { id, segment: segment.number, reason })?;
    }
    if !end.reason.is_played() {
        return Ok(Counts::default());
    }
    let replies = check_turns(end)?;
    let labels: u64 = end.segments.iter().flat_map(|s| &s.labels).map(|l| l.tokens.0.len() as u64).sum();
    let spoken: u64 = end.turns.iter().map(|t| u64::from(t.reply_tokens)).sum();
    let counts = match Lesson::of(end.episode.mode) {
        Lesson::Replies | Lesson::Sampled => Counts { sampled: spoken, masked: BTreeMap::new(), trained: replies },
        Lesson::Labels => {
            Counts { sampled: spoken + labels, masked: BTreeMap::from([(POLICY_REPLY.to_string(), replies)]), trained: labels }
        }
    };
    if counts.adds_up() {
        return Ok(counts);
    }
    let masked = counts.masked.values().sum();
    Err(Broken::Count { id, sampled: counts.sampled, trained: counts.trained, masked })
}

/// Checks that every picture of an end's segments came with it, and that its bytes are what its digest says.
///
/// # Errors
/// [`Broken::Picture`].
pub fn check_pictures(end: &End) -> Result<(), Broken> {
    let id = end.id();
    let wrong = |digest: &str, reason: String| Err(Broken::Picture { id, digest: digest.to_string(), reason });
    let mut came = BTreeMap::new();
    for frame in &end.frames {
        let found = schemas::digest_of(&frame.png);
        if found != frame.digest {
            return wrong(&frame.digest, format!("its bytes have digest {found}; they were changed on their way"));
        }
        came.insert(frame.digest.as_str(), ());
    }
    for (segment, image) in end.segments.iter().flat_map(|s| s.images.iter().map(move |i| (s, i))) {
        if !came.contains_key(image.digest.as_str()) {
            let number = segment.number;
            return wrong(&image.digest, format!("segment {number} shows it and the end did not bring it"));
        }
    }
    Ok(())
}

/// Spans lie in order within the tokens, log-probabilities and versions cover the sampled ones, labels follow a prompt.
fn check_segment(segment: &Segment) -> Result<(), String> {
    let len = segment.len() as u64;
    let (mut at, mut sampled) = (0u32, 0u64);
    for span in &segment.turns {
        let in_order = at <= span.start && span.start <= span.reply && span.reply <= span.end && span.end <= span.close;
        if !in_order || u64::from(span.close) > len {
            return Err(format!(
                "turn {} lies at {}..{}..{}..{} of {len} tokens, after {at}",
                span.turn, span.start, span.reply, span.end, span.close
            ));
        }
        at = span.close;
        let tokens = u64::from(span.end - span.reply);
        let versioned: u64 = span.versions.iter().map(|(_, n)| u64::from(*n)).sum();
        if span.source == Source::Policy && versioned != tokens {
            return Err(format!("turn {} has {tokens} sampled tokens, its versions cover {versioned}", span.turn));
        }
        if span.trainable && span.reply == 0 {
            return Err(format!("turn {} is trained from the first token on, which follows nothing", span.turn));
        }
        if span.trainable && span.source == Source::Policy {
            sampled += tokens;
        }
    }
    if segment.logprobs.0.len() as u64 != sampled {
        return Err(format!("{} log-probabilities for {sampled} sampled tokens", segment.logprobs.0.len()));
    }
    let wrong = segment.labels.iter().find(|l| l.after == 0 || u64::from(l.after) > len);
    wrong.map_or(Ok(()), |label| Err(format!("the label of turn {} follows {} of {len} tokens", label.turn, label.after)))
}

/// Each turn is trainable in exactly one segment, with as many tokens as the turn says; gives their sum. Labels likewise
/// have a turn each.
fn check_turns(end: &End) -> Result<u64, Broken> {
    let id = end.id();
    let mut spans: BTreeMap<u32, u32> = BTreeMap::new();
    for span in end.segments.iter().flat_map(|s| &s.turns).filter(|t| t.trainable) {
        if spans.insert(span.turn, span.end - span.reply).is_some() {
            return Err(Broken::Turn { id, turn: span.turn, reason: "it is trainable in more than one place".into() });
        }
    }
    let trained = spans.values().map(|n| u64::from(*n)).sum();
    for turn in &end.turns {
        match spans.remove(&turn.turn) {
            Some(tokens) if tokens == turn.reply_tokens => {}
            Some(tokens) => {
                let reason = format!("its reply has {} tokens, its segment trains {tokens}", turn.reply_tokens);
                return Err(Broken::Turn { id, turn: turn.turn, reason });
            }
            None if turn.reply_tokens == 0 => {}
            None => return Err(Broken::Turn { id, turn: turn.turn, reason: "no segment trains it".into() }),
        }
    }
    if let Some(turn) = spans.keys().next() {
        return Err(Broken::Turn { id, turn: *turn, reason: "a segment trains it, but the end does not know it".into() });
    }
    let mut labelled = std::collections::BTreeSet::new();
    for label in end.segments.iter().flat_map(|s| &s.labels) {
        if !labelled.insert(label.turn) {
            return Err(Broken::Turn { id, turn: label.turn, reason: "it has more than one label".into() });
        }
    }
    Ok(trained)
}

/// What an episode teaches, kept until it is trained and, in imitation, for further passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    pub id: EpisodeId,
    pub lesson: Lesson,
    pub segments: Vec<Segment>,
    pub counts: Counts,
    /// What its segments show, once each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
}

impl Trajectory {
    /// Bytes of its pictures.
    pub fn picture_bytes(&self) -> usize {
        self.frames.iter().map(|frame| frame.png.len()).sum()
    }

    /// The training sequences, one a segment. `advantage` belongs to every token of the episode. Segments with nothing to
    /// learn are left out.
    pub fn sequences(&self, advantage: f32) -> Vec<Sequence> {
        let pictures: BTreeMap<&str, Arc<[u8]>> = self.frames.iter().map(|f| (f.digest.as_str(), f.png.as_slice().into())).collect();
        let all = self.segments.iter().map(|segment| {
            let shown = |i: &schemas::ImageSpan| {
                let png = pictures.get(i.digest.as_str())?.clone();
                Some(Shown { offset: i.offset, len: i.len, digest: i.digest.clone(), png })
            };
            let pictures = segment.images.iter().filter_map(shown).collect();
            Sequence { pictures, ..sequence(segment, self.lesson, advantage) }
        });
        all.filter(|s| s.trained_tokens() > 0).collect()
    }
}

fn sequence(segment: &Segment, lesson: Lesson, advantage: f32) -> Sequence {
    let mut sequence = Sequence { tokens: segment.tokens.0.clone(), ..Sequence::default() };
    if lesson == Lesson::Labels {
        let branch = |l: &schemas::Label| Branch { after: l.after, tokens: l.tokens.0.clone(), weight: 1.0 };
        sequence.branches = segment.labels.iter().map(branch).collect();
        return sequence;
    }
    let spans = segment.turns.iter().filter(|t| t.trainable && t.end > t.reply);
    sequence.trained = spans.map(|t| Span { start: t.reply, end: t.end, advantage }).collect();
    if lesson == Lesson::Sampled {
        sequence.old_logprobs = segment.logprobs.0.clone();
    }
    sequence
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
