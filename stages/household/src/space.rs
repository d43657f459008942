//! A scene made ready for questions: does the body fit here, does the arm touch something, what hides what.

use crate::{
    geometry::{Block, Vec2, crossing, segment_distance, vec2},
    robot::{BODY_HEIGHT, BODY_RADIUS},
    scene::{Room, Scene, at, room_of},
};

/// Side of a cell of the free map, metres.
const CELL: f64 = 0.05;
/// Half of a cell's diagonal, rounded up: within this of the limit the map asks the exact test.
const DOUBT: f64 = 0.036;
/// Side of a bucket of the obstacle index, metres.
const BUCKET: f64 = 0.5;
/// How thick the arm is taken to be, as a radius.
const ARM_RADIUS: f64 = 0.03;
/// Door holes lower than this are no way through.
const DOOR_HEIGHT: f64 = 1.5;
/// A scene with a longer side is refused.
const MAX_SIDE_M: f64 = 200.0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Blocked,
    Doubtful,
    Free,
}

/// A wall piece without a door in it.
#[derive(Clone, Copy)]
struct Piece {
    a: Vec2,
    b: Vec2,
}

/// A wall as the eye meets it.
struct Screen {
    a: Vec2,
    b: Vec2,
    height: f64,
    /// Shares of the length, and heights.
    holes: Vec<(f64, f64, f64, f64)>,
}

/// An indexed scene. Built once a scene, shared by every world in it.
pub struct Space {
    origin: Vec2,
    columns: usize,
    rows: usize,
    cells: Vec<Cell>,
    bucket_columns: usize,
    bucket_rows: usize,
    buckets: Vec<Vec<Obstacle>>,
    pieces: Vec<Piece>,
    /// Boxes that stop base or arm.
    blocks: Vec<Block>,
    screens: Vec<Screen>,
    /// Boxes that hide what is behind them, with the thing they belong to.
    curtains: Vec<(Block, usize)>,
    rooms: Vec<Vec<Vec2>>,
}

#[derive(Clone, Copy)]
enum Obstacle {
    Piece(u32),
    Block(u32),
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
            pieces: Vec::new(),
            blocks: Vec::new(),
            screens: Vec::new(),
            curtains: Vec::new(),
            rooms: scene.rooms.iter().map(Room::polygon).collect(),
        };
        space.add_walls(scene);
        space.add_things(scene);
        space.fill_buckets();
        space.fill_cells();
        space
    }

    fn add_walls(&mut self, scene: &Scene) {
        for wall in &scene.walls {
            let (a, b) = (at(wall.a), at(wall.b));
            let length = a.distance(b).max(1e-6);
            let mut gaps: Vec<(f64, f64)> = wall
                .holes
                .iter()
                .filter(|hole| hole.passable() && f64::from(hole.high) > DOOR_HEIGHT && hole.low < 0.3)
                .map(|hole| (f64::from(hole.from) / length, f64::from(hole.to) / length))
                .collect();
            gaps.sort_by(|one, other| one.0.total_cmp(&other.0));
            let along = |share: f64| a.plus(b.minus(a).times(share));
            let mut from = 0.0;
            for (start, end) in gaps.into_iter().chain([(1.0, 1.0)]) {
                if start > from {
                    self.pieces.push(Piece { a: along(from), b: along(start.min(1.0)) });
                }
                from = end.max(from);
            }
            let holes = wall
                .holes
                .iter()
                .filter(|hole| hole.see_through())
                .map(|hole| (f64::from(hole.from) / length, f64::from(hole.to) / length, f64::from(hole.low), f64::from(hole.high)))
                .collect();
            self.screens.push(Screen { a, b, height: f64::from(wall.height), holes });
        }
    }

    fn add_things(&mut self, scene: &Scene) {
        for (number, thing) in scene.things.iter().enumerate() {
            let size = vec2(f64::from(thing.size[0]), f64::from(thing.size[2]));
            let block = Block::new(thing.floor_centre(), size, f64::from(thing.yaw), thing.low(), f64::from(thing.solid_top));
            if thing.blocks && block.low < BODY_HEIGHT {
                self.blocks.push(block);
            }
            if thing.opaque {
                self.curtains.push((block, number));
            }
        }
    }

    fn fill_buckets(&mut self) {
        // A body or an arm's point anywhere in a bucket must find all that it could touch.
        let margin = BODY_RADIUS + 0.01;
        let pieces = self.pieces.iter().enumerate().map(|(index, piece)| {
            let middle = piece.a.plus(piece.b).times(0.5);
            let reach = vec2((piece.a.x - piece.b.x).abs() / 2.0, (piece.a.z - piece.b.z).abs() / 2.0);
            (Obstacle::Piece(index as u32), middle, reach)
        });
        let blocks = self.blocks.iter().enumerate().map(|(index, block)| (Obstacle::Block(index as u32), block.centre, block.reach()));
        let all: Vec<(Obstacle, Vec2, Vec2)> = pieces.chain(blocks).collect();
        for (obstacle, middle, reach) in all {
            let reach = vec2(reach.x + margin, reach.z + margin);
            let low = middle.minus(reach).minus(self.origin).times(1.0 / BUCKET);
            let high = middle.plus(reach).minus(self.origin).times(1.0 / BUCKET);
            for row in clamp(low.z, self.bucket_rows)..=clamp(high.z, self.bucket_rows) {
                for column in clamp(low.x, self.bucket_columns)..=clamp(high.x, self.bucket_columns) {
                    self.buckets[row * self.bucket_columns + column].push(obstacle);
                }
            }
        }
    }

    fn fill_cells(&mut self) {
        for room in self.rooms.clone() {
            self.fill_room(&room);
        }
        let pieces = self.pieces.clone();
        for piece in &pieces {
            let middle = piece.a.plus(piece.b).times(0.5);
            let reach = vec2((piece.a.x - piece.b.x).abs() / 2.0, (piece.a.z - piece.b.z).abs() / 2.0);
            self.mark(middle, reach, |point| segment_distance(point, piece.a, piece.b));
        }
        let blocks = self.blocks.clone();
        for block in &blocks {
            self.mark(block.centre, block.reach(), |point| block.floor_distance(point));
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
    fn mark(&mut self, middle: Vec2, reach: Vec2, distance: impl Fn(Vec2) -> f64) {
        let margin = BODY_RADIUS + DOUBT;
        let reach = vec2(reach.x + margin, reach.z + margin);
        let low = middle.minus(reach).minus(self.origin).times(1.0 / CELL);
        let high = middle.plus(reach).minus(self.origin).times(1.0 / CELL);
        for row in clamp(low.z, self.rows)..=clamp(high.z, self.rows) {
            for column in clamp(low.x, self.columns)..=clamp(high.x, self.columns) {
                let cell = &mut self.cells[row * self.columns + column];
                if *cell == Cell::Blocked {
                    continue;
                }
                let centre = vec2(self.origin.x + (column as f64 + 0.5) * CELL, self.origin.z + (row as f64 + 0.5) * CELL);
                let away = distance(centre);
                if away < BODY_RADIUS - DOUBT {
                    *cell = Cell::Blocked;
                } else if away < margin {
                    *cell = Cell::Doubtful;
                }
            }
        }
    }

    /// Whether the body's circle, centred here, touches nothing that stops it.
    pub fn body_fits(&self, centre: Vec2) -> bool {
        let (column, row) = ((centre.x - self.origin.x) / CELL, (centre.z - self.origin.z) / CELL);
        if column < 0.0 || row < 0.0 || column >= self.columns as f64 || row >= self.rows as f64 {
            return false;
        }
        match self.cells[row as usize * self.columns + column as usize] {
            Cell::Blocked => false,
            Cell::Free => true,
            Cell::Doubtful => self.nearby(centre).iter().all(|obstacle| match obstacle {
                Obstacle::Piece(index) => {
                    let piece = &self.pieces[*index as usize];
                    segment_distance(centre, piece.a, piece.b) >= BODY_RADIUS
                }
                Obstacle::Block(index) => self.blocks[*index as usize].floor_distance(centre) >= BODY_RADIUS,
            }),
        }
    }

    /// Whether a point of the arm, at this height, touches a wall or a solid box.
    pub fn arm_touches(&self, point: Vec2, height: f64) -> bool {
        self.nearby(point).iter().any(|obstacle| match obstacle {
            Obstacle::Piece(index) => {
                let piece = &self.pieces[*index as usize];
                segment_distance(point, piece.a, piece.b) < ARM_RADIUS
            }
            Obstacle::Block(index) => self.blocks[*index as usize].distance(point, height) < ARM_RADIUS,
        })
    }

    fn nearby(&self, point: Vec2) -> &[Obstacle] {
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

    /// Whether a straight line from an eye to a point meets no wall and no big box, apart from the thing `looked_at`.
    pub fn sees(&self, eye: (Vec2, f64), point: (Vec2, f64), looked_at: usize) -> bool {
        let walls = self.screens.iter().any(|screen| {
            let Some((along_ray, along_wall)) = crossing(eye.0, point.0, screen.a, screen.b) else { return false };
            let height = eye.1 + (point.1 - eye.1) * along_ray;
            // What hangs on a wall is in front of it.
            along_ray < 0.98
                && height < screen.height
                && !screen.holes.iter().any(|&(from, to, low, high)| along_wall > from && along_wall < to && height > low && height < high)
        });
        !walls
            && !self
                .curtains
                .iter()
                .any(|(block, number)| *number != looked_at && block.entry(eye, point).is_some_and(|share| share < 0.999))
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
