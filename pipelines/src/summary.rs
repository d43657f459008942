//! The table that a run ends with, and the same as JSON in `runs/<run>/summary.json`.

use crate::progress::Totals;
use anyhow::{Context, Result};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use schemas::pipeline::Pipeline;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a run came to.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) json: Value,
    pub(crate) clean: bool,
}

/// Where a run's trajectories are kept.
pub(crate) fn store_url(pipeline: &Pipeline, folder: &Path) -> String {
    if pipeline.record.url.is_empty() { folder.join("trajectories").display().to_string() } else { pipeline.record.url.clone() }
}

/// The newest version that a run's files know of.
pub(crate) fn last_version(folder: &Path) -> Option<u64> {
    let validation = read_json(&folder.join("result.json")).ok()?;
    validation.get("versions")?.as_u64()
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("`{}` is no JSON", path.display()))
}

/// Collects the run's figures, and audits it.
pub(crate) async fn gather(
    client: &async_nats::Client,
    run: &str,
    folder: &Path,
    pipeline: &Pipeline,
    totals: Totals,
    restarts: u32,
    elapsed: Duration,
) -> Result<Summary> {
    let url = store_url(pipeline, folder);
    let audit = crate::audit::audit(folder, &url, client, run).await?;
    let validation = read_json(&folder.join("validation.json")).unwrap_or_else(|_| json!([]));
    let result = read_json(&folder.join("result.json")).unwrap_or_else(|_| json!({}));
    let turns = totals.gauge("env-stepper", "turns_total");
    let seconds = totals.turning.as_secs_f64();
    let json = json!({
        "run": run,
        "pipeline": pipeline.name,
        "seconds": elapsed.as_secs_f64(),
        "turns": turns,
        "turns_per_second": if seconds > 0.0 { turns / seconds } else { 0.0 },
        "restarts": restarts,
        "validation": validation,
        "result": result,
        "trajectories": url,
        "checkpoints": folder.join("checkpoints").display().to_string(),
        "audit": { "clean": audit.is_clean(), "checks": audit.lines() },
    });
    let path = folder.join("summary.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&json)?).with_context(|| format!("`{}` cannot be written", path.display()))?;
    Ok(Summary { json, clean: audit.is_clean() })
}

impl Summary {
    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let j = &self.json;
        let passes = j["validation"].as_array().cloned().unwrap_or_default();
        let shown = |pass: Option<&Value>| pass.map_or_else(|| "not measured".to_string(), describe_pass);
        table.add_row(["held-out success before", &shown(passes.first())]);
        for pass in passes.iter().skip(1).rev().skip(1).rev() {
            let name = format!("… after {}", pass["phase"].as_str().unwrap_or_default());
            table.add_row([name.as_str(), &shown(Some(pass))]);
        }
        table.add_row(["held-out success after", &shown(passes.get(1..).and_then(<[Value]>::last))]);
        table.add_row(["turns", &format!("{:.0} ({:.0} a second)", number(&j["turns"]), number(&j["turns_per_second"]))]);
        table.add_row(["tokens trained", &format!("{:.0}", number(&j["result"]["trained_tokens"]))]);
        table.add_row(["optimiser steps", &format!("{:.0}", number(&j["result"]["steps"]))]);
        table.add_row(["seconds", &seconds_by_part(j)]);
        table.add_row(["stages started again", &format!("{:.0}", number(&j["restarts"]))]);
        table.add_row(["trajectories", j["trajectories"].as_str().unwrap_or_default()]);
        table.add_row(["checkpoints", j["checkpoints"].as_str().unwrap_or_default()]);
        let verdict = if self.clean { "clean".to_string() } else { failed_checks(j) };
        table.add_row(["audit", &verdict]);
        table.to_string()
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

/// `61.5 % strict (54.6 to 68.2), 70.0 % lenient, 200 episodes, version 31`.
fn describe_pass(pass: &Value) -> String {
    let percent = |v: &Value| number(v) * 100.0;
    let interval = match pass["success_ci"].as_array() {
        Some(ends) if ends.len() == 2 => format!(" ({:.1} to {:.1})", percent(&ends[0]), percent(&ends[1])),
        _ => String::new(),
    };
    format!(
        "{:.1} % strict{interval}, {:.1} % lenient, {:.0} episodes, version {:.0}",
        percent(&pass["success"]),
        percent(&pass["lenient"]),
        number(&pass["episodes"]),
        number(&pass["version"])
    )
}

fn seconds_by_part(json: &Value) -> String {
    let mut parts = vec![format!("{:.0} in all", number(&json["seconds"]))];
    for group in ["seconds_by_phase", "seconds_by_part"] {
        if let Some(map) = json["result"][group].as_object() {
            let listed: Vec<String> = map.iter().map(|(name, value)| format!("{name} {:.0}", number(value))).collect();
            parts.push(listed.join(", "));
        }
    }
    parts.join("\n")
}

fn failed_checks(json: &Value) -> String {
    let lines = json["audit"]["checks"].as_array().cloned().unwrap_or_default();
    lines.iter().filter_map(Value::as_str).filter(|line| line.contains("FAIL")).collect::<Vec<_>>().join("\n")
}

/// A run's folder under `runs`, which must be there.
pub(crate) fn folder_of(runs: &Path, run: &str) -> Result<PathBuf> {
    let folder = runs.join(run);
    if folder.is_dir() {
        return Ok(std::path::absolute(folder)?);
    }
    let known: Vec<String> = std::fs::read_dir(runs)
        .map(|entries| entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, run));
    let hint = nearest.map_or_else(String::new, |name| format!("; hint: the nearest name is `{name}`"));
    anyhow::bail!("no run `{run}` in {}{hint}", runs.display())
}
