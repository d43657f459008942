//! An expert that slips now and then: what it does on purpose by chance is marked, so that nobody learns it.

use super::Expert;
use crate::{
    robot::{ACTIONS, Action},
    tasks::Episode,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// An action of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marked {
    pub action: Action,
    /// It was drawn by chance.
    pub random: bool,
}

/// Replaces some of an expert's replies by a random action.
pub struct Slips {
    share: f64,
    rng: ChaCha8Rng,
}

impl Slips {
    /// `share` of the replies, from 0 to 1, become a random move of base, arm or wrist.
    pub fn new(share: f64, seed: u64) -> Slips {
        Slips { share: if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) }, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The expert's next reply, or a slip.
    pub fn next(&mut self, expert: &mut Expert, episode: &Episode, most: usize) -> Vec<Marked> {
        let plan = expert.next(episode, most);
        // Saying that it is done is no slip that one recovers from, so it never comes by chance, nor is it put off.
        let ends = plan.iter().any(|action| action.ends_reply());
        if plan.is_empty() || ends || !self.rng.random_bool(self.share) {
            return plan.into_iter().map(|action| Marked { action, random: false }).collect();
        }
        let free: Vec<Action> = ACTIONS.iter().map(|spelling| spelling.action).filter(|action| !action.ends_reply()).collect();
        vec![Marked { action: free[self.rng.random_range(0..free.len())], random: true }]
    }
}
