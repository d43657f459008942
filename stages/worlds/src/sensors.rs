//! What a robot's sensors hold at one moment: what a dataset for imitation keeps beside pictures and actions.

use serde::Serialize;

/// Columns and rows of the pictures in whose pixels [`Sensors::boxes`] are given, whatever is rendered.
pub const BOX_PIXELS: (u32, u32) = (384, 224);

/// The sensors of a world with a body. Lengths in metres, angles in degrees.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sensors {
    /// The pivot's x, y, z, and the body's rotations about x, y, z.
    pub agent: [f64; 6],
    /// The wrist's x (outward), y (the hand's height) and z in the robot's frame, and the wrist's yaw.
    pub arm: [f64; 4],
    /// Ids of the things in the hand.
    pub held: Vec<String>,
    /// From the pivot to the centre of the nearest target, in space; -1 where the task has none.
    pub target_distance: f64,
    /// The least angle between straight ahead and a target that either camera shows; -1: none is shown.
    pub target_alignment: f64,
    /// Targets that the navigation camera shows within four metres.
    pub targets_near: u32,
    /// `done` would be success.
    pub would_succeed: bool,
    /// The id of the room that the robot is in, and its kind.
    pub room: String,
    pub room_kind: String,
    /// Rooms claimed so far, and whether this one is among them.
    pub rooms_seen: u32,
    pub room_seen: bool,
    /// Ids of the targets.
    pub targets: Vec<String>,
    /// For the navigation and the manipulation camera, for each target: least and greatest row, least and greatest column of
    /// its upright box in the picture, by [`BOX_PIXELS`]; `None` where it is not visible.
    pub boxes: [Vec<Option<[f32; 4]>>; 2],
}
