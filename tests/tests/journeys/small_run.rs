//! A run from nothing to its table.

use anyhow::Result;
use journeys::{Journey, small_pipeline};
use std::time::Duration;

#[test]
fn a_small_pipeline_runs_to_a_clean_audit() -> Result<()> {
    let mut journey = Journey::start(&small_pipeline(false), &[])?;
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    let passes = summary["validation"].as_array().expect("passes");
    assert_eq!(passes.len(), 2, "before and after: {passes:?}");
    assert!(passes.iter().all(|p| p["episodes"] == 24), "{passes:?}");
    assert!(summary["result"]["trained_tokens"].as_f64().expect("a count") > 0.0);
    assert!(summary["turns"].as_f64().expect("a count") > 0.0);
    assert!(journey.printed().contains("audit"), "the table is printed: {}", journey.printed());
    Ok(())
}
