//! What an asset is made of: a handful of simple bodies by its type, and the surfaces that things stand on.
//!
//! In: a type, an asset's id and the sides of its box. Out: [`Part`]s in the asset's own frame, whose union fills that box
//! exactly. Shapes tell a type; proportions within a type (a handle or none, how thick the legs, how wide the neck) are
//! drawn from a hash of the asset's id, so that two mugs differ and the same mug looks the same everywhere. Unknown types
//! are a box. Front is +z, the back that stands against a wall is -z.

mod build;
mod fixtures;
mod furniture;
mod items;
mod tableware;

use build::Builder;

/// The body itself.
pub const BODY: u8 = 0;
/// Legs, handles, rims, frames.
pub const TRIM: u8 = 1;
/// Openings, screens, the inside of vessels.
pub const DARK: u8 = 2;
/// Leaves, pillows, labels, lamp shades.
pub const ACCENT: u8 = 3;

/// An axis of the asset's own frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    X,
    Y,
    Z,
}

/// A simple body that fills its part's box.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Box,
    /// Elliptic where the two sides across its axis differ.
    Cylinder {
        axis: Axis,
    },
    Ellipsoid,
    /// Upright: its radii at the bottom and at the top as shares of the half sides; the larger is 1, 0 makes a cone.
    Frustum {
        bottom: f64,
        top: f64,
    },
}

/// A body of a shape. Metres in the asset's own frame: origin at the centre of its box, y up, front +z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    pub centre: [f64; 3],
    /// Half of its box's sides.
    pub half: [f64; 3],
    pub form: Form,
    /// Which of the asset's colours: [`BODY`], [`TRIM`], [`DARK`], [`ACCENT`].
    pub slot: u8,
    /// Whether one bumps into it; leaves, curtains and painted-on openings one does not.
    pub solid: bool,
}

/// A level rectangle that things stand on, in the asset's own frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surface {
    /// Above the box's centre, metres.
    pub height: f64,
    /// x and z of its middle.
    pub centre: [f64; 2],
    pub half_x: f64,
    pub half_z: f64,
    /// Free height above it, up to the next board; [`OPEN`] where nothing is above.
    pub clear: f64,
}

/// [`Surface::clear`] of a surface with nothing above it.
pub const OPEN: f64 = 10.0;

/// The bodies and surfaces of an asset.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// At least one.
    pub parts: Vec<Part>,
    /// Highest first; empty where nothing is meant to stand on it.
    pub surfaces: Vec<Surface>,
}

/// The shape of an asset of a type with a box of these sides (x, y, z in metres).
pub fn shape(kind: &str, asset: &str, size: [f64; 3]) -> Shape {
    let mut builder = Builder::new(asset, size);
    let known = furniture::build(kind, asset, &mut builder)
        || fixtures::build(kind, &mut builder)
        || tableware::build(kind, asset, &mut builder)
        || items::build(kind, asset, &mut builder);
    if !known {
        builder.boxy((0.0, 1.0), (0.0, 1.0), (0.0, 1.0), BODY);
    }
    builder.finish()
}

/// The bodies of an asset.
pub fn parts(kind: &str, asset: &str, size: [f64; 3]) -> Vec<Part> {
    shape(kind, asset, size).parts
}

/// Where things stand on an asset.
pub fn surfaces(kind: &str, asset: &str, size: [f64; 3]) -> Vec<Surface> {
    shape(kind, asset, size).surfaces
}

#[cfg(test)]
mod tests;
