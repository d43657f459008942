//! `kill -9` of each stage in turn, in the middle of a run: it ends by itself, and the audit is clean.

use anyhow::Result;
use journeys::{Journey, slow_pipeline};
use std::time::Duration;

#[test]
fn a_run_survives_the_death_of_each_stage() -> Result<()> {
    let pipeline = slow_pipeline(false).replace("batches = 4\n", "batches = 8\n").replace("batches = 6", "batches = 30");
    let mut journey = Journey::start(&pipeline, &[])?;
    journey.wait_until(Duration::from_secs(180), "the first turns", |all| {
        all.values().any(|p| p.stage == "env-stepper" && p.gauges.get("turns_total").is_some_and(|t| *t > 20.0))
    })?;
    for stage in ["env-stepper", "prompt-renderer", "generator", "recorder", "learner", "scene-loader"] {
        journey.kill(stage)?;
    }
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    assert!(summary["restarts"].as_u64().expect("a count") >= 6, "{summary:#}");
    Ok(())
}

#[test]
fn a_run_survives_a_restart_of_the_server() -> Result<()> {
    let pipeline = slow_pipeline(false).replace("batches = 6", "batches = 30");
    let mut journey = Journey::start(&pipeline, &[])?;
    journey.wait_until(Duration::from_secs(180), "the first turns", |all| {
        all.values().any(|p| p.stage == "env-stepper" && p.gauges.get("turns_total").is_some_and(|t| *t > 20.0))
    })?;
    journey.server.restart();
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    Ok(())
}
