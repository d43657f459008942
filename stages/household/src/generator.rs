//! The built-in house generator: a number in, a house of the ProcTHOR schema out.
//!
//! One to ten rectilinear rooms grown on a grid, with doors, open passages and windows; furniture by room type along walls,
//! in corners and in the middle; pictures; small objects on receptacles. A house is given out only if one can walk from
//! every room to every other, it holds at least five object types and the hand reaches something to fetch. How many objects
//! of each type a room holds on average comes from `assets/rooms.tsv`. Training and held-out houses draw from disjoint
//! assets where the table of assets tells them apart.

mod furnish;
mod place;
mod plan;
mod rates;
mod walls;

use crate::{
    assets::{self, Asset, AssetSplit},
    compile::compile,
    error::Error,
    scene::Scene,
    schema::House,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

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
/// Most rooms of a house.
pub const MOST_ROOMS: usize = 10;

/// Makes a house. The same split and number give the same house; every number of rooms is as likely.
///
/// # Errors
/// No layout of this number passed the checks.
pub fn generate(split: HouseSplit, number: u64) -> Result<House, Error> {
    (0..TRIES).find_map(|attempt| build(split, number, attempt, None)).ok_or(Error::NoHouse { seed: number, tries: TRIES })
}

/// Makes a house of 1 to [`MOST_ROOMS`] rooms.
///
/// # Errors
/// As [`generate`]; also for a number of rooms that is not allowed.
pub fn generate_rooms(split: HouseSplit, number: u64, rooms: usize) -> Result<House, Error> {
    if rooms == 0 || rooms > MOST_ROOMS {
        return Err(Error::Scene { what: format!("{rooms} rooms: a house has 1 to {MOST_ROOMS}") });
    }
    (0..TRIES).find_map(|attempt| build(split, number, attempt, Some(rooms))).ok_or(Error::NoHouse { seed: number, tries: TRIES })
}

/// Makes a house and its scene.
///
/// # Errors
/// As [`generate`].
pub fn generate_compiled(split: HouseSplit, number: u64) -> Result<(House, Scene), Error> {
    let house = generate(split, number)?;
    let scene = compile(&house)?;
    Ok((house, scene))
}

fn build(split: HouseSplit, number: u64, attempt: u32, rooms: Option<usize>) -> Option<House> {
    let asked = rooms.map_or_else(|| "any".to_owned(), |rooms| rooms.to_string());
    let seed = blake3::hash(format!("house/{}/{asked}/{number}/{attempt}", split.label()).as_bytes());
    let mut rng = ChaCha8Rng::from_seed(*seed.as_bytes());
    let rooms = rooms.unwrap_or_else(|| rng.random_range(1..=MOST_ROOMS));
    let plan = plan::Plan::grow(rooms, &mut rng)?;
    let mut house = walls::house(&plan, split, &mut rng)?;
    if !furnish::furnish(&mut house, &plan, split, &mut rng) {
        return None;
    }
    let kinds: BTreeSet<&str> = house.all_objects().filter_map(|object| assets::find(&object.asset)).map(|asset| asset.kind).collect();
    (kinds.len() >= LEAST_KINDS).then_some(house)
}

/// An asset of a type, of this split, that passes a test.
fn draw(kind: &str, split: HouseSplit, rng: &mut ChaCha8Rng, fits: impl Fn(&Asset) -> bool) -> Option<&'static Asset> {
    let choice = || assets::of_kind(kind).filter(|asset| split.takes(asset) && fits(asset));
    let count = choice().count();
    (count > 0).then(|| rng.random_range(0..count)).and_then(|index| choice().nth(index))
}
