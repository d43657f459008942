//! A house made ready to be drawn: surfaces by room, things as meshes with paints, lights worked in.
//!
//! In: a scene and a [`Look`]. Out: a [`Model`], to be shared by all that draw this house with this look. Meshes are shared by
//! all houses of a process.

use crate::{
    light::Lights,
    look::{Look, Paint},
    mesh::Mesh,
    optics::Vec3,
    solids::{self, Solid},
    walls::{Shell, shells},
};
use household::scene::{Scene, Thing};
use std::sync::Arc;

/// A thing's place: its middle, and its own axes in the house.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    pub origin: Vec3,
    pub axes: [Vec3; 3],
}

impl Pose {
    /// Where the house stands.
    pub(crate) const HOUSE: Pose = Pose { origin: [0.0; 3], axes: [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] };

    /// Upright, turned clockwise by degrees.
    pub(crate) fn upright(origin: Vec3, yaw: f64) -> Pose {
        let (sin, cos) = libm::sincos(yaw.to_radians());
        let (sin, cos) = (sin as f32, cos as f32);
        Pose { origin, axes: [[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]] }
    }

    /// Where the scene has a thing.
    pub(crate) fn of(thing: &Thing) -> Pose {
        let rows = thing.rotation();
        Pose { origin: thing.centre, axes: [0, 1, 2].map(|column| [0, 1, 2].map(|row| rows[row][column] as f32)) }
    }
}

/// A lit colour pattern of a part, before light.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coat {
    pub(crate) figure: u8,
    pub(crate) texels: f32,
    pub(crate) dark: Vec3,
    pub(crate) step: Vec3,
}

impl From<Paint> for Coat {
    fn from(paint: Paint) -> Coat {
        let step = [0, 1, 2].map(|c| (paint.light[c] - paint.dark[c]) / 255.0);
        Coat { figure: paint.figure as u8, texels: paint.texels, dark: paint.dark, step }
    }
}

/// A mesh that stands somewhere.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) solid: Arc<Solid>,
    pub(crate) coats: Vec<Coat>,
    pub(crate) pose: Pose,
    pub(crate) room: u16,
}

/// A house to be drawn.
pub struct Model {
    pub(crate) rooms: Vec<Shell>,
    /// The scene's things, in its order.
    pub(crate) things: Vec<Body>,
    /// Frames of doors and windows, by room.
    pub(crate) trims: Vec<Vec<Body>>,
    pub(crate) lights: Lights,
}

impl Model {
    pub fn new(scene: &Scene, look: &Look) -> Model {
        let lights = Lights::new(scene, look);
        let things: Vec<Body> = scene.things.iter().map(|thing| body(thing, look)).collect();
        let trims = crate::trim::trims(scene, look);
        Model { rooms: shells(scene, look, &lights), things, trims, lights }
    }

    /// The room that a floor point is in, or the nearest to it by a corner.
    pub(crate) fn room_at(&self, point: [f32; 2]) -> usize {
        self.rooms.iter().position(|room| room.holds(point)).unwrap_or_else(|| {
            let far = |room: &Shell| {
                let square =
                    |corner: &[f32; 2]| (corner[0] - point[0]) * (corner[0] - point[0]) + (corner[1] - point[1]) * (corner[1] - point[1]);
                room.polygon.iter().map(square).fold(f32::MAX, f32::min)
            };
            (0..self.rooms.len()).min_by(|one, other| far(&self.rooms[*one]).total_cmp(&far(&self.rooms[*other]))).unwrap_or(0)
        })
    }
}

fn body(thing: &Thing, look: &Look) -> Body {
    let solid = solids::of(&thing.kind, &thing.asset, thing.own_size());
    let coats = (0..solid.slots).map(|slot| look.object(&thing.asset, slot).into()).collect();
    Body { solid, coats, pose: Pose::of(thing), room: thing.room }
}

impl Body {
    /// A mesh of the house's own axes.
    pub(crate) fn fixed(mesh: Mesh, coats: Vec<Coat>, room: u16) -> Body {
        Body { solid: Arc::new(Solid::plain(mesh)), coats, pose: Pose::HOUSE, room }
    }
}
