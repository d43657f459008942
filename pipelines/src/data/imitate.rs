//! `errand imitate`: the expert's episodes, side by side at full speed, straight into the store.
//!
//! The stepper's and the renderer's own logic runs in each thread, without a broker; the episodes are those that a run of
//! the pipeline would order, under the same numbers, so that the number of threads changes none of them.

use crate::config::Loaded;
use crate::{artifacts, kinds, loopback::Loopback, summary};
use anyhow::{Context, Result};
use clap::Args;
use scene_loader::orders::Experts;
use schemas::pipeline::Pipeline;
use schemas::{End, Split};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;
use store::{IdSet, Store, Writer};
use worlds::Kind;

/// What `errand imitate` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    pub(crate) pipeline: PathBuf,
    /// How many episodes; those that the store has already are not made again.
    #[arg(long)]
    pub(crate) episodes: u64,
    /// The run's name; without it the pipeline's name and `expert`.
    #[arg(long)]
    pub(crate) run: Option<String>,
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
}

/// Episodes that a thread takes at once.
const CHUNK: u64 = 32;
/// Episodes of one commit.
const COMMIT: usize = 1024;
/// Pictures' bytes that make a commit by themselves.
const COMMIT_BYTES: usize = 64 << 20;

/// Records the expert and prints one JSON object with what it came to.
///
/// # Errors
/// A pipeline or a store that cannot be used, or an expert that gives up.
pub(crate) async fn imitate(arguments: &Arguments, runs: &Path) -> Result<()> {
    let loaded = crate::config::load(&arguments.pipeline)?;
    let run = arguments.run.clone().unwrap_or_else(|| format!("{}-expert", loaded.pipeline.name));
    let folder = runs.join(&run);
    std::fs::create_dir_all(&folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
    std::fs::write(folder.join("pipeline.toml"), &loaded.text)?;
    let kind = kinds::kind(&loaded.pipeline)?;
    let store = Store::open(&summary::store_url(&loaded.pipeline, &folder), &run)?;
    let figures = record_into(&store, &loaded, &kind, arguments.episodes, arguments.threads).await?;
    let line = json!({ "run": run, "pipeline": figures.pipeline, "store": store.url(), "figures": figures.json() });
    println!("{}", serde_json::to_string_pretty(&line)?);
    Ok(())
}

/// Records expert episodes into a store until it holds so many.
///
/// # Errors
/// As [`imitate`].
pub(crate) async fn record_into(store: &Store, loaded: &Loaded, kind: &Arc<dyn Kind>, episodes: u64, threads: usize) -> Result<Figures> {
    crate::data::describe(store, loaded, &artifacts::prepare(&loaded.pipeline, kind.as_ref())?).await?;
    let writer = Writer::open(store.clone(), "imitate").await?;
    let (loaded, kind, handle) = (loaded.clone(), kind.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || record(&loaded, &kind, writer, episodes, threads, &handle)).await?
}

/// What a recording came to.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pipeline: String,
    episodes: u64,
    successes: u64,
    turns: u64,
    steps: u64,
    seconds: f64,
    commit_seconds: f64,
    bytes: u64,
}

impl Figures {
    fn json(&self) -> serde_json::Value {
        let each = |sum: u64| if self.episodes == 0 { 0.0 } else { sum as f64 / self.episodes as f64 };
        json!({
            "episodes": self.episodes,
            "success": each(self.successes),
            "mean_turns": each(self.turns),
            "mean_steps": each(self.steps),
            "seconds": self.seconds,
            "commit_seconds": self.commit_seconds,
            "episodes_per_second": if self.seconds > 0.0 { self.episodes as f64 / self.seconds } else { 0.0 },
            "bytes_per_turn": if self.turns == 0 { 0.0 } else { self.bytes as f64 / self.turns as f64 },
        })
    }
}

/// Runs the threads and commits what they bring.
fn record(
    loaded: &Loaded,
    kind: &Arc<dyn Kind>,
    mut writer: Writer,
    episodes: u64,
    threads: usize,
    handle: &tokio::runtime::Handle,
) -> Result<Figures> {
    let begun = Instant::now();
    let pipeline = &loaded.pipeline;
    let done = writer.committed().split(Split::Expert).clone();
    let next = AtomicU64::new(0);
    let threads = threads.max(1);
    let (to, from) = sync_channel(threads * 4);
    let mut figures = std::thread::scope(|scope| {
        for _ in 0..threads {
            let (to, done, next) = (to.clone(), &done, &next);
            scope.spawn(move || {
                let outcome = play(pipeline, kind, episodes, done, next, &to);
                if let Err(error) = outcome {
                    // The other side has hung up only where it has failed itself.
                    let _ = to.send(Err(error));
                }
            });
        }
        drop(to);
        commit_all(&mut writer, &from, handle)
    })?;
    figures.seconds = begun.elapsed().as_secs_f64();
    figures.pipeline = pipeline.name.clone();
    Ok(figures)
}

/// One thread: plays chunk after chunk.
fn play(
    pipeline: &Pipeline,
    kind: &Arc<dyn Kind>,
    episodes: u64,
    done: &IdSet,
    next: &AtomicU64,
    to: &SyncSender<Result<Vec<End>>>,
) -> Result<()> {
    let experts = Experts::new(pipeline);
    let mut loopback = Loopback::new(pipeline, kind.clone())?;
    loop {
        let first = next.fetch_add(CHUNK, Ordering::Relaxed);
        if first >= episodes {
            return Ok(());
        }
        let numbers = first..(first + CHUNK).min(episodes);
        if numbers.clone().all(|number| done.contains(number)) {
            continue;
        }
        let mut ordered = experts.episodes(kind.as_ref(), numbers).map_err(anyhow::Error::msg)?;
        ordered.retain(|(episode, _)| !done.contains(episode.id.number));
        if to.send(Ok(loopback.play(ordered)?)).is_err() {
            return Ok(());
        }
    }
}

fn commit_all(writer: &mut Writer, from: &Receiver<Result<Vec<End>>>, handle: &tokio::runtime::Handle) -> Result<Figures> {
    let mut figures = Figures::default();
    let mut waiting: Vec<End> = Vec::new();
    loop {
        let brought = from.recv();
        let last = brought.is_err();
        if let Ok(ends) = brought {
            waiting.extend(ends?);
        }
        let bytes: usize = waiting.iter().flat_map(|end| &end.frames).map(|frame| frame.png.len()).sum();
        if last || waiting.len() >= COMMIT || bytes >= COMMIT_BYTES {
            let begun = Instant::now();
            let entry = handle.block_on(writer.commit(&waiting, 0))?;
            figures.commit_seconds += begun.elapsed().as_secs_f64();
            figures.count(&waiting);
            figures.bytes += entry.map_or(0, |entry| entry.bytes());
            waiting.clear();
        }
        if last {
            return Ok(figures);
        }
    }
}

impl Figures {
    fn count(&mut self, ends: &[End]) {
        self.episodes += ends.len() as u64;
        self.successes += ends.iter().filter(|end| end.success).count() as u64;
        self.turns += ends.iter().map(|end| end.turns.len() as u64).sum::<u64>();
        self.steps += ends.iter().map(|end| u64::from(end.steps)).sum::<u64>();
    }
}
