//! `errand bench scenes`: seconds until 64 fetch environments are ready, houses parsed and compiled included.

use super::report;
use crate::{config, kinds};
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::Instant;

const ENVIRONMENTS: u64 = 64;

pub(crate) fn run() -> Result<Value> {
    let loaded = config::load(Path::new("pipelines/fetch-text.toml"))?;
    let kind = kinds::kind(&loaded.pipeline)?;
    let tasks = (0..ENVIRONMENTS).map(|number| kind.held_out(number)).collect::<Result<Vec<_>, _>>().map_err(anyhow::Error::msg)?;
    let started = Instant::now();
    for task in &tasks {
        let scene = kind.scene(task).map_err(anyhow::Error::msg)?;
        let world = kind.start(task, scene.as_ref().map(|s| s.bytes.as_slice())).map_err(anyhow::Error::msg)?;
        anyhow::ensure!(!world.observe().is_empty(), "a world shows nothing");
    }
    let seconds = started.elapsed().as_secs_f64();
    let figures = Map::from_iter([
        ("seconds".to_string(), json!(seconds)),
        ("environments".to_string(), json!(ENVIRONMENTS)),
        ("ms_per_environment".to_string(), json!(seconds * 1000.0 / ENVIRONMENTS as f64)),
    ]);
    // VAGEN's service took 25 to 40 s to create one environment.
    let rivals = Map::from_iter([("vagen_seconds_for_one".to_string(), json!(25.0))]);
    Ok(report("scenes", figures, rivals))
}
