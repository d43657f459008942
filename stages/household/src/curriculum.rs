//! What training tasks are sorted by, so that a policy can be given those that it learns most from.
//!
//! In: a house, a [`Request`], the name of a bucket. Out: an episode of that bucket, or the reason why the house has none.
//! Starts along the expert's way and with only the arm left are for training: no frozen file has them.

use crate::{
    error::Error,
    sample::{Request, Sampled, Tier, draw},
    sim::Home,
    tasks::{Task, arm_only_start, features, reverse_start},
};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use std::{ops::RangeInclusive, sync::Arc};

/// By what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curriculum {
    /// How many actions the expert needs: the tier's own buckets.
    #[default]
    Length,
    /// Through how many rooms the expert comes, the first one included.
    Rooms,
    /// How high above the floor the targets' middles are.
    Height,
    /// How much of the expert's way is left at the start.
    Starts,
}

/// Rooms of a bucket, and the length that most such episodes have.
const ROOMS: [(&str, RangeInclusive<u32>, &str); 3] =
    [("rooms-1", 1..=1, "short"), ("rooms-2", 2..=2, "medium"), ("rooms-many", 3..=u32::MAX, "medium")];
/// Heights of a bucket, metres: about those of tables first, where the stowed hand is not far.
const HEIGHTS: [(&str, (f64, f64)); 3] = [("height-middle", (0.4, 0.8)), ("height-high", (0.8, 9.0)), ("height-low", (0.0, 0.4))];
const ARM_ONLY: &str = "arm-only";
/// Actions of the expert that are left.
const REVERSE: [(&str, u32); 3] = [("reverse-10", 10), ("reverse-20", 20), ("reverse-40", 40)];
const WHOLE: &str = "whole";
/// Episodes drawn in one house until one goes through the rooms that are wanted.
const DRAWS: u32 = 3;

impl Curriculum {
    /// The names of its buckets, easiest first.
    ///
    /// # Errors
    /// These tasks have no episodes that differ in this: a line for people.
    pub fn buckets(self, tier: Tier, tasks: &[Task], bring: bool) -> Result<Vec<&'static str>, &'static str> {
        match self {
            Curriculum::Length => Ok(tier.buckets().iter().map(|bucket| bucket.name).collect()),
            Curriculum::Rooms if tier == Tier::Near => Err("`rooms` needs tier `all`: the near tier is in one room"),
            Curriculum::Rooms if !tasks.iter().any(|task| matches!(task, Task::Fetch | Task::ObjectNav)) => {
                Err("`rooms` needs task `fetch`, `object_nav` or `mix`: the others have no choice of rooms")
            }
            _ if tasks == [Task::RoomVisit] => Err("`height` and `starts` need a task with a target"),
            Curriculum::Rooms => Ok(ROOMS.iter().map(|(name, ..)| *name).collect()),
            Curriculum::Height => Ok(HEIGHTS.iter().map(|(name, _)| *name).collect()),
            Curriculum::Starts => {
                let arm = (!bring && tasks.iter().any(|task| task.takes())).then_some(ARM_ONLY);
                Ok(arm.into_iter().chain(REVERSE.iter().map(|(name, _)| *name)).chain([WHOLE]).collect())
            }
        }
    }

    /// Draws an episode of a bucket.
    ///
    /// # Errors
    /// The house has none, or there is no such bucket.
    pub fn draw(self, home: &Arc<Home>, request: &Request, bucket: &str, rng: &mut ChaCha8Rng) -> Result<Sampled, Error> {
        let none = || Error::NoEpisode { bucket: bucket.into(), tries: DRAWS };
        match self {
            Curriculum::Length => draw(home, &Request { bucket: Some(bucket), ..*request }, rng),
            Curriculum::Rooms => {
                let (name, rooms, length) = ROOMS.iter().find(|(name, ..)| *name == bucket).ok_or_else(none)?;
                let fits = |sampled: &Sampled| features(home, &sampled.task).is_some_and(|features| rooms.contains(&features.rooms));
                let found = (0..DRAWS).find_map(|_| draw(home, &Request { bucket: Some(length), ..*request }, rng).ok().filter(fits));
                found.map(|sampled| Sampled { bucket: name, ..sampled }).ok_or_else(none)
            }
            Curriculum::Height => {
                let (name, range) = HEIGHTS.iter().find(|(name, _)| *name == bucket).ok_or_else(none)?;
                let sampled = draw(home, &Request { heights: Some(*range), ..*request }, rng)?;
                Ok(Sampled { bucket: name, ..sampled })
            }
            Curriculum::Starts => late(home, draw(home, request, rng)?, bucket).ok_or_else(none),
        }
    }
}

/// The same errand with less of the way left.
fn late(home: &Arc<Home>, whole: Sampled, bucket: &str) -> Option<Sampled> {
    if bucket == WHOLE {
        return Some(Sampled { bucket: WHOLE, ..whole });
    }
    let (name, task) = match REVERSE.iter().find(|(name, _)| *name == bucket) {
        Some((name, left)) => (*name, reverse_start(home, &whole.task, *left)?),
        None if bucket == ARM_ONLY => (ARM_ONLY, arm_only_start(home, &whole.task)?),
        None => return None,
    };
    // What was seen on the way is not remembered at such a start: the expert may need some actions more, or not find it.
    let expert_length = features(home, &task)?.expert_length;
    Some(Sampled { task, bucket: name, expert_length, ..whole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::{HouseSplit, generate_compiled};
    use rand::SeedableRng as _;

    /// Episodes of each bucket of a curriculum in a few houses.
    fn drawn(curriculum: Curriculum, task: Task) -> Vec<(&'static str, Arc<Home>, Sampled)> {
        let mut all = Vec::new();
        for bucket in curriculum.buckets(Tier::All, &[task], false).unwrap() {
            let mut count = 0;
            for number in 0..40 {
                let home = Arc::new(Home::new(generate_compiled(HouseSplit::Train, number).unwrap().1));
                let mut rng = ChaCha8Rng::seed_from_u64(number);
                let Ok(sampled) = curriculum.draw(&home, &Request::new(task, Tier::All), bucket, &mut rng) else { continue };
                assert_eq!(sampled.bucket, bucket);
                all.push((bucket, home, sampled));
                count += 1;
                if count == 2 {
                    break;
                }
            }
            assert_eq!(count, 2, "{bucket} in 40 houses");
        }
        all
    }

    #[test]
    fn rooms_are_as_many_as_the_bucket_says() {
        for (bucket, home, sampled) in drawn(Curriculum::Rooms, Task::ObjectNav) {
            let rooms = features(&home, &sampled.task).unwrap().rooms;
            let least = match bucket {
                "rooms-1" => 1..=1,
                "rooms-2" => 2..=2,
                _ => 3..=9,
            };
            assert!(least.contains(&rooms), "{bucket}: {rooms}");
        }
    }

    #[test]
    fn every_thing_that_counts_is_as_high_as_the_bucket_says() {
        for (bucket, home, sampled) in drawn(Curriculum::Height, Task::Fetch) {
            let (low, high) = HEIGHTS.iter().find(|(name, _)| *name == bucket).unwrap().1;
            let heights =
                home.scene.things.iter().filter(|thing| sampled.task.ids.contains(&thing.id)).map(|thing| f64::from(thing.centre[1]));
            assert!(heights.into_iter().all(|height| (low..high).contains(&height)), "{bucket}");
        }
    }

    #[test]
    fn late_starts_have_less_of_the_way_left_and_are_solved() {
        for (bucket, home, sampled) in drawn(Curriculum::Starts, Task::Fetch) {
            let features = features(&home, &sampled.task).unwrap();
            assert_eq!(features.expert_length, sampled.expert_length);
            match bucket {
                "arm-only" => assert!(features.arm_only, "{features:?}"),
                "reverse-10" => assert!(features.expert_length <= 25, "{features:?}"),
                _ => {}
            }
            assert_eq!(sampled.task.arm.is_some(), bucket != "whole");
        }
    }

    #[test]
    fn what_cannot_differ_is_refused() {
        assert!(Curriculum::Rooms.buckets(Tier::Near, &[Task::Fetch], false).unwrap_err().contains("tier `all`"));
        assert!(Curriculum::Rooms.buckets(Tier::All, &[Task::PickUp], false).is_err());
        assert!(Curriculum::Height.buckets(Tier::All, &[Task::RoomVisit], false).is_err());
        assert_eq!(Curriculum::Starts.buckets(Tier::Near, &[Task::ObjectNav], false).unwrap()[0], "reverse-10");
    }
}
