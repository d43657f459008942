//! Which arm and wrist moves put the hand sphere onto a target, from a given pose of the base.

use crate::{
    geometry::{Block, Vec2, forward, right, vec2},
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
    let low = block.low.max(ground + CLEARANCE_M);
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
    lift: Vec<Action>,
    height: f64,
    extensions: Vec<Slide>,
    wrists: Vec<Twist>,
}

/// An extension that can be had, with its price in actions.
struct Slide {
    extension: f64,
    steps: i32,
    cost: u32,
}

struct Twist {
    hand: Vec2,
    steps: i32,
}

/// A way to grasp from a pose: small turns first, then the arm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grasp {
    pub(crate) reach: usize,
    /// Small turns, to the right positive.
    pub(crate) turns: i32,
    wrist: usize,
    slide: usize,
    /// What it costs, the pickup included, in quarters of an action.
    pub(crate) cost: u32,
}

/// Steps of 0.1 and 0.02 that make up a number of small ones.
fn split(steps: i32) -> (u32, u32) {
    (steps.unsigned_abs() / 5, steps.unsigned_abs() % 5)
}

fn repeat(steps: i32, large: [Action; 2], small: [Action; 2]) -> Vec<Action> {
    let side = usize::from(steps < 0);
    let (many, few) = split(steps);
    let mut actions = vec![large[side]; many as usize];
    actions.extend(vec![small[side]; few as usize]);
    actions
}

impl Reach {
    /// `None`: no lift brings the hand to the target's height.
    pub(crate) fn new(sim: &Sim, robot: &Robot, target: usize) -> Option<Reach> {
        let block = sim.block(target);
        let (low, high) = window(sim, target);
        let small = magnitude(Action::MoveArmUpSmall);
        let now = hand_height(robot.lift);
        let limits = (hand_height(LIFT.0), hand_height(LIFT.1));
        let steps = (-60_i32..=60).filter(|&steps| {
            let height = now + f64::from(steps) * small;
            height >= low && height <= high && height >= limits.0 && height <= limits.1
        });
        let middle = |steps: i32| libm::fabs(now + f64::from(steps) * small - (low + high) / 2.0);
        let price = |steps: i32| split(steps).0 + split(steps).1;
        let steps = steps.min_by(|&one, &other| price(one).cmp(&price(other)).then(middle(one).total_cmp(&middle(other))))?;
        let lift = repeat(steps, [Action::MoveArmUp, Action::MoveArmDown], [Action::MoveArmUpSmall, Action::MoveArmDownSmall]);
        Some(Reach {
            target,
            bound: block.half.length() + HAND_RADIUS,
            block,
            lift,
            height: now + f64::from(steps) * small,
            extensions: extensions(robot),
            wrists: wrists(robot),
        })
    }

    /// What every grasp of this target costs at least.
    pub(crate) fn least(&self) -> u32 {
        (self.lift.len() as u32 + 1) * UNIT
    }

    /// The cheapest grasps from a pose of the base, with up to `most_turns` small turns, cheapest first.
    pub(crate) fn grasps(&self, reach: usize, position: Vec2, yaw: f64, most_turns: i32) -> Vec<Grasp> {
        let far = self.block.centre.distance(position);
        if far > 1.0 + self.bound {
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
                let found = self.extensions.iter().position(|slide| {
                    let hand = vec2(root.x + slide.extension, root.z);
                    let near = (local.x - hand.x).abs() <= self.bound;
                    near && self.block.distance(position.plus(aside.times(hand.x)).plus(ahead.times(hand.z)), self.height)
                        <= HAND_RADIUS - MARGIN_M
                });
                if let Some(slide) = found {
                    let arm = (turns.unsigned_abs() + self.extensions[slide].cost) * UNIT;
                    let cost = arm + twist.steps.unsigned_abs() * WRIST_COST + self.least();
                    grasps.push(Grasp { reach, turns, wrist, slide, cost });
                }
            }
        }
        grasps.sort_by_key(|grasp| (grasp.cost, grasp.turns.abs(), grasp.turns, grasp.wrist));
        grasps
    }

    /// The arm's actions of a grasp in the orders that are worth trying, the usual one first.
    pub(crate) fn orders(&self, grasp: &Grasp) -> [Vec<Action>; 4] {
        let lift = self.lift.clone();
        let steps = self.wrists[grasp.wrist].steps;
        let wrist = vec![if steps > 0 { Action::WristClose } else { Action::WristOpen }; steps.unsigned_abs() as usize];
        let slide = repeat(
            self.extensions[grasp.slide].steps,
            [Action::MoveArmOut, Action::MoveArmIn],
            [Action::MoveArmOutSmall, Action::MoveArmInSmall],
        );
        [[&lift, &wrist, &slide], [&lift, &slide, &wrist], [&slide, &wrist, &lift], [&wrist, &slide, &lift]]
            .map(|parts| parts.into_iter().flatten().copied().collect())
    }
}

fn extensions(robot: &Robot) -> Vec<Slide> {
    let small = magnitude(Action::MoveArmOutSmall);
    let all = (-30_i32..=30).map(|steps| Slide {
        extension: robot.extension + f64::from(steps) * small,
        steps,
        cost: split(steps).0 + split(steps).1,
    });
    let mut slides: Vec<Slide> =
        all.filter(|slide| slide.extension >= EXTENSION.0 - 1e-9 && slide.extension <= EXTENSION.1 + 1e-9).collect();
    slides.sort_by_key(|slide| (slide.cost, slide.steps));
    slides
}

fn wrists(robot: &Robot) -> Vec<Twist> {
    let step = magnitude(Action::WristClose);
    let mut twists = vec![Twist { hand: hand_from_wrist(robot.wrist), steps: 0 }];
    for wrist in WRISTS {
        let steps = libm::round((wrist - robot.wrist) / step) as i32;
        let reached = (robot.wrist + f64::from(steps) * step).clamp(WRIST.0, WRIST.1);
        if steps != 0 {
            twists.push(Twist { hand: hand_from_wrist(reached), steps });
        }
    }
    twists
}
