//! A compiled house: what a stepper needs to live in it, and no more.

use crate::{
    error::Error,
    geometry::{Vec2, inside, rim_distance, vec2},
};
use serde::{Deserialize, Serialize};

/// Rises when the bytes of a scene change their meaning.
const VERSION: u8 = 2;

/// A house as walls, boxes and rooms. Lengths in metres, f32 to be small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    version: u8,
    pub rooms: Vec<Room>,
    pub walls: Vec<Wall>,
    pub doors: Vec<Door>,
    pub things: Vec<Thing>,
    pub lights: Vec<Light>,
    /// How many objects got a default size, since their assets are not in the table.
    pub assumed: u32,
}

/// What a surface is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Material {
    /// The house's own name, `PureWhite`; empty where it gives none.
    pub name: String,
    /// Paint over it: red, green, blue in 0..=1.
    pub color: Option<[f32; 3]>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Room {
    /// `room|4`.
    pub id: String,
    /// `Kitchen`.
    pub kind: String,
    /// Corners, x and z, clockwise seen from above.
    pub floor: Vec<[f32; 2]>,
    pub floor_material: Material,
    pub ceiling_material: Material,
    /// Of the ceiling above the floor.
    pub height: f32,
}

/// One side of a wall without thickness, from `a` to `b` (x, z). The side that it shows is to the right of `a` to `b`.
///
/// A wall between two rooms is here twice, once for each room, in opposite directions and with the same holes; an outer
/// wall is here once for its room and once for the outside. Open passages have no wall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wall {
    pub a: [f32; 2],
    pub b: [f32; 2],
    pub height: f32,
    /// The room that it shows its side to, a position in [`Scene::rooms`]; [`EXTERIOR`]: the outside.
    pub room: u16,
    pub material: Material,
    /// Doors and windows in it.
    pub holes: Vec<Hole>,
}

/// [`Wall::room`] of the outer sides.
pub const EXTERIOR: u16 = u16::MAX;

/// What fills a hole in a wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HoleKind {
    /// A leaf on hinges, open or shut.
    Door,
    /// Glass.
    Window,
    /// A door frame without a leaf.
    Frame,
}

/// A door or a window in a wall.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hole {
    /// Distances from the wall's `a`.
    pub from: f32,
    pub to: f32,
    /// Heights above the floor.
    pub low: f32,
    pub high: f32,
    pub kind: HoleKind,
    /// `Doorway_2`.
    pub asset: String,
    /// 0: shut, 1: wide open. Frames are 1, windows and outer doors 0.
    pub openness: f32,
}

impl Hole {
    /// Whether a body of the right size can go through.
    pub fn passable(&self) -> bool {
        self.kind != HoleKind::Window && self.openness > 0.5
    }

    /// Whether light goes through.
    pub fn see_through(&self) -> bool {
        self.kind == HoleKind::Window || self.openness > 0.5
    }
}

/// The middle of an open door between two rooms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Door {
    pub at: [f32; 2],
    /// Positions in [`Scene::rooms`].
    pub rooms: [u16; 2],
}

/// Where the house's light comes from. Intensities are the house's own, 1 the usual sun; colours in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Light {
    /// From everywhere along one direction.
    Directional {
        /// Pitch (down positive), yaw and roll of the direction in which it shines, degrees.
        rotation: [f32; 3],
        intensity: f32,
        rgb: [f32; 3],
    },
    /// A lamp in a room.
    Point {
        at: [f32; 3],
        /// How far it shines, metres.
        range: f32,
        intensity: f32,
        rgb: [f32; 3],
    },
}

/// An object of the house.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thing {
    /// The house's own id, `AlarmClock|4|5`.
    pub id: String,
    /// `Mug`.
    pub kind: String,
    /// `Mug_2`: which mug. Looks come from it.
    pub asset: String,
    /// What it stands on or lies in: a position in [`Scene::things`].
    pub parent: Option<u16>,
    /// The room its centre is in: a position in [`Scene::rooms`].
    pub room: u16,
    /// Centre of its box: x, y, z.
    pub centre: [f32; 3],
    /// Sides of the upright box around it, before it is turned by `yaw`: x, y, z.
    pub size: [f32; 3],
    /// Degrees clockwise.
    pub yaw: f32,
    /// Given where it does not stand upright.
    pub tilt: Option<Tilt>,
    /// Kilograms; 0: fixed to the house.
    pub kg: f32,
    pub pickupable: bool,
    /// Other objects can stand on it or lie in it.
    pub receptacle: bool,
    /// 0: shut, 1: wide open; 0 also for what has nothing to open.
    pub openness: f32,
    /// A lamp or a screen that is switched on.
    pub on: bool,
    /// Stops the base, and the arm up to `solid_top`.
    pub blocks: bool,
    /// Hides what is behind it, up to `solid_top`.
    pub opaque: bool,
    /// Height above the floor up to which its box is solid: the seat of a sofa, the top of a table.
    pub solid_top: f32,
}

/// How a thing lies that does not stand upright. It is rolled first, then pitched, then turned by its yaw.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tilt {
    /// Degrees about its x axis, and about its z axis.
    pub pitch: f32,
    pub roll: f32,
    /// Sides of the asset's own box, before it is tilted.
    pub size: [f32; 3],
}

/// A rotation: rows of the matrix that takes a thing's own axes to the house's.
pub type Rotation = [[f64; 3]; 3];

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

    /// Sides of the asset's own box: what [`crate::shape::parts`] wants.
    pub fn own_size(&self) -> [f64; 3] {
        self.tilt.map_or(self.size, |tilt| tilt.size).map(f64::from)
    }

    /// Takes a direction of the asset's own frame to the house's.
    pub fn rotation(&self) -> Rotation {
        let tilted = self.tilt.map_or(UPRIGHT, |tilt| tilted(f64::from(tilt.pitch), f64::from(tilt.roll)));
        let (sin, cos) = sin_cos(f64::from(self.yaw));
        product([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]], tilted)
    }
}

const UPRIGHT: Rotation = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

fn sin_cos(degrees: f64) -> (f64, f64) {
    libm::sincos(degrees.to_radians())
}

fn product(one: Rotation, other: Rotation) -> Rotation {
    one.map(|row| [0, 1, 2].map(|column| (0..3).map(|inner| row[inner] * other[inner][column]).sum()))
}

/// Roll about z, then pitch about x, in a left-handed frame as Unity's.
pub(crate) fn tilted(pitch: f64, roll: f64) -> Rotation {
    let ((pitch_sin, pitch_cos), (roll_sin, roll_cos)) = (sin_cos(pitch), sin_cos(roll));
    let pitched = [[1.0, 0.0, 0.0], [0.0, pitch_cos, -pitch_sin], [0.0, pitch_sin, pitch_cos]];
    let rolled = [[roll_cos, -roll_sin, 0.0], [roll_sin, roll_cos, 0.0], [0.0, 0.0, 1.0]];
    product(pitched, rolled)
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
    /// A scene with nothing in it.
    pub(crate) fn empty() -> Scene {
        Scene {
            version: VERSION,
            rooms: Vec::new(),
            walls: Vec::new(),
            doors: Vec::new(),
            things: Vec::new(),
            lights: Vec::new(),
            assumed: 0,
        }
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
