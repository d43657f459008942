//! What someone who knows the house would do, from any state.
//!
//! Until a target has been seen it looks around in each room, turning left, since nobody could know better. Then it drives,
//! by a best-first search over the robot's own moves (0.2 m, 30 degrees, and small turns of 6 at the end), to a pose from
//! which the arm reaches, and grasps by the fewest actions. Every plan is run through the robot's own collision tests before
//! it is given out. A plan is kept for as long as the robot does what it says.

use crate::{
    field::Field,
    geometry::{Vec2, forward, vec2, wrap},
    reach::{Grasp, Reach, UNIT},
    robot::{Action, BODY_BEHIND, Robot},
    sim::{Home, Sim},
    tasks::{Episode, LOOK_HEADINGS},
    view::cameras,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

/// Going back costs more than it takes, since the robot does not look there.
const BACK: u32 = 10;
/// States that a search looks at before it gives up; fewer where the arm is out and each is dearer to test.
const MOST_STATES: [u32; 2] = [3_000, 40_000];
const MOST_STATES_ARM_OUT: u32 = 250;
/// The way ahead counts this much more than the way behind: turns are not in it. Where a careful search finds nothing
/// within its states, a hasty one goes on, since a long way need not be the shortest.
const HASTE: [f64; 2] = [1.2, 2.5];
/// Small turns at the end of a way.
const MOST_TURNS: i32 = 2;
/// Turns in one reply while looking around: a quarter circle is a new view.
const LOOK_TURNS: u32 = 3;

/// Plans for one episode at a time.
#[derive(Default)]
pub struct Expert {
    /// What to do next, with the robot as it must be before each action.
    script: Vec<(Robot, Action)>,
    field: Option<(Vec<(usize, Vec2)>, Field)>,
    guessed: bool,
}

impl Expert {
    /// Whether a plan went to another target than the one that was seen, since that one cannot be reached: nobody who only
    /// looks could have known.
    pub fn guessed(&self) -> bool {
        self.guessed
    }

    /// The next actions, at most `most`; empty where the episode is over or has no solution from here.
    ///
    /// A reply ends where driving gives way to the arm, and the arm to the grasp, so that each begins with a fresh look.
    pub fn next(&mut self, episode: &Episode, most: usize) -> Vec<Action> {
        if episode.over || most == 0 {
            return Vec::new();
        }
        if episode.holds_target() {
            return vec![Action::Done];
        }
        if !episode.sim.held.is_empty() {
            return vec![Action::Dropoff];
        }
        let looks = look_around(episode, most);
        if !looks.is_empty() {
            return looks;
        }
        let robot = episode.sim.robot;
        let at = self.script.iter().position(|(before, _)| *before == robot);
        let at = match at {
            // The same pose comes twice only where an action changes nothing, as the pickup at the end.
            Some(at) => at,
            None => {
                self.script = self.solve(episode).unwrap_or_default();
                0
            }
        };
        let rest: Vec<Action> = self.script.iter().skip(at).map(|(_, action)| *action).collect();
        let part = |action: &Action| (action.is_base(), *action == Action::Pickup);
        let first = rest.first().map(part);
        rest.into_iter().take_while(|action| Some(part(action)) == first).take(most).collect()
    }

    /// A whole plan from here to the pickup.
    fn solve(&mut self, episode: &Episode) -> Option<Vec<(Robot, Action)>> {
        let sim = &episode.sim;
        if let Some(remembered) = episode.remembered {
            let plan = self.approach(sim, &[remembered.thing]);
            if plan.is_some() {
                return plan;
            }
            self.guessed = true;
        }
        self.approach(sim, &episode.targets)
    }

    /// Drives with the arm as it is where that is quick, else with the arm drawn in, else with the wrist folded too.
    fn approach(&mut self, sim: &Sim, targets: &[usize]) -> Option<Vec<(Robot, Action)>> {
        let places: Vec<(usize, Vec2)> = targets.iter().map(|&target| (target, sim.centre(target).0)).collect();
        if self.field.as_ref().is_none_or(|(made_for, _)| *made_for != places) {
            let goals: Vec<Vec2> = places.iter().map(|&(_, place)| place).collect();
            self.field = Some((places, Field::new(&sim.home.space, &goals)));
        }
        let (_, field) = self.field.as_ref()?;
        let mut prefix = Vec::new();
        let mut robot = sim.robot;
        for stage in 0..3 {
            if stage > 0 && !draw_in(sim, &mut robot, &mut prefix, stage == 2) {
                continue;
            }
            let most = if compact(&robot) { MOST_STATES } else { [MOST_STATES_ARM_OUT, 0] };
            for (haste, most) in HASTE.into_iter().zip(most) {
                match Search::new(sim, field, robot, targets, haste).run(most) {
                    Found::Way(way) => {
                        prefix.extend(way);
                        return Some(prefix);
                    }
                    // All that can be reached was looked at, so that haste finds no more.
                    Found::Nothing => break,
                    Found::Unfinished => {}
                }
            }
            if compact(&robot) {
                return None;
            }
        }
        None
    }
}

/// Whether the arm is within the body's outline, so that only the body can touch something.
fn compact(robot: &Robot) -> bool {
    robot.extension < 0.01 && (robot.wrist + 180.0).abs() < 25.0
}

/// Turns left through a room in which no target has been seen yet.
fn look_around(episode: &Episode, most: usize) -> Vec<Action> {
    let looked = episode.looked();
    if episode.remembered.is_some() || looked >= LOOK_HEADINGS || !compact(&episode.sim.robot) {
        return Vec::new();
    }
    let mut robot = episode.sim.robot;
    let mut turns = Vec::new();
    while turns.len() < most.min(LOOK_TURNS.min(LOOK_HEADINGS - looked) as usize) {
        let (turned, worked) = robot.after(Action::RotateLeft, &episode.sim.home.space);
        if !worked {
            break;
        }
        robot = turned;
        turns.push(Action::RotateLeft);
    }
    turns
}

/// Draws the arm in, and folds the wrist if asked to; lifts first where something is in the way. False: it cannot.
fn draw_in(sim: &Sim, robot: &mut Robot, script: &mut Vec<(Robot, Action)>, fold: bool) -> bool {
    for _ in 0..60 {
        let wanted = if robot.extension > 0.001 {
            Action::MoveArmIn
        } else if fold && (robot.wrist + 180.0).abs() > 5.0 {
            if robot.wrist > -180.0 { Action::WristOpen } else { Action::WristClose }
        } else {
            return true;
        };
        let moved = [wanted, Action::MoveArmUp].into_iter().find_map(|action| {
            let (after, worked) = robot.after(action, &sim.home.space);
            worked.then_some((action, after))
        });
        let Some((action, after)) = moved else { return false };
        script.push((*robot, action));
        *robot = after;
    }
    false
}

/// Whether there is a place on the floor from which the arm grasps a thing. That one can drive there is not asked.
pub(crate) fn accessible(home: &Arc<Home>, thing: usize) -> bool {
    const GRID_M: f64 = 0.1;
    const AROUND: i32 = 9;
    let place = home.scene.things[thing].floor_centre();
    let mut sim = Sim::new(Arc::clone(home), Robot::stowed(place, 0.0), cameras(&mut ChaCha8Rng::seed_from_u64(0)));
    let Some(reach) = Reach::new(&sim, &sim.robot, thing) else { return false };
    let target = sim.block(thing);
    let places = (-AROUND..=AROUND).flat_map(|x| (-AROUND..=AROUND).map(move |z| vec2(f64::from(x) * GRID_M, f64::from(z) * GRID_M)));
    for position in places.map(|offset| place.plus(offset)) {
        for yaw in (0..12).map(|heading| 30.0 * f64::from(heading)) {
            sim.robot = Robot { position, yaw, ..sim.robot };
            if !home.space.body_fits(sim.robot.body()) {
                continue;
            }
            let grasps = reach.grasps(0, position, yaw, 0);
            let works = |order: &Vec<Action>| {
                let ready = order.iter().try_fold(sim.robot, |robot, &action| {
                    Some(robot.after(action, &home.space)).filter(|(_, worked)| *worked).map(|(after, _)| after)
                });
                ready.is_some_and(|robot| target.distance(robot.hand().0, robot.hand().1) < crate::robot::HAND_RADIUS - 0.005)
            };
            if grasps.iter().take(2).any(|grasp| reach.orders(grasp).iter().any(works)) {
                return true;
            }
        }
    }
    false
}

struct State {
    robot: Robot,
    /// Heading as a number of 6 degree steps from the start's yaw, and what led here.
    heading: usize,
    spent: u32,
    from: Option<(usize, Action)>,
}

enum Entry {
    State(usize),
    Grasp(usize, Grasp),
}

enum Found {
    /// Each action, with the robot before it.
    Way(Vec<(Robot, Action)>),
    Unfinished,
    Nothing,
}

/// Best-first search over base moves, to any grasp.
struct Search<'a> {
    sim: &'a Sim,
    field: &'a Field,
    reaches: Vec<Reach>,
    least: u32,
    haste: f64,
    compact: bool,
    /// Directions of the 60 headings.
    directions: Vec<Vec2>,
    states: Vec<State>,
    entries: Vec<Entry>,
    open: BinaryHeap<Reverse<(u32, usize)>>,
    /// Headings already reached, a bit each, by cell.
    closed: Vec<u16>,
}

impl<'a> Search<'a> {
    fn new(sim: &'a Sim, field: &'a Field, robot: Robot, targets: &[usize], haste: f64) -> Search<'a> {
        let reaches: Vec<Reach> = targets.iter().filter_map(|&target| Reach::new(sim, &robot, target)).collect();
        let least = reaches.iter().map(Reach::least).min().unwrap_or(0);
        let (columns, rows) = field.size();
        let mut search = Search {
            sim,
            field,
            reaches,
            least,
            haste,
            compact: compact(&robot),
            directions: (0..60).map(|step| forward(wrap(robot.yaw + 6.0 * f64::from(step)))).collect(),
            states: Vec::new(),
            entries: Vec::new(),
            open: BinaryHeap::new(),
            closed: vec![0; columns * rows],
        };
        if !search.reaches.is_empty() {
            search.add(State { robot, heading: 0, spent: 0, from: None });
        }
        search
    }

    fn add(&mut self, state: State) {
        let Some(cell) = self.field.cell(state.robot.position) else { return };
        let bit = 1 << (state.heading / 5);
        if self.closed[cell] & bit != 0 && state.from.is_some() {
            return;
        }
        let Some(way) = self.field.way(state.robot.body()) else { return };
        let ahead = libm::ceil(way / 0.2 * f64::from(UNIT) * self.haste) as u32;
        let rank = state.spent + ahead + self.least;
        self.states.push(state);
        self.push(rank, Entry::State(self.states.len() - 1));
    }

    fn push(&mut self, rank: u32, entry: Entry) {
        self.entries.push(entry);
        self.open.push(Reverse((rank, self.entries.len() - 1)));
    }

    /// The whole script, pickup included, after looking at `most` states at most.
    fn run(mut self, most: u32) -> Found {
        let mut looked_at = 0;
        while let Some(Reverse((_, entry))) = self.open.pop() {
            match self.entries[entry] {
                Entry::Grasp(state, grasp) => {
                    if let Some(script) = self.verified(state, &grasp) {
                        return Found::Way(script);
                    }
                }
                Entry::State(state) => {
                    looked_at += 1;
                    if looked_at > most {
                        return Found::Unfinished;
                    }
                    self.expand(state);
                }
            }
        }
        Found::Nothing
    }

    fn expand(&mut self, index: usize) {
        let (robot, heading, spent) = (self.states[index].robot, self.states[index].heading, self.states[index].spent);
        let Some(cell) = self.field.cell(robot.position) else { return };
        let bit = 1 << (heading / 5);
        if self.closed[cell] & bit != 0 {
            return;
        }
        self.closed[cell] |= bit;
        let mut grasps: Vec<Grasp> = self
            .reaches
            .iter()
            .enumerate()
            .flat_map(|(number, reach)| reach.grasps(number, robot.position, robot.yaw, MOST_TURNS))
            .collect();
        grasps.sort_by_key(|grasp| grasp.cost);
        for grasp in grasps.into_iter().take(4) {
            self.push(spent + grasp.cost, Entry::Grasp(index, grasp));
        }
        for (action, cost) in [(Action::MoveAhead, UNIT), (Action::RotateLeft, UNIT), (Action::RotateRight, UNIT), (Action::MoveBack, BACK)]
        {
            if let Some((robot, heading)) = self.step(&robot, heading, action) {
                self.add(State { robot, heading, spent: spent + cost, from: Some((index, action)) });
            }
        }
    }

    /// A base move that goes all the way.
    fn step(&self, robot: &Robot, heading: usize, action: Action) -> Option<(Robot, usize)> {
        let turned = match action {
            Action::RotateRight => (heading + 5) % 60,
            Action::RotateLeft => (heading + 55) % 60,
            _ => heading,
        };
        if !self.compact {
            let (after, worked) = robot.after(action, &self.sim.home.space);
            let whole = turned != heading || after.position.distance(robot.position) > 0.19;
            return (worked && whole).then_some((after, turned));
        }
        // With the arm in only the body's circle counts, and its places along the move are the ones that the robot tests.
        let space = &self.sim.home.space;
        let behind = |heading: usize| robot.position.minus(self.directions[heading].times(BODY_BEHIND));
        let free = match action {
            Action::MoveAhead | Action::MoveBack => {
                let sign = if action == Action::MoveAhead { 1.0 } else { -1.0 };
                let body = behind(heading);
                (1..=10).all(|step| space.body_fits(body.plus(self.directions[heading].times(sign * 0.02 * f64::from(step)))))
            }
            _ => (1..=5).all(|step| {
                space.body_fits(behind(if action == Action::RotateRight { (heading + step) % 60 } else { (heading + 60 - step) % 60 }))
            }),
        };
        if !free {
            return None;
        }
        let way = match action {
            Action::MoveAhead => 0.2,
            Action::MoveBack => -0.2,
            _ => 0.0,
        };
        let degrees = match action {
            Action::RotateRight => 30.0,
            Action::RotateLeft => -30.0,
            _ => 0.0,
        };
        let position = robot.position.plus(self.directions[heading].times(way));
        Some((Robot { position, yaw: wrap(robot.yaw + degrees), ..*robot }, turned))
    }

    /// Runs the whole plan by the robot's own rules, in the first order of arm moves that works.
    fn verified(&self, state: usize, grasp: &Grasp) -> Option<Vec<(Robot, Action)>> {
        let mut base = Vec::new();
        let mut at = state;
        while let Some((from, action)) = self.states[at].from {
            base.push(action);
            at = from;
        }
        base.reverse();
        let turn = if grasp.turns > 0 { Action::RotateRightSmall } else { Action::RotateLeftSmall };
        base.extend(vec![turn; grasp.turns.unsigned_abs() as usize]);
        let mut driven = Vec::new();
        let robot = self.follow(self.states[at].robot, &base, &mut driven)?;
        let reach = &self.reaches[grasp.reach];
        let target = self.sim.block(reach.target);
        for order in reach.orders(grasp) {
            let mut script = driven.clone();
            let Some(ready) = self.follow(robot, &order, &mut script) else { continue };
            let (hand, height) = ready.hand();
            if target.distance(hand, height) < crate::robot::HAND_RADIUS - 0.005 {
                script.push((ready, Action::Pickup));
                return Some(script);
            }
        }
        None
    }

    fn follow(&self, mut robot: Robot, actions: &[Action], script: &mut Vec<(Robot, Action)>) -> Option<Robot> {
        for &action in actions {
            let (after, worked) = robot.after(action, &self.sim.home.space);
            let whole = !matches!(action, Action::MoveAhead | Action::MoveBack) || after.position.distance(robot.position) > 0.19;
            if !worked || !whole {
                return None;
            }
            script.push((robot, action));
            robot = after;
        }
        Some(robot)
    }
}
