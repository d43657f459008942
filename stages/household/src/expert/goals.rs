//! Where the expert wants to be: the field of distances to it, and the test whether a pose is it.

use super::FACED_DEG;
use crate::{
    field::{Field, Floor, REACH_M},
    geometry::{Block, Vec2, wrap, yaw_of},
    lattice::{HEADINGS, Headings, Lattice, Target},
    reach::{Grasp, Reach, UNIT},
    robot::{Action, HAND_RADIUS, Robot, magnitude},
    sim::Sim,
    space::clearance,
    tasks::stands_before,
    view::sight,
};
use std::collections::BTreeSet;

/// From this near a target is looked at, metres.
const LOOK_M: f64 = 1.75;
/// The pivot is back where it started within this, metres.
const THERE_M: f64 = 0.3;
/// Small turns at the end of a way.
const MOST_TURNS: i32 = 2;
/// One of them, degrees.
const SMALL_DEG: f64 = 6.0;
/// Where the field says that a goal without a pose of its own is further than this, it is not tested, metres.
const TESTED_M: f64 = 0.6;
/// Grasps that are tried at one pose.
const MOST_GRASPS: usize = 4;
/// A grasp is planned to end this much inside the hand's sphere, metres.
const INSIDE_M: f64 = 0.005;

/// What to reach.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Goal {
    /// A pose from which the arm takes one of these things.
    Grasp(Vec<usize>),
    /// A pose in which the navigation camera shows one of these things nearby.
    Sight(Vec<usize>),
    /// A room that is not among these.
    Rooms(BTreeSet<usize>),
    /// The place where the robot started.
    Back(Vec2),
}

impl Goal {
    fn targets(&self) -> &[usize] {
        match self {
            Goal::Grasp(targets) | Goal::Sight(targets) => targets,
            Goal::Rooms(_) | Goal::Back(_) => &[],
        }
    }
}

/// A goal with the ways to it, for as long as what it is about stays where it is.
pub(super) struct Way {
    pub(super) goal: Goal,
    /// Metres to go.
    pub(super) field: Field,
    /// Actions to go.
    pub(super) lattice: Lattice,
    targets: Vec<Block>,
    /// Light things at the body's height, and how near its axis comes to each; and those that it can come to at all.
    all: Vec<(Block, f64)>,
    pub(super) light: Vec<(Block, f64)>,
    /// Cells of the floor in which the body may touch one of them.
    beside_light: Vec<bool>,
    /// The last plan ends at the goal, not on the way to it.
    pub(super) ends: bool,
}

fn light(sim: &Sim) -> Vec<(Block, f64)> {
    let free = sim.home.light.iter().filter(|&number| !sim.held.contains(number));
    free.map(|&number| sim.block(number)).map(|block| (block, clearance(&block))).filter(|&(_, clearance)| clearance > 0.0).collect()
}

impl Way {
    pub(super) fn new(sim: &Sim, goal: Goal) -> Way {
        /// From a cell's middle to its corner, rounded up.
        const CORNER_M: f64 = 0.75 * Floor::CELL;
        let floor = sim.home.floor();
        let all = light(sim);
        let (mut touched, mut beside_light) = (vec![false; floor.cells()], vec![false; floor.cells()]);
        // Most light things stand where the body does not come near them.
        let in_the_way = |(block, clearance): &(Block, f64)| {
            let mut beside = false;
            for cell in floor.near(block.centre, block.half.length() + clearance + CORNER_M) {
                let distance = block.floor_distance(floor.middle(cell));
                touched[cell] |= distance < *clearance;
                beside_light[cell] |= distance < *clearance + CORNER_M;
                beside |= beside_light[cell];
            }
            beside
        };
        let light = all.iter().copied().filter(in_the_way).collect();
        let headings = Headings::around(sim.robot.yaw);
        let poses = poses(sim, floor, &headings, &goal);
        let field = Field::careful(floor, poses.iter().map(|&(body, _)| body), &touched);
        let pivots = poses.iter().filter_map(|&(body, pose)| Some(Target { cell: headings.pivot(floor, body, pose.heading)?, ..pose }));
        let lattice = Lattice::new(floor, headings, &pivots.collect::<Vec<_>>(), &touched, &sim.robot);
        let targets = goal.targets().iter().map(|&target| sim.block(target)).collect();
        Way { goal, field, lattice, targets, all, light, beside_light, ends: false }
    }

    /// Whether it was made for this goal and from around here, and things are where they were.
    pub(super) fn holds(&self, sim: &Sim, goal: &Goal) -> bool {
        let same = || goal.targets().iter().map(|&target| sim.block(target)).eq(self.targets.iter().copied());
        self.goal == *goal && self.lattice.covers(sim.home.floor(), &sim.robot) && same() && light(sim) == self.all
    }

    /// Whether the body touches something light.
    pub(super) fn touches(&self, floor: &Floor, body: Vec2) -> bool {
        floor.cell(body).is_none_or(|cell| self.beside_light[cell])
            && self.light.iter().any(|(block, clearance)| block.floor_distance(body) < *clearance)
    }

    /// Whether the goal may be met at a pose that is so many metres from it; `guided`: by the grid's headings too.
    pub(super) fn may_end(&self, floor: &Floor, robot: &Robot, left: f64, guided: bool) -> bool {
        let posed = guided && matches!(self.goal, Goal::Grasp(_) | Goal::Sight(_));
        if posed { self.lattice.is_near(floor, robot) } else { left <= TESTED_M }
    }
}

/// Poses at which the goal may be met: the body's cell, and the pose with that cell as if the pivot were there.
fn poses(sim: &Sim, floor: &Floor, headings: &Headings, goal: &Goal) -> Vec<(usize, Target)> {
    let space = &sim.home.space;
    let every = |body: usize| (0..HEADINGS).map(move |heading| (body, Target { cell: body, heading, cost: 0 }));
    match goal {
        Goal::Grasp(targets) => {
            let mut poses = Vec::new();
            for &target in targets {
                let Some(reach) = Reach::new(sim, &Robot::stowed(sim.robot.position, sim.robot.yaw), target) else { continue };
                let place = sim.centre(target).0;
                for body in floor.near(place, REACH_M).filter(|&cell| !space.walled(floor.middle(cell), place)) {
                    let graspable = |heading: usize| Some((heading, may_grasp(sim, &reach, floor.middle(body), headings.yaw(heading))?));
                    poses.extend((0..HEADINGS).filter_map(graspable).map(|(heading, cost)| (body, Target { cell: body, heading, cost })));
                }
            }
            poses
        }
        Goal::Sight(targets) => {
            let mut poses = Vec::new();
            for &target in targets {
                let block = sim.block(target);
                for body in floor.near(block.centre, LOOK_M + block.half.length()) {
                    let (middle, nearest) = (floor.middle(body), block.nearest(floor.middle(body)));
                    if middle.distance(nearest) > LOOK_M || space.walled(middle, nearest) {
                        continue;
                    }
                    let faced = |heading: &usize| {
                        let off = wrap(yaw_of(block.centre.minus(middle)) - headings.yaw(*heading)).abs();
                        off < FACED_DEG + SMALL_DEG * f64::from(MOST_TURNS)
                    };
                    poses.extend((0..HEADINGS).filter(faced).map(|heading| (body, Target { cell: body, heading, cost: 0 })));
                }
            }
            poses
        }
        // Where a room begins is enough: nobody gets further in but through there.
        Goal::Rooms(claimed) => {
            let asked = |cell: usize| floor.is_free(cell) && !claimed.contains(&floor.room(cell));
            let first = |&cell: &usize| {
                let sides = [(3, 0), (-3, 0), (0, 3), (0, -3)].into_iter().filter_map(|(across, along)| floor.shifted(cell, across, along));
                asked(cell) && sides.into_iter().any(|side| !asked(side))
            };
            (0..floor.cells()).filter(first).flat_map(every).collect()
        }
        Goal::Back(start) => floor.near(*start, THERE_M).flat_map(every).collect(),
    }
}

/// What the cheapest grasp costs of a body that stands here so, if some grasp is possible, the way there not asked.
fn may_grasp(sim: &Sim, reach: &Reach, body: Vec2, yaw: f64) -> Option<u32> {
    let base = Robot::stowed(body, yaw).standing(body);
    let grasps = reach.grasps(0, base.position, yaw, 0);
    grasps.iter().take(MOST_GRASPS).find(|grasp| reach.posed(&base, grasp).fits(&sim.home.space)).map(|grasp| grasp.cost)
}

/// What is left to do at a pose that is as good as the goal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tail {
    Nothing,
    /// Small turns, to the right positive.
    Turns(i32),
    Grasp(Grasp),
}

/// What can be done at a pose to meet the goal, with its price in quarters of an action. `probe`: the world as it will be.
pub(super) fn tails(probe: &mut Sim, way: &Way, reaches: &[Reach], robot: &Robot) -> Vec<(Tail, u32)> {
    match &way.goal {
        Goal::Grasp(_) => {
            let all = reaches.iter().enumerate();
            let mut grasps: Vec<Grasp> =
                all.flat_map(|(number, reach)| reach.grasps(number, robot.position, robot.yaw, MOST_TURNS)).collect();
            grasps.sort_by_key(|grasp| grasp.cost);
            let fits = |grasp: &Grasp| reaches[grasp.reach].posed(robot, grasp).fits(&probe.home.space);
            grasps.into_iter().take(4 * MOST_GRASPS).filter(fits).take(MOST_GRASPS).map(|grasp| (Tail::Grasp(grasp), grasp.cost)).collect()
        }
        Goal::Sight(targets) => sights(probe, targets, robot),
        Goal::Rooms(claimed) => {
            let met = !claimed.contains(&probe.home.space.room_at(robot.position));
            met.then_some((Tail::Nothing, 0)).into_iter().collect()
        }
        Goal::Back(start) => {
            let met = robot.position.distance(*start) <= THERE_M;
            met.then_some((Tail::Nothing, 0)).into_iter().collect()
        }
    }
}

fn sights(probe: &mut Sim, targets: &[usize], robot: &Robot) -> Vec<(Tail, u32)> {
    let mut found = Vec::new();
    for &target in targets {
        let bearing = sight(robot, target, probe.centre(target)).bearing;
        let turns = libm::ceil((bearing.abs() - FACED_DEG) / SMALL_DEG).max(0.0) as i32;
        if turns > MOST_TURNS {
            continue;
        }
        let turns = if bearing > 0.0 { turns } else { -turns };
        probe.robot = Robot { yaw: robot.yaw + f64::from(turns) * magnitude(Action::RotateRightSmall), ..*robot };
        if stands_before(probe, target) {
            found.push((Tail::Turns(turns), turns.unsigned_abs() * UNIT));
        }
    }
    found
}

/// Runs actions in a copy of the world for as long as each works as a whole, or at all where `partly`. True: all did.
pub(super) fn follow(trial: &mut Sim, actions: &[Action], partly: bool, script: &mut Vec<(Robot, Action)>) -> bool {
    for &action in actions {
        let before = trial.robot;
        let worked = trial.act(action);
        let whole =
            partly || !matches!(action, Action::MoveAhead | Action::MoveBack) || trial.robot.position.distance(before.position) > 0.19;
        if !worked || !whole {
            return false;
        }
        script.push((before, action));
    }
    true
}

/// The script of a grasp from where the robot stands, the pickup included, in the first order of moves that works.
pub(super) fn grasped(sim: &Sim, reach: &Reach, grasp: &Grasp) -> Option<Vec<(Robot, Action)>> {
    if !reach.posed(&sim.robot, grasp).fits(&sim.home.space) {
        return None;
    }
    let mut turned = sim.clone();
    let mut turns = Vec::new();
    if !follow(&mut turned, &small_turns(grasp.turns), false, &mut turns) {
        return None;
    }
    reach.orders(grasp).iter().find_map(|order| {
        let (mut trial, mut script) = (turned.clone(), turns.clone());
        if !follow(&mut trial, order, false, &mut script) {
            return None;
        }
        let (hand, height) = trial.robot.hand();
        script.push((trial.robot, Action::Pickup));
        (trial.block(reach.target).distance(hand, height) < HAND_RADIUS - INSIDE_M).then_some(script)
    })
}

pub(super) fn small_turns(turns: i32) -> Vec<Action> {
    vec![if turns > 0 { Action::RotateRightSmall } else { Action::RotateLeftSmall }; turns.unsigned_abs() as usize]
}
