//! `errand bench scaling`: steppers of a slow world side by side.
//!
//! Each stepper runs one rollout at a time in a world whose step sleeps 25 ms, so that steppers, not cores, bound the rate.

use super::{process, report};
use crate::config;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::path::Path;

const STEP_MS: i64 = 25;
const STEPPERS: [u32; 3] = [1, 2, 4];
const WARM_S: f64 = 2.0;

pub(crate) async fn run(runs: &Path, seconds: f64) -> Result<Value> {
    let mut figures = Map::new();
    let mut rates = Vec::new();
    for steppers in STEPPERS {
        let rate = turns_per_second(runs, steppers, seconds).await?;
        figures.insert(format!("turns_per_second.{steppers}"), json!(rate));
        rates.push(rate / f64::from(steppers));
    }
    let efficiency = rates.last().copied().unwrap_or(0.0) / rates.first().copied().unwrap_or(f64::INFINITY);
    figures.insert("efficiency_1_to_4".into(), json!(efficiency));
    Ok(report("scaling", figures, Map::new()))
}

async fn turns_per_second(runs: &Path, steppers: u32, seconds: f64) -> Result<f64> {
    let mut loaded = config::load(Path::new("pipelines/hops.toml"))?;
    let p = &mut loaded.pipeline;
    p.world.name = "delay".into();
    p.world.settings.insert("step_ms".into(), toml::Value::Integer(STEP_MS));
    p.prompt.format = schemas::pipeline::Format::Actions;
    p.prompt.system = false;
    p.prompt.action_separator = " ".into();
    p.prompt.actions_per_turn = 1;
    p.stages.env_steppers = steppers;
    p.stages.slots = 1;
    let name = format!("bench-scaling-{steppers}");
    let window = process::measured_run(runs, &name, loaded, WARM_S, seconds).await?.window;
    Ok(window.turns / window.seconds)
}
