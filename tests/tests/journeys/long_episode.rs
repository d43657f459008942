//! Episodes of 600 turns train as well as short ones: cut into segments, each token trained once, in the context that it was
//! sampled in.

use anyhow::{Context, Result};
use journeys::{Journey, small_pipeline};
use serde_json::Value;
use std::time::Duration;

const TURNS: u64 = 600;

/// A large lake with hardly a hole, for a policy that knows nothing and so is found wandering at the limit; no staleness, so that
/// each batch is trained at the version that sampled it.
fn pipeline() -> String {
    let lake = "settings = { view = \"relative\", size = 10, frozen_probability = 0.97 }";
    let text = small_pipeline(false)
        .replace("settings = { view = \"cells\" }", lake)
        .replace("validation = 24", "validation = 2")
        .replace("group_size = 4\n", "group_size = 2\n")
        .replace("group_size_hard = 4", "group_size_hard = 2")
        .replace("observation_tokens = 40", "observation_tokens = 80")
        .replace("segment_tokens = 256", "segment_tokens = 1024")
        .replace("steps = 12", &format!("steps = {}", 3 * TURNS))
        .replace("turns = 5", &format!("turns = {TURNS}"))
        .replace("episode_tokens = 1024", "episode_tokens = 131072")
        .replace("[learner]\n", "[learner]\nmax_staleness = 0\n");
    let schedule = text.find("[[schedule]]").expect("the small pipeline has a schedule");
    format!("{}[[schedule]]\nphase = \"grpo\"\nbatches = 2\nbatch = 2\n", &text[..schedule])
}

#[test]
fn a_fresh_pass_over_600_turns_gives_the_sampled_probabilities() -> Result<()> {
    let mut journey = Journey::start(&pipeline(), &[])?;
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    let turns = summary["turns"].as_f64().context("a count of turns")?;
    assert!(turns >= (8 * TURNS) as f64 * 0.9, "almost every episode lasts to its limit: {turns} turns in 12 episodes");

    let lines = std::fs::read_to_string(journey.folder().join("learner.jsonl"))?;
    let batches: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!(batches.len(), 2, "{lines}");
    for batch in &batches {
        let trained = batch["tokens_trained"].as_u64().context("a count")?;
        let sampled = batch["tokens_sampled"].as_u64().context("a count")?;
        assert_eq!(trained, sampled, "no sampled token is left out: {batch}");
        assert!(trained > 4 * TURNS, "four episodes, a token a turn at least: {batch}");
    }
    // Before the first step of the optimiser the learner's pass has the weights that sampled: `exp(d) - d - 1` is `d² / 2`,
    // so 5e-11 is a difference of 1e-5.
    let mismatch = batches[0]["kl_mismatch"].as_f64().context("a mismatch")?;
    assert!(mismatch < 5e-11, "fresh and sampled log-probabilities differ: {mismatch}");
    Ok(())
}
