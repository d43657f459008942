//! The errand *fetch*: find a thing of a type, take it, and say that it is done.
//!
//! An [`Episode`] is a [`Sim`] with a target, what the robot remembers, and how far it got. Strict success: `done` was said
//! while a target was held. Lenient success: a target was held, or the hand came within 0.35 m of one, at any time.

use crate::{
    geometry::Vec2,
    robot::{Action, Robot},
    sim::{Home, Sim},
    view::{Eye, Sight, cameras, sight},
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// Types that are fetched; the last two only where the asset can be picked up.
pub const TARGETS: [&str; 10] =
    ["AlarmClock", "Apple", "BasketBall", "Bowl", "Laptop", "Mug", "SprayBottle", "Vase", "GarbageCan", "HousePlant"];

/// The hand this near to a target is lenient success, metres.
const LENIENT_M: f64 = 0.35;
/// A milestone: the target this near, metres.
const NEAR_M: f64 = 2.0;
/// A target that is this much nearer than the one in mind takes its place, metres.
const SWITCH_M: f64 = 1.0;
/// Headings, 30 degrees apart, that show a whole room to two cameras a quarter turn apart.
pub const LOOK_HEADINGS: u32 = 7;

/// What an episode is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchTask {
    /// The object type asked for.
    pub target: String,
    /// Ids of the things that count.
    pub ids: Vec<String>,
    /// The instruction, in words.
    pub instruction: String,
    /// The pivot's x and z, and the yaw in degrees.
    pub start: [f64; 2],
    pub yaw: f64,
    /// Where cameras are tilted a little differently in each episode.
    pub seed: u64,
}

/// Steps on the way to success, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    Seen,
    Near,
    InHand,
    Held,
    Done,
    /// No step on the way: something else was picked up.
    WrongObject,
}

impl Milestone {
    pub fn name(self) -> &'static str {
        match self {
            Milestone::Seen => "seen",
            Milestone::Near => "within_2m",
            Milestone::InHand => "in_hand_sphere",
            Milestone::Held => "held",
            Milestone::Done => "done",
            Milestone::WrongObject => "wrong_object",
        }
    }
}

/// A target as the robot last saw it: the thing, and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remembered {
    pub thing: usize,
    pub place: (Vec2, f64),
}

/// A running episode.
#[derive(Clone)]
pub struct Episode {
    pub sim: Sim,
    pub task: Arc<FetchTask>,
    /// The things that count.
    pub targets: Vec<usize>,
    /// Which of them is in view now, by camera.
    pub in_view: [Option<usize>; 2],
    pub remembered: Option<Remembered>,
    /// Headings (30 degrees each, a bit each) looked in without seeing a target, by room.
    looked: BTreeMap<usize, u16>,
    pub last: Option<(Action, bool)>,
    pub steps: u32,
    pub over: bool,
    pub milestones: Vec<Milestone>,
    lenient: bool,
    success: bool,
}

impl Episode {
    /// # Errors
    /// No thing of the scene has one of the task's ids, or the robot does not fit where it is to start.
    pub fn start(home: Arc<Home>, task: Arc<FetchTask>) -> Result<Episode, crate::Error> {
        let scene = |what: String| crate::Error::Scene { what };
        let things = home.scene.things.iter().enumerate();
        let targets: Vec<usize> = things.filter(|(_, thing)| task.ids.contains(&thing.id)).map(|(number, _)| number).collect();
        if targets.is_empty() {
            return Err(scene(format!("no object of the house has one of the target ids {:?}", task.ids)));
        }
        let robot = Robot::stowed(Vec2 { x: task.start[0], z: task.start[1] }, task.yaw);
        if !robot.fits(&home.space) {
            return Err(scene(format!("the robot does not fit at its start, x {}, z {}, yaw {}", task.start[0], task.start[1], task.yaw)));
        }
        let sim = Sim::new(home, robot, cameras(&mut ChaCha8Rng::seed_from_u64(task.seed)));
        let mut episode = Episode {
            sim,
            task,
            targets,
            in_view: [None, None],
            remembered: None,
            looked: BTreeMap::new(),
            last: None,
            steps: 0,
            over: false,
            milestones: Vec::new(),
            lenient: false,
            success: false,
        };
        episode.perceive();
        Ok(episode)
    }

    /// Runs an action; false: it did not work. Nothing happens once the episode is over.
    pub fn act(&mut self, action: Action) -> bool {
        if self.over {
            return false;
        }
        self.steps += 1;
        let worked = match action {
            Action::Done => {
                self.over = true;
                self.success = self.holds_target();
                if self.success {
                    self.reach(Milestone::Done);
                }
                true
            }
            // Claims a room in another errand; here there is nothing to claim.
            Action::SubDone => false,
            other => self.sim.act(other),
        };
        self.last = Some((action, worked));
        self.perceive();
        worked
    }

    /// What the cameras show of the targets, and which steps that completes.
    fn perceive(&mut self) {
        for eye in [Eye::Navigation, Eye::Manipulation] {
            let frame = self.sim.frame(eye);
            let shown = self.targets.iter().copied().filter(|&target| !self.sim.held.contains(&target) && frame.shows(&self.sim, target));
            let far = |target: &usize| self.sim.centre(*target).0.distance(self.sim.robot.position);
            self.in_view[eye as usize] = shown.min_by(|one, other| far(one).total_cmp(&far(other)));
        }
        self.remember();
        let (hand, height) = self.sim.robot.hand();
        for index in 0..self.targets.len() {
            let target = self.targets[index];
            let (place, rise) = self.sim.centre(target);
            let flat = place.distance(hand);
            self.lenient |= (flat * flat + (rise - height) * (rise - height)).sqrt() <= LENIENT_M;
            if place.distance(self.sim.robot.position) <= NEAR_M && self.remembered.is_some() {
                self.reach(Milestone::Near);
            }
        }
        if self.grasps().is_some() {
            self.reach(Milestone::InHand);
        }
        if self.holds_target() {
            self.lenient = true;
            self.reach(Milestone::InHand);
            self.reach(Milestone::Held);
        } else if !self.sim.held.is_empty() {
            self.reach(Milestone::WrongObject);
        }
    }

    fn remember(&mut self) {
        let far = |place: Vec2| place.distance(self.sim.robot.position);
        let nearest = self
            .in_view
            .iter()
            .flatten()
            .copied()
            .min_by(|one, other| far(self.sim.centre(*one).0).total_cmp(&far(self.sim.centre(*other).0)));
        match (nearest, self.remembered) {
            // A target once chosen is kept to, unless another one turns out to be much nearer.
            (Some(thing), Some(remembered))
                if thing != remembered.thing && far(self.sim.centre(thing).0) > far(remembered.place.0) - SWITCH_M =>
            {
                if self.in_view.contains(&Some(remembered.thing)) {
                    self.remembered = Some(Remembered { place: self.sim.centre(remembered.thing), ..remembered });
                }
            }
            (Some(thing), _) => {
                self.remembered = Some(Remembered { thing, place: self.sim.centre(thing) });
                self.reach(Milestone::Seen);
            }
            (None, None) => {
                let sector = (libm::round(self.sim.robot.yaw / 30.0) as u32) % 12;
                let room = self.room();
                *self.looked.entry(room).or_default() |= 1 << sector;
            }
            (None, Some(_)) => {}
        }
        // What the hand let go of is where it fell.
        if let Some(remembered) = &mut self.remembered
            && let Some(&place) = self.sim.moved.get(&remembered.thing)
        {
            remembered.place = place;
        }
    }

    fn reach(&mut self, milestone: Milestone) {
        if let Err(at) = self.milestones.binary_search(&milestone) {
            self.milestones.insert(at, milestone);
        }
    }

    /// The room the robot is in, by position in the scene's rooms.
    pub fn room(&self) -> usize {
        self.sim.home.space.room_at(self.sim.robot.position)
    }

    /// In how many headings the robot has looked in this room without seeing a target.
    pub fn looked(&self) -> u32 {
        self.looked.get(&self.room()).map_or(0, |headings| headings.count_ones())
    }

    /// A target that the hand would grasp now.
    pub fn grasps(&self) -> Option<usize> {
        let (hand, height) = self.sim.robot.hand();
        let near =
            |target: &usize| !self.sim.held.contains(target) && self.sim.block(*target).distance(hand, height) < crate::robot::HAND_RADIUS;
        self.targets.iter().copied().find(near)
    }

    pub fn holds_target(&self) -> bool {
        self.sim.held.iter().any(|thing| self.targets.contains(thing))
    }

    /// Where the remembered target is, relative to the robot now.
    pub fn target_sight(&self) -> Option<Sight> {
        self.remembered.map(|remembered| sight(&self.sim.robot, remembered.thing, remembered.place))
    }

    /// `done` was said while a target was held.
    pub fn success(&self) -> bool {
        self.success
    }

    /// A target was held, or the hand came near one.
    pub fn lenient(&self) -> bool {
        self.lenient || self.success
    }

    /// A hash of the whole state; equal states have equal keys.
    pub fn key(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        let mut number = |value: f64| {
            hasher.update(&value.to_bits().to_le_bytes());
        };
        let robot = &self.sim.robot;
        [robot.position.x, robot.position.z, robot.yaw, robot.lift, robot.extension, robot.wrist].into_iter().for_each(&mut number);
        self.sim.held.iter().for_each(|&thing| number(thing as f64));
        for (&thing, &(place, height)) in &self.sim.moved {
            [thing as f64, place.x, place.z, height].into_iter().for_each(&mut number);
        }
        if let Some(remembered) = self.remembered {
            [remembered.thing as f64, remembered.place.0.x, remembered.place.0.z, remembered.place.1].into_iter().for_each(&mut number);
        }
        self.looked.iter().for_each(|(&room, &headings)| number(room as f64 * 4096.0 + f64::from(headings)));
        self.milestones.iter().for_each(|&milestone| number(milestone as u8 as f64));
        let last = self.last.map_or(255, |(action, worked)| (action as u8) << 1 | u8::from(worked));
        hasher.update(&[last, u8::from(self.over), u8::from(self.lenient), u8::from(self.success)]);
        hasher.update(&self.steps.to_le_bytes());
        let digest = hasher.finalize();
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
    }

    /// Share of the five steps that are behind; 1 is strict success.
    pub fn progress(&self) -> f32 {
        let steps = self.milestones.iter().filter(|&&milestone| milestone != Milestone::WrongObject).count();
        if self.success { 1.0 } else { steps.min(4) as f32 / 5.0 }
    }
}
