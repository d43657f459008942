//! Whether a robot's state is one that can be: every number finite, nothing in a wall.
//!
//! In: a [`Home`], and the states of a [`Sim`] one after another. Out: how deep the robot, what it holds and what it has moved
//! are in what they may not be in. It asks no index that the simulator asks, so that an error of those is seen here.

use crate::{
    geometry::{Block, Vec2, vec2},
    robot::{ARM_RADIUS, Action, EXTENSION, Robot, hand_height},
    sim::{Home, SKIN_M, Sim},
    space::clearance,
    view::cameras,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, sync::Arc};

/// Nothing may be deeper than this in anything, metres.
pub const ALLOWED_M: f64 = 0.001;
/// Attempts to put a robot somewhere.
const TRIES: u32 = 400;
/// How far the hand is turned from the arm's direction at most where it grasps, degrees.
const HAND_TURN_DEG: f64 = 75.0;

/// The deepest of several, metres; 0 or less: in nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Depths {
    /// The body's capsule in what is fixed or heavy.
    pub body: f64,
    /// The arm in what is fixed or heavy.
    pub arm: f64,
    /// What is held in a wall. What stood in one when it was taken counts only where it gets deeper.
    pub held: f64,
    /// The same of what was pushed or let go of: what rides on a pushed thing can be pushed into a wall with it.
    pub moved: f64,
}

impl Depths {
    const NONE: Depths = Depths { body: f64::MIN, arm: f64::MIN, held: f64::MIN, moved: f64::MIN };

    /// The deeper of both, each by itself.
    #[must_use]
    pub fn deeper(self, other: Depths) -> Depths {
        Depths {
            body: self.body.max(other.body),
            arm: self.arm.max(other.arm),
            held: self.held.max(other.held),
            moved: self.moved.max(other.moved),
        }
    }

    /// Whether the robot and what it holds are where they may be.
    pub fn sound(&self) -> bool {
        self.body.max(self.arm).max(self.held) <= ALLOWED_M
    }
}

/// Something fixed or heavy, with half the sides of an upright box around it.
struct Obstacle {
    block: Block,
    clearance: f64,
    reach: Vec2,
}

/// Looks at states in one house.
pub struct Audit {
    home: Arc<Home>,
    obstacles: Vec<Obstacle>,
    walls: Vec<Block>,
    /// How deep each thing that is no longer in its place has been in a wall at least since it was there.
    known: BTreeMap<usize, f64>,
    pub worst: Depths,
}

impl Audit {
    pub fn new(home: Arc<Home>) -> Audit {
        let obstacle = |block: &Block| Obstacle { block: *block, clearance: clearance(block), reach: block.reach() };
        let obstacles = home.space.blocks().map(obstacle).collect();
        let walls = home.space.walls().copied().collect();
        Audit { home, obstacles, walls, known: BTreeMap::new(), worst: Depths::NONE }
    }

    /// Another robot in the same house: things are where they were at first.
    pub fn begin(&mut self) {
        self.known.clear();
    }

    /// Looks at the next state of the same robot.
    ///
    /// # Errors
    /// A number is not finite: a line that says which.
    pub fn look(&mut self, sim: &Sim) -> Result<Depths, String> {
        let robot = &sim.robot;
        let numbers = [robot.position.x, robot.position.z, robot.yaw, robot.lift, robot.extension, robot.wrist];
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(format!("the robot is nowhere: {robot:?}"));
        }
        let mut depths = Depths { body: self.body(robot), arm: self.arm(robot), ..Depths::NONE };
        let gone: Vec<usize> = sim.moved.keys().copied().filter(|number| !sim.held.contains(number)).collect();
        for (number, held) in sim.held.iter().map(|&number| (number, true)).chain(gone.into_iter().map(|number| (number, false))) {
            let pose = sim.pose(number);
            if ![pose.centre.x, pose.centre.z, pose.height, pose.yaw].iter().all(|number| number.is_finite()) {
                return Err(format!("{} is nowhere: {pose:?}", sim.thing(number).id));
            }
            let depth = self.news(number, &sim.block(number));
            let worst = if held { &mut depths.held } else { &mut depths.moved };
            *worst = worst.max(depth);
        }
        self.worst = self.worst.deeper(depths);
        Ok(depths)
    }

    fn near(&self, point: Vec2, reach: f64) -> impl Iterator<Item = &Obstacle> {
        let apart = move |one: f64, other: f64, half: f64| (one - other).abs() > half + reach;
        self.obstacles.iter().filter(move |obstacle| {
            let centre = obstacle.block.centre;
            !apart(centre.x, point.x, obstacle.reach.x) && !apart(centre.z, point.z, obstacle.reach.z)
        })
    }

    fn body(&self, robot: &Robot) -> f64 {
        let axis = robot.body();
        let solids = self.near(axis, 0.25).filter(|obstacle| obstacle.clearance > 0.0);
        solids.map(|obstacle| obstacle.clearance - obstacle.block.floor_distance(axis)).fold(f64::MIN, f64::max)
    }

    fn arm(&self, robot: &Robot) -> f64 {
        let limbs: Vec<_> = robot.limbs().collect();
        if limbs.is_empty() {
            return f64::MIN;
        }
        let near = || self.near(robot.position, 1.1);
        limbs.iter().flat_map(|limb| near().map(|obstacle| ARM_RADIUS - limb.distance(&obstacle.block))).fold(f64::MIN, f64::max)
    }

    fn in_wall(&self, block: &Block) -> f64 {
        let reach = block.reach().length();
        let near = |wall: &&Block| {
            let (offset, far) = (wall.centre.minus(block.centre), wall.half.x + reach);
            offset.x.abs() <= far && offset.z.abs() <= far
        };
        self.walls.iter().filter(near).map(|wall| wall.overlap(block)).fold(f64::MIN, f64::max)
    }

    /// How deep a thing is in a wall, if it is deeper than it has been; else that it is in none.
    fn news(&mut self, number: usize, block: &Block) -> f64 {
        let depth = self.in_wall(block);
        let first = || {
            let thing = &self.home.scene.things[number];
            let size = vec2(f64::from(thing.size[0]), f64::from(thing.size[2]));
            self.in_wall(&Block::new(thing.floor_centre(), size, f64::from(thing.yaw), thing.low(), thing.high()))
        };
        let known = self.known.get(&number).copied().unwrap_or_else(first);
        self.known.insert(number, known.min(depth).max(SKIN_M));
        if known > SKIN_M && depth <= known + 1e-6 { f64::MIN } else { depth }
    }
}

/// A robot with its arm stowed somewhere on the floor. `None`: the house has no place for it.
pub fn somewhere(home: &Arc<Home>, rng: &mut ChaCha8Rng) -> Option<Sim> {
    let (low, high) = home.space.bounds();
    let robot = (0..TRIES).find_map(|_| {
        let place = vec2(rng.random_range(low.x..high.x), rng.random_range(low.z..high.z));
        let robot = Robot::stowed(place, rng.random_range(0.0..360.0));
        robot.fits(&home.space).then_some(robot)
    })?;
    Some(Sim::new(Arc::clone(home), robot, cameras(rng)))
}

/// A robot with its hand at something that can be taken, and that then tries to. `None`: there is none, or no room beside it.
pub fn grasping(home: &Arc<Home>, rng: &mut ChaCha8Rng) -> Option<Sim> {
    let things: Vec<usize> = (0..home.scene.things.len()).filter(|&number| home.scene.things[number].pickupable).collect();
    if things.is_empty() {
        return None;
    }
    let robot = (0..TRIES).find_map(|_| {
        let thing = &home.scene.things[things[rng.random_range(0..things.len())]];
        let robot = Robot::stowed(vec2(0.0, 0.0), rng.random_range(0.0..360.0));
        let lift = f64::from(thing.centre[1]) - hand_height(0.0);
        let robot = robot.with_arm(lift, rng.random_range(EXTENSION.0..EXTENSION.1), rng.random_range(-HAND_TURN_DEG..HAND_TURN_DEG));
        let robot = Robot { position: thing.floor_centre().minus(robot.hand().0), ..robot };
        robot.fits(&home.space).then_some(robot)
    })?;
    let mut sim = Sim::new(Arc::clone(home), robot, cameras(rng));
    sim.act(Action::Pickup);
    Some(sim)
}
