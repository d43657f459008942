//! How hard the next training group is to be.
//!
//! In: how recent groups of each bucket went. Out: the bucket of a group, and whether it is a hard one. Buckets in which
//! recent success lies between 0.2 and 0.8 are drawn most: there the members of a group differ, and so teach most.

use rand::{RngExt, SeedableRng};
use schemas::seed_of;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Recent success is counted over the last groups that hold about so many episodes.
const WINDOW: u32 = 64;
/// Below so many episodes nothing is known of a bucket.
const KNOWN: u32 = 8;
/// The range in which success is to stay.
const WANTED: std::ops::RangeInclusive<f64> = 0.2..=0.8;
/// Below this success a group gets more members.
const HARD: f64 = 0.15;
/// No bucket is drawn less than this against one of even odds, so that it is noticed when it comes into reach.
const LEAST: f64 = 0.03;

/// What came of the last groups of a bucket: played and won episodes, newest last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Recent {
    groups: VecDeque<(u32, u32)>,
}

impl Recent {
    fn played(&self) -> u32 {
        self.groups.iter().map(|(played, _)| played).sum()
    }

    fn success(&self) -> f64 {
        let won: u32 = self.groups.iter().map(|(_, won)| won).sum();
        f64::from(won) / f64::from(self.played().max(1))
    }
}

/// Recent success by bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Curriculum {
    buckets: BTreeMap<String, Recent>,
}

impl Curriculum {
    /// A group of this bucket ended: so many members were played, so many of them won.
    pub(crate) fn group_ended(&mut self, bucket: &str, played: u32, won: u32) {
        if played == 0 {
            return;
        }
        let recent = self.buckets.entry(bucket.to_string()).or_default();
        recent.groups.push_back((played, won));
        while recent.groups.len() > 1 && recent.played() - recent.groups[0].0 >= WINDOW {
            recent.groups.pop_front();
        }
    }

    /// Recent success in a bucket; `None` where too little is known.
    pub(crate) fn success(&self, bucket: &str) -> Option<f64> {
        self.buckets.get(bucket).filter(|r| r.played() >= KNOWN).map(Recent::success)
    }

    /// Whether groups of this bucket are to have more members.
    pub(crate) fn is_hard(&self, bucket: &str) -> bool {
        self.success(bucket).is_some_and(|success| success < HARD)
    }

    fn weight(&self, bucket: &str) -> f64 {
        // Unknown buckets are drawn as if their odds were even: that is how they come to be known.
        let Some(success) = self.success(bucket) else { return 1.0 };
        let signal = 4.0 * success * (1.0 - success);
        let weight = if WANTED.contains(&success) { signal } else { signal / 4.0 };
        weight.max(LEAST)
    }

    /// The bucket of a group: a function of what is known, the pipeline's seed and the group. `None`: there are no buckets.
    pub(crate) fn choose<'a>(&self, buckets: &'a [String], pipeline_seed: u64, group: u64) -> Option<&'a str> {
        let seed = seed_of(pipeline_seed, &[b"train", b"bucket", &group.to_le_bytes()]);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let total: f64 = buckets.iter().map(|b| self.weight(b)).sum();
        let mut left = rng.random::<f64>() * total;
        for bucket in buckets {
            left -= self.weight(bucket);
            if left < 0.0 {
                return Some(bucket);
            }
        }
        buckets.last().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(curriculum: &Curriculum, buckets: &[String]) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for group in 0..1000 {
            *counts.entry(curriculum.choose(buckets, 1, group).unwrap().to_string()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn it_moves_with_what_the_policy_can_do() {
        let buckets = ["easy", "middle", "hard"].map(str::to_string);
        let mut curriculum = Curriculum::default();
        let at_first = drawn(&curriculum, &buckets);
        assert!(at_first.values().all(|n| *n > 250), "{at_first:?}");
        for (bucket, won) in [("easy", 4), ("middle", 0), ("hard", 0)] {
            (0..20).for_each(|_| curriculum.group_ended(bucket, 8, won));
        }
        let beginner = drawn(&curriculum, &buckets);
        assert!(beginner["easy"] > 900, "{beginner:?}");
        assert!(curriculum.is_hard("hard") && !curriculum.is_hard("easy") && !curriculum.is_hard("unknown"));
        for (bucket, won) in [("easy", 8), ("middle", 5), ("hard", 0)] {
            (0..20).for_each(|_| curriculum.group_ended(bucket, 8, won));
        }
        let better = drawn(&curriculum, &buckets);
        assert!(better["middle"] > 900 && better["hard"] > 5, "{better:?}");
    }

    /// Success follows from skill and difficulty; whatever the skill, the groups drawn keep their success in range.
    #[test]
    fn recent_success_stays_in_range_where_some_bucket_allows_it() {
        let buckets: Vec<String> = (0..6).map(|b| b.to_string()).collect();
        let mut curriculum = Curriculum::default();
        let (mut played, mut won) = (0u32, 0u32);
        for group in 0..3000u64 {
            let skill = group as f64 / 3000.0 * 5.0;
            let bucket = curriculum.choose(&buckets, 9, group).unwrap().to_string();
            let odds = (0.5 + (skill - bucket.parse::<f64>().unwrap()) * 0.45).clamp(0.0, 1.0);
            let wins = (odds * 8.0).round() as u32;
            curriculum.group_ended(&bucket, 8, wins);
            if group % 500 >= 100 {
                played += 8;
                won += wins;
            }
            if group % 500 == 499 {
                let success = f64::from(won) / f64::from(played);
                assert!(WANTED.contains(&success), "group {group}: {success}");
                (played, won) = (0, 0);
            }
        }
    }

    #[test]
    fn the_window_forgets() {
        let mut curriculum = Curriculum::default();
        curriculum.group_ended("b", 0, 0);
        assert_eq!(curriculum.success("b"), None);
        (0..50).for_each(|_| curriculum.group_ended("b", 8, 0));
        (0..8).for_each(|_| curriculum.group_ended("b", 8, 8));
        assert_eq!(curriculum.success("b"), Some(1.0));
        assert!(curriculum.buckets["b"].groups.len() <= 9);
        assert_eq!(curriculum.choose(&[], 1, 1), None);
    }
}
