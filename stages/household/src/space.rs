//! A scene made ready for questions: does the body fit here, does the arm touch something.

use crate::{
    geometry::{Block, Vec2, crossing, forward, right, vec2},
    robot::{ARM_RADIUS, BODY_HIGH, BODY_LOW, BODY_RADIUS, Limb},
    scene::{Hole, Room, Scene, Thing, Wall, at, room_of, tilted},
    shape::parts,
};
use std::collections::BTreeSet;

/// Side of a cell of the free map, metres.
const CELL: f64 = 0.05;
/// Half of a cell's diagonal, rounded up: within this of the limit the map asks the exact test.
const DOUBT: f64 = 0.036;
/// Side of a bucket of the obstacle index, metres.
const BUCKET: f64 = 0.5;
/// A scene with a longer side is refused.
const MAX_SIDE_M: f64 = 200.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Blocked,
    Doubtful,
    Free,
}

/// Something fixed or heavy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Solid {
    pub(crate) block: Block,
    /// How near the body's axis may come to it on the floor; 0 for what is above or below the body.
    clearance: f64,
}

impl Solid {
    fn new(block: Block) -> Solid {
        let gap = block.gap(BODY_LOW + BODY_RADIUS, BODY_HIGH - BODY_RADIUS);
        let clearance = (BODY_RADIUS * BODY_RADIUS - gap * gap).max(0.0).sqrt();
        Solid { block, clearance }
    }
}

/// A thing's box where the scene has it.
fn whole(thing: &Thing) -> Block {
    let size = vec2(f64::from(thing.size[0]), f64::from(thing.size[2]));
    Block::new(thing.floor_centre(), size, f64::from(thing.yaw), thing.low(), thing.high())
}

/// The boxes around a thing's solid parts. One that something stands in ends where that stands: houses know better than
/// shapes how high a seat is.
fn bodies(thing: &Thing, children: &[Block]) -> impl Iterator<Item = Block> {
    const SUNK_M: f64 = 0.01;
    let tilt = thing.tilt.map(|tilt| tilted(f64::from(tilt.pitch), f64::from(tilt.roll)));
    let parts = parts(&thing.kind, &thing.asset, thing.own_size()).into_iter().filter(|part| part.solid);
    let yaw = f64::from(thing.yaw);
    parts.map(move |part| {
        let turn = |vector: [f64; 3], of: fn(f64) -> f64| {
            tilt.map_or(vector, |rows| rows.map(|row| (0..3).map(|side| of(row[side]) * vector[side]).sum()))
        };
        let (centre, half) = (turn(part.centre, |value| value), turn(part.half, f64::abs));
        let middle = thing.floor_centre().plus(right(yaw).times(centre[0])).plus(forward(yaw).times(centre[2]));
        let height = f64::from(thing.centre[1]) + centre[1];
        let mut block = Block::new(middle, vec2(2.0 * half[0], 2.0 * half[2]), yaw, height - half[1], height + half[1]);
        for child in children {
            if child.low > block.low + SUNK_M && block.overlap(child) > SUNK_M {
                block.high = block.high.min(child.low);
            }
        }
        block
    })
}

/// How near the body's axis comes to a box on the floor where they touch.
pub(crate) fn clearance(block: &Block) -> f64 {
    Solid::new(*block).clearance
}

/// An indexed scene. Built once a scene, shared by every world in it.
pub struct Space {
    origin: Vec2,
    columns: usize,
    rows: usize,
    cells: Vec<Cell>,
    bucket_columns: usize,
    bucket_rows: usize,
    /// Positions in `solids`, by where they are.
    buckets: Vec<Vec<u32>>,
    solids: Vec<Solid>,
    /// Pieces of walls that stand on the floor.
    barriers: Vec<(Vec2, Vec2)>,
    rooms: Vec<Vec<Vec2>>,
}

impl Space {
    /// Indexes a scene. One that is over 200 m wide has no free cell at all.
    pub fn new(scene: &Scene) -> Space {
        let corners = || scene.rooms.iter().flat_map(|room| room.floor.iter().map(|&corner| at(corner)));
        let low = corners().fold(vec2(f64::MAX, f64::MAX), |low, corner| vec2(low.x.min(corner.x), low.z.min(corner.z)));
        let high = corners().fold(vec2(f64::MIN, f64::MIN), |high, corner| vec2(high.x.max(corner.x), high.z.max(corner.z)));
        let span = vec2((high.x - low.x).clamp(0.0, MAX_SIDE_M), (high.z - low.z).clamp(0.0, MAX_SIDE_M));
        let count = |length: f64, side: f64| libm::ceil(length / side) as usize + 1;
        let (columns, rows) = (count(span.x, CELL), count(span.z, CELL));
        let (bucket_columns, bucket_rows) = (count(span.x, BUCKET), count(span.z, BUCKET));
        let mut space = Space {
            origin: low,
            columns,
            rows,
            cells: vec![Cell::Blocked; columns * rows],
            bucket_columns,
            bucket_rows,
            buckets: vec![Vec::new(); bucket_columns * bucket_rows],
            solids: Vec::new(),
            barriers: Vec::new(),
            rooms: scene.rooms.iter().map(Room::polygon).collect(),
        };
        space.add_walls(scene);
        space.add_things(scene);
        space.fill_buckets();
        space.fill_cells();
        space
    }

    fn add_walls(&mut self, scene: &Scene) {
        // A wall between two rooms is in the scene once for each.
        let mut known = BTreeSet::new();
        for wall in &scene.walls {
            let round = |corner: [f32; 2]| corner.map(|value| libm::round(f64::from(value) * 1000.0) as i64);
            let ends = (round(wall.a).min(round(wall.b)), round(wall.a).max(round(wall.b)));
            if known.insert(ends) {
                self.add_wall(wall);
            }
        }
    }

    fn add_wall(&mut self, wall: &Wall) {
        let (a, b, height) = (at(wall.a), at(wall.b), f64::from(wall.height));
        let length = a.distance(b).max(1e-6);
        let mut gaps: Vec<&Hole> = wall.holes.iter().filter(|hole| hole.passable()).collect();
        gaps.sort_by(|one, other| one.from.total_cmp(&other.from));
        let mut from = 0.0;
        for hole in gaps {
            let (start, end) = (f64::from(hole.from), f64::from(hole.to));
            self.add_piece(a, b, (from, start.min(length)), (0.0, height));
            self.add_piece(a, b, (start, end), (f64::from(hole.high), height));
            self.add_piece(a, b, (start, end), (0.0, f64::from(hole.low)));
            from = end.max(from);
        }
        self.add_piece(a, b, (from, length), (0.0, height));
    }

    /// A piece of the wall from `a` to `b`, between two lengths and two heights.
    fn add_piece(&mut self, a: Vec2, b: Vec2, (from, to): (f64, f64), (low, high): (f64, f64)) {
        if to - from < 1e-6 || high - low < 1e-3 {
            return;
        }
        let axis = b.minus(a).times(1.0 / a.distance(b).max(1e-6));
        let half = vec2((to - from) / 2.0, 0.0);
        let centre = a.plus(axis.times((from + to) / 2.0));
        if low < BODY_RADIUS {
            self.barriers.push((a.plus(axis.times(from)), a.plus(axis.times(to))));
        }
        let block = Block { centre, half, axis_x: axis, axis_z: vec2(-axis.z, axis.x), low, high };
        self.solids.push(Solid::new(block));
    }

    fn add_things(&mut self, scene: &Scene) {
        let mut children = vec![Vec::new(); scene.things.len()];
        for thing in &scene.things {
            if let Some(children) = thing.parent.and_then(|parent| children.get_mut(usize::from(parent))) {
                children.push(whole(thing));
            }
        }
        for (number, thing) in scene.things.iter().enumerate() {
            if thing.blocks {
                self.solids.extend(bodies(thing, &children[number]).map(Solid::new));
            }
        }
    }

    fn fill_buckets(&mut self) {
        // A body or an arm's point anywhere in a bucket must find all that it could touch.
        let margin = BODY_RADIUS + 0.01;
        for number in 0..self.solids.len() {
            let block = self.solids[number].block;
            let reach = block.reach().plus(vec2(margin, margin));
            let low = block.centre.minus(reach).minus(self.origin).times(1.0 / BUCKET);
            let high = block.centre.plus(reach).minus(self.origin).times(1.0 / BUCKET);
            for row in clamp(low.z, self.bucket_rows)..=clamp(high.z, self.bucket_rows) {
                for column in clamp(low.x, self.bucket_columns)..=clamp(high.x, self.bucket_columns) {
                    self.buckets[row * self.bucket_columns + column].push(number as u32);
                }
            }
        }
    }

    fn fill_cells(&mut self) {
        for room in self.rooms.clone() {
            self.fill_room(&room);
        }
        for number in 0..self.solids.len() {
            let solid = self.solids[number];
            if solid.clearance > 0.0 {
                self.mark(&solid);
            }
        }
    }

    /// Frees the cells whose middle is in a room, row by row.
    fn fill_room(&mut self, polygon: &[Vec2]) {
        for row in 0..self.rows {
            let z = self.origin.z + (row as f64 + 0.5) * CELL;
            let mut crossings: Vec<f64> = (0..polygon.len())
                .filter_map(|index| {
                    let (a, b) = (polygon[index], polygon[(index + 1) % polygon.len()]);
                    ((a.z > z) != (b.z > z)).then(|| (b.x - a.x) * (z - a.z) / (b.z - a.z) + a.x)
                })
                .collect();
            crossings.sort_by(f64::total_cmp);
            for pair in crossings.chunks_exact(2) {
                let first = clamp((pair[0] - self.origin.x) / CELL, self.columns);
                let last = clamp((pair[1] - self.origin.x) / CELL, self.columns);
                self.cells[row * self.columns + first..=row * self.columns + last].fill(Cell::Free);
            }
        }
    }

    /// Takes cells near an obstacle away from the free ones.
    fn mark(&mut self, solid: &Solid) {
        let margin = solid.clearance + DOUBT;
        let reach = solid.block.reach().plus(vec2(margin, margin));
        let low = solid.block.centre.minus(reach).minus(self.origin).times(1.0 / CELL);
        let high = solid.block.centre.plus(reach).minus(self.origin).times(1.0 / CELL);
        for row in clamp(low.z, self.rows)..=clamp(high.z, self.rows) {
            for column in clamp(low.x, self.columns)..=clamp(high.x, self.columns) {
                let cell = &mut self.cells[row * self.columns + column];
                if *cell == Cell::Blocked {
                    continue;
                }
                let centre = vec2(self.origin.x + (column as f64 + 0.5) * CELL, self.origin.z + (row as f64 + 0.5) * CELL);
                let away = solid.block.floor_distance(centre);
                if away < solid.clearance - DOUBT {
                    *cell = Cell::Blocked;
                } else if away < margin {
                    *cell = Cell::Doubtful;
                }
            }
        }
    }

    /// Whether the body, its axis here, touches nothing fixed or heavy.
    pub fn body_fits(&self, centre: Vec2) -> bool {
        let (column, row) = ((centre.x - self.origin.x) / CELL, (centre.z - self.origin.z) / CELL);
        // Negated, so that what is no number fits nowhere.
        if !(column >= 0.0 && row >= 0.0 && column < self.columns as f64 && row < self.rows as f64) {
            return false;
        }
        match self.cells[row as usize * self.columns + column as usize] {
            Cell::Blocked => false,
            Cell::Free => true,
            Cell::Doubtful => self.nearby(centre).iter().all(|&number| {
                let solid = &self.solids[number as usize];
                solid.block.floor_distance(centre) >= solid.clearance
            }),
        }
    }

    /// Whether a piece of the arm touches something fixed or heavy.
    pub fn limb_touches(&self, limb: &Limb) -> bool {
        let low = vec2(limb.a.x.min(limb.b.x), limb.a.z.min(limb.b.z));
        let high = vec2(limb.a.x.max(limb.b.x), limb.a.z.max(limb.b.z));
        self.among(low, high).any(|solid| limb.distance(&solid.block) < ARM_RADIUS)
    }

    /// The solids around a rectangle of the floor, some of them more than once.
    pub(crate) fn among(&self, low: Vec2, high: Vec2) -> impl Iterator<Item = &Solid> {
        let cell = |value: f64, origin: f64, count: usize| clamp((value - origin) / BUCKET, count);
        let columns = cell(low.x, self.origin.x, self.bucket_columns)..=cell(high.x, self.origin.x, self.bucket_columns);
        let rows = cell(low.z, self.origin.z, self.bucket_rows)..=cell(high.z, self.origin.z, self.bucket_rows);
        let buckets = rows.flat_map(move |row| columns.clone().map(move |column| row * self.bucket_columns + column));
        buckets.flat_map(|bucket| &self.buckets[bucket]).map(|&number| &self.solids[number as usize])
    }

    /// The solids around a box.
    pub(crate) fn around(&self, block: &Block) -> impl Iterator<Item = &Solid> {
        let reach = block.reach();
        self.among(block.centre.minus(reach), block.centre.plus(reach))
    }

    fn nearby(&self, point: Vec2) -> &[u32] {
        let column = clamp((point.x - self.origin.x) / BUCKET, self.bucket_columns);
        let row = clamp((point.z - self.origin.z) / BUCKET, self.bucket_rows);
        &self.buckets[row * self.bucket_columns + column]
    }

    /// How far the body's circle can go from here in a direction, in steps of `step`, at most `most` metres.
    pub fn free_way(&self, centre: Vec2, direction: Vec2, step: f64, most: f64) -> f64 {
        let steps = libm::round(most / step) as usize;
        let free = (1..=steps).take_while(|&number| self.body_fits(centre.plus(direction.times(number as f64 * step)))).count();
        free as f64 * step
    }

    /// Boxes of all that is fixed or heavy.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.solids.iter().map(|solid| &solid.block)
    }

    /// Pieces of walls.
    pub(crate) fn walls(&self) -> impl Iterator<Item = &Block> {
        self.blocks().filter(|block| block.half.z <= 0.0)
    }

    /// Whether a wall stands between two points, doors apart.
    pub(crate) fn walled(&self, a: Vec2, b: Vec2) -> bool {
        self.barriers.iter().any(|&(from, to)| crossing(a, b, from, to).is_some())
    }

    /// The room that a point is in, or the nearest one.
    pub fn room_at(&self, point: Vec2) -> usize {
        room_of(&self.rooms, point)
    }

    /// Lower corner and far corner of the house.
    pub fn bounds(&self) -> (Vec2, Vec2) {
        (self.origin, self.origin.plus(vec2(self.columns as f64 * CELL, self.rows as f64 * CELL)))
    }
}

fn clamp(value: f64, count: usize) -> usize {
    (libm::floor(value).max(0.0) as usize).min(count - 1)
}
