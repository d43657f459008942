//! The built-in house generator: a number in, a house of the ProcTHOR schema out.
//!
//! One to eight rectangular rooms with doors, furniture against the walls and in the middle, small objects on it and on the
//! floor. A house is given out only if every room can be reached and it holds at least five object types and something to
//! fetch. Training and held-out houses draw from disjoint assets where the table tells them apart.

mod furnish;
mod plan;

use crate::{
    assets::{self, Asset, AssetSplit},
    compile::compile,
    error::Error,
    expert::accessible,
    fetch::TARGETS,
    geometry::{Vec2, vec2},
    scene::Scene,
    schema::House,
    sim::Home,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::{collections::BTreeSet, sync::Arc};

/// Which houses: the ones to train in, or the ones that no training sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HouseSplit {
    Train,
    HeldOut,
}

impl HouseSplit {
    /// What origins and seeds call it: `generated:93`, `held-out:7`.
    pub fn label(self) -> &'static str {
        match self {
            HouseSplit::Train => "generated",
            HouseSplit::HeldOut => "held-out",
        }
    }

    fn takes(self, asset: &Asset) -> bool {
        match asset.split {
            None => true,
            Some(AssetSplit::Train) => self == HouseSplit::Train,
            Some(AssetSplit::Val) => self == HouseSplit::HeldOut,
            Some(AssetSplit::Test) => false,
        }
    }
}

/// Layouts that are tried for one number.
const TRIES: u32 = 40;
/// Least number of object types in a house.
const LEAST_KINDS: usize = 5;
/// Floor that the robot must be able to reach in each room, square metres.
const LEAST_FLOOR_M2: f64 = 1.0;

/// Makes a house. The same split and number give the same house.
///
/// # Errors
/// No layout of this number passed the checks.
pub fn generate(split: HouseSplit, number: u64) -> Result<House, Error> {
    generate_compiled(split, number).map(|(house, _)| house)
}

/// Makes a house and its scene.
///
/// # Errors
/// As [`generate`].
pub fn generate_compiled(split: HouseSplit, number: u64) -> Result<(House, Scene), Error> {
    for attempt in 0..TRIES {
        let seed = blake3::hash(format!("house/{}/{number}/{attempt}", split.label()).as_bytes());
        let mut rng = ChaCha8Rng::from_seed(*seed.as_bytes());
        let house = build(split, &mut rng);
        let scene = compile(&house)?;
        let home = Arc::new(Home::new(scene));
        if sound(&home) {
            let scene = Arc::into_inner(home).expect("nobody else keeps a house that is being checked").scene;
            return Ok((house, scene));
        }
    }
    Err(Error::NoHouse { seed: number, tries: TRIES })
}

fn build(split: HouseSplit, rng: &mut ChaCha8Rng) -> House {
    let rooms = plan::rooms(rng);
    let mut house = plan::house(&rooms, split, rng);
    furnish::furnish(&mut house, &rooms, split, rng);
    house
}

/// An asset of a type, of this split, that passes a test.
fn draw(kind: &str, split: HouseSplit, rng: &mut ChaCha8Rng, fits: impl Fn(&Asset) -> bool) -> Option<&'static Asset> {
    let choice: Vec<&Asset> = assets::of_kind(kind).filter(|asset| split.takes(asset) && fits(asset)).collect();
    (!choice.is_empty()).then(|| choice[rng.random_range(0..choice.len())])
}

fn sound(home: &Arc<Home>) -> bool {
    let things = &home.scene.things;
    let kinds: BTreeSet<&str> = things.iter().map(|thing| thing.kind.as_str()).collect();
    let mut errands = (0..things.len()).filter(|&thing| things[thing].pickupable && TARGETS.contains(&things[thing].kind.as_str()));
    kinds.len() >= LEAST_KINDS && all_rooms_reached(home) && errands.any(|thing| accessible(home, thing))
}

/// Whether one walk over the free floor comes to every room.
fn all_rooms_reached(home: &Home) -> bool {
    const STEP: f64 = 0.15;
    let Home { scene, space, .. } = home;
    let (low, high) = space.bounds();
    let (columns, rows) = (libm::ceil((high.x - low.x) / STEP) as usize, libm::ceil((high.z - low.z) / STEP) as usize);
    let middle = |cell: usize| vec2(low.x + ((cell % columns) as f64 + 0.5) * STEP, low.z + ((cell / columns) as f64 + 0.5) * STEP);
    let free: Vec<bool> = (0..columns * rows).map(|cell| space.body_fits(middle(cell))).collect();
    let mut seen = vec![false; free.len()];
    let reached = |start: usize, seen: &mut Vec<bool>| -> Vec<usize> {
        let mut open = vec![start];
        let mut cells = Vec::new();
        seen[start] = true;
        while let Some(cell) = open.pop() {
            cells.push(cell);
            let (column, row) = (cell % columns, cell / columns);
            let next = [
                (column > 0).then(|| cell - 1),
                (column + 1 < columns).then_some(cell + 1),
                (row > 0).then(|| cell - columns),
                (row + 1 < rows).then_some(cell + columns),
            ];
            for next in next.into_iter().flatten() {
                if free[next] && !seen[next] {
                    seen[next] = true;
                    open.push(next);
                }
            }
        }
        cells
    };
    (0..free.len()).filter(|&cell| free[cell]).any(|start| {
        if seen[start] {
            return false;
        }
        let cells: Vec<Vec2> = reached(start, &mut seen).into_iter().map(middle).collect();
        let least = (LEAST_FLOOR_M2 / (STEP * STEP)) as usize;
        (0..scene.rooms.len()).all(|room| cells.iter().filter(|&&cell| space.room_at(cell) == room).count() >= least)
    })
}
