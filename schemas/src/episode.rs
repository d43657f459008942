//! `Episode`: the scene-loader's order to some env-stepper to run one episode.

use crate::{EpisodeId, Message, Split};
use serde::{Deserialize, Serialize};

/// Who acts, and what is learned from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The policy acts; its sampled tokens are trained by reinforcement, or only judged (split `val`).
    Policy,
    /// The policy acts; the expert's reply is a label for each turn (DAgger).
    Dagger,
    /// The expert acts and its replies are imitated.
    Expert,
    /// Well-formed replies with random actions are imitated: teaches the format and nothing else.
    Format,
}

/// Which version of the weights may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyPin {
    Latest,
    AtLeast(u64),
    Exactly(u64),
}

/// A compiled scene, kept once by content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SceneRef {
    /// Hex BLAKE3 of the bytes. The object's name in the run's artifacts bucket is `scene-<digest>`.
    pub digest: String,
    /// Where the house came from, for people: `train.jsonl.gz:17`, `generated:93`.
    pub origin: String,
}

/// One episode to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    pub id: EpisodeId,
    /// Episodes of a group share world, seed and task, and differ in their sampling. Dense from 0 within the split.
    pub group: u64,
    /// From 0 to `group_size - 1`.
    pub member: u32,
    /// How many members the group has.
    pub group_size: u32,
    /// The world's name, as in [`crate::pipeline::WorldConfig`].
    pub world: String,
    /// Seeds the world: a function of the pipeline's seed, split and group.
    pub seed: u64,
    pub mode: Mode,
    pub policy: PolicyPin,
    /// The world's own description of the task, JSON. Empty where the seed says all.
    #[serde(with = "serde_bytes")]
    pub task: Vec<u8>,
    pub scene: Option<SceneRef>,
    /// The curriculum's bucket, as in `short/1-room`.
    pub bucket: String,
    /// Primitive actions the expert needs; 0 where it was not computed.
    pub expert_length: u32,
    /// In split `val`: the policy version that this pass judges. 0 elsewhere.
    pub validates: u64,
    /// How often a drain handed this episode back. Not crashes.
    pub handed_back: u32,
    /// The scene-loader's lease epoch.
    pub epoch: u64,
    pub traceparent: String,
}

impl Message for Episode {
    const NAME: &'static str = "Episode";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 1 << 20;

    fn example() -> Self {
        Episode {
            id: EpisodeId { split: Split::Train, number: 17 },
            group: 2,
            member: 1,
            group_size: 8,
            world: "frozenlake".into(),
            seed: 42,
            mode: Mode::Policy,
            policy: PolicyPin::AtLeast(3),
            task: b"{}".to_vec(),
            scene: Some(SceneRef { digest: "ab".into(), origin: "generated:93".into() }),
            bucket: "short".into(),
            expert_length: 6,
            validates: 0,
            handed_back: 0,
            epoch: 1,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        }
    }
}
