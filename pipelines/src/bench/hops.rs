//! `errand bench hops`: what the pipeline itself costs, with nothing computed for a model.
//!
//! Six processes and a file-backed server, FrozenLake, 64 rollouts in flight, replies from a script, no optimiser step;
//! everything else is real: tokenizer, template, parsing, acks, Parquet, audit. The rival is VAGEN's HTTP service, which gave
//! 890 turns a second in text and 178 in pictures on a two-core machine.

use super::{process, report};
use crate::{config, summary};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

const WARM_S: f64 = 3.0;
const VAGEN_TEXT: f64 = 890.0;
const VAGEN_PICTURES: f64 = 178.0;

pub(crate) async fn run(runs: &Path, pictures: bool, seconds: f64, tokenizer: Option<PathBuf>) -> Result<Value> {
    let mut loaded = config::load(Path::new("pipelines/hops.toml"))?;
    let tokenizer =
        tokenizer.context("the Qwen2.5 tokenizer is needed; hint: python3 ops/make_qwen_tokenizer.py FOLDER, then --tokenizer FOLDER")?;
    let p = &mut loaded.pipeline;
    p.policy.tokenizer = tokenizer.display().to_string();
    p.world.pictures = pictures;
    let name = if pictures { "bench-hops-pictures" } else { "bench-hops" };
    let measured = process::measured_run(runs, name, loaded, WARM_S, seconds).await?;
    let window = &measured.window;
    let way = way_percentiles(&measured).await?;

    let mut figures = Map::new();
    let mut figure = |key: String, value: f64| figures.insert(key, json!((value * 1000.0).round() / 1000.0));
    figure("turns_per_second".into(), window.turns / window.seconds);
    figure("turn_p50_ms".into(), way.0);
    figure("turn_p99_ms".into(), way.1);
    for (stage, cpu) in &window.cpu_s {
        figure(format!("cpu_us_per_turn.{stage}"), cpu * 1e6 / window.turns.max(1.0));
    }
    for (stage, rss) in &window.rss_mib {
        figure(format!("resident_mib.{stage}"), *rss);
    }
    for (way, bytes) in &window.bytes {
        figure(format!("bytes_per_turn.{way}"), bytes / window.turns.max(1.0));
    }
    figure("audit_clean".into(), f64::from(u8::from(measured.summary.clean)));
    let rival = if pictures { VAGEN_PICTURES } else { VAGEN_TEXT };
    let rivals = Map::from_iter([("vagen_http_service_turns_per_second".to_string(), json!(rival))]);
    Ok(report(if pictures { "hops-pictures" } else { "hops" }, figures, rivals))
}

/// Median and 99th percentile, in milliseconds, of a turn's way from stepper to stepper.
async fn way_percentiles(measured: &process::Measured) -> Result<(f64, f64)> {
    let reader = store::Reader::open(&summary::store_url(&measured.pipeline, &measured.folder), &measured.run).await?;
    let mut spans: Vec<u64> = Vec::new();
    for turn in reader.all_turns().await? {
        if let (Some(first), Some(last)) = (turn.trail.first(), turn.trail.last()) {
            spans.push(last.2.saturating_sub(first.1));
        }
    }
    anyhow::ensure!(!spans.is_empty(), "no turn was recorded");
    spans.sort_unstable();
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    Ok((at(0.5), at(0.99)))
}
