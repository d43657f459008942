//! Where an episode stands in a curriculum, and easier starts for it.
//!
//! In: an episode that the expert solves. Out: its [`Features`], and starts along the expert's own way: near the goal at
//! first, further back as one learns, or so near that only the arm is left.

use super::{Arm, Episode, Spec, Task};
use crate::{
    expert::Expert,
    robot::{Action, Robot},
    sim::Home,
};
use std::sync::Arc;

/// Actions the expert plans at once.
const REPLY_ACTIONS: usize = 5;

/// What makes an episode hard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features {
    /// Primitive actions.
    pub expert_length: u32,
    /// Rooms that the expert comes through, the first one included.
    pub rooms: u32,
    /// Height of the target's centre above the floor, metres; of the lowest of several; `None` in RoomVisit.
    pub height_m: Option<f64>,
    /// Nothing but the arm needs to move.
    pub arm_only: bool,
}

/// The expert's way: the robot before each action. `None`: it does not succeed.
fn way(home: &Arc<Home>, spec: &Spec) -> Option<(Episode, Vec<(Robot, Action)>)> {
    let mut episode = Episode::start(Arc::clone(home), Arc::new(spec.clone())).ok()?;
    let (mut expert, mut way) = (Expert::default(), Vec::new());
    while !episode.over {
        let actions = expert.next(&episode, REPLY_ACTIONS);
        if actions.is_empty() {
            return None;
        }
        for action in actions {
            way.push((episode.sim.robot, action));
            if !episode.act(action) {
                break;
            }
        }
    }
    episode.success().then_some((episode, way))
}

/// An episode's features; `None`: the expert does not solve it.
pub fn features(home: &Arc<Home>, spec: &Spec) -> Option<Features> {
    let (episode, way) = way(home, spec)?;
    let height = |&target: &usize| f64::from(home.scene.things[target].centre[1]);
    Some(Features {
        expert_length: episode.steps,
        rooms: episode.visited.len() as u32,
        height_m: episode.targets.iter().map(height).min_by(f64::total_cmp),
        arm_only: !way.iter().any(|(_, action)| action.is_base()),
    })
}

/// The same task, begun where the expert has `left` actions to go at most, with the arm as it is there. Claims and what is
/// held are no part of a start, so RoomVisit has none, nor what comes after a grasp. `None`: the expert does not solve it.
pub fn reverse_start(home: &Arc<Home>, spec: &Spec, left: u32) -> Option<Spec> {
    if spec.task == Task::RoomVisit {
        return None;
    }
    let (_, way) = way(home, spec)?;
    let free = way.iter().position(|(_, action)| *action == Action::Pickup).unwrap_or(way.len() - 1);
    let at = way.len().saturating_sub(left as usize).min(free);
    Some(started(spec, &way[at].0))
}

/// The same task, begun where the expert has driven all its way and only the arm is left. `None`: the task needs no arm, or
/// the expert does not solve it.
pub fn arm_only_start(home: &Arc<Home>, spec: &Spec) -> Option<Spec> {
    if !spec.task.takes() || spec.bring {
        return None;
    }
    let (_, way) = way(home, spec)?;
    let at = way.iter().rposition(|(_, action)| action.is_base()).map_or(0, |last| last + 1);
    Some(started(spec, &way.get(at)?.0))
}

fn started(spec: &Spec, robot: &Robot) -> Spec {
    let arm = Arm { lift: robot.lift, extension: robot.extension, wrist: robot.wrist };
    Spec { start: [robot.position.x, robot.position.z], yaw: robot.yaw, arm: Some(arm), ..spec.clone() }
}
