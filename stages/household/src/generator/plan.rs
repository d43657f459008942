//! Floor plans: rectilinear rooms grown on a grid of large cells inside an outer boundary.
//!
//! The way of growing follows the procedure of ProcTHOR (Lopes et al., "A constrained growth method for procedural floor
//! plan generation"): seeds, rectangles, then L-shapes, then what is left over goes to a neighbour. Plans whose rooms have
//! holes, touch themselves at a corner or keep apart are drawn again.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

/// Rooms of a house, and the name of the list as houses state it.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) kinds: &'static [&'static str],
}

const K: &str = "Kitchen";
const L: &str = "LivingRoom";
const B: &str = "Bedroom";
const W: &str = "Bathroom";

/// Lists by number of rooms, from 1 on; each as often as it stands there.
const SPECS: [&[Spec]; 10] = [
    &[
        Spec { name: "bedroom", kinds: &[B] },
        Spec { name: "living-room", kinds: &[L] },
        Spec { name: "kitchen", kinds: &[K] },
        Spec { name: "bathroom", kinds: &[W] },
        Spec { name: "bedroom", kinds: &[B] },
        Spec { name: "living-room", kinds: &[L] },
    ],
    &[Spec { name: "kitchen-living-room", kinds: &[K, L] }, Spec { name: "bedroom-bathroom", kinds: &[B, W] }],
    &[Spec { name: "kitchen-living-bedroom-room", kinds: &[K, L, B] }],
    &[Spec { name: "4-room", kinds: &[K, L, B, W] }],
    &[Spec { name: "2-bed-1-bath", kinds: &[K, L, B, B, W] }],
    &[Spec { name: "2-bed-2-bath", kinds: &[K, L, B, B, W, W] }],
    &[Spec { name: "7-room-3-bed", kinds: &[K, L, L, B, B, B, W] }],
    &[Spec { name: "8-room-3-bed", kinds: &[K, L, L, B, B, B, W, W] }],
    &[Spec { name: "9-room-3-bed", kinds: &[K, L, L, B, B, B, W, W, W] }],
    &[
        Spec { name: "12-room-3-bed", kinds: &[K, L, L, L, B, B, B, W, W, W] },
        Spec { name: "12-room", kinds: &[K, L, B, B, B, B, W, W, W, W] },
    ],
];

/// Mean floor area by number of rooms, square metres: what the measured houses have (9 rooms: between 8 and 10).
const AREAS: [f64; 10] = [30.8, 53.5, 69.3, 124.1, 90.5, 162.0, 142.8, 301.9, 274.0, 246.6];
/// Side of a grid cell, metres.
const CELL: (f64, f64) = (1.62, 2.18);
/// Plans that are drawn before a house is given up.
const TRIES: u32 = 60;

/// Who owns a cell: nobody outside the boundary.
const OUTSIDE: u8 = u8::MAX;
const FREE: u8 = u8::MAX - 1;

/// A straight piece of a room's rim between two grid corners, clockwise around the room.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Edge {
    pub(super) a: (usize, usize),
    pub(super) b: (usize, usize),
    /// The room beyond it.
    pub(super) other: Option<usize>,
}

/// A grown floor plan.
pub(super) struct Plan {
    pub(super) spec: &'static Spec,
    /// Side of a cell, metres.
    pub(super) cell: f64,
    pub(super) columns: usize,
    pub(super) rows: usize,
    owner: Vec<u8>,
    /// Rims of the rooms, one edge for each stretch with one room beyond it.
    pub(super) rims: Vec<Vec<Edge>>,
}

impl Plan {
    /// Grows a plan of that many rooms, 1 to 10; `None` where no try of this generator state gave one.
    pub(super) fn grow(rooms: usize, rng: &mut ChaCha8Rng) -> Option<Plan> {
        let specs = SPECS[rooms.clamp(1, 10) - 1];
        let spec = &specs[rng.random_range(0..specs.len())];
        (0..TRIES).find_map(|_| Plan::try_grow(spec, rng))
    }

    fn try_grow(spec: &'static Spec, rng: &mut ChaCha8Rng) -> Option<Plan> {
        let rooms = spec.kinds.len();
        let area = AREAS[rooms - 1] * rng.random_range(0.66..1.34);
        let cell = rng.random_range(CELL.0..CELL.1);
        let (columns, rows, owner) = boundary(area / (cell * cell), rng)?;
        let mut plan = Plan { spec, cell, columns, rows, owner, rims: Vec::new() };
        let cells = plan.owner.iter().filter(|&&owner| owner == FREE).count();
        if cells < 2 * rooms && rooms > 1 {
            return None;
        }
        plan.grow_rooms(cells, rng)?;
        for room in 0..rooms {
            let rim = plan.rim(room)?;
            plan.rims.push(rim);
        }
        Some(plan)
    }

    pub(super) fn at(&self, column: usize, row: usize) -> Option<usize> {
        let owner = (column < self.columns && row < self.rows).then(|| self.owner[row * self.columns + column])?;
        (owner < FREE).then_some(usize::from(owner))
    }

    fn free(&self, column: usize, row: usize) -> bool {
        column < self.columns && row < self.rows && self.owner[row * self.columns + column] == FREE
    }

    fn grow_rooms(&mut self, cells: usize, rng: &mut ChaCha8Rng) -> Option<()> {
        let weights: Vec<f64> =
            self.spec.kinds.iter().map(|&kind| if kind == W { 0.66 } else { 1.0 } * rng.random_range(0.75..1.25)).collect();
        let all: f64 = weights.iter().sum();
        let wanted: Vec<f64> = weights.iter().map(|weight| weight / all * cells as f64).collect();
        let rooms = wanted.len();
        let mut boxes = Vec::with_capacity(rooms);
        for room in 0..rooms {
            let free: Vec<usize> = (0..self.owner.len()).filter(|&cell| self.owner[cell] == FREE).collect();
            let seed = free[rng.random_range(0..free.len().max(1))];
            self.owner[seed] = room as u8;
            boxes.push([seed % self.columns, seed / self.columns, seed % self.columns, seed / self.columns]);
        }
        let mut sizes = vec![1.0; rooms];
        let mut active: Vec<usize> = (0..rooms).collect();
        while !active.is_empty() {
            let index = rng.random_range(0..active.len());
            let room = active[index];
            let grown = if sizes[room] < wanted[room] { self.grow_box(room, &mut boxes[room], rng) } else { 0 };
            sizes[room] += grown as f64;
            if grown == 0 {
                active.swap_remove(index);
            }
        }
        self.fill_rest(&mut sizes, &wanted, rng)
    }

    /// Pushes one side of a room's rectangle out by a cell, where all of it is free.
    fn grow_box(&mut self, room: usize, edges: &mut [usize; 4], rng: &mut ChaCha8Rng) -> usize {
        let [left, low, right, high] = *edges;
        let first = rng.random_range(0..4_usize);
        for side in (0..4).map(|turn| (first + turn) % 4) {
            let line: Option<Vec<(usize, usize)>> = match side {
                0 => left.checked_sub(1).map(|column| (low..=high).map(|row| (column, row)).collect()),
                1 => low.checked_sub(1).map(|row| (left..=right).map(|column| (column, row)).collect()),
                2 => Some((low..=high).map(|row| (right + 1, row)).collect()),
                _ => Some((left..=right).map(|column| (column, high + 1)).collect()),
            };
            let Some(line) = line.filter(|line| line.iter().all(|&(column, row)| self.free(column, row))) else { continue };
            for &(column, row) in &line {
                self.owner[row * self.columns + column] = room as u8;
            }
            match side {
                0 => edges[0] -= 1,
                1 => edges[1] -= 1,
                2 => edges[2] += 1,
                _ => edges[3] += 1,
            }
            return line.len();
        }
        0
    }

    /// Gives each free cell to a neighbour that shares most of its sides, and of those to the one that wants it most.
    fn fill_rest(&mut self, sizes: &mut [f64], wanted: &[f64], rng: &mut ChaCha8Rng) -> Option<()> {
        loop {
            let mut best: Option<(f64, usize, usize)> = None;
            for cell in (0..self.owner.len()).filter(|&cell| self.owner[cell] == FREE) {
                let (column, row) = (cell % self.columns, cell / self.columns);
                let beside = [(column.wrapping_sub(1), row), (column + 1, row), (column, row.wrapping_sub(1)), (column, row + 1)];
                let owners: Vec<usize> = beside.iter().filter_map(|&(column, row)| self.at(column, row)).collect();
                for &room in &owners {
                    let shared = owners.iter().filter(|&&other| other == room).count() as f64;
                    let score = shared * 2.0 - sizes[room] / wanted[room] + 0.01 * rng.random_range(0.0..1.0);
                    if best.is_none_or(|(most, ..)| score > most) {
                        best = Some((score, cell, room));
                    }
                }
            }
            let Some((_, cell, room)) = best else { break };
            self.owner[cell] = room as u8;
            sizes[room] += 1.0;
        }
        (!self.owner.contains(&FREE)).then_some(())
    }

    /// A room's rim, clockwise from a corner; `None`: it has a hole, or touches itself.
    fn rim(&self, room: usize) -> Option<Vec<Edge>> {
        let mut steps: Vec<Edge> = Vec::new();
        for row in 0..self.rows {
            for column in 0..self.columns {
                if self.at(column, row) != Some(room) {
                    continue;
                }
                let around = [
                    (self.at(column.wrapping_sub(1), row), (column, row), (column, row + 1)),
                    (self.at(column, row + 1), (column, row + 1), (column + 1, row + 1)),
                    (self.at(column + 1, row), (column + 1, row + 1), (column + 1, row)),
                    (self.at(column, row.wrapping_sub(1)), (column + 1, row), (column, row)),
                ];
                steps.extend(around.into_iter().filter(|(other, ..)| *other != Some(room)).map(|(other, a, b)| Edge { a, b, other }));
            }
        }
        let mut chain = vec![*steps.first()?];
        while chain.len() <= steps.len() {
            let last = *chain.last()?;
            let mut next = steps.iter().filter(|step| step.a == last.b);
            let step = *next.next()?;
            if next.next().is_some() {
                return None;
            }
            if step == chain[0] {
                break;
            }
            chain.push(step);
        }
        if chain.len() != steps.len() {
            return None;
        }
        let straight = |one: &Edge, next: &Edge| {
            one.other == next.other && (one.a.0 == one.b.0) == (next.a.0 == next.b.0) && (one.a.0 == next.b.0 || one.a.1 == next.b.1)
        };
        // Start where a stretch begins, so that none is cut in two.
        let start = (0..chain.len()).find(|&index| !straight(&chain[(index + chain.len() - 1) % chain.len()], &chain[index]))?;
        chain.rotate_left(start);
        let mut rim: Vec<Edge> = Vec::new();
        for step in chain {
            match rim.last_mut() {
                Some(last) if straight(last, &step) => last.b = step.b,
                _ => rim.push(step),
            }
        }
        Some(rim)
    }
}

/// A rectangle of cells with now and then a corner cut out.
fn boundary(cells: f64, rng: &mut ChaCha8Rng) -> Option<(usize, usize, Vec<u8>)> {
    let cut = if cells >= 9.0 && rng.random_bool(0.6) { rng.random_range(0.06..0.22) } else { 0.0 };
    let full = (cells / (1.0 - cut)).max(2.0);
    let aspect: f64 = rng.random_range(0.62..1.6);
    let columns = (libm::round((full * aspect).sqrt()) as usize).max(1);
    let rows = (libm::round(full / columns as f64) as usize).max(1);
    let mut owner = vec![FREE; columns * rows];
    let mut left = (cut * full) as usize;
    for _ in 0..2 {
        if left == 0 || columns < 3 || rows < 3 {
            break;
        }
        let wide = rng.random_range(1..=(columns / 2));
        let deep = (left / wide).clamp(1, rows / 2);
        let (right, top) = (rng.random_bool(0.5), rng.random_bool(0.5));
        for row in 0..deep {
            for column in 0..wide {
                let column = if right { columns - 1 - column } else { column };
                let row = if top { rows - 1 - row } else { row };
                owner[row * columns + column] = OUTSIDE;
            }
        }
        left = left.saturating_sub(wide * deep);
    }
    (columns <= 64 && rows <= 64).then_some((columns, rows, owner))
}
