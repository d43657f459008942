//! A stepper started by hand joins a run that goes on, gets work at once, and loses none when it is stopped.

use anyhow::{Context, Result};
use journeys::{Journey, program, slow_pipeline};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_stepper_comes_and_goes() -> Result<()> {
    let pipeline = slow_pipeline(false).replace("batches = 6", "batches = 30");
    let mut journey = Journey::start(&pipeline, &[])?;
    journey.wait_until(Duration::from_secs(180), "the first turns", |all| all.values().any(|p| p.stage == "env-stepper" && p.done > 0))?;
    let log = std::fs::File::create(journey.home.path().join("visitor.log"))?;
    // Nothing but the server's URL and the run's name, as on another host.
    let elsewhere = tempfile::tempdir()?;
    let mut visitor = Command::new(program("env-stepper")?)
        .args(["--nats", &journey.server.url(), "--run", &journey.run, "--id", "visitor"])
        .current_dir(elsewhere.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    journey.wait_until(Duration::from_secs(180), "work for the visitor", |all| all.get("visitor").is_some_and(|p| p.done > 0))?;
    Command::new("kill").args(["-TERM", &visitor.id().to_string()]).status()?;
    let status = visitor.wait().context("the visitor is gone")?;
    assert!(status.success(), "the visitor left with {status}");
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    Ok(())
}
