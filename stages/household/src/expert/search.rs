//! Best-first search over the robot's own base moves, to the goal or a good piece of the way to it.

use super::{
    compact,
    goals::{Goal, Tail, Way, follow, grasped, small_turns, tails},
};
use crate::{
    geometry::{Vec2, forward, wrap},
    lattice::{BACK, PUSH},
    reach::{Reach, UNIT},
    robot::{Action, BODY_BEHIND, MOVE_M, Robot, magnitude},
    sim::Sim,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

/// A long way is planned up to this much of it, and only where more than this is left, metres.
const PIECE_M: f64 = 2.0;
const LEFT_M: f64 = 1.0;
/// A search that gives up tells the way to the best place that it found, if that is this much nearer, metres.
const GAIN_M: f64 = 0.3;
/// A move that an obstacle ends goes at least this many of its ten steps.
const LEAST_STEPS: u32 = 2;

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
    /// Plans that may fail when they are run in a copy of the world.
    pub(super) plans: u32,
    /// Small turns on the way too, and moves that end at an obstacle: for where it is narrow.
    pub(super) fine: bool,
    /// Light things may be pushed.
    pub(super) push: bool,
    /// A good piece of the way is enough.
    pub(super) piece: bool,
    /// It steers by the grid of poses; else by metres alone, for where the grid is too coarse.
    pub(super) guided: bool,
}

/// A way that was run in a copy of the world.
struct Drive {
    trial: Sim,
    script: Vec<(Robot, Action)>,
    /// It goes all the way.
    whole: bool,
}

pub(super) struct Search<'a> {
    sim: &'a Sim,
    way: &'a Way,
    /// A copy of the world to look from other poses.
    probe: Sim,
    reaches: Vec<Reach>,
    /// What is left to do at the goal costs at least this.
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
    /// Moves that turned out not to work in a copy of the world.
    dead: Vec<(Robot, Action)>,
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
            dead: Vec::new(),
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
        let lattice = &self.way.lattice;
        let straight = left / MOVE_M * f64::from(UNIT);
        let price = || lattice.price(floor, &robot).map_or_else(|| straight.max(f64::from(lattice.limit())), f64::from);
        let ahead = self.manner.haste * if self.manner.guided { price() } else { straight };
        let least = if self.manner.guided { 0 } else { self.least };
        self.states.push(State { robot, heading, spent, left, from });
        self.offer(spent + libm::ceil(ahead) as u32 + least, Entry::State(self.states.len() - 1));
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
        let (mut looked_at, mut failed) = (0, 0);
        let Some(first) = self.states.first().map(|state| state.left) else { return Found::Nothing };
        let mut best = (first - GAIN_M, None);
        while let Some(Reverse((_, entry))) = self.open.pop() {
            let plan = match self.entries[entry] {
                Entry::End(state, tail) => self.driven(state).map(|drive| self.finished(drive, &tail).map(|script| (script, true))),
                Entry::State(state) => {
                    let left = self.states[state].left;
                    if left < best.0 {
                        best = (left, Some(state));
                    }
                    looked_at += 1;
                    if looked_at > self.manner.most {
                        break;
                    }
                    if self.manner.piece && left < first - PIECE_M && left > LEFT_M {
                        self.driven(state).map(|drive| Some((drive.script, false)))
                    } else {
                        self.expand(state);
                        continue;
                    }
                }
            };
            match plan {
                Ok(Some((script, ends))) => return Found::Way(script, ends),
                Ok(None) => {}
                // All that was built on that move is worth nothing: again, without it.
                Err(dead) => {
                    self.dead.push(dead);
                    self.restart();
                    best = (first - GAIN_M, None);
                }
            }
            failed += 1;
            if failed >= self.manner.plans {
                break;
            }
        }
        if looked_at <= self.manner.most && failed < self.manner.plans {
            return Found::Nothing;
        }
        Found::Unfinished(best.1.and_then(|state| self.driven(state).ok()).map(|drive| drive.script))
    }

    fn restart(&mut self) {
        let start = self.states.first().map(|state| state.robot);
        self.states.clear();
        self.entries.clear();
        self.open.clear();
        self.closed.clear();
        if let Some(robot) = start {
            self.add(robot, 0, 0, None);
        }
    }

    fn expand(&mut self, index: usize) {
        let State { robot, heading, spent, left, .. } = self.states[index];
        let Some(cell) = self.cell(&robot) else { return };
        let headings = self.closed.entry(cell).or_default();
        if *headings & (1 << heading) != 0 {
            return;
        }
        *headings |= 1 << heading;
        if self.way.may_end(self.sim.home.floor(), &robot, left, self.manner.guided) {
            for (tail, cost) in tails(&mut self.probe, self.way, &self.reaches, &robot) {
                self.offer(spent + cost, Entry::End(index, tail));
            }
        }
        let coarse = [(Action::MoveAhead, UNIT), (Action::RotateLeft, UNIT), (Action::RotateRight, UNIT), (Action::MoveBack, BACK)];
        let small = [(Action::RotateLeftSmall, UNIT), (Action::RotateRightSmall, UNIT)];
        let fine = if self.manner.fine { &small[..] } else { &[] };
        for &(action, cost) in coarse.iter().chain(fine) {
            if self.dead.contains(&(robot, action)) {
                continue;
            }
            let Some((after, heading)) = self.step(&robot, heading, action) else { continue };
            let touches = self.touches(&after) && !self.touches(&robot);
            if self.manner.push || !touches {
                self.add(after, heading, spent + cost + if touches { PUSH } else { 0 }, Some((index, action)));
            }
        }
    }

    fn touches(&self, robot: &Robot) -> bool {
        self.way.touches(self.sim.home.floor(), robot.body())
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

    /// The way to a state, run in a copy of the world; where something light is pushed, as far as it works.
    ///
    /// # Errors
    /// The move that does not work.
    fn driven(&self, state: usize) -> Result<Drive, (Robot, Action)> {
        let (mut trial, mut script) = (self.sim.clone(), Vec::new());
        let base = self.base(state);
        let whole = follow(&mut trial, &base, self.manner.fine, &mut script);
        if whole || self.manner.push && !script.is_empty() {
            return Ok(Drive { trial, script, whole });
        }
        // States are where the search thought they would be, so the move is told by the state that it began at.
        let mut at = state;
        for _ in script.len() + 1..base.len() {
            at = self.states[at].from.map_or(at, |(from, _)| from);
        }
        Err(self.states[at].from.map_or((self.sim.robot, Action::Done), |(from, action)| (self.states[from].robot, action)))
    }

    /// A drive with what is left to do at its end.
    fn finished(&self, drive: Drive, tail: &Tail) -> Option<Vec<(Robot, Action)>> {
        let Drive { mut trial, mut script, whole } = drive;
        if !whole {
            // What comes after the push is another matter.
            return Some(script);
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
