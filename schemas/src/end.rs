//! `End`: the one record that an episode ends with. The learner trains on it, the recorder keeps it.

use crate::{Episode, EpisodeId, Frame, Message, Mode, Segment, segment::example_segment};
use serde::{Deserialize, Serialize};

/// Why an episode ended. Each episode has exactly one, written by a stepper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The world says it is over: `done` was issued, the goal or a hole was reached.
    Done,
    /// The limit on primitive actions or turns was reached.
    OutOfSteps,
    /// The episode's own token budget is spent.
    LengthTotal,
    /// The world returned an error.
    EnvError,
    /// The generator refused the prompt for good.
    GeneratorError,
    /// Running it killed its process, twice and then once more alone.
    Rejected,
    /// Not started before the last step, or its group was broken.
    Cancelled,
}

impl EndReason {
    pub const ALL: [EndReason; 7] = [
        EndReason::Done,
        EndReason::OutOfSteps,
        EndReason::LengthTotal,
        EndReason::EnvError,
        EndReason::GeneratorError,
        EndReason::Rejected,
        EndReason::Cancelled,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Done => "done",
            EndReason::OutOfSteps => "out_of_steps",
            EndReason::LengthTotal => "length_total",
            EndReason::EnvError => "env_error",
            EndReason::GeneratorError => "generator_error",
            EndReason::Rejected => "rejected",
            EndReason::Cancelled => "cancelled",
        }
    }

    /// Whether the episode was played to an end that says something about the policy.
    pub fn is_played(self) -> bool {
        matches!(self, EndReason::Done | EndReason::OutOfSteps | EndReason::LengthTotal)
    }
}

/// What became of a trajectory. Each has exactly one, written by the learner with its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    Trained,
    Evaluated,
    /// Older than `max_staleness` batches when it came to be used.
    Stale,
    /// A member of its group ended without being played.
    GroupBroken,
    /// All members of its group had the same return: no gradient.
    EqualRewards,
    /// The loss was not finite.
    NonFinite,
    /// Left when the last step was made.
    Unused,
}

impl Use {
    pub fn as_str(self) -> &'static str {
        match self {
            Use::Trained => "trained",
            Use::Evaluated => "evaluated",
            Use::Stale => "stale",
            Use::GroupBroken => "group_broken",
            Use::EqualRewards => "equal_rewards",
            Use::NonFinite => "non_finite",
            Use::Unused => "unused",
        }
    }
}

/// One turn as it was lived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    pub turn: u32,
    /// What the agent was shown and told.
    pub observation: String,
    /// What it replied.
    pub reply: String,
    /// The actions that were run, in the world's own names.
    pub executed: Vec<String>,
    /// Whether each executed action worked; as long as `executed`.
    pub worked: Vec<bool>,
    /// The actions that were dropped: after a failed one, after one that ends a reply, or over the limit.
    pub dropped: Vec<String>,
    /// The reply follows its format strictly and every action in it is one.
    pub well_formed: bool,
    /// Task reward of the turn, without the format reward.
    pub reward: f32,
    /// The first 16 hex digits of the world's state before the turn.
    pub state_key: String,
    /// Digests of this turn's pictures, camera by camera.
    pub frames: Vec<String>,
    pub cut: bool,
    pub version: u64,
    pub reply_tokens: u32,
    pub prompt_tokens: u32,
    /// `(stage, arrived, left)` in Unix microseconds, in order.
    pub trail: Vec<(String, u64, u64)>,
}

/// The one record of an episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// The order that this answers, as it was given.
    pub episode: Episode,
    pub attempt: u32,
    pub stepper: String,
    pub reason: EndReason,
    /// For people: what the world said, or the error.
    pub note: String,
    /// The strict rule of the world.
    pub success: bool,
    /// The lenient rule; equals `success` where the world has only one.
    pub lenient: bool,
    /// Reward by part, as `task`, `format`; their sum is the return.
    pub rewards: Vec<(String, f32)>,
    /// How far the agent came, from 0 (nothing) to 1 (success), by the world's milestones.
    pub progress: f32,
    /// Names of the milestones that were reached, in order.
    pub milestones: Vec<String>,
    /// Primitive actions that were run.
    pub steps: u32,
    pub turns: Vec<Turn>,
    pub segments: Vec<Segment>,
    /// Every picture of the episode once, where someone wants them: [`crate::pipeline::Pipeline::brings_pictures`].
    pub frames: Vec<Frame>,
    /// Unix microseconds.
    pub started_us: u64,
    pub ended_us: u64,
}

impl End {
    pub fn id(&self) -> EpisodeId {
        self.episode.id
    }

    /// The return: the sum of all reward parts.
    pub fn total_reward(&self) -> f32 {
        self.rewards.iter().map(|(_, r)| r).sum()
    }

    /// The reward part of this name, or 0.
    pub fn reward(&self, part: &str) -> f32 {
        self.rewards.iter().filter(|(name, _)| name == part).map(|(_, r)| r).sum()
    }

    /// Oldest and newest version that sampled a token; `None` where the policy said nothing.
    pub fn versions(&self) -> Option<(u64, u64)> {
        let versions = || self.segments.iter().flat_map(|s| &s.turns).flat_map(|t| &t.versions).map(|(v, _)| *v);
        Some((versions().min()?, versions().max()?))
    }

    pub fn trained_tokens(&self) -> u64 {
        self.segments.iter().map(Segment::trained_tokens).sum()
    }
}

impl Message for End {
    const NAME: &'static str = "End";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 256 << 20;

    fn example() -> Self {
        let turn = Turn {
            turn: 0,
            observation: "P _ G".into(),
            reply: "Right".into(),
            executed: vec!["Right".into()],
            worked: vec![true],
            dropped: vec![],
            well_formed: true,
            reward: 0.0,
            state_key: "00ff00ff00ff00ff".into(),
            frames: vec![],
            cut: false,
            version: 3,
            reply_tokens: 2,
            prompt_tokens: 4,
            trail: vec![],
        };
        End {
            episode: Episode { mode: Mode::Policy, ..Episode::example() },
            attempt: 0,
            stepper: "env-stepper-1".into(),
            reason: EndReason::OutOfSteps,
            note: String::new(),
            success: false,
            lenient: false,
            rewards: vec![("task".into(), 0.0), ("format".into(), 0.5)],
            progress: 0.25,
            milestones: vec!["moved".into()],
            steps: 1,
            turns: vec![turn],
            segments: vec![example_segment()],
            frames: vec![],
            started_us: 1_700_000_000_000_000,
            ended_us: 1_700_000_000_500_000,
        }
    }
}
