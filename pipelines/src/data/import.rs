//! `errand import`: tasks of another tool's dataset, done by the expert or as they were done there, and kept in a store.

use crate::data::retokenize::Recorded;
use crate::data::spoc;
use crate::{config, kinds, loopback, summary};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use household::chores::Row;
use schemas::Split;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::import::{Prompt, prompts};
use store::{Store, Writer};
use worlds::{Kind, Task};

/// What a dataset is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum From {
    /// Parquet of prompts with `data_source`, `prompt`, `extra_info`: the expert does each task.
    Verl,
    /// The same, as VAGEN writes it.
    Vagen,
    /// Episodes of CHORES, one JSON object a line, also as `.gz`: the expert does each.
    Chores,
    /// A folder in SPOC's training format: what was done there is done again.
    Spoc,
}

/// What `errand import` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// A file or folder.
    file: PathBuf,
    /// What it is; without it told by the name: a folder is `spoc`, `.jsonl` and `.jsonl.gz` are `chores`, others `verl`.
    #[arg(long)]
    format: Option<From>,
    /// Whose world, prompt and limits are used; tasks of other worlds are left out.
    #[arg(long)]
    pipeline: PathBuf,
    /// The new run's name.
    #[arg(long)]
    run: String,
    /// The file of houses, by name, that `house_index` counts in from 0; without it that of the pipeline's `episodes.houses`.
    #[arg(long)]
    house_file: Option<String>,
}

/// Tasks that are done at once.
const CHUNK: usize = 256;
/// The largest file of episodes, bytes, unpacked.
const MOST_BYTES: u64 = 256 << 20;

/// How an episode went where it comes from: primitive steps, and whether it succeeded.
type Past = (u32, bool);

/// What is to be done, and what cannot be.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Names for people, tasks, and how they went elsewhere.
    pub(crate) wanted: Vec<(String, Task, Option<Past>)>,
    skipped: usize,
    /// The first that could not be read, and the first that could not be started.
    first: Vec<String>,
}

impl Tasks {
    pub(crate) fn skip(&mut self, name: &str, error: &anyhow::Error) {
        if self.skipped == 0 {
            self.first.push(format!("{name}: {error:#}"));
        }
        self.skipped += 1;
    }

    /// Leaves out what cannot be started.
    fn sift(&mut self, kind: &dyn Kind) {
        let read = std::mem::take(&mut self.skipped);
        for (name, task, past) in std::mem::take(&mut self.wanted) {
            let scene = kind.scene(&task);
            match scene.and_then(|scene| kind.start(&task, scene.as_ref().map(|scene| scene.bytes.as_slice())).map(drop)) {
                Ok(()) => self.wanted.push((name, task, past)),
                Err(error) => self.skip(&name, &anyhow::Error::msg(error)),
            }
        }
        self.skipped += read;
    }
}

/// Imports and says what came of it.
///
/// # Errors
/// A file that is not of the format, or that names no task of the pipeline's world.
pub(crate) async fn import(arguments: &Arguments, runs: &Path) -> Result<()> {
    let loaded = config::load(&arguments.pipeline)?;
    let pipeline = &loaded.pipeline;
    let kind = kinds::kind(pipeline)?;
    let houses = Path::new(&pipeline.episodes.houses).file_name().map(|name| name.to_string_lossy().into_owned());
    let house_file = arguments.house_file.clone().or(houses).unwrap_or_default();
    let mut recorded: Option<Arc<Recorded>> = None;
    let mut tasks = match arguments.format.unwrap_or_else(|| guess(&arguments.file)) {
        From::Verl | From::Vagen => from_prompts(&arguments.file, kind.as_ref())?,
        From::Chores => from_chores(&arguments.file, &house_file)?,
        From::Spoc => {
            let (tasks, known) = spoc::read(&arguments.file, &kind, &house_file)?;
            recorded = Some(known);
            tasks
        }
    };
    tasks.sift(kind.as_ref());
    if tasks.wanted.is_empty() {
        bail!("`{}`: no task can be done: {} left out; the first: {}", arguments.file.display(), tasks.skipped, tasks.first.join("; "));
    }
    let folder = runs.join(&arguments.run);
    std::fs::create_dir_all(&folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
    std::fs::write(folder.join("pipeline.toml"), &loaded.text)?;
    let store = Store::open(&summary::store_url(pipeline, &folder), &arguments.run)?;
    crate::data::describe(&store, &loaded, &crate::artifacts::prepare(pipeline, kind.as_ref())?).await?;
    let mut writer = Writer::open(store, "import").await?;
    let player: Arc<dyn Kind> = recorded.map_or(kind.clone(), |known| known as Arc<dyn Kind>);
    let (mut number, mut solved, mut same) = (0, 0, 0);
    for chunk in tasks.wanted.chunks(CHUNK) {
        let list: Vec<Task> = chunk.iter().map(|(_, task, _)| task.clone()).collect();
        let mut ends = loopback::run_expert(pipeline, &player, Split::Expert, &list)?;
        for (end, (name, _, past)) in ends.iter_mut().zip(chunk) {
            end.episode.id.number += number as u64;
            end.episode.group = end.episode.id.number;
            end.episode.bucket = "imported".into();
            end.note = format!("imported: {name}");
            solved += usize::from(end.success);
            same += usize::from(past.is_some_and(|(steps, success)| (end.steps, end.success) == (steps, success)));
        }
        number += ends.len();
        writer.commit(&ends, 0).await?;
    }
    let all = number + tasks.skipped;
    println!("{number} of {all} rows imported as run `{}`; the expert solved {solved}", arguments.run);
    if tasks.wanted.iter().any(|(_, _, past)| past.is_some()) {
        println!("{same} took as many steps and ended as they had");
    }
    if tasks.skipped > 0 {
        println!("{} were left out; the first: {}", tasks.skipped, tasks.first.join("; "));
    }
    Ok(())
}

fn guess(file: &Path) -> From {
    let name = file.to_string_lossy().to_lowercase();
    match name.trim_end_matches(".gz") {
        _ if file.is_dir() => From::Spoc,
        lines if lines.ends_with(".jsonl") => From::Chores,
        _ => From::Verl,
    }
}

fn from_prompts(file: &Path, kind: &dyn Kind) -> Result<Tasks> {
    let all = prompts(file)?;
    let fits = |prompt: &&Prompt| prompt.world == kind.name();
    if !all.iter().any(|prompt| fits(&prompt)) {
        let mut worlds: Vec<&str> = all.iter().map(|prompt| prompt.world.as_str()).collect();
        worlds.sort_unstable();
        worlds.dedup();
        bail!("`{}` names no task of `{}`; it names: {}", file.display(), kind.name(), worlds.join(", "));
    }
    let mut tasks = Tasks::default();
    for prompt in &all {
        let name = format!("{} {}", prompt.split, prompt.seed);
        if fits(&prompt) {
            tasks.wanted.push((name, prompt_task(kind, prompt)?, None));
        } else {
            tasks.skip(&name, &anyhow::anyhow!("it is of world `{}`", prompt.world));
        }
    }
    Ok(tasks)
}

/// The task that a row names: its own description, or what the world makes of its seed.
fn prompt_task(kind: &dyn Kind, prompt: &Prompt) -> Result<Task> {
    if prompt.task.is_empty() {
        return kind.sample(prompt.seed, None).map_err(anyhow::Error::msg);
    }
    Ok(Task { seed: prompt.seed, json: prompt.task.clone(), bucket: "imported".into(), expert_length: 0 })
}

fn from_chores(file: &Path, house_file: &str) -> Result<Tasks> {
    let wrong = || format!("`{}` cannot be read as episodes of CHORES", file.display());
    let opened = std::fs::File::open(file).with_context(wrong)?;
    let packed = file.extension().is_some_and(|kind| kind == "gz");
    let bytes: Box<dyn Read> = if packed { Box::new(flate2::read::GzDecoder::new(opened)) } else { Box::new(opened) };
    let mut text = String::new();
    let read = bytes.take(MOST_BYTES + 1).read_to_string(&mut text).with_context(wrong)?;
    if read as u64 > MOST_BYTES {
        bail!("`{}` unpacks to more than {} MiB", file.display(), MOST_BYTES >> 20);
    }
    let mut tasks = Tasks::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let name = format!("{}:{}", file.file_name().unwrap_or_default().to_string_lossy(), number + 1);
        let row = Row::from_line(line).map_err(anyhow::Error::from);
        match row.and_then(|row| chores_task(&row, house_file)) {
            Ok(task) => tasks.wanted.push((name, task, None)),
            Err(error) => tasks.skip(&name, &error),
        }
    }
    Ok(tasks)
}

/// An episode of CHORES as a task of the world `fetch`: its house is that of the file with this name, counted from 0.
///
/// # Errors
/// No object is asked for in a task that needs one.
pub(crate) fn chores_task(row: &Row, house_file: &str) -> Result<Task> {
    let spec = row.spec()?;
    let json = serde_json::json!({ "house": format!("{house_file}:{}", row.house_index + 1), "fetch": spec });
    let bucket = row.expert_length_bucket.clone();
    Ok(Task { seed: spec.seed, json: json.to_string(), bucket, expert_length: row.expert_length })
}
