//! Solids as flat convex faces, in an object's own axes.
//!
//! In: boxes and bodies of revolution. Out: a [`Mesh`] with corners, faces and a sphere around it; faces look outward, and a
//! face is seen from where its plane has the eye before it.

use crate::optics::{Vec3, add, cross, dot, scaled, sub, unit};

/// A flat convex face.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Face {
    /// Its corners: positions in [`Mesh::order`].
    pub(crate) first: u32,
    pub(crate) count: u8,
    /// Which of the object's paints it has.
    pub(crate) slot: u8,
    /// The axes that the pattern lies along.
    pub(crate) across: u8,
    pub(crate) along: u8,
    /// Unit vector outward, and its dot product with the points of the plane.
    pub(crate) normal: Vec3,
    pub(crate) offset: f32,
}

/// Corners and faces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mesh {
    pub(crate) corners: Vec<Vec3>,
    pub(crate) order: Vec<u16>,
    pub(crate) faces: Vec<Face>,
    /// The box around the corners.
    pub(crate) low: Vec3,
    pub(crate) high: Vec3,
}

/// A body of revolution, or one that is stretched across its axis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turned<'a> {
    pub(crate) centre: Vec3,
    /// Half of the sides of its box.
    pub(crate) half: Vec3,
    /// 0, 1 or 2: which of the axes it is turned about.
    pub(crate) axis: usize,
    /// Places along the axis, rising, -1 to 1, and radii as shares of the half sides. A radius of 0 is a point.
    pub(crate) profile: &'a [[f32; 2]],
    pub(crate) sides: usize,
    /// Whether its first and its last level are closed.
    pub(crate) caps: [bool; 2],
}

impl Mesh {
    /// The most corners of a mesh; what is added to a full one is left out.
    const MOST: usize = u16::MAX as usize;

    fn corner(&mut self, at: Vec3) -> u16 {
        if self.corners.is_empty() {
            (self.low, self.high) = (at, at);
        }
        for ((low, high), v) in self.low.iter_mut().zip(&mut self.high).zip(at) {
            (*low, *high) = (low.min(v), high.max(v));
        }
        self.corners.push(at);
        (self.corners.len() - 1) as u16
    }

    fn full(&self, more: usize) -> bool {
        self.corners.len() + more > Self::MOST
    }

    /// Adds a flat face whose corners go round so that their cross product looks outward. One without area is left out.
    fn face(&mut self, corners: &[u16], slot: u8) {
        let at = |k: usize| self.corners[corners[k] as usize];
        // The two diagonals of a quadrilateral, two sides of a triangle: never parallel unless the face has no area.
        let normal =
            if corners.len() == 4 { cross(sub(at(2), at(0)), sub(at(3), at(1))) } else { cross(sub(at(1), at(0)), sub(at(2), at(0))) };
        if dot(normal, normal) < 1e-16 {
            return;
        }
        let normal = unit(normal);
        let mean =
            scaled(corners.iter().fold([0.0; 3], |sum, &corner| add(sum, self.corners[corner as usize])), 1.0 / corners.len() as f32);
        let [x, y, z] = normal.map(f32::abs);
        let (across, along) = if y >= x && y >= z {
            (0, 2)
        } else if x >= z {
            (2, 1)
        } else {
            (0, 1)
        };
        let first = self.order.len() as u32;
        self.order.extend_from_slice(corners);
        self.faces.push(Face { first, count: corners.len() as u8, slot, across, along, normal, offset: dot(normal, mean) });
    }

    /// Adds a box.
    pub(crate) fn block(&mut self, centre: Vec3, half: Vec3, slot: u8) {
        if self.full(8) {
            return;
        }
        let corner = |k: usize| {
            let side = |axis: usize| if k >> axis & 1 == 1 { half[axis] } else { -half[axis] };
            add(centre, [side(0), side(1), side(2)])
        };
        let first = self.corners.len() as u16;
        for k in 0..8 {
            self.corner(corner(k));
        }
        for quad in [[0, 4, 6, 2], [1, 3, 7, 5], [0, 1, 5, 4], [2, 6, 7, 3], [0, 2, 3, 1], [4, 5, 7, 6]] {
            self.face(&quad.map(|k: u16| first + k), slot);
        }
    }

    /// Adds a body of revolution.
    pub(crate) fn turned(&mut self, body: &Turned<'_>, slot: u8) {
        let Turned { centre, half, axis, profile, sides, caps } = *body;
        if self.full(profile.len() * sides) {
            return;
        }
        let start = self.corners.len() as u16;
        // The three axes in a cycle, so that the body is turned and not mirrored.
        let (first, second) = ((axis + 2) % 3, (axis + 1) % 3);
        for [along, radius] in profile {
            for side in 0..sides {
                let (sin, cos) = libm::sincosf(std::f32::consts::TAU * side as f32 / sides as f32);
                let mut corner = centre;
                corner[axis] += along * half[axis];
                corner[first] += radius * half[first] * cos;
                corner[second] += radius * half[second] * sin;
                self.corner(corner);
            }
        }
        let at = |ring: usize, side: usize| start + (ring * sides + side % sides) as u16;
        let point = |ring: usize| profile[ring][1] < 1e-6;
        for ring in 0..profile.len() - 1 {
            for side in 0..sides {
                let (low, low_next) = (at(ring, side), at(ring, side + 1));
                let (high, high_next) = (at(ring + 1, side), at(ring + 1, side + 1));
                if point(ring) {
                    self.face(&[low, high, high_next], slot);
                } else if point(ring + 1) {
                    self.face(&[low, high, low_next], slot);
                } else {
                    self.face(&[low, high, high_next, low_next], slot);
                }
            }
        }
        if caps[0] {
            let low: Vec<u16> = (0..sides).map(|side| at(0, side)).collect();
            self.face(&low, slot);
        }
        if caps[1] {
            let high: Vec<u16> = (0..sides).rev().map(|side| at(profile.len() - 1, side)).collect();
            self.face(&high, slot);
        }
    }

    /// Middle and radius of a sphere around it.
    pub(crate) fn sphere(&self) -> (Vec3, f32) {
        let half = scaled(sub(self.high, self.low), 0.5);
        (add(self.low, half), dot(half, half).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each face's plane has the solid's middle behind it, and holds all its corners.
    fn check(mesh: &Mesh, middle: Vec3) {
        for face in &mesh.faces {
            assert!(dot(face.normal, middle) < face.offset, "{face:?} looks inward");
            for &corner in &mesh.order[face.first as usize..][..usize::from(face.count)] {
                let off = dot(face.normal, mesh.corners[usize::from(corner)]) - face.offset;
                assert!(off.abs() < 1e-4, "{face:?} is not flat by {off}");
            }
        }
    }

    #[test]
    fn solids_look_outward_and_are_closed() {
        let mut mesh = Mesh::default();
        mesh.block([1.0, 2.0, 3.0], [0.5, 0.2, 0.1], 0);
        assert_eq!((mesh.faces.len(), mesh.corners.len()), (6, 8));
        check(&mesh, [1.0, 2.0, 3.0]);

        for axis in 0..3 {
            let round = Turned {
                centre: [1.0, 2.0, 3.0],
                half: [0.5, 0.7, 0.2],
                axis,
                profile: &[[-1.0, 1.0], [1.0, 0.6]],
                sides: 12,
                caps: [true; 2],
            };
            let mut mesh = Mesh::default();
            mesh.turned(&round, 1);
            assert_eq!(mesh.faces.len(), 14);
            check(&mesh, round.centre);
            let mut mesh = Mesh::default();
            mesh.turned(&Turned { profile: &[[-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], sides: 8, caps: [false; 2], ..round }, 1);
            assert_eq!(mesh.faces.len(), 16);
            check(&mesh, round.centre);
        }
    }
}
