//! What hides what: straight lines of sight against the true shapes of things and the walls with their holes.
//!
//! In: a scene. Out: [`Sightlines`], and for each thing its visibility points. A thing is visible where one of its points is
//! in the picture and the line to it from the eye meets neither a wall nor another thing. What belongs to the thing itself
//! does not hide it: a line that meets its front meets the thing first.
//!
//! Visibility points: of each of a thing's three largest parts the middle, and the six points that lie from it along the
//! part's own axes at 0.8 of its half sides. For a box, a cylinder, an ellipsoid and a cone alike these are inside.

use crate::{
    geometry::{Vec2, crossing, vec2},
    scene::{Rotation, Scene, Thing, at},
    shape::{Axis, Form, Part, parts},
    sim::Pose,
};
use std::collections::BTreeSet;

/// Parts of a thing that have visibility points.
const PARTS: usize = 3;
/// How far from a part's middle its visibility points are, as a share of its half sides.
const OUT: f64 = 0.8;
/// What is met nearer to a line's end than this share of it does not hide that end: what hangs on a wall is in front of it.
const AT_THE_END: f64 = 0.98;

/// A point of the house: x, y, z.
pub(crate) type Point = [f64; 3];

/// A wall as the eye meets it.
#[derive(Clone, Debug)]
struct Screen {
    a: Vec2,
    b: Vec2,
    height: f64,
    /// Shares of the length, and heights.
    holes: Vec<(f64, f64, f64, f64)>,
}

/// A thing as the eye meets it, in its own axes.
#[derive(Clone, Debug)]
struct Body {
    parts: Vec<Part>,
    points: Vec<Point>,
    /// Half of the diagonal of its box.
    radius: f64,
    /// Where the scene has it.
    place: Placed,
}

/// A thing's middle, and rows of the matrix that takes its own axes to the house's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) centre: Point,
    rotation: Rotation,
}

impl Placed {
    fn of(thing: &Thing) -> Placed {
        Placed { centre: thing.centre.map(f64::from), rotation: thing.rotation() }
    }

    /// Where a thing is that was moved: its tilt is the scene's, its place and yaw are new.
    pub(crate) fn moved(thing: &Thing, pose: &Pose) -> Placed {
        let still = thing.rotation();
        let (sin, cos) = libm::sincos((pose.yaw - f64::from(thing.yaw)).to_radians());
        let rotation =
            [[0, 1, 2].map(|k| cos * still[0][k] + sin * still[2][k]), still[1], [0, 1, 2].map(|k| cos * still[2][k] - sin * still[0][k])];
        Placed { centre: [pose.centre.x, pose.height, pose.centre.z], rotation }
    }

    fn local(&self, point: Point) -> Point {
        let offset = [0, 1, 2].map(|k| point[k] - self.centre[k]);
        [0, 1, 2].map(|k| offset[0] * self.rotation[0][k] + offset[1] * self.rotation[1][k] + offset[2] * self.rotation[2][k])
    }

    fn global(&self, point: Point) -> Point {
        let turned = self.rotation.map(|row| row[0] * point[0] + row[1] * point[1] + row[2] * point[2]);
        [0, 1, 2].map(|k| turned[k] + self.centre[k])
    }
}

/// Everything of a scene that can hide something.
#[derive(Clone, Debug)]
pub(crate) struct Sightlines {
    screens: Vec<Screen>,
    bodies: Vec<Body>,
}

/// What of a house can hide something in one picture.
pub(crate) struct Near {
    screens: Vec<usize>,
    things: Vec<(usize, Placed)>,
}

impl Sightlines {
    pub(crate) fn new(scene: &Scene) -> Sightlines {
        let mut screens = Vec::new();
        // A wall between two rooms is in the scene once for each.
        let mut known = BTreeSet::new();
        for wall in &scene.walls {
            let round = |corner: [f32; 2]| corner.map(|value| libm::round(f64::from(value) * 1000.0) as i64);
            let ends = (round(wall.a).min(round(wall.b)), round(wall.a).max(round(wall.b)));
            if known.insert(ends) {
                let (a, b) = (at(wall.a), at(wall.b));
                let length = a.distance(b).max(1e-6);
                let clear = wall.holes.iter().filter(|hole| hole.see_through());
                let holes = clear
                    .map(|hole| (f64::from(hole.from) / length, f64::from(hole.to) / length, f64::from(hole.low), f64::from(hole.high)));
                screens.push(Screen { a, b, height: f64::from(wall.height), holes: holes.collect() });
            }
        }
        Sightlines { screens, bodies: scene.things.iter().map(body).collect() }
    }

    /// What can hide something between an eye and what it sees. `moved`: places of things that are not where the scene has
    /// them. `beside`: whether a sphere (middle, radius) is outside the picture, and whether a floor segment is.
    pub(crate) fn near(
        &self,
        moved: impl Fn(usize) -> Option<Placed>,
        sphere_beside: impl Fn(Point, f64) -> bool,
        wall_beside: impl Fn(Vec2, Vec2) -> bool,
    ) -> Near {
        let screens = self.screens.iter().enumerate().filter(|(_, screen)| !wall_beside(screen.a, screen.b));
        let things = self.bodies.iter().enumerate().map(|(number, body)| (number, moved(number).unwrap_or(body.place), body.radius));
        Near {
            screens: screens.map(|(number, _)| number).collect(),
            things: things
                .filter(|(_, place, radius)| !sphere_beside(place.centre, *radius))
                .map(|(number, place, _)| (number, place))
                .collect(),
        }
    }

    /// Whether the line from an eye to a point meets no wall and no thing but `looked_at`.
    pub(crate) fn clear(&self, near: &Near, eye: Point, point: Point, looked_at: usize) -> bool {
        let (from, to) = (vec2(eye[0], eye[2]), vec2(point[0], point[2]));
        let walled = near.screens.iter().any(|&screen| {
            let screen = &self.screens[screen];
            let Some((along_ray, along_wall)) = crossing(from, to, screen.a, screen.b) else { return false };
            let height = eye[1] + (point[1] - eye[1]) * along_ray;
            along_ray < AT_THE_END
                && height < screen.height
                && !screen.holes.iter().any(|&(from, to, low, high)| along_wall > from && along_wall < to && height > low && height < high)
        });
        let way = [0, 1, 2].map(|k| point[k] - eye[k]);
        let square = dot(way, way).max(1e-12);
        !walled
            && !near.things.iter().any(|(number, place)| {
                if *number == looked_at {
                    return false;
                }
                let body = &self.bodies[*number];
                // The middle's distance to the line first: most things are nowhere near it.
                let offset = [0, 1, 2].map(|k| place.centre[k] - eye[k]);
                let along = dot(offset, way);
                let short = dot(offset, offset) * square - along * along;
                if short > body.radius * body.radius * square || along < -body.radius * square.sqrt() {
                    return false;
                }
                let (start, end) = (place.local(eye), place.local(point));
                body.parts.iter().any(|part| meets(part, start, end))
            })
    }

    /// Whether one of a thing's visibility points fulfils a test.
    pub(crate) fn any_point(&self, number: usize, place: Option<Placed>, mut test: impl FnMut(Point) -> bool) -> bool {
        let body = &self.bodies[number];
        let place = place.unwrap_or(body.place);
        body.points.iter().any(|&point| test(place.global(point)))
    }

    /// A thing's middle and the radius of a sphere around it.
    pub(crate) fn sphere(&self, number: usize, place: Option<Placed>) -> (Point, f64) {
        let body = &self.bodies[number];
        (place.unwrap_or(body.place).centre, body.radius)
    }
}

fn dot(a: Point, b: Point) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn body(thing: &Thing) -> Body {
    let mut parts = parts(&thing.kind, &thing.asset, thing.own_size());
    let volume = |part: &Part| part.half[0] * part.half[1] * part.half[2];
    // Stable: equal parts keep the shape's order. The largest are met most often, too.
    parts.sort_by(|one, other| volume(other).total_cmp(&volume(one)));
    let mut points = Vec::with_capacity(7 * PARTS.min(parts.len()));
    for part in parts.iter().take(PARTS) {
        points.push(part.centre);
        for axis in [1, 0, 2] {
            for side in [1.0, -1.0] {
                let mut point = part.centre;
                point[axis] += side * OUT * part.half[axis];
                points.push(point);
            }
        }
    }
    let size = thing.own_size();
    Body { parts, points, radius: dot(size, size).sqrt() / 2.0, place: Placed::of(thing) }
}

/// Whether a part is met on the way from a point to another, both in the thing's own axes, before the end.
fn meets(part: &Part, start: Point, end: Point) -> bool {
    // In axes in which the part's box goes from -1 to 1.
    let scaled = |point: Point| [0, 1, 2].map(|k| (point[k] - part.centre[k]) / part.half[k]);
    let (from, to) = (scaled(start), scaled(end));
    let way = [0, 1, 2].map(|k| to[k] - from[k]);
    let (mut enter, mut leave) = (0.0_f64, AT_THE_END);
    for k in 0..3 {
        if way[k].abs() < 1e-12 {
            if from[k].abs() > 1.0 {
                return false;
            }
            continue;
        }
        let (one, other) = ((-1.0 - from[k]) / way[k], (1.0 - from[k]) / way[k]);
        enter = enter.max(one.min(other));
        leave = leave.min(one.max(other));
    }
    if enter > leave {
        return false;
    }
    // What is left of the form inside its box is where a quadratic function of the way is at most 0.
    let radius = |bottom: f64, top: f64| ((bottom + top) / 2.0, (top - bottom) / 2.0);
    let (axis, (middle, slope), height) = match part.form {
        Form::Box => return true,
        Form::Cylinder { axis } => (axis, (1.0, 0.0), 0.0),
        Form::Frustum { bottom, top } => (Axis::Y, radius(bottom, top), 0.0),
        Form::Ellipsoid => (Axis::Y, (1.0, 0.0), 1.0),
    };
    let axis = axis as usize;
    let (u, v) = ((axis + 1) % 3, (axis + 2) % 3);
    let inside = |share: f64| {
        let at = |k: usize| from[k] + way[k] * share;
        let round = middle + slope * at(axis);
        at(u) * at(u) + at(v) * at(v) + height * at(axis) * at(axis) <= round * round
    };
    let bend = way[u] * way[u] + way[v] * way[v] + (height - slope * slope) * way[axis] * way[axis];
    let rise = from[u] * way[u] + from[v] * way[v] + height * from[axis] * way[axis] - slope * way[axis] * (middle + slope * from[axis]);
    let lowest = -rise / bend;
    inside(enter) || inside(leave) || (bend > 0.0 && lowest > enter && lowest < leave && inside(lowest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(form: Form) -> Part {
        Part { centre: [1.0, 0.0, 0.0], half: [0.5, 1.0, 0.25], form, slot: 0, solid: true }
    }

    /// A line along z through (x, y).
    fn met(form: Form, x: f64, y: f64) -> bool {
        meets(&part(form), [x, y, -5.0], [x, y, 5.0])
    }

    #[test]
    fn forms_are_met_where_they_are_and_nowhere_else() {
        assert!(met(Form::Box, 1.45, 0.95) && !met(Form::Box, 1.55, 0.0) && !met(Form::Box, 1.0, 1.05));
        let upright = Form::Cylinder { axis: Axis::Y };
        assert!(met(upright, 1.45, 0.95) && !met(upright, 1.55, 0.0));
        let across = Form::Cylinder { axis: Axis::Z };
        assert!(met(across, 1.45, 0.0) && !met(across, 1.45, 0.95));
        assert!(met(Form::Ellipsoid, 1.0, 0.95) && !met(Form::Ellipsoid, 1.4, 0.8));
        let cone = Form::Frustum { bottom: 1.0, top: 0.0 };
        assert!(met(cone, 1.4, -0.9) && met(cone, 1.0, 0.9) && !met(cone, 1.1, 0.9));
    }

    #[test]
    fn a_steep_line_into_a_cone_meets_it_and_one_that_ends_before_does_not() {
        let cone = part(Form::Frustum { bottom: 1.0, top: 0.2 });
        assert!(meets(&cone, [1.0, 5.0, 0.0], [1.02, -5.0, 0.01]));
        assert!(!meets(&cone, [1.0, 5.0, 0.0], [1.0, 1.1, 0.0]));
        assert!(!meets(&cone, [1.45, 5.0, 0.0], [1.45, 0.0, 0.0]));
    }
}
