//! A floor plan as rooms, walls, doors, windows and lights of the schema.

use super::{
    HouseSplit, draw,
    plan::{Edge, Plan},
};
use crate::{
    geometry::{Vec2, area, vec2},
    schema::{Agent, Color, House, Light, Material, Metadata, Opening, Parameters, Point, Room, Shadow, Wall},
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// A hole's least distance from the ends of its wall, metres.
const MARGIN: f64 = 0.2;
/// The first room's number, as houses of this schema count.
pub(super) const FIRST: usize = 2;

const WALLS: [&str; 12] = [
    "PureWhite",
    "Porcelain_Off_White_Mat",
    "marbleBase2",
    "DarkTiles",
    "SubwayTilesAO",
    "DrywallBeige",
    "SmallKitchenTiles",
    "WhileMarbleTiles",
    "Walldrywall4Tiled",
    "EggshellDrywall 3",
    "WhiteGraniteClean",
    "Beams",
];
const FLOORS: [&str; 12] = [
    "Wicker",
    "WoodGrain_Brown",
    "LightWoodCounters",
    "LightWoodCounters3",
    "Cream_wood",
    "DarkWood2",
    "OrangeCabinet 1",
    "WhiteWood",
    "WoodGrains",
    "SMOOTHWOODWood3",
    "BedroomFloor1",
    "GreyFloor",
];
const SKIES: [&str; 6] = ["SkyAlbanyHill", "SkySunset", "SkySFCityHall", "SkyGarden", "SkyAlbany", "SkySnow"];

pub(super) fn millimetres(value: f64) -> f64 {
    libm::round(value * 1000.0) / 1000.0
}

impl Plan {
    /// A grid corner on the floor, to the millimetre.
    pub(super) fn point(&self, corner: (usize, usize)) -> Vec2 {
        vec2(millimetres(corner.0 as f64 * self.cell), millimetres(corner.1 as f64 * self.cell))
    }

    pub(super) fn ends(&self, edge: &Edge) -> (Vec2, Vec2) {
        (self.point(edge.a), self.point(edge.b))
    }

    fn length(&self, edge: &Edge) -> f64 {
        let (a, b) = self.ends(edge);
        a.distance(b)
    }

    fn id(&self, owner: Option<usize>, edge: &Edge) -> String {
        let (a, b) = self.ends(edge);
        let owner = owner.map_or("exterior".to_owned(), |room| (room + FIRST).to_string());
        format!("wall|{owner}|{:.2}|{:.2}|{:.2}|{:.2}", a.x.min(b.x), a.z.min(b.z), a.x.max(b.x), a.z.max(b.z))
    }

    /// The same stretch as the room beyond it has it.
    pub(super) fn corners(&self, room: usize) -> Vec<Vec2> {
        self.rims[room].iter().map(|edge| self.point(edge.a)).collect()
    }
}

/// How two rooms are joined.
pub(super) struct Joint {
    pub(super) rooms: [usize; 2],
    /// All walls between them are left out.
    pub(super) open: bool,
}

fn point(at: Vec2, y: f64) -> Point {
    Point { x: at.x, y, z: at.z }
}

/// The house without its objects.
pub(super) fn house(plan: &Plan, split: HouseSplit, rng: &mut ChaCha8Rng) -> Option<House> {
    let joints = joints(plan, rng)?;
    let mut house = House {
        rooms: rooms(plan, rng),
        metadata: Metadata { room_spec: Some(plan.spec.name.into()), ..Metadata::default() },
        ..House::default()
    };
    let height = millimetres(2.53 + 2.6 * rng.random_range(0.0..1.0_f64).powi(2));
    walls(&mut house, plan, &joints, height, rng);
    doors(&mut house, plan, &joints, split, rng)?;
    windows(&mut house, plan, split, rng);
    house.parameters = parameters(plan, height, rng);
    house.metadata.agent =
        Some(Agent { position: point(plan.corners(0)[0], 0.95), rotation: Point::default(), standing: true, horizon: 30.0 });
    Some(house)
}

fn rooms(plan: &Plan, rng: &mut ChaCha8Rng) -> Vec<Room> {
    let shared = rng.random_bool(0.15).then(|| FLOORS[rng.random_range(0..FLOORS.len())]);
    let room = |(number, &kind): (usize, &&str)| Room {
        id: format!("room|{}", number + FIRST),
        kind: kind.into(),
        floor: plan.corners(number).into_iter().map(|corner| point(corner, 0.0)).collect(),
        material: Material::named(shared.unwrap_or_else(|| FLOORS[rng.random_range(0..FLOORS.len())])),
        ..Room::default()
    };
    plan.spec.kinds.iter().enumerate().map(room).collect()
}

/// A paint or a covering for a room's walls; half of them are painted.
fn covering(rng: &mut ChaCha8Rng) -> Material {
    if rng.random_bool(0.5) {
        return Material::named(WALLS[rng.random_range(0..WALLS.len())]);
    }
    let mut shade = || f64::from(rng.random_range(95_u32..=240)) / 255.0;
    let color = Color { r: shade(), g: shade(), b: shade() };
    Material { name: "PureWhite".into(), color: Some(color) }
}

fn walls(house: &mut House, plan: &Plan, joints: &[Joint], height: f64, rng: &mut ChaCha8Rng) {
    let outer = covering(rng);
    let shared = rng.random_bool(0.2).then(|| covering(rng));
    for (room, rim) in plan.rims.iter().enumerate() {
        let material = shared.clone().unwrap_or_else(|| covering(rng));
        let owner = format!("room|{}", room + FIRST);
        for edge in rim {
            let (a, b) = plan.ends(edge);
            let polygon = vec![point(a, 0.0), point(b, 0.0), point(a, height), point(b, height)];
            let empty = edge
                .other
                .is_some_and(|other| joints.iter().any(|joint| joint.open && joint.rooms.contains(&room) && joint.rooms.contains(&other)));
            let (id, layer) = (plan.id(Some(room), edge), None);
            house.walls.push(Wall { id, room: owner.clone(), polygon, material: material.clone(), empty, layer: layer.clone() });
            if edge.other.is_none() {
                let polygon = vec![point(b, height), point(a, height), point(b, 0.0), point(a, 0.0)];
                let id = plan.id(None, edge);
                house.walls.push(Wall { id, room: owner.clone(), polygon, material: outer.clone(), empty: false, layer });
            }
        }
    }
}

/// A tree over all rooms: kitchens with living rooms first, bathrooms at the ends where that is possible.
fn joints(plan: &Plan, rng: &mut ChaCha8Rng) -> Option<Vec<Joint>> {
    let kinds = plan.spec.kinds;
    let mut pairs: Vec<(f64, usize, usize)> = Vec::new();
    for (room, rim) in plan.rims.iter().enumerate() {
        for other in room + 1..kinds.len() {
            if !rim.iter().any(|edge| edge.other == Some(other) && plan.length(edge) >= 1.2) {
                continue;
            }
            let social = |kind: &str| kind == "Kitchen" || kind == "LivingRoom";
            let baths = [kinds[room], kinds[other]].iter().filter(|&&kind| kind == "Bathroom").count();
            let cost = if social(kinds[room]) && social(kinds[other]) { 0.0 } else { 1.0 + 2.0 * baths as f64 };
            pairs.push((cost + rng.random_range(0.0..0.9), room, other));
        }
    }
    pairs.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut group: Vec<usize> = (0..kinds.len()).collect();
    let mut joints = Vec::new();
    for (_, room, other) in pairs {
        let (one, two) = (group[room], group[other]);
        if one == two {
            continue;
        }
        group.iter_mut().filter(|number| **number == two).for_each(|number| *number = one);
        let kitchen = [kinds[room], kinds[other]].contains(&"Kitchen") && [kinds[room], kinds[other]].contains(&"LivingRoom");
        joints.push(Joint { rooms: [room, other], open: kitchen && rng.random_bool(0.55) });
    }
    (joints.len() + 1 == kinds.len()).then_some(joints)
}

fn doors(house: &mut House, plan: &Plan, joints: &[Joint], split: HouseSplit, rng: &mut ChaCha8Rng) -> Option<()> {
    for joint in joints.iter().filter(|joint| !joint.open) {
        let [room, other] = joint.rooms;
        let ways: Vec<&Edge> = plan.rims[room].iter().filter(|edge| edge.other == Some(other) && plan.length(edge) >= 1.2).collect();
        let edge = ways[rng.random_range(0..ways.len())];
        let door = door(plan, room, edge, split, rng)?;
        house.doors.push(door);
    }
    let outer: Vec<(usize, &Edge)> = outer_edges(plan).filter(|(_, edge)| plan.length(edge) >= 1.5).collect();
    if !outer.is_empty() {
        let (room, edge) = outer[rng.random_range(0..outer.len())];
        let door = door(plan, room, edge, split, rng)?;
        house.doors.push(door);
    }
    Some(())
}

fn outer_edges(plan: &Plan) -> impl Iterator<Item = (usize, &Edge)> {
    plan.rims.iter().enumerate().flat_map(|(room, rim)| rim.iter().filter(|edge| edge.other.is_none()).map(move |edge| (room, edge)))
}

fn door(plan: &Plan, room: usize, edge: &Edge, split: HouseSplit, rng: &mut ChaCha8Rng) -> Option<Opening> {
    let length = plan.length(edge);
    let frame = edge.other.is_some() && rng.random_bool(0.1);
    let asset = draw(if frame { "Doorframe" } else { "Doorway" }, split, rng, |asset| asset.size[0] <= length - 0.25)?;
    let opening = opening(plan, room, edge, asset.id, [asset.size[0], asset.size[1]], 0.0, rng);
    let rooms = [room, edge.other.unwrap_or(room)].map(|room| room + FIRST);
    let open = edge.other.is_some();
    Some(Opening {
        id: format!("door|{}|{}", rooms[0].min(rooms[1]), rooms[0].max(rooms[1])),
        openable: (!frame).then_some(open),
        openness: (!frame).then_some(if open { 1.0 } else { 0.0 }),
        ..opening
    })
}

fn opening(plan: &Plan, room: usize, edge: &Edge, asset: &str, size: [f64; 2], low: f64, rng: &mut ChaCha8Rng) -> Opening {
    let slack = plan.length(edge) - size[0];
    let margin = MARGIN.min(slack / 2.0 - 1e-3).max(0.0);
    let from = millimetres(rng.random_range(margin..(slack - margin).max(margin + 1e-3)));
    Opening {
        room0: format!("room|{}", room + FIRST),
        room1: format!("room|{}", edge.other.unwrap_or(room) + FIRST),
        wall0: plan.id(Some(room), edge),
        wall1: plan.id(edge.other, edge),
        asset: asset.into(),
        hole: vec![Point { x: from, y: low, z: 0.0 }, Point { x: from + size[0], y: low + size[1], z: 0.0 }],
        position: Point { x: from + size[0] / 2.0, y: low + size[1] / 2.0, z: 0.0 },
        ..Opening::default()
    }
}

/// One or two windows a room, where outer walls without the door are wide enough.
fn windows(house: &mut House, plan: &Plan, split: HouseSplit, rng: &mut ChaCha8Rng) {
    let small = plan.spec.kinds.len() <= 4;
    for room in 0..plan.rims.len() {
        let tries = if small { 2 } else { 1 };
        let mut taken: Vec<String> = house.doors.iter().map(|door| door.wall0.clone()).collect();
        for number in 0..tries {
            let edges: Vec<&Edge> = plan.rims[room]
                .iter()
                .filter(|edge| edge.other.is_none() && plan.length(edge) >= 1.0 && !taken.contains(&plan.id(Some(room), edge)))
                .collect();
            if edges.is_empty() || rng.random_bool(0.35) {
                continue;
            }
            let edge = edges[rng.random_range(0..edges.len())];
            let most = plan.length(edge) - 0.1;
            let Some(asset) = draw("Window", split, rng, |asset| asset.size[0] <= most && asset.size[1] <= 1.7) else { continue };
            let low = millimetres((1.5 - asset.size[1] / 2.0).max(0.4));
            let window = opening(plan, room, edge, asset.id, [asset.size[0], asset.size[1]], low, rng);
            taken.push(window.wall0.clone());
            house.windows.push(Opening { id: format!("window|{}|{number}", room + FIRST), ..window });
        }
    }
}

fn parameters(plan: &Plan, height: f64, rng: &mut ChaCha8Rng) -> Parameters {
    let shadow = |bias| Shadow {
        kind: "Soft".into(),
        strength: 1.0,
        normal_bias: 0.0,
        bias,
        near_plane: 0.2,
        resolution: "FromQualitySettings".into(),
    };
    let evening = rng.random_bool(0.25);
    let sun = Light {
        id: "DirectionalLight".into(),
        kind: "directional".into(),
        position: Point { x: 0.84, y: 0.1855, z: -1.09 },
        rotation: Some(Point { x: if evening { 6.0 } else { 66.0 }, y: if evening { -166.0 } else { 75.0 }, z: 0.0 }),
        intensity: 1.0,
        indirect_multiplier: Some(1.0),
        rgb: if evening { Color { r: 1.0, g: 0.694, b: 0.78 } } else { Color { r: 1.0, g: 1.0, b: 1.0 } },
        shadow: Some(shadow(0.0)),
        ..Light::default()
    };
    let lamps = (0..plan.rims.len()).map(|room| Light {
        id: format!("light_{}", room + FIRST),
        kind: "point".into(),
        position: point(centroid(&plan.corners(room)), height - 0.2),
        intensity: 0.75,
        range: Some(15.0),
        rgb: Color { r: 1.0, g: 0.855, b: 0.722 },
        shadow: Some(shadow(0.05)),
        ..Light::default()
    });
    let lights = std::iter::once(sun).chain(lamps).collect();
    let ceiling_material = if rng.random_bool(0.5) { Material::named("PureWhite") } else { covering(rng) };
    Parameters { lights, ceiling_material, skybox_id: SKIES[rng.random_range(0..SKIES.len())].into(), ..Parameters::default() }
}

fn centroid(polygon: &[Vec2]) -> Vec2 {
    let mut sum = vec2(0.0, 0.0);
    for (index, &a) in polygon.iter().enumerate() {
        let b = polygon[(index + 1) % polygon.len()];
        sum = sum.plus(a.plus(b).times(a.cross(b)));
    }
    // Clockwise polygons have a negative signed area, and so has the sum.
    sum.times(-1.0 / (6.0 * area(polygon)))
}
