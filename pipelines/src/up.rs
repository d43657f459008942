//! `errand up`: start everything, show how it goes, mend what dies, stop cleanly, sum up.

use crate::broker::Broker;
use crate::config::Loaded;
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::stages::{Place, Processes};
use crate::summary::{self, Summary};
use anyhow::{Context, Result, bail};
use futures::StreamExt;
use schemas::subjects::{self, Stream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How a run is started.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// A server that runs already. `None`: the run gets one of its own.
    pub(crate) nats: Option<String>,
    /// `None`: the pipeline's name and the next free number.
    pub(crate) run: Option<String>,
    /// Under which run folders lie.
    pub(crate) runs: PathBuf,
    /// Go on from the run's checkpoint and its Parquet files.
    pub(crate) resume: bool,
    /// Ask the expert first whether the pipeline's limits let it solve its episodes.
    pub(crate) feasibility: bool,
}

/// Runs a pipeline to its end.
///
/// # Errors
/// Anything that keeps it from running; `Ok(None)` where Ctrl-C ended it.
pub(crate) async fn up(loaded: &Loaded, options: &Options) -> Result<Option<Summary>> {
    let started = Instant::now();
    let kind = crate::kinds::kind(&loaded.pipeline)?;
    if options.feasibility {
        let share = crate::feasible::check(&loaded.pipeline, kind.clone())?;
        eprintln!("{share}");
    }
    let (run, folder) = run_folder(&loaded.pipeline.name, options)?;
    record_experts(loaded, &kind, &folder).await?;
    let mut interrupt = Interrupt::caught()?;
    let (broker, nats) = match &options.nats {
        Some(url) => (None, url.clone()),
        None => {
            let broker = Broker::start(&folder).await?;
            let url = broker.url.clone();
            (Some(broker), url)
        }
    };
    eprintln!("run `{run}`: files in {}, broker {nats}", folder.display());
    let client = connect(&nats).await?;
    tokio::select! {
        prepared = prepare(&client, &run, loaded, kind.as_ref(), &folder, options.resume) => prepared?,
        () = interrupt.asked() => {
            eprintln!("stopped before anything was trained");
            return Ok(None);
        }
    }

    std::fs::write(folder.join("pipeline.toml"), &loaded.text)?;
    let place = Place { nats: nats.clone(), run: run.clone(), folder: folder.clone() };
    let mut processes = Processes::start(place, &loaded.pipeline)?;
    let mut progress =
        Progress::new(&run, |stage| crate::stages::crew(&loaded.pipeline).iter().any(|&(name, count, _)| name == stage && count > 0));
    let outcome = watch(&client, &run, &mut processes, &mut progress, &mut interrupt).await;
    progress.finish();
    let restarts = processes.restarts();
    processes.stop();
    if !outcome? {
        eprintln!("stopped; `errand up --run {run} --resume` goes on from the last checkpoint");
        return Ok(None);
    }
    let totals = progress.totals();
    let summary = summary::gather(&client, &run, &folder, &loaded.pipeline, totals, restarts, started.elapsed()).await?;
    drop(client);
    drop(broker);
    Ok(Some(summary))
}

/// Records what `offline.experts` asks for and the store does not hold yet.
async fn record_experts(loaded: &Loaded, kind: &std::sync::Arc<dyn worlds::Kind>, folder: &Path) -> Result<()> {
    let Some(offline) = loaded.pipeline.offline.as_ref().filter(|offline| offline.experts > 0) else { return Ok(()) };
    let (url, source) = replayer::source_of(offline, &loaded.pipeline.name, folder);
    eprintln!("recording the expert into `{url}` until it holds {} episodes of run `{source}`", offline.experts);
    let store = store::Store::open(&url, &source)?;
    crate::data::record_into(&store, loaded, kind, offline.experts, 2).await?;
    Ok(())
}

/// Streams, durables, buckets and the policy's first files: all that stages bind to.
pub(crate) async fn prepare(
    client: &async_nats::Client,
    run: &str,
    loaded: &Loaded,
    kind: &dyn worlds::Kind,
    folder: &Path,
    resume: bool,
) -> Result<()> {
    let version = if resume { summary::last_version(folder) } else { None };
    kit::init_above(client, run, &loaded.pipeline, &loaded.text, version).await?;
    let jetstream = async_nats::jetstream::new(client.clone());
    let bucket = jetstream.get_object_store(&subjects::artifacts(run)).await.context("the run's artifacts bucket is not there")?;
    let files = crate::artifacts::prepare(&loaded.pipeline, kind)?;
    let store = store::Store::open(&summary::store_url(&loaded.pipeline, folder), run)?;
    crate::data::describe(&store, loaded, &files).await?;
    for (name, bytes) in files {
        std::fs::create_dir_all(folder.join("policy"))?;
        std::fs::write(folder.join("policy").join(name), &bytes)?;
        bucket.put(name, &mut bytes.as_slice()).await.with_context(|| format!("`{name}` cannot be stored"))?;
    }
    Ok(())
}

pub(crate) async fn connect(nats: &str) -> Result<async_nats::Client> {
    let options = async_nats::ConnectOptions::new().connection_timeout(Duration::from_secs(5));
    let hint = || format!("no NATS server answers at {nats}; hint: start `nats-server -js`, or leave --nats out and the run gets its own");
    options.connect(nats).await.with_context(hint)
}

/// The run's name and its folder, made anew (or found, to resume).
fn run_folder(pipeline: &str, options: &Options) -> Result<(String, PathBuf)> {
    let run = match &options.run {
        Some(name) => name.clone(),
        None if options.resume => bail!("--resume needs --run NAME; hint: `ls {}` names the runs", options.runs.display()),
        None => (1..u32::MAX)
            .map(|number| format!("{pipeline}-{number}"))
            .find(|name| !options.runs.join(name).exists())
            .context("no run name is free")?,
    };
    if run.is_empty() || !run.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        bail!("`{run}` is no run name; allowed: letters, digits and dashes");
    }
    let folder = options.runs.join(&run);
    if folder.exists() && !options.resume {
        bail!("`{}` is there already; hint: --resume goes on with it, `errand rm {run}` removes it", folder.display());
    }
    if !folder.exists() && options.resume {
        bail!("`{}` is not there to resume", folder.display());
    }
    std::fs::create_dir_all(folder.join("logs"))
        .with_context(|| format!("`{}` cannot be written; hint: give --runs a folder of yours", folder.display()))?;
    Ok((run, std::path::absolute(folder)?))
}

/// Watches until the run is complete (`true`) or a person stops it (`false`).
async fn watch(
    client: &async_nats::Client,
    run: &str,
    processes: &mut Processes,
    progress: &mut Progress,
    interrupt: &mut Interrupt,
) -> Result<bool> {
    let mut presence = client.subscribe(subjects::presence_all(run)).await?;
    let mut beat = tokio::time::interval(Duration::from_millis(250));
    let mut settled = 0;
    loop {
        tokio::select! {
            () = interrupt.asked() => return Ok(false),
            Some(message) = presence.next() => {
                if let Ok(heard) = schemas::decode::<schemas::Presence>(&message.payload) {
                    progress.hear(heard);
                }
            }
            _ = beat.tick() => {
                for line in processes.mend()? {
                    progress.say(&line);
                }
                progress.draw();
                // Two looks in a row: what is between two stages at one look is in a stream at the next.
                settled = if progress.is_finished() && streams_are_empty(client, run).await? { settled + 1 } else { 0 };
                if settled >= 3 {
                    return Ok(true);
                }
            }
        }
    }
}

/// Every episode is done with, and every end is used, recorded and counted.
async fn streams_are_empty(client: &async_nats::Client, run: &str) -> Result<bool> {
    let jetstream = async_nats::jetstream::new(client.clone());
    for stream in [Stream::Episodes, Stream::Ends] {
        let mut handle = jetstream.get_stream(subjects::stream(run, stream)).await?;
        if handle.info().await?.state.messages > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}
