//! What the scene-loader keeps over restarts, in the run's key-value bucket.
//!
//! It is written before anything is published and names what is about to be: whoever reads it publishes exactly that
//! again. Ends are acked after the state that counts them is written, and counted once each.

use crate::curriculum::Curriculum;
use schemas::{Mode, PolicyPin, Split, Start};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the layout.
const VERSION: u16 = 1;

/// A piece of work that is published, or about to be: all that its episodes follow from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// One training group: episodes `first .. first + size`.
    Group { group: u64, first: u64, size: u32, bucket: Option<String>, mode: Mode, policy: PolicyPin, epoch: u64 },
    /// Expert episodes `first .. first + count`.
    Expert { first: u64, count: u32, mode: Mode, epoch: u64 },
    /// Validation episodes `first .. first + count`, of one pass.
    Pass { first: u64, count: u32, version: u64, epoch: u64 },
}

impl Order {
    /// How many episodes it is.
    pub(crate) fn len(&self) -> u32 {
        match self {
            Order::Group { size, .. } => *size,
            Order::Expert { count, .. } | Order::Pass { count, .. } => *count,
        }
    }
}

/// Which numbers of a dense sequence were seen: all below a mark, and some above.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    below: u64,
    above: BTreeSet<u64>,
}

impl Seen {
    /// Returns whether it is new.
    pub(crate) fn insert(&mut self, number: u64) -> bool {
        if number < self.below || !self.above.insert(number) {
            return false;
        }
        while self.above.remove(&self.below) {
            self.below += 1;
        }
        true
    }

    pub(crate) fn count(&self) -> u64 {
        self.below + self.above.len() as u64
    }
}

/// A training group of which not all is counted yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) size: u32,
    pub(crate) bucket: String,
    pub(crate) ended: u32,
    pub(crate) played: u32,
    pub(crate) won: u32,
}

/// Everything the stage remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u16,
    /// The next training group, and the number of its first episode.
    pub(crate) next_group: u64,
    pub(crate) next_train: u64,
    pub(crate) next_expert: u64,
    pub(crate) next_val: u64,
    /// Versions judged or being judged, in the order of their passes.
    pub(crate) passes: Vec<u64>,
    /// Ordered and not yet known to be published whole.
    pub(crate) pending: Vec<Order>,
    pub(crate) open: BTreeMap<u64, Open>,
    /// In deterministic runs: groups below this one are in the curriculum.
    pub(crate) settled: u64,
    ended: BTreeMap<Split, Seen>,
    pub(crate) curriculum: Curriculum,
}

impl State {
    pub(crate) fn new() -> State {
        State { version: VERSION, ..State::default() }
    }

    /// A state that goes on where the learner says, after the broker has lost the one that was. `settled`: groups below this one
    /// are as good as in the curriculum.
    pub(crate) fn starting(start: &Start, settled: u64) -> State {
        let ended = Split::ALL.map(|split| (split, Seen { below: start.of(split), above: BTreeSet::new() }));
        State {
            next_group: start.group,
            next_train: start.train,
            next_expert: start.expert,
            next_val: start.val,
            passes: start.passes.clone(),
            settled,
            ended: BTreeMap::from(ended),
            ..State::new()
        }
    }

    /// # Errors
    /// What is wrong with the bytes, for people.
    pub(crate) fn decode(bytes: &[u8]) -> Result<State, String> {
        let state: State = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if state.version != VERSION {
            return Err(format!("layout version {} is not read, only {VERSION}", state.version));
        }
        Ok(state)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps with whole numbers or text for keys serialise to memory")
    }

    /// Counts an end once. Returns whether it is new.
    pub(crate) fn end_seen(&mut self, split: Split, number: u64) -> bool {
        self.ended.entry(split).or_default().insert(number)
    }

    pub(crate) fn ended(&self, split: Split) -> u64 {
        self.ended.get(&split).map_or(0, Seen::count)
    }

    pub(crate) fn ordered(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.next_train,
            Split::Val => self.next_val,
            Split::Expert => self.next_expert,
        }
    }

    /// Episodes ordered that have not ended.
    pub(crate) fn outstanding(&self, split: Split) -> u64 {
        self.ordered(split).saturating_sub(self.ended(split))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back_as_it_was() {
        let mut state = State::new();
        state.pending.push(Order::Group {
            group: 3,
            first: 24,
            size: 8,
            bucket: Some("b".into()),
            mode: Mode::Policy,
            policy: PolicyPin::AtLeast(2),
            epoch: 1,
        });
        state.pending.push(Order::Pass { first: 0, count: 8, version: 2, epoch: 1 });
        state.open.insert(3, Open { size: 8, ..Open::default() });
        state.curriculum.group_ended("b", 8, 3);
        state.end_seen(Split::Val, 2);
        assert_eq!(State::decode(&state.encode()).unwrap(), state);
        assert!(State::decode(b"{\"version\": 9}").is_err() && State::decode(b"").is_err());
        state.version = 9;
        assert!(State::decode(&state.encode()).unwrap_err().contains('9'));
    }

    #[test]
    fn each_end_counts_once() {
        let mut state = State::new();
        for number in [2, 0, 2, 1, 0, 5] {
            state.end_seen(Split::Train, number);
        }
        assert_eq!(state.ended(Split::Train), 4);
        assert_eq!(state.ended[&Split::Train], Seen { below: 3, above: BTreeSet::from([5]) });
        assert!(!state.end_seen(Split::Train, 1) && state.end_seen(Split::Expert, 1));
    }
}
