//! `Rejected`: what a stage could not handle, whole, with the reason. `errand rejected` lists, shows and retries.

use crate::Message;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub stage: String,
    /// The subject on which it came.
    pub subject: String,
    pub reason: String,
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
    /// Unix microseconds.
    pub at_us: u64,
}

impl Message for Rejected {
    const NAME: &'static str = "Rejected";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 256 << 20;

    fn example() -> Self {
        Rejected {
            stage: "env-stepper".into(),
            subject: "errand.r.episodes.frozenlake.train".into(),
            reason: "no such world".into(),
            payload: vec![1],
            at_us: 1,
        }
    }
}
