//! Which versions of the weights are published, held, and to be fetched next.
//!
//! Pure bookkeeping: it decides, the stage fetches and the engine loads.

use schemas::{PolicyPin, PolicyPublished};
use std::collections::{BTreeMap, BTreeSet};

/// Publications that are remembered; an older version can no longer be asked for by number.
const REMEMBERED: usize = 4096;

/// Where a prompt's version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This one answers.
    Use(u64),
    /// It is not here yet.
    Wait,
}

#[derive(Debug, Default)]
struct Held {
    /// Replies that are being made with it.
    active: u32,
    /// When it last began a reply, by a counter.
    last: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Versions {
    published: BTreeMap<u64, PolicyPublished>,
    /// The newest lease epoch that published.
    epoch: u64,
    held: BTreeMap<u64, Held>,
    /// No object, or an object that was refused.
    refused: BTreeSet<u64>,
    fetching: Option<u64>,
    clock: u64,
}

impl Versions {
    /// Takes in a publication; one of an older lease epoch is dropped.
    pub fn publish(&mut self, policy: PolicyPublished) {
        if policy.epoch < self.epoch {
            return;
        }
        self.epoch = policy.epoch;
        self.refused.remove(&policy.version);
        self.published.insert(policy.version, policy);
        while self.published.len() > REMEMBERED {
            self.published.pop_first();
        }
    }

    pub fn newest_published(&self) -> Option<u64> {
        self.published.keys().next_back().copied()
    }

    pub fn held(&self) -> Vec<u64> {
        self.held.keys().copied().collect()
    }

    /// Which version answers a prompt with this pin: the newest held one that fits.
    pub fn find(&self, pin: PolicyPin) -> Found {
        let newest = self.held.keys().next_back().copied();
        let fits = |version: &u64| match pin {
            PolicyPin::Latest => true,
            PolicyPin::AtLeast(least) => *version >= least,
            PolicyPin::Exactly(_) => false,
        };
        match pin {
            PolicyPin::Exactly(version) if self.held.contains_key(&version) => Found::Use(version),
            _ => newest.filter(fits).map_or(Found::Wait, Found::Use),
        }
    }

    /// What is to be fetched now: the newest, then what prompts ask for by number. One at a time.
    pub fn next_fetch(&mut self, asked: impl IntoIterator<Item = u64>) -> Option<PolicyPublished> {
        if self.fetching.is_some() {
            return None;
        }
        let lacks = |version: &u64| !self.held.contains_key(version) && !self.refused.contains(version);
        let newest = self.published.keys().rev().copied().find(|v| !self.refused.contains(v));
        let version = newest.into_iter().chain(asked).find(lacks)?;
        let policy = self.published.get(&version)?.clone();
        self.fetching = Some(version);
        Some(policy)
    }

    /// The version that is being fetched.
    pub fn fetched(&mut self) -> Option<PolicyPublished> {
        self.published.get(&self.fetching.take()?).cloned()
    }

    pub fn refuse(&mut self, version: u64) {
        self.refused.insert(version);
    }

    /// A version was loaded. Gives the versions that are to be dropped so that at most `most` are held; the newest, and
    /// those that replies are being made with, stay.
    pub fn hold(&mut self, version: u64, most: usize) -> Vec<u64> {
        self.clock += 1;
        self.held.entry(version).or_default().last = self.clock;
        self.evict(most)
    }

    /// A reply begins with a version.
    pub fn begin(&mut self, version: u64) {
        self.clock += 1;
        if let Some(held) = self.held.get_mut(&version) {
            held.active += 1;
            held.last = self.clock;
        }
    }

    /// A reply that began with a version is finished.
    pub fn end(&mut self, version: u64, most: usize) -> Vec<u64> {
        if let Some(held) = self.held.get_mut(&version) {
            held.active = held.active.saturating_sub(1);
        }
        self.evict(most)
    }

    fn evict(&mut self, most: usize) -> Vec<u64> {
        let mut dropped = vec![];
        // The newest and one that is asked for by number always have room.
        while self.held.len() > most.max(2) {
            let newest = self.held.keys().next_back().copied();
            let idle = self.held.iter().filter(|(version, held)| held.active == 0 && Some(**version) != newest);
            // What was loaded last is about to be used, so the one unused for longest goes.
            let Some(version) = idle.min_by_key(|(_, held)| held.last).map(|(version, _)| *version) else { break };
            self.held.remove(&version);
            dropped.push(version);
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Message;

    fn policy(version: u64) -> PolicyPublished {
        PolicyPublished { version, object: format!("policy-{version}"), ..PolicyPublished::example() }
    }

    fn with(published: &[u64], held: &[u64]) -> Versions {
        let mut versions = Versions::default();
        published.iter().for_each(|v| versions.publish(policy(*v)));
        held.iter().for_each(|v| assert!(versions.hold(*v, 9).is_empty()));
        versions
    }

    #[test]
    fn a_pin_is_met_or_waited_for() {
        let versions = with(&[0, 1, 2], &[0, 1]);
        assert_eq!(versions.find(PolicyPin::Latest), Found::Use(1));
        assert_eq!(versions.find(PolicyPin::AtLeast(1)), Found::Use(1));
        assert_eq!(versions.find(PolicyPin::AtLeast(2)), Found::Wait);
        assert_eq!(versions.find(PolicyPin::Exactly(0)), Found::Use(0));
        assert_eq!(versions.find(PolicyPin::Exactly(2)), Found::Wait);
        assert_eq!(with(&[], &[]).find(PolicyPin::Latest), Found::Wait);
    }

    #[test]
    fn the_newest_is_fetched_first_then_what_is_asked_for() {
        let mut versions = with(&[0, 1, 2], &[]);
        assert_eq!(versions.next_fetch([0]).map(|p| p.version), Some(2));
        assert_eq!(versions.next_fetch([0]), None, "one at a time");
        assert_eq!(versions.fetched().map(|p| p.version), Some(2));
        versions.hold(2, 2);
        assert_eq!(versions.next_fetch([0]).map(|p| p.version), Some(0));
        versions.fetched();
        versions.refuse(0);
        assert_eq!(versions.next_fetch([0, 7]), None, "neither a refused nor an unknown one");
    }

    #[test]
    fn a_refused_newest_leaves_the_one_before() {
        let mut versions = with(&[0, 1], &[]);
        versions.refuse(1);
        assert_eq!(versions.next_fetch([]).map(|p| p.version), Some(0));
    }

    #[test]
    fn what_replies_are_made_with_and_the_newest_stay() {
        let mut versions = with(&[0, 1, 2, 3], &[0, 1]);
        versions.begin(0);
        assert_eq!(versions.hold(2, 2), [1]);
        assert_eq!(versions.hold(3, 2), [2]);
        assert_eq!(versions.held(), [0, 3]);
        versions.hold(1, 3);
        assert_eq!(versions.end(0, 2), [0]);
        assert_eq!(versions.held(), [1, 3]);
    }

    #[test]
    fn an_old_holder_of_the_lease_is_not_heard() {
        let mut versions = Versions::default();
        versions.publish(PolicyPublished { epoch: 2, ..policy(5) });
        versions.publish(PolicyPublished { epoch: 1, ..policy(6) });
        assert_eq!(versions.newest_published(), Some(5));
    }
}
