//! Which generator answers a rollout.
//!
//! By rendezvous hash of the group over the live generators: the members of a group share a generator and with it their
//! common prefix, and when a generator comes or goes only the groups that it wins or loses move.

use schemas::seed_of;
use std::collections::BTreeSet;

/// The generators that are known to be alive.
#[derive(Debug, Default)]
pub(crate) struct Generators {
    live: BTreeSet<String>,
}

impl Generators {
    /// Returns whether it is a new one.
    pub(crate) fn seen(&mut self, id: &str) -> bool {
        !self.live.contains(id) && self.live.insert(id.to_string())
    }

    pub(crate) fn gone(&mut self, id: &str) {
        self.live.remove(id);
    }

    pub(crate) fn is_live(&self, id: &str) -> bool {
        self.live.contains(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// The best live generator for a group, those in `refused` left out.
    pub(crate) fn choose(&self, group: u64, refused: &BTreeSet<String>) -> Option<&str> {
        let score = |id: &&String| seed_of(group, &[id.as_bytes()]);
        self.live.iter().filter(|id| !refused.contains(*id)).max_by_key(score).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lost_generators_groups_move() {
        let mut generators = Generators::default();
        for id in ["a", "b", "c"] {
            assert!(generators.seen(id));
            assert!(!generators.seen(id));
        }
        let choose = |g: &Generators| (0..300).map(|group| g.choose(group, &BTreeSet::new()).unwrap().to_string()).collect::<Vec<_>>();
        let before = choose(&generators);
        for id in ["a", "b", "c"] {
            assert!(before.iter().filter(|x| *x == id).count() > 60, "uneven: {id}");
        }
        generators.gone("b");
        for (was, is) in before.iter().zip(choose(&generators)) {
            assert!(*was == is || was == "b");
        }
        assert_eq!(generators.choose(1, &BTreeSet::from(["a".to_string(), "c".to_string()])), None);
    }
}
