//! A robot in a house: the state that actions change.
//!
//! What is fixed or heavy stops the robot, its arm and what it holds. What is light gives way: see [`crate::push`]. What is
//! held keeps its place in the hand; what is let go of falls straight down onto the highest thing under its footprint.

use crate::{
    field::Floor,
    geometry::{Block, Vec2, forward, right, vec2, wrap},
    motion::Motion,
    robot::{Action, HAND_RADIUS, Robot},
    scene::{Scene, Thing},
    sight::Sightlines,
    space::Space,
    view::{Camera, Eye, Frame},
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// Two things may be this deep in each other and still only touch, metres.
pub(crate) const SKIN_M: f64 = 0.001;
/// What falls may be caught by what reaches this far above its bottom, metres.
const CATCH_M: f64 = 0.02;
/// Standard deviation of a turn's error, degrees.
const NOISE_DEG: f64 = 0.5;

/// A scene and its index; shared by all that live in it.
pub struct Home {
    pub scene: Scene,
    pub space: Space,
    /// What the robot can push, take or knock over.
    pub(crate) light: Vec<usize>,
    pub(crate) sight: Sightlines,
    /// What stands on or lies in each thing at first.
    pub(crate) children: Vec<Vec<usize>>,
    floor: OnceLock<Floor>,
}

impl Home {
    pub fn new(scene: Scene) -> Home {
        let space = Space::new(&scene);
        let light = (0..scene.things.len()).filter(|&number| !scene.things[number].blocks).collect();
        let mut children = vec![Vec::new(); scene.things.len()];
        for (number, thing) in scene.things.iter().enumerate() {
            if let Some(children) = thing.parent.and_then(|parent| children.get_mut(usize::from(parent))) {
                children.push(number);
            }
        }
        let sight = Sightlines::new(&scene);
        Home { scene, space, light, sight, children, floor: OnceLock::new() }
    }

    /// A coarse map of the floor, made when it is first asked for.
    pub(crate) fn floor(&self) -> &Floor {
        self.floor.get_or_init(|| Floor::new(&self.space))
    }
}

/// Where a thing is: the centre of its box, and its yaw in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    pub centre: Vec2,
    pub height: f64,
    pub yaw: f64,
}

/// How a held thing lies in the hand.
#[derive(Clone, Copy, Debug)]
struct Grip {
    /// To the right of the way the hand points, and along it, metres.
    offset: Vec2,
    rise: f64,
    /// Degrees from the hand's yaw.
    turn: f64,
}

/// A robot in a house.
#[derive(Clone)]
pub struct Sim {
    pub home: Arc<Home>,
    pub robot: Robot,
    /// Things in the hand, by position in the scene's things.
    pub held: Vec<usize>,
    grips: Vec<Grip>,
    /// Where things are that are no longer where the scene has them.
    pub moved: BTreeMap<usize, Pose>,
    pub cameras: [Camera; 2],
    noise: Option<ChaCha8Rng>,
}

/// A standard normal number, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random_range(f64::EPSILON..1.0), rng.random_range(0.0..std::f64::consts::TAU));
    (-2.0 * libm::log(radius)).sqrt() * libm::cos(angle)
}

impl Sim {
    pub fn new(home: Arc<Home>, robot: Robot, cameras: [Camera; 2]) -> Sim {
        Sim { home, robot, held: Vec::new(), grips: Vec::new(), moved: BTreeMap::new(), cameras, noise: None }
    }

    /// Turns are off by a normal error of half a degree, drawn from here.
    pub fn with_noise(self, noise: Option<ChaCha8Rng>) -> Sim {
        Sim { noise, ..self }
    }

    pub fn frame(&self, eye: Eye) -> Frame {
        Frame::new(&self.cameras[eye as usize], &self.robot)
    }

    pub fn thing(&self, number: usize) -> &Thing {
        &self.home.scene.things[number]
    }

    /// Where a thing is now.
    pub fn pose(&self, number: usize) -> Pose {
        match self.held.iter().position(|&held| held == number) {
            Some(at) => self.grips[at].pose(&self.robot),
            None => self.rest(number),
        }
    }

    /// Where a thing is that is not held.
    pub(crate) fn rest(&self, number: usize) -> Pose {
        let thing = self.thing(number);
        let first = || Pose { centre: thing.floor_centre(), height: f64::from(thing.centre[1]), yaw: f64::from(thing.yaw) };
        self.moved.get(&number).copied().unwrap_or_else(first)
    }

    /// Where a thing's centre is now.
    pub fn centre(&self, number: usize) -> (Vec2, f64) {
        let pose = self.pose(number);
        (pose.centre, pose.height)
    }

    /// A thing's box as it stands now.
    pub fn block(&self, number: usize) -> Block {
        self.boxed(number, &self.pose(number))
    }

    /// A thing's box at a pose.
    pub(crate) fn boxed(&self, number: usize, pose: &Pose) -> Block {
        let size = self.thing(number).size.map(f64::from);
        Block::new(pose.centre, vec2(size[0], size[2]), pose.yaw, pose.height - size[1] / 2.0, pose.height + size[1] / 2.0)
    }

    /// The pickupable things whose boxes the hand sphere overlaps.
    pub fn graspable(&self) -> Vec<usize> {
        let (hand, height) = self.robot.hand();
        let things = self.home.scene.things.iter().enumerate().filter(|(_, thing)| thing.pickupable);
        things.map(|(number, _)| number).filter(|&number| !self.held.contains(&number) && self.overlaps(number, hand, height)).collect()
    }

    fn overlaps(&self, number: usize, hand: Vec2, height: f64) -> bool {
        // A cheap bound first: most things are nowhere near the hand.
        let centre = self.rest(number).centre;
        (centre.x - hand.x).abs() < 3.0 && (centre.z - hand.z).abs() < 3.0 && self.block(number).distance(hand, height) < HAND_RADIUS
    }

    /// Runs an action. True: it worked.
    pub fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Pickup => self.grasp(),
            Action::Dropoff => self.release(),
            _ => {
                let Some(mut motion) = Motion::of(&self.robot, action) else { return true };
                if let Some(noise) = self.noise.as_mut().filter(|_| motion.turns()) {
                    motion = motion.off_by(NOISE_DEG * normal(noise));
                }
                self.go(&motion)
            }
        }
    }

    fn go(&mut self, motion: &Motion) -> bool {
        let mut near = self.light_around();
        let load = self.load_reach();
        let mut pushed = Vec::new();
        let (robot, worked) =
            motion.run(load, |from, to| self.clears(from, to) && (near.is_empty() || self.push(from, to, &mut near, &mut pushed)));
        self.robot = robot;
        pushed.sort_unstable();
        pushed.dedup();
        for number in pushed {
            self.settle(number);
        }
        worked
    }

    /// The robot after an action, if nothing light gives way or resists, and whether the action works.
    pub fn predict(&self, robot: &Robot, action: Action) -> (Robot, bool) {
        match Motion::of(robot, action) {
            Some(motion) => motion.run(self.load_reach(), |from, to| self.clears(from, to)),
            None => (*robot, true),
        }
    }

    /// Whether the robot with what it holds can be at a pose, coming from another.
    fn clears(&self, from: &Robot, to: &Robot) -> bool {
        to.fits(&self.home.space) && (0..self.held.len()).all(|at| self.load_clears(at, from, to))
    }

    /// What is held may touch things, and leave what it was in, but get no deeper into anything.
    fn load_clears(&self, at: usize, from: &Robot, to: &Robot) -> bool {
        let (number, grip) = (self.held[at], self.grips[at]);
        let (before, after) = (self.boxed(number, &grip.pose(from)), self.boxed(number, &grip.pose(to)));
        if after.low < -SKIN_M && after.low < before.low {
            return false;
        }
        self.enters_nothing(&before, &after)
    }

    /// Whether a box gets no deeper into anything fixed or heavy on its way from one place to another.
    pub(crate) fn enters_nothing(&self, before: &Block, after: &Block) -> bool {
        self.home.space.around(after).all(|solid| {
            let depth = solid.block.overlap(after);
            depth <= SKIN_M || depth <= solid.block.overlap(before) + 1e-9
        })
    }

    /// How far what is held sticks out from the hand's centre, metres.
    fn load_reach(&self) -> f64 {
        let reach = |(&number, grip): (&usize, &Grip)| {
            let size = self.thing(number).size.map(f64::from);
            grip.offset.length() + vec2(size[0], size[2]).length() / 2.0
        };
        self.held.iter().zip(&self.grips).map(reach).fold(0.0, f64::max)
    }

    /// Boxes of what is held, at a pose of the robot.
    pub(crate) fn loads(&self, robot: &Robot) -> impl Iterator<Item = Block> {
        self.held.iter().zip(&self.grips).map(|(&number, grip)| self.boxed(number, &grip.pose(robot)))
    }

    /// Takes all that the hand sphere overlaps, beside what it holds already.
    fn grasp(&mut self) -> bool {
        let taken = self.graspable();
        for &number in &taken {
            let grip = Grip::of(&self.robot, &self.rest(number));
            self.grips.push(grip);
            self.held.push(number);
        }
        // What stood on it falls.
        for &number in &taken {
            for child in self.home.children[number].clone() {
                if !self.held.contains(&child) {
                    self.settle(child);
                }
            }
        }
        !taken.is_empty()
    }

    /// What is held falls onto what is below it.
    fn release(&mut self) -> bool {
        let held = std::mem::take(&mut self.held);
        let grips = std::mem::take(&mut self.grips);
        for (&number, grip) in held.iter().zip(grips) {
            self.moved.insert(number, grip.pose(&self.robot));
        }
        for &number in &held {
            self.settle(number);
        }
        !held.is_empty()
    }

    /// Lets a thing fall, and what stands on it with it.
    pub(crate) fn settle(&mut self, number: usize) {
        let pose = self.rest(number);
        let block = self.boxed(number, &pose);
        let fall = block.low - self.ground(number, &block);
        // What the house itself stands a little high or low stays as it is.
        if fall.abs() <= CATCH_M && !self.moved.contains_key(&number) || fall.abs() < 1e-9 {
            return;
        }
        let riders = self.riders(number, &block);
        self.moved.insert(number, Pose { height: pose.height - fall, ..pose });
        for rider in riders {
            let pose = self.rest(rider);
            self.moved.insert(rider, Pose { height: pose.height - fall, ..pose });
        }
    }

    /// The things that stand on a thing and go where it goes.
    pub(crate) fn riders(&self, number: usize, block: &Block) -> Vec<usize> {
        let rides = |child: &usize| {
            let on = self.boxed(*child, &self.rest(*child));
            !self.held.contains(child) && on.low >= block.low && block.floor_distance(on.centre) <= 0.0 && on.low <= block.high + CATCH_M
        };
        self.home.children[number].iter().copied().filter(rides).collect()
    }

    /// The highest top under a thing's footprint that can catch it; 0 is the floor.
    fn ground(&self, number: usize, block: &Block) -> f64 {
        let catches = |other: &Block| other.high <= block.low + CATCH_M && other.floor_overlap(block) > SKIN_M;
        let fixed = self.home.space.around(block).map(|solid| solid.block).filter(catches).map(|other| other.high);
        let others = self.home.light.iter().filter(|&&other| other != number && !self.held.contains(&other));
        let light = others.map(|&other| self.boxed(other, &self.rest(other))).filter(catches).map(|other| other.high);
        fixed.chain(light).fold(0.0, f64::max)
    }

    /// The highest fixed or heavy top under a point, not above `height`; 0 is the floor.
    pub fn support(&self, point: Vec2, height: f64) -> f64 {
        let solids = self.home.space.among(point, point).map(|solid| solid.block);
        solids.filter(|block| block.high <= height && block.floor_distance(point) <= 0.0).map(|block| block.high).fold(0.0, f64::max)
    }

    /// All that actions change, bit by bit.
    pub(crate) fn hash(&self, hasher: &mut blake3::Hasher) {
        let mut number = |value: f64| {
            hasher.update(&value.to_bits().to_le_bytes());
        };
        let robot = &self.robot;
        [robot.position.x, robot.position.z, robot.yaw, robot.lift, robot.extension, robot.wrist].into_iter().for_each(&mut number);
        for (&thing, grip) in self.held.iter().zip(&self.grips) {
            [thing as f64, grip.offset.x, grip.offset.z, grip.rise, grip.turn].into_iter().for_each(&mut number);
        }
        number(-1.0);
        for (&thing, pose) in &self.moved {
            [thing as f64, pose.centre.x, pose.centre.z, pose.height, pose.yaw].into_iter().for_each(&mut number);
        }
        if let Some(noise) = &self.noise {
            number(noise.get_word_pos() as f64);
        }
    }
}

impl Grip {
    fn of(robot: &Robot, pose: &Pose) -> Grip {
        let ((hand, height), yaw) = (robot.hand(), robot.hand_yaw());
        let offset = pose.centre.minus(hand);
        Grip { offset: vec2(offset.dot(right(yaw)), offset.dot(forward(yaw))), rise: pose.height - height, turn: pose.yaw - yaw }
    }

    fn pose(&self, robot: &Robot) -> Pose {
        let ((hand, height), yaw) = (robot.hand(), robot.hand_yaw());
        let centre = hand.plus(right(yaw).times(self.offset.x)).plus(forward(yaw).times(self.offset.z));
        Pose { centre, height: height + self.rise, yaw: wrap(yaw + self.turn) }
    }
}
