//! A parsed house in, a [`Scene`] out.

use crate::{
    assets::{self, Nature},
    error::Error,
    geometry::{Vec2, signed, vec2},
    parse::flat,
    scene::{Door, EXTERIOR, Hole, HoleKind, Light, Material, Room, Scene, Thing, Tilt, Wall, room_of, tilted},
    schema::{self, House, Object, Opening},
};
use std::collections::BTreeMap;

/// Types whose upper part is open (a back, a headboard), and the share of their height that is solid.
const SEATS: &[(&str, f64)] = &[("Sofa", 0.45), ("ArmChair", 0.45), ("Chair", 0.48), ("Bed", 0.5), ("Sink", 0.9), ("DogBed", 0.6)];
/// Types that one can look through.
const OPEN_FRAMES: &[&str] = &["ShelvingUnit", "FloorLamp", "HousePlant", "Painting", "Stool", "Cart"];

/// A room's height where none of its walls tells.
const USUAL_HEIGHT_M: f64 = 2.5;

/// Compiles a house.
///
/// # Errors
/// More rooms, walls or objects than a scene can count.
pub fn compile(house: &House) -> Result<Scene, Error> {
    let most = usize::from(u16::MAX) - 1;
    let objects = house.all_objects().count();
    if house.rooms.len() > most || objects > most {
        return Err(Error::Scene {
            what: format!("{} rooms and {objects} objects: at most {most} of each are allowed", house.rooms.len()),
        });
    }
    let polygons: Vec<Vec<Vec2>> = house.rooms.iter().map(|room| flat(&room.floor)).collect();
    let mut scene = Scene::empty();
    scene.rooms = house.rooms.iter().map(|room| self::room(house, room)).collect();
    walls(house, &mut scene);
    for object in &house.objects {
        add_thing(&mut scene, object, None, &polygons);
    }
    scene.lights = house.parameters.lights.iter().map(light).collect();
    Ok(scene)
}

fn material(material: &schema::Material) -> Material {
    let color = material.color.map(|color| [color.r as f32, color.g as f32, color.b as f32]);
    Material { name: material.name.clone(), color }
}

fn room(house: &House, room: &schema::Room) -> Room {
    let mut floor: Vec<[f32; 2]> = room.floor.iter().map(|point| [point.x as f32, point.z as f32]).collect();
    let polygon = flat(&room.floor);
    let turn: f64 = (0..polygon.len()).map(|index| polygon[index].cross(polygon[(index + 1) % polygon.len()])).sum();
    if turn > 0.0 {
        floor.reverse();
    }
    let own = house.walls.iter().filter(|wall| wall.room == room.id).map(|wall| base(wall).2).fold(0.0, f64::max);
    let any = house.walls.iter().map(|wall| base(wall).2).fold(0.0, f64::max);
    let height = [own, any, USUAL_HEIGHT_M].into_iter().find(|&height| height > 0.0).unwrap_or(USUAL_HEIGHT_M);
    Room {
        id: room.id.clone(),
        kind: room.kind.clone(),
        floor,
        floor_material: material(&room.material),
        ceiling_material: material(room.ceilings.first().unwrap_or(&house.parameters.ceiling_material)),
        height: height as f32,
    }
}

fn light(light: &schema::Light) -> Light {
    let single = |point: &schema::Point| [point.x as f32, point.y as f32, point.z as f32];
    let (intensity, rgb) = (light.intensity as f32, [light.rgb.r as f32, light.rgb.g as f32, light.rgb.b as f32]);
    match &light.rotation {
        Some(rotation) if light.kind == "directional" => Light::Directional { rotation: single(rotation), intensity, rgb },
        _ if light.kind == "directional" => Light::Directional { rotation: [0.0; 3], intensity, rgb },
        _ => Light::Point { at: single(&light.position), range: light.range.unwrap_or(10.0) as f32, intensity, rgb },
    }
}

/// The bottom edge of a wall in the order of its vertices, and its height.
fn base(wall: &schema::Wall) -> (Vec2, Vec2, f64) {
    let low = wall.polygon.iter().map(|point| point.y).fold(f64::MAX, f64::min);
    let high = wall.polygon.iter().map(|point| point.y).fold(f64::MIN, f64::max);
    let bottom: Vec<Vec2> = wall.polygon.iter().filter(|point| point.y < (low + high) / 2.0).map(|point| vec2(point.x, point.z)).collect();
    let a = bottom.first().copied().unwrap_or_default();
    let b = bottom.last().copied().unwrap_or(a);
    (a, b, high - low)
}

fn walls(house: &House, scene: &mut Scene) {
    let rooms: BTreeMap<&str, u16> = house.rooms.iter().zip(0..).map(|(room, number)| (room.id.as_str(), number)).collect();
    let mut holes: BTreeMap<&str, Vec<(&Opening, HoleKind)>> = BTreeMap::new();
    let doors = house.doors.iter().map(|door| (door, if is_frame(door) { HoleKind::Frame } else { HoleKind::Door }));
    for (opening, kind) in doors.chain(house.windows.iter().map(|window| (window, HoleKind::Window))) {
        for wall in [&opening.wall0, &opening.wall1] {
            holes.entry(wall).or_default().push((opening, kind));
        }
    }
    for wall in house.walls.iter().filter(|wall| !wall.empty) {
        let (a, b, height) = base(wall);
        let outer = is_exterior(&wall.id);
        let room = if outer { EXTERIOR } else { rooms.get(wall.room.as_str()).copied().unwrap_or(EXTERIOR) };
        let holes = holes.get(wall.id.as_str()).into_iter().flatten().map(|&(opening, kind)| hole(wall, opening, kind)).collect();
        let (a, b) = ([a.x as f32, a.z as f32], [b.x as f32, b.z as f32]);
        scene.walls.push(Wall { a, b, height: height as f32, room, material: material(&wall.material), holes });
    }
    let sides: BTreeMap<&str, &schema::Wall> = house.walls.iter().map(|wall| (wall.id.as_str(), wall)).collect();
    for door in house.doors.iter().filter(|door| openness(door) > 0.5) {
        let Some(wall) = sides.get(door.wall0.as_str()) else { continue };
        let [from, to] = hole_ends(wall, door);
        let middle = from.plus(to).times(0.5);
        if let (Some(&room0), Some(&room1)) = (rooms.get(door.room0.as_str()), rooms.get(door.room1.as_str())) {
            scene.doors.push(Door { at: [middle.x as f32, middle.z as f32], rooms: [room0, room1] });
        }
    }
}

fn is_exterior(wall: &str) -> bool {
    wall.starts_with("wall|exterior")
}

/// Frames have no leaf; where the asset's name does not tell, a door that states nothing about being open is one.
fn is_frame(door: &Opening) -> bool {
    door.asset.starts_with("Doorframe") || (door.openable.is_none() && door.openness.is_none())
}

/// How far a door stands open. The outer door is shut whatever it says: there is no floor behind it.
fn openness(door: &Opening) -> f64 {
    if door.room0 == door.room1 || is_exterior(&door.wall0) || is_exterior(&door.wall1) {
        return 0.0;
    }
    door.openness.unwrap_or(1.0).clamp(0.0, 1.0)
}

/// Distances of a hole's ends from a wall's first bottom vertex, least first.
///
/// The house gives them along `wall0`; for the wall on the other side x runs the other way.
fn hole_span(wall: &schema::Wall, opening: &Opening) -> [f64; 2] {
    let (x0, x1) = (opening.hole[0].x, opening.hole[1].x);
    let (from, to) = (x0.min(x1), x0.max(x1));
    if wall.id == opening.wall1 && wall.id != opening.wall0 {
        let (a, b, _) = base(wall);
        let length = a.distance(b);
        return [length - to, length - from];
    }
    [from, to]
}

/// A hole's ends on the floor plan, in the order of the wall's direction.
pub(crate) fn hole_ends(wall: &schema::Wall, opening: &Opening) -> [Vec2; 2] {
    let (a, b, _) = base(wall);
    let along = b.minus(a).times(1.0 / b.distance(a).max(1e-9));
    hole_span(wall, opening).map(|at| a.plus(along.times(at)))
}

fn hole(wall: &schema::Wall, opening: &Opening, kind: HoleKind) -> Hole {
    let [from, to] = hole_span(wall, opening);
    let (y0, y1) = (opening.hole[0].y, opening.hole[1].y);
    let openness = if kind == HoleKind::Window { 0.0 } else { openness(opening) };
    Hole {
        from: from as f32,
        to: to as f32,
        low: y0.min(y1) as f32,
        high: y0.max(y1) as f32,
        kind,
        asset: opening.asset.clone(),
        openness: openness as f32,
    }
}

/// Adds an object and what stands on it.
fn add_thing(scene: &mut Scene, object: &Object, parent: Option<u16>, rooms: &[Vec<Vec2>]) {
    let nature = assets::nature(&object.asset, object.kind.as_deref(), parent.is_some(), object.position.y);
    scene.assumed += u32::from(nature.assumed);
    let number = scene.things.len();
    scene.things.push(thing(object, nature, parent, rooms));
    for child in &object.children {
        add_thing(scene, child, Some(number as u16), rooms);
    }
    let (above, children) = scene.things[number..].split_first_mut().expect("the object was just added");
    above.solid_top = solid_top(above, children) as f32;
}

fn thing(object: &Object, nature: Nature, parent: Option<u16>, rooms: &[Vec<Vec2>]) -> Thing {
    let own = nature.size.map(|side| side as f32);
    let (pitch, roll) = (signed(object.rotation.x), signed(object.rotation.z));
    // A degree more or less is what physics leaves of things that stand upright.
    let tilt = (pitch.abs().max(roll.abs()) > 1.0).then_some(Tilt { pitch: pitch as f32, roll: roll as f32, size: own });
    let size = if tilt.is_some() { around(nature.size, pitch, roll) } else { own };
    let opaque = !nature.pickupable && !OPEN_FRAMES.contains(&nature.kind.as_str()) && size.iter().any(|&side| side >= 0.4);
    let mut thing = Thing {
        id: object.id.clone(),
        kind: nature.kind,
        asset: object.asset.clone(),
        parent,
        room: room_of(rooms, vec2(object.position.x, object.position.z)) as u16,
        centre: [object.position.x as f32, object.position.y as f32, object.position.z as f32],
        size,
        yaw: object.rotation.y as f32,
        tilt,
        kg: nature.kg as f32,
        pickupable: nature.pickupable,
        receptacle: nature.receptacle,
        openness: object.openness.unwrap_or(0.0).clamp(0.0, 1.0) as f32,
        on: object.on.unwrap_or(false),
        blocks: nature.blocks,
        opaque,
        solid_top: 0.0,
    };
    thing.solid_top = thing.high() as f32;
    thing
}

/// The upright box around a tilted one.
fn around(size: [f64; 3], pitch: f64, roll: f64) -> [f32; 3] {
    let rows = tilted(pitch, roll);
    rows.map(|row| (0..3).map(|side| row[side].abs() * size[side]).sum::<f64>() as f32)
}

/// The height up to which a thing is solid. Where something lies lower than the type's usual seat, the seat is there.
fn solid_top(thing: &Thing, children: &[Thing]) -> f64 {
    let Some(&(_, share)) = SEATS.iter().find(|(kind, _)| *kind == thing.kind) else { return thing.high() };
    let height = f64::from(thing.size[1]);
    let least = thing.low() + 0.25 * height;
    let usual = thing.low() + share * height;
    children.iter().map(Thing::low).filter(|&low| low >= least).fold(usual, f64::min)
}
