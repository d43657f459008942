//! Bad input gets one clear line: what, where, what is allowed, a hint. Exit code 1.

use anyhow::Result;
use journeys::{program, small_pipeline};
use std::process::Command;

/// Runs `errand` and returns its exit code and stderr.
fn errand(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let home = tempfile::tempdir()?;
    let output = Command::new(program("errand")?).args(arguments).arg("--runs").arg(home.path()).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn validate(text: &str) -> Result<(Option<i32>, String)> {
    let home = tempfile::tempdir()?;
    let file = home.path().join("pipeline.toml");
    std::fs::write(&file, text)?;
    errand(&["validate", &file.display().to_string()])
}

#[test]
fn a_valid_pipeline_says_what_the_expert_can_solve() -> Result<()> {
    let (code, said) = validate(&small_pipeline(false))?;
    assert_eq!(code, Some(0), "{said}");
    Ok(())
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() -> Result<()> {
    let (code, said) = validate(&small_pipeline(false).replace("slots = 16", "slot = 16"))?;
    assert_eq!(code, Some(1));
    assert!(said.contains("pipeline.toml") && said.contains("`slot`") && said.contains("nearest name is `slots`"), "{said}");
    Ok(())
}

#[test]
fn a_value_out_of_range_is_named_with_what_is_allowed() -> Result<()> {
    let (code, said) = validate(&small_pipeline(false).replace("validation = 24", "validation = 0"))?;
    assert_eq!(code, Some(1));
    assert!(said.contains("`episodes.validation` is 0; allowed: 1 to"), "{said}");
    Ok(())
}

#[test]
fn too_small_a_token_budget_is_refused_with_the_limit_that_binds() -> Result<()> {
    let text = small_pipeline(false).replace("episode_tokens = 1024", "episode_tokens = 48");
    let (code, said) = validate(&text)?;
    assert_eq!(code, Some(1));
    assert!(said.contains("limits.episode_tokens"), "{said}");
    Ok(())
}

#[test]
fn no_server_is_one_clear_line() -> Result<()> {
    let home = tempfile::tempdir()?;
    let file = home.path().join("pipeline.toml");
    std::fs::write(&file, small_pipeline(false))?;
    let (code, said) = errand(&["up", &file.display().to_string(), "--nats", "nats://127.0.0.1:1"])?;
    assert_eq!(code, Some(1));
    assert!(said.contains("no NATS server answers at nats://127.0.0.1:1"), "{said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("errand: error")).count(), 1, "{said}");
    Ok(())
}

/// The stack that this one replaces held one turn of a task that needs 45 actions at least: 1,200 tokens a trajectory, 900 a
/// prompt, and two pictures' worth of words.
#[test]
fn the_settings_of_the_replaced_stack_are_refused() -> Result<()> {
    let text = r#"
name = "replaced"

[world]
name = "fetch"

[prompt]
format = "grounding_worldmodeling"
system = true
actions_per_turn = 1
action_separator = ","
observation_tokens = 900
segment_tokens = 2400

[limits]
steps = 600
reply_tokens = 200
episode_tokens = 1200

[policy]
vocabulary = 2048

[[schedule]]
phase = "grpo"
batches = 1
batch = 1
"#;
    let (code, said) = validate(text)?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("limits.episode_tokens"), "the limit that binds is named: {said}");
    Ok(())
}
