//! `errand import`: tasks of another tool's dataset, done by the expert and kept in a store.

use crate::{config, kinds, loopback, summary};
use anyhow::{Context, Result, bail};
use clap::Args;
use schemas::Split;
use std::path::{Path, PathBuf};
use store::import::{Prompt, prompts};
use store::{Store, Writer};
use worlds::{Kind, Task};

/// What `errand import` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Parquet of VAGEN or verl: `data_source`, `prompt`, `extra_info`.
    file: PathBuf,
    /// Whose world, prompt and limits are used; rows of other environments are left out.
    #[arg(long)]
    pipeline: PathBuf,
    /// The new run's name.
    #[arg(long)]
    run: String,
}

/// Tasks that are done at once.
const CHUNK: usize = 256;

/// Imports and says what came of it.
///
/// # Errors
/// A file that is no list of prompts, or that names no task of the pipeline's world.
pub(crate) async fn import(arguments: &Arguments, runs: &Path) -> Result<()> {
    let loaded = config::load(&arguments.pipeline)?;
    let pipeline = &loaded.pipeline;
    let all = prompts(&arguments.file)?;
    let kind = kinds::kind(pipeline)?;
    let fitting: Vec<&Prompt> = all.iter().filter(|prompt| prompt.world == pipeline.world.name).collect();
    if fitting.is_empty() {
        let mut worlds: Vec<&str> = all.iter().map(|prompt| prompt.world.as_str()).collect();
        worlds.sort_unstable();
        worlds.dedup();
        bail!("`{}` names no task of `{}`; it names: {}", arguments.file.display(), pipeline.world.name, worlds.join(", "));
    }
    let tasks = fitting.iter().map(|prompt| task(kind.as_ref(), prompt)).collect::<Result<Vec<Task>>>()?;
    let folder = runs.join(&arguments.run);
    std::fs::create_dir_all(&folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
    std::fs::write(folder.join("pipeline.toml"), &loaded.text)?;
    let store = Store::open(&summary::store_url(pipeline, &folder), &arguments.run)?;
    crate::data::describe(&store, &loaded, &crate::artifacts::prepare(pipeline, kind.as_ref())?).await?;
    let mut writer = Writer::open(store, "import").await?;
    let (mut number, mut solved) = (0, 0);
    for chunk in tasks.chunks(CHUNK) {
        let mut ends = loopback::run_expert(pipeline, &kind, Split::Expert, chunk)?;
        for (end, prompt) in ends.iter_mut().zip(&fitting[number..]) {
            end.episode.id.number += number as u64;
            end.episode.group = end.episode.id.number;
            end.note = format!("imported: {} {}", prompt.split, prompt.seed);
            solved += usize::from(end.success);
        }
        number += ends.len();
        writer.commit(&ends, 0).await?;
    }
    println!("{number} of {} rows imported as run `{}`; the expert solved {solved}", all.len(), arguments.run);
    Ok(())
}

/// The task that a row names: its own description, or what the world makes of its seed.
fn task(kind: &dyn Kind, prompt: &Prompt) -> Result<Task> {
    if prompt.task.is_empty() {
        return kind.sample(prompt.seed, None).map_err(anyhow::Error::msg);
    }
    Ok(Task { seed: prompt.seed, json: prompt.task.clone(), bucket: "imported".into(), expert_length: 0 })
}
