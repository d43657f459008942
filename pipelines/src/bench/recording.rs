//! `errand bench recording`: what it costs a run that its trajectories are kept.
//!
//! In text, the default pipeline's reinforcement with a policy that samples and learns: a run that keeps all cores busy loses at
//! most the share of CPU time that its recorder takes. In pictures, both cameras at full size behind scripted replies, once with
//! each setting of `record.pictures`: turns a second, and bytes a turn on disk.

use super::{process, report};
use crate::{config, summary};
use anyhow::{Context, Result};
use schemas::pipeline::{Engine, Phase, Pictures, Pipeline};
use serde_json::{Map, Value, json};
use std::path::Path;

const WARM_S: f64 = 3.0;
const STAGE: &str = "recorder";

pub(crate) async fn run(runs: &Path, seconds: f64) -> Result<Value> {
    let mut figures = Map::new();
    let mut figure = |key: String, value: f64| figures.insert(key, json!((value * 10_000.0).round() / 10_000.0));

    let mut text = config::load(Path::new("pipelines/fetch-text.toml"))?;
    reinforce_only(&mut text.pipeline)?;
    let measured = process::measured_run(runs, "bench-recording-text", text, WARM_S, seconds).await?;
    let window = &measured.window;
    let (recorder, all) = (window.cpu_s.get(STAGE).copied().unwrap_or(0.0), window.cpu_s.values().sum::<f64>());
    figure("text.turns_per_second".into(), window.turns / window.seconds);
    figure("text.cores_busy".into(), all / window.seconds);
    figure("text.recorder_cpu_us_per_turn".into(), recorder * 1e6 / window.turns.max(1.0));
    figure("text.recorder_share_of_cpu".into(), recorder / all.max(f64::MIN_POSITIVE));

    for (name, pictures) in [("all", Pictures::All), ("eval", Pictures::Eval), ("none", Pictures::None)] {
        let mut seen = config::load(Path::new("pipelines/fetch-vision.toml"))?;
        let p = &mut seen.pipeline;
        reinforce_only(p)?;
        p.generator.engine = Engine::Scripted;
        p.learner.idle = true;
        p.record.pictures = pictures;
        for (key, value) in [("width", 384), ("height", 224)] {
            p.world.settings.insert(key.into(), toml::Value::Integer(value));
        }
        p.prompt.observation_tokens = 512;
        p.prompt.segment_tokens = 4096;
        let measured = process::measured_run(runs, &format!("bench-recording-{name}"), seen, WARM_S, seconds).await?;
        let window = &measured.window;
        figure(format!("pictures.{name}.turns_per_second"), window.turns / window.seconds);
        figure(
            format!("pictures.{name}.recorder_cpu_us_per_turn"),
            window.cpu_s.get(STAGE).copied().unwrap_or(0.0) * 1e6 / window.turns.max(1.0),
        );
        figure(format!("pictures.{name}.bytes_per_turn"), stored_bytes(&measured).await?);
    }
    Ok(report("recording", figures, Map::new()))
}

/// Nothing but the pipeline's reinforcement, from weights drawn at random, and no validation.
fn reinforce_only(pipeline: &mut Pipeline) -> Result<()> {
    pipeline.schedule.retain(|phase| phase.phase == Phase::Grpo);
    pipeline.schedule.first().context("the pipeline reinforces nothing")?;
    pipeline.learner.validate = false;
    pipeline.learner.validate_phases = false;
    Ok(())
}

/// Bytes on disk of a turn, all that is kept of its trajectory included.
async fn stored_bytes(measured: &process::Measured) -> Result<f64> {
    let reader = store::Reader::open(&summary::store_url(&measured.pipeline, &measured.folder), &measured.run).await?;
    let bytes: u64 = [store::Kind::Trajectories, store::Kind::Turns].into_iter().flat_map(|kind| reader.files(kind)).map(|f| f.bytes).sum();
    let turns: u64 = reader.files(store::Kind::Turns).map(|file| file.rows).sum();
    Ok(bytes as f64 / turns.max(1) as f64)
}
