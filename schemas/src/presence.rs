//! `Presence`: each stage says once a second that it is alive, and how it is doing.

use crate::Message;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// The stage's kind, as `env-stepper`.
    pub stage: String,
    /// Unique in the run.
    pub id: String,
    pub host: String,
    pub pid: u32,
    /// Unix microseconds.
    pub started_us: u64,
    /// Items finished since the start.
    pub done: u64,
    /// Items in hand or queued.
    pub waiting: u64,
    /// How many more it would take now.
    pub free: u64,
    /// Generators: versions they can serve. Elsewhere empty.
    pub versions: Vec<u64>,
    /// Whatever else the stage counts, by metric name.
    pub gauges: BTreeMap<String, f64>,
    /// A line for people, as `imitation, step 40, loss 0.71`. Empty where there is nothing to say.
    pub line: String,
}

impl Message for Presence {
    const NAME: &'static str = "Presence";
    const VERSION: u16 = 1;
    const MAX_BYTES: usize = 1 << 18;

    fn example() -> Self {
        Presence {
            stage: "generator".into(),
            id: "generator-1".into(),
            host: "a".into(),
            pid: 7,
            started_us: 1_700_000_000_000_000,
            done: 5,
            waiting: 2,
            free: 62,
            versions: vec![2, 3],
            gauges: BTreeMap::from([("tokens".to_string(), 12.0)]),
            line: "version 3".into(),
        }
    }
}
