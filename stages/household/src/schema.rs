//! A ProcTHOR house, schema 1.0.0: metres and degrees, y up, x and z on the floor, yaw clockwise seen from above, 0 = +z.
//!
//! Every key that real houses of this version were seen to have. [`crate::parse`] reads them and says what is wrong; the
//! generator fills the same structs and serde writes them as JSON of the same schema.

use serde::Serialize;

/// The version of the schema that is read and written.
pub const VERSION: &str = "1.0.0";

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct House {
    pub rooms: Vec<Room>,
    pub walls: Vec<Wall>,
    pub doors: Vec<Opening>,
    pub windows: Vec<Opening>,
    pub objects: Vec<Object>,
    #[serde(rename = "proceduralParameters")]
    pub parameters: Parameters,
    pub metadata: Metadata,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub z: f64,
}

/// Red, green, blue in 0..=1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Color {
    pub r: f64,
    pub g: f64,
    pub b: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Material {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
}

impl Material {
    /// A material without paint.
    pub fn named(name: impl Into<String>) -> Material {
        Material { name: name.into(), color: None }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Room {
    /// `room|4`.
    pub id: String,
    /// Kitchen, LivingRoom, Bedroom, Bathroom.
    #[serde(rename = "roomType")]
    pub kind: String,
    #[serde(rename = "floorPolygon")]
    pub floor: Vec<Point>,
    #[serde(rename = "floorMaterial")]
    pub material: Material,
    /// Of this room alone; without any, the house's [`Parameters::ceiling_material`].
    pub ceilings: Vec<Material>,
    /// No house is known that has any.
    pub children: Vec<Object>,
    /// Which lights shine on it, `Procedural1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Wall {
    /// `wall|4|0.00|1.70|0.00|5.10`, or `wall|exterior|...`.
    pub id: String,
    #[serde(rename = "roomId")]
    pub room: String,
    /// Two bottom and two top vertices; inner walls list the bottom ones first, outer walls last.
    pub polygon: Vec<Point>,
    pub material: Material,
    /// True: no wall, an open passage.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
}

/// A door or a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Opening {
    pub id: String,
    pub room0: String,
    pub room1: String,
    /// The hole is given along `wall0`, from its first bottom vertex.
    pub wall0: String,
    pub wall1: String,
    #[serde(rename = "assetId")]
    pub asset: String,
    /// Two corners: x along the wall, y up.
    #[serde(rename = "holePolygon")]
    pub hole: Vec<Point>,
    #[serde(rename = "assetPosition")]
    pub position: Point,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openable: Option<bool>,
    /// 1: wide open. Door frames have none, and no leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openness: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Object {
    /// Unique in its house.
    pub id: String,
    #[serde(rename = "assetId")]
    pub asset: String,
    /// Given in houses with Objaverse assets.
    #[serde(rename = "objectType", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Centre of the bounding box.
    pub position: Point,
    pub rotation: Point,
    pub kinematic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// 1: wide open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openness: Option<f64>,
    #[serde(rename = "isOn", skip_serializing_if = "Option::is_none")]
    pub on: Option<bool>,
    #[serde(rename = "isDirty", skip_serializing_if = "Option::is_none")]
    pub dirty: Option<bool>,
    /// What stands on it or lies in it, in world coordinates; one level only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Object>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    pub floor_collider_thickness: f64,
    pub receptacle_height: f64,
    pub skybox_id: String,
    pub ceiling_material: Material,
    pub lights: Vec<Light>,
    /// No house is known that has any.
    pub reflections: Vec<Material>,
}

/// A sun or a lamp.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Light {
    pub id: String,
    /// directional, point.
    #[serde(rename = "type")]
    pub kind: String,
    pub position: Point,
    /// Of directional ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Point>,
    pub intensity: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub indirect_multiplier: Option<f64>,
    /// Of point ones, metres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<f64>,
    pub rgb: Color,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// Layers that it does not shine on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub culling_mask_off: Vec<String>,
}

/// How the engine draws a light's shadows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shadow {
    #[serde(rename = "type")]
    pub kind: String,
    pub strength: f64,
    pub normal_bias: f64,
    pub bias: f64,
    pub near_plane: f64,
    pub resolution: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Parameters {
            floor_collider_thickness: 1.0,
            receptacle_height: 0.7,
            skybox_id: "SkyAlbany".into(),
            ceiling_material: Material::named("PureWhite"),
            lights: Vec::new(),
            reflections: Vec::new(),
        }
    }
}

/// Where the agent stands at first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agent {
    pub position: Point,
    pub rotation: Point,
    pub standing: bool,
    pub horizon: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metadata {
    pub schema: String,
    /// Which list of rooms the house was grown from, `2-bed-1-bath`.
    #[serde(rename = "roomSpecId", skip_serializing_if = "Option::is_none")]
    pub room_spec: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
}

impl Default for Metadata {
    fn default() -> Self {
        Metadata { schema: VERSION.into(), room_spec: None, agent: None }
    }
}

impl House {
    /// The house as JSON of schema 1.0.0.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a house has string keys and finite numbers only")
    }

    /// Objects and what stands on them.
    pub fn all_objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().flat_map(|object| std::iter::once(object).chain(&object.children))
    }
}
