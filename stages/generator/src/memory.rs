//! A bounded memory of finished completions: a turn id is sampled once, and a repeated prompt is answered from here.

use schemas::{Address, EpisodeId};
use std::collections::{BTreeMap, VecDeque};

/// Completions kept at most.
const MOST: usize = 8192;
/// Bytes kept at most.
const MOST_BYTES: usize = 32 << 20;

/// Names a turn of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TurnId {
    pub id: EpisodeId,
    pub attempt: u32,
    pub turn: u32,
}

impl TurnId {
    pub fn of(at: &Address) -> TurnId {
        TurnId { id: at.id, attempt: at.attempt, turn: at.turn }
    }
}

/// Encoded completions by turn, oldest forgotten first.
#[derive(Debug, Default)]
pub struct Finished {
    by_turn: BTreeMap<TurnId, Vec<u8>>,
    order: VecDeque<TurnId>,
    bytes: usize,
}

impl Finished {
    pub fn get(&self, turn: &TurnId) -> Option<&Vec<u8>> {
        self.by_turn.get(turn)
    }

    /// Remembers a completion, and forgets the oldest ones over the bounds.
    pub fn insert(&mut self, turn: TurnId, encoded: Vec<u8>) {
        self.bytes += encoded.len();
        if let Some(before) = self.by_turn.insert(turn, encoded) {
            self.bytes -= before.len();
        } else {
            self.order.push_back(turn);
        }
        while self.order.len() > MOST || (self.bytes > MOST_BYTES && self.order.len() > 1) {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(gone) = self.by_turn.remove(&oldest) {
                self.bytes -= gone.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Split;

    fn turn(number: u64) -> TurnId {
        TurnId { id: EpisodeId { split: Split::Train, number }, attempt: 0, turn: 0 }
    }

    #[test]
    fn the_oldest_is_forgotten_over_either_bound() {
        let mut finished = Finished::default();
        for number in 0..MOST as u64 + 2 {
            finished.insert(turn(number), vec![1; 8]);
        }
        assert_eq!((finished.get(&turn(1)), finished.get(&turn(2)).map(Vec::len)), (None, Some(8)));
        finished.insert(turn(1 << 20), vec![0; MOST_BYTES]);
        assert_eq!(finished.by_turn.len(), 1, "one completion of the whole bound leaves no room for others");
        assert_eq!(finished.bytes, MOST_BYTES);
    }
}
