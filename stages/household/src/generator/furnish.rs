//! Furniture along walls, in corners and in the middle of rooms, pictures on the walls, small objects on receptacles.

use super::{
    HouseSplit, draw,
    place::{GAP, Patch, Site, Span, Walls, footprint},
    plan::Plan,
    rates::{self, Rate},
    walls::FIRST,
};
use crate::{
    assets::Asset,
    fetch::TARGETS,
    geometry::{Vec2, forward, right, vec2},
    schema::{House, Object, Point},
    shape::{self, OPEN, Surface},
};
use rand::{RngExt as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Places that are tried for one object.
const TRIES: u32 = 14;
/// Free floor around what stands in the middle of a room.
const WALK: f64 = 0.5;
/// Small objects lie this far from a surface's rim.
const RIM: f64 = 0.012;
/// Nothing is put on surfaces above this height.
const HIGHEST_M: f64 = 1.65;
/// The hand reaches things up to this height, and this far from the robot's middle.
const REACH_HEIGHT_M: f64 = 1.05;
const REACH_M: f64 = 0.8;

/// Where things of a type go.
#[derive(Clone, Copy, PartialEq)]
enum Spot {
    /// With the back to a wall; in a corner as often as the share says.
    Wall(f64),
    /// Away from walls, as often as the share says; else at a wall.
    Middle(f64),
    /// Beside a wall, turned any way.
    Turned,
    /// Anywhere on the floor.
    Floor,
    /// On a wall.
    Hung,
}

fn spot(kind: &str) -> Spot {
    match kind {
        "Painting" | "Television" => Spot::Hung,
        "HousePlant" | "FloorLamp" => Spot::Turned,
        "BasketBall" | "Cart" | "DogBed" | "GarbageBag" => Spot::Floor,
        "DiningTable" => Spot::Middle(0.6),
        "Bed" | "Dresser" | "CounterTop" | "Fridge" | "Toilet" | "Sink" => Spot::Wall(0.68),
        "Sofa" | "Desk" | "CoffeeTable" => Spot::Wall(0.42),
        _ => Spot::Wall(0.25),
    }
}

/// What a room cannot do without comes first, then what needs most floor.
fn order(rate: &Rate) -> u32 {
    const FIRST: [&str; 10] = ["CounterTop", "Bed", "Fridge", "Sofa", "Dresser", "Toilet", "Sink", "DiningTable", "Desk", "TVStand"];
    FIRST.iter().position(|kind| *kind == rate.kind).map_or(if spot(rate.kind) == Spot::Hung { 99 } else { 20 }, |at| at as u32)
}

/// Chairs per table or desk, as a mean, by room type.
fn chairs(room: &str, table: &str) -> f64 {
    match (table, room) {
        ("Desk", _) => 0.75,
        ("DiningTable", "Kitchen") => 3.4,
        ("DiningTable", "Bedroom") => 2.0,
        ("DiningTable", _) => 1.35,
        _ => 0.0,
    }
}

/// Something that stands on the floor.
struct Placed {
    object: Object,
    asset: &'static Asset,
    patch: Patch,
}

struct Room<'a> {
    site: Site<'a>,
    kind: &'static str,
    split: HouseSplit,
    /// How full the house is, compared with the mean of all.
    dense: f64,
    placed: Vec<Placed>,
    hung: Vec<Object>,
    spans: Vec<Span>,
    counter: u32,
}

/// Fills every room. False: some room cannot be walked through, or the hand reaches nothing to fetch.
pub(super) fn furnish(house: &mut House, plan: &Plan, split: HouseSplit, rng: &mut ChaCha8Rng) -> bool {
    let mut objects = Vec::new();
    let mut target = false;
    let rooms = plan.spec.kinds.len();
    {
        let walls: Walls = house.walls.iter().map(|wall| (wall.id.as_str(), wall)).collect();
        for (number, kind) in plan.spec.kinds.iter().enumerate() {
            let site = Site::new(plan, house, &walls, number);
            let dense = DENSITY[rooms.clamp(1, DENSITY.len()) - 1];
            let spans = site.spans.clone();
            let mut room = Room { site, kind, split, dense, placed: Vec::new(), hung: Vec::new(), spans, counter: 0 };
            room.furniture(rng);
            let Some(reached) = room.make_way() else { return false };
            room.pictures(rng);
            room.small_objects(rng);
            target = target || room.has_target(&reached);
            objects.extend(room.placed.into_iter().map(|placed| placed.object));
            objects.append(&mut room.hung);
        }
    }
    house.objects = objects;
    target
}

/// How full the rooms of a house are, by its number of rooms: measured means over the mean of all, with what is lost
/// because it does not fit made up for.
const DENSITY: [f64; 10] = [0.94, 1.06, 1.09, 1.08, 1.2, 1.24, 1.3, 1.18, 1.15, 1.1];

/// A number with this mean: the whole part, and one more as often as the rest says.
fn count(mean: f64, rng: &mut ChaCha8Rng) -> u32 {
    let whole = libm::floor(mean);
    whole as u32 + u32::from(rng.random_range(0.0..1.0) < mean - whole)
}

impl Room<'_> {
    fn id(&mut self, kind: &str) -> String {
        self.counter += 1;
        format!("{kind}|{}|{}", self.site.number + FIRST, self.counter)
    }

    fn furniture(&mut self, rng: &mut ChaCha8Rng) {
        let mut rates: Vec<Rate> = rates::furniture(self.kind).iter().filter(|rate| rate.kind != "Chair").copied().collect();
        rates.sort_by_key(order);
        for rate in rates.into_iter().filter(|rate| spot(rate.kind) != Spot::Hung) {
            let mean = if rate.mean > 0.75 { rate.mean } else { rate.mean * self.dense };
            for _ in 0..count(mean, rng) {
                if self.place(rate.kind, rng) {
                    let (mean, table) = (chairs(self.kind, rate.kind), self.placed.len() - 1);
                    self.chairs(table, mean, rng);
                }
            }
        }
    }

    fn place(&mut self, kind: &str, rng: &mut ChaCha8Rng) -> bool {
        for _ in 0..TRIES {
            let Some(asset) = draw(kind, self.split, rng, |_| true) else { return false };
            let spot = match spot(kind) {
                Spot::Middle(share) if !rng.random_bool(share) => Spot::Wall(0.4),
                spot => spot,
            };
            let found = match spot {
                Spot::Wall(corner) => self.beside_wall(asset, corner, None, rng),
                Spot::Turned => {
                    let yaw = rng.random_range(0.0..360.0);
                    self.beside_wall(asset, 0.2, Some(yaw), rng)
                }
                _ => self.anywhere(asset, rng),
            };
            let Some((centre, yaw)) = found else { continue };
            let patch = Patch::around(centre, footprint(asset.size, yaw));
            let gap = if matches!(spot, Spot::Middle(_)) { WALK } else { 0.04 };
            if self.site.holds(&patch) && self.fits(&patch, gap) {
                self.add(asset, centre, yaw, patch);
                return true;
            }
        }
        false
    }

    fn fits(&self, patch: &Patch, gap: f64) -> bool {
        let wide = patch.grown(gap);
        !self.placed.iter().any(|other| wide.meets(&other.patch)) && !self.site.doorsteps.iter().any(|door| patch.meets(door))
    }

    fn add(&mut self, asset: &'static Asset, centre: Vec2, yaw: f64, patch: Patch) {
        let object = self.object(asset, centre, asset.size[1] / 2.0, yaw);
        self.placed.push(Placed { object, asset, patch });
    }

    /// With the back to a wall, or beside it at a yaw of its own.
    fn beside_wall(&self, asset: &Asset, corner: f64, turned: Option<f64>, rng: &mut ChaCha8Rng) -> Option<(Vec2, f64)> {
        let sides = &self.site.sides;
        let in_corner = rng.random_bool(corner);
        let usable = |index: &usize| !in_corner || sides[*index].corner || sides[(*index + sides.len() - 1) % sides.len()].corner;
        let choice: Vec<usize> = (0..sides.len()).filter(usable).collect();
        let side = sides[*choice.get(rng.random_range(0..choice.len().max(1)))?];
        let yaw = turned.unwrap_or(side.yaw);
        let half = footprint(asset.size, yaw);
        let (deep, wide) =
            (side.inward.x.abs() * half.x + side.inward.z.abs() * half.z, side.along.x.abs() * half.x + side.along.z.abs() * half.z);
        let (least, most) = (wide + GAP, side.length - wide - GAP);
        if least > most {
            return None;
        }
        // An L of cupboards has its arm at its right, which is the start of the side that its back is at.
        let at_start = asset.id.contains("_L_") || !side.corner || rng.random_bool(0.5);
        let at = if in_corner { if at_start { least } else { most } } else { rng.random_range(least..most.max(least + 1e-6)) };
        Some((side.a.plus(side.along.times(at)).plus(side.inward.times(deep + GAP)), yaw))
    }

    fn anywhere(&self, asset: &Asset, rng: &mut ChaCha8Rng) -> Option<(Vec2, f64)> {
        let yaw = 90.0 * f64::from(rng.random_range(0_u32..4));
        let half = footprint(asset.size, yaw).plus(vec2(GAP, GAP));
        let (low, high) = (self.site.low.plus(half), self.site.high.minus(half));
        (low.x < high.x && low.z < high.z).then(|| (vec2(rng.random_range(low.x..high.x), rng.random_range(low.z..high.z)), yaw))
    }

    /// Chairs at the sides of a table, seats towards it, a little turned.
    fn chairs(&mut self, table: usize, mean: f64, rng: &mut ChaCha8Rng) {
        // Tables have none or a whole set.
        let set = if self.placed[table].asset.kind == "Desk" { 1.0 } else { 2.6 };
        if rng.random_range(0.0..set) >= mean {
            return;
        }
        let Some(asset) = draw("Chair", self.split, rng, |_| true) else { return };
        let patch = self.placed[table].patch;
        let (centre, half) = (patch.low.plus(patch.high).times(0.5), patch.high.minus(patch.low).times(0.5));
        let wanted = if set > 1.0 { rng.random_range(4_u32..=8) } else { 1 };
        let mut made = 0;
        for _ in 0..wanted * 5 {
            if made == wanted {
                break;
            }
            let quarter = 90.0 * f64::from(rng.random_range(0_u32..4));
            let yaw = quarter + rng.random_range(-18.0..18.0);
            let (ahead, aside) = (forward(quarter), right(quarter));
            let chair = footprint(asset.size, yaw);
            let away = ahead.x.abs() * (half.x + chair.x) + ahead.z.abs() * (half.z + chair.z) + 0.02;
            let slack = (aside.x.abs() * half.x + aside.z.abs() * half.z - asset.size[0] / 2.0).max(0.01);
            let spot = centre.minus(ahead.times(away)).plus(aside.times(rng.random_range(-slack..slack)));
            let patch = Patch::around(spot, chair);
            if self.site.holds(&patch) && self.fits(&patch, 0.005) {
                self.add(asset, spot, yaw, patch);
                made += 1;
            }
        }
    }

    /// Takes furniture away, the latest first, until one can walk from each way in to the others.
    fn make_way(&mut self) -> Option<Vec<Vec2>> {
        loop {
            let blocked: Vec<Patch> = self.placed.iter().filter(|placed| !placed.asset.pickupable).map(|placed| placed.patch).collect();
            if let Some(reached) = self.site.reached(&blocked) {
                return Some(reached);
            }
            let last = self.placed.iter().rposition(|placed| !placed.asset.pickupable)?;
            self.placed.remove(last);
        }
    }

    fn pictures(&mut self, rng: &mut ChaCha8Rng) {
        let rates: Vec<Rate> = rates::furniture(self.kind).iter().filter(|rate| spot(rate.kind) == Spot::Hung).copied().collect();
        for rate in rates {
            for _ in 0..count(rate.mean, rng) {
                let hung = (0..TRIES).find_map(|_| self.hang(rate.kind, rng));
                self.hung.extend(hung);
            }
        }
    }

    fn hang(&mut self, kind: &str, rng: &mut ChaCha8Rng) -> Option<Object> {
        let asset = draw(kind, self.split, rng, |asset| asset.size[2] < 0.6)?;
        let index = rng.random_range(0..self.site.sides.len().max(1));
        let side = *self.site.sides.get(index)?;
        let half = asset.size[0] / 2.0 + 0.04;
        if side.length < 2.0 * half + 0.01 {
            return None;
        }
        let at = rng.random_range(half..side.length - half);
        let height = rng.random_range(1.3..2.0_f64).max(asset.size[1] / 2.0 + 0.5);
        let low = height - asset.size[1] / 2.0;
        let span = Span { side: index, from: at - half, to: at + half, low, high: height + asset.size[1] / 2.0 };
        let centre = side.a.plus(side.along.times(at)).plus(side.inward.times(asset.size[2] / 2.0 + 0.005));
        let patch = Patch::around(centre, footprint(asset.size, side.yaw));
        let free = !self.spans.iter().any(|other| other.meets(&span))
            && !self.placed.iter().any(|placed| placed.asset.size[1] > low - 0.05 && placed.patch.meets(&patch));
        if !free {
            return None;
        }
        self.spans.push(span);
        Some(self.object(asset, centre, height, side.yaw))
    }

    fn small_objects(&mut self, rng: &mut ChaCha8Rng) {
        for index in 0..self.placed.len() {
            let (asset, kind) = (self.placed[index].asset, self.placed[index].asset.kind);
            let rates = rates::on(self.kind, kind);
            if rates.is_empty() {
                continue;
            }
            let mut surfaces = Surfaces::new(asset);
            let mut kinds: Vec<&str> = Vec::new();
            for rate in rates {
                kinds.extend((0..count(rate.mean * self.dense, rng)).map(|_| rate.kind));
            }
            kinds.shuffle(rng);
            kinds.sort_by_key(|&kind| !["Television", "Faucet", "Microwave", "CoffeeMachine", "Box", "Pillow"].contains(&kind));
            for child in kinds {
                if let Some(object) = self.put(index, child, &mut surfaces, rng) {
                    self.placed[index].object.children.push(object);
                }
            }
        }
    }

    /// Puts a small object on a receptacle, where one of its type fits.
    fn put(&mut self, index: usize, kind: &str, surfaces: &mut Surfaces, rng: &mut ChaCha8Rng) -> Option<Object> {
        let (place, yaw) = (self.placed[index].object.position, self.placed[index].object.rotation.y);
        for _ in 0..TRIES {
            let number = surfaces.choose(rng)?;
            let surface = surfaces.all[number];
            // Screens and taps may stand over the rim of what carries them.
            let over = kind == "Television" || kind == "Faucet";
            let room = [2.0 * (surface.half_x - RIM), 2.0 * (surface.half_z - RIM)];
            let fits = |asset: &Asset| {
                let (long, short) = (asset.size[0].max(asset.size[2]), asset.size[0].min(asset.size[2]));
                let flat = over || (long <= room[0].max(room[1]) && short <= room[0].min(room[1]));
                flat && asset.size[1] < surface.clear && asset.size[0] < 1.25 * 2.0 * surface.half_x
            };
            let Some(asset) = draw(kind, self.split, rng, fits) else { continue };
            let turn = if over { 0.0 } else { 90.0 * f64::from(rng.random_range(0_u32..4)) };
            let half = footprint(asset.size, turn);
            let slack = vec2(surface.half_x - RIM - half.x, surface.half_z - RIM - half.z);
            if !over && (slack.x < 0.0 || slack.z < 0.0) {
                continue;
            }
            let mut near_rim = |most: f64| {
                // People put things down near a rim rather than in the middle.
                let share: f64 = rng.random_range(-1.0..1.0);
                most.max(0.0) * if share < 0.0 { -(-share).sqrt() } else { share.sqrt() }
            };
            let local = vec2(surface.centre[0] + near_rim(slack.x), surface.centre[1] + near_rim(slack.z));
            let patch = Patch::around(local, half);
            if surfaces.taken[number].iter().any(|other| patch.grown(0.008).meets(other)) {
                continue;
            }
            surfaces.taken[number].push(patch);
            let at = vec2(place.x, place.z).plus(right(yaw).times(local.x)).plus(forward(yaw).times(local.z));
            let height = place.y + surface.height + asset.size[1] / 2.0;
            return Some(self.object(asset, at, height, yaw + turn));
        }
        None
    }

    /// Whether the hand reaches something that is fetched, from where the robot can stand.
    fn has_target(&self, reached: &[Vec2]) -> bool {
        let children = self.placed.iter().filter(|placed| placed.asset.kind != "Fridge").flat_map(|placed| &placed.object.children);
        let mut targets = children.filter(|object| {
            let Some(asset) = crate::assets::find(&object.asset) else { return false };
            asset.pickupable && TARGETS.contains(&asset.kind) && object.position.y < REACH_HEIGHT_M
        });
        targets.any(|object| reached.iter().any(|cell| cell.distance(vec2(object.position.x, object.position.z)) < REACH_M))
    }

    fn object(&mut self, asset: &Asset, at: Vec2, height: f64, yaw: f64) -> Object {
        let id = self.id(asset.kind);
        let position = Point { x: at.x, y: height, z: at.z };
        let rotation = Point { x: 0.0, y: crate::geometry::wrap(yaw), z: 0.0 };
        Object { id, asset: asset.id.into(), position, rotation, kinematic: !asset.pickupable, ..Object::default() }
    }
}

/// The surfaces of a receptacle and what stands on them, in its own frame.
struct Surfaces {
    all: Vec<Surface>,
    taken: Vec<Vec<Patch>>,
}

impl Surfaces {
    fn new(asset: &Asset) -> Surfaces {
        let mut all = shape::surfaces(asset.kind, asset.id, asset.size);
        if all.is_empty() || asset.kind == "Fridge" {
            all = inside(asset);
        }
        all.retain(|surface| surface.height + asset.size[1] / 2.0 <= HIGHEST_M && surface.clear > 0.03);
        let taken = vec![Vec::new(); all.len()];
        Surfaces { all, taken }
    }

    /// One by its area.
    fn choose(&self, rng: &mut ChaCha8Rng) -> Option<usize> {
        let area = |surface: &Surface| surface.half_x * surface.half_z;
        let all: f64 = self.all.iter().map(area).sum();
        let mut left = rng.random_range(0.0..1.0) * all;
        (0..self.all.len()).find(|&index| {
            left -= area(&self.all[index]);
            left <= 0.0
        })
    }
}

/// Boards inside something shut, or the bottom of something open.
fn inside(asset: &Asset) -> Vec<Surface> {
    let [x, y, z] = asset.size;
    let boards: &[f64] = if asset.kind == "Fridge" { &[0.2, 0.42, 0.64] } else { &[0.05] };
    let clear = if asset.kind == "Fridge" { 0.2 * y } else { OPEN };
    boards
        .iter()
        .map(|board| Surface { height: (board - 0.5) * y, centre: [0.0, 0.0], half_x: 0.42 * x, half_z: 0.36 * z, clear })
        .collect()
}
