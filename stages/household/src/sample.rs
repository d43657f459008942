//! Episodes drawn from a house: a target, a start, and the expert's word that it can be done.
//!
//! In: a house, a [`Request`], a generator of random numbers. Out: an episode whose target exists, can be reached and was
//! reached by the expert, or the reason why there is none.

use crate::{
    error::Error,
    expert::{Expert, accessible},
    field::Field,
    geometry::{Vec2, vec2},
    instruct::{self, Colours, Phrase, Wording, describe},
    robot::Robot,
    sim::Home,
    tasks::{Episode, Spec, Task},
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use crate::instruct::synset;

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
    Bucket { name: "near-short", least: 1, most: 29 },
    Bucket { name: "near-mid", least: 30, most: 39 },
    Bucket { name: "near-long", least: 40, most: 50 },
];
const ALL: [Bucket; 3] = [
    Bucket { name: "short", least: 1, most: 49 },
    Bucket { name: "medium", least: 50, most: 149 },
    Bucket { name: "long", least: 150, most: 550 },
];

/// Starts and targets that are tried in one house.
const TRIES: u32 = 48;
/// Of these, as many as the expert is asked about.
const SOLVES: u32 = 6;
/// Actions the expert plans at once while lengths are measured.
pub const REPLY_ACTIONS: usize = 5;
/// While this many tries last, starts are passed over that are too near for the length that was drawn, and so are the first
/// episodes that come out shorter: without it most episodes of a bucket would be at its short end.
const AIMED: u32 = 30;
const PASSED_OVER: u32 = 2;
/// Object types that a house of the near tier holds at least.
const LEAST_KINDS: usize = 5;
/// RoomVisit is asked for in houses of at least this many rooms.
pub const LEAST_ROOMS: usize = 3;
/// How near to its target PickUp begins, metres; and how near where it is to be long.
const PICKUP_M: f64 = 2.0;
const PICKUP_FAR_M: f64 = 2.6;

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

/// Shares of short, medium and long episodes in hundredths, as CHORES-S has them; `None`: it has none for this task.
pub fn chores_shares(task: Task) -> Option<[usize; 3]> {
    match task {
        Task::RoomVisit => None,
        Task::Fetch => Some([4, 77, 19]),
        Task::ObjectNav => Some([59, 36, 5]),
        Task::PickUp => Some([94, 6, 0]),
    }
}

/// What kind of episode is wanted.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub task: Task,
    pub tier: Tier,
    /// A bucket of the tier, by name.
    pub bucket: Option<&'a str>,
    pub wording: Wording,
    /// PickUp and Fetch: what was taken is brought to the start.
    pub bring: bool,
    /// Given: the target is told from others of its type where some phrase does so, with colours by this function.
    pub described: Option<Colours<'a>>,
    /// All things that count have their middles between these heights, metres.
    pub heights: Option<(f64, f64)>,
}

impl Request<'_> {
    pub fn new(task: Task, tier: Tier) -> Request<'static> {
        Request { task, tier, bucket: None, wording: Wording::Template, bring: false, described: None, heights: None }
    }

    fn wanted(&self) -> Result<Option<&'static Bucket>, Error> {
        let Some(name) = self.bucket else { return Ok(None) };
        let known = self.tier.buckets().iter().find(|bucket| bucket.name == name);
        known.map(Some).ok_or_else(|| Error::NoEpisode { bucket: name.into(), tries: 0 })
    }
}

/// An episode that the expert solved.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    pub task: Spec,
    /// The thing that the start was drawn for; empty in RoomVisit.
    pub chosen: String,
    pub bucket: &'static str,
    pub expert_length: u32,
}

/// Draws an episode of Fetch, of a bucket if one is named.
///
/// # Errors
/// As [`draw`].
pub fn sample(home: &Arc<Home>, tier: Tier, bucket: Option<&str>, rng: &mut ChaCha8Rng) -> Result<Sampled, Error> {
    draw(home, &Request { bucket, ..Request::new(Task::Fetch, tier) }, rng)
}

/// Draws an episode.
///
/// # Errors
/// The tier has no such bucket, or none of the tries gave one.
pub fn draw(home: &Arc<Home>, request: &Request, rng: &mut ChaCha8Rng) -> Result<Sampled, Error> {
    let wanted = request.wanted()?;
    let none = || Error::NoEpisode { bucket: request.bucket.unwrap_or("any").into(), tries: TRIES };
    let kinds = target_kinds(home, request);
    let enough = if request.task == Task::RoomVisit { home.scene.rooms.len() >= LEAST_ROOMS } else { !kinds.is_empty() };
    if !enough {
        return Err(none());
    }
    let mut can_take = BTreeMap::new();
    let mut solves = 0;
    let aim = aim(request, wanted, rng);
    for attempt in 0..TRIES {
        let least = if attempt < AIMED { aim } else { 0 };
        let Some((spec, chosen)) = propose(home, request, wanted, &kinds, rng) else { continue };
        if let Some(thing) = chosen.filter(|_| request.task.takes())
            && !*can_take.entry(thing).or_insert_with(|| accessible(home, thing))
        {
            continue;
        }
        if !likely(home, request, wanted, least, &spec) {
            continue;
        }
        solves += 1;
        if solves > SOLVES {
            break;
        }
        let most = wanted.map_or_else(|| request.tier.buckets().last().map_or(0, |bucket| bucket.most), |bucket| bucket.most);
        let Some(expert_length) = solve(home, &spec, most.min(spec.task.step_limit())) else { continue };
        let Some(found) = request.tier.bucket(expert_length) else { continue };
        if expert_length < least && solves <= PASSED_OVER {
            continue;
        }
        if wanted.is_none_or(|wanted| wanted == found) {
            let chosen = chosen.map_or_else(String::new, |thing| home.scene.things[thing].id.clone());
            return Ok(Sampled { task: spec, chosen, bucket: found.name, expert_length });
        }
    }
    Err(none())
}

/// Takes an episode that someone else made: its expert length, if it can be done.
///
/// # Errors
/// No thing has the ids, the robot does not fit at the start, the target is out of reach or no way leads to it, or the expert
/// does not succeed within the task's steps.
pub fn accept(home: &Arc<Home>, spec: &Spec) -> Result<u32, Error> {
    Episode::start(Arc::clone(home), Arc::new(spec.clone()))?.check()?;
    let most = spec.task.step_limit();
    run_expert(home, spec, most)
        .map(|(length, _)| length)
        .ok_or_else(|| Error::Scene { what: format!("the expert does not solve it within {most} actions") })
}

/// A length to aim at within a bucket of the tier that covers the house; 0: any.
fn aim(request: &Request, wanted: Option<&Bucket>, rng: &mut ChaCha8Rng) -> u32 {
    match (request.tier, request.task, wanted.map(|bucket| bucket.name)) {
        (Tier::All, Task::PickUp, Some("short")) => rng.random_range(28..48),
        (Tier::All, Task::ObjectNav, Some("short")) => rng.random_range(4..34),
        (Tier::All, Task::ObjectNav, Some("medium")) => rng.random_range(50..115),
        (Tier::All, _, Some("short")) => rng.random_range(4..42),
        (Tier::All, _, Some("medium")) => rng.random_range(50..128),
        (Tier::All, _, Some(_)) => rng.random_range(150..230),
        _ => 0,
    }
}

/// Whether a draw can come to the wanted length at all: the way alone tells.
fn likely(home: &Arc<Home>, request: &Request, wanted: Option<&Bucket>, aim: u32, spec: &Spec) -> bool {
    let Ok(episode) = Episode::start(Arc::clone(home), Arc::new(spec.clone())) else { return false };
    if request.task == Task::PickUp && episode.in_view == [None, None] {
        return false;
    }
    if request.task == Task::RoomVisit {
        return episode.check().is_ok();
    }
    let (floor, body) = (home.floor(), episode.sim.robot.body());
    let from_start = Field::to(floor, |point| point.distance(body) < 0.15);
    let near = if request.task.takes() { 0.8 } else { 1.8 };
    let ways = episode.targets.iter().flat_map(|&target| floor.near(episode.sim.centre(target).0, near));
    let Some(way) = ways.filter_map(|cell| from_start.way(floor, floor.middle(cell))).min_by(f64::total_cmp) else { return false };
    let steps = way / 0.2;
    // Turns and the arm take about as much again on short ways; the rest is seen once the expert has gone it.
    let most_likely = 1.5 * steps + if request.task.takes() { 50.0 } else { 25.0 };
    if request.task != Task::PickUp && most_likely < f64::from(aim) {
        return false;
    }
    match wanted {
        Some(bucket) => {
            1.1 * steps + if request.task.takes() { 20.0 } else { 0.0 } <= f64::from(bucket.most)
                && 2.2 * steps + 60.0 >= f64::from(bucket.least)
        }
        None => steps <= f64::from(request.tier.buckets().last().map_or(0, |bucket| bucket.most)),
    }
}

/// Types to ask for of which the house has one; what is to be taken must be pickupable.
fn target_kinds(home: &Home, request: &Request) -> Vec<&'static str> {
    let things = &home.scene.things;
    let all: BTreeSet<&str> = things.iter().map(|thing| thing.kind.as_str()).collect();
    if request.tier == Tier::Near && all.len() < LEAST_KINDS {
        return Vec::new();
    }
    let fits = |kind: &&'static str| things.iter().any(|thing| thing.kind == **kind && (thing.pickupable || !request.task.takes()));
    let within = |kind: &&'static str| {
        let Some((low, high)) = request.heights else { return true };
        let counts = things.iter().filter(|thing| thing.kind == **kind && (thing.pickupable || !request.task.takes()));
        counts.into_iter().all(|thing| (low..high).contains(&f64::from(thing.centre[1])))
    };
    request.task.targets().iter().copied().filter(fits).filter(within).collect()
}

fn propose(
    home: &Arc<Home>,
    request: &Request,
    wanted: Option<&Bucket>,
    kinds: &[&'static str],
    rng: &mut ChaCha8Rng,
) -> Option<(Spec, Option<usize>)> {
    if request.task == Task::RoomVisit {
        let room = by_area(home, rng);
        let place = start(home, room, None, rng)?;
        let instruction = instruct::room_visit(home.scene.rooms.len(), request.wording);
        return Some((posed(home, Spec { task: Task::RoomVisit, instruction, ..Spec::default() }, place, rng)?, None));
    }
    let kind = kinds[rng.random_range(0..kinds.len())];
    let things = &home.scene.things;
    let ids: Vec<usize> =
        (0..things.len()).filter(|&thing| things[thing].kind == kind && (things[thing].pickupable || !request.task.takes())).collect();
    let chosen = ids[rng.random_range(0..ids.len())];
    let target = &things[chosen];
    let short = wanted.is_some_and(|bucket| bucket.name == "short") && rng.random_bool(0.7);
    let in_room = request.tier == Tier::Near || request.task == Task::PickUp || short;
    let room = if in_room { usize::from(target.room) } else { by_area(home, rng) };
    // The shortest episodes begin next to the target: uniform starts would hardly ever give one.
    let next_to = match request.task {
        Task::PickUp => Some(if wanted.is_some_and(|bucket| bucket.name == "medium") { PICKUP_FAR_M } else { PICKUP_M }),
        _ => wanted.filter(|bucket| bucket.name == "near-short").map(|_| 1.2),
    };
    let place = start(home, room, next_to.map(|reach| (target.floor_centre(), reach)), rng)?;
    let (phrase, ids) = phrase(home, request, chosen, ids, room, rng);
    let instruction = instruct::instruction(request.task, &phrase, request.bring, request.wording, rng);
    let ids = ids.into_iter().map(|thing| things[thing].id.clone()).collect();
    let spec = Spec { task: request.task, target: kind.into(), ids, instruction, bring: request.bring, ..Spec::default() };
    Some((posed(home, spec, place, rng)?, Some(chosen)))
}

/// A phrase for the chosen thing and the things it means.
fn phrase(home: &Home, request: &Request, chosen: usize, ids: Vec<usize>, room: usize, rng: &mut ChaCha8Rng) -> (Phrase, Vec<usize>) {
    let any = Phrase::any(&home.scene.things[chosen].kind);
    let Some(colours) = request.described else { return (any, ids) };
    let mut phrases = describe(&home.scene, chosen, colours);
    phrases.retain(|phrase| *phrase != any && phrase.room.is_none_or(|told| told == room));
    if phrases.is_empty() {
        return (any, ids);
    }
    (phrases.swap_remove(rng.random_range(0..phrases.len())), vec![chosen])
}

/// A heading that the body fits in, and the cameras' seed.
fn posed(home: &Home, spec: Spec, place: Vec2, rng: &mut ChaCha8Rng) -> Option<Spec> {
    let yaw = if spec.task == Task::PickUp {
        libm::round(rng.random_range(0.0..360.0) * 100.0) / 100.0
    } else {
        30.0 * f64::from(rng.random_range(0_u32..12))
    };
    let seed = rng.random_range(0..u64::MAX);
    Robot::stowed(place, yaw).fits(&home.space).then_some(Spec { start: [place.x, place.z], yaw, seed, ..spec })
}

/// A room as often as its floor is large, so that starts are uniform over the house.
fn by_area(home: &Home, rng: &mut ChaCha8Rng) -> usize {
    let areas: Vec<f64> = home.scene.rooms.iter().map(|room| crate::geometry::area(&room.polygon())).collect();
    let mut left = rng.random_range(0.0..1.0) * areas.iter().sum::<f64>();
    areas
        .iter()
        .position(|area| {
            left -= area;
            left <= 0.0
        })
        .unwrap_or(0)
}

/// A point of a room's floor, to the centimetre; around a point, where one is given.
fn start(home: &Home, room: usize, around: Option<(Vec2, f64)>, rng: &mut ChaCha8Rng) -> Option<Vec2> {
    let polygon = home.scene.rooms[room].polygon();
    let mut low = polygon.iter().fold(polygon[0], |low, corner| vec2(low.x.min(corner.x), low.z.min(corner.z)));
    let mut high = polygon.iter().fold(polygon[0], |high, corner| vec2(high.x.max(corner.x), high.z.max(corner.z)));
    if let Some((centre, reach)) = around {
        (low, high) = (centre.minus(vec2(reach, reach)), centre.plus(vec2(reach, reach)));
    }
    (0..20).find_map(|_| {
        let round = |value: f64| libm::round(value * 100.0) / 100.0;
        let point = vec2(round(rng.random_range(low.x..high.x)), round(rng.random_range(low.z..high.z)));
        let near = around.is_none_or(|(centre, reach)| centre.distance(point) <= reach);
        (near && home.space.body_fits(point) && home.space.room_at(point) == room).then_some(point)
    })
}

/// The expert's number of actions; `None`: it does not succeed within `most`, an action of it fails, or it had to guess.
pub fn solve(home: &Arc<Home>, task: &Spec, most: u32) -> Option<u32> {
    run_expert(home, task, most).filter(|&(_, guessed)| !guessed).map(|(length, _)| length)
}

/// Its number of actions, and whether it had to guess.
fn run_expert(home: &Arc<Home>, task: &Spec, most: u32) -> Option<(u32, bool)> {
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
    (episode.success() && episode.steps <= most).then(|| (episode.steps, expert.guessed()))
}
