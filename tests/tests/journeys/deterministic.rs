//! One stepper, four steppers, and four with kills give the same weights, bit for bit.

use anyhow::Result;
use journeys::{Journey, slow_pipeline, weights_digest};
use std::time::Duration;

fn weights(arguments: &[&str], kills: &[&str]) -> Result<String> {
    let mut journey = Journey::start(&slow_pipeline(true), arguments)?;
    for stage in kills {
        journey.kill(stage)?;
    }
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    assert!(summary["restarts"].as_u64().expect("a count") >= kills.len() as u64, "{summary:#}");
    weights_digest(&journey.folder())
}

#[test]
fn steppers_and_kills_do_not_change_the_weights() -> Result<()> {
    let one = weights(&["--steppers", "1"], &[])?;
    let four = weights(&["--steppers", "4"], &[])?;
    let killed = weights(&["--steppers", "4"], &["env-stepper", "generator", "learner"])?;
    assert_eq!(one, four, "the number of steppers changed the weights");
    assert_eq!(one, killed, "a kill changed the weights");
    Ok(())
}
