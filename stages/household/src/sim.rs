//! A robot in a house: the state that actions change.

use crate::{
    geometry::{Block, Vec2, vec2},
    robot::{Action, HAND_RADIUS, Robot},
    scene::{Scene, Thing},
    space::Space,
    view::{Camera, Eye, Frame},
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeMap, sync::Arc};

/// A scene and its index; shared by all that live in it.
pub struct Home {
    pub scene: Scene,
    pub space: Space,
}

impl Home {
    pub fn new(scene: Scene) -> Home {
        let space = Space::new(&scene);
        Home { scene, space }
    }
}

/// A robot in a house.
#[derive(Clone)]
pub struct Sim {
    pub home: Arc<Home>,
    pub robot: Robot,
    /// Things in the hand, by position in the scene's things.
    pub held: Vec<usize>,
    /// Where things are that are no longer where the scene has them: floor point and height of the centre.
    pub moved: BTreeMap<usize, (Vec2, f64)>,
    pub cameras: [Camera; 2],
    noise: Option<ChaCha8Rng>,
}

/// Standard deviation of a turn's error, degrees.
const NOISE_DEG: f64 = 0.5;

/// A standard normal number, by Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random_range(f64::EPSILON..1.0), rng.random_range(0.0..std::f64::consts::TAU));
    (-2.0 * libm::log(radius)).sqrt() * libm::cos(angle)
}

impl Sim {
    pub fn new(home: Arc<Home>, robot: Robot, cameras: [Camera; 2]) -> Sim {
        Sim { home, robot, held: Vec::new(), moved: BTreeMap::new(), cameras, noise: None }
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

    /// Where a thing's centre is now.
    pub fn centre(&self, number: usize) -> (Vec2, f64) {
        if self.held.contains(&number) {
            return self.robot.hand();
        }
        let thing = self.thing(number);
        self.moved.get(&number).copied().unwrap_or((thing.floor_centre(), f64::from(thing.centre[1])))
    }

    /// A thing's box as it stands now.
    pub fn block(&self, number: usize) -> Block {
        let thing = self.thing(number);
        let (centre, height) = self.centre(number);
        let half = f64::from(thing.size[1]) / 2.0;
        Block::new(centre, vec2(f64::from(thing.size[0]), f64::from(thing.size[2])), f64::from(thing.yaw), height - half, height + half)
    }

    /// The pickupable things whose boxes the hand sphere overlaps.
    pub fn graspable(&self) -> Vec<usize> {
        let (hand, height) = self.robot.hand();
        let things = self.home.scene.things.iter().enumerate().filter(|(_, thing)| thing.pickupable);
        things.map(|(number, _)| number).filter(|&number| !self.held.contains(&number) && self.overlaps(number, hand, height)).collect()
    }

    fn overlaps(&self, number: usize, hand: Vec2, height: f64) -> bool {
        // A cheap bound first: most things are nowhere near the hand.
        let centre = self.centre(number).0;
        (centre.x - hand.x).abs() < 3.0 && (centre.z - hand.z).abs() < 3.0 && self.block(number).distance(hand, height) < HAND_RADIUS
    }

    /// Runs an action. True: it worked.
    pub fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Pickup => {
                if !self.held.is_empty() {
                    return false;
                }
                self.held = self.graspable();
                !self.held.is_empty()
            }
            Action::Dropoff => self.release(),
            _ => {
                let (robot, worked) = self.robot.after(action, &self.home.space);
                self.robot = robot;
                worked
            }
        }
    }

    /// All that actions change, bit by bit.
    pub(crate) fn hash(&self, hasher: &mut blake3::Hasher) {
        let mut number = |value: f64| {
            hasher.update(&value.to_bits().to_le_bytes());
        };
        let robot = &self.robot;
        [robot.position.x, robot.position.z, robot.yaw, robot.lift, robot.extension, robot.wrist].into_iter().for_each(&mut number);
        self.held.iter().for_each(|&thing| number(thing as f64));
        number(-1.0);
        for (&thing, &(place, height)) in &self.moved {
            [thing as f64, place.x, place.z, height].into_iter().for_each(&mut number);
        }
        if let Some(noise) = &self.noise {
            number(noise.get_word_pos() as f64);
        }
    }

    /// What is held falls onto what is below it.
    fn release(&mut self) -> bool {
        let (hand, height) = self.robot.hand();
        let held = std::mem::take(&mut self.held);
        for &number in &held {
            let half = f64::from(self.thing(number).size[1]) / 2.0;
            let ground = self.support(hand, height - half + 0.05);
            self.moved.insert(number, (hand, ground + half));
        }
        !held.is_empty()
    }

    /// The highest solid top under a point, not above `height`; 0 is the floor.
    pub fn support(&self, point: Vec2, height: f64) -> f64 {
        let things = self.home.scene.things.iter().filter(|thing| !thing.pickupable && f64::from(thing.solid_top) <= height);
        let under = things.filter(|thing| {
            let size = vec2(f64::from(thing.size[0]), f64::from(thing.size[2]));
            Block::new(thing.floor_centre(), size, f64::from(thing.yaw), 0.0, 0.0).floor_distance(point) <= 0.0
        });
        under.map(|thing| f64::from(thing.solid_top)).fold(0.0, f64::max)
    }
}
