//! Generated houses beside the 96 houses with known assets: area and objects by number of rooms, types by room, and how
//! many houses a second one core makes. Every number is a mean; `ratio` is generated to reference.

use super::report;
use anyhow::{Context, Result};
use household::{
    generator::{HouseSplit, generate_compiled, generate_rooms},
    parse,
    statistics::{Row, Statistics},
};
use serde_json::{Map, Value, json};
use std::{fs::File, path::Path, time::Instant};

/// Generated houses for each number of rooms.
const EACH: u64 = 200;
/// Houses of the speed figure.
const TIMED: u64 = 400;
/// Types of which a room holds fewer than this on average are counted but not compared one by one.
const LEAST: f64 = 0.25;

pub(super) fn run(houses: &Path) -> Result<Value> {
    let mut figures = Map::new();
    let start = Instant::now();
    let made = (0..TIMED).filter(|&number| generate_compiled(HouseSplit::Train, number).is_ok()).count();
    figures.insert("houses_per_s".into(), json!((made as f64 / start.elapsed().as_secs_f64() * 10.0).round() / 10.0));
    figures.insert("houses_failed".into(), json!(TIMED - made as u64));
    let Some(reference) = reference(houses)? else {
        println!("no houses to compare with in {}: only the speed was measured", houses.display());
        return Ok(report("house-stats", figures, Map::new()));
    };
    let mut generated = Statistics::default();
    for (&rooms, count) in &reference.sizes {
        for number in 0..EACH {
            // As many houses of each size as the reference has, so that means over rooms can be compared.
            generated.add(&generate_rooms(HouseSplit::Train, number, rooms)?, count.houses / EACH as f64)?;
        }
    }
    let (sizes, kinds) = (reference.by_size(&generated), reference.by_kind(&generated, LEAST));
    table("by number of rooms", &sizes);
    table("objects of a type a room", &kinds);
    for (name, rows) in [("by_size", &sizes), ("by_kind", &kinds)] {
        figures.insert(format!("{name}_within_20_percent"), json!(rows.iter().filter(|row| row.within(0.2)).count()));
        figures.insert(format!("{name}_compared"), json!(rows.len()));
    }
    Ok(report("house-stats", figures, Map::new()))
}

/// What the reference houses have; `None` where they are not at hand.
fn reference(folder: &Path) -> Result<Option<Statistics>> {
    let mut statistics = Statistics::default();
    for name in ["train.jsonl.gz", "val.jsonl.gz"] {
        let Ok(file) = File::open(folder.join(name)) else { return Ok(None) };
        for (line, json) in parse::lines(file) {
            let house = json.and_then(|json| parse::house(&json)).with_context(|| format!("{name}:{line}"))?;
            statistics.add(&house, 1.0)?;
        }
    }
    Ok(Some(statistics))
}

fn table(title: &str, rows: &[Row]) {
    println!("| {title} | reference | generated | ratio |\n|---|---|---|---|");
    for row in rows {
        println!("| {} | {:.2} | {:.2} | {:.2} |", row.what, row.reference, row.generated, row.ratio);
    }
}
