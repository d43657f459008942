//! Validation: held-out episodes of one version, added up.
//!
//! In: ends of split `val`. Out: success with an interval by bootstrap over houses, by bucket, and paired differences.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use schemas::End;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// How one held-out episode went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// What is resampled: the house, or the level where there are no houses.
    pub house: String,
    pub bucket: String,
    pub success: bool,
    pub lenient: bool,
    pub progress: f32,
    pub steps: u32,
    pub well_formed: f32,
    /// Whether it was played; an error of ours is no failure of the policy.
    pub played: bool,
}

impl Judged {
    pub fn of(end: &End) -> Judged {
        let house = end.episode.scene.as_ref().map_or_else(|| format!("{:016x}", end.episode.seed), |scene| scene.digest.clone());
        let turns = end.turns.len().max(1) as f32;
        Judged {
            house,
            bucket: end.episode.bucket.clone(),
            success: end.success,
            lenient: end.lenient,
            progress: if end.progress.is_finite() { end.progress } else { 0.0 },
            steps: end.steps,
            well_formed: end.turns.iter().filter(|t| t.well_formed).count() as f32 / turns,
            played: end.reason.is_played(),
        }
    }
}

/// A pass over the held-out list with one version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    pub version: u64,
    /// Which part of the schedule made the version.
    pub phase: String,
    /// Its weights are gone, so it will not be completed.
    pub lost: bool,
    /// The one that judges the finished policy.
    pub last: bool,
    /// By the episode's place in the list.
    pub episodes: BTreeMap<u64, Judged>,
}

impl Pass {
    pub fn is_complete(&self, episodes: u64) -> bool {
        self.lost || self.episodes.len() as u64 >= episodes
    }
}

/// What `validation.json` says of a pass.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub version: u64,
    pub phase: String,
    /// Played ones.
    pub episodes: u64,
    pub houses: u64,
    /// Not played, for errors of ours.
    pub errors: u64,
    pub success: f64,
    pub lenient: f64,
    /// 95 %, by bootstrap over houses.
    pub success_ci: [f64; 2],
    pub progress: f64,
    pub well_formed: f64,
    pub steps: f64,
    pub by_bucket: BTreeMap<String, Bucket>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Bucket {
    pub episodes: u64,
    pub success: f64,
    pub lenient: f64,
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0u64), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

fn share(flag: bool) -> f64 {
    f64::from(u8::from(flag))
}

/// Adds a pass up.
pub fn summarise(pass: &Pass) -> Summary {
    let played: Vec<&Judged> = pass.episodes.values().filter(|j| j.played).collect();
    let of = |value: fn(&Judged) -> f64| mean(played.iter().map(|j| value(j)));
    let mut by_bucket: BTreeMap<String, Vec<&Judged>> = BTreeMap::new();
    let mut by_house: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for judged in &played {
        by_bucket.entry(judged.bucket.clone()).or_default().push(judged);
        by_house.entry(&judged.house).or_default().push(share(judged.success));
    }
    let bucket = |all: Vec<&Judged>| Bucket {
        episodes: all.len() as u64,
        success: mean(all.iter().map(|j| share(j.success))),
        lenient: mean(all.iter().map(|j| share(j.lenient))),
    };
    Summary {
        version: pass.version,
        phase: pass.phase.clone(),
        episodes: played.len() as u64,
        houses: by_house.len() as u64,
        errors: (pass.episodes.len() - played.len()) as u64,
        success: of(|j| share(j.success)),
        lenient: of(|j| share(j.lenient)),
        success_ci: bootstrap(&by_house.into_values().collect::<Vec<_>>()),
        progress: of(|j| f64::from(j.progress)),
        well_formed: of(|j| f64::from(j.well_formed)),
        steps: of(|j| f64::from(j.steps)),
        by_bucket: by_bucket.into_iter().map(|(name, all)| (name, bucket(all))).collect(),
    }
}

/// What learning gained: success of `after` minus success of `before`, over episodes played in both, with its interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gain {
    pub pairs: u64,
    pub success: f64,
    pub success_ci: [f64; 2],
}

/// Compares two passes, episode by episode.
pub fn gain(before: &Pass, after: &Pass) -> Gain {
    let mut by_house: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (place, first) in &before.episodes {
        let second = after.episodes.get(place);
        if let Some(second) = second.filter(|second| second.played && first.played) {
            by_house.entry(&first.house).or_default().push(share(second.success) - share(first.success));
        }
    }
    let pairs = by_house.values().map(Vec::len).sum::<usize>() as u64;
    let success = mean(by_house.values().flatten().copied());
    Gain { pairs, success, success_ci: bootstrap(&by_house.into_values().collect::<Vec<_>>()) }
}

/// The 95 % interval of the mean of all values, by resampling whole clusters with replacement. Seeded: the same values
/// give the same interval.
pub fn bootstrap(clusters: &[Vec<f64>]) -> [f64; 2] {
    if clusters.is_empty() {
        return [0.0, 0.0];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let drawn = (0..clusters.len()).map(|_| &clusters[(rng.next_u64() % clusters.len() as u64) as usize]);
            mean(drawn.flatten().copied())
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |quantile: f64| means[((RESAMPLES - 1) as f64 * quantile).round() as usize];
    [at(0.025), at(0.975)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(house: u64, success: bool) -> Judged {
        Judged {
            house: house.to_string(),
            bucket: if house.is_multiple_of(2) { "short".into() } else { "long".into() },
            success,
            lenient: true,
            progress: 0.5,
            steps: 10,
            well_formed: 1.0,
            played: true,
        }
    }

    fn pass(successes: &[bool]) -> Pass {
        let episodes = successes.iter().enumerate().map(|(n, s)| (n as u64, judged(n as u64 / 2, *s))).collect();
        Pass { version: 3, phase: "grpo".into(), episodes, ..Pass::default() }
    }

    #[test]
    fn it_adds_up_and_the_interval_holds_the_mean() {
        let all: Vec<bool> = (0..200).map(|n| n % 4 != 0).collect();
        let summary = summarise(&pass(&all));
        assert_eq!((summary.episodes, summary.houses, summary.success, summary.lenient), (200, 100, 0.75, 1.0));
        let [low, high] = summary.success_ci;
        assert!(low < 0.75 && 0.75 < high && low > 0.68 && high < 0.82, "{low} {high}");
        assert_eq!(summary.by_bucket["short"].episodes, 100);
        assert_eq!(summarise(&pass(&all)), summary, "the same values, the same interval");
    }

    #[test]
    fn clusters_widen_the_interval() {
        let alone: Vec<Vec<f64>> = (0..100).map(|n| vec![f64::from(n % 2)]).collect();
        let together: Vec<Vec<f64>> = (0..10).map(|n| vec![f64::from(n % 2); 10]).collect();
        let width = |[low, high]: [f64; 2]| high - low;
        assert!(width(bootstrap(&together)) > 2.0 * width(bootstrap(&alone)));
        assert_eq!(bootstrap(&[]), [0.0, 0.0]);
    }

    #[test]
    fn an_error_of_ours_is_no_failure() {
        let mut pass = pass(&[true, true, false]);
        pass.episodes.get_mut(&2).unwrap().played = false;
        let summary = summarise(&pass);
        assert_eq!((summary.episodes, summary.errors, summary.success), (2, 1, 1.0));
    }

    #[test]
    fn the_gain_is_paired() {
        let gain = gain(&pass(&[false, false, true, true]), &pass(&[true, true, true, false]));
        assert_eq!((gain.pairs, gain.success), (4, 0.25));
        assert!(gain.success_ci[0] <= 0.25 && gain.success_ci[1] >= 0.25);
    }

    #[test]
    fn a_pass_is_complete_when_every_episode_is_there() {
        assert!(pass(&[true; 4]).is_complete(4));
        assert!(!pass(&[true; 4]).is_complete(5));
        assert!(Pass { lost: true, ..pass(&[]) }.is_complete(5));
    }
}
