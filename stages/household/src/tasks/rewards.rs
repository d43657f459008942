//! What an action is paid, for reinforcement: sparse, SPOC's shaped presets, or a potential.
//!
//! SPOC's numbers are those of its training code, with two differences. It pays 5 for a pickup only where a flag is set that
//! nothing sets; here the target's first pickup is paid. And its RoomVisit pays for newly reachable places; here for cells
//! of a quarter of a metre that the pivot first enters.

use super::{Episode, Spec, Task};
use crate::{
    field::Field,
    geometry::{Vec2, vec2},
    robot::{Action, HAND_RADIUS},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How actions are paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 10 for success, else nothing.
    #[default]
    Sparse,
    /// Sparse, and what SPOC's reinforcement baselines add, by task.
    Spoc,
    /// Sparse, and what an action adds to a potential: [`WAY`] times the share of the metres at the start by which one is
    /// nearer now. The payments add up to the potential's gain, whatever the way that was taken.
    Potential,
}

/// What success is paid.
pub const GOAL: f64 = 10.0;
/// What the whole way is paid by [`Preset::Potential`]: less than [`GOAL`], so that no failure is worth a success.
pub const WAY: f64 = 5.0;
/// A way shorter than this is paid as a part of it, metres.
const LEAST_WAY_M: f64 = 1.0;
const STEP_PENALTY: f64 = -0.01;
const SHAPING: f64 = 5.0;
/// How far from the middle of a target, seen within two metres, one may stand: two metres, the camera's offset
/// and half of the largest thing.
const NAV_SLACK_M: f64 = 3.8;
const ROOM: f64 = 2.0;
const WRONG_CLAIM: f64 = -0.2;
const NEW_PLACE: f64 = 0.005;
const PLACE_M: f64 = 0.25;
/// Hand and target further apart than this count as this far in the potential, metres.
const HAND_FAR_M: f64 = 1.5;
/// A room yet to be claimed counts as this many metres.
const ROOM_M: f64 = 5.0;

/// Pays the actions of one episode, in order.
#[derive(Clone)]
pub struct Rewards {
    preset: Preset,
    closest: f64,
    touched: bool,
    taken: bool,
    claimed: usize,
    visited: usize,
    places: BTreeSet<(i64, i64)>,
    potential: f64,
    /// Paid a metre of the potential.
    a_metre: f64,
    /// Ways to the targets' places, for as long as they lie there; in RoomVisit to the rooms of this set.
    field: Option<(Vec<(usize, Vec2)>, Field)>,
}

impl Rewards {
    /// For an episode that has just begun, or is resumed.
    pub fn new(preset: Preset, episode: &Episode) -> Rewards {
        let mut rewards = Rewards {
            preset,
            closest: closest(episode),
            touched: episode.grasps().is_some(),
            taken: episode.has_taken(),
            claimed: episode.claimed.len(),
            visited: episode.visited.len(),
            places: BTreeSet::from([place(episode)]),
            potential: 0.0,
            a_metre: 0.0,
            field: None,
        };
        if preset == Preset::Potential {
            let left = rewards.worth(episode);
            rewards.a_metre = WAY / (-left).max(LEAST_WAY_M);
            rewards.potential = rewards.a_metre * left;
        }
        rewards
    }

    /// What the action that was just run is paid.
    pub fn pay(&mut self, episode: &Episode) -> f64 {
        let goal = if episode.success() && matches!(episode.last, Some((Action::Done, _))) { GOAL } else { 0.0 };
        goal + match self.preset {
            Preset::Sparse => 0.0,
            Preset::Spoc => self.shaped(episode),
            Preset::Potential => {
                let before = std::mem::replace(&mut self.potential, 0.0);
                self.potential = self.a_metre * self.worth(episode);
                self.potential - before
            }
        }
    }

    /// The least that a success is paid and the most that a failure is, within `steps` actions of one episode: what its
    /// shaping pays to both of them for the same way is left out, since members of a group play the same episode.
    pub fn bounds(preset: Preset, task: Task, steps: u32) -> (f64, f64) {
        let steps = f64::from(steps);
        match (preset, task) {
            (Preset::Sparse, _) => (GOAL, 0.0),
            (Preset::Potential, _) => (GOAL, WAY),
            // Success stands up to NAV_SLACK_M from the target's middle, a failure may have come nearer.
            (Preset::Spoc, Task::ObjectNav) => (GOAL + STEP_PENALTY * steps - NAV_SLACK_M, STEP_PENALTY),
            // Whoever holds the target has touched it, and its hand is within the hand's radius of it.
            (Preset::Spoc, Task::PickUp | Task::Fetch) => (GOAL - SHAPING * HAND_RADIUS, 0.0),
            // A failure may have entered new places and claimed nothing wrongly; a success the other way round.
            (Preset::Spoc, Task::RoomVisit) => (GOAL + WRONG_CLAIM * steps, NEW_PLACE * steps),
        }
    }

    /// The potential of now; the payments of [`Preset::Potential`], the goal apart, add up to its change.
    pub fn potential(&self) -> f64 {
        self.potential
    }

    fn shaped(&mut self, episode: &Episode) -> f64 {
        match episode.task.task {
            Task::ObjectNav => STEP_PENALTY + self.nearer(episode),
            Task::PickUp | Task::Fetch => {
                let mut paid = SHAPING * self.nearer(episode);
                if !self.touched && (episode.grasps().is_some() || episode.holds_target()) {
                    self.touched = true;
                    paid += SHAPING;
                }
                if !self.taken && episode.has_taken() {
                    self.taken = true;
                    paid += SHAPING;
                }
                paid
            }
            Task::RoomVisit => {
                let rooms = episode.visited.len() - std::mem::replace(&mut self.visited, episode.visited.len());
                let claims = episode.claimed.len() - std::mem::replace(&mut self.claimed, episode.claimed.len());
                let wrong = if episode.last == Some((Action::SubDone, false)) { WRONG_CLAIM } else { 0.0 };
                let new = if self.places.insert(place(episode)) { NEW_PLACE } else { 0.0 };
                ROOM * (rooms + claims) as f64 + wrong + new
            }
        }
    }

    /// By how much this is nearer than ever before.
    fn nearer(&mut self, episode: &Episode) -> f64 {
        let now = closest(episode);
        let gain = (self.closest - now).max(0.0);
        self.closest = self.closest.min(now);
        gain
    }

    /// Minus the metres that are left, over the floor and from the hand to the target.
    fn worth(&mut self, episode: &Episode) -> f64 {
        let spec: &Spec = &episode.task;
        if episode.accomplished() {
            return 0.0;
        }
        let goals: Vec<(usize, Vec2)> = match spec.task {
            Task::RoomVisit => {
                let rooms = 0..episode.sim.home.scene.rooms.len();
                rooms.filter(|room| !episode.claimed.contains(room)).map(|room| (room, Vec2::default())).collect()
            }
            _ if spec.bring && episode.holds_target() => vec![(usize::MAX, vec2(spec.start[0], spec.start[1]))],
            _ => episode.targets.iter().map(|&target| (target, episode.sim.centre(target).0)).collect(),
        };
        // In the hand the target moves with every step, and no way leads to it.
        if spec.task.takes() && !spec.bring && episode.holds_target() {
            return 0.0;
        }
        if self.field.as_ref().is_none_or(|(made_for, _)| *made_for != goals) {
            self.field = Some((goals.clone(), field(episode, &goals)));
        }
        let way = self.field.as_ref().and_then(|(_, field)| field.way(episode.sim.home.floor(), episode.sim.robot.body())).unwrap_or(0.0);
        match spec.task {
            Task::RoomVisit => -(way + ROOM_M * goals.len() as f64),
            Task::PickUp | Task::Fetch if !episode.holds_target() => -(way + closest(episode).min(HAND_FAR_M)),
            _ => -way,
        }
    }
}

fn field(episode: &Episode, goals: &[(usize, Vec2)]) -> Field {
    let floor = episode.sim.home.floor();
    let near = if episode.task.task.takes() { crate::field::REACH_M } else { super::episode::NEAR_M };
    match episode.task.task {
        Task::RoomVisit => Field::to_rooms(floor, |room| goals.iter().any(|&(goal, _)| goal == room)),
        _ => Field::to(floor, |point| goals.iter().any(|&(_, place)| place.distance(point) <= near)),
    }
}

/// Metres from the pivot (ObjectNav) or the hand to the nearest target.
fn closest(episode: &Episode) -> f64 {
    let (hand, height) = episode.sim.robot.hand();
    let far = |&target: &usize| match episode.task.task {
        Task::ObjectNav => episode.sim.centre(target).0.distance(episode.sim.robot.position),
        _ => episode.sim.block(target).distance(hand, height),
    };
    episode.targets.iter().map(far).fold(f64::MAX, f64::min)
}

fn place(episode: &Episode) -> (i64, i64) {
    let cell = |value: f64| libm::floor(value / PLACE_M) as i64;
    (cell(episode.sim.robot.position.x), cell(episode.sim.robot.position.z))
}
