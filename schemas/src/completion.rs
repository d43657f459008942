//! `Completion`: the answer to a turn, on its way back to the stepper that holds the world.

use crate::{Address, Message, Prompt, Segment, segment::example_segment};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The reply is in `segment` and `text`.
    Done,
    /// The generator has the prompt in its queue.
    Accepted,
    /// The generator is still at work; sent each second.
    Running,
    /// The generator lacks these pictures (by digest): send them again to the same one.
    Need(Vec<String>),
    /// The queue is full: ask another generator.
    Busy,
    /// The version asked for is not there (and these are): ask another generator, or again later.
    Version(Vec<u64>),
    /// The prompt cannot be answered, ever. The episode ends as `generator_error`.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    pub at: Address,
    /// Who answers: a generator's id, or `expert`.
    pub generator: String,
    pub status: Status,
    /// With `Done`: the segment with this turn added.
    pub segment: Option<Segment>,
    /// With `Done`: the reply as text, without its end-of-turn token.
    pub text: String,
    /// `(stage, arrived, left)` in Unix microseconds, in order.
    pub trail: Vec<(String, u64, u64)>,
}

impl Message for Completion {
    const NAME: &'static str = "Completion";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 64 << 20;

    fn example() -> Self {
        let Prompt { at, trail, .. } = Prompt::example();
        Completion {
            at,
            generator: "generator-1".into(),
            status: Status::Done,
            segment: Some(example_segment()),
            text: "Right".into(),
            trail,
        }
    }
}
