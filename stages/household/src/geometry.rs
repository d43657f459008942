//! Plane geometry of the floor: x to the east, z to the north, yaw in degrees clockwise seen from above, 0 = +z.
//!
//! Everything is f64 with IEEE operations and `libm`, so that every machine computes the same bits.

/// A point or a vector on the floor, metres.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Vec2 {
    pub x: f64,
    pub z: f64,
}

/// A point on the floor.
pub const fn vec2(x: f64, z: f64) -> Vec2 {
    Vec2 { x, z }
}

impl Vec2 {
    pub fn plus(self, other: Vec2) -> Vec2 {
        vec2(self.x + other.x, self.z + other.z)
    }

    pub fn minus(self, other: Vec2) -> Vec2 {
        vec2(self.x - other.x, self.z - other.z)
    }

    pub fn times(self, factor: f64) -> Vec2 {
        vec2(self.x * factor, self.z * factor)
    }

    pub fn dot(self, other: Vec2) -> f64 {
        self.x * other.x + self.z * other.z
    }

    pub fn cross(self, other: Vec2) -> f64 {
        self.x * other.z - self.z * other.x
    }

    pub fn length(self) -> f64 {
        self.dot(self).sqrt()
    }

    pub fn distance(self, other: Vec2) -> f64 {
        self.minus(other).length()
    }
}

/// The direction that a yaw looks in.
pub fn forward(yaw: f64) -> Vec2 {
    let (sin, cos) = libm::sincos(yaw.to_radians());
    vec2(sin, cos)
}

/// The direction to the right of a yaw.
pub fn right(yaw: f64) -> Vec2 {
    let ahead = forward(yaw);
    vec2(ahead.z, -ahead.x)
}

/// An angle brought into [0, 360).
pub fn wrap(degrees: f64) -> f64 {
    let wrapped = libm::fmod(degrees, 360.0);
    if wrapped < 0.0 { wrapped + 360.0 } else { wrapped }
}

/// An angle brought into (-180, 180].
pub fn signed(degrees: f64) -> f64 {
    let wrapped = wrap(degrees);
    if wrapped > 180.0 { wrapped - 360.0 } else { wrapped }
}

/// The yaw of a direction, in [0, 360).
pub fn yaw_of(direction: Vec2) -> f64 {
    wrap(libm::atan2(direction.x, direction.z).to_degrees())
}

/// Distance of a point to a segment.
pub fn segment_distance(point: Vec2, a: Vec2, b: Vec2) -> f64 {
    let along = b.minus(a);
    let length = along.dot(along);
    let share = if length <= 0.0 { 0.0 } else { (point.minus(a).dot(along) / length).clamp(0.0, 1.0) };
    point.distance(a.plus(along.times(share)))
}

/// Distance of a point to an axis-aligned rectangle about the origin.
fn rectangle_distance(point: Vec2, half: Vec2) -> f64 {
    let (x, z) = ((point.x.abs() - half.x).max(0.0), (point.z.abs() - half.z).max(0.0));
    (x * x + z * z).sqrt()
}

/// Whether a segment meets an axis-aligned rectangle about the origin.
fn crosses_rectangle(a: Vec2, b: Vec2, half: Vec2) -> bool {
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    for (from, to, side) in [(a.x, b.x, half.x), (a.z, b.z, half.z)] {
        let step = to - from;
        if step.abs() < 1e-12 {
            if from.abs() > side {
                return false;
            }
            continue;
        }
        let (one, other) = ((-side - from) / step, (side - from) / step);
        enter = enter.max(one.min(other));
        leave = leave.min(one.max(other));
    }
    enter <= leave
}

/// Where the segment `p`-`q` crosses `a`-`b`: the share of the way from `p` to `q`, and from `a` to `b`.
pub fn crossing(p: Vec2, q: Vec2, a: Vec2, b: Vec2) -> Option<(f64, f64)> {
    let (ray, wall) = (q.minus(p), b.minus(a));
    let denominator = ray.cross(wall);
    if denominator.abs() < 1e-12 {
        return None;
    }
    let offset = a.minus(p);
    let (along_ray, along_wall) = (offset.cross(wall) / denominator, offset.cross(ray) / denominator);
    ((0.0..=1.0).contains(&along_ray) && (0.0..=1.0).contains(&along_wall)).then_some((along_ray, along_wall))
}

/// Whether a polygon holds a point (even-odd rule; points on the rim may fall on either side).
pub fn inside(polygon: &[Vec2], point: Vec2) -> bool {
    let mut within = false;
    for (index, &a) in polygon.iter().enumerate() {
        let b = polygon[(index + 1) % polygon.len()];
        if (a.z > point.z) != (b.z > point.z) && point.x < (b.x - a.x) * (point.z - a.z) / (b.z - a.z) + a.x {
            within = !within;
        }
    }
    within
}

/// Distance of a point to a polygon's rim.
pub fn rim_distance(polygon: &[Vec2], point: Vec2) -> f64 {
    (0..polygon.len()).map(|index| segment_distance(point, polygon[index], polygon[(index + 1) % polygon.len()])).fold(f64::MAX, f64::min)
}

/// Area of a polygon, square metres.
pub fn area(polygon: &[Vec2]) -> f64 {
    let twice: f64 = (0..polygon.len()).map(|index| polygon[index].cross(polygon[(index + 1) % polygon.len()])).sum();
    twice.abs() / 2.0
}

/// An upright box turned about the vertical.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Block {
    pub centre: Vec2,
    /// Half of the sides along its own x and z.
    pub half: Vec2,
    /// Direction of its own x and z axes.
    pub axis_x: Vec2,
    pub axis_z: Vec2,
    pub low: f64,
    pub high: f64,
}

impl Block {
    /// `size` along own x and z, before it is turned by `yaw`.
    pub fn new(centre: Vec2, size: Vec2, yaw: f64, low: f64, high: f64) -> Block {
        Block { centre, half: size.times(0.5), axis_x: right(yaw), axis_z: forward(yaw), low, high }
    }

    /// A floor point in the box's own frame.
    pub fn local(&self, point: Vec2) -> Vec2 {
        let offset = point.minus(self.centre);
        vec2(offset.dot(self.axis_x), offset.dot(self.axis_z))
    }

    /// Distance on the floor from a point to the footprint; 0 inside.
    pub fn floor_distance(&self, point: Vec2) -> f64 {
        rectangle_distance(self.local(point), self.half)
    }

    /// Distance in space from a point to the box; 0 inside.
    pub fn distance(&self, point: Vec2, height: f64) -> f64 {
        let flat = self.floor_distance(point);
        let rise = (self.low - height).max(height - self.high).max(0.0);
        (flat * flat + rise * rise).sqrt()
    }

    /// Distance on the floor from a segment to the footprint; 0 where they meet.
    pub fn segment_distance(&self, a: Vec2, b: Vec2) -> f64 {
        let (a, b) = (self.local(a), self.local(b));
        if crosses_rectangle(a, b, self.half) {
            return 0.0;
        }
        let corners = [
            vec2(self.half.x, self.half.z),
            vec2(-self.half.x, self.half.z),
            vec2(self.half.x, -self.half.z),
            vec2(-self.half.x, -self.half.z),
        ];
        let ends = [a, b].map(|end| rectangle_distance(end, self.half));
        corners.iter().map(|&corner| segment_distance(corner, a, b)).fold(ends[0].min(ends[1]), f64::min)
    }

    /// Vertical distance to a range of heights; 0 where they meet.
    pub fn gap(&self, low: f64, high: f64) -> f64 {
        (self.low - high).max(low - self.high).max(0.0)
    }

    /// The point of the footprint that is nearest to a floor point.
    pub fn nearest(&self, point: Vec2) -> Vec2 {
        let local = self.local(point);
        let (x, z) = (local.x.clamp(-self.half.x, self.half.x), local.z.clamp(-self.half.z, self.half.z));
        self.centre.plus(self.axis_x.times(x)).plus(self.axis_z.times(z))
    }

    /// How deep the footprints of two boxes are in each other: the least way that would part them; not positive: apart.
    pub fn floor_overlap(&self, other: &Block) -> f64 {
        let offset = other.centre.minus(self.centre);
        let spread = |block: &Block, axis: Vec2| block.half.x * block.axis_x.dot(axis).abs() + block.half.z * block.axis_z.dot(axis).abs();
        let depth = |axis: Vec2| spread(self, axis) + spread(other, axis) - offset.dot(axis).abs();
        depth(self.axis_x).min(depth(self.axis_z)).min(depth(other.axis_x)).min(depth(other.axis_z))
    }

    /// How deep two boxes are in each other; not positive: apart.
    pub fn overlap(&self, other: &Block) -> f64 {
        let rise = (self.high - other.low).min(other.high - self.low);
        if rise <= 0.0 { rise } else { rise.min(self.floor_overlap(other)) }
    }

    /// The box somewhere else on the floor.
    pub fn shifted(&self, by: Vec2) -> Block {
        Block { centre: self.centre.plus(by), ..*self }
    }

    /// Half of the sides of the axis-aligned rectangle around the footprint.
    pub fn reach(&self) -> Vec2 {
        vec2(
            self.half.x * self.axis_x.x.abs() + self.half.z * self.axis_z.x.abs(),
            self.half.x * self.axis_x.z.abs() + self.half.z * self.axis_z.z.abs(),
        )
    }

    /// The share of the way from `p` to `q` at which the line enters the box; `None` where it misses it or starts inside.
    pub fn entry(&self, p: (Vec2, f64), q: (Vec2, f64)) -> Option<f64> {
        let (start, end) = (self.local(p.0), self.local(q.0));
        let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
        let slabs =
            [(start.x, end.x, -self.half.x, self.half.x), (start.z, end.z, -self.half.z, self.half.z), (p.1, q.1, self.low, self.high)];
        for (from, to, low, high) in slabs {
            let step = to - from;
            if step.abs() < 1e-12 {
                if from < low || from > high {
                    return None;
                }
                continue;
            }
            let (near, far) = ((low - from) / step, (high - from) / step);
            enter = enter.max(near.min(far));
            leave = leave.min(near.max(far));
        }
        (enter > 0.0 && enter <= leave).then_some(enter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaw_turns_clockwise_from_north() {
        assert!(forward(90.0).distance(vec2(1.0, 0.0)) < 1e-12);
        assert!(right(0.0).distance(vec2(1.0, 0.0)) < 1e-12);
        assert!((yaw_of(vec2(-1.0, 0.0)) - 270.0).abs() < 1e-9);
        assert_eq!((signed(270.0), wrap(-90.0)), (-90.0, 270.0));
    }

    #[test]
    fn a_turned_box_is_hit_where_it_stands() {
        let block = Block::new(vec2(0.0, 0.0), vec2(2.0, 0.2), 90.0, 0.0, 1.0);
        assert!((block.floor_distance(vec2(0.5, 0.0)) - 0.4).abs() < 1e-9);
        assert!(block.floor_distance(vec2(0.0, 0.9)) < 1e-9);
        let entry = block.entry((vec2(-1.0, 0.0), 0.5), (vec2(1.0, 0.0), 0.5)).unwrap();
        assert!((entry - 0.45).abs() < 1e-9);
        assert!(block.entry((vec2(-1.0, 0.0), 1.5), (vec2(1.0, 0.0), 1.5)).is_none());
    }

    #[test]
    fn boxes_and_segments_know_how_far_they_are_apart() {
        let block = Block::new(vec2(0.0, 0.0), vec2(2.0, 1.0), 0.0, 0.0, 1.0);
        assert!((block.segment_distance(vec2(2.0, -3.0), vec2(2.0, 3.0)) - 1.0).abs() < 1e-12);
        assert!((block.segment_distance(vec2(1.0, 1.5), vec2(2.0, 0.5)) - 0.5 * 2.0_f64.sqrt()).abs() < 1e-12);
        assert!(block.segment_distance(vec2(-3.0, 0.0), vec2(3.0, 0.1)) < 1e-12);
        let other = Block::new(vec2(1.2, 0.0), vec2(1.0, 0.2), 0.0, 0.9, 2.0);
        assert!((block.floor_overlap(&other) - 0.3).abs() < 1e-12 && (block.overlap(&other) - 0.1).abs() < 1e-12);
        assert!(block.overlap(&other.shifted(vec2(0.4, 0.0))) < 0.0);
        assert!((block.gap(1.5, 2.0) - 0.5).abs() < 1e-12 && block.gap(0.5, 2.0) < 1e-12);
        assert!(block.nearest(vec2(3.0, 0.2)).distance(vec2(1.0, 0.2)) < 1e-12);
    }

    #[test]
    fn polygons_know_their_inside_and_area() {
        let room = [vec2(0.0, 0.0), vec2(0.0, 2.0), vec2(3.0, 2.0), vec2(3.0, 0.0)];
        assert!(inside(&room, vec2(1.0, 1.0)) && !inside(&room, vec2(4.0, 1.0)));
        assert!((area(&room) - 6.0).abs() < 1e-12);
        assert!((rim_distance(&room, vec2(1.0, 2.5)) - 0.5).abs() < 1e-12);
    }
}
