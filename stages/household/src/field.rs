//! How far the body has to go, from anywhere, to a goal on the floor: the expert's sense of direction, and the way in SPL.

use crate::{
    geometry::{Vec2, vec2},
    space::Space,
};

/// The arm's reach: what is further from the body's axis than this cannot be grasped, metres.
pub(crate) const REACH_M: f64 = 0.95;
/// Cost of a straight and of a slanted step between cells, in hundredths of a metre.
const STRAIGHT: u32 = 10;
const SLANTED: u32 = 14;
/// How much dearer a step is next to an obstacle, in halves, and one through something light.
const TIGHT: u32 = 3;
const LIGHT: u32 = 8;
const NEVER: u32 = u32::MAX;

/// A coarse map of where the body fits.
pub(crate) struct Floor {
    origin: Vec2,
    columns: usize,
    rows: usize,
    free: Vec<bool>,
    /// Free, and so are all eight cells around.
    wide: Vec<bool>,
    /// The room each cell is in.
    rooms: Vec<u16>,
}

impl Floor {
    /// Side of a cell, metres.
    pub(crate) const CELL: f64 = 0.1;

    pub(crate) fn new(space: &Space) -> Floor {
        let (low, high) = space.bounds();
        let columns = (libm::ceil((high.x - low.x) / Floor::CELL) as usize).max(1);
        let rows = (libm::ceil((high.z - low.z) / Floor::CELL) as usize).max(1);
        let mut floor = Floor { origin: low, columns, rows, free: Vec::new(), wide: Vec::new(), rooms: Vec::new() };
        floor.free = (0..columns * rows).map(|cell| space.body_fits(floor.middle(cell))).collect();
        floor.wide = (0..columns * rows).map(|cell| floor.around(cell).filter(|&(next, _)| floor.free[next]).count() == 8).collect();
        floor.rooms =
            (0..columns * rows).map(|cell| if floor.free[cell] { space.room_at(floor.middle(cell)) as u16 } else { u16::MAX }).collect();
        floor
    }

    /// The room of a free cell, by position in the scene's rooms.
    pub(crate) fn room(&self, cell: usize) -> usize {
        usize::from(self.rooms[cell])
    }

    pub(crate) fn middle(&self, cell: usize) -> Vec2 {
        vec2(
            self.origin.x + ((cell % self.columns) as f64 + 0.5) * Floor::CELL,
            self.origin.z + ((cell / self.columns) as f64 + 0.5) * Floor::CELL,
        )
    }

    /// The cells around one, and whether they are aslant.
    pub(crate) fn around(&self, cell: usize) -> impl Iterator<Item = (usize, bool)> {
        let (column, row) = ((cell % self.columns) as i64, (cell / self.columns) as i64);
        let (columns, rows) = (self.columns as i64, self.rows as i64);
        [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)].into_iter().filter_map(move |(across, along)| {
            let (column, row) = (column + across, row + along);
            let within = column >= 0 && row >= 0 && column < columns && row < rows;
            within.then_some(((row * columns + column) as usize, across != 0 && along != 0))
        })
    }

    /// The cell so many columns and rows from one.
    pub(crate) fn shifted(&self, cell: usize, across: i64, along: i64) -> Option<usize> {
        let (column, row) = ((cell % self.columns) as i64 + across, (cell / self.columns) as i64 + along);
        let within = column >= 0 && row >= 0 && column < self.columns as i64 && row < self.rows as i64;
        within.then(|| row as usize * self.columns + column as usize)
    }

    /// Whether the body fits with its axis over the middle of a cell.
    pub(crate) fn is_free(&self, cell: usize) -> bool {
        self.free[cell]
    }

    /// Whether it fits over the cells around too.
    pub(crate) fn is_wide(&self, cell: usize) -> bool {
        self.wide[cell]
    }

    /// The cell that a point is in.
    pub(crate) fn cell(&self, point: Vec2) -> Option<usize> {
        let (column, row) = (libm::floor((point.x - self.origin.x) / Floor::CELL), libm::floor((point.z - self.origin.z) / Floor::CELL));
        let within = column >= 0.0 && row >= 0.0 && column < self.columns as f64 && row < self.rows as f64;
        within.then(|| row as usize * self.columns + column as usize)
    }

    pub(crate) fn cells(&self) -> usize {
        self.free.len()
    }

    /// Free cells whose middle is within a distance of a point.
    pub(crate) fn near(&self, point: Vec2, most: f64) -> impl Iterator<Item = usize> {
        let index = |value: f64, count: usize| (libm::floor(value / Floor::CELL).max(0.0) as usize).min(count - 1);
        let offset = point.minus(self.origin);
        let columns = index(offset.x - most, self.columns)..=index(offset.x + most, self.columns);
        let rows = index(offset.z - most, self.rows)..=index(offset.z + most, self.rows);
        let cells = rows.flat_map(move |row| columns.clone().map(move |column| row * self.columns + column));
        cells.filter(move |&cell| self.free[cell] && self.middle(cell).distance(point) <= most)
    }
}

/// Shortest ways over the floor, to any of the cells that are the goal.
#[derive(Clone)]
pub(crate) struct Field {
    /// Hundredths of a metre.
    way: Vec<u32>,
}

impl Field {
    /// To the free cells whose middles are a goal; the ways in metres.
    pub(crate) fn to(floor: &Floor, goal: impl Fn(Vec2) -> bool) -> Field {
        let goals = (0..floor.cells()).filter(|&cell| goal(floor.middle(cell)));
        Field::spread(floor, goals, |_| STRAIGHT)
    }

    /// To the free cells of some rooms.
    pub(crate) fn to_rooms(floor: &Floor, goal: impl Fn(usize) -> bool) -> Field {
        Field::spread(floor, (0..floor.cells()).filter(|&cell| goal(floor.room(cell))), |_| STRAIGHT)
    }

    /// To some cells, the ways longer where it is narrow, and where something light would have to give way.
    pub(crate) fn careful(floor: &Floor, goals: impl Iterator<Item = usize>, light: &[bool]) -> Field {
        Field::spread(floor, goals, |cell| {
            let factor = if light.get(cell) == Some(&true) { LIGHT } else { 2 };
            STRAIGHT * if floor.wide[cell] { factor } else { factor.max(TIGHT) } / 2
        })
    }

    /// Dijkstra's algorithm with one bucket a cost: steps cost less than there are buckets.
    fn spread(floor: &Floor, goals: impl Iterator<Item = usize>, price: impl Fn(usize) -> u32) -> Field {
        const BUCKETS: usize = 64;
        let mut way = vec![NEVER; floor.cells()];
        let mut buckets: Vec<Vec<u32>> = vec![Vec::new(); BUCKETS];
        for cell in goals.filter(|&cell| floor.free[cell]) {
            way[cell] = 0;
            buckets[0].push(cell as u32);
        }
        let (mut now, mut empty) = (0, 0);
        while empty < BUCKETS {
            let slot = now as usize % BUCKETS;
            if buckets[slot].is_empty() {
                empty += 1;
                now += 1;
                continue;
            }
            empty = 0;
            while let Some(cell) = buckets[slot].pop() {
                let cell = cell as usize;
                if way[cell] != now {
                    continue;
                }
                let straight = price(cell);
                for (next, slanted) in floor.around(cell).filter(|&(next, _)| floor.free[next]) {
                    let further = now + if slanted { straight * SLANTED / STRAIGHT } else { straight };
                    if further < way[next] {
                        way[next] = further;
                        buckets[further as usize % BUCKETS].push(next as u32);
                    }
                }
            }
            now += 1;
        }
        Field { way }
    }

    /// Whether a way leads from a room to the goal.
    pub(crate) fn reaches(&self, floor: &Floor, room: usize) -> bool {
        (0..self.way.len()).any(|cell| self.way[cell] != NEVER && floor.room(cell) == room)
    }

    /// Whether a way leads from a cell to the goal.
    pub(crate) fn leads(&self, cell: usize) -> bool {
        self.way[cell] != NEVER
    }

    /// Metres to go from here; the best of the cells around where this one is too near a wall; `None`: no way.
    pub(crate) fn way(&self, floor: &Floor, point: Vec2) -> Option<f64> {
        let cell = floor.cell(point)?;
        let mut best = self.way[cell];
        if best == NEVER {
            best = floor.around(cell).map(|(next, _)| self.way[next]).min()?;
        }
        (best != NEVER).then(|| f64::from(best) / 100.0)
    }
}
