//! `Segment`: one growing token sequence, the context that the policy saw and the learner trains on.
//!
//! Layout: system prompt, instruction, memory line, a few earlier turns copied by id (masked), then live turns. Nothing
//! in a segment is ever removed or rewritten. Long numbers travel as little-endian bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Token ids; on the wire little-endian `u32`s in one byte string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct U32s(pub Vec<u32>);

/// Log-probabilities and the like; on the wire little-endian `f32`s in one byte string.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct F32s(pub Vec<f32>);

macro_rules! little_endian_bytes {
    ($name:ident, $number:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut bytes = Vec::with_capacity(self.0.len() * 4);
                for number in &self.0 {
                    bytes.extend_from_slice(&number.to_le_bytes());
                }
                serializer.serialize_bytes(&bytes)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes: serde_bytes::ByteBuf = Deserialize::deserialize(deserializer)?;
                if bytes.len() % 4 != 0 {
                    return Err(serde::de::Error::custom(format!("{} bytes are no whole number of 4-byte values", bytes.len())));
                }
                let read = |four: &[u8]| <$number>::from_le_bytes([four[0], four[1], four[2], four[3]]);
                Ok($name(bytes.chunks_exact(4).map(read).collect()))
            }
        }
    };
}

little_endian_bytes!(U32s, u32);
little_endian_bytes!(F32s, f32);

/// Whose reply a turn holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Policy,
    Expert,
}

/// Where one turn lies in [`Segment::tokens`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TurnSpan {
    /// The turn's number in its episode.
    pub turn: u32,
    /// First token of the turn: its observation. For the first live turn of a segment the head (system prompt and so on) lies before it.
    pub start: u32,
    /// First token of the reply.
    pub reply: u32,
    /// One past the reply's last sampled token (its end-of-turn token included, where it was sampled).
    pub end: u32,
    /// One past the tokens that the template adds after the reply. The next turn starts here.
    pub close: u32,
    /// Whether the reply is trained in this segment. Each sampled token is trainable in exactly one segment.
    pub trainable: bool,
    pub source: Source,
    /// `(version, count)`: which weights sampled the next `count` tokens of the reply.
    pub versions: Vec<(u64, u32)>,
    /// The reply hit its token limit and was parsed as it stood.
    pub cut: bool,
}

/// The run of placeholder tokens of one picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpan {
    /// First placeholder token.
    pub offset: u32,
    /// Placeholder tokens: `t * h * w / merge²` of the grid.
    pub len: u32,
    /// Patches: time, height, width.
    pub grid: [u32; 3],
    /// Hex BLAKE3 of the encoded picture.
    pub digest: String,
}

/// DAgger: the expert's reply to one turn. It is trained after that turn's prompt and is never part of the context.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    pub turn: u32,
    /// The label's tokens follow `tokens[..after]`.
    pub after: u32,
    pub tokens: U32s,
}

/// One growing token sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// From 0 within the episode.
    pub number: u32,
    pub tokens: U32s,
    /// Log-probabilities of the trainable sampled tokens, in order; as many as the trainable policy spans hold tokens.
    pub logprobs: F32s,
    pub turns: Vec<TurnSpan>,
    pub images: Vec<ImageSpan>,
    pub labels: Vec<Label>,
    /// Where the reply of the turn now being asked for starts; equals `tokens.len()` in a `Prompt`.
    pub prompt_end: u32,
    /// Where the turn now being asked for starts.
    pub turn_start: u32,
}

impl Segment {
    pub fn len(&self) -> usize {
        self.tokens.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.0.is_empty()
    }

    /// Tokens that the learner trains: trainable replies, and labels.
    pub fn trained_tokens(&self) -> u64 {
        let replies: u64 = self.turns.iter().filter(|t| t.trainable).map(|t| u64::from(t.end - t.reply)).sum();
        let labels: u64 = self.labels.iter().map(|l| l.tokens.0.len() as u64).sum();
        replies + labels
    }

    /// Images that live turns brought, and copied ones.
    pub fn image_tokens(&self) -> u64 {
        self.images.iter().map(|i| u64::from(i.len)).sum()
    }
}

/// A segment of one turn, for the examples of the messages that carry one.
pub(crate) fn example_segment() -> Segment {
    Segment {
        number: 0,
        tokens: U32s(vec![1, 5, 6, 2, 9, 3]),
        logprobs: F32s(vec![-0.5, -0.25]),
        turns: vec![TurnSpan {
            turn: 0,
            start: 1,
            reply: 4,
            end: 6,
            close: 6,
            trainable: true,
            source: Source::Policy,
            versions: vec![(3, 2)],
            cut: false,
        }],
        images: vec![],
        labels: vec![Label { turn: 0, after: 4, tokens: U32s(vec![8, 3]) }],
        prompt_end: 4,
        turn_start: 1,
    }
}
