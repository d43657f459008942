//! What is told of a finished episode.

use super::{Episode, Milestone, Task};
use crate::{field::Field, geometry::vec2};

/// An episode in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    pub success: bool,
    pub lenient: bool,
    /// Primitive actions.
    pub steps: u32,
    /// Success weighted by path length: the shortest way over the way that the pivot went; `None` in RoomVisit.
    pub spl: Option<f64>,
    /// Success weighted by episode length: `success * expert / max(actual, expert)`, in primitive actions.
    pub sel: f64,
    pub rooms_visited: u32,
    pub rooms_claimed: u32,
    pub rooms: u32,
    /// Metres that the pivot went.
    pub travelled_m: f64,
    /// From the pivot to the nearest target that is not held, metres on the floor; `None` in RoomVisit.
    pub target_m: Option<f64>,
    /// It failed, and something was grasped for.
    pub failed_but_tried_pickup: bool,
    pub milestones: Vec<&'static str>,
}

impl Metrics {
    /// `expert_length`: primitive actions that the expert needs.
    pub fn new(episode: &Episode, expert_length: u32) -> Metrics {
        let success = episode.success();
        let (actual, expert) = (f64::from(episode.steps), f64::from(expert_length));
        let nearest = episode.targets.iter().map(|&target| episode.sim.centre(target).0.distance(episode.sim.robot.position));
        Metrics {
            success,
            lenient: episode.lenient(),
            steps: episode.steps,
            spl: spl(episode),
            sel: if success { expert / actual.max(expert).max(1.0) } else { 0.0 },
            rooms_visited: episode.visited.len() as u32,
            rooms_claimed: episode.claimed.len() as u32,
            rooms: episode.sim.home.scene.rooms.len() as u32,
            travelled_m: episode.travelled,
            target_m: nearest.min_by(f64::total_cmp),
            failed_but_tried_pickup: !success && episode.tried_pickup,
            milestones: episode.milestones.iter().map(|milestone: &Milestone| milestone.name()).collect(),
        }
    }
}

/// The way from the start to within the arm's (or the eye's) reach of where the targets stood at first.
fn spl(episode: &Episode) -> Option<f64> {
    if episode.task.task == Task::RoomVisit {
        return None;
    }
    if !episode.success() {
        return Some(0.0);
    }
    let scene = &episode.sim.home.scene;
    let near = if episode.task.task.takes() { crate::field::REACH_M } else { super::episode::NEAR_M };
    let places: Vec<_> = episode.targets.iter().map(|&target| scene.things[target].floor_centre()).collect();
    let floor = episode.sim.home.floor();
    let field = Field::to(floor, |point| places.iter().any(|place| place.distance(point) <= near));
    let shortest = field.way(floor, vec2(episode.task.start[0], episode.task.start[1]))?;
    Some(if episode.travelled <= shortest { 1.0 } else { shortest / episode.travelled })
}
