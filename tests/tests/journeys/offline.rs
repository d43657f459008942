//! Learning from a store alone, by a policy that looks at what was recorded.

use anyhow::{Context as _, Result};
use futures::TryStreamExt;
use journeys::{Journey, weights_digest};
use std::time::Duration;

/// A lake in pictures, imitated from 64 episodes of the expert that are recorded first, with nobody playing.
fn pipeline(pictures: &str) -> String {
    format!(
        r#"
name = "offline-vision"
seed = 5
deterministic = true

[world]
name = "frozenlake"
pictures = true

[prompt]
observation_tokens = 64
segment_tokens = 512
segment_images = 10

[limits]
steps = 12
turns = 5
reply_tokens = 6
episode_tokens = 4096

[policy]
hidden = 32
layers = 2
heads = 4
kv_heads = 2
intermediate = 64
vocabulary = 512

[policy.vision]
hidden = 32
layers = 2
heads = 2
intermediate = 64

[learner]
threads = 1
validate = false

[record]
pictures = "{pictures}"

[stages]
env_steppers = 0

[offline]
experts = 64

[[schedule]]
phase = "imitation"
batches = 4
batch = 16
learning_rate = 2e-3
"#
    )
}

/// The weights that a run comes to, and the bytes of the pictures that its dataset holds.
fn learn(pictures: &str) -> Result<(String, usize)> {
    let mut journey = Journey::start(&pipeline(pictures), &[])?;
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    let dataset = journey.folder().join("dataset");
    let run = std::fs::read_dir(dataset.join("manifest")).context("a dataset was recorded")?.next().context("of one run")??.file_name();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bytes = runtime.block_on(async {
        let reader = store::Reader::open(&dataset.display().to_string(), &run.to_string_lossy()).await?;
        let ends: Vec<schemas::End> = reader.trajectories().try_collect().await?;
        assert_eq!(ends.len(), 64);
        anyhow::Ok(ends.iter().flat_map(|end| &end.frames).map(|frame| frame.png.len()).sum())
    })?;
    Ok((weights_digest(&journey.folder())?, bytes))
}

#[test]
fn pictures_that_were_not_kept_are_rendered_again_and_teach_the_same() -> Result<()> {
    let (kept, left_out) = (learn("all")?, learn("none")?);
    assert!(kept.1 > 0 && left_out.1 == 0, "{} and {} bytes of pictures", kept.1, left_out.1);
    assert_eq!(kept.0, left_out.0, "what is rendered again is what was seen");
    Ok(())
}
