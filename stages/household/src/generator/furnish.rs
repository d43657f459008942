//! Furniture against the walls and in the middle of rooms, small objects on it and on the floor.

use super::{HouseSplit, draw, plan::Plot};
use crate::{
    assets::Asset,
    geometry::{Vec2, forward, vec2},
    schema::{House, Object, Opening, Point},
};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Free floor in front of a door, metres to each side and into the room.
const DOOR_CLEAR: f64 = 1.0;
/// Free floor around what stands in the middle.
const WALK: f64 = 0.75;
/// Small objects lie this far from a top's rim.
const RIM: f64 = 0.02;
/// Tops between these heights carry small objects that the hand can reach.
const TOPS: (f64, f64) = (0.2, 1.05);

/// Furniture by room: type, whether it stands at a wall, how often (in tenths).
fn furniture(kind: &str) -> &'static [(&'static str, bool, u32)] {
    match kind {
        "Kitchen" => {
            &[("CounterTop", true, 10), ("Fridge", true, 9), ("DiningTable", false, 8), ("SideTable", true, 6), ("GarbageCan", true, 7)]
        }
        "LivingRoom" => &[
            ("Sofa", true, 9),
            ("TVStand", true, 8),
            ("CoffeeTable", false, 6),
            ("ArmChair", true, 5),
            ("SideTable", true, 8),
            ("Dresser", true, 5),
            ("FloorLamp", true, 5),
        ],
        "Bedroom" => &[
            ("Bed", true, 10),
            ("Dresser", true, 8),
            ("SideTable", true, 9),
            ("Desk", true, 7),
            ("FloorLamp", true, 4),
            ("GarbageCan", true, 3),
        ],
        _ => &[("Toilet", true, 10), ("Dresser", true, 6), ("SideTable", true, 8), ("GarbageCan", true, 6)],
    }
}

/// Small objects by room.
fn small(kind: &str) -> &'static [&'static str] {
    match kind {
        "Kitchen" => &[
            "Apple",
            "Bowl",
            "Mug",
            "Vase",
            "Bread",
            "Plate",
            "Pot",
            "Tomato",
            "Potato",
            "SoapBottle",
            "Cup",
            "Lettuce",
            "SprayBottle",
            "Egg",
            "Pan",
        ],
        "LivingRoom" => {
            &["Laptop", "Vase", "Bowl", "Mug", "Book", "RemoteControl", "Box", "Statue", "Candle", "BasketBall", "Apple", "AlarmClock"]
        }
        "Bedroom" => &["AlarmClock", "Laptop", "Book", "CellPhone", "Mug", "Vase", "Pencil", "TeddyBear", "Bowl", "BasketBall", "Box"],
        _ => &["SprayBottle", "SoapBottle", "ToiletPaper", "Candle", "Cloth", "Mug", "Vase"],
    }
}

/// The height of the surface that things lie on, as a share of the type's height.
fn surface(kind: &str) -> Option<f64> {
    match kind {
        "DiningTable" | "CounterTop" | "SideTable" | "Desk" | "Dresser" | "TVStand" | "CoffeeTable" => Some(1.0),
        "Sofa" | "ArmChair" => Some(0.45),
        "Bed" => Some(0.5),
        _ => None,
    }
}

/// An axis-aligned rectangle of floor.
#[derive(Clone, Copy)]
struct Patch {
    low: Vec2,
    high: Vec2,
}

impl Patch {
    fn around(centre: Vec2, half: Vec2) -> Patch {
        Patch { low: centre.minus(half), high: centre.plus(half) }
    }

    fn grown(self, by: f64) -> Patch {
        Patch { low: self.low.minus(vec2(by, by)), high: self.high.plus(vec2(by, by)) }
    }

    fn meets(&self, other: &Patch) -> bool {
        self.low.x < other.high.x && other.low.x < self.high.x && self.low.z < other.high.z && other.low.z < self.high.z
    }

    fn within(&self, other: &Patch) -> bool {
        self.low.x >= other.low.x && self.low.z >= other.low.z && self.high.x <= other.high.x && self.high.z <= other.high.z
    }
}

/// Half of the footprint's sides, for a yaw that is a multiple of 90 degrees.
fn half(asset: &Asset, yaw: f64) -> Vec2 {
    let across = ((yaw / 90.0) as u32).is_multiple_of(2);
    if across { vec2(asset.size[0] / 2.0, asset.size[2] / 2.0) } else { vec2(asset.size[2] / 2.0, asset.size[0] / 2.0) }
}

struct Room<'a> {
    plot: &'a Plot,
    floor: Patch,
    doors: Vec<Patch>,
    taken: Vec<Patch>,
    objects: Vec<Object>,
    counter: u32,
}

/// Fills every room.
pub(super) fn furnish(house: &mut House, plots: &[Plot], split: HouseSplit, rng: &mut ChaCha8Rng) {
    for plot in plots {
        let floor = Patch { low: plot.low, high: plot.high };
        let id = format!("room|{}", plot.number);
        let doors = house.doors.iter().filter(|door| door.room0 == id || door.room1 == id).map(|door| doorstep(house, door)).collect();
        let mut room = Room { plot, floor, doors, taken: Vec::new(), objects: Vec::new(), counter: 0 };
        for &(kind, at_wall, tenths) in furniture(plot.kind) {
            if rng.random_range(0..10) < tenths {
                room.place(kind, at_wall, split, rng);
            }
        }
        room.scatter(split, rng);
        house.objects.append(&mut room.objects);
    }
}

/// The floor on both sides of a door that stays free.
fn doorstep(house: &House, door: &Opening) -> Patch {
    let wall = house.walls.iter().find(|wall| wall.id == door.wall0).expect("doors are made from walls of the same house");
    let (a, b) = (vec2(wall.polygon[0].x, wall.polygon[0].z), vec2(wall.polygon[1].x, wall.polygon[1].z));
    let along = b.minus(a).times(1.0 / a.distance(b));
    let middle = a.plus(along.times((door.hole[0].x + door.hole[1].x) / 2.0));
    Patch::around(middle, vec2(DOOR_CLEAR, DOOR_CLEAR))
}

impl Room<'_> {
    fn id(&mut self, kind: &str) -> String {
        self.counter += 1;
        format!("{kind}|{}|{}", self.plot.number, self.counter)
    }

    fn place(&mut self, kind: &str, at_wall: bool, split: HouseSplit, rng: &mut ChaCha8Rng) {
        for _ in 0..12 {
            let Some(asset) =
                draw(kind, split, rng, |asset| !asset.pickupable && surface(kind).is_none_or(|share| asset.size[1] * share <= TOPS.1))
            else {
                return;
            };
            let yaw = 90.0 * f64::from(rng.random_range(0_u32..4));
            let half = half(asset, yaw);
            let centre = if at_wall { self.beside_wall(half, yaw, rng) } else { self.inner(half, rng) };
            let Some(centre) = centre else { continue };
            let patch = Patch::around(centre, half);
            let gap = if at_wall { 0.03 } else { WALK };
            let free = patch.within(&self.floor)
                && !self.taken.iter().any(|other| patch.grown(gap).meets(other))
                && !self.doors.iter().any(|door| patch.meets(door));
            if free {
                self.taken.push(patch);
                let object = self.object(asset, centre, asset.size[1] / 2.0, yaw);
                self.objects.push(object);
                if kind == "DiningTable" || kind == "Desk" {
                    self.chairs(centre, half, split, rng);
                }
                return;
            }
        }
    }

    /// With the back to a wall: the yaw looks away from it.
    fn beside_wall(&self, half: Vec2, yaw: f64, rng: &mut ChaCha8Rng) -> Option<Vec2> {
        const GAP: f64 = 0.02;
        let (low, high) = (self.floor.low.plus(half).plus(vec2(GAP, GAP)), self.floor.high.minus(half).minus(vec2(GAP, GAP)));
        if low.x >= high.x || low.z >= high.z {
            return None;
        }
        let (x, z) = (rng.random_range(low.x..high.x), rng.random_range(low.z..high.z));
        let ahead = forward(yaw);
        Some(if ahead.z > 0.5 {
            vec2(x, low.z)
        } else if ahead.z < -0.5 {
            vec2(x, high.z)
        } else if ahead.x > 0.5 {
            vec2(low.x, z)
        } else {
            vec2(high.x, z)
        })
    }

    fn inner(&self, half: Vec2, rng: &mut ChaCha8Rng) -> Option<Vec2> {
        let room = vec2(WALK, WALK);
        let (low, high) = (self.floor.low.plus(half).plus(room), self.floor.high.minus(half).minus(room));
        (low.x < high.x && low.z < high.z).then(|| vec2(rng.random_range(low.x..high.x), rng.random_range(low.z..high.z)))
    }

    /// One or two chairs at the sides of a table, seat towards it.
    fn chairs(&mut self, table: Vec2, half: Vec2, split: HouseSplit, rng: &mut ChaCha8Rng) {
        for _ in 0..rng.random_range(0_u32..3) {
            let yaw = 90.0 * f64::from(rng.random_range(0_u32..4));
            let Some(asset) = draw("Chair", split, rng, |_| true) else { return };
            let chair = self::half(asset, yaw);
            let ahead = forward(yaw);
            let away = vec2((half.x + chair.x + 0.05) * ahead.x, (half.z + chair.z + 0.05) * ahead.z);
            let centre = table.minus(away);
            let patch = Patch::around(centre, chair);
            if patch.within(&self.floor)
                && !self.taken.iter().any(|other| patch.meets(other))
                && !self.doors.iter().any(|door| patch.meets(door))
            {
                self.taken.push(patch);
                let object = self.object(asset, centre, asset.size[1] / 2.0, yaw);
                self.objects.push(object);
            }
        }
    }

    /// Small objects on tops, and a few on the floor.
    fn scatter(&mut self, split: HouseSplit, rng: &mut ChaCha8Rng) {
        let tops: Vec<usize> = (0..self.objects.len()).filter(|&index| top(&self.objects[index]).is_some()).collect();
        let mut on_top: Vec<Vec<Patch>> = vec![Vec::new(); self.objects.len()];
        let kinds = small(self.plot.kind);
        for _ in 0..rng.random_range(5_u32..11) {
            let kind = kinds[rng.random_range(0..kinds.len())];
            let Some(asset) = draw(kind, split, rng, |asset| asset.pickupable) else { continue };
            if kind == "BasketBall" || tops.is_empty() {
                self.drop_on_floor(asset, rng);
            } else {
                let index = tops[rng.random_range(0..tops.len())];
                self.put_on(index, asset, &mut on_top[index], rng);
            }
        }
    }

    fn put_on(&mut self, index: usize, asset: &'static Asset, taken: &mut Vec<Patch>, rng: &mut ChaCha8Rng) {
        let Some((centre, size, height)) = top(&self.objects[index]) else { return };
        for _ in 0..6 {
            let yaw = 90.0 * f64::from(rng.random_range(0_u32..4));
            let half = half(asset, yaw);
            let room = size.minus(half).minus(vec2(RIM, RIM));
            if room.x <= 0.0 || room.z <= 0.0 {
                continue;
            }
            // People put things down near a rim rather than in the middle.
            let mut near_rim = || {
                let share: f64 = rng.random_range(-1.0..1.0);
                let sign = if share < 0.0 { -1.0 } else { 1.0 };
                sign * share.abs().sqrt()
            };
            let spot = centre.plus(vec2(room.x * near_rim(), room.z * near_rim()));
            let patch = Patch::around(spot, half);
            if !taken.iter().any(|other| patch.grown(0.02).meets(other)) {
                taken.push(patch);
                let child = self.object(asset, spot, height + asset.size[1] / 2.0, yaw);
                self.objects[index].children.push(child);
                return;
            }
        }
    }

    fn drop_on_floor(&mut self, asset: &'static Asset, rng: &mut ChaCha8Rng) {
        for _ in 0..6 {
            let half = half(asset, 0.0);
            let spot = vec2(rng.random_range(self.floor.low.x..self.floor.high.x), rng.random_range(self.floor.low.z..self.floor.high.z));
            let patch = Patch::around(spot, half);
            if patch.grown(0.1).within(&self.floor) && !self.taken.iter().any(|other| patch.grown(0.05).meets(other)) {
                self.taken.push(patch);
                let object = self.object(asset, spot, asset.size[1] / 2.0, 0.0);
                self.objects.push(object);
                return;
            }
        }
    }

    fn object(&mut self, asset: &Asset, at: Vec2, height: f64, yaw: f64) -> Object {
        let id = self.id(asset.kind);
        let position = Point { x: at.x, y: height, z: at.z };
        let rotation = Point { x: 0.0, y: yaw, z: 0.0 };
        Object { id, asset: asset.id.into(), position, rotation, kinematic: !asset.pickupable, ..Object::default() }
    }
}

/// Centre, half sides and height of an object's upper surface, where it carries things.
fn top(object: &Object) -> Option<(Vec2, Vec2, f64)> {
    let asset = crate::assets::find(&object.asset)?;
    let height = asset.size[1] * surface(asset.kind)?;
    (height >= TOPS.0 && height <= TOPS.1).then(|| (vec2(object.position.x, object.position.z), half(asset, object.rotation.y), height))
}
