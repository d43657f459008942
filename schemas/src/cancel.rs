//! `Cancel`: a group is broken; its other members end as `cancelled`.

use crate::{Message, Split};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    pub split: Split,
    pub group: u64,
    pub reason: String,
}

impl Message for Cancel {
    const NAME: &'static str = "Cancel";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 1 << 16;

    fn example() -> Self {
        Cancel { split: Split::Train, group: 2, reason: "train.17 was rejected".into() }
    }
}
