//! `errand replay`: lives recorded episodes again and compares everything that came of them.

use crate::data::Which;
use crate::data::place::Place;
use anyhow::{Result, bail};
use clap::Args;
use env_stepper::again::Again;
use futures::TryStreamExt;
use schemas::{End, Split};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use store::Kind;

/// What `errand replay` takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Only this split.
    #[arg(long)]
    split: Option<Split>,
    /// Stop after so many episodes; 0 takes all.
    #[arg(long, default_value_t = 0)]
    count: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Hand the trajectories on to the learner of a run that is under way, as fast as it grants them, instead.
    #[arg(long, requires = "into")]
    publish: bool,
    /// The run whose learner is meant.
    #[arg(long)]
    into: Option<String>,
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
    nats: String,
}

/// Differences that are printed at most.
const SHOWN: usize = 20;
/// Episodes that are lived again between two reads of the store.
const AT_ONCE: usize = 256;

/// What came of it.
#[derive(Debug, Default)]
struct Outcome {
    episodes: usize,
    turns: usize,
    steps: u64,
    differing: usize,
    lines: Vec<String>,
}

/// Replays a run. Exit code 1 where anything differs.
///
/// # Errors
/// A store or world that cannot be opened.
pub(crate) async fn replay(arguments: &Arguments, runs: &Path) -> Result<ExitCode> {
    let begun = Instant::now();
    let place = Place::open(runs, &arguments.which).await?;
    if arguments.publish {
        return publish(arguments, place.reader.store().url(), runs);
    }
    let mut outcome = Outcome::default();
    for kind in [Kind::Trajectories, Kind::Turns] {
        for file in place.reader.files(kind) {
            if let Err(error) = place.reader.verify(file).await {
                outcome.lines.push(error.to_string());
            }
        }
    }
    if !outcome.lines.is_empty() {
        // What is read of a changed file means nothing.
        return Ok(report(&outcome, begun));
    }
    let again = place.again()?;
    let split = arguments.split;
    let ends = place.reader.trajectories_where(move |row| split.is_none_or(|split| row.id.split == split));
    let mut ends = std::pin::pin!(ends);
    let mut batch: Vec<End> = Vec::new();
    loop {
        let next = ends.try_next().await?;
        let full = arguments.count > 0 && outcome.episodes + batch.len() >= arguments.count;
        let last = next.is_none() || full;
        batch.extend(next.filter(|_| !full));
        if batch.len() >= AT_ONCE || last {
            live_all(&again, &std::mem::take(&mut batch), arguments.threads.max(1), &mut outcome)?;
        }
        if last {
            return Ok(report(&outcome, begun));
        }
    }
}

/// Runs the replayer until it ends or is stopped.
fn publish(arguments: &Arguments, url: &str, runs: &Path) -> Result<ExitCode> {
    let into = arguments.into.clone().unwrap_or_default();
    let program = crate::stages::beside_this(replayer::NAME)?;
    let status = std::process::Command::new(&program)
        .args(["--nats", &arguments.nats, "--run", &into, "--source", url, "--source-run", &arguments.which.run])
        .arg("--folder")
        .arg(runs.join(&into))
        .status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Lives a batch again on several threads; what differs is told in the order of the batch.
fn live_all(again: &Again, batch: &[End], threads: usize, outcome: &mut Outcome) -> Result<()> {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(end) = batch.get(at) else { break };
                    let lines = live(again, end);
                    if !lines.is_empty() {
                        found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(at, lines);
                    }
                }
            });
        }
    });
    let Ok(found) = found.into_inner() else { bail!("a thread that replayed died") };
    outcome.episodes += batch.len();
    outcome.turns += batch.iter().map(|end| end.turns.len()).sum::<usize>();
    outcome.steps += batch.iter().map(|end| u64::from(end.steps)).sum::<u64>();
    outcome.differing += found.len();
    outcome.lines.extend(found.into_values().flatten());
    Ok(())
}

fn live(again: &Again, end: &End) -> Vec<String> {
    let scene = match again.scene(&end.episode) {
        Ok(scene) => scene,
        Err(error) => return vec![format!("{}: {error}", end.id())],
    };
    match again.live(end, scene.as_deref(), &mut |_| {}) {
        Ok(differences) => differences.iter().map(|difference| format!("{}: {difference}", end.id())).collect(),
        Err(error) => vec![format!("{}: {error}", end.id())],
    }
}

fn report(outcome: &Outcome, begun: Instant) -> ExitCode {
    for line in outcome.lines.iter().take(SHOWN) {
        println!("{line}");
    }
    if outcome.lines.len() > SHOWN {
        println!("and {} more", outcome.lines.len() - SHOWN);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} episodes, {} turns, {} primitive steps lived again in {seconds:.1} s: {} differ",
        outcome.episodes, outcome.turns, outcome.steps, outcome.differing
    );
    if outcome.lines.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
