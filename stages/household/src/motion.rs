//! An action as a way through poses, and how far along it one gets.
//!
//! The engine that is followed here moves the base at 1 m/s and turns it at 1 rad/s in steps of 0.02 s, and tests for contact
//! after each: a blocked move ends at the last free pose, a blocked turn, arm or wrist move is taken back as a whole. Here a
//! move has steps of 0.02 m, and the others as many as it takes that nothing on the robot goes further than that in one.

use crate::{
    geometry::{Vec2, forward, vec2, wrap},
    robot::{ARM_M, ARM_SMALL_M, Action, EXTENSION, LIFT, MOVE_M, Robot, TURN_DEG, TURN_SMALL_DEG, WRIST, WRIST_DEG, magnitude},
};

/// Length of a step, metres.
const STEP_M: f64 = 0.02;
/// What a move, a turn, an arm and a wrist move must change at least to have worked: metres, degrees, metres, degrees.
const LEAST_MOVE_M: f64 = 0.01;
const LEAST_TURN_DEG: f64 = 2.0;
const LEAST_ARM_M: f64 = 0.001;
const LEAST_WRIST_DEG: f64 = 0.001;

/// What kind of thing moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Move,
    Turn,
    Arm,
    Wrist,
}

/// The way from a pose that an action asks for, limits already kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Motion {
    part: Part,
    from: Robot,
    shift: Vec2,
    turn: f64,
    lift: f64,
    extension: f64,
    wrist: f64,
}

impl Motion {
    /// `None`: the action moves nothing by itself.
    pub(crate) fn of(from: &Robot, action: Action) -> Option<Motion> {
        use Action::*;
        let still = Motion { part: Part::Move, from: *from, shift: vec2(0.0, 0.0), turn: 0.0, lift: 0.0, extension: 0.0, wrist: 0.0 };
        let drive = |metres: f64| Motion { shift: forward(from.yaw).times(metres), ..still };
        let turn = |degrees: f64| Motion { part: Part::Turn, turn: degrees, ..still };
        let within = |value: f64, by: f64, (low, high): (f64, f64)| (value + by).clamp(low, high) - value;
        let lift = |metres: f64| Motion { part: Part::Arm, lift: within(from.lift, metres, LIFT), ..still };
        let slide = |metres: f64| Motion { part: Part::Arm, extension: within(from.extension, metres, EXTENSION), ..still };
        let twist = |degrees: f64| Motion { part: Part::Wrist, wrist: within(from.wrist, degrees, WRIST), ..still };
        Some(match action {
            MoveAhead => drive(MOVE_M),
            MoveBack => drive(-MOVE_M),
            RotateRight => turn(TURN_DEG),
            RotateLeft => turn(-TURN_DEG),
            RotateRightSmall => turn(TURN_SMALL_DEG),
            RotateLeftSmall => turn(-TURN_SMALL_DEG),
            MoveArmOut => slide(ARM_M),
            MoveArmIn => slide(-ARM_M),
            MoveArmOutSmall => slide(ARM_SMALL_M),
            MoveArmInSmall => slide(-ARM_SMALL_M),
            MoveArmUp => lift(ARM_M),
            MoveArmDown => lift(-ARM_M),
            MoveArmUpSmall => lift(ARM_SMALL_M),
            MoveArmDownSmall => lift(-ARM_SMALL_M),
            WristOpen => twist(-WRIST_DEG),
            WristClose => twist(WRIST_DEG),
            Done | SubDone | Pickup | Dropoff => return None,
        })
    }

    /// A turn that is off by an error in degrees.
    pub(crate) fn off_by(self, degrees: f64) -> Motion {
        if self.part == Part::Turn { Motion { turn: self.turn + degrees, ..self } } else { self }
    }

    pub(crate) fn turns(&self) -> bool {
        self.part == Part::Turn
    }

    /// The pose after a share of the way.
    fn at(&self, share: f64) -> Robot {
        let from = &self.from;
        match self.part {
            Part::Move => Robot { position: from.position.plus(self.shift.times(share)), ..*from },
            Part::Turn => Robot { yaw: wrap(from.yaw + self.turn * share), ..*from },
            // The sum can pass a limit by a rounding error.
            Part::Arm => Robot {
                lift: (from.lift + self.lift * share).clamp(LIFT.0, LIFT.1),
                extension: (from.extension + self.extension * share).clamp(EXTENSION.0, EXTENSION.1),
                ..*from
            },
            Part::Wrist => Robot { wrist: (from.wrist + self.wrist * share).clamp(WRIST.0, WRIST.1), ..*from },
        }
    }

    /// In how many steps. `load`: how far what is held sticks out from the hand's centre, metres.
    fn steps(&self, load: f64) -> u32 {
        let from = &self.from;
        let way = match self.part {
            Part::Move => magnitude(Action::MoveAhead),
            Part::Turn => {
                let hand = from.hand_local().length().max(from.extension + 0.15) + load;
                // With the arm in, only the body's axis goes anywhere.
                let reach = if from.limbs().next().is_none() && load <= 0.0 { crate::robot::BODY_BEHIND } else { hand };
                self.turn.to_radians().abs() * reach
            }
            Part::Arm => self.lift.abs() + self.extension.abs(),
            Part::Wrist => self.wrist.to_radians().abs() * (crate::robot::HAND_LENGTH + load),
        };
        (libm::ceil(way / STEP_M - 1e-9) as u32).max(1)
    }

    fn worked(&self, way: f64) -> bool {
        match self.part {
            Part::Move => way * MOVE_M > LEAST_MOVE_M,
            Part::Turn => way * self.turn.abs() > LEAST_TURN_DEG,
            Part::Arm => way * (self.lift.abs() + self.extension.abs()) > LEAST_ARM_M,
            Part::Wrist => way * self.wrist.abs() > LEAST_WRIST_DEG,
        }
    }

    /// Goes along for as long as `free` lets each next pose pass, given the one before; tells the pose at the end, and
    /// whether the action worked.
    pub(crate) fn run(&self, load: f64, mut free: impl FnMut(&Robot, &Robot) -> bool) -> (Robot, bool) {
        if !self.worked(1.0) {
            return (self.from, false);
        }
        let steps = self.steps(load);
        let mut robot = self.from;
        for step in 1..=steps {
            let next = self.at(f64::from(step) / f64::from(steps));
            if !free(&robot, &next) {
                let way = f64::from(step - 1) / f64::from(steps);
                return if self.part == Part::Move { (robot, self.worked(way)) } else { (self.from, false) };
            }
            robot = next;
        }
        (robot, true)
    }
}
