//! The robot's two cameras, without pictures: what is in the frame and not hidden.

use crate::{
    geometry::{Vec2, forward, right, signed, vec2, yaw_of},
    robot::Robot,
    sim::Sim,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Which camera.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Eye {
    /// On the mast, looks ahead.
    Navigation,
    /// On the mast, looks to the right, where the arm is.
    Manipulation,
}

/// A camera's place in the robot's frame, and its optics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    pub eye: Eye,
    pub place: Vec2,
    pub height: f64,
    /// Degrees to the right of ahead, and down.
    pub yaw: f64,
    pub pitch: f64,
    /// Vertical field of view, degrees.
    pub fov: f64,
}

/// Picture size in pixels.
pub const WIDTH: u32 = 384;
pub const HEIGHT: u32 = 224;
/// Things that look smaller than this many pixels are not told of.
const LEAST_PIXELS: f64 = 3.0;

/// Both cameras of an episode: pitch and field of view vary a little from one to the next.
pub fn cameras(rng: &mut ChaCha8Rng) -> [Camera; 2] {
    // -2.0 to 1.8 in steps of 0.2, and -1.0 to 0.9 in steps of 0.1.
    let mut tilt = |base: f64| base + f64::from(rng.random_range(-10_i32..=9)) * 0.2;
    let (first, second) = (tilt(27.0), tilt(33.0));
    let mut zoom = || 59.0 + f64::from(rng.random_range(-10_i32..=9)) * 0.1;
    let (wide, side) = (zoom(), zoom());
    [
        Camera { eye: Eye::Navigation, place: vec2(0.001_920_35, 0.067_880_4), height: 1.445_7, yaw: 0.0, pitch: first, fov: wide },
        Camera { eye: Eye::Manipulation, place: vec2(0.053_905_13, -0.058_848_57), height: 1.424_8, yaw: 90.0, pitch: second, fov: side },
    ]
}

/// A camera at a robot's pose, with its directions worked out.
pub struct Frame {
    eye: (Vec2, f64),
    ahead: Vec2,
    aside: Vec2,
    down: (f64, f64),
    half_height: f64,
}

impl Frame {
    pub fn new(camera: &Camera, robot: &Robot) -> Frame {
        let yaw = robot.yaw + camera.yaw;
        let pitch = camera.pitch.to_radians();
        let half_height = libm::tan((camera.fov / 2.0).to_radians());
        let eye = (robot.place(camera.place), camera.height);
        Frame { eye, ahead: forward(yaw), aside: right(yaw), down: (libm::sin(pitch), libm::cos(pitch)), half_height }
    }

    /// Distance along the optical axis, where the point is inside the picture.
    fn depth(&self, point: (Vec2, f64)) -> Option<f64> {
        let offset = point.0.minus(self.eye.0);
        let (far, side, up) = (offset.dot(self.ahead), offset.dot(self.aside), point.1 - self.eye.1);
        let depth = far * self.down.1 - up * self.down.0;
        let rise = up * self.down.1 + far * self.down.0;
        let half_width = self.half_height * f64::from(WIDTH) / f64::from(HEIGHT);
        (depth > 0.01 && rise.abs() <= depth * self.half_height && side.abs() <= depth * half_width).then_some(depth)
    }

    /// Whether some part of a thing is in the picture, large enough and not hidden.
    pub fn shows(&self, sim: &Sim, thing: usize) -> bool {
        let (centre, height) = sim.centre(thing);
        let size = sim.home.scene.things[thing].size.map(f64::from);
        let far = centre.distance(self.eye.0);
        let widest = size[0].max(size[1]).max(size[2]);
        let pixel = 2.0 * self.half_height * far / f64::from(HEIGHT);
        if widest < LEAST_PIXELS * pixel {
            return false;
        }
        let across = if far > 1e-6 { centre.minus(self.eye.0).times(1.0 / far) } else { self.ahead };
        let aside = vec2(across.z, -across.x).times(0.35 * size[0].min(size[2]));
        let points = [
            (centre, height),
            (centre, height + 0.4 * size[1]),
            (centre.plus(aside), height + 0.2 * size[1]),
            (centre.minus(aside), height + 0.2 * size[1]),
        ];
        points.iter().any(|&point| self.depth(point).is_some() && sim.home.space.sees(self.eye, point, thing))
    }

    /// Whether a point on the floor plane at a height is in the picture and not hidden.
    pub fn shows_point(&self, sim: &Sim, point: (Vec2, f64)) -> bool {
        self.depth(point).is_some() && sim.home.space.sees(self.eye, point, usize::MAX)
    }
}

/// Something that a camera sees, relative to the robot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sight {
    /// Position in the scene's things.
    pub thing: usize,
    /// Degrees from straight ahead, to the right positive, in (-180, 180].
    pub bearing: f64,
    /// On the floor plane from the pivot to the centre, metres.
    pub distance: f64,
    /// Height of the centre above the floor, metres.
    pub height: f64,
}

/// Where a thing is, relative to the robot.
pub fn sight(robot: &Robot, thing: usize, place: (Vec2, f64)) -> Sight {
    let offset = place.0.minus(robot.position);
    Sight { thing, bearing: signed(yaw_of(offset) - robot.yaw), distance: offset.length(), height: place.1 }
}

/// Everything that a camera sees, nearest first.
pub fn sights(sim: &Sim, eye: Eye) -> Vec<Sight> {
    let frame = sim.frame(eye);
    let shown = (0..sim.home.scene.things.len()).filter(|thing| !sim.held.contains(thing) && frame.shows(sim, *thing));
    let mut sights: Vec<Sight> = shown.map(|thing| sight(&sim.robot, thing, sim.centre(thing))).collect();
    sights.sort_by(|one, other| one.distance.total_cmp(&other.distance).then(one.thing.cmp(&other.thing)));
    sights
}
