//! A running episode: a [`Sim`] with a task, what the robot remembers, and how far it got.

use super::{Milestone, Spec, Task};
use crate::{
    error::Error,
    expert::{accessible_from, viewable_from},
    field::Field,
    geometry::{Vec2, vec2},
    robot::{Action, Robot},
    scene::Thing,
    sim::{Home, Sim},
    view::{Eye, Sight, cameras, sight},
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The hand this near to a target is lenient success, metres.
const LENIENT_M: f64 = 0.35;
/// A milestone, and what ObjectNav asks for: the target this near, metres.
pub(crate) const NEAR_M: f64 = 2.0;
/// A target that is this much nearer than the one in mind takes its place, metres.
const SWITCH_M: f64 = 1.0;
/// What is brought lies at most this far from the start, metres.
pub(crate) const BRING_M: f64 = 1.0;
/// Headings, 30 degrees apart, that show a whole room to two cameras a quarter turn apart.
pub const LOOK_HEADINGS: u32 = 7;

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
    pub task: Arc<Spec>,
    /// The things that count.
    pub targets: Vec<usize>,
    /// Which of them is in view now, by camera.
    pub in_view: [Option<usize>; 2],
    pub remembered: Option<Remembered>,
    /// Rooms claimed by `sub_done`, and rooms that the robot was in: positions in the scene's rooms.
    pub claimed: BTreeSet<usize>,
    pub visited: BTreeSet<usize>,
    /// Headings (30 degrees each, a bit each) looked in without seeing a target, by room.
    looked: BTreeMap<usize, u16>,
    pub last: Option<(Action, bool)>,
    pub steps: u32,
    pub over: bool,
    pub milestones: Vec<Milestone>,
    /// Metres that the pivot went.
    pub(super) travelled: f64,
    /// Something was grasped for, whatever came of it.
    pub(super) tried_pickup: bool,
    /// A target was taken at some time.
    taken: bool,
    lenient: bool,
    success: bool,
}

/// Whether the navigation camera shows a thing within two metres.
pub(crate) fn stands_before(sim: &Sim, target: usize) -> bool {
    let eye = sim.robot.place(sim.cameras[Eye::Navigation as usize].place);
    let near = sim.block(target).floor_distance(eye) <= NEAR_M && !sim.held.contains(&target);
    near && sim.frame(Eye::Navigation).shows(sim, target)
}

fn scene(what: String) -> Error {
    Error::Scene { what }
}

impl Episode {
    /// # Errors
    /// No thing of the scene has one of the task's ids, or the robot does not fit where it is to start.
    pub fn start(home: Arc<Home>, task: Arc<Spec>) -> Result<Episode, Error> {
        let counts = |thing: &Thing| task.task != Task::RoomVisit && task.ids.contains(&thing.id);
        let things = home.scene.things.iter().enumerate();
        let targets: Vec<usize> = things.filter(|(_, thing)| counts(thing)).map(|(number, _)| number).collect();
        if targets.is_empty() && task.task != Task::RoomVisit {
            return Err(scene(format!("no object of the house has one of the target ids {:?}", task.ids)));
        }
        let [x, z] = task.start;
        if ![x, z, task.yaw].iter().all(|value| value.is_finite()) {
            return Err(scene("the start must be three finite numbers".into()));
        }
        let mut robot = Robot::stowed(vec2(x, z), task.yaw);
        if let Some(arm) = task.arm {
            robot = robot.with_arm(arm.lift, arm.extension, arm.wrist);
        }
        if !robot.fits(&home.space) {
            return Err(scene(format!("the robot does not fit at its start, x {x}, z {z}, yaw {}", task.yaw)));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(task.seed);
        let sim = Sim::new(home, robot, cameras(&mut rng)).with_noise(task.rotation_noise.then_some(rng));
        let mut episode = Episode {
            sim,
            task,
            targets,
            in_view: [None, None],
            remembered: None,
            claimed: BTreeSet::new(),
            visited: BTreeSet::new(),
            looked: BTreeMap::new(),
            last: None,
            steps: 0,
            over: false,
            milestones: Vec::new(),
            travelled: 0.0,
            tried_pickup: false,
            taken: false,
            lenient: false,
            success: false,
        };
        episode.perceive();
        Ok(episode)
    }

    /// Whether the episode can be done at all, as far as floor, arm and eye say each by itself: for who makes episodes.
    ///
    /// # Errors
    /// What cannot be reached, and why.
    pub fn check(&self) -> Result<(), Error> {
        let home = &self.sim.home;
        let floor = home.floor();
        let from_start = Field::to(floor, |point| point.distance(self.sim.robot.body()) < 0.15);
        if self.task.task == Task::RoomVisit {
            let closed = home.scene.rooms.iter().enumerate().find(|(number, _)| !from_start.reaches(floor, *number));
            return closed.map_or(Ok(()), |(_, room)| Err(scene(format!("room {} cannot be reached from the start", room.id))));
        }
        let mut reasons = Vec::new();
        for &target in &self.targets {
            let thing = self.sim.thing(target);
            let takes = self.task.task.takes();
            if takes && !thing.pickupable {
                reasons.push(format!("{} cannot be picked up", thing.id));
            } else if takes && !crate::reach::within_lift(&self.sim, target) {
                reasons.push(format!("{} is {:.2} m high, out of the hand's reach", thing.id, f64::from(thing.centre[1])));
            } else if takes && !accessible_from(home, target, |cell| from_start.leads(cell)) {
                reasons.push(format!("the arm comes to {} from nowhere that one can drive to", thing.id));
            } else if !takes && !viewable_from(home, target, |cell| from_start.leads(cell)) {
                reasons.push(format!("{} is visible within two metres from nowhere that one can drive to", thing.id));
            } else {
                return Ok(());
            }
        }
        Err(scene(reasons.join("; ")))
    }

    /// Metres over the floor from the body to where a target is within the arm's or the eye's reach; `None`: no way.
    pub fn way_to(&self, target: usize) -> Option<f64> {
        let place = self.sim.centre(target).0;
        let near = if self.task.task.takes() { crate::field::REACH_M } else { NEAR_M };
        let floor = self.sim.home.floor();
        Field::to(floor, |point| point.distance(place) <= near).way(floor, self.sim.robot.body())
    }

    /// Runs an action; false: it did not work. Nothing happens once the episode is over.
    pub fn act(&mut self, action: Action) -> bool {
        if self.over {
            return false;
        }
        self.steps += 1;
        let before = self.sim.robot.position;
        let worked = match action {
            Action::Done => {
                self.over = true;
                self.success = self.accomplished();
                if self.success {
                    self.reach(Milestone::Done);
                }
                true
            }
            // Nothing moves in a claim, so the room at the step's start is the room of now.
            Action::SubDone => self.task.task == Task::RoomVisit && self.claimed.insert(self.room()),
            other => self.sim.act(other),
        };
        self.tried_pickup |= action == Action::Pickup;
        self.travelled += before.distance(self.sim.robot.position);
        self.over |= self.steps >= self.task.task.step_limit();
        self.last = Some((action, worked));
        self.perceive();
        worked
    }

    /// What the cameras show of the targets, and which steps that completes.
    fn perceive(&mut self) {
        self.visited.insert(self.room());
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
            self.lenient |= self.task.task.takes() && (flat * flat + (rise - height) * (rise - height)).sqrt() <= LENIENT_M;
            if place.distance(self.sim.robot.position) <= NEAR_M && self.remembered.is_some() {
                self.reach(Milestone::Near);
            }
        }
        match self.task.task {
            Task::ObjectNav => self.lenient |= self.stands_before().is_some(),
            Task::RoomVisit => self.count_rooms(),
            Task::PickUp | Task::Fetch => self.feel(),
        }
    }

    fn count_rooms(&mut self) {
        let (claimed, rooms) = (self.claimed.len(), self.sim.home.scene.rooms.len());
        self.lenient |= self.visited.len() == rooms;
        let steps = [(Milestone::FirstRoom, 1), (Milestone::HalfRooms, rooms.div_ceil(2)), (Milestone::AllRooms, rooms)];
        for (milestone, _) in steps.into_iter().filter(|(_, least)| claimed >= *least) {
            self.reach(milestone);
        }
    }

    fn feel(&mut self) {
        if self.grasps().is_some() {
            self.reach(Milestone::InHand);
        }
        if self.holds_target() {
            self.lenient = true;
            self.taken = true;
            self.reach(Milestone::InHand);
            self.reach(Milestone::Held);
        } else if !self.sim.held.is_empty() {
            self.reach(Milestone::WrongObject);
        } else if self.task.bring && self.brought() {
            self.reach(Milestone::Brought);
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
        // What the hand let go of or pushed is where it came to rest.
        if let Some(remembered) = &mut self.remembered
            && let Some(pose) = self.sim.moved.get(&remembered.thing)
        {
            remembered.place = (pose.centre, pose.height);
        }
    }

    fn reach(&mut self, milestone: Milestone) {
        if let Err(at) = self.milestones.binary_search(&milestone) {
            self.milestones.insert(at, milestone);
        }
    }

    /// Whether `done` would be success now.
    pub fn accomplished(&self) -> bool {
        match self.task.task {
            Task::ObjectNav => self.stands_before().is_some(),
            Task::PickUp | Task::Fetch if self.task.bring => self.brought(),
            Task::PickUp | Task::Fetch => self.holds_target(),
            Task::RoomVisit => self.claimed.len() == self.sim.home.scene.rooms.len(),
        }
    }

    /// A target that the navigation camera shows within two metres.
    pub fn stands_before(&self) -> Option<usize> {
        self.targets.iter().copied().find(|&target| stands_before(&self.sim, target))
    }

    /// A target that was taken lies where the robot started.
    fn brought(&self) -> bool {
        let start = vec2(self.task.start[0], self.task.start[1]);
        let lies = |target: &usize| !self.sim.held.contains(target) && self.sim.centre(*target).0.distance(start) <= BRING_M;
        self.taken && self.targets.iter().any(lies)
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

    /// A target was taken at some time.
    pub fn has_taken(&self) -> bool {
        self.taken
    }

    /// Where the remembered target is, relative to the robot now.
    pub fn target_sight(&self) -> Option<Sight> {
        self.remembered.map(|remembered| sight(&self.sim.robot, remembered.thing, remembered.place))
    }

    /// `done` was said when the task's test held.
    pub fn success(&self) -> bool {
        self.success
    }

    /// Success, or: a target was held or nearly so; one was visible within two metres; every room was entered.
    pub fn lenient(&self) -> bool {
        self.lenient || self.success
    }

    /// A hash of the whole state; equal states have equal keys.
    pub fn key(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        self.sim.hash(&mut hasher);
        let mut number = |value: f64| {
            hasher.update(&value.to_bits().to_le_bytes());
        };
        if let Some(remembered) = self.remembered {
            [remembered.thing as f64, remembered.place.0.x, remembered.place.0.z, remembered.place.1].into_iter().for_each(&mut number);
        }
        self.looked.iter().for_each(|(&room, &headings)| number(room as f64 * 4096.0 + f64::from(headings)));
        number(-1.0);
        self.claimed.iter().chain(&self.visited).for_each(|&room| number(room as f64));
        self.milestones.iter().for_each(|&milestone| number(f64::from(milestone as u8)));
        let last = self.last.map_or(255, |(action, worked)| (action as u8) << 1 | u8::from(worked));
        hasher.update(&[last, u8::from(self.over), u8::from(self.lenient), u8::from(self.success), u8::from(self.taken)]);
        hasher.update(&self.steps.to_le_bytes());
        let digest = hasher.finalize();
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
    }

    /// How much is behind, from 0 to 1; 1 is strict success.
    pub fn progress(&self) -> f32 {
        if self.success {
            return 1.0;
        }
        if self.task.task == Task::RoomVisit {
            return 0.9 * self.claimed.len() as f32 / self.sim.home.scene.rooms.len().max(1) as f32;
        }
        let all = match self.task.task {
            Task::ObjectNav => 3,
            _ if self.task.bring => 6,
            _ => 5,
        };
        let steps = self.milestones.iter().filter(|&&milestone| milestone != Milestone::WrongObject).count();
        steps.min(all - 1) as f32 / all as f32
    }
}
