//! Houses counted: rooms, area, openings, objects, and which types stand in which rooms.
//!
//! In: houses of the schema. Out: means by number of rooms and by room type, and the ratio of one set's to another's.

use crate::{assets, compile::compile, error::Error, geometry::area, parse::flat, scene::HoleKind, schema::House};
use serde::Serialize;
use std::collections::BTreeMap;

/// Sums over houses with one number of rooms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    pub houses: f64,
    pub area_m2: f64,
    /// Inner doors and frames.
    pub doors: f64,
    pub windows: f64,
    /// What stands on the floor or hangs on a wall.
    pub furniture: f64,
    /// What stands on something.
    pub small: f64,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// By number of rooms.
    pub sizes: BTreeMap<usize, Count>,
    /// Rooms by type.
    pub rooms: BTreeMap<String, f64>,
    /// Objects by room type and object type.
    pub kinds: BTreeMap<(String, String), f64>,
}

/// A mean of two sets, side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub what: String,
    pub reference: f64,
    pub generated: f64,
    /// `generated / reference`.
    pub ratio: f64,
}

impl Row {
    fn new(what: String, reference: f64, generated: f64) -> Row {
        let round = |value: f64| libm::round(value * 1000.0) / 1000.0;
        Row { what, reference: round(reference), generated: round(generated), ratio: round(generated / reference) }
    }

    /// Whether the ratio is within a share of 1.
    pub fn within(&self, share: f64) -> bool {
        (self.ratio - 1.0).abs() <= share
    }
}

impl Statistics {
    /// Adds a house that counts `weight` times.
    ///
    /// # Errors
    /// It does not compile.
    pub fn add(&mut self, house: &House, weight: f64) -> Result<(), Error> {
        let scene = compile(house)?;
        let size = self.sizes.entry(house.rooms.len()).or_default();
        size.houses += weight;
        size.area_m2 += weight * house.rooms.iter().map(|room| area(&flat(&room.floor))).sum::<f64>();
        size.doors += weight * scene.doors.len() as f64;
        let windows = scene.walls.iter().flat_map(|wall| &wall.holes).filter(|hole| hole.kind == HoleKind::Window).count();
        // A window is in the inner and in the outer side of its wall.
        size.windows += weight * windows as f64 / 2.0;
        for room in &house.rooms {
            *self.rooms.entry(room.kind.clone()).or_default() += weight;
        }
        for thing in &scene.things {
            *if thing.parent.is_some() { &mut size.small } else { &mut size.furniture } += weight;
            let room = house.rooms[usize::from(thing.room)].kind.clone();
            if assets::find(&thing.asset).is_some() {
                *self.kinds.entry((room, thing.kind.clone())).or_default() += weight;
            }
        }
        Ok(())
    }

    /// Means by number of rooms, of this set and of another.
    pub fn by_size(&self, generated: &Statistics) -> Vec<Row> {
        let mut rows = Vec::new();
        for (rooms, one) in &self.sizes {
            let Some(two) = generated.sizes.get(rooms) else { continue };
            let mut add = |what: &str, pick: fn(&Count) -> f64| {
                rows.push(Row::new(format!("{rooms} rooms: {what}"), pick(one) / one.houses, pick(two) / two.houses));
            };
            add("area m2", |count| count.area_m2);
            add("objects", |count| count.furniture + count.small);
            add("furniture", |count| count.furniture);
            add("small objects", |count| count.small);
        }
        rows
    }

    /// Means of a type per room of a type, for those that this set has at least `least` of in a room, commonest first.
    pub fn by_kind(&self, generated: &Statistics, least: f64) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for ((room, kind), number) in &self.kinds {
            let mean = number / self.rooms[room];
            if mean >= least {
                let other = generated.kinds.get(&(room.clone(), kind.clone())).copied().unwrap_or(0.0);
                let rooms = generated.rooms.get(room).copied().unwrap_or(1.0);
                rows.push(Row::new(format!("{room}: {kind}"), mean, other / rooms));
            }
        }
        rows.sort_by(|one, other| other.reference.total_cmp(&one.reference));
        rows
    }
}
