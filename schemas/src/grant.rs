//! `Grant`: the learner's permission for training groups to start. Cumulative and idempotent: the last value is all.

use crate::{Message, Split};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The learner's lease epoch. A lower epoch than one already seen is ignored.
    pub epoch: u64,
    /// Training groups below this number may start.
    pub upto_group: u64,
    /// Training groups below this number are of mode `Dagger`, the others of mode `Policy`.
    pub dagger_below: u64,
    /// Expert episodes below this number may start.
    pub upto_expert: u64,
    /// The version that was newest when the grant was given. In deterministic runs the groups it newly allows are
    /// pinned to exactly this version, else to at least `version - max_staleness`.
    pub version: u64,
    /// Versions that are to be validated, oldest first, in full: a pass starts at most once for each.
    pub validate: Vec<u64>,
    /// The learner has made its last step: episodes not yet started end as `cancelled`.
    pub finished: bool,
    /// Where numbers go on if the broker has lost what was before; a scene-loader that remembers anything ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

/// Where episodes go on after the broker has lost its record of a run: nothing below these numbers is started again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub group: u64,
    pub train: u64,
    pub expert: u64,
    pub val: u64,
    /// Versions whose validation passes lie below `val`, in the order of the passes.
    pub passes: Vec<u64>,
}

impl Start {
    /// The first number of a split that may be started.
    pub fn of(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.train,
            Split::Val => self.val,
            Split::Expert => self.expert,
        }
    }
}

impl Message for Grant {
    const NAME: &'static str = "Grant";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 1 << 16;

    fn example() -> Self {
        Grant {
            epoch: 1,
            upto_group: 32,
            dagger_below: 16,
            upto_expert: 512,
            version: 3,
            validate: vec![0, 3],
            finished: false,
            start: None,
        }
    }
}
