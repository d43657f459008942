//! `errand bench NAME`: measures one thing and gives one JSON object,
//! `{bench, machine, commit, figures: {name: number}, rivals: {name: number}}`.

mod control;
mod expert;
mod hops;
mod house_stats;
mod household;
mod memory;
mod process;
mod random_actions;
mod recording;
mod scaling;
mod scenes;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Bench {
    /// Turns a second through all six processes with scripted replies in place of a model.
    Hops {
        /// Show pictures in place of text.
        #[arg(long)]
        pictures: bool,
        /// Measured seconds, after three to warm up.
        #[arg(long, default_value_t = 15.0)]
        seconds: f64,
        /// A folder with the Qwen2.5 tokenizer, as ops/make_qwen_tokenizer.py makes it.
        #[arg(long, env = "ERRAND_QWEN_TOKENIZER")]
        tokenizer: Option<PathBuf>,
    },
    /// Turns a second with 1 to 4 steppers in a world whose step takes 25 ms.
    Scaling {
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// What houses, the robot's two cameras and many environments cost.
    Household {
        /// A gzip file with one ProcTHOR house a line; without it houses are generated.
        #[arg(long, default_value = "../shared/houses/val.jsonl.gz")]
        houses: PathBuf,
        /// Measured seconds for each rate.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// A command that prints a rival's figures as one JSON object, as tests/parity/miniworld_speed.py does.
        #[arg(long)]
        rival: Option<String>,
    },
    /// How often the expert does each errand, from its start and after 50 random actions, and why it fails.
    Expert {
        /// A gzip file with one ProcTHOR house a line.
        #[arg(long, default_value = "../shared/houses/val.jsonl.gz")]
        houses: PathBuf,
        /// Generated held-out houses.
        #[arg(long, default_value_t = 500)]
        generated: u64,
    },
    /// Random actions in the file's and in generated houses: how deep anything comes into what it may not be in.
    RandomActions {
        /// A gzip file with one ProcTHOR house a line; without it only generated houses.
        #[arg(long, default_value = "../shared/houses/val.jsonl.gz")]
        houses: PathBuf,
        /// Generated held-out houses.
        #[arg(long, default_value_t = 200)]
        generated: u64,
        #[arg(long, default_value_t = 1_000_000)]
        actions: u64,
    },
    /// What recording costs: in text its share of CPU time, in pictures turns a second and bytes by `record.pictures`.
    Recording {
        /// Measured seconds of each of the four runs, after three to warm up.
        #[arg(long, default_value_t = 20.0)]
        seconds: f64,
    },
    /// Seconds until 64 fetch environments are ready, houses parsed and compiled included.
    Scenes,
    /// Generated houses beside others: areas, objects by number of rooms, types by room, houses a second.
    HouseStats {
        /// The folder with train.jsonl.gz and val.jsonl.gz; without it only the speed is measured.
        #[arg(default_value = "../shared/houses")]
        houses: PathBuf,
    },
    /// MiB that each stage without libtorch holds at rest.
    Memory {
        #[arg(default_value = "pipelines/fetch-text.toml")]
        pipeline: PathBuf,
        /// A folder with another tokenizer.
        #[arg(long)]
        tokenizer: Option<PathBuf>,
    },
    /// What learning by reinforcement added: the pipeline against one that spends those minutes on more imitation.
    Control {
        pipeline: PathBuf,
        /// Seeds 1 to this.
        #[arg(long, default_value_t = 1)]
        seeds: u64,
    },
}

/// Runs a benchmark.
pub(crate) async fn run(bench: Bench, runs: &Path) -> Result<Value> {
    match bench {
        Bench::Hops { pictures, seconds, tokenizer } => hops::run(runs, pictures, seconds, tokenizer).await,
        Bench::Scaling { seconds } => scaling::run(runs, seconds).await,
        Bench::Household { houses, seconds, rival } => household::run(&houses, seconds, rival.as_deref()),
        Bench::Expert { houses, generated } => expert::run(&houses, generated),
        Bench::RandomActions { houses, generated, actions } => random_actions::run(&houses, generated, actions),
        Bench::Recording { seconds } => recording::run(runs, seconds).await,
        Bench::Scenes => scenes::run(),
        Bench::HouseStats { houses } => house_stats::run(&houses),
        Bench::Memory { pipeline, tokenizer } => memory::run(runs, &pipeline, tokenizer).await,
        Bench::Control { pipeline, seeds } => control::run(runs, &pipeline, seeds).await,
    }
}

/// The object that every benchmark prints.
fn report(bench: &str, figures: Map<String, Value>, rivals: Map<String, Value>) -> Value {
    json!({ "bench": bench, "machine": machine(), "commit": commit(), "figures": figures, "rivals": rivals })
}

/// `2 cores, AMD EPYC 7B13`.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(':'))
        .map_or("", |(_, name)| name.trim());
    format!("{cores} cores, {model}")
}

fn commit() -> String {
    let output = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    output.ok().filter(|o| o.status.success()).map_or_else(|| "unknown".into(), |o| String::from_utf8_lossy(&o.stdout).trim().to_string())
}

/// A run name that no folder has.
fn free_run(runs: &Path, name: &str) -> String {
    (1..u32::MAX).map(|n| format!("{name}-{n}")).find(|run| !runs.join(run).exists()).unwrap_or_else(|| name.to_string())
}
