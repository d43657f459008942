//! Ctrl-C ends all of a run cleanly, and nothing is left running.

use anyhow::Result;
use journeys::{Journey, is_alive, small_pipeline};
use std::time::Duration;

#[test]
fn ctrl_c_leaves_nothing_running() -> Result<()> {
    let mut journey = Journey::start(&small_pipeline(false).replace("batches = 40", "batches = 4000"), &[])?;
    let heard = journey.wait_until(Duration::from_secs(180), "all six stages", |all| {
        let stages: std::collections::BTreeSet<&str> = all.values().map(|p| p.stage.as_str()).collect();
        stages.len() == 6
    })?;
    journey.interrupt()?;
    let status = journey.wait(Duration::from_secs(90))?;
    assert!(status.success(), "{}", journey.printed());
    for presence in heard.values() {
        assert!(!is_alive(presence.pid), "{} is still running", presence.id);
    }
    assert!(journey.printed().contains("--resume"), "it says how to go on: {}", journey.printed());
    Ok(())
}
