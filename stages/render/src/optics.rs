//! Where a camera stands and how it projects.
//!
//! In: a household camera at a robot's pose, or an eye that looks at a point. Out: a [`View`]. The world's axes are the
//! house's: x east, y up, z north, metres. Picture rows run down, columns to the right; pixel (x, y) is sampled at its
//! middle, (x + 0.5, y + 0.5).

use household::{
    geometry::{forward, right},
    robot::Robot,
    view::Camera,
};

/// A point or a direction in the house: x, y, z.
pub type Vec3 = [f32; 3];

/// What is nearer to the eye than this is cut off, metres.
pub(crate) const NEAR_M: f32 = 0.01;

/// How high a plan is looked at from, metres.
const PLAN_M: f64 = 90.0;

/// Rows for which the cameras' field of view is stated; a picture of other proportions sees more or less to the sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

impl Size {
    /// What policies get: 396 columns as they are drawn, less six at each side.
    pub const CAMERA: Size = Size { width: 384, height: 224 };
    /// The largest picture that is drawn, a side.
    pub const MOST: usize = 4096;

    pub fn pixels(self) -> usize {
        self.width * self.height
    }
}

/// A camera in the house, ready to project.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    pub eye: Vec3,
    /// Unit vectors of the picture: to the right, up, and into it.
    pub axes: [Vec3; 3],
    /// Pixels.
    pub focal: f32,
    pub size: Size,
}

/// A function of the pixel that is affine: value at pixel (0, 0), and what a column and a row add.
pub(crate) type Affine = [f32; 3];

impl View {
    /// The view of one of the robot's cameras.
    pub fn of(camera: &Camera, robot: &Robot, size: Size) -> View {
        let place = robot.place(camera.place);
        let (ahead, aside) = (forward(robot.yaw + camera.yaw), right(robot.yaw + camera.yaw));
        let (sin, cos) = libm::sincos(camera.pitch.to_radians());
        View {
            eye: [place.x as f32, camera.height as f32, place.z as f32],
            axes: [
                [aside.x as f32, 0.0, aside.z as f32],
                [(ahead.x * sin) as f32, cos as f32, (ahead.z * sin) as f32],
                [(ahead.x * cos) as f32, -sin as f32, (ahead.z * cos) as f32],
            ],
            focal: focal(camera.fov, size.height) as f32,
            size,
        }
    }

    /// A view from one point to another; `fov` in degrees, over the picture's height. Straight down, north is up.
    pub fn looking(eye: [f64; 3], at: [f64; 3], fov: f64, size: Size) -> View {
        let offset = [at[0] - eye[0], at[1] - eye[1], at[2] - eye[2]];
        let flat = libm::sqrt(offset[0] * offset[0] + offset[2] * offset[2]);
        let far = libm::sqrt(flat * flat + offset[1] * offset[1]).max(1e-9);
        let (x, z) = if flat > 1e-9 { (offset[0] / flat, offset[2] / flat) } else { (0.0, 1.0) };
        let (cos, sin) = (flat / far, -offset[1] / far);
        View {
            eye: eye.map(|v| v as f32),
            axes: [
                [z as f32, 0.0, -x as f32],
                [(x * sin) as f32, cos as f32, (z * sin) as f32],
                [(x * cos) as f32, -sin as f32, (z * cos) as f32],
            ],
            focal: focal(fov, size.height) as f32,
            size,
        }
    }

    /// A view straight down on a floor area (corners in x and z), from so high that walls hardly lean; a margin is left.
    pub fn plan(low: [f64; 2], high: [f64; 2], size: Size) -> View {
        let middle = [(low[0] + high[0]) / 2.0, (low[1] + high[1]) / 2.0];
        let wide = size.width as f64 / size.height.max(1) as f64;
        let span = (high[1] - low[1]).max((high[0] - low[0]) / wide).max(1.0) * 1.06;
        let fov = 2.0 * libm::atan(span / 2.0 / PLAN_M).to_degrees();
        View::looking([middle[0], PLAN_M, middle[1]], [middle[0], 0.0, middle[1]], fov, size)
    }

    pub(crate) fn middle(&self) -> [f32; 2] {
        [self.size.width as f32 * 0.5, self.size.height as f32 * 0.5]
    }

    /// A direction of the house in the picture's axes.
    pub(crate) fn turned(&self, direction: Vec3) -> Vec3 {
        self.axes.map(|axis| dot(axis, direction))
    }

    /// A point of the house in the picture's axes, from the eye.
    pub(crate) fn placed(&self, point: Vec3) -> Vec3 {
        self.turned(sub(point, self.eye))
    }

    /// The dot product of a direction, given in the picture's axes, with the ray through a pixel (whose depth is 1).
    pub(crate) fn along_rays(&self, direction: Vec3) -> Affine {
        let [x, y] = self.middle();
        let column = direction[0] / self.focal;
        let row = -direction[1] / self.focal;
        [direction[2] + column * (0.5 - x) + row * (0.5 - y), column, row]
    }

    /// Column and row of a point of the house, and its depth; `None` behind the eye.
    pub fn project(&self, point: Vec3) -> Option<[f32; 3]> {
        let [x, y, z] = self.placed(point);
        (z > NEAR_M).then(|| {
            let scale = self.focal / z;
            let middle = self.middle();
            [middle[0] + x * scale, middle[1] - y * scale, z]
        })
    }
}

/// Focal length in pixels of a vertical field of view in degrees over so many rows.
pub fn focal(fov: f64, rows: usize) -> f64 {
    rows as f64 / 2.0 / libm::tan((fov / 2.0).to_radians())
}

pub(crate) fn dot(a: Vec3, b: Vec3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub(crate) fn sub(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub(crate) fn add(a: Vec3, b: Vec3) -> Vec3 {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2]]
}

pub(crate) fn scaled(a: Vec3, by: f32) -> Vec3 {
    [a[0] * by, a[1] * by, a[2] * by]
}

pub(crate) fn cross(a: Vec3, b: Vec3) -> Vec3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub(crate) fn unit(a: Vec3) -> Vec3 {
    let length = dot(a, a).sqrt();
    if length > 1e-12 { scaled(a, 1.0 / length) } else { [0.0, 1.0, 0.0] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use household::{
        geometry::vec2,
        view::{Camera, Eye},
    };

    #[test]
    fn focal_length_is_the_stated_one() {
        assert!((focal(59.0, 224) - 197.96).abs() < 0.005);
    }

    #[test]
    fn both_ways_to_make_a_view_agree() {
        let camera = Camera { eye: Eye::Navigation, place: vec2(0.1, 0.2), height: 1.4, yaw: 90.0, pitch: 30.0, fov: 59.0 };
        let robot = Robot::stowed(vec2(1.0, 2.0), 25.0);
        let view = View::of(&camera, &robot, Size::CAMERA);
        let eye = view.eye.map(f64::from);
        let at = [0, 1, 2].map(|k| eye[k] + 3.0 * f64::from(view.axes[2][k]));
        let other = View::looking(eye, at, 59.0, Size::CAMERA);
        for (one, two) in view.axes.iter().flatten().zip(other.axes.iter().flatten()) {
            assert!((one - two).abs() < 1e-6);
        }
        let [x, y, z] = view.project(at.map(|v| v as f32)).expect("it is in front of the eye");
        assert!((x - 192.0).abs() < 1e-3 && (y - 112.0).abs() < 1e-3 && (z - 3.0).abs() < 1e-5);
    }
}
