//! A run that was stopped goes on from its checkpoint and its Parquet files.

use anyhow::Result;
use journeys::{Journey, slow_pipeline};
use std::time::Duration;

#[test]
fn a_run_goes_on_when_the_broker_has_lost_everything() -> Result<()> {
    let mut journey = Journey::start(&slow_pipeline(false).replace("batches = 40", "batches = 50"), &[])?;
    journey.wait_until(Duration::from_secs(180), "some batches", |all| {
        all.values().any(|p| p.stage == "learner" && p.gauges.get("batch").is_some_and(|batch| *batch >= 5.0))
    })?;
    journey.interrupt()?;
    assert!(journey.wait(Duration::from_secs(90))?.success());
    // Another server, with an empty JetStream folder: what is left is the checkpoint and the Parquet files.
    journey.server = kit::testing::NatsServer::start();
    journey.again(&["--resume"])?;
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    assert!(summary["result"]["batches"].as_u64().expect("a count") >= 50, "{summary:#}");
    let last = summary["validation"].as_array().and_then(|passes| passes.last()).expect("a pass");
    assert_eq!(last["episodes"], 24, "the final version is judged in full: {summary:#}");
    Ok(())
}

#[test]
fn a_stopped_run_goes_on() -> Result<()> {
    let mut journey = Journey::start(&slow_pipeline(false).replace("batches = 40", "batches = 60"), &[])?;
    journey.wait_until(Duration::from_secs(180), "some batches", |all| {
        all.values().any(|p| p.stage == "learner" && p.gauges.get("batch").is_some_and(|batch| *batch >= 5.0))
    })?;
    journey.interrupt()?;
    assert!(journey.wait(Duration::from_secs(90))?.success());
    journey.again(&["--resume"])?;
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    assert!(summary["result"]["batches"].as_u64().expect("a count") >= 60, "{summary:#}");
    Ok(())
}
