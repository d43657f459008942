//! The robot's own body as its cameras see it, and what it holds.
//!
//! The arm's place follows from the household's kinematics: mast at the back, arm to the right, wrist and gripper at the hand.

use crate::{
    look::Paint,
    mesh::{Mesh, Turned},
    model::{Body, Coat, Model, Pose},
    optics::Vec3,
    pattern::Figure,
    solids::Solid,
};
use household::{
    geometry::vec2,
    robot::{BODY_HIGH, Robot},
    sim::Sim,
};
use std::sync::Arc;

/// Paints: grey body, light arm, dark grip, orange pads.
const COLOURS: [Vec3; 4] = [[66.0, 68.0, 74.0], [196.0, 199.0, 204.0], [58.0, 60.0, 66.0], [214.0, 120.0, 52.0]];

/// Heights above the lift of the arm's and the hand's middle, and the arm's place ahead of the pivot; as the household has them.
const ARM_RISE: f64 = 0.1865;
const HAND_RISE: f64 = 0.0879;
const ARM_AHEAD: f64 = -0.0239;
const ARM_ROOT: f64 = 0.1437;
/// From the wrist's axis to the hand's centre.
const HAND_LENGTH: f64 = 0.2047;

fn coats() -> Vec<Coat> {
    COLOURS.iter().map(|&dark| Paint { figure: Figure::Plain, texels: 1.0, dark, light: dark }.into()).collect()
}

fn body(mesh: Mesh, pose: Pose) -> Body {
    Body { solid: Arc::new(Solid::plain(mesh)), coats: coats(), pose, room: 0 }
}

/// What the cameras can see of the robot: arm, wrist and gripper.
pub(crate) fn bodies(robot: &Robot, _model: &Model) -> Vec<Body> {
    vec![arm(robot), gripper(robot)]
}

/// Base, mast and head as well, for a look from outside.
pub(crate) fn whole(robot: &Robot, model: &Model) -> Vec<Body> {
    let mut mesh = Mesh::default();
    let centre = vec2(0.0, -0.1092);
    let base = Turned {
        centre: [centre.x as f32, 0.095, centre.z as f32],
        half: [0.17, 0.075, 0.17],
        axis: 1,
        profile: &[[-1.0, 1.0], [0.7, 1.0], [1.0, 0.85]],
        sides: 14,
        caps: [true; 2],
    };
    mesh.turned(&base, 0);
    let high = BODY_HIGH as f32;
    mesh.block([-0.02, 0.15 + (high - 0.2) / 2.0, -0.09], [0.03, (high - 0.2) / 2.0, 0.03], 1);
    mesh.block([-0.01, high - 0.03, -0.04], [0.06, 0.045, 0.05], 2);
    let mut bodies = bodies(robot, model);
    bodies.push(body(mesh, stand(robot)));
    bodies
}

/// The robot's frame: x to the right, z ahead, origin on the floor under the pivot.
fn stand(robot: &Robot) -> Pose {
    Pose::upright([robot.position.x as f32, 0.0, robot.position.z as f32], robot.yaw)
}

/// The telescope from the mast to the wrist.
fn arm(robot: &Robot) -> Body {
    let mut mesh = Mesh::default();
    let height = (robot.lift + ARM_RISE) as f32;
    let (z, root, end) = (ARM_AHEAD as f32, -0.08_f32, (ARM_ROOT + robot.extension) as f32);
    mesh.block([-0.03, height, z - 0.05], [0.06, 0.07, 0.06], 0);
    // Five links, each thinner than the one that it slides in.
    let reach = end - 0.16 - root;
    for link in 0..5 {
        let share = |k: usize| root + 0.16 + reach * k as f32 / 5.0;
        let (from, to) = (if link == 0 { root } else { share(link) - 0.02 }, share(link + 1));
        let half = 0.034 - 0.0045 * link as f32;
        mesh.block([(from + to) / 2.0, height, z], [(to - from) / 2.0, half, half], 1);
    }
    // The wrist hangs below the end.
    let low = (robot.lift + HAND_RISE) as f32;
    let wrist = Turned {
        centre: [end, (low + height) / 2.0, z],
        half: [0.026, (height - low) / 2.0 + 0.02, 0.026],
        axis: 1,
        profile: &[[-1.0, 1.0], [1.0, 1.0]],
        sides: 10,
        caps: [true; 2],
    };
    mesh.turned(&wrist, 2);
    body(mesh, stand(robot))
}

/// Palm, two fingers and their cups; x along the hand.
fn gripper(robot: &Robot) -> Body {
    let mut mesh = Mesh::default();
    let reach = HAND_LENGTH as f32;
    mesh.block([0.04, 0.0, 0.0], [0.045, 0.022, 0.03], 2);
    for side in [-1.0_f32, 1.0] {
        // A finger bows out and comes back to its cup.
        let points = [[0.07, 0.02], [0.13, 0.062], [reach - 0.01, 0.05]];
        for pair in points.windows(2) {
            let steps = 3;
            for step in 0..steps {
                let at = |k: usize| {
                    let share = k as f32 / steps as f32;
                    [0, 1].map(|c| pair[0][c] + (pair[1][c] - pair[0][c]) * share)
                };
                let (a, b) = (at(step), at(step + 1));
                let middle = [(a[0] + b[0]) / 2.0, 0.0, side * (a[1] + b[1]) / 2.0];
                mesh.block(middle, [(b[0] - a[0]).abs() / 2.0 + 0.004, 0.009, (b[1] - a[1]).abs() / 2.0 + 0.004], 2);
            }
        }
        mesh.block([reach, 0.0, side * 0.046], [0.022, 0.022, 0.007], 3);
    }
    // The wrist's angle is 0 outward, clockwise positive: x of the hand is the robot's right turned by it.
    let wrist = robot.place(vec2(ARM_ROOT + robot.extension, ARM_AHEAD));
    let height = (robot.lift + HAND_RISE) as f32;
    body(mesh, Pose::upright([wrist.x as f32, height, wrist.z as f32], robot.yaw + robot.wrist))
}

/// Where a thing is that is held or was moved: `still` is where the scene has it.
pub(crate) fn carried(sim: &Sim, number: usize, still: &Pose) -> Pose {
    let pose = sim.pose(number);
    let turned =
        Pose::upright([pose.centre.x as f32, pose.height as f32, pose.centre.z as f32], pose.yaw - f64::from(sim.thing(number).yaw));
    // A thing that lies on its side keeps its tilt: only the turn about the vertical is new.
    let turn = |axis: Vec3| [0, 1, 2].map(|k| axis[0] * turned.axes[0][k] + axis[1] * turned.axes[1][k] + axis[2] * turned.axes[2][k]);
    Pose { origin: turned.origin, axes: still.axes.map(turn) }
}
