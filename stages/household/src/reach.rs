//! Which arm and wrist moves put the hand sphere onto a target, from a given pose of the base.

use crate::{
    geometry::{Block, Vec2, forward, right, vec2, wrap},
    robot::{Action, EXTENSION, HAND_RADIUS, LIFT, Robot, WRIST, hand_from_wrist, hand_height, magnitude, wrist_root},
    sim::Sim,
};

/// How deep inside the grasp radius the plan ends, so that it does not hang on a hair.
const MARGIN_M: f64 = 0.015;
/// The hand stays this far above what the target stands on.
const CLEARANCE_M: f64 = 0.035;
/// Wrist angles that are planned for: stowed, ahead, outward; and the present one.
const WRISTS: [f64; 3] = [-180.0, -90.0, 0.0];

/// Cost of an action, so that it can be weighed in quarters.
pub(crate) const UNIT: u32 = 4;
/// A wrist step is dearer than it takes: a better place to stand is easier to find again than a wrist angle.
const WRIST_COST: u32 = 7;

/// Heights of the hand at which it can grasp a target and stays clear of what the target stands on.
fn window(sim: &Sim, target: usize) -> (f64, f64) {
    let block = sim.block(target);
    let ground = sim.support(block.centre, block.low + 0.05);
    let low = block.low.max(ground) + CLEARANCE_M;
    (low, block.high.max(low + 0.03))
}

/// Whether some lift brings the hand to a height at which it grasps a target.
pub(crate) fn within_lift(sim: &Sim, target: usize) -> bool {
    let (low, high) = window(sim, target);
    low <= hand_height(LIFT.1) && high >= hand_height(LIFT.0)
}

/// How the hand's height stands to what is wanted for a grasp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Height {
    Low,
    Level,
    High,
}

/// How the hand stands to a target, as one sees it standing beside the robot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cue {
    pub height: Height,
    /// The arm, slid out or in from here at the right height, would bring the hand to the target.
    pub inline: bool,
}

/// How the hand stands to a target, with the wrist as it is.
pub fn cue(sim: &Sim, target: usize) -> Cue {
    const STEP_M: f64 = 0.02;
    let (low, high) = window(sim, target);
    let now = hand_height(sim.robot.lift);
    let height = if now < low {
        Height::Low
    } else if now > high {
        Height::High
    } else {
        Height::Level
    };
    let block = sim.block(target);
    let root = wrist_root().plus(hand_from_wrist(sim.robot.wrist));
    let steps = libm::round((EXTENSION.1 - EXTENSION.0) / STEP_M) as u32;
    let inline = (0..=steps).any(|step| {
        let hand = sim.robot.place(vec2(root.x + f64::from(step) * STEP_M, root.z));
        block.distance(hand, now.clamp(low, high)) <= HAND_RADIUS - MARGIN_M
    });
    Cue { height, inline }
}

/// Arm moves from one arm state to a grasp of one target, from any pose of the base.
pub(crate) struct Reach {
    pub(crate) target: usize,
    block: Block,
    /// Half of the footprint's diagonal, with the grasp radius.
    bound: f64,
    start: Robot,
    lifts: Vec<Rise>,
    extensions: Vec<Slide>,
    wrists: Vec<Twist>,
}

/// A height of the hand that can be had.
struct Rise {
    height: f64,
    steps: i32,
    cost: u32,
    /// How far from the target's footprint the hand may be at this height.
    within: f64,
}

/// An extension that can be had, with its price in actions.
struct Slide {
    extension: f64,
    steps: i32,
    cost: u32,
}

struct Twist {
    hand: Vec2,
    wrist: f64,
    steps: i32,
}

/// A way to grasp from a pose: small turns first, then the arm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grasp {
    pub(crate) reach: usize,
    /// Small turns, to the right positive.
    pub(crate) turns: i32,
    lift: usize,
    wrist: usize,
    slide: usize,
    /// What it costs, the pickup included, in quarters of an action.
    pub(crate) cost: u32,
}

/// Steps of 0.1 and 0.02 that make up a number of small ones.
fn split(steps: i32) -> (u32, u32) {
    (steps.unsigned_abs() / 5, steps.unsigned_abs() % 5)
}

fn price(steps: i32) -> u32 {
    split(steps).0 + split(steps).1
}

fn repeat(steps: i32, large: [Action; 2], small: [Action; 2]) -> Vec<Action> {
    let side = usize::from(steps < 0);
    let (many, few) = split(steps);
    let mut actions = vec![large[side]; many as usize];
    actions.extend(vec![small[side]; few as usize]);
    actions
}

fn lifted(steps: i32) -> Vec<Action> {
    repeat(steps, [Action::MoveArmUp, Action::MoveArmDown], [Action::MoveArmUpSmall, Action::MoveArmDownSmall])
}

impl Reach {
    /// `None`: no lift brings the hand to the target's height.
    pub(crate) fn new(sim: &Sim, robot: &Robot, target: usize) -> Option<Reach> {
        let block = sim.block(target);
        let lifts = rises(sim, robot, target, &block);
        (!lifts.is_empty()).then(|| Reach {
            target,
            bound: block.half.length() + HAND_RADIUS,
            block,
            start: *robot,
            lifts,
            extensions: extensions(robot),
            wrists: wrists(robot),
        })
    }

    /// What every grasp of this target costs at least.
    pub(crate) fn least(&self) -> u32 {
        (self.lifts.iter().map(|lift| lift.cost).min().unwrap_or(0) + 1) * UNIT
    }

    /// The cheapest grasps from a pose of the base, with up to `most_turns` small turns, cheapest first.
    pub(crate) fn grasps(&self, reach: usize, position: Vec2, yaw: f64, most_turns: i32) -> Vec<Grasp> {
        if self.block.centre.distance(position) > 1.0 + self.bound {
            return Vec::new();
        }
        let mut grasps = Vec::new();
        for turns in -most_turns..=most_turns {
            let turned = yaw + f64::from(turns) * magnitude(Action::RotateRightSmall);
            let (aside, ahead) = (right(turned), forward(turned));
            let offset = self.block.centre.minus(position);
            let local = vec2(offset.dot(aside), offset.dot(ahead));
            if local.x < -0.2 || local.z.abs() > 0.3 + self.bound {
                continue;
            }
            for (wrist, twist) in self.wrists.iter().enumerate() {
                let root = wrist_root().plus(twist.hand);
                if (local.z - root.z).abs() > self.bound {
                    continue;
                }
                let dear = turns.unsigned_abs() * UNIT + twist.steps.unsigned_abs() * WRIST_COST + UNIT;
                let mut found = vec![false; self.lifts.len()];
                for (slide, extension) in self.extensions.iter().enumerate() {
                    let hand = vec2(root.x + extension.extension, root.z);
                    if (local.x - hand.x).abs() > self.bound {
                        continue;
                    }
                    let far = self.block.floor_distance(position.plus(aside.times(hand.x)).plus(ahead.times(hand.z)));
                    for (lift, rise) in self.lifts.iter().enumerate() {
                        if !found[lift] && far <= rise.within {
                            found[lift] = true;
                            grasps.push(Grasp { reach, turns, lift, wrist, slide, cost: dear + (extension.cost + rise.cost) * UNIT });
                        }
                    }
                    if found.iter().all(|&found| found) {
                        break;
                    }
                }
            }
        }
        grasps.sort_by_key(|grasp| (grasp.cost, grasp.turns.abs(), grasp.turns, grasp.wrist, grasp.lift));
        grasps
    }

    /// The robot as it is at a grasp, if nothing light gives way on the way there.
    pub(crate) fn posed(&self, base: &Robot, grasp: &Grasp) -> Robot {
        let yaw = wrap(base.yaw + f64::from(grasp.turns) * magnitude(Action::RotateRightSmall));
        let lift = self.start.lift + f64::from(self.lifts[grasp.lift].steps) * magnitude(Action::MoveArmUpSmall);
        Robot { yaw, ..*base }.with_arm(lift, self.extensions[grasp.slide].extension, self.wrists[grasp.wrist].wrist)
    }

    /// The arm's actions of a grasp in the orders that are worth trying, the usual one first; the last come from above.
    pub(crate) fn orders(&self, grasp: &Grasp) -> Vec<Vec<Action>> {
        const OVER: [i32; 2] = [5, 15];
        let rise = &self.lifts[grasp.lift];
        let lift = lifted(rise.steps);
        let steps = self.wrists[grasp.wrist].steps;
        let wrist = vec![if steps > 0 { Action::WristClose } else { Action::WristOpen }; steps.unsigned_abs() as usize];
        let slide = repeat(
            self.extensions[grasp.slide].steps,
            [Action::MoveArmOut, Action::MoveArmIn],
            [Action::MoveArmOutSmall, Action::MoveArmInSmall],
        );
        let mut orders: Vec<Vec<Action>> =
            [[&lift, &wrist, &slide], [&lift, &slide, &wrist], [&slide, &wrist, &lift], [&wrist, &slide, &lift]]
                .map(|parts| parts.into_iter().flatten().copied().collect())
                .into();
        for over in OVER {
            if rise.height + f64::from(over) * magnitude(Action::MoveArmUpSmall) <= hand_height(LIFT.1) {
                let (up, down) = (lifted(rise.steps + over), lifted(-over));
                orders.push([&up, &wrist, &slide, &down].into_iter().flatten().copied().collect());
                orders.push([&up, &slide, &wrist, &down].into_iter().flatten().copied().collect());
            }
        }
        orders
    }
}

/// The cheapest height between the target's bottom and top, the one in its middle, and one just above it.
fn rises(sim: &Sim, robot: &Robot, target: usize, block: &Block) -> Vec<Rise> {
    const HOVER_M: f64 = 0.032;
    let (low, high) = window(sim, target);
    let small = magnitude(Action::MoveArmUpSmall);
    let now = hand_height(robot.lift);
    let limits = (hand_height(LIFT.0), hand_height(LIFT.1));
    let height = |steps: i32| now + f64::from(steps) * small;
    let reached = |&steps: &i32| height(steps) >= limits.0 - 1e-9 && height(steps) <= limits.1 + 1e-9;
    let level = |&steps: &i32| height(steps) >= low && height(steps) <= high && reached(&steps);
    let off = |steps: i32, wanted: f64| libm::fabs(height(steps) - wanted);
    let middle = (low + high) / 2.0;
    let cheapest =
        (-60..=60).filter(level).min_by(|&one, &other| price(one).cmp(&price(other)).then(off(one, middle).total_cmp(&off(other, middle))));
    let central = (-60..=60).filter(level).min_by(|&one, &other| off(one, middle).total_cmp(&off(other, middle)));
    let above = |&steps: &i32| height(steps) > block.high + 0.015 && height(steps) < block.high + 0.04 && reached(&steps);
    let hover = block.high + HOVER_M;
    let above = (-60..=60).filter(above).min_by(|&one, &other| off(one, hover).total_cmp(&off(other, hover)));
    let mut steps: Vec<i32> = [cheapest, central, above].into_iter().flatten().collect();
    steps.dedup();
    let rise = |steps: i32| {
        let (gap, most) = (block.gap(height(steps), height(steps)), HAND_RADIUS - MARGIN_M);
        Rise { height: height(steps), steps, cost: price(steps), within: (most * most - gap * gap).max(0.0).sqrt() }
    };
    steps.into_iter().map(rise).collect()
}

fn extensions(robot: &Robot) -> Vec<Slide> {
    let small = magnitude(Action::MoveArmOutSmall);
    let all = (-30_i32..=30).map(|steps| Slide { extension: robot.extension + f64::from(steps) * small, steps, cost: price(steps) });
    let mut slides: Vec<Slide> =
        all.filter(|slide| slide.extension >= EXTENSION.0 - 1e-9 && slide.extension <= EXTENSION.1 + 1e-9).collect();
    slides.sort_by_key(|slide| (slide.cost, slide.steps));
    slides
}

fn wrists(robot: &Robot) -> Vec<Twist> {
    let step = magnitude(Action::WristClose);
    let mut twists = vec![Twist { hand: hand_from_wrist(robot.wrist), wrist: robot.wrist, steps: 0 }];
    for wrist in WRISTS {
        let steps = libm::round((wrist - robot.wrist) / step) as i32;
        let reached = (robot.wrist + f64::from(steps) * step).clamp(WRIST.0, WRIST.1);
        if steps != 0 {
            twists.push(Twist { hand: hand_from_wrist(reached), wrist: reached, steps });
        }
    }
    twists
}
