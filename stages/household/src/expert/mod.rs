//! What someone who knows the house would do, from any state.
//!
//! Until a target has been seen it looks around in each room, turning left, since nobody could know better. Then it drives,
//! by a best-first search over the robot's own moves (0.2 m, 30 degrees, and small turns of 6 at the end), to where the task
//! is done: a pose from which the arm reaches the target or the camera shows it, an unclaimed room, the start. Long ways are
//! planned piece by piece along a field of distances that keeps away from walls and from what would have to be pushed. Every
//! plan is run in a copy of the world before it is given out, and kept for as long as the robot does what it says.
//!
//! Replies end where driving gives way to the arm, and the arm to the grasp; the last actions before a goal come one or two
//! at a time, so that each begins with a fresh look.

mod goals;
mod search;
mod slips;

pub use slips::{Marked, Slips};

use crate::{
    geometry::{vec2, yaw_of},
    reach::Reach,
    robot::{Action, Robot},
    sim::{Home, Sim},
    tasks::{self, Episode, LOOK_HEADINGS, Task},
    view::{cameras, sight},
};
use goals::{Goal, Way};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use search::{Found, Manner, Search};
use std::{collections::BTreeSet, sync::Arc};

/// A careful search, and a hasty one for where that finds nothing within its states.
const CAREFUL: Manner = Manner { most: 1_500, haste: 1.2, plans: 16, fine: false, push: false, piece: true, guided: true };
const HASTY: Manner = Manner { most: 3_000, haste: 2.0, plans: 24, ..CAREFUL };
/// Where the grid of poses leads astray.
const ROUGH: Manner = Manner { most: 8_000, guided: false, ..HASTY };
/// With small turns, and the whole way at once: for narrow places, and where pieces of the way led in a circle.
const FINE: Manner = Manner { most: 5_000, haste: 2.0, plans: 40, fine: true, push: false, piece: false, guided: true };
/// With the arm out each state is dearer to test.
const ARM_OUT: Manner = Manner { most: 250, haste: 1.5, ..CAREFUL };
const LOADED: Manner = Manner { most: 1_500, haste: 2.0, ..CAREFUL };
/// Turns in one reply while looking around: a quarter circle is a new view.
const LOOK_TURNS: u32 = 3;
/// The last actions before a grasp or before standing at the goal, in a reply of their own.
const LAST: usize = 2;
/// The target this near to the middle of the picture is faced, degrees.
const FACED_DEG: f64 = 15.0;
/// Plans from poses it had planned from before, after which it gives up.
const MOST_CIRCLES: u32 = 30;
/// What is brought is let go of this near to the start at most, metres.
const BACK_M: f64 = 0.5;

/// Plans for one episode at a time.
#[derive(Default)]
pub struct Expert {
    /// What to do next, with the robot as it must be before each action.
    script: Vec<(Robot, Action)>,
    way: Option<Way>,
    /// What it said last, and after how many steps of the episode.
    said: (Vec<Action>, u32),
    /// Poses from which a plan was made since the robot last did something else, to notice when plans lead in a circle.
    begun: Vec<Robot>,
    circles: bool,
    circled: u32,
    /// Rooms in which it turned as far as it can without seeing a target.
    looked: BTreeSet<usize>,
    guessed: bool,
}

impl Expert {
    /// Whether a plan went to another target than the one that was seen, since that one cannot be reached: nobody who only
    /// looks could have known.
    pub fn guessed(&self) -> bool {
        self.guessed
    }

    /// The next actions, at most `most`; empty where the episode is over or has no solution from here.
    pub fn next(&mut self, episode: &Episode, most: usize) -> Vec<Action> {
        if episode.over || most == 0 {
            return Vec::new();
        }
        if !self.was_followed(episode) {
            self.begun.clear();
            self.circled = 0;
        }
        let reply = self.say(episode, most);
        self.said = (reply.clone(), episode.steps);
        reply
    }

    /// Whether all that was done since it spoke last is what it said then.
    fn was_followed(&self, episode: &Episode) -> bool {
        let (said, at) = &self.said;
        match episode.steps.checked_sub(*at) {
            Some(0) => true,
            Some(done) => said.get(done as usize - 1).copied() == episode.last.map(|(action, _)| action),
            None => false,
        }
    }

    fn say(&mut self, episode: &Episode, most: usize) -> Vec<Action> {
        if let Some(action) = self.at_once(episode) {
            return vec![action];
        }
        let looks = self.look_around(episode, most);
        if !looks.is_empty() {
            return looks;
        }
        let robot = episode.sim.robot;
        // The same pose comes twice only where an action changes nothing, as the pickup at the end.
        let taken = !episode.sim.held.is_empty();
        let at = self.script.iter().position(|(before, action)| *before == robot && !(taken && *action == Action::Pickup));
        let at = at.filter(|&at| episode.last != Some((self.script[at].1, false))).unwrap_or_else(|| {
            self.circles = self.begun.contains(&robot);
            self.circled += u32::from(self.circles);
            self.script = if self.circled > MOST_CIRCLES { Vec::new() } else { self.solve(episode).unwrap_or_default() };
            self.begun.push(robot);
            0
        });
        self.reply(at, most)
    }

    /// What needs no plan.
    fn at_once(&self, episode: &Episode) -> Option<Action> {
        let sim = &episode.sim;
        if episode.accomplished() {
            return Some(if episode.task.task == Task::ObjectNav { face(episode) } else { Action::Done });
        }
        match episode.task.task {
            Task::RoomVisit if !episode.claimed.contains(&episode.room()) => Some(Action::SubDone),
            Task::PickUp | Task::Fetch if episode.holds_target() => {
                let start = vec2(episode.task.start[0], episode.task.start[1]);
                let back = sim.held.iter().any(|&held| episode.targets.contains(&held) && sim.centre(held).0.distance(start) <= BACK_M);
                (back || sim.robot.position.distance(start) < 0.15).then_some(Action::Dropoff)
            }
            // What is held and not asked for is in the way.
            _ => (!sim.held.is_empty()).then_some(Action::Dropoff),
        }
    }

    /// Turns left through a room in which no target has been seen yet.
    fn look_around(&mut self, episode: &Episode, most: usize) -> Vec<Action> {
        let (looked, room) = (episode.looked(), episode.room());
        let searches = episode.task.task != Task::RoomVisit && episode.remembered.is_none() && !episode.has_taken();
        if !searches || looked >= LOOK_HEADINGS || !compact(&episode.sim) || self.looked.contains(&room) {
            return Vec::new();
        }
        let mut trial = episode.sim.clone();
        let turns = most.min(LOOK_TURNS.min(LOOK_HEADINGS - looked) as usize);
        let looks: Vec<Action> = (0..turns).map_while(|_| trial.act(Action::RotateLeft).then_some(Action::RotateLeft)).collect();
        if looks.is_empty() {
            self.looked.insert(room);
        }
        looks
    }

    fn reply(&self, at: usize, most: usize) -> Vec<Action> {
        let rest: Vec<Action> = self.script.iter().skip(at).map(|(_, action)| *action).collect();
        let part = |action: &Action| (action.is_base(), *action == Action::Pickup);
        let first = rest.first().map(part);
        let whole = rest.iter().take_while(|action| Some(part(action)) == first).count();
        let near = rest.len() > whole || self.way.as_ref().is_some_and(|way| way.ends);
        let whole = if near && whole > LAST { whole - LAST } else { whole };
        rest.into_iter().take(whole.min(most)).collect()
    }

    /// A plan from here to the goal, or a good piece of the way.
    fn solve(&mut self, episode: &Episode) -> Option<Vec<(Robot, Action)>> {
        match episode.task.task {
            Task::RoomVisit => self.approach(episode, Goal::Rooms(episode.claimed.clone())),
            Task::PickUp | Task::Fetch if episode.holds_target() => {
                self.approach(episode, Goal::Back(vec2(episode.task.start[0], episode.task.start[1])))
            }
            task => {
                let goal = |targets| if task == Task::ObjectNav { Goal::Sight(targets) } else { Goal::Grasp(targets) };
                if let Some(remembered) = episode.remembered {
                    let plan = self.approach(episode, goal(vec![remembered.thing]));
                    if plan.is_some() {
                        return plan;
                    }
                    self.guessed = true;
                }
                self.approach(episode, goal(episode.targets.clone()))
            }
        }
    }

    /// Drives with the arm as it is where that is quick, else with the arm drawn in, else with the wrist folded too.
    fn approach(&mut self, episode: &Episode, goal: Goal) -> Option<Vec<(Robot, Action)>> {
        let sim = &episode.sim;
        if self.way.as_ref().is_none_or(|way| !way.holds(sim, &goal)) {
            self.way = Some(Way::new(sim, goal));
        }
        let way = self.way.as_mut()?;
        let mut prefix = Vec::new();
        let mut trial = sim.clone();
        for stage in 0..3 {
            if stage > 0 && !draw_in(&mut trial, &mut prefix, stage == 2) {
                continue;
            }
            let manners = match (compact(&trial), trial.held.is_empty()) {
                (true, _) if self.circles => &[FINE][..],
                (true, _) => &[CAREFUL, HASTY, ROUGH, FINE],
                (false, true) if self.circles => &[],
                (false, true) => &[ARM_OUT],
                (false, false) if self.circles => &[Manner { most: LOADED.most, ..FINE }],
                (false, false) => &[LOADED],
            };
            if let Some((found, ends)) = drive(&trial, way, manners, !self.circles) {
                way.ends = ends;
                prefix.extend(found);
                return Some(prefix);
            }
            if compact(&trial) {
                break;
            }
        }
        // A plan that only draws the arm in is still a step on the way, and the next one begins from a better place.
        (!prefix.is_empty()).then_some(prefix)
    }
}

/// Searches, first around what is light and then through it. `part`: the way to the best place is better than none.
fn drive(sim: &Sim, way: &Way, manners: &[Manner], part: bool) -> Option<(Vec<(Robot, Action)>, bool)> {
    let mut best = None;
    // Who went in a circle around what is light pushes it at once.
    let pushes: &[bool] = match (way.light.is_empty(), part) {
        (true, _) => &[false],
        (false, true) => &[false, true],
        (false, false) => &[true],
    };
    for &push in pushes {
        for &manner in manners {
            match Search::new(sim, way, Manner { push, ..manner }).run() {
                Found::Way(script, ends) if !script.is_empty() => return Some((script, ends)),
                Found::Unfinished(script) => best = best.or(script),
                Found::Nothing | Found::Way(..) => {}
            }
        }
    }
    best.filter(|_| part).map(|script| (script, false))
}

/// Whether the arm is within the body's outline and the hand empty, so that only the body can touch something.
fn compact(sim: &Sim) -> bool {
    sim.robot.extension < 0.01 && (sim.robot.wrist + 180.0).abs() < 25.0 && sim.held.is_empty()
}

/// Turns until the target that the camera shows is about in the middle of the picture.
fn face(episode: &Episode) -> Action {
    let Some(target) = episode.stands_before() else { return Action::Done };
    let sim = &episode.sim;
    let bearing = sight(&sim.robot, target, sim.centre(target)).bearing;
    if bearing.abs() <= FACED_DEG {
        return Action::Done;
    }
    let turn = match (bearing > 0.0, bearing.abs() > 21.0) {
        (true, true) => Action::RotateRight,
        (true, false) => Action::RotateRightSmall,
        (false, true) => Action::RotateLeft,
        (false, false) => Action::RotateLeftSmall,
    };
    let mut after = episode.clone();
    // A turn that cannot be had, or loses the target, is not worth it.
    let better = after.act(turn) && after.stands_before() == Some(target);
    if better { turn } else { Action::Done }
}

/// Draws the arm in, and folds the wrist if asked to; lifts first where something is in the way. False: it cannot.
fn draw_in(trial: &mut Sim, script: &mut Vec<(Robot, Action)>, fold: bool) -> bool {
    for _ in 0..60 {
        let robot = trial.robot;
        let wanted = if robot.extension > 0.001 {
            Action::MoveArmIn
        } else if fold && (robot.wrist + 180.0).abs() > 5.0 {
            if robot.wrist > -180.0 { Action::WristOpen } else { Action::WristClose }
        } else {
            return true;
        };
        let Some(action) = [wanted, Action::MoveArmUp].into_iter().find(|&action| trial.act(action)) else { return false };
        script.push((robot, action));
    }
    false
}

/// Whether there is a place on the floor from which the arm grasps a thing. That one can drive there is not asked.
pub(crate) fn accessible(home: &Arc<Home>, thing: usize) -> bool {
    accessible_from(home, thing, |_| true)
}

/// Whether one of these cells of the floor is a place for the body from which the arm grasps a thing.
pub(crate) fn accessible_from(home: &Arc<Home>, thing: usize, reached: impl Fn(usize) -> bool) -> bool {
    const AROUND_M: f64 = 0.95;
    let place = home.scene.things[thing].floor_centre();
    let mut sim = Sim::new(Arc::clone(home), Robot::stowed(place, 0.0), cameras(&mut ChaCha8Rng::seed_from_u64(0)));
    let Some(reach) = Reach::new(&sim, &sim.robot, thing) else { return false };
    let floor = home.floor();
    let cells = floor.near(place, AROUND_M).filter(|&cell| reached(cell));
    let poses = cells.flat_map(|cell| (0..12).map(move |heading| (cell, 30.0 * f64::from(heading))));
    for (cell, yaw) in poses {
        // The cell is the body's axis, not the pivot.
        sim.robot = Robot::stowed(place, yaw).standing(floor.middle(cell));
        let grasps = reach.grasps(0, sim.robot.position, yaw, 0);
        if grasps.iter().take(2).any(|grasp| goals::grasped(&sim, &reach, grasp).is_some()) {
            return true;
        }
    }
    false
}

/// Whether one of these cells of the floor is a place for the body from which the navigation camera, turned towards a thing,
/// shows it within two metres.
pub(crate) fn viewable_from(home: &Arc<Home>, thing: usize, reached: impl Fn(usize) -> bool) -> bool {
    let mut sim = Sim::new(Arc::clone(home), Robot::stowed(vec2(0.0, 0.0), 0.0), cameras(&mut ChaCha8Rng::seed_from_u64(0)));
    let floor = home.floor();
    let block = sim.block(thing);
    let far = tasks::NEAR_M + block.half.length();
    floor.near(block.centre, far).filter(|&cell| reached(cell)).any(|cell| {
        let body = floor.middle(cell);
        let robot = Robot::stowed(body, yaw_of(block.centre.minus(body)));
        sim.robot = robot.standing(body);
        tasks::stands_before(&sim, thing)
    })
}
