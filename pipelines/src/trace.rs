//! `errand trace`: where an episode's time went, from the stamps that each stage put on its turns.

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use schemas::pipeline::Pipeline;
use schemas::{EpisodeId, subjects};
use std::path::Path;

/// A turn's stamps: `(stage, arrived, left)` in Unix microseconds.
pub(crate) type Trail = Vec<(String, u64, u64)>;

/// The pipeline that a run was started with.
pub(crate) async fn pipeline_of(client: &async_nats::Client, run: &str) -> Result<Pipeline> {
    let jetstream = async_nats::jetstream::new(client.clone());
    let bucket = jetstream
        .get_key_value(subjects::bucket(run))
        .await
        .with_context(|| format!("this server knows no run `{run}`; hint: `errand init` or `errand up` makes one"))?;
    let text = bucket.get("pipeline").await?.with_context(|| format!("run `{run}` has no pipeline"))?;
    Ok(Pipeline::parse(std::str::from_utf8(&text)?)?)
}

/// A table of one episode's turns: milliseconds in each stage and in the queue before it.
pub(crate) async fn trace(folder: &Path, run: &str, episode: EpisodeId) -> Result<String> {
    let pipeline_text = folder.join("pipeline.toml");
    let text = std::fs::read_to_string(&pipeline_text).with_context(|| format!("`{}` cannot be read", pipeline_text.display()))?;
    let url = crate::summary::store_url(&Pipeline::parse(&text)?, folder);
    let reader = store::Reader::open(&url, run).await?;
    let turns = reader.turns(episode).await?;
    if turns.is_empty() {
        bail!("episode `{episode}` is not in {url}; hint: it may still run");
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["turn", "stage", "waited ms", "worked ms", "since the turn began ms"]);
    for turn in &turns {
        for (index, step) in steps(&turn.trail).into_iter().enumerate() {
            let number = if index == 0 { turn.turn.to_string() } else { String::new() };
            table.add_row([
                number,
                step.stage,
                format!("{:.3}", step.waited_ms),
                format!("{:.3}", step.worked_ms),
                format!("{:.3}", step.since_ms),
            ]);
        }
    }
    Ok(table.to_string())
}

struct Step {
    stage: String,
    waited_ms: f64,
    worked_ms: f64,
    since_ms: f64,
}

fn steps(trail: &Trail) -> Vec<Step> {
    let began = trail.first().map_or(0, |(_, arrived, _)| *arrived);
    let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1000.0;
    let mut before = began;
    trail
        .iter()
        .map(|(stage, arrived, left)| {
            let step =
                Step { stage: stage.clone(), waited_ms: ms(before, *arrived), worked_ms: ms(*arrived, *left), since_ms: ms(began, *left) };
            before = *left;
            step
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_and_stages_add_up_to_the_way() {
        let trail = vec![("env-stepper".to_string(), 1_000, 1_500), ("generator".to_string(), 2_500, 9_000)];
        let steps = steps(&trail);
        let sum: f64 = steps.iter().map(|s| s.waited_ms + s.worked_ms).sum();
        assert!((sum - 8.0).abs() < 1e-9);
        assert!((steps[1].waited_ms - 1.0).abs() < 1e-9);
        assert!((steps[1].since_ms - 8.0).abs() < 1e-9);
    }
}
