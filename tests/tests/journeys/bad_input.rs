//! Bad input gets one clear line: what, where, what is allowed, a hint. Exit code 1.

use anyhow::Result;
use journeys::{Journey, program, small_pipeline};
use std::process::Command;
use std::time::Duration;

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

#[test]
fn houses_of_which_none_is_usable_end_the_run_before_it_starts() -> Result<()> {
    let home = tempfile::tempdir()?;
    let houses = home.path().join("houses.jsonl");
    std::fs::write(&houses, "{\"rooms\": []}\nnot json at all\n")?;
    let text = format!(
        "name = \"houses\"\n[world]\nname = \"fetch\"\n[episodes]\nhouses = \"{}\"\n[[schedule]]\nphase = \"imitation\"\nbatches = 1\nbatch = 1\n",
        houses.display()
    );
    let (code, said) = validate(&text)?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no usable house") && said.contains("houses.jsonl:1") && said.contains("2 skipped"), "{said}");
    Ok(())
}

#[test]
fn a_runs_folder_that_cannot_be_made_is_one_clear_line() -> Result<()> {
    let home = tempfile::tempdir()?;
    let (file, in_the_way) = (home.path().join("pipeline.toml"), home.path().join("file"));
    std::fs::write(&file, small_pipeline(false))?;
    std::fs::write(&in_the_way, "")?;
    let output = Command::new(program("errand")?).arg("up").arg(&file).arg("--runs").arg(in_the_way.join("runs")).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("cannot be written; hint: give --runs a folder of yours"), "{said}");
    Ok(())
}

#[test]
fn a_policy_folder_of_another_shape_names_the_tensor() -> Result<()> {
    let mut journey = Journey::start(&small_pipeline(false).replace("batches = 40", "batches = 2"), &[])?;
    journey.finish(Duration::from_secs(480))?;
    let latest = std::fs::read_to_string(journey.folder().join("checkpoints/latest"))?;
    let trained = journey.folder().join("checkpoints").join(latest.trim()).join("policy");
    let config = std::fs::read_to_string(trained.join("config.json"))?;
    let wide: serde_json::Value = serde_json::from_str(&config)?;
    let narrower = wide["intermediate_size"].as_u64().expect("a width") / 2;
    let changed = wide.as_object().expect("an object").iter().map(|(key, value)| match key.as_str() {
        "intermediate_size" => (key.clone(), narrower.into()),
        _ => (key.clone(), value.clone()),
    });
    std::fs::write(trained.join("config.json"), serde_json::to_vec(&changed.collect::<serde_json::Map<_, _>>())?)?;
    let pipeline = journey.home.path().join("pipeline.toml");
    let (policy, board) = (trained.display().to_string(), journey.home.path().join("board.jsonl").display().to_string());
    let (code, said) = errand(&["eval", &pipeline.display().to_string(), "--policy", &policy, "--leaderboard", &board])?;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("mlp.gate_proj.weight`: expected shape") && said.contains("hint: config.json"), "{said}");
    Ok(())
}

/// A file system of a megabyte and a half, in a mount namespace of its own; where that is not allowed, the test says so.
#[test]
fn a_full_disk_is_one_clear_line_and_nothing_is_half_written() -> Result<()> {
    let namespace = ["--user", "--map-root-user", "--mount"];
    if !Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: no mount namespace may be made here");
        return Ok(());
    }
    let server = kit::testing::NatsServer::start();
    let home = tempfile::tempdir()?;
    let (file, small) = (home.path().join("pipeline.toml"), home.path().join("small"));
    std::fs::write(&file, small_pipeline(false))?;
    std::fs::create_dir(&small)?;
    let script = "mount -t tmpfs -o size=300k none \"$1\" || exit 99; \"$2\" up \"$3\" --nats \"$4\" --runs \"$1\" --run full; code=$?; \
                  find \"$1\" -name '*.tmp*' -o -name '*.safetensors' -size 0; exit $code";
    let output = Command::new("unshare")
        .args(namespace)
        .args(["sh", "-c", script, "sh"])
        .args([small.as_path(), &program("errand")?, &file])
        .arg(server.url())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) {
        println!("skipped: no file system may be mounted here");
        return Ok(());
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no room left on the disk"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "half-written files");
    Ok(())
}
