//! Rooms, walls and doors: one rectangle cut into rooms, walls with both their sides, doors that connect all rooms.

use super::{HouseSplit, draw};
use crate::{
    geometry::Vec2,
    schema::{Agent, House, Material, Metadata, Opening, Point, Room, Wall},
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Sides of a room, metres.
const LEAST_SIDE: f64 = 2.8;
/// A door's distance from the ends of its wall.
const DOOR_MARGIN: f64 = 0.25;
const DOORWAY_WIDEST: f64 = 1.2;

/// A rectangular room.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) number: u32,
    pub(super) kind: &'static str,
    pub(super) low: Vec2,
    pub(super) high: Vec2,
}

/// A straight piece of a room's rim: its ends, clockwise around the room, and the room on its other side.
#[derive(Clone, Debug)]
struct Side {
    room: usize,
    a: Vec2,
    b: Vec2,
    other: Option<usize>,
}

fn centimetres(value: f64) -> f64 {
    libm::round(value * 100.0) / 100.0
}

/// Cuts a rectangle into one to eight rooms.
pub(super) fn rooms(rng: &mut ChaCha8Rng) -> Vec<Plot> {
    let kinds: &[&str] = match rng.random_range(0..10) {
        0 => &["Kitchen"],
        1 => &["LivingRoom"],
        2 => &["Bedroom"],
        3 => &["Kitchen", "LivingRoom"],
        4 => &["Bedroom", "Bathroom"],
        5 => &["LivingRoom", "Bedroom"],
        6 => &["Kitchen", "LivingRoom", "Bedroom"],
        7 => &["Kitchen", "LivingRoom", "Bedroom", "Bathroom"],
        8 => &["LivingRoom", "Kitchen", "Bedroom", "Bathroom", "Bedroom", "LivingRoom"],
        _ => &["LivingRoom", "Kitchen", "Bedroom", "Bathroom", "Bedroom", "Bathroom", "Kitchen", "LivingRoom"],
    };
    let each = rng.random_range(13.0..22.0);
    let aspect = rng.random_range(0.75..1.35);
    let width = centimetres((each * kinds.len() as f64 * aspect).sqrt().max(3.4));
    let depth = centimetres((each * kinds.len() as f64 / width).max(3.4));
    let mut plots = vec![(Vec2 { x: 0.0, z: 0.0 }, Vec2 { x: width, z: depth })];
    while plots.len() < kinds.len() {
        let size = |plot: &(Vec2, Vec2)| (plot.1.x - plot.0.x) * (plot.1.z - plot.0.z);
        let largest = (0..plots.len()).max_by(|&one, &other| size(&plots[one]).total_cmp(&size(&plots[other]))).unwrap_or(0);
        let (low, high) = plots[largest];
        let share = rng.random_range(0.42..0.58);
        let (width, depth) = (high.x - low.x, high.z - low.z);
        let cut = |from: f64, length: f64| {
            centimetres(from + (length * share).clamp(LEAST_SIDE.min(length / 2.0), (length - LEAST_SIDE).max(length / 2.0)))
        };
        let (one, other) = if width >= depth {
            let at = cut(low.x, width);
            ((low, Vec2 { x: at, z: high.z }), (Vec2 { x: at, z: low.z }, high))
        } else {
            let at = cut(low.z, depth);
            ((low, Vec2 { x: high.x, z: at }), (Vec2 { x: low.x, z: at }, high))
        };
        plots[largest] = one;
        plots.push(other);
    }
    plots.into_iter().zip(kinds).zip(2..).map(|(((low, high), &kind), number)| Plot { number, kind, low, high }).collect()
}

fn point(at: Vec2, y: f64) -> Point {
    Point { x: at.x, y, z: at.z }
}

/// A room's corners, clockwise seen from above.
fn corners(plot: &Plot) -> [Vec2; 4] {
    let (low, high) = (plot.low, plot.high);
    [low, Vec2 { x: low.x, z: high.z }, high, Vec2 { x: high.x, z: low.z }]
}

/// The rims of all rooms, cut where the room on the other side changes.
fn sides(plots: &[Plot]) -> Vec<Side> {
    let mut sides = Vec::new();
    for (room, plot) in plots.iter().enumerate() {
        let rim = corners(plot);
        for corner in 0..4 {
            let (start, end) = (rim[corner], rim[(corner + 1) % 4]);
            let length = start.distance(end);
            let along = end.minus(start).times(1.0 / length);
            let mut cuts: Vec<f64> = plots
                .iter()
                .flat_map(corners)
                .filter(|other| other.minus(start).cross(along).abs() < 1e-6)
                .map(|other| other.minus(start).dot(along))
                .filter(|&at| at > 1e-6 && at < length - 1e-6)
                .chain([0.0, length])
                .collect();
            cuts.sort_by(f64::total_cmp);
            cuts.dedup_by(|one, other| (*one - *other).abs() < 1e-6);
            for pair in cuts.windows(2) {
                let (a, b) = (start.plus(along.times(pair[0])), start.plus(along.times(pair[1])));
                // To the left of a clockwise rim is outside.
                let outside = a.plus(b).times(0.5).plus(Vec2 { x: -along.z, z: along.x }.times(0.01));
                let other = plots.iter().position(|plot| {
                    outside.x > plot.low.x && outside.x < plot.high.x && outside.z > plot.low.z && outside.z < plot.high.z
                });
                let [a, b] = [a, b].map(|end| Vec2 { x: centimetres(end.x), z: centimetres(end.z) });
                sides.push(Side { room, a, b, other });
            }
        }
    }
    sides
}

fn name(owner: &str, a: Vec2, b: Vec2) -> String {
    format!("wall|{owner}|{:.2}|{:.2}|{:.2}|{:.2}", a.x.min(b.x), a.z.min(b.z), a.x.max(b.x), a.z.max(b.z))
}

impl Side {
    fn id(&self, plots: &[Plot]) -> String {
        name(&plots[self.room].number.to_string(), self.a, self.b)
    }

    /// The id of the same wall seen from the other side.
    fn other_id(&self, plots: &[Plot]) -> String {
        name(&self.other.map_or("exterior".into(), |other| plots[other].number.to_string()), self.a, self.b)
    }
}

/// The house without its objects.
pub(super) fn house(plots: &[Plot], split: HouseSplit, rng: &mut ChaCha8Rng) -> House {
    let height = centimetres(rng.random_range(2.5..3.6));
    let sides = sides(plots);
    let paint = Material::named(["Walldrywall4Tiled", "YellowPlaster", "PureWhite", "BrownDrywall"][rng.random_range(0..4)]);
    let rooms = plots.iter().map(|plot| Room {
        id: format!("room|{}", plot.number),
        kind: plot.kind.into(),
        floor: corners(plot).into_iter().map(|corner| point(corner, 0.0)).collect(),
        material: Material::named(["WoodFloor1", "LightWoodCounters 1", "DarkWoodFloors", "PureWhite"][rng.random_range(0..4)]),
        ..Room::default()
    });
    let rooms = rooms.collect();
    let mut walls = Vec::new();
    for side in &sides {
        let room = format!("room|{}", plots[side.room].number);
        let polygon = vec![point(side.a, 0.0), point(side.b, 0.0), point(side.a, height), point(side.b, height)];
        walls.push(Wall { id: side.id(plots), room: room.clone(), polygon, material: paint.clone(), empty: false, layer: None });
        if side.other.is_none() {
            let polygon = vec![point(side.b, height), point(side.a, height), point(side.b, 0.0), point(side.a, 0.0)];
            walls.push(Wall { id: side.other_id(plots), room, polygon, material: paint.clone(), empty: false, layer: None });
        }
    }
    let middle = plots[0].low.plus(plots[0].high).times(0.5);
    let agent = Agent { position: point(middle, 0.95), rotation: Point::default(), standing: true, horizon: 30.0 };
    House {
        rooms,
        walls,
        doors: doors(plots, &sides, split, rng),
        metadata: Metadata { agent: Some(agent), ..Metadata::default() },
        ..House::default()
    }
}

/// Doors that connect all rooms, now and then one more, and the one outer door.
fn doors(plots: &[Plot], sides: &[Side], split: HouseSplit, rng: &mut ChaCha8Rng) -> Vec<Opening> {
    let mut doors = Vec::new();
    let mut connected = vec![0];
    let wide = DOORWAY_WIDEST + 2.0 * DOOR_MARGIN;
    while connected.len() < plots.len() {
        let ways: Vec<&Side> = sides
            .iter()
            .filter(|side| {
                connected.contains(&side.room)
                    && side.other.is_some_and(|other| !connected.contains(&other))
                    && side.a.distance(side.b) >= wide
            })
            .collect();
        // A room without a wall long enough for a door stays apart, and the house is refused.
        let Some(&side) = (!ways.is_empty()).then(|| &ways[rng.random_range(0..ways.len())]) else { break };
        connected.extend(side.other);
        doors.push(door(plots, side, split, rng));
    }
    let more: Vec<&Side> = sides
        .iter()
        .filter(|side| side.other.is_some_and(|other| other > side.room) && side.a.distance(side.b) >= wide)
        .filter(|side| !doors.iter().any(|door| [&door.wall0, &door.wall1].contains(&&side.id(plots))))
        .collect();
    for side in more {
        if rng.random_bool(0.3) {
            doors.push(door(plots, side, split, rng));
        }
    }
    if let Some(side) = sides.iter().find(|side| side.other.is_none() && side.a.distance(side.b) >= wide) {
        doors.push(door(plots, side, split, rng));
    }
    doors
}

fn door(plots: &[Plot], side: &Side, split: HouseSplit, rng: &mut ChaCha8Rng) -> Opening {
    let frame = side.other.is_some() && rng.random_bool(0.2);
    let kind = if frame { "Doorframe" } else { "Doorway" };
    let asset = draw(kind, split, rng, |asset| asset.size[0] <= DOORWAY_WIDEST);
    let (id, size) = asset.map_or(("Doorway_2", [1.0, 2.07, 0.16]), |asset| (asset.id, asset.size));
    let from = centimetres(rng.random_range(DOOR_MARGIN..side.a.distance(side.b) - size[0] - DOOR_MARGIN));
    let rooms = [plots[side.room].number, side.other.map_or(plots[side.room].number, |other| plots[other].number)];
    let open = side.other.is_some();
    Opening {
        id: format!("door|{}|{}", rooms[0].min(rooms[1]), rooms[0].max(rooms[1])),
        room0: format!("room|{}", rooms[0]),
        room1: format!("room|{}", rooms[1]),
        wall0: side.id(plots),
        wall1: side.other_id(plots),
        asset: id.into(),
        hole: vec![Point { x: from, y: 0.0, z: 0.0 }, Point { x: from + size[0], y: size[1], z: 0.0 }],
        position: Point { x: from + size[0] / 2.0, y: size[1] / 2.0, z: 0.0 },
        openable: (!frame).then_some(open),
        openness: (!frame).then_some(if open { 1.0 } else { 0.0 }),
    }
}
