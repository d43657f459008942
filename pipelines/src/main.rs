//! `errand`, the command line: one way into every part of a run.
//!
//! stdout is data, stderr is everything else. Exit code 0: done; 1: the request was wrong or the run failed.

mod artifacts;
mod audit;
mod bench;
mod broker;
mod config;
mod data;
mod doctor;
mod eval;
mod feasible;
mod house;
mod interrupt;
mod kinds;
mod loopback;
mod messages;
mod model;
mod play;
mod progress;
mod remove;
mod sheet;
mod show;
mod stages;
mod summary;
mod trace;
mod up;
mod watch;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  errand up pipelines/fetch-text.toml            train, with a broker of the run's own
  errand up pipelines/frozenlake.toml --steppers 4
  errand validate pipelines/fetch-text.toml      check every value and what the expert can solve
  errand audit frozenlake-1                      each episode one end, each trajectory one use
  errand trace frozenlake-1 train.17             where the time of an episode went
  errand tap 'errand.r.observations' --count 10 > some.tap
  errand house house.json --top-down plan.png    a house from above
  errand watch --episodes pipelines/episodes/fetch-near.jsonl --line 3 --out fetch.gif
  errand play --seed 7                           drive the robot in a browser
  errand bench hops                              turns a second through all six processes";

/// Trains agents that run errands in a house: a dataflow pipeline of independent programs on NATS.
#[derive(Parser)]
#[command(name = "errand", version, after_help = EXAMPLES)]
struct Cli {
    /// Where run folders lie.
    #[arg(long, global = true, default_value = "runs")]
    runs: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a pipeline, watches it, starts again what dies, stops, and sums up.
    Up {
        pipeline: PathBuf,
        /// A NATS server with JetStream that runs already; without it the run starts one of its own.
        #[arg(long, env = "NATS_URL")]
        nats: Option<String>,
        /// The run's name; without it the pipeline's name and the next free number.
        #[arg(long)]
        run: Option<String>,
        /// Env-steppers on this host, in place of the pipeline's number.
        #[arg(long)]
        steppers: Option<u32>,
        /// Go on with a run from its last checkpoint.
        #[arg(long)]
        resume: bool,
        /// Do not ask the expert first whether the limits let it solve its episodes.
        #[arg(long)]
        skip_feasibility: bool,
    },
    /// Makes a run's streams, durables and buckets, and nothing else: for stages that are started by hand.
    Init {
        pipeline: PathBuf,
        #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
        nats: String,
        #[arg(long)]
        run: String,
    },
    /// Checks a pipeline: every value, the rewards' order, and the share of its episodes that the expert can solve.
    Validate { pipeline: PathBuf },
    /// Says what this machine lacks, with the fix.
    Doctor,
    /// Judges a policy on a pipeline's held-out episodes.
    Eval(eval::Arguments),
    /// Checks a run's record: one end an episode, one use a trajectory, whole groups, rising versions.
    Audit {
        run: String,
        /// The run's NATS server, for what only the streams know; without it the files are checked.
        #[arg(long, env = "NATS_URL")]
        nats: Option<String>,
    },
    /// What a run's stages could not handle.
    Rejected {
        #[command(subcommand)]
        command: RejectedCommand,
        #[arg(long, global = true, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
        nats: String,
    },
    /// Writes the messages on a subject to stdout.
    Tap {
        subject: String,
        /// Stop after so many; 0 goes on.
        #[arg(long, default_value_t = 0)]
        count: u64,
        /// Stop after so long; 0 goes on.
        #[arg(long, default_value_t = 0.0)]
        seconds: f64,
        #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
        nats: String,
    },
    /// Publishes what `tap` wrote.
    Feed {
        file: PathBuf,
        /// Put this run's name into the subjects.
        #[arg(long)]
        run: Option<String>,
        #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222")]
        nats: String,
    },
    /// Shows where an episode's time went, stage by stage and queue by queue.
    Trace { run: String, episode: schemas::EpisodeId },
    /// Removes a run: its streams and buckets (with --nats) and its folder.
    Rm {
        run: String,
        #[arg(long, env = "NATS_URL")]
        nats: Option<String>,
    },
    /// Shows a house: what it holds, and its plan from above.
    House(house::Arguments),
    /// Writes an episode as a GIF: both cameras, the map, what is told and done.
    Watch(watch::Arguments),
    /// Opens a page on which a person drives the robot by keyboard, and records what is done.
    Play(play::Arguments),
    /// Lists and shows recorded trajectories.
    Data {
        #[command(subcommand)]
        data: data::Data,
    },
    /// Lives recorded episodes again and compares every observation, reward and end.
    Replay(data::ReplayArguments),
    /// Writes trajectories as a dataset for another tool.
    Export(data::ExportArguments),
    /// Has the expert do the tasks of another tool's dataset, and keeps what came of them.
    Import(data::ImportArguments),
    /// Records the expert's episodes at full speed, without a broker or a policy.
    Imitate(data::ImitateArguments),
    /// Looks at a model's folder.
    Model {
        #[command(subcommand)]
        command: model::Model,
    },
    /// Measures something and prints one JSON object.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
}

#[derive(Subcommand)]
enum RejectedCommand {
    /// One line for each.
    Ls { run: String },
    /// One, whole.
    Show { run: String, number: u64 },
    /// Publishes one again where it came from.
    Retry { run: String, number: u64 },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(cli)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("errand: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let runs = cli.runs;
    match cli.command {
        Command::Up { pipeline, nats, run, steppers, resume, skip_feasibility } => {
            let mut loaded = config::load(&pipeline)?;
            if let Some(steppers) = steppers {
                loaded.pipeline.stages.env_steppers = steppers;
            }
            let options = up::Options { nats, run, runs, resume, feasibility: !skip_feasibility };
            Ok(match up::up(&loaded, &options).await? {
                Some(summary) => {
                    println!("{}", summary.table());
                    if summary.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
                }
                None => ExitCode::SUCCESS,
            })
        }
        Command::Init { pipeline, nats, run } => {
            let loaded = config::load(&pipeline)?;
            let folder = runs.join(&run);
            std::fs::create_dir_all(&folder)?;
            let kind = kinds::kind(&loaded.pipeline)?;
            up::prepare(&up::connect(&nats).await?, &run, &loaded, kind.as_ref(), &folder, false).await?;
            println!("run `{run}` is ready on {nats}: start stages with --nats {nats} --run {run}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Validate { pipeline } => {
            let loaded = config::load(&pipeline)?;
            let kind = kinds::kind(&loaded.pipeline)?;
            println!("{}", feasible::check(&loaded.pipeline, kind)?);
            println!("{}: valid", pipeline.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor => Ok(report(&doctor::examine(&runs))),
        Command::Eval(arguments) => eval::run(&arguments, &runs).await,
        Command::Audit { run, nats } => audit_run(&runs, &run, nats.as_deref()).await,
        Command::Rejected { command, nats } => rejected(command, &nats).await,
        Command::Tap { subject, count, seconds, nats } => {
            let written = messages::tap(&up::connect(&nats).await?, &subject, count, seconds).await?;
            eprintln!("{written} messages");
            Ok(ExitCode::SUCCESS)
        }
        Command::Feed { file, run, nats } => {
            let sent = messages::feed(&up::connect(&nats).await?, &file, run.as_deref()).await?;
            eprintln!("{sent} messages");
            Ok(ExitCode::SUCCESS)
        }
        Command::Trace { run, episode } => {
            println!("{}", trace::trace(&summary::folder_of(&runs, &run)?, &run, episode).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Rm { run, nats } => {
            println!("{}", remove::remove(&runs, &run, nats.as_deref()).await?);
            Ok(ExitCode::SUCCESS)
        }
        Command::House(arguments) => house::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Play(arguments) => play::run(arguments).await,
        Command::Data { data } => data::run(data, &runs).await,
        Command::Replay(arguments) => data::replay(&arguments, &runs).await,
        Command::Export(arguments) => data::export(&arguments, &runs).await.map(|()| ExitCode::SUCCESS),
        Command::Import(arguments) => data::import(&arguments, &runs).await.map(|()| ExitCode::SUCCESS),
        Command::Imitate(arguments) => data::imitate(&arguments, &runs).await.map(|()| ExitCode::SUCCESS),
        Command::Model { command } => model::run(&command),
        Command::Bench { bench } => {
            println!("{}", serde_json::to_string_pretty(&bench::run(bench, &runs).await?)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn report(findings: &[doctor::Finding]) -> ExitCode {
    for finding in findings {
        match &finding.outcome {
            Ok(found) => println!("ok      {:<12} {found}", finding.what),
            Err(fix) => println!("missing {:<12} {fix}", finding.what),
        }
    }
    if findings.iter().all(|f| f.outcome.is_ok()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn audit_run(runs: &Path, run: &str, nats: Option<&str>) -> Result<ExitCode> {
    let folder = summary::folder_of(runs, run)?;
    // The run's own server is gone with the run: its streams are read by starting it once more.
    let own = if nats.is_none() { Some(broker::Broker::start(&folder).await?) } else { None };
    let url = nats.map_or_else(|| own.as_ref().map(|b| b.url.clone()).unwrap_or_default(), str::to_string);
    let client = up::connect(&url).await?;
    let pipeline = trace::pipeline_of(&client, run).await?;
    let report = audit::audit(&folder, &summary::store_url(&pipeline, &folder), &client, run).await?;
    for line in report.lines() {
        println!("{line}");
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn rejected(command: RejectedCommand, nats: &str) -> Result<ExitCode> {
    let client = up::connect(nats).await?;
    match command {
        RejectedCommand::Ls { run } => {
            for (number, message) in messages::rejected(&client, &run).await? {
                println!(
                    "{number:>6}  {:<16} {:<44} {:>8} bytes  {}",
                    message.stage,
                    message.subject,
                    message.payload.len(),
                    message.reason
                );
            }
        }
        RejectedCommand::Show { run, number } => {
            let all = messages::rejected(&client, &run).await?;
            let found = all.into_iter().find(|(n, _)| *n == number);
            let (_, message) = found.ok_or_else(|| anyhow::anyhow!("no rejected message {number}; hint: `errand rejected ls {run}`"))?;
            println!("stage   {}\nsubject {}\nreason  {}", message.stage, message.subject, message.reason);
            println!("{}", schemas::wire::describe(&message.payload));
        }
        RejectedCommand::Retry { run, number } => {
            println!("published again on {}", messages::retry(&client, &run, number).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}
