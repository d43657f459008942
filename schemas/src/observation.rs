//! `Observation`: what the agent sees and is told at one turn, on its way to be rendered into tokens.

use crate::{Address, EpisodeId, Message, PolicyPin, Sampling, Segment, Split};
use serde::{Deserialize, Serialize};

/// One picture, encoded once by the stepper and losslessly: the same bytes are shown, kept and trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Hex BLAKE3 of `png`.
    pub digest: String,
    /// Empty where the receiver has the digest already.
    #[serde(with = "serde_bytes")]
    pub png: Vec<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Which camera, as in `navigation`.
    pub camera: String,
}

/// What a new segment starts with. The renderer turns it into tokens once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SegmentHead {
    /// The system prompt's text.
    pub system: String,
    /// The task in words; empty where the system prompt says all.
    pub instruction: String,
    /// Only what the agent did and was told; empty in an episode's first segment.
    pub memory: String,
    /// Earlier turns, copied by id and masked: token ids, and the images within them with offsets from the copy's start.
    pub carried: Option<Segment>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    pub at: Address,
    pub group: u64,
    /// The stepper that holds the world: the completion goes to `errand.<run>.completions.<stepper>`.
    pub stepper: String,
    /// The generator that holds the prefix; the prompt goes to `errand.<run>.prompts.<generator>`. Empty: the expert answers.
    pub generator: String,
    pub policy: PolicyPin,
    /// The segment so far. `None` opens a new one with `head`.
    pub segment: Option<Segment>,
    pub head: Option<SegmentHead>,
    /// The number that a new segment gets.
    pub segment_number: u32,
    /// This turn's text, with one `<image>` for each frame, in order.
    pub text: String,
    pub frames: Vec<Frame>,
    /// The expert's reply: spoken in modes `Expert` and `Format`, a label in mode `Dagger`.
    pub expert_reply: Option<String>,
    /// Whether the expert's reply is spoken (true) or is a label (false).
    pub expert_speaks: bool,
    pub sampling: Sampling,
    /// Unix time in microseconds at which the stepper sent this.
    pub sent_us: u64,
}

impl Message for Observation {
    const NAME: &'static str = "Observation";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 64 << 20;

    fn example() -> Self {
        Observation {
            at: Address { id: EpisodeId { split: Split::Train, number: 17 }, turn: 0, attempt: 0, traceparent: String::new() },
            group: 2,
            stepper: "env-stepper-1".into(),
            generator: "generator-1".into(),
            policy: PolicyPin::AtLeast(3),
            segment: None,
            head: Some(SegmentHead { system: "You walk on a lake.".into(), ..SegmentHead::default() }),
            segment_number: 0,
            text: "P _ G".into(),
            frames: vec![Frame { digest: "ab".into(), png: vec![1, 2, 3], width: 2, height: 1, camera: "navigation".into() }],
            expert_reply: Some("Right".into()),
            expert_speaks: false,
            sampling: Sampling::default(),
            sent_us: 1_700_000_000_000_000,
        }
    }
}
