//! Episodes drawn from a house: a target, a start, and the expert's word that it can be done.

use crate::{
    error::Error,
    expert::{Expert, accessible},
    fetch::{Episode, FetchTask, TARGETS},
    geometry::{Vec2, vec2},
    robot::Robot,
    sim::Home,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Which episodes: in the target's room with at most 50 expert actions, or anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Near,
    All,
}

/// A range of expert lengths with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub name: &'static str,
    /// Primitive actions of the expert, both ends included.
    pub least: u32,
    pub most: u32,
}

const NEAR: [Bucket; 3] = [
    Bucket { name: "near-short", least: 1, most: 15 },
    Bucket { name: "near-mid", least: 16, most: 30 },
    Bucket { name: "near-long", least: 31, most: 50 },
];
const ALL: [Bucket; 3] = [
    Bucket { name: "short", least: 1, most: 49 },
    Bucket { name: "medium", least: 50, most: 149 },
    Bucket { name: "long", least: 150, most: 500 },
];

/// Starts and targets that are tried in one house.
const TRIES: u32 = 48;
/// Actions the expert plans at once while lengths are measured.
pub const REPLY_ACTIONS: usize = 5;
/// Object types that a house of the near tier holds at least.
const LEAST_KINDS: usize = 5;

impl Tier {
    pub fn buckets(self) -> &'static [Bucket] {
        match self {
            Tier::Near => &NEAR,
            Tier::All => &ALL,
        }
    }

    /// The bucket of an expert length; `None`: too long for this tier.
    pub fn bucket(self, length: u32) -> Option<&'static Bucket> {
        self.buckets().iter().find(|bucket| length >= bucket.least && length <= bucket.most)
    }
}

/// An episode that the expert solved.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub task: FetchTask,
    /// The thing that the start was drawn for.
    pub chosen: String,
    pub bucket: &'static str,
    pub expert_length: u32,
}

/// What one draw came to.
struct Draw {
    task: FetchTask,
    chosen: String,
    thing: usize,
}

/// Draws an episode, of a bucket if one is named.
///
/// # Errors
/// The tier has no such bucket, or none of the tries gave one.
pub fn sample(home: &Arc<Home>, tier: Tier, bucket: Option<&str>, rng: &mut ChaCha8Rng) -> Result<Sampled, Error> {
    let wanted = match bucket {
        None => None,
        Some(name) => match tier.buckets().iter().find(|bucket| bucket.name == name) {
            Some(bucket) => Some(bucket),
            None => return Err(Error::NoEpisode { bucket: name.into(), tries: 0 }),
        },
    };
    let none = || Error::NoEpisode { bucket: bucket.unwrap_or("any").into(), tries: TRIES };
    let kinds = target_kinds(home, tier);
    if kinds.is_empty() {
        return Err(none());
    }
    let mut can_take = BTreeMap::new();
    for _ in 0..TRIES {
        let Some(Draw { task, chosen, thing }) = draw(home, tier, wanted, &kinds, rng) else { continue };
        if !*can_take.entry(thing).or_insert_with(|| accessible(home, thing)) {
            continue;
        }
        let most = wanted.map_or_else(|| tier.buckets().last().map_or(0, |bucket| bucket.most), |bucket| bucket.most);
        let Some(expert_length) = solve(home, &task, most) else { continue };
        let Some(found) = tier.bucket(expert_length) else { continue };
        if wanted.is_none_or(|wanted| wanted == found) {
            return Ok(Sampled { task, chosen, bucket: found.name, expert_length });
        }
    }
    Err(none())
}

/// Types to fetch of which the house has one that can be picked up.
fn target_kinds(home: &Home, tier: Tier) -> Vec<&'static str> {
    let all: BTreeSet<&str> = home.scene.things.iter().map(|thing| thing.kind.as_str()).collect();
    if tier == Tier::Near && all.len() < LEAST_KINDS {
        return Vec::new();
    }
    TARGETS.into_iter().filter(|kind| home.scene.things.iter().any(|thing| thing.pickupable && thing.kind == *kind)).collect()
}

fn draw(home: &Arc<Home>, tier: Tier, wanted: Option<&Bucket>, kinds: &[&'static str], rng: &mut ChaCha8Rng) -> Option<Draw> {
    let kind = kinds[rng.random_range(0..kinds.len())];
    let ids: Vec<usize> = (0..home.scene.things.len())
        .filter(|&thing| home.scene.things[thing].kind == kind && home.scene.things[thing].pickupable)
        .collect();
    let chosen = ids[rng.random_range(0..ids.len())];
    let target = &home.scene.things[chosen];
    let room = match tier {
        Tier::Near => usize::from(target.room),
        Tier::All => rng.random_range(0..home.scene.rooms.len()),
    };
    // The shortest episodes begin next to the target: uniform starts would hardly ever give one.
    let around = wanted.filter(|bucket| bucket.name == "near-short").map(|_| target.floor_centre());
    let place = start(home, room, around, rng)?;
    let yaw = 30.0 * f64::from(rng.random_range(0_u32..12));
    if !Robot::stowed(place, yaw).fits(&home.space) {
        return None;
    }
    let task = FetchTask {
        target: kind.into(),
        ids: ids.into_iter().map(|thing| home.scene.things[thing].id.clone()).collect(),
        instruction: instruction(kind, rng),
        start: [place.x, place.z],
        yaw,
        seed: rng.random_range(0..u64::MAX),
        ..FetchTask::default()
    };
    Some(Draw { task, chosen: target.id.clone(), thing: chosen })
}

/// A point of a room's floor, to the centimetre.
fn start(home: &Home, room: usize, around: Option<Vec2>, rng: &mut ChaCha8Rng) -> Option<Vec2> {
    const NEXT_TO_M: f64 = 1.2;
    let polygon = home.scene.rooms[room].polygon();
    let mut low = polygon.iter().fold(polygon[0], |low, corner| vec2(low.x.min(corner.x), low.z.min(corner.z)));
    let mut high = polygon.iter().fold(polygon[0], |high, corner| vec2(high.x.max(corner.x), high.z.max(corner.z)));
    if let Some(centre) = around {
        let reach = vec2(NEXT_TO_M, NEXT_TO_M);
        (low, high) = (centre.minus(reach), centre.plus(reach));
    }
    (0..20).find_map(|_| {
        let round = |value: f64| libm::round(value * 100.0) / 100.0;
        let point = vec2(round(rng.random_range(low.x..high.x)), round(rng.random_range(low.z..high.z)));
        (home.space.body_fits(point) && home.space.room_at(point) == room).then_some(point)
    })
}

/// The expert's number of actions; `None`: it does not succeed within `most`.
pub fn solve(home: &Arc<Home>, task: &FetchTask, most: u32) -> Option<u32> {
    let mut episode = Episode::start(Arc::clone(home), Arc::new(task.clone())).ok()?;
    let mut expert = Expert::default();
    while !episode.over && episode.steps < most {
        let actions = expert.next(&episode, REPLY_ACTIONS);
        if actions.is_empty() {
            return None;
        }
        for action in actions {
            // An expert whose action fails does not know the house well enough to be followed.
            if !episode.act(action) {
                return None;
            }
        }
    }
    (episode.success() && episode.steps <= most && !expert.guessed()).then_some(episode.steps)
}

/// The WordNet sense that episode files give for a type.
pub fn synset(kind: &str) -> String {
    match kind {
        "AlarmClock" => "alarm_clock.n.01".into(),
        "BasketBall" => "basketball.n.02".into(),
        "Bowl" => "bowl.n.03".into(),
        "GarbageCan" => "ashcan.n.01".into(),
        "HousePlant" => "houseplant.n.01".into(),
        "Laptop" => "laptop.n.01".into(),
        "Mug" => "mug.n.04".into(),
        "SprayBottle" => "atomizer.n.01".into(),
        other => format!("{}.n.01", other.to_lowercase()),
    }
}

fn noun(kind: &str) -> String {
    match kind {
        "AlarmClock" => "alarm clock".into(),
        "GarbageCan" => "trash can".into(),
        "HousePlant" => "houseplant".into(),
        "SprayBottle" => "spray bottle".into(),
        other => other.to_lowercase(),
    }
}

fn instruction(kind: &str, rng: &mut ChaCha8Rng) -> String {
    const GO: [&str; 5] = ["go to", "locate", "find", "search for", "navigate to"];
    const TAKE: [&str; 6] = ["pick up", "take", "grab", "grasp", "clutch", "hold"];
    let noun = noun(kind);
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{} {article} {noun} and {} that {noun}", GO[rng.random_range(0..GO.len())], TAKE[rng.random_range(0..TAKE.len())])
}
