//! Learning from a store alone, by a policy that looks at what was recorded.

use anyhow::{Context as _, Result};
use futures::TryStreamExt;
use journeys::{Journey, weights_digest};
use std::path::Path;
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
observation_tokens = 160
segment_tokens = 1024
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

/// The weights that a run comes to, and the bytes of the pictures that are kept: in its dataset, and in its own record.
fn learn(pictures: &str) -> Result<(String, [usize; 2])> {
    let mut journey = Journey::start(&pipeline(pictures), &[])?;
    let summary = journey.finish(Duration::from_secs(480))?;
    assert_eq!(summary["audit"]["clean"], true, "{summary:#}");
    let bytes = [kept(&journey.folder().join("dataset"))?, kept(&journey.folder().join("trajectories"))?];
    Ok((weights_digest(&journey.folder())?, bytes))
}

/// Bytes of the pictures in a store of 64 trajectories and those that were brought beyond the last batch.
fn kept(folder: &Path) -> Result<usize> {
    let manifest = std::fs::read_dir(folder.join("manifest")).with_context(|| format!("nothing was recorded in {}", folder.display()));
    let run = manifest?.next().context("of one run")??.file_name();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let reader = store::Reader::open(&folder.display().to_string(), &run.to_string_lossy()).await?;
        let ends: Vec<schemas::End> = reader.trajectories().try_collect().await?;
        assert!(ends.len() >= 64, "{} trajectories", ends.len());
        Ok(ends.iter().flat_map(|end| &end.frames).map(|frame| frame.png.len()).sum())
    })
}

#[test]
fn pictures_that_were_not_kept_are_rendered_again_and_teach_the_same() -> Result<()> {
    let (kept, left_out) = (learn("all")?, learn("none")?);
    assert!(kept.1.iter().all(|bytes| *bytes > 0) && left_out.1 == [0, 0], "{:?} and {:?} bytes of pictures", kept.1, left_out.1);
    assert_eq!(kept.0, left_out.0, "what is rendered again is what was seen");
    Ok(())
}
