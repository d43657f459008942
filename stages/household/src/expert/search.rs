//! Best-first search over the robot's own base moves, to the goal or a good piece of the way to it.

use super::{
    compact,
    goals::{Goal, Tail, Way, follow, grasped, small_turns, tails},
};
use crate::{
    geometry::{Vec2, forward, wrap},
    reach::{Reach, UNIT},
    robot::{Action, BODY_BEHIND, Robot, magnitude},
    sim::Sim,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// Going back costs more than it takes, since the robot does not look there.
const BACK: u32 = 10;
/// Pushing something light costs as much as going round it by this many quarters of an action.
const PUSH: u32 = 12;
/// A long way is planned up to this much of it, and only where more than this is left, metres.
const PIECE_M: f64 = 2.0;
const LEFT_M: f64 = 1.0;
/// A search that gives up tells the way to the best place that it found, if that is this much nearer, metres.
const GAIN_M: f64 = 0.3;
/// A move that an obstacle ends goes at least this many of its ten steps.
const LEAST_STEPS: u32 = 2;
/// Where the field says that the goal is further than this, it is not tested, metres.
const TESTED_M: f64 = 0.6;

struct State {
    robot: Robot,
    /// Heading as a number of 6 degree steps from the start's yaw, and what led here.
    heading: usize,
    spent: u32,
    /// Metres to go by the field.
    left: f64,
    from: Option<(usize, Action)>,
}

enum Entry {
    State(usize),
    End(usize, Tail),
}

pub(super) enum Found {
    /// Each action, with the robot before it, and whether the goal is met then.
    Way(Vec<(Robot, Action)>, bool),
    /// It gave up; the way to the best place that it found, if any.
    Unfinished(Option<Vec<(Robot, Action)>>),
    Nothing,
}

/// How a search goes about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// States that it looks at before it gives up.
    pub(super) most: u32,
    /// How much more the way ahead counts than the way behind: turns are not in it.
    pub(super) haste: f64,
    /// Small turns on the way too, and moves that end at an obstacle: for where it is narrow.
    pub(super) fine: bool,
    /// Light things may be pushed.
    pub(super) push: bool,
    /// A good piece of the way is enough.
    pub(super) piece: bool,
}

pub(super) struct Search<'a> {
    sim: &'a Sim,
    way: &'a Way,
    /// A copy of the world to look from other poses.
    probe: Sim,
    reaches: Vec<Reach>,
    least: u32,
    manner: Manner,
    compact: bool,
    /// Directions of the 60 headings.
    directions: Vec<Vec2>,
    states: Vec<State>,
    entries: Vec<Entry>,
    open: BinaryHeap<Reverse<(u32, usize)>>,
    /// Headings already reached, a bit each, by cell; finer cells where small turns are taken.
    closed: BTreeMap<u32, u64>,
}

impl<'a> Search<'a> {
    pub(super) fn new(sim: &'a Sim, way: &'a Way, manner: Manner) -> Search<'a> {
        let robot = sim.robot;
        let reaches: Vec<Reach> = match &way.goal {
            Goal::Grasp(targets) => targets.iter().filter_map(|&target| Reach::new(sim, &robot, target)).collect(),
            _ => Vec::new(),
        };
        let least = reaches.iter().map(Reach::least).min().unwrap_or(0);
        let mut search = Search {
            sim,
            way,
            probe: sim.clone(),
            reaches,
            least,
            manner,
            compact: compact(sim),
            directions: (0..60).map(|step| forward(wrap(robot.yaw + 6.0 * f64::from(step)))).collect(),
            states: Vec::new(),
            entries: Vec::new(),
            open: BinaryHeap::new(),
            closed: BTreeMap::new(),
        };
        search.add(robot, 0, 0, None);
        search
    }

    fn add(&mut self, robot: Robot, heading: usize, spent: u32, from: Option<(usize, Action)>) {
        let floor = self.sim.home.floor();
        let Some(cell) = self.cell(&robot) else { return };
        if from.is_some() && self.closed.get(&cell).is_some_and(|headings| headings & (1 << heading) != 0) {
            return;
        }
        let Some(left) = self.way.field.way(floor, robot.body()) else { return };
        let ahead = libm::ceil(left / 0.2 * f64::from(UNIT) * self.manner.haste) as u32;
        self.states.push(State { robot, heading, spent, left, from });
        self.offer(spent + ahead + self.least, Entry::State(self.states.len() - 1));
    }

    /// The pivot's cell: a quarter of the floor's where small turns are taken.
    fn cell(&self, robot: &Robot) -> Option<u32> {
        let (floor, origin) = (self.sim.home.floor(), self.sim.home.space.bounds().0);
        let quarter = |value: f64| u32::from(libm::fmod(value / 0.1, 1.0) >= 0.5);
        let cell = floor.cell(robot.position)? as u32;
        let offset = robot.position.minus(origin);
        Some(if self.manner.fine { 4 * cell + 2 * quarter(offset.x) + quarter(offset.z) } else { cell })
    }

    fn offer(&mut self, rank: u32, entry: Entry) {
        self.entries.push(entry);
        self.open.push(Reverse((rank, self.entries.len() - 1)));
    }

    pub(super) fn run(mut self) -> Found {
        let mut looked_at = 0;
        let Some(first) = self.states.first().map(|state| state.left) else { return Found::Nothing };
        let mut best = (first - GAIN_M, None);
        while let Some(Reverse((_, entry))) = self.open.pop() {
            match self.entries[entry] {
                Entry::End(state, tail) => {
                    if let Some(script) = self.verified(state, &tail) {
                        return Found::Way(script, true);
                    }
                }
                Entry::State(state) => {
                    let left = self.states[state].left;
                    if self.manner.piece
                        && left < first - PIECE_M
                        && left > LEFT_M
                        && let Some(script) = self.driven(state)
                    {
                        return Found::Way(script, false);
                    }
                    if left < best.0 {
                        best = (left, Some(state));
                    }
                    looked_at += 1;
                    if looked_at > self.manner.most {
                        return Found::Unfinished(best.1.and_then(|state| self.driven(state)));
                    }
                    self.expand(state);
                }
            }
        }
        Found::Nothing
    }

    fn expand(&mut self, index: usize) {
        let State { robot, heading, spent, left, .. } = self.states[index];
        let Some(cell) = self.cell(&robot) else { return };
        let headings = self.closed.entry(cell).or_default();
        if *headings & (1 << heading) != 0 {
            return;
        }
        *headings |= 1 << heading;
        if left <= TESTED_M {
            for (tail, cost) in tails(&mut self.probe, self.way, &self.reaches, &robot) {
                self.offer(spent + cost, Entry::End(index, tail));
            }
        }
        let coarse = [(Action::MoveAhead, UNIT), (Action::RotateLeft, UNIT), (Action::RotateRight, UNIT), (Action::MoveBack, BACK)];
        let small = [(Action::RotateLeftSmall, UNIT), (Action::RotateRightSmall, UNIT)];
        let fine = if self.manner.fine { &small[..] } else { &[] };
        for &(action, cost) in coarse.iter().chain(fine) {
            let Some((after, heading)) = self.step(&robot, heading, action) else { continue };
            let touches = self.touches(&after) && !self.touches(&robot);
            if self.manner.push || !touches {
                self.add(after, heading, spent + cost + if touches { PUSH } else { 0 }, Some((index, action)));
            }
        }
    }

    /// Whether the body touches something light.
    fn touches(&self, robot: &Robot) -> bool {
        let body = robot.body();
        self.way.light.iter().any(|(block, clearance)| block.floor_distance(body) < *clearance)
    }

    /// A base move that goes all the way.
    fn step(&self, robot: &Robot, heading: usize, action: Action) -> Option<(Robot, usize)> {
        let turned = match action {
            Action::RotateRight => (heading + 5) % 60,
            Action::RotateLeft => (heading + 55) % 60,
            Action::RotateRightSmall => (heading + 1) % 60,
            Action::RotateLeftSmall => (heading + 59) % 60,
            _ => heading,
        };
        if !self.compact {
            let (after, worked) = self.sim.predict(robot, action);
            let whole = turned != heading || after.position.distance(robot.position) > 0.19;
            return (worked && whole).then_some((after, turned));
        }
        // With the arm in only the body counts. Its places along the move are about the ones that the robot tests.
        let space = &self.sim.home.space;
        let behind = |heading: usize| robot.position.minus(self.directions[heading].times(BODY_BEHIND));
        let (free, way, degrees) = match action {
            Action::MoveAhead | Action::MoveBack => {
                let way = if action == Action::MoveAhead { 0.2 } else { -0.2 };
                let body = behind(heading);
                let fits = |step: &u32| space.body_fits(body.plus(self.directions[heading].times(0.1 * way * f64::from(*step))));
                let steps = (1..=10).take_while(fits).count() as u32;
                let enough = steps == 10 || self.manner.fine && steps >= LEAST_STEPS;
                (enough, 0.1 * way * f64::from(steps), 0.0)
            }
            _ => {
                let degrees = magnitude(action);
                let right = matches!(action, Action::RotateRight | Action::RotateRightSmall);
                let passed = |step: usize| if right { (heading + step) % 60 } else { (heading + 60 - step) % 60 };
                let free = (1..=libm::round(degrees / 6.0) as usize).all(|step| space.body_fits(behind(passed(step))));
                (free, 0.0, if right { degrees } else { -degrees })
            }
        };
        let position = robot.position.plus(self.directions[heading].times(way));
        free.then(|| (Robot { position, yaw: wrap(robot.yaw + degrees), ..*robot }, turned))
    }

    fn base(&self, state: usize) -> Vec<Action> {
        let mut base = Vec::new();
        let mut at = state;
        while let Some((from, action)) = self.states[at].from {
            base.push(action);
            at = from;
        }
        base.reverse();
        base
    }

    /// The way to a state as far as it works; where something light is pushed, what comes after that is another matter.
    fn driven(&self, state: usize) -> Option<Vec<(Robot, Action)>> {
        let (mut trial, mut script) = (self.sim.clone(), Vec::new());
        let whole = follow(&mut trial, &self.base(state), self.manner.fine, &mut script);
        (whole || self.manner.push && !script.is_empty()).then_some(script)
    }

    /// The whole plan, run in a copy of the world.
    fn verified(&self, state: usize, tail: &Tail) -> Option<Vec<(Robot, Action)>> {
        let (mut trial, mut script) = (self.sim.clone(), Vec::new());
        if !follow(&mut trial, &self.base(state), self.manner.fine, &mut script) {
            return (self.manner.push && !script.is_empty()).then_some(script);
        }
        match tail {
            Tail::Nothing => Some(script),
            Tail::Turns(turns) => follow(&mut trial, &small_turns(*turns), false, &mut script).then_some(script),
            Tail::Grasp(grasp) => {
                script.extend(grasped(&trial, &self.reaches[grasp.reach], grasp)?);
                Some(script)
            }
        }
    }
}
