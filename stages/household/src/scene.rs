//! A compiled house: what a stepper needs to live in it, and no more.

use crate::{
    error::Error,
    geometry::{Vec2, inside, rim_distance, vec2},
};
use serde::{Deserialize, Serialize};

/// Rises when the bytes of a scene change their meaning.
const VERSION: u8 = 1;

/// A house as walls, boxes and rooms. Lengths in metres, f32 to be small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    version: u8,
    pub rooms: Vec<Room>,
    pub walls: Vec<Wall>,
    pub doors: Vec<Door>,
    pub things: Vec<Thing>,
    /// How many objects got a default size, since their assets are not in the table.
    pub assumed: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// `room|4`.
    pub id: String,
    /// `Kitchen`.
    pub kind: String,
    /// Corners, x and z.
    pub floor: Vec<[f32; 2]>,
}

/// A wall without thickness, from `a` to `b` (x, z).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wall {
    pub a: [f32; 2],
    pub b: [f32; 2],
    pub height: f32,
    /// Holes that one can go or see through.
    pub holes: Vec<Hole>,
}

/// An open door in a wall.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hole {
    /// Distances from the wall's `a`.
    pub from: f32,
    pub to: f32,
    pub low: f32,
    pub high: f32,
}

/// The middle of an open door between two rooms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Door {
    pub at: [f32; 2],
    /// Positions in [`Scene::rooms`].
    pub rooms: [u16; 2],
}

/// An object of the house.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thing {
    /// The house's own id, `AlarmClock|4|5`.
    pub id: String,
    /// `Mug`.
    pub kind: String,
    /// What it stands on or lies in: a position in [`Scene::things`].
    pub parent: Option<u16>,
    /// The room its centre is in: a position in [`Scene::rooms`].
    pub room: u16,
    /// Centre of its box: x, y, z.
    pub centre: [f32; 3],
    /// Sides of its box at yaw 0: x, y, z.
    pub size: [f32; 3],
    /// Degrees clockwise.
    pub yaw: f32,
    pub pickupable: bool,
    /// Stops the base, and the arm up to `solid_top`.
    pub blocks: bool,
    /// Hides what is behind it, up to `solid_top`.
    pub opaque: bool,
    /// Height above the floor up to which its box is solid: the seat of a sofa, the top of a table.
    pub solid_top: f32,
}

impl Thing {
    pub fn low(&self) -> f64 {
        f64::from(self.centre[1]) - f64::from(self.size[1]) / 2.0
    }

    pub fn high(&self) -> f64 {
        f64::from(self.centre[1]) + f64::from(self.size[1]) / 2.0
    }

    pub fn floor_centre(&self) -> Vec2 {
        vec2(f64::from(self.centre[0]), f64::from(self.centre[2]))
    }
}

impl Room {
    pub fn polygon(&self) -> Vec<Vec2> {
        self.floor.iter().map(|&corner| at(corner)).collect()
    }
}

/// Two stored coordinates as a point.
pub fn at(corner: [f32; 2]) -> Vec2 {
    vec2(f64::from(corner[0]), f64::from(corner[1]))
}

impl Scene {
    pub(crate) fn new(rooms: Vec<Room>, walls: Vec<Wall>, doors: Vec<Door>, things: Vec<Thing>, assumed: u32) -> Scene {
        Scene { version: VERSION, rooms, walls, doors, things, assumed }
    }

    /// The scene as bytes; equal scenes give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("a scene holds plain numbers and texts")
    }

    /// # Errors
    /// The bytes are no scene, or one of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Scene, Error> {
        let scene: Scene =
            rmp_serde::from_slice(bytes).map_err(|error| Error::Scene { what: format!("compiled scene cannot be read: {error}") })?;
        if scene.version != VERSION {
            return Err(Error::Scene { what: format!("compiled scene has version {}, this program reads {VERSION}", scene.version) });
        }
        Ok(scene)
    }
}

/// The first polygon that holds a point, or the nearest one.
pub(crate) fn room_of(polygons: &[Vec<Vec2>], point: Vec2) -> usize {
    polygons.iter().position(|polygon| inside(polygon, point)).unwrap_or_else(|| {
        let far = |index: &usize| rim_distance(&polygons[*index], point);
        (0..polygons.len()).min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(0)
    })
}
