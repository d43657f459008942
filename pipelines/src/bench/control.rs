//! `errand bench control`: what learning by reinforcement added.
//!
//! The pipeline as it is, against one that spends the reinforcement's minutes on more imitation with DAgger. Same seeds, same
//! held-out episodes, so that the comparison is paired.

use super::{free_run, report};
use crate::{config, up};
use anyhow::{Context, Result};
use schemas::pipeline::{Phase, Pipeline};
use serde_json::{Map, Value, json};
use std::path::Path;

pub(crate) async fn run(runs: &Path, path: &Path, seeds: u64) -> Result<Value> {
    let loaded = config::load(path)?;
    let mut figures = Map::new();
    let mut gains = Vec::new();
    for seed in 1..=seeds.max(1) {
        let mut reinforced = loaded.clone();
        reinforced.pipeline.seed = seed;
        let mut imitated = reinforced.clone();
        more_imitation(&mut imitated.pipeline);
        let with = success(runs, "reinforced", reinforced).await?;
        let without = success(runs, "control", imitated).await?;
        figures.insert(format!("success.reinforced.seed{seed}"), json!(with));
        figures.insert(format!("success.control.seed{seed}"), json!(without));
        gains.push(with - without);
    }
    let mean = gains.iter().sum::<f64>() / gains.len() as f64;
    figures.insert("gain_points_mean".into(), json!(mean * 100.0));
    Ok(report("control", figures, Map::new()))
}

/// Turns each GRPO phase into one of DAgger that takes as many minutes, at the settings of the last imitating phase.
fn more_imitation(pipeline: &mut Pipeline) {
    let model = pipeline.schedule.iter().rev().find(|s| matches!(s.phase, Phase::Dagger | Phase::Imitation)).cloned();
    for phase in pipeline.schedule.iter_mut().filter(|s| s.phase == Phase::Grpo) {
        let minutes = phase.minutes;
        if let Some(model) = &model {
            *phase = model.clone();
        }
        phase.phase = Phase::Dagger;
        phase.minutes = minutes;
        phase.batches = 0;
    }
}

async fn success(runs: &Path, arm: &str, mut loaded: config::Loaded) -> Result<f64> {
    loaded.text = toml::to_string(&loaded.pipeline)?;
    let run = free_run(runs, &format!("bench-{arm}-{}", loaded.pipeline.name));
    let options = up::Options { nats: None, run: Some(run), runs: runs.to_path_buf(), resume: false, feasibility: false };
    let summary = up::up(&loaded, &options).await?.context("the benchmark was stopped")?;
    let passes = summary.json["validation"].as_array().cloned().unwrap_or_default();
    passes.last().and_then(|p| p["success"].as_f64()).context("the final version was not validated")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_spends_the_same_minutes_without_reinforcement() {
        let text = "name = \"a\"\n[world]\nname = \"frozenlake\"\n[[schedule]]\nphase = \"imitation\"\nminutes = 2.0\nbatch = 8\n[[schedule]]\nphase = \"grpo\"\nminutes = 3.0\nbatch = 4\n";
        let mut pipeline = config::parse(text).expect("valid");
        more_imitation(&mut pipeline);
        assert!(pipeline.schedule.iter().all(|s| s.phase != Phase::Grpo));
        assert_eq!(pipeline.schedule.iter().map(|s| s.minutes).sum::<f64>(), 5.0);
        assert_eq!(pipeline.schedule[1].batch, 8);
    }
}
