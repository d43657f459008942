//! The Stretch robot as a body, an arm and a wrist: 20 actions with fixed magnitudes, limits and collisions.
//!
//! Robot frame: x to the right (the arm's side), z ahead, origin on the floor under the pivot. The body is an upright
//! capsule whose axis lies behind the pivot, so that it sweeps to the side when the robot turns. A base move that is
//! blocked ends where it was stopped; a turn, an arm or a wrist move that is blocked does not happen at all.

use crate::{
    geometry::{Block, Vec2, forward, right, vec2, wrap},
    motion::Motion,
    space::Space,
};
use serde::{Deserialize, Serialize};

/// Radius of the body, metres.
pub const BODY_RADIUS: f64 = 0.185_462_8;
/// Heights between which the body is: a capsule, so that its ends are round, metres.
pub const BODY_LOW: f64 = 0.001;
pub const BODY_HIGH: f64 = BODY_LOW + 1.435_714;
/// How far the body's axis lies behind the pivot, metres.
pub(crate) const BODY_BEHIND: f64 = 0.109_237_3;
/// Height of the pivot above the floor, as episode files state it.
pub const PIVOT_HEIGHT: f64 = 0.900_992_155_075_073_2;

/// Range of the lift and of the extension, metres.
pub const LIFT: (f64, f64) = (-0.056, 1.045);
pub const EXTENSION: (f64, f64) = (0.0, 0.516);
/// Range of the wrist, degrees; 0 is outward along the arm, -180 stowed. The rest of the circle is its dead zone.
pub const WRIST: (f64, f64) = (-260.0, 75.0);

/// Where the arm begins and how far the wrist's axis is from there at no extension, metres.
const ARM_ROOT: f64 = 0.143_7;
const ARM_AHEAD: f64 = -0.023_9;
pub(crate) const HAND_LENGTH: f64 = 0.204_7;
/// Heights above the lift.
const WRIST_RISE: f64 = 0.186_5;
const HAND_RISE: f64 = 0.087_9;
/// How thick beam and hand are taken to be, as a radius, metres.
pub const ARM_RADIUS: f64 = 0.03;
/// Radius of the sphere in which the hand grasps, metres.
pub const HAND_RADIUS: f64 = 0.06;

pub(crate) const MOVE_M: f64 = 0.2;
pub(crate) const TURN_DEG: f64 = 30.0;
pub(crate) const TURN_SMALL_DEG: f64 = 6.0;
pub(crate) const ARM_M: f64 = 0.1;
pub(crate) const ARM_SMALL_M: f64 = 0.02;
pub(crate) const WRIST_DEG: f64 = 10.0;

/// The robot's actions, in the index order that models use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    MoveAhead,
    RotateRight,
    RotateLeft,
    MoveBack,
    Done,
    SubDone,
    RotateLeftSmall,
    RotateRightSmall,
    Pickup,
    MoveArmIn,
    MoveArmOut,
    MoveArmUp,
    MoveArmDown,
    WristOpen,
    WristClose,
    MoveArmDownSmall,
    MoveArmInSmall,
    MoveArmOutSmall,
    MoveArmUpSmall,
    Dropoff,
}

/// An action's canonical name, and its other spellings: the code of the data sets, and the name without underscores.
pub struct Spelling {
    pub action: Action,
    pub name: &'static str,
    pub aliases: &'static [&'static str],
}

/// Every action, in index order.
pub const ACTIONS: [Spelling; 20] = [
    spell(Action::MoveAhead, "move_ahead", &["m", "moveahead"]),
    spell(Action::RotateRight, "rotate_right", &["r", "rotateright"]),
    spell(Action::RotateLeft, "rotate_left", &["l", "rotateleft"]),
    spell(Action::MoveBack, "move_back", &["b", "moveback"]),
    spell(Action::Done, "done", &["end"]),
    spell(Action::SubDone, "sub_done", &["subdone"]),
    spell(Action::RotateLeftSmall, "rotate_left_small", &["ls", "rotateleftsmall"]),
    spell(Action::RotateRightSmall, "rotate_right_small", &["rs", "rotaterightsmall"]),
    spell(Action::Pickup, "pickup", &["p", "pick_up"]),
    spell(Action::MoveArmIn, "move_arm_in", &["zm", "movearmin"]),
    spell(Action::MoveArmOut, "move_arm_out", &["zp", "movearmout"]),
    spell(Action::MoveArmUp, "move_arm_up", &["yp", "movearmup"]),
    spell(Action::MoveArmDown, "move_arm_down", &["ym", "movearmdown"]),
    spell(Action::WristOpen, "wrist_open", &["wp", "wristopen"]),
    spell(Action::WristClose, "wrist_close", &["wm", "wristclose"]),
    spell(Action::MoveArmDownSmall, "move_arm_down_small", &["yms", "movearmdownsmall"]),
    spell(Action::MoveArmInSmall, "move_arm_in_small", &["zms", "movearminsmall"]),
    spell(Action::MoveArmOutSmall, "move_arm_out_small", &["zps", "movearmoutsmall"]),
    spell(Action::MoveArmUpSmall, "move_arm_up_small", &["yps", "movearmupsmall"]),
    spell(Action::Dropoff, "dropoff", &["d", "drop_off"]),
];

const fn spell(action: Action, name: &'static str, aliases: &'static [&'static str]) -> Spelling {
    Spelling { action, name, aliases }
}

impl Action {
    pub fn name(self) -> &'static str {
        ACTIONS[self as usize].name
    }

    /// By canonical name or alias.
    pub fn named(name: &str) -> Option<Action> {
        ACTIONS.iter().find(|spelling| spelling.name == name || spelling.aliases.contains(&name)).map(|spelling| spelling.action)
    }

    /// What follows it in a reply is dropped.
    pub fn ends_reply(self) -> bool {
        matches!(self, Action::Pickup | Action::Dropoff | Action::SubDone | Action::Done)
    }

    /// Moves or turns the base.
    pub fn is_base(self) -> bool {
        use Action::*;
        matches!(self, MoveAhead | MoveBack | RotateLeft | RotateRight | RotateLeftSmall | RotateRightSmall)
    }
}

/// Where the robot is and how its arm stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Robot {
    pub position: Vec2,
    /// Degrees in [0, 360).
    pub yaw: f64,
    pub lift: f64,
    pub extension: f64,
    pub wrist: f64,
}

impl Robot {
    /// A robot with its arm stowed.
    pub fn stowed(position: Vec2, yaw: f64) -> Robot {
        Robot { position, yaw: wrap(yaw), lift: 0.1645, extension: 0.0, wrist: -180.0 }
    }

    /// The robot with its arm elsewhere, within its limits.
    pub fn with_arm(self, lift: f64, extension: f64, wrist: f64) -> Robot {
        let within = |value: f64, (low, high): (f64, f64)| if value.is_nan() { low } else { value.clamp(low, high) };
        Robot { lift: within(lift, LIFT), extension: within(extension, EXTENSION), wrist: within(wrist, WRIST), ..self }
    }

    /// From the robot's frame to the house's.
    pub fn place(&self, local: Vec2) -> Vec2 {
        self.position.plus(right(self.yaw).times(local.x)).plus(forward(self.yaw).times(local.z))
    }

    /// From the house's frame to the robot's.
    pub fn local(&self, point: Vec2) -> Vec2 {
        let offset = point.minus(self.position);
        vec2(offset.dot(right(self.yaw)), offset.dot(forward(self.yaw)))
    }

    /// Middle of the body's circle.
    pub fn body(&self) -> Vec2 {
        self.position.minus(forward(self.yaw).times(BODY_BEHIND))
    }

    /// The robot with its body's axis over a point.
    pub(crate) fn standing(self, body: Vec2) -> Robot {
        Robot { position: body.plus(forward(self.yaw).times(BODY_BEHIND)), ..self }
    }

    fn wrist_local(&self) -> Vec2 {
        vec2(ARM_ROOT + self.extension, ARM_AHEAD)
    }

    /// The hand sphere's centre in the robot's frame, on the floor plane.
    pub fn hand_local(&self) -> Vec2 {
        self.wrist_local().plus(hand_from_wrist(self.wrist))
    }

    /// The hand sphere's centre: on the floor plane, and its height.
    pub fn hand(&self) -> (Vec2, f64) {
        (self.place(self.hand_local()), self.lift + HAND_RISE)
    }

    /// The yaw in which the hand points: 90 degrees to the right of the robot's at wrist 0.
    pub fn hand_yaw(&self) -> f64 {
        self.yaw + 90.0 + self.wrist
    }

    /// What of the arm is outside the body's outline: the beam, the drop at the wrist, and the hand.
    pub fn limbs(&self) -> impl Iterator<Item = Limb> {
        let (root, wrist, hand) = (wrist_root(), self.wrist_local(), self.hand_local());
        let (beam_height, hand_height) = (self.lift + WRIST_RISE, self.lift + HAND_RISE);
        let beam = outside_body(root, wrist).map(|(a, b)| (a, b, beam_height, beam_height));
        let drop = outside_body(wrist, wrist).map(|(a, b)| (a, b, hand_height, beam_height));
        let fingers = outside_body(wrist, hand).map(|(a, b)| (a, b, hand_height, hand_height));
        let robot = *self;
        let placed = move |(a, b, low, high)| Limb { a: robot.place(a), b: robot.place(b), low, high };
        [beam, drop, fingers].into_iter().flatten().map(placed)
    }

    /// Whether body and arm touch nothing fixed or heavy.
    pub fn fits(&self, space: &Space) -> bool {
        space.body_fits(self.body()) && self.limbs().all(|limb| !space.limb_touches(&limb))
    }

    /// The robot after one action in a house without light things and with nothing in the hand, and whether it worked.
    /// Grasping and releasing leave it as it is.
    pub fn after(&self, action: Action, space: &Space) -> (Robot, bool) {
        match Motion::of(self, action) {
            Some(motion) => motion.run(0.0, |_, to| to.fits(space)),
            None => (*self, true),
        }
    }
}

/// The part of a line in the robot's frame that is outside the body's circle.
fn outside_body(a: Vec2, b: Vec2) -> Option<(Vec2, Vec2)> {
    let centre = vec2(0.0, -BODY_BEHIND);
    let within = |point: Vec2| point.distance(centre) < BODY_RADIUS;
    match (within(a), within(b)) {
        (true, true) => None,
        (false, false) => Some((a, b)),
        (true, false) => Some((leaves(a, b, centre), b)),
        (false, true) => Some((a, leaves(b, a, centre))),
    }
}

/// Where the line from a point inside the body's circle leaves it.
fn leaves(inner: Vec2, outer: Vec2, centre: Vec2) -> Vec2 {
    let (way, offset) = (outer.minus(inner), inner.minus(centre));
    let (square, half) = (way.dot(way), way.dot(offset));
    let root = (half * half - square * (offset.dot(offset) - BODY_RADIUS * BODY_RADIUS)).max(0.0).sqrt();
    inner.plus(way.times(((root - half) / square).clamp(0.0, 1.0)))
}

/// A piece of the arm: all that is within [`ARM_RADIUS`] of an upright rectangle over a line on the floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limb {
    pub a: Vec2,
    pub b: Vec2,
    pub low: f64,
    pub high: f64,
}

impl Limb {
    /// Distance in space from the rectangle to a box; 0 where they meet.
    pub fn distance(&self, block: &Block) -> f64 {
        let gap = block.gap(self.low, self.high);
        if gap >= ARM_RADIUS {
            return gap;
        }
        let flat = block.segment_distance(self.a, self.b);
        (flat * flat + gap * gap).sqrt()
    }
}

/// From the wrist's axis to the hand sphere's centre, in the robot's frame, for a wrist angle in degrees.
pub fn hand_from_wrist(wrist: f64) -> Vec2 {
    let radians = wrist.to_radians();
    vec2(HAND_LENGTH * libm::cos(radians), -HAND_LENGTH * libm::sin(radians))
}

/// Hand height for a lift, metres.
pub fn hand_height(lift: f64) -> f64 {
    lift + HAND_RISE
}

/// Where the wrist's axis is at no extension, in the robot's frame.
pub fn wrist_root() -> Vec2 {
    vec2(ARM_ROOT, ARM_AHEAD)
}

/// How much an action changes lift, extension (metres) or wrist (degrees); 0 for the others.
pub fn magnitude(action: Action) -> f64 {
    use Action::*;
    match action {
        MoveArmOut | MoveArmIn | MoveArmUp | MoveArmDown => ARM_M,
        MoveArmOutSmall | MoveArmInSmall | MoveArmUpSmall | MoveArmDownSmall => ARM_SMALL_M,
        WristOpen | WristClose => WRIST_DEG,
        RotateLeft | RotateRight => TURN_DEG,
        RotateLeftSmall | RotateRightSmall => TURN_SMALL_DEG,
        MoveAhead | MoveBack => MOVE_M,
        Done | SubDone | Pickup | Dropoff => 0.0,
    }
}
