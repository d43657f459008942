//! Trajectories as data: listed, shown, lived again, written in other forms, made by the expert.

mod export;
mod imitate;
mod import;
mod ls;
mod place;
mod query;
mod replay;
mod retokenize;
mod sensors;
mod show;
mod spoc;

pub(crate) use export::{Arguments as ExportArguments, export};
pub(crate) use imitate::{Arguments as ImitateArguments, imitate, record_into};
pub(crate) use import::{Arguments as ImportArguments, import};
pub(crate) use replay::{Arguments as ReplayArguments, replay};

use anyhow::Result;
use clap::{Args, Subcommand};
use schemas::EpisodeId;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Which trajectories.
#[derive(Args, Clone, Debug)]
pub(crate) struct Which {
    /// The run's name.
    pub(crate) run: String,
    /// A path or URL of a trajectory store, where it is not that of a run folder.
    #[arg(long)]
    pub(crate) store: Option<String>,
}

/// What `errand data` does.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Data {
    /// Runs, and what they hold: counts, success by task, length and version.
    Ls {
        /// One run in full; without it one line for each.
        run: Option<String>,
        /// A path or URL of a trajectory store, where it is not that of a run folder.
        #[arg(long)]
        store: Option<String>,
    },
    /// One trajectory as text.
    Show {
        #[command(flatten)]
        which: Which,
        /// As `expert.17`.
        episode: EpisodeId,
        /// Write its pictures there, as PNG; those that were not kept are rendered again.
        #[arg(long)]
        pictures: Option<PathBuf>,
    },
    /// SQL over trajectories and turns, of all runs or some.
    Query(query::Arguments),
    /// What the robot's sensors held after each primitive step, one JSON object a line.
    Sensors(sensors::Arguments),
    /// Makes a dataset for another tokenizer, prompt or reply format, from what was done in each turn.
    Retokenize(retokenize::Arguments),
    /// Puts a run's small files together, and takes away what does not count and is older than an hour.
    Compact {
        #[command(flatten)]
        which: Which,
    },
}

pub(crate) async fn run(data: Data, runs: &Path) -> Result<ExitCode> {
    match data {
        Data::Ls { run, store } => ls::ls(runs, run.as_deref(), store.as_deref()).await?,
        Data::Show { which, episode, pictures } => show::show(runs, &which, episode, pictures.as_deref()).await?,
        Data::Query(arguments) => query::query(&arguments, runs).await?,
        Data::Sensors(arguments) => sensors::sensors(&arguments, runs).await?,
        Data::Retokenize(arguments) => retokenize::retokenize(&arguments, runs).await?,
        Data::Compact { which } => compact(runs, &which).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Has a run say what it is, once: its pipeline, and the files of its tokenizer.
pub(crate) async fn describe(store: &store::Store, loaded: &crate::config::Loaded, files: &[(&'static str, Vec<u8>)]) -> Result<()> {
    let file = |wanted: &str| files.iter().find(|(name, _)| *name == wanted).map(|(_, bytes)| bytes.as_slice()).unwrap_or_default();
    let tokenizer = context::Tokenizer::from_files(file("tokenizer.json"), file("tokenizer_config.json"))?;
    let about = store::About {
        pipeline: loaded.text.clone(),
        tokenizer: tokenizer.digest(),
        template: tokenizer.template_digest(),
        ..store::About::default()
    };
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    store.describe(about, &files).await?;
    Ok(())
}

async fn compact(runs: &Path, which: &Which) -> Result<()> {
    let place = place::Place::open(runs, which).await?;
    let now_us = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as u64;
    let mut writer = store::Writer::open(place.reader.store().clone(), &format!("compact-{}", std::process::id())).await?;
    let rule = store::Compaction { at_least: 2, ..store::Compaction::default() };
    let mut replaced = 0;
    while let Some(entry) = writer.compact(rule, now_us).await? {
        replaced += entry.replaces.len();
    }
    let mut reader = place.reader;
    reader.refresh().await?;
    let swept = reader.sweep(3600.0, now_us).await?;
    println!("{replaced} files were put together, {swept} files of no account were taken away");
    Ok(())
}
