//! A parsed house in, a [`Scene`] out.

use crate::{
    assets::{self, Nature},
    error::Error,
    geometry::{Vec2, vec2},
    parse::flat,
    scene::{Door, Hole, Room, Scene, Thing, Wall, room_of},
    schema::{self, House, Object, Opening},
};
use std::collections::BTreeMap;

/// Types whose upper part is open (a back, a headboard), and the share of their height that is solid.
const SEATS: &[(&str, f64)] = &[("Sofa", 0.45), ("ArmChair", 0.45), ("Chair", 0.48), ("Bed", 0.5), ("Sink", 0.9), ("DogBed", 0.6)];
/// Types that one can look through.
const OPEN_FRAMES: &[&str] = &["ShelvingUnit", "FloorLamp", "HousePlant", "Painting", "Stool", "Cart"];

/// Compiles a house.
///
/// # Errors
/// More rooms, walls or objects than a scene can count.
pub fn compile(house: &House) -> Result<Scene, Error> {
    let rooms: Vec<Room> = house.rooms.iter().map(room).collect();
    let polygons: Vec<Vec<Vec2>> = house.rooms.iter().map(|room| flat(&room.floor)).collect();
    let (walls, doors) = walls(house);
    let (things, assumed) = things(house, &polygons);
    let most = usize::from(u16::MAX);
    if rooms.len() > most || things.len() > most {
        return Err(Error::Scene {
            what: format!("{} rooms and {} objects: at most {most} of each are allowed", rooms.len(), things.len()),
        });
    }
    Ok(Scene::new(rooms, walls, doors, things, assumed))
}

fn room(room: &schema::Room) -> Room {
    let floor = room.floor.iter().map(|point| [point.x as f32, point.z as f32]).collect();
    Room { id: room.id.clone(), kind: room.kind.clone(), floor }
}

/// The bottom edge of a wall, and its height.
fn base(wall: &schema::Wall) -> (Vec2, Vec2, f64) {
    let low = wall.polygon.iter().map(|point| point.y).fold(f64::MAX, f64::min);
    let high = wall.polygon.iter().map(|point| point.y).fold(f64::MIN, f64::max);
    let bottom: Vec<Vec2> = wall.polygon.iter().filter(|point| point.y < (low + high) / 2.0).map(|point| vec2(point.x, point.z)).collect();
    let a = bottom.first().copied().unwrap_or_default();
    let b = bottom.last().copied().unwrap_or(a);
    (a, b, high - low)
}

/// Rounded ends in one order, so that the two sides of a shared wall have one key.
fn key(a: Vec2, b: Vec2) -> [i64; 4] {
    let round = |value: f64| libm::round(value * 1000.0) as i64;
    let (a, b) = ([round(a.x), round(a.z)], [round(b.x), round(b.z)]);
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    [first[0], first[1], second[0], second[1]]
}

fn walls(house: &House) -> (Vec<Wall>, Vec<Door>) {
    let mut merged: BTreeMap<[i64; 4], Wall> = BTreeMap::new();
    for wall in house.walls.iter().filter(|wall| !wall.empty) {
        let (a, b, height) = base(wall);
        merged.entry(key(a, b)).or_insert_with(|| {
            let (a, b) = ([a.x as f32, a.z as f32], [b.x as f32, b.z as f32]);
            Wall { a, b, height: height as f32, holes: Vec::new() }
        });
    }
    let sides: BTreeMap<&str, &schema::Wall> = house.walls.iter().map(|wall| (wall.id.as_str(), wall)).collect();
    let numbers: BTreeMap<&str, u16> = house.rooms.iter().zip(0..).map(|(room, number)| (room.id.as_str(), number)).collect();
    let mut doors = Vec::new();
    for door in house.doors.iter().filter(|door| is_open(door)) {
        let Some(wall) = sides.get(door.wall0.as_str()) else { continue };
        let (a, b, _) = base(wall);
        let (from, to) = (door.hole[0].x.min(door.hole[1].x), door.hole[0].x.max(door.hole[1].x));
        let along = b.minus(a).times(1.0 / b.distance(a).max(1e-9));
        let middle = a.plus(along.times((from + to) / 2.0));
        if let Some(wall) = merged.get_mut(&key(a, b)) {
            // The stored wall may run the other way round.
            let start = vec2(f64::from(wall.a[0]), f64::from(wall.a[1]));
            let (from, to) = if start.distance(a) < 1e-3 { (from, to) } else { (b.distance(a) - to, b.distance(a) - from) };
            let (low, high) = (door.hole[0].y.min(door.hole[1].y), door.hole[0].y.max(door.hole[1].y));
            wall.holes.push(Hole { from: from as f32, to: to as f32, low: low as f32, high: high as f32 });
        }
        if let (Some(&room0), Some(&room1)) = (numbers.get(door.room0.as_str()), numbers.get(door.room1.as_str())) {
            doors.push(Door { at: [middle.x as f32, middle.z as f32], rooms: [room0, room1] });
        }
    }
    (merged.into_values().collect(), doors)
}

/// Inner doors stand open and door frames have no leaf; the one outer door is shut.
fn is_open(door: &Opening) -> bool {
    door.room0 != door.room1 && door.openness.is_none_or(|openness| openness > 0.5) && !door.wall1.starts_with("wall|exterior")
}

fn things(house: &House, rooms: &[Vec<Vec2>]) -> (Vec<Thing>, u32) {
    let mut things = Vec::new();
    let mut assumed = 0;
    let mut add = |object: &Object, parent: Option<u16>, things: &mut Vec<Thing>| {
        let nature = assets::nature(&object.asset, object.kind.as_deref(), parent.is_some(), object.position.y);
        assumed += u32::from(nature.assumed);
        things.push(thing(object, nature, parent, rooms));
    };
    for object in &house.objects {
        let number = things.len();
        add(object, None, &mut things);
        for child in &object.children {
            add(child, Some(number as u16), &mut things);
        }
        let (above, children) = things[number..].split_first_mut().expect("the object was just added");
        above.solid_top = solid_top(above, children) as f32;
    }
    (things, assumed)
}

fn thing(object: &Object, nature: Nature, parent: Option<u16>, rooms: &[Vec<Vec2>]) -> Thing {
    let tilted = |angle: f64| (libm::fabs(libm::sin(angle.to_radians()))) > 0.7;
    let mut size = nature.size.map(|side| side as f32);
    if tilted(object.rotation.x) {
        size.swap(1, 2);
    }
    if tilted(object.rotation.z) {
        size.swap(0, 1);
    }
    let opaque = !nature.pickupable && !OPEN_FRAMES.contains(&nature.kind.as_str()) && size.iter().any(|&side| side >= 0.4);
    let mut thing = Thing {
        id: object.id.clone(),
        parent,
        room: room_of(rooms, vec2(object.position.x, object.position.z)) as u16,
        centre: [object.position.x as f32, object.position.y as f32, object.position.z as f32],
        size,
        yaw: object.rotation.y as f32,
        pickupable: nature.pickupable,
        blocks: nature.blocks,
        opaque,
        kind: nature.kind,
        solid_top: 0.0,
    };
    thing.solid_top = thing.high() as f32;
    thing
}

/// The height up to which a thing is solid. Where something lies lower than the type's usual seat, the seat is there.
fn solid_top(thing: &Thing, children: &[Thing]) -> f64 {
    let Some(&(_, share)) = SEATS.iter().find(|(kind, _)| *kind == thing.kind) else { return thing.high() };
    let height = f64::from(thing.size[1]);
    let least = thing.low() + 0.25 * height;
    let usual = thing.low() + share * height;
    children.iter().map(Thing::low).filter(|&low| low >= least).fold(usual, f64::min)
}
