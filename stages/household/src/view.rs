//! The robot's two cameras, without pictures: what is in the frame and not hidden.

use crate::{
    geometry::{Vec2, forward, right, signed, vec2, yaw_of},
    robot::Robot,
    sight::{Near, Placed, Point},
    sim::Sim,
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use std::cell::OnceCell;

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
    /// What can hide something in this picture; worked out when it is first asked for.
    near: OnceCell<Near>,
}

impl Frame {
    pub fn new(camera: &Camera, robot: &Robot) -> Frame {
        let yaw = robot.yaw + camera.yaw;
        let pitch = camera.pitch.to_radians();
        let half_height = libm::tan((camera.fov / 2.0).to_radians());
        let eye = (robot.place(camera.place), camera.height);
        let down = (libm::sin(pitch), libm::cos(pitch));
        Frame { eye, ahead: forward(yaw), aside: right(yaw), down, half_height, near: OnceCell::new() }
    }

    fn half_width(&self) -> f64 {
        self.half_height * f64::from(WIDTH) / f64::from(HEIGHT)
    }

    /// Along the optical axis, up and to the right in the picture.
    fn placed(&self, point: Point) -> [f64; 3] {
        let offset = vec2(point[0], point[2]).minus(self.eye.0);
        let (far, side, up) = (offset.dot(self.ahead), offset.dot(self.aside), point[1] - self.eye.1);
        [far * self.down.1 - up * self.down.0, up * self.down.1 + far * self.down.0, side]
    }

    /// Whether a point is inside the picture.
    fn holds(&self, point: Point) -> bool {
        let [depth, rise, side] = self.placed(point);
        depth > 0.01 && rise.abs() <= depth * self.half_height && side.abs() <= depth * self.half_width()
    }

    /// Whether no point of a sphere is inside the picture.
    fn sphere_beside(&self, middle: Point, radius: f64) -> bool {
        let [depth, rise, side] = self.placed(middle);
        let beyond = |offset: f64, half: f64| offset.abs() - depth * half > radius * (1.0 + half * half).sqrt();
        depth < -radius || beyond(rise, self.half_height) || beyond(side, self.half_width())
    }

    /// Whether a wall cannot be crossed by a line into the picture.
    fn wall_beside(&self, a: Vec2, b: Vec2) -> bool {
        // The picture's lowest corners look furthest to the sides.
        let lowest = self.down.1 - self.half_height * self.down.0;
        let (a, b) = (a.minus(self.eye.0), b.minus(self.eye.0));
        let both = |outside: &dyn Fn(Vec2) -> bool| outside(a) && outside(b);
        lowest > 0.05
            && (both(&|p| p.dot(self.ahead) < 0.0)
                || both(&|p| p.dot(self.aside) * lowest > p.dot(self.ahead) * self.half_width())
                || both(&|p| -p.dot(self.aside) * lowest > p.dot(self.ahead) * self.half_width()))
    }

    fn near(&self, sim: &Sim) -> &Near {
        self.near.get_or_init(|| {
            sim.home.sight.near(
                |thing| place(sim, thing),
                |middle, radius| self.sphere_beside(middle, radius),
                |a, b| self.wall_beside(a, b),
            )
        })
    }

    fn eye(&self) -> Point {
        [self.eye.0.x, self.eye.1, self.eye.0.z]
    }

    /// Whether one of a thing's visibility points is in the picture and not hidden, and the thing large enough to be made out.
    pub fn shows(&self, sim: &Sim, thing: usize) -> bool {
        let sight = &sim.home.sight;
        let place = place(sim, thing);
        let (middle, radius) = sight.sphere(thing, place);
        if self.sphere_beside(middle, radius) {
            return false;
        }
        let size = sim.home.scene.things[thing].size.map(f64::from);
        let far = vec2(middle[0], middle[2]).distance(self.eye.0);
        let pixel = 2.0 * self.half_height * far / f64::from(HEIGHT);
        if size[0].max(size[1]).max(size[2]) < LEAST_PIXELS * pixel {
            return false;
        }
        sight.any_point(thing, place, |point| self.holds(point) && sight.clear(self.near(sim), self.eye(), point, thing))
    }

    /// Whether a point on the floor plane at a height is in the picture and not hidden.
    pub fn shows_point(&self, sim: &Sim, point: (Vec2, f64)) -> bool {
        let point = [point.0.x, point.1, point.0.z];
        self.holds(point) && sim.home.sight.clear(self.near(sim), self.eye(), point, usize::MAX)
    }
}

/// Where a thing is that is not where the scene has it.
fn place(sim: &Sim, thing: usize) -> Option<Placed> {
    let away = sim.moved.contains_key(&thing) || sim.held.contains(&thing);
    away.then(|| Placed::moved(sim.thing(thing), &sim.pose(thing)))
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
